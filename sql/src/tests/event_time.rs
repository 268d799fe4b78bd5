//! Which columns hold event times, and what follows from it.

use super::{Fixture, rows};
use crate::{DataFrame, Error, OutputMode, Result};

const EVENTS: &str = "at TIMESTAMP, k STRING, v BIGINT";

impl Fixture {
    fn unwatched(&self, folder: &str) -> DataFrame {
        let folder = self.folder.path().join(folder);
        std::fs::create_dir_all(&folder).unwrap();
        let reader = self.session.read_stream().schema(EVENTS);
        reader.csv(folder.to_str().unwrap()).unwrap()
    }

    fn watched(&self, folder: &str) -> DataFrame {
        let frame = self.unwatched(folder);
        frame.with_watermark("at", "0 seconds").unwrap()
    }

    fn put_into(&self, folder: &str, name: &str, content: &str) {
        let staged = self.folder.path().join("staged");
        std::fs::write(&staged, content).unwrap();
        let folder = self.folder.path().join(folder);
        std::fs::rename(staged, folder.join(name)).unwrap();
    }

    fn refused(&self, frame: Result<DataFrame>, mode: &str) -> String {
        let writer = frame.unwrap().write_stream().format("noop");
        match writer.output_mode(mode).start() {
            Err(error @ Error::Refused { .. }) => error.to_string(),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_cast_of_an_event_time_is_none() {
    let fixture = Fixture::new();
    let events = fixture.watched("input");
    events.create_or_replace_temp_view("t").unwrap();
    for cast in [
        "CAST(at AS DATE)",
        "CAST(at AS STRING)",
        "TRY_CAST(at AS DATE)",
        "CAST(CAST(at AS DATE) AS TIMESTAMP)",
        "CAST(window(at, '1 day') AS STRING)",
    ] {
        let text = format!("SELECT count(*) AS n FROM t GROUP BY {cast}");
        let said = fixture.refused(fixture.session.sql(&text), "append");
        assert!(said.contains("without watermark"), "{cast}: {said}");
    }
    let by_day = "SELECT CAST(at AS DATE) AS day, count(*) AS n FROM t GROUP BY CAST(at AS DATE)";
    let query = fixture.start(fixture.session.sql(by_day), OutputMode::Update);
    fixture.put("1", "2026-01-01 10:00:00,a,1\n2026-01-03 10:00:00,a,1\n");
    query.process_all_available().unwrap();
    fixture.put("2", "2026-01-01 11:00:00,a,1\n");
    query.process_all_available().unwrap();
    // A day isn't over when its midnight is.
    assert_eq!(fixture.newest(), rows(&[&["2026-01-01", "2"]]));
    query.stop().unwrap();
    fixture.session.stop().unwrap();
}

#[test]
fn of_a_union_the_first_input_says_whether_its_times_are_event_times() {
    let fixture = Fixture::new();
    let watched = fixture.watched("watched");
    let unwatched = fixture.unwatched("unwatched");
    let said = fixture.refused(
        unwatched
            .union(&watched)
            .and_then(|both| both.group_by(["at"])?.count()),
        "append",
    );
    assert!(said.contains("without watermark"), "{said}");
    let both = watched.union(&unwatched).unwrap();
    let query = fixture.start(both.group_by(["at"]).unwrap().count(), OutputMode::Append);
    fixture.put_into("unwatched", "1", "2026-01-01 10:00:00,a,1\n");
    fixture.put_into(
        "watched",
        "1",
        "2026-01-01 10:00:00,a,1\n2026-01-01 10:05:00,a,1\n",
    );
    query.process_all_available().unwrap();
    let total: u64 = query
        .recent_progress()
        .iter()
        .map(|batch| batch.sink.num_output_rows)
        .sum();
    assert_eq!(total, 2);
    query.stop().unwrap();
    // Rows that are grouped by nothing of it go together as they are.
    let either = unwatched.union(&watched).unwrap();
    let query = either
        .write_stream()
        .format("noop")
        .query_name("either")
        .start()
        .unwrap();
    query.process_all_available().unwrap();
    assert_eq!(
        query
            .recent_progress()
            .iter()
            .map(|batch| batch.num_input_rows)
            .sum::<u64>(),
        3
    );
    query.stop().unwrap();
    fixture.session.stop().unwrap();
}

#[test]
fn event_times_are_watched_where_nothing_else_reads_them() {
    let fixture = Fixture::new();
    let counts = fixture.watched("input").group_by(["k"]).unwrap().count();
    let query = fixture.start(counts, OutputMode::Update);
    fixture.put("1", "2026-01-01 10:00:00,a,1\n2026-01-01 10:05:00,b,1\n");
    query.process_all_available().unwrap();
    fixture.put("2", "2026-01-01 10:01:00,a,1\n");
    query.process_all_available().unwrap();
    assert_eq!(fixture.newest(), rows(&[&["a", "2"]]));
    let progress = query.last_progress().unwrap();
    assert_eq!(progress.event_time["watermark"], "2026-01-01T10:05:00.000Z");
    query.stop().unwrap();
    fixture.session.stop().unwrap();
}
