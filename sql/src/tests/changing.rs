//! What of a query may change from one run to the next, and what is refused with both.

use super::{FIRST, Fixture, SCHEMA, SECOND, rows};
use crate::{
    DataFrame, Error, OutputMode, Result, StreamingQuery, Trigger, col, count, lit, sum, window,
    window_sliding,
};

const EVENTS: &str = "at TIMESTAMP, k STRING, v BIGINT";

/// Runs a query to the end of what is there, then another one on its checkpoint.
fn changed(
    content: &[&str],
    first: impl Fn(&Fixture) -> Result<DataFrame>,
    second: impl Fn(&Fixture) -> Result<DataFrame>,
) -> (Fixture, Result<StreamingQuery>) {
    let start = |frame: Result<DataFrame>| {
        let writer = frame.unwrap().write_stream().format("console");
        writer.output_mode(OutputMode::Update).start()
    };
    let fixture = Fixture::new();
    fixture.put("1", content[0]);
    let query = start(first(&fixture)).unwrap();
    query.process_all_available().unwrap();
    query.stop().unwrap();
    fixture.session.stop().unwrap();
    let fixture = Fixture::in_folder(fixture.folder);
    for (number, content) in content.iter().enumerate().skip(1) {
        fixture.put(&format!("{}", number + 1), content);
    }
    let query = start(second(&fixture));
    (fixture, query)
}

fn refused(
    first: impl Fn(&Fixture) -> Result<DataFrame>,
    second: impl Fn(&Fixture) -> Result<DataFrame>,
) -> String {
    let (fixture, query) = changed(&[FIRST], first, second);
    let error = query.unwrap_err();
    assert!(matches!(error, Error::Query(_)), "{error}");
    fixture.session.stop().unwrap();
    error.to_string()
}

fn events(fixture: &Fixture) -> DataFrame {
    let reader = fixture.session.read_stream().schema(EVENTS);
    reader.csv(fixture.input().to_str().unwrap()).unwrap()
}

#[test]
fn other_windows_are_refused() {
    let by = |length: &'static str, slide: &'static str, start: &'static str| {
        move |fixture: &Fixture| {
            let window = window_sliding(col("at"), length, slide, start);
            events(fixture).group_by([window])?.count()
        }
    };
    let was = ("10 minutes", "10 minutes", "0 minutes");
    for (length, slide, start, shown) in [
        (
            "20 minutes",
            "20 minutes",
            "0 minutes",
            "20m each 20m from 0s",
        ),
        (
            "10 minutes",
            "5 minutes",
            "0 minutes",
            "10m each 5m from 0s",
        ),
        (
            "10 minutes",
            "10 minutes",
            "3 minutes",
            "10m each 10m from 3m",
        ),
    ] {
        let said = refused(by(was.0, was.1, was.2), by(length, slide, start));
        assert!(said.contains("aggregate-0"), "{said}");
        assert!(said.contains("10m each 10m from 0s"), "{said}");
        assert!(said.contains(shown), "{said}");
    }
    // Written otherwise they are the same.
    let (fixture, query) = changed(
        &["2026-01-01 10:01:00,a,1\n", "2026-01-01 10:02:00,a,1\n"],
        by(was.0, was.1, was.2),
        |fixture| {
            let window = window(col("at"), "600 seconds");
            events(fixture).group_by([window])?.count()
        },
    );
    query.unwrap().process_all_available().unwrap();
    assert_eq!(fixture.newest_given()[0][1], "2");
    fixture.session.stop().unwrap();
}

#[test]
fn a_folder_is_the_same_however_it_is_written() {
    let of = |begin: &'static str, end: &'static str| {
        move |fixture: &Fixture| {
            let folder = format!("{begin}{}{end}", fixture.input().display());
            let reader = fixture.session.read_stream().schema(SCHEMA);
            reader.csv(&folder)?.group_by(["job"])?.count()
        }
    };
    for (begin, end) in [("", "/"), ("file://", ""), ("file:", "/.")] {
        let (fixture, query) = changed(&[FIRST, SECOND], of("", ""), of(begin, end));
        query.unwrap().process_all_available().unwrap();
        let clerks = fixture.newest_given().into_iter();
        let clerks: Vec<_> = clerks.filter(|row| row[0] == "clerk").collect();
        assert_eq!(clerks, rows(&[&["clerk", "3"]]), "{begin}..{end}");
        fixture.session.stop().unwrap();
    }
}

#[test]
fn other_names_on_the_way_change_nothing() {
    let of = |name: &'static str, sql: &'static str| {
        move |fixture: &Fixture| {
            fixture.rows().create_or_replace_temp_view(name)?;
            fixture.session.sql(sql)
        }
    };
    let was = of("t", "SELECT job, sum(id) AS s FROM t GROUP BY job");
    for (name, sql) in [
        ("u", "SELECT job, sum(id) AS s FROM u GROUP BY job"),
        (
            "t",
            "SELECT k, sum(x.n) AS s FROM (SELECT job AS k, id AS n FROM t) AS x GROUP BY k",
        ),
        (
            "t",
            "WITH few AS (SELECT * FROM t WHERE id < 100) SELECT job, sum(id) AS s FROM few GROUP BY job",
        ),
    ] {
        let (fixture, query) = changed(&[FIRST, SECOND], was, of(name, sql));
        query.unwrap().process_all_available().unwrap();
        let clerks = fixture.newest_given().into_iter();
        let clerks: Vec<_> = clerks.filter(|row| row[0] == "clerk").collect();
        assert_eq!(clerks, rows(&[&["clerk", "8"]]), "{sql}");
        fixture.session.stop().unwrap();
    }
}

#[test]
fn other_keys_aggregates_and_sources_are_refused() {
    let by = |key: &'static str, of: &'static str| {
        move |fixture: &Fixture| {
            let frame = fixture.rows().with_column("key", key)?;
            let frame = frame.with_column("value", of)?;
            let grouped = frame.group_by(["key"])?;
            grouped.agg([sum(col("value")).alias("sum")])
        }
    };
    let said = refused(by("id % 2", "salary"), by("id % 3", "salary"));
    assert!(
        said.contains("id % Int64(2)") && said.contains("id % Int64(3)"),
        "{said}"
    );
    let said = refused(by("id", "salary"), by("id", "salary * 2"));
    assert!(
        said.contains("sum(salary)") && said.contains("sum(salary * Int64(2))"),
        "{said}"
    );
    let counted = |fixture: &Fixture| {
        let frame = fixture.rows().with_column("key", "id")?;
        let grouped = frame.group_by(["key"])?;
        grouped.agg([count(lit(1i64)).alias("sum")])
    };
    let said = refused(by("id", "salary"), counted);
    assert!(said.contains("count(Int64(1))"), "{said}");
    let text = |fixture: &Fixture| {
        let lines = fixture.session.read_stream();
        let lines = lines.text(fixture.input().to_str().unwrap())?;
        lines.group_by(["value"])?.count()
    };
    let said = refused(by("id", "salary"), text);
    assert!(said.contains("csv-0") && said.contains("text-0"), "{said}");
}

#[test]
fn another_projection_filter_and_trigger_go_on() {
    let fixture = Fixture::new();
    let run = |frame: DataFrame, trigger: Trigger| {
        let counts = frame.group_by(["job"]).unwrap().count().unwrap();
        let writer = counts.write_stream().format("console").trigger(trigger);
        let query = writer.output_mode("update").start().unwrap();
        query.process_all_available().unwrap();
        query.stop().unwrap();
    };
    fixture.put("1", FIRST);
    run(fixture.rows(), Trigger::Default);
    fixture.put("2", SECOND);
    let frame = fixture.rows().with_column("more", "salary * 2").unwrap();
    let frame = frame.select(["more", "job"]).unwrap();
    let frame = frame.filter("more IS NOT NULL").unwrap();
    let every = Trigger::ProcessingTime(std::time::Duration::from_millis(50));
    run(frame, every);
    assert_eq!(
        fixture.newest_sorted(),
        rows(&[&["NULL", "2"], &["boss", "1"]])
    );
    fixture.session.stop().unwrap();
}

#[test]
fn a_watermark_may_come_and_go() {
    let by_time = |frame: DataFrame| frame.group_by(["at"])?.count();
    let plain = |fixture: &Fixture| by_time(events(fixture));
    let watched = |fixture: &Fixture| by_time(events(fixture).with_watermark("at", "1 minute")?);
    let contents = ["2026-01-01 10:00:00,a,1\n", "2026-01-01 10:00:00,a,1\n"];
    let (fixture, query) = changed(&contents, plain, watched);
    let query = query.unwrap();
    query.process_all_available().unwrap();
    assert_eq!(fixture.newest_given()[0][1], "2");
    // From now on groups are let go, those of before too.
    fixture.put("3", "2026-01-01 11:00:00,a,1\n");
    query.process_all_available().unwrap();
    let total = query.last_progress().unwrap().state_operators[0].num_rows_total;
    assert_eq!(total, 1);
    fixture.session.stop().unwrap();

    let (fixture, query) = changed(&contents, watched, plain);
    let query = query.unwrap();
    query.process_all_available().unwrap();
    assert_eq!(fixture.newest_given()[0][1], "2");
    fixture.session.stop().unwrap();

    let later = |fixture: &Fixture| by_time(events(fixture).with_watermark("at", "1 hour")?);
    let (fixture, query) = changed(&contents, watched, later);
    query.unwrap().process_all_available().unwrap();
    assert_eq!(fixture.newest_given()[0][1], "2");
    fixture.session.stop().unwrap();
}

#[test]
fn a_table_in_memory_does_not_go_on_without_the_rows_that_it_had() {
    let fixture = Fixture::new();
    fixture.put("1", FIRST);
    let start = |frame: DataFrame, mode: &str| {
        let writer = frame.write_stream().format("memory").query_name(mode);
        let writer = writer.output_mode(mode).trigger(Trigger::AvailableNow);
        writer.start()
    };
    for _ in 0..2 {
        let counts = fixture.rows().group_by(["job"]).unwrap().count().unwrap();
        start(counts, "complete")
            .unwrap()
            .await_termination()
            .unwrap();
        let table = fixture.session.sql("SELECT * FROM complete").unwrap();
        assert_eq!(table.count().unwrap(), 2);
        fixture.put("2", "7,gus,clerk,1\n");
    }
    let query = start(fixture.rows(), "append").unwrap();
    query.await_termination().unwrap();
    let again = start(fixture.rows(), "append").unwrap_err().to_string();
    assert!(
        again.contains("does not support recovering from checkpoint location"),
        "{again}"
    );
    fixture.session.stop().unwrap();
}

#[test]
fn another_rate_is_refused() {
    let rate = |rows: u32| {
        move |fixture: &Fixture| {
            let reader = fixture.session.read_stream().format("rate");
            reader.option("rowsPerSecond", rows).load()
        }
    };
    let said = refused(rate(5), rate(7));
    assert!(
        said.contains("rate-0") && said.contains('5') && said.contains('7'),
        "{said}"
    );
}
