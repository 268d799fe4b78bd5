//! Sources, sinks, triggers, event time and what queries tell, in this process.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::Value;

use super::Fixture;
use crate::{
    DataFrame, Error, OutputMode, Result, Trigger, arrow::record_batch::RecordBatch, col, explode,
    show::cell_text, split, window, window_sliding,
};

const EVENTS: &str = "at TIMESTAMP, k STRING, v BIGINT";

impl Fixture {
    fn events(&self, delay: &str) -> DataFrame {
        self.session
            .read_stream()
            .schema(EVENTS)
            .csv(self.input().to_str().unwrap())
            .unwrap()
            .with_watermark("at", delay)
            .unwrap()
    }

    fn out(&self) -> String {
        let out = self.folder.path().join("out");
        out.to_str().unwrap().to_owned()
    }

    fn table(&self, name: &str) -> BTreeSet<String> {
        let frame = self.session.sql(&format!("SELECT * FROM {name}")).unwrap();
        texts(&frame.collect().unwrap())
    }
}

fn texts(batches: &[RecordBatch]) -> BTreeSet<String> {
    let mut rows = BTreeSet::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let cells = batch.columns().iter();
            let cells = cells
                .map(|column| cell_text(column.as_ref(), row, &jiff::tz::TimeZone::UTC).unwrap());
            rows.insert(cells.collect::<Vec<_>>().join(" "));
        }
    }
    rows
}

fn set(rows: &[&str]) -> BTreeSet<String> {
    rows.iter().map(|row| (*row).to_owned()).collect()
}

fn by_window(frame: &DataFrame) -> Result<DataFrame> {
    frame
        .group_by([window(col("at"), "10 minutes"), col("k")])?
        .count()
}

#[test]
fn windows_come_out_once_when_the_watermark_has_passed_them() {
    let fixture = Fixture::new();
    let start = |fixture: &Fixture| {
        let frame = by_window(&fixture.events("5 minutes")).unwrap();
        let writer = frame.write_stream().format("console");
        writer.option("truncate", false).start().unwrap()
    };
    let query = start(&fixture);
    fixture.put(
        "1",
        "2026-01-01 10:01:00,a,1\n2026-01-01 10:09:00,a,1\n2026-01-01 10:12:00,b,1\n",
    );
    query.process_all_available().unwrap();
    assert_eq!(fixture.newest(), super::rows(&[]));
    // Past the first window's end and the delay; a batch without data lets it go.
    fixture.put("2", "2026-01-01 10:16:00,b,1\n2026-01-01 10:02:00,a,1\n");
    query.process_all_available().unwrap();
    let first = &["{2026-01-01 10:00:00, 2026-01-01 10:10:00}", "a", "3"];
    assert_eq!(fixture.newest(), super::rows(&[&first[..]]));
    let progress = query.last_progress().unwrap();
    assert_eq!(progress.event_time["watermark"], "2026-01-01T10:11:00.000Z");
    assert_eq!(progress.state_operators[0].num_rows_total, 1);
    assert_eq!(progress.state_operators[0].num_rows_removed, 1);
    query.stop().unwrap();
    fixture.session.stop().unwrap();
    // What is late stays out after a restart, too.
    let fixture = Fixture::in_folder(fixture.folder);
    let query = start(&fixture);
    fixture.put("3", "2026-01-01 10:03:00,a,1\n2026-01-01 10:30:00,c,1\n");
    query.process_all_available().unwrap();
    let second = &["{2026-01-01 10:10:00, 2026-01-01 10:20:00}", "b", "2"];
    assert_eq!(fixture.newest(), super::rows(&[&second[..]]));
    let dropped: u64 = query
        .recent_progress()
        .iter()
        .map(|batch| batch.state_operators[0].num_rows_dropped_by_watermark)
        .sum();
    assert_eq!(dropped, 1);
    query.stop().unwrap();
    fixture.session.stop().unwrap();
}

#[test]
fn a_batch_without_data_is_made_up_for_after_a_restart() {
    let fixture = Fixture::new();
    let frame = by_window(&fixture.events("0 seconds")).unwrap();
    fixture.put("1", "2026-01-01 10:01:00,a,1\n2026-01-01 10:10:00,b,1\n");
    // One batch alone: what it makes due is left.
    let query = frame
        .write_stream()
        .format("noop")
        .trigger(Trigger::Once)
        .start()
        .unwrap();
    query.await_termination().unwrap();
    fixture.session.stop().unwrap();
    let fixture = Fixture::in_folder(fixture.folder);
    let frame = by_window(&fixture.events("0 seconds")).unwrap();
    let query = frame.write_stream().format("noop").start().unwrap();
    query.process_all_available().unwrap();
    let progress = query.last_progress().unwrap();
    assert_eq!((progress.batch_id, progress.num_input_rows), (1, 0));
    assert_eq!(progress.sink.num_output_rows, 1);
    query.stop().unwrap();
    fixture.session.stop().unwrap();
}

#[test]
fn overlapping_windows_each_get_their_rows() {
    let fixture = Fixture::new();
    let window = window_sliding(col("at"), "10 minutes", "5 minutes", "0 minutes");
    let frame = fixture
        .session
        .read_stream()
        .schema(EVENTS)
        .csv(fixture.input().to_str().unwrap())
        .unwrap();
    let counts = frame.group_by([window]).unwrap().count();
    let query = fixture.start(counts, OutputMode::Update);
    fixture.put(
        "1",
        "2026-01-01 10:01:00,a,1\n2026-01-01 10:07:00,a,1\n,x,1\n",
    );
    query.process_all_available().unwrap();
    let rows = fixture.newest_sorted();
    let counts: Vec<&str> = rows.iter().map(|row| row[1].as_str()).collect();
    assert_eq!(counts, ["1", "2", "1"]);
    query.stop().unwrap();
    fixture.session.stop().unwrap();
}

#[test]
fn lists_become_rows() {
    let fixture = Fixture::new();
    let lines = fixture
        .session
        .read_stream()
        .text(fixture.input().to_str().unwrap())
        .unwrap();
    let words = lines
        .select([explode(split(col("value"), " ")).alias("word")])
        .unwrap();
    let query = fixture.start(
        words.group_by(["word"]).unwrap().count(),
        OutputMode::Complete,
    );
    fixture.put("1", "a b a\nb a\n");
    query.process_all_available().unwrap();
    assert_eq!(
        fixture.newest_sorted(),
        super::rows(&[&["a", "3"], &["b", "2"]])
    );
    query.stop().unwrap();
    fixture.session.stop().unwrap();
}

fn files(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if !name.starts_with('.') {
            names.push(name);
        }
    }
    names.sort();
    names
}

#[test]
fn files_are_written_and_read_back() {
    for format in ["csv", "json", "parquet"] {
        let fixture = Fixture::new();
        let out = fixture.out();
        let frame = fixture.rows().select(["id", "name", "salary"]).unwrap();
        let query = frame
            .write_stream()
            .format(format)
            .query_name("write")
            .start_at(&out)
            .unwrap();
        for (name, content) in [("1", super::FIRST), ("2", super::SECOND)] {
            fixture.put(name, content);
            query.process_all_available().unwrap();
        }
        query.stop().unwrap();
        assert_eq!(files(Path::new(&out)).len(), 2, "{format}");
        let back = fixture
            .session
            .read()
            .format(format)
            .schema("id INT, name STRING, salary DOUBLE")
            .load_from(&out)
            .unwrap();
        assert!(!back.is_streaming());
        assert_eq!(
            texts(&back.collect().unwrap()),
            set(&[
                "1 ann 10.5",
                "2 bob 20.0",
                "3 cid 5.0",
                "4 dan 100.0",
                "5 eve NULL",
                "6 fay 7.0"
            ]),
            "{format}"
        );
        assert_eq!(back.count().unwrap(), 6);
        fixture.session.stop().unwrap();
    }
}

#[test]
fn columns_can_name_folders() {
    let fixture = Fixture::new();
    let out = fixture.out();
    let query = fixture
        .rows()
        .write_stream()
        .format("json")
        .partition_by(["job"])
        .trigger(Trigger::AvailableNow)
        .start_at(&out);
    fixture.put("1", super::FIRST);
    query.unwrap().await_termination().unwrap();
    let wanted = ["job=__HIVE_DEFAULT_PARTITION__", "job=clerk"];
    // The query may have looked before the file was there; then a second run finds it.
    if files(Path::new(&out)).is_empty() {
        let again = fixture
            .rows()
            .write_stream()
            .format("json")
            .partition_by(["job"])
            .trigger(Trigger::AvailableNow)
            .start_at(&out);
        again.unwrap().await_termination().unwrap();
    }
    assert_eq!(files(Path::new(&out)), wanted);
    let clerks = Path::new(&out).join(wanted[1]);
    let file = clerks.join(&files(&clerks)[0]);
    let content = fs::read_to_string(file).unwrap();
    assert_eq!(
        content,
        "{\"id\":1,\"name\":\"ann\",\"salary\":10.5}\n{\"id\":2,\"name\":\"bob\",\"salary\":20.0}\n"
    );
    fixture.session.stop().unwrap();
}

#[test]
fn results_in_memory_are_a_table() {
    let fixture = Fixture::new();
    let counts = fixture.rows().group_by(["job"]).unwrap().count().unwrap();
    let query = counts
        .write_stream()
        .format("memory")
        .query_name("counts")
        .output_mode(OutputMode::Complete)
        .start()
        .unwrap();
    for (name, content) in [("1", super::FIRST), ("2", super::SECOND)] {
        fixture.put(name, content);
        query.process_all_available().unwrap();
    }
    assert_eq!(
        fixture.table("counts"),
        set(&["NULL 2", "boss 1", "clerk 3"])
    );
    query.stop().unwrap();
    fixture.session.stop().unwrap();
}

#[test]
fn a_memory_stream_gives_what_is_added() {
    let fixture = Fixture::new();
    let stream = fixture.session.memory_stream("word STRING").unwrap();
    let query = stream
        .to_df()
        .write_stream()
        .format("memory")
        .query_name("words")
        .start()
        .unwrap();
    let schema = stream.to_df().schema();
    for word in ["a", "b"] {
        let column = crate::arrow::array::StringArray::from(vec![word]);
        let rows = RecordBatch::try_new(schema.clone(), vec![std::sync::Arc::new(column)]);
        stream.add_data(&rows.unwrap()).unwrap();
        query.process_all_available().unwrap();
    }
    assert_eq!(fixture.table("words"), set(&["a", "b"]));
    query.stop().unwrap();
    fixture.session.stop().unwrap();
}

#[test]
fn a_function_gets_each_batch() {
    let fixture = Fixture::new();
    let seen = std::sync::Arc::new(parking_lot::Mutex::new(Vec::new()));
    let noted = std::sync::Arc::clone(&seen);
    fixture.put("1", super::FIRST);
    let query = fixture
        .rows()
        .write_stream()
        .for_each_batch(move |rows, number| {
            noted.lock().push((number, rows.count()?));
            Ok(())
        })
        .trigger(Trigger::Once)
        .start()
        .unwrap();
    query.await_termination().unwrap();
    assert_eq!(*seen.lock(), [(0, 3)]);
    let failing = fixture
        .rows()
        .write_stream()
        .for_each_batch(|_, _| Err(Error::Plan("no".to_owned())))
        .option(
            "checkpointLocation",
            fixture.folder.path().join("other").display(),
        )
        .start()
        .unwrap();
    let error = failing.await_termination().unwrap_err().to_string();
    assert!(
        error.contains("for_each_batch failed on batch 0"),
        "{error}"
    );
    assert_eq!(failing.exception().unwrap().to_string(), error);
    fixture.session.stop().unwrap();
}

#[test]
fn queries_end_by_themselves_when_told_to() {
    let fixture = Fixture::new();
    for (name, content) in [("1", super::FIRST), ("2", super::SECOND)] {
        fixture.put(name, content);
    }
    let run = |trigger, name: &str| {
        let query = fixture
            .session
            .read_stream()
            .schema(super::SCHEMA)
            .option("maxFilesPerTrigger", 1)
            .csv(fixture.input().to_str().unwrap())
            .unwrap()
            .write_stream()
            .format("noop")
            .query_name(name)
            .trigger(trigger)
            .start()
            .unwrap();
        query.await_termination().unwrap();
        let batches = query.recent_progress();
        batches
            .iter()
            .map(|batch| batch.num_input_rows)
            .collect::<Vec<_>>()
    };
    assert_eq!(run(Trigger::AvailableNow, "available"), [3, 3]);
    assert_eq!(run(Trigger::Once, "once"), [6]);
    assert_eq!(run(Trigger::Once, "once"), [0u64; 0]);
    fixture.session.stop().unwrap();
}

#[test]
fn progress_has_sparks_names() {
    let fixture = Fixture::new();
    fixture.put("1", super::FIRST);
    let counts = fixture.rows().group_by(["job"]).unwrap().count().unwrap();
    let query = counts
        .write_stream()
        .format("noop")
        .query_name("named")
        .output_mode("update")
        .trigger(Trigger::Once)
        .start()
        .unwrap();
    query.await_termination().unwrap();
    let json: Value = serde_json::from_str(&query.last_progress().unwrap().json()).unwrap();
    assert_eq!(json["name"], "named");
    assert_eq!(
        (&json["batchId"], &json["numInputRows"]),
        (&0.into(), &3.into())
    );
    assert_eq!(json["stateOperators"][0]["numRowsTotal"], 2);
    assert_eq!(json["stateOperators"][0]["numRowsUpdated"], 2);
    assert_eq!(json["sink"]["numOutputRows"], 2);
    let source = json["sources"][0]["description"].as_str().unwrap();
    assert!(source.starts_with("FileStreamSource[file:"), "{source}");
    for name in [
        "id",
        "runId",
        "timestamp",
        "batchDuration",
        "inputRowsPerSecond",
        "processedRowsPerSecond",
        "durationMs",
        "eventTime",
    ] {
        assert!(json.get(name).is_some(), "{name} in {json}");
    }
    assert_eq!(query.status().message, "Stopped");
    assert!(query.explain().contains("== Logical Plan =="));
    fixture.session.stop().unwrap();
}

#[test]
fn sinks_refuse_what_they_cannot_write() {
    let fixture = Fixture::new();
    let refused = |frame: DataFrame, format: &str, mode: &str, why: &str| {
        let error = frame
            .write_stream()
            .format(format)
            .output_mode(mode)
            .option("path", "/nowhere")
            .start()
            .unwrap_err()
            .to_string();
        assert!(error.contains(why), "{error}");
    };
    let counts = || fixture.rows().group_by(["job"]).unwrap().count().unwrap();
    refused(
        counts(),
        "csv",
        "complete",
        "does not support complete output mode",
    );
    refused(
        fixture.rows(),
        "text",
        "append",
        "one column of type STRING",
    );
    refused(fixture.rows(), "memory", "append", "");
    refused(
        fixture.rows(),
        "nothing",
        "append",
        "streams are written to",
    );
    let kafka = |frame: DataFrame| {
        let writer = frame.write_stream().format("kafka").output_mode("append");
        let writer = writer.option("kafka.bootstrap.servers", "localhost:1");
        writer.option("topic", "t").start().unwrap_err().to_string()
    };
    assert!(kafka(fixture.rows()).contains("Required attribute 'value' not found"));
    fixture.session.stop().unwrap();
}
