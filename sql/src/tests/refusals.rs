//! What is told when a query is built, before anything runs.

use millstream_common::config::Config;

use super::{Fixture, rows};
use crate::{DataFrame, Error, OutputMode, Session, Trigger};

/// The rule, and what to do instead.
fn refused(built: Result<impl Sized, Error>) -> String {
    match built {
        Ok(_) => panic!("it was built"),
        Err(error) => error.to_string(),
    }
}

/// Times of which one is taken from another: an interval, or a length of time.
fn lengths(fixture: &Fixture) -> DataFrame {
    let numbers = fixture
        .session
        .memory_stream("id INT, at TIMESTAMP, day DATE")
        .unwrap();
    numbers
        .to_df()
        .create_or_replace_temp_view("times")
        .unwrap();
    let text = "SELECT id, at - TIMESTAMP '2026-01-01 00:00:00' AS passed FROM times";
    fixture.session.sql(text).unwrap()
}

#[test]
fn columns_that_a_sink_cannot_take_are_named_with_what_to_do() {
    let fixture = Fixture::new();
    let frame = lengths(&fixture);
    let out = fixture.folder.path().join("out");
    let start = |frame: &DataFrame, format: &str| {
        let writer = frame.write_stream().format(format).query_name("lengths");
        let writer = match format {
            "csv" | "json" => writer.option("path", out.display()),
            _ => writer,
        };
        writer.trigger(Trigger::AvailableNow).start()
    };
    for (format, how) in [
        ("console", "shown"),
        ("csv", "written as CSV"),
        ("json", "written as JSON"),
    ] {
        let error = refused(start(&frame, format));
        let expected = format!("can't be {how}; cast it to a string, CAST(passed AS STRING)");
        assert!(error.starts_with("column passed of type "), "{error}");
        assert!(error.contains(&expected), "{error}");
        // Nothing was begun: the same query can be built otherwise.
        assert!(!out.exists());
    }
    let by = frame.write_stream().format("json").partition_by(["passed"]);
    let error = refused(by.start_at(out.to_str().unwrap()));
    assert!(error.contains("part of a folder's name"), "{error}");
    let interval = fixture
        .session
        .sql("SELECT id, INTERVAL '1' DAY AS passed FROM times")
        .unwrap();
    let parquet = interval.write_stream().format("parquet");
    let error = refused(parquet.start_at(out.to_str().unwrap()));
    assert!(error.contains("written as Parquet; cast it"), "{error}");
    // What is said to do instead does.
    let text = "SELECT CAST(at - TIMESTAMP '2026-01-01 00:00:00' AS STRING) AS passed FROM times";
    let text = fixture.session.sql(text).unwrap();
    start(&text, "console")
        .unwrap()
        .await_termination()
        .unwrap();
    fixture.session.stop().unwrap();
}

#[test]
fn tables_are_not_computed_to_find_that_they_cannot_be_shown() {
    let fixture = Fixture::new();
    let text = "SELECT 1 AS id, INTERVAL '1' DAY AS length";
    let error = refused(fixture.session.sql(text).unwrap().show(None));
    assert!(
        error.starts_with("column length of type Interval"),
        "{error}"
    );
    fixture.session.stop().unwrap();
}

#[test]
fn patterns_that_are_none_are_told_when_the_query_is_built() {
    let fixture = Fixture::new();
    fixture.put("1", "1,a.b,x,1\n2,c,[c],2\n");
    fixture.rows().create_or_replace_temp_view("t").unwrap();
    let sql = |text: &str| fixture.session.sql(text);
    for text in [
        "SELECT split(name, '(') AS parts FROM t",
        "SELECT regexp_replace(name, '[', 'x') AS parts FROM t",
    ] {
        let error = refused(sql(text));
        assert!(error.contains("is no regular expression"), "{error}");
    }
    let error = refused(sql("SELECT split(name, ',', 'many') AS parts FROM t"));
    assert!(
        error.contains("limit of split is a whole number"),
        "{error}"
    );
    // A pattern may be a column, as in Spark.
    let parts = sql("SELECT id, split(name, job) AS parts FROM t");
    let query = fixture.start(parts, OutputMode::Append);
    query.process_all_available().unwrap();
    assert_eq!(fixture.newest(), rows(&[&["1", "[a.b]"], &["2", "[, ]"]]));
    query.stop().unwrap();
    fixture.session.stop().unwrap();
}

#[test]
fn explode_stands_where_rows_are_made() {
    let fixture = Fixture::new();
    fixture.rows().create_or_replace_temp_view("t").unwrap();
    let frame = fixture
        .session
        .sql("SELECT max(explode(split(name, ' '))) AS word FROM t")
        .unwrap();
    let writer = frame
        .write_stream()
        .format("noop")
        .output_mode(OutputMode::Complete);
    let error = refused(writer.start());
    assert!(
        error.contains("explode is supported only in a select"),
        "{error}"
    );
    fixture.session.stop().unwrap();
}

#[test]
fn windows_beyond_number_are_refused() {
    let fixture = Fixture::new();
    let times = fixture.session.memory_stream("at TIMESTAMP").unwrap();
    times.to_df().create_or_replace_temp_view("times").unwrap();
    let of_slide = |slide: &str| {
        let window = format!("window(at, '1 day', '{slide}')");
        let text = format!("SELECT {window} AS w, count(*) AS n FROM times GROUP BY {window}");
        fixture.session.sql(&text)
    };
    let error = refused(of_slide("1 microsecond"));
    assert!(
        error.contains("a row would be in 86400000000 windows"),
        "{error}"
    );
    of_slide("10 seconds").unwrap();
    fixture.session.stop().unwrap();
}

#[test]
fn what_is_refused_over_what_does_not_grow_speaks_of_no_stream() {
    let fixture = Fixture::new();
    fixture.put("1", "1,ann\n");
    let reader = fixture.session.read().schema("id INT, name STRING");
    let frame = reader.csv(fixture.input().to_str().unwrap()).unwrap();
    frame.create_or_replace_temp_view("fixed").unwrap();
    for text in [
        "SELECT a.id FROM fixed a JOIN fixed b ON a.id = b.id",
        "SELECT id, row_number() OVER (ORDER BY id) AS n FROM fixed",
        "SELECT name FROM fixed UNION ALL SELECT max(name) FROM fixed",
    ] {
        let error = refused(fixture.session.sql(text).unwrap().collect());
        assert!(error.contains("not supported here"), "{text}: {error}");
        assert!(!error.contains("stream"), "{text}: {error}");
    }
    fixture.session.stop().unwrap();
}

#[test]
fn what_executors_could_not_read_is_refused_and_so_is_what_reads_nothing() {
    let fixture = Fixture::new();
    fixture.rows().create_or_replace_temp_view("t").unwrap();
    let deep = format!("SELECT id{} AS x FROM t", " + id - id".repeat(30));
    for (text, mode, rule) in [
        (deep.as_str(), OutputMode::Append, "nested too deeply"),
        (
            "SELECT * FROM t WHERE 1 = 0",
            OutputMode::Append,
            "never true",
        ),
        (
            "SELECT count(*) FROM t WHERE 1 = 0",
            OutputMode::Complete,
            "never true",
        ),
    ] {
        let frame = fixture.session.sql(text).unwrap();
        let writer = frame.write_stream().format("noop").output_mode(mode);
        let error = refused(writer.start());
        assert!(error.contains(rule), "{text}: {error}");
    }
    fixture.session.stop().unwrap();
}

#[test]
fn an_interval_of_batches_is_refused_wherever_it_is_set() {
    let file = "[batch]\ninterval = \"5s\"\n";
    let builder = || Config::builder().conf("http.enabled", false);
    let said = |config: &Config| refused(Session::builder().config(config).build());
    for (config, origin) in [
        (builder().conf("batch.interval", "5s"), "code"),
        (
            builder().variables([("MILLSTREAM_BATCH__INTERVAL".into(), "5s".into())]),
            "variable MILLSTREAM_BATCH__INTERVAL",
        ),
        (
            builder().toml("millstream.toml", file),
            "millstream.toml, line 2",
        ),
    ] {
        let said = said(&config.build().unwrap());
        assert!(said.contains("`batch.interval` = 5s"), "{said}");
        assert!(said.contains(origin), "{said}");
        assert!(said.contains("Trigger::ProcessingTime"), "{said}");
    }
    Session::builder()
        .config(&builder().build().unwrap())
        .build()
        .unwrap()
        .stop()
        .unwrap();
}
