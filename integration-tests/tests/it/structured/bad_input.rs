//! Files that aren't as they should be, columns and values that don't fit, and checkpoints of something else: each has a clear end or a count, and loses nothing.

use std::{fs, path::PathBuf};

use millstream::sql::{
    DataFrame, OutputMode, Result, Session, Trigger,
    arrow::{
        array::{ArrayRef, Int64Array, RecordBatch},
        datatypes::Schema,
    },
};
use millstream_integration_tests::process::{Signal, Stream};

use super::{
    job::{Job, wait_printed, wait_table},
    local::{Folder, assert_fails, assert_refused, files_below, finish},
};
use crate::word_job::{SOON, wait_says};

const SCHEMA: &str = "id BIGINT, name STRING";

fn csv(folder: &Folder, session: &Session, options: &[(&'static str, &'static str)]) -> DataFrame {
    let reader = session.read_stream().schema(SCHEMA);
    let reader = reader.options(options.iter().copied());
    reader.csv(&folder.text("input")).unwrap()
}

fn parquet(
    folder: &Folder,
    session: &Session,
    options: &[(&'static str, &'static str)],
) -> DataFrame {
    let reader = session.read_stream().schema("id BIGINT");
    let reader = reader.options(options.iter().copied());
    reader.parquet(&folder.text("input")).unwrap()
}

/// The bytes of a Parquet file of these numbers.
fn parquet_bytes(numbers: std::ops::Range<i64>) -> Vec<u8> {
    use datafusion::parquet::arrow::ArrowWriter;
    let column: ArrayRef = std::sync::Arc::new(Int64Array::from_iter_values(numbers));
    let schema = Schema::new(vec![millstream::sql::arrow::datatypes::Field::new(
        "id",
        column.data_type().clone(),
        true,
    )]);
    let rows = RecordBatch::try_new(std::sync::Arc::new(schema), vec![column]).unwrap();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, rows.schema(), None).unwrap();
    writer.write(&rows).unwrap();
    writer.close().unwrap();
    bytes
}

fn ids(numbers: impl IntoIterator<Item = i64>) -> Vec<String> {
    let rows = numbers.into_iter().map(|id| format!("{{\"id\":{id}}}"));
    let mut rows: Vec<String> = rows.collect();
    rows.sort();
    rows
}

#[test]
fn a_header_that_differs_is_counted_or_refused() {
    let folder = Folder::new();
    let session = folder.session(&[]);
    folder.put("1", "ID,Name\n1,ann\n");
    folder.put("2", "name,id\n2,bob\n");
    let strict = [("header", "true"), ("enforceSchema", "false")];
    let query = folder.copy(csv(&folder, &session, &strict));
    let texts = ["/2 has `name,id`", "the schema `id,name`", "enforceSchema"];
    assert_fails(&query, "files.header", &texts);
    // The same batch by places: one header was not the schema's.
    let query = folder.copy(csv(&folder, &session, &[("header", "true")]));
    assert_eq!(finish(&session, &query), 1);
    let rows = [r#"{"id":1,"name":"ann"}"#, r#"{"id":2,"name":"bob"}"#];
    assert_eq!(folder.rows(), rows);
    session.stop().unwrap();
}

#[test]
fn records_of_too_few_or_many_fields_and_broken_quotes_follow_the_mode() {
    let folder = Folder::new();
    let session = folder.session(&[]);
    // The quotes that never close take the rest of their line, and no other.
    folder.put(
        "1",
        "1,ann\n2\n3,cid,more\n4,\"d \"\"x\"\" d\"\n\"5,eve\n6,\"fay\n",
    );
    let query = folder.copy(csv(&folder, &session, &[("mode", "FAILFAST")]));
    let texts = [
        "/1 doesn't fit the schema: `2`",
        "PERMISSIVE or DROPMALFORMED",
    ];
    assert_fails(&query, "input.malformed", &texts);
    assert_eq!(folder.rows(), Vec::<String>::new());
    let query = folder.copy(csv(&folder, &session, &[]));
    assert_eq!(finish(&session, &query), 3);
    let rows = [
        r#"{"id":1,"name":"ann"}"#,
        r#"{"id":2}"#,
        r#"{"id":3,"name":"cid"}"#,
        r#"{"id":4,"name":"\"d \"\"x\"\" d\""}"#,
        r#"{"id":6,"name":"fay"}"#,
        "{}",
    ];
    assert_eq!(folder.rows(), rows);
    let query = folder.copy(csv(&folder, &session, &[("mode", "DROPMALFORMED")]));
    folder.put("2", "7\n8,hal\n");
    assert_eq!(finish(&session, &query), 1);
    assert_eq!(folder.rows().len(), rows.len() + 1);
    session.stop().unwrap();
}

#[test]
fn bytes_that_are_not_text_follow_the_mode() {
    let folder = Folder::new();
    let session = folder.session(&[]);
    folder.put("1", b"1,ann\n2,b\xffb\n");
    let query = folder.copy(csv(&folder, &session, &[("mode", "FAILFAST")]));
    let texts = [
        "byte 6 of",
        "/1 is not UTF-8",
        "mode PERMISSIVE or DROPMALFORMED",
    ];
    assert_fails(&query, "input.malformed", &texts);
    let query = folder.copy(csv(&folder, &session, &[]));
    assert_eq!(finish(&session, &query), 1);
    let replaced = "{\"id\":2,\"name\":\"b\u{fffd}b\"}";
    assert_eq!(folder.rows(), [r#"{"id":1,"name":"ann"}"#, replaced]);
    session.stop().unwrap();
}

#[test]
fn a_line_beyond_the_configured_length_is_named_with_the_way_out() {
    let folder = Folder::new();
    let session = folder.session(&[("input.max_record_bytes", "20B")]);
    folder.put("1", format!("1,{}\n2,bob\n", "x".repeat(30)));
    let query = folder.copy(csv(&folder, &session, &[]));
    let texts = [
        "longer than input.max_record_bytes = 20",
        "mode DROPMALFORMED",
    ];
    assert_fails(&query, "input.malformed", &texts);
    let query = folder.copy(csv(&folder, &session, &[("mode", "DROPMALFORMED")]));
    assert_eq!(finish(&session, &query), 1);
    assert_eq!(folder.rows(), [r#"{"id":2,"name":"bob"}"#]);
    session.stop().unwrap();
}

/// A folder with a planned batch of the files `1` and `2` that was not read: its first attempt met a record that the mode refuses.
fn planned(folder: &Folder, session: &Session) {
    folder.put("1", "1,ann\n2,bob\n");
    folder.put("2", "3,cid\nno number\n");
    let query = folder.copy(csv(folder, session, &[("mode", "FAILFAST")]));
    assert_fails(&query, "input.malformed", &["no number"]);
}

#[test]
fn a_vanished_file_is_put_back_or_left_out() {
    let folder = Folder::new();
    let session = folder.session(&[]);
    planned(&folder, &session);
    let first = folder.path("input").join("1");
    let kept = folder.path("kept");
    fs::rename(&first, &kept).unwrap();
    let query = folder.copy(csv(&folder, &session, &[]));
    assert_fails(
        &query,
        "files.changed",
        &[
            "input/1",
            "it is gone; put it back",
            "files.on_changed = warn",
        ],
    );
    // Put back, it is read; what there was to say of it before is over.
    fs::rename(&kept, &first).unwrap();
    let query = folder.copy(csv(&folder, &session, &[("mode", "FAILFAST")]));
    assert_fails(&query, "input.malformed", &["no number"]);
    fs::remove_file(&first).unwrap();
    let options = [("ignoreMissingFiles", "true")];
    let query = folder.copy(csv(&folder, &session, &options));
    // The file, and the record that is none.
    assert_eq!(finish(&session, &query), 2);
    assert_eq!(folder.rows(), [r#"{"id":3,"name":"cid"}"#, "{}"]);
    session.stop().unwrap();
}

#[test]
fn a_file_of_another_length_than_planned_is_read_as_the_configuration_says() {
    let folder = Folder::new();
    let session = folder.session(&[]);
    planned(&folder, &session);
    folder.put("1", "1,ann\n");
    let query = folder.copy(csv(&folder, &session, &[]));
    let texts = ["input/1", "it has 6 bytes now, 12 when it was planned"];
    assert_fails(&query, "files.changed", &texts);
    session.stop().unwrap();
    let session = folder.session(&[("files.on_changed", "warn")]);
    let query = folder.copy(csv(&folder, &session, &[]));
    assert_eq!(finish(&session, &query), 2);
    let rows = [r#"{"id":1,"name":"ann"}"#, r#"{"id":3,"name":"cid"}"#, "{}"];
    assert_eq!(folder.rows(), rows);
    session.stop().unwrap();
}

#[test]
fn a_half_written_parquet_file_is_left_out_or_written_anew() {
    for anew in [false, true] {
        let folder = Folder::new();
        let session = folder.session(&[]);
        let whole = parquet_bytes(0..1_000);
        folder.put("1", parquet_bytes(5_000..5_010));
        folder.put("2", &whole[..whole.len() / 2]);
        let query = folder.copy(parquet(&folder, &session, &[]));
        let texts = [
            "input/2 can't be read as Parquet",
            "ignoreCorruptFiles",
            "files.on_changed = warn",
        ];
        assert_fails(&query, "files.corrupt", &texts);
        assert_eq!(folder.rows(), Vec::<String>::new());
        session.stop().unwrap();
        let (options, configuration) = match anew {
            true => (vec![], vec![("files.on_changed", "warn")]),
            false => (vec![("ignoreCorruptFiles", "true")], vec![]),
        };
        if anew {
            folder.put("2", &whole);
        }
        let session = folder.session(&configuration);
        let query = folder.copy(parquet(&folder, &session, &options));
        folder.put("3", parquet_bytes(6_000..6_010));
        assert_eq!(finish(&session, &query), 1);
        let second = if anew { 0..1_000 } else { 0..0 };
        let expected = ids((5_000..5_010).chain(6_000..6_010).chain(second));
        assert_eq!(folder.rows(), expected);
        session.stop().unwrap();
    }
}

#[test]
fn a_vanished_parquet_file_is_left_out() {
    let folder = Folder::new();
    let session = folder.session(&[]);
    let whole = parquet_bytes(0..10);
    folder.put("1", &whole);
    folder.put("2", &whole[..whole.len() / 2]);
    let query = folder.copy(parquet(&folder, &session, &[]));
    assert_fails(&query, "files.corrupt", &["input/2"]);
    fs::remove_file(folder.path("input").join("2")).unwrap();
    let query = folder.copy(parquet(&folder, &session, &[]));
    assert_fails(&query, "files.changed", &["input/2", "ignoreMissingFiles"]);
    let options = [("ignoreMissingFiles", "true")];
    let query = folder.copy(parquet(&folder, &session, &options));
    assert_eq!(finish(&session, &query), 1);
    assert_eq!(folder.rows(), ids(0..10));
    session.stop().unwrap();
}

#[test]
fn a_parquet_column_of_another_type_is_named() {
    let folder = Folder::new();
    let session = folder.session(&[]);
    folder.put("1", parquet_bytes(0..10));
    let reader = session.read_stream().schema("id STRUCT<a: BIGINT>");
    let frame = reader.parquet(&folder.text("input")).unwrap();
    let query = folder.copy(frame);
    let texts = ["column id of", "input/1 is Int64", "correct the schema"];
    assert_fails(&query, "input.malformed", &texts);
    let query = folder.copy(parquet(&folder, &session, &[]));
    finish(&session, &query);
    assert_eq!(folder.rows(), ids(0..10));
    session.stop().unwrap();
}

#[test]
fn empty_files_are_passed_over_until_they_have_content() {
    let folder = Folder::new();
    let session = folder.session(&[]);
    folder.put("1", "");
    folder.put("2", "1,ann\n");
    let query = folder.copy(csv(&folder, &session, &[]));
    query.process_all_available().unwrap();
    assert_eq!(folder.rows(), [r#"{"id":1,"name":"ann"}"#]);
    folder.put("1", "2,bob\n");
    assert_eq!(finish(&session, &query), 0);
    assert_eq!(folder.rows().len(), 2);
    session.stop().unwrap();
}

#[test]
fn a_file_that_changes_after_it_was_read_is_not_read_again() {
    let folder = Folder::new();
    let session = folder.session(&[]);
    folder.put("1", "1,ann\n");
    let query = folder.copy(csv(&folder, &session, &[]));
    query.process_all_available().unwrap();
    folder.put("1", "1,ann\n2,bob\n");
    folder.put("2", "3,cid\n");
    finish(&session, &query);
    session.stop().unwrap();
    let session = folder.session(&[]);
    finish(&session, &folder.copy(csv(&folder, &session, &[])));
    let rows = [r#"{"id":1,"name":"ann"}"#, r#"{"id":3,"name":"cid"}"#];
    assert_eq!(folder.rows(), rows);
    session.stop().unwrap();
}

#[test]
fn schemas_columns_and_options_that_are_none_are_told_with_the_nearest() {
    let folder = Folder::new();
    let session = folder.session(&[]);
    let said = |frame: Result<DataFrame>| frame.err().unwrap().to_string();
    let input = folder.text("input");
    let schema = session.read_stream().schema("id BIGNIT").csv(&input);
    assert!(said(schema).contains("BIGINT"));
    let rows = csv(&folder, &session, &[]);
    assert!(said(rows.select(["nmae"])).contains("the nearest are name"));
    rows.create_or_replace_temp_view("rows").unwrap();
    let unknown = said(session.sql("SELECT nmae FROM rows"));
    assert!(
        unknown.contains("nmae") && unknown.contains("name"),
        "{unknown}"
    );
    let option = session.read_stream().schema(SCHEMA);
    let option = said(option.option("ignoreMisingFiles", true).csv(&input));
    assert!(option.contains("ignoreMissingFiles"), "{option}");
    session.stop().unwrap();
}

#[test]
fn a_cast_that_overflows_ends_the_query_and_another_projection_goes_on() {
    let folder = Folder::new();
    let session = folder.session(&[]);
    folder.put("1", "1,ann\n3000000000,bob\n");
    csv(&folder, &session, &[])
        .create_or_replace_temp_view("rows")
        .unwrap();
    let select = |expression: &str| {
        let text = format!("SELECT {expression} AS id FROM rows");
        folder.copy(session.sql(&text).unwrap())
    };
    let query = select("CAST(id AS INT)");
    assert_fails(&query, "sql.plan", &["3000000000", "Int32"]);
    assert_eq!(folder.rows(), Vec::<String>::new());
    finish(&session, &select("TRY_CAST(id AS INT)"));
    assert_eq!(folder.rows(), [r#"{"id":1}"#, "{}"]);
    session.stop().unwrap();
}

#[test]
fn times_without_a_zone_are_of_the_sessions_zone() {
    let folder = Folder::new();
    let session = folder.session(&[("time.zone", "Europe/Berlin")]);
    // The second doesn't exist there, the fourth is no time.
    let times = "2026-07-01 12:00:00\n2026-03-29 02:30:00\n2026-07-01T12:00:00Z\nnoon\n";
    folder.put("1", times);
    let reader = session.read_stream().schema("at TIMESTAMP");
    reader
        .csv(&folder.text("input"))
        .unwrap()
        .create_or_replace_temp_view("times")
        .unwrap();
    let query = "SELECT unix_seconds(at) AS second FROM times";
    assert_eq!(
        finish(&session, &folder.copy(session.sql(query).unwrap())),
        1
    );
    let rows = [
        r#"{"second":1774747800}"#,
        r#"{"second":1782900000}"#,
        r#"{"second":1782907200}"#,
        "{}",
    ];
    assert_eq!(folder.rows(), rows);
    session.stop().unwrap();
}

#[test]
fn a_time_far_ahead_moves_no_watermark_and_progress_says_so() {
    let folder = Folder::new();
    let session = folder.session(&[]);
    let reader = session.read_stream().schema("at TIMESTAMP, k STRING");
    let events = reader.csv(&folder.text("input")).unwrap();
    let counts = events
        .with_watermark("at", "1 minute")
        .unwrap()
        .group_by(["at"])
        .unwrap()
        .count()
        .unwrap();
    let writer = counts.write_stream().format("noop");
    let query = writer.output_mode(OutputMode::Update).start().unwrap();
    folder.put("1", "2026-01-01 10:00:00,a\n");
    query.process_all_available().unwrap();
    let progress = query.recent_progress();
    let ahead = |progress: &millstream::sql::StreamingQueryProgress| {
        progress.event_time.get("aheadOfBatch").cloned()
    };
    assert!(progress.iter().all(|batch| ahead(batch).is_none()));
    folder.put("2", "9999-01-01 10:00:00,a\n");
    query.process_all_available().unwrap();
    folder.put("3", "2026-01-01 10:05:00,a\n");
    query.process_all_available().unwrap();
    let progress = query.recent_progress();
    let told = progress.iter().find_map(ahead).unwrap();
    let seconds: u64 = told
        .strip_prefix("PT")
        .and_then(|text| text.strip_suffix('S'))
        .and_then(|text| text.parse().ok())
        .unwrap();
    assert!(seconds > 7_000 * 365 * 86_400, "{told}");
    let late: u64 = progress
        .iter()
        .map(|batch| batch.state_operators[0].num_rows_dropped_by_watermark)
        .sum();
    assert_eq!(late, 0, "what came after it is counted");
    let watermark = progress
        .iter()
        .rev()
        .map(|batch| &batch.event_time["watermark"]);
    assert_eq!(watermark.max().unwrap(), "2026-01-01T10:04:00.000Z");
    query.stop().unwrap();
    session.stop().unwrap();
}

fn newest(folder: PathBuf) -> PathBuf {
    let names = fs::read_dir(folder).unwrap();
    let names = names.map(|entry| entry.unwrap().path());
    names.max().unwrap()
}

fn counts(folder: &Folder, session: &Session) -> Result<millstream::sql::StreamingQuery> {
    let counts = csv(folder, session, &[]).group_by(["name"])?.count()?;
    let writer = counts.write_stream().format("noop");
    writer.output_mode(OutputMode::Update).start()
}

#[test]
fn checkpoints_of_another_query_or_a_newer_format_are_refused_and_left_as_they_are() {
    let folder = Folder::new();
    let session = folder.session(&[]);
    folder.put("1", "1,ann\n");
    finish(&session, &counts(&folder, &session).unwrap());
    let other = session.read_stream().schema(SCHEMA);
    let other = other.csv(&folder.text("elsewhere")).unwrap();
    fs::create_dir(folder.path("elsewhere")).unwrap();
    let started = other.write_stream().format("noop").start();
    assert_refused(
        started,
        "checkpoint.other_application",
        &["input", "elsewhere", "aggregate-0", "new checkpoint"],
    );
    session.stop().unwrap();

    let log = newest(folder.path("checkpoint").join("offsets"));
    let whole = fs::read_to_string(&log).unwrap();
    let newer = whole.replacen("\"version\":1", "\"version\":99", 1);
    assert_ne!(newer, whole);
    fs::write(&log, newer).unwrap();
    let session = folder.session(&[]);
    let started = counts(&folder, &session);
    assert_refused(started, "checkpoint.newer", &["offsets/", "99"]);
    session.stop().unwrap();
    fs::write(&log, &whole).unwrap();

    // A state file's layout has a version of its own.
    let states = files_below(&folder.path("checkpoint").join("state"));
    let kept: Vec<Vec<u8>> = states.iter().map(|path| fs::read(path).unwrap()).collect();
    for (path, bytes) in states.iter().zip(&kept) {
        let mut newer = bytes.clone();
        newer[4] = 99;
        fs::write(path, newer).unwrap();
    }
    let session = folder.session(&[]);
    folder.put("2", "2,ann\n");
    let query = counts(&folder, &session).unwrap();
    let error = super::local::failure(&query);
    assert!(error.code().starts_with("state."), "{error}");
    assert!(error.to_string().contains("state/"), "{error}");
    session.stop().unwrap();
    for (path, bytes) in states.iter().zip(&kept) {
        fs::write(path, bytes).unwrap();
    }
    let session = folder.session(&[]);
    let query = counts(&folder, &session).unwrap();
    query.process_all_available().unwrap();
    let progress = query.last_progress().unwrap();
    assert_eq!(progress.state_operators[0].num_rows_total, 1);
    query.stop().unwrap();
    session.stop().unwrap();
}

#[test]
fn a_session_runs_no_query_twice_however_its_checkpoint_is_written() {
    let folder = Folder::new();
    let session = folder.session(&[]);
    let start = |location: &str| {
        let writer = csv(&folder, &session, &[]).write_stream().format("noop");
        let writer = writer.option("checkpointLocation", location);
        writer.trigger(Trigger::Default).start()
    };
    let query = start(&folder.text("own")).unwrap();
    std::os::unix::fs::symlink(folder.path("own"), folder.path("link")).unwrap();
    for other in ["own", "./own", "input/../own", "link"] {
        let location = folder.text(other);
        for location in [location.clone(), format!("file://{location}")] {
            let refused = start(&location).err().map(|error| error.to_string());
            let refused = refused.unwrap_or_else(|| panic!("{location} was taken"));
            assert!(refused.contains("a query that runs has the checkpoint"));
        }
    }
    query.stop().unwrap();
    start(&folder.text("link")).unwrap().stop().unwrap();
    session.stop().unwrap();
}

/// The later of two drivers goes on, the earlier one ends and says why.
#[test]
fn of_two_runs_of_a_query_the_later_one_goes_on() {
    let job = Job::new();
    job.send(100);
    let application = job.application(&[]).master("local[2]");
    let first = application.start(0).unwrap();
    wait_printed(&first, 1);
    let second = application.start(0).unwrap();
    let status = first.driver.process.wait_exit(SOON).unwrap();
    let tail = first.driver.process.output().tail();
    assert_eq!(status.code(), Some(3), "{tail}");
    wait_says(
        &first.driver.process,
        &["another driver took over", "stop one of the two"],
    );
    job.send(100);
    wait_table(&second, &job.expected());
    second.driver.process.signal(Signal::TERM).unwrap();
    let status = second.driver.process.wait_exit(SOON).unwrap();
    assert_eq!(status.code(), Some(0));
    let printed = first.driver.process.output().text(Stream::Out);
    assert_eq!(printed.matches("Batch: ").count(), 1, "{printed}");
}
