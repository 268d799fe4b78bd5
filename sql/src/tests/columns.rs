//! Columns left out, renamed, or given as SQL text.

use super::{FIRST, Fixture, rows};
use crate::{DataFrame, OutputMode};

fn names(frame: &DataFrame) -> Vec<String> {
    let schema = frame.schema();
    let fields = schema.fields().iter();
    fields.map(|field| field.name().clone()).collect()
}

#[test]
fn columns_are_left_out_renamed_and_given_as_text() {
    let fixture = Fixture::new();
    let frame = fixture.rows();
    let fewer = frame.drop(["JOB", "no such"]).unwrap();
    assert_eq!(names(&fewer), ["id", "name", "salary"]);
    let all = frame.drop(["id", "name", "job", "salary"]);
    assert_eq!(all.err().unwrap().code(), "sql.refused");
    let renamed = fewer.with_column_renamed("NAME", "Who").unwrap();
    let renamed = renamed.with_column_renamed("no such", "other").unwrap();
    assert_eq!(names(&renamed), ["id", "Who", "salary"]);
    let selected = renamed.select_expr(["*", "upper(who) AS Loud", "salary * 2"]);
    let selected = selected.unwrap();
    assert_eq!(
        names(&selected),
        ["id", "Who", "salary", "Loud", "(salary * 2)"]
    );
    assert!(renamed.select_expr(["nobody"]).is_err());
    assert!(renamed.select_expr(["upper("]).is_err());
    let query = fixture.start(selected.filter("Loud < 'C'"), OutputMode::Append);
    fixture.put("1", FIRST);
    query.process_all_available().unwrap();
    assert_eq!(
        fixture.newest_sorted(),
        rows(&[
            &["1", "ann", "10.5", "ANN", "21.0"],
            &["2", "bob", "20.0", "BOB", "40.0"]
        ])
    );
    fixture.session.stop().unwrap();
}

#[test]
fn a_time_that_is_watched_may_be_renamed() {
    let fixture = Fixture::new();
    let events = fixture
        .session
        .read_stream()
        .schema("at TIMESTAMP, k STRING");
    let events = events.csv(fixture.input().to_str().unwrap()).unwrap();
    let watched = events.with_watermark("at", "1 minute").unwrap();
    let renamed = watched.with_column_renamed("at", "time").unwrap();
    let counts = renamed.drop(["k"]).unwrap().group_by(["time"]).unwrap();
    let query = fixture.start(counts.count(), OutputMode::Append);
    fixture.put("1", "2026-01-01 10:00:00,a\n2026-01-01 10:00:00,b\n");
    fixture.put("2", "2026-01-01 11:00:00,c\n");
    query.process_all_available().unwrap();
    let printed = fixture.newest_given();
    assert_eq!(printed, rows(&[&["2026-01-01 10:00:00", "2"]]));
    fixture.session.stop().unwrap();
}
