//! What doesn't grow is read once: files on a cluster, a topic from its beginning to its end.

use std::{collections::BTreeMap, fs, process::Command, time::Duration};

use millstream::sql::{
    Master, Session,
    arrow::{array::AsArray, datatypes::Int32Type},
};
use millstream_common::config::Config;
use millstream_integration_tests::{
    cluster::Application,
    kafka::KafkaBroker,
    process::{ChildProcess, Stream},
};

use super::job::{Job, SQLJOB};
use crate::word_job::wait_says;

const FILE: &str = "\
emp_id,emp_name,job_name,manager_id,salary,dept_name
1,ANN,CLERK,,10.5,A
2,BOB,CLERK,1,20,A
3,CID,BOSS,,5,B
";

const TABLE: &str = "\
+--------+-----+
|job_name|count|
+--------+-----+
|    BOSS|    1|
|   CLERK|    2|
+--------+-----+
";

const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the query on a cluster to its end: the exit code, and what was said.
fn ran(application: &Application) -> (Option<i32>, String, String) {
    let cluster = application.start(2).unwrap();
    let status = cluster.driver.process.wait_exit(PATIENCE).unwrap();
    let output = cluster.driver.process.output();
    (
        status.code(),
        output.text(Stream::Out),
        output.text(Stream::Err),
    )
}

#[test]
fn files_are_counted_and_shown_on_a_cluster() {
    let job = Job::new();
    job.put("1.csv", FILE);
    let (code, out, err) = ran(&job.application(&["--query", "fixed"]));
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("3 employees") && out.contains(TABLE), "{out}");
    let left: Vec<_> = fs::read_dir(job.checkpoint()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn without_a_checkpoint_rows_are_read_and_groups_are_refused() {
    let job = Job::new();
    job.put("1.csv", FILE);
    let folder = tempfile::tempdir().unwrap();
    let application = Application::new(SQLJOB, folder.path())
        .unwrap()
        .args(["--dir", job.input().to_str().unwrap()])
        .args(["--query", "fixed"]);
    let (code, out, err) = ran(&application);
    assert!(out.contains("3 employees"), "{out}\n{err}");
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains("a place for its state"), "{err}");
}

fn session() -> Session {
    let config = Config::builder()
        .conf("http.enabled", false)
        .conf("time.zone", "UTC")
        .build()
        .unwrap();
    Session::builder()
        .config(&config)
        .master(Master::Local { slots: 2 })
        .build()
        .unwrap()
}

#[test]
fn a_topic_is_read_from_its_beginning_to_where_it_is_told() {
    let kafka = KafkaBroker::shared().client().clone();
    let topic = kafka.unique_topic("fixed", 2).unwrap();
    for (partition, records) in [(0, 5), (1, 3)] {
        let lines: Vec<String> = (0..records)
            .map(|number| format!("line {number}"))
            .collect();
        kafka.produce_lines(&topic, partition, &lines).unwrap();
    }
    let session = session();
    let count = |options: &[(&str, &str)]| {
        let reader = session.read().format("kafka");
        let reader = reader.option("kafka.bootstrap.servers", kafka.bootstrap());
        let reader = reader.option("subscribe", &topic);
        let frame = reader.options(options.iter().copied()).load();
        frame.and_then(|frame| frame.count())
    };
    let offsets = |zero: i64, one: i64| {
        let offsets = BTreeMap::from([("0", zero), ("1", one)]);
        serde_json::json!({ topic.as_str(): offsets }).to_string()
    };
    assert_eq!(count(&[]).unwrap(), 8);
    assert_eq!(count(&[("endingOffsets", &offsets(2, -1))]).unwrap(), 5);
    assert_eq!(count(&[("startingOffsets", &offsets(1, -2))]).unwrap(), 7);
    let both = [
        ("startingOffsets", &*offsets(1, 1)),
        ("endingOffsets", &*offsets(4, 1)),
    ];
    assert_eq!(count(&both).unwrap(), 3);
    let past = offsets(9, -1);
    let error = count(&[("endingOffsets", &past)]).unwrap_err().to_string();
    assert!(error.contains("ends at offset 5"), "{error}");
    let lenient = [("endingOffsets", &*past), ("failOnDataLoss", "false")];
    assert_eq!(count(&lenient).unwrap(), 8);
    session.stop().unwrap();
}

#[test]
fn who_gave_a_record_its_time_is_told() {
    let kafka = KafkaBroker::shared().client().clone();
    let session = session();
    for (kind, expected) in [("CreateTime", 0), ("LogAppendTime", 1)] {
        let topic = format!("{}-{kind}", kafka.unique_topic("timed", 1).unwrap());
        let settings = [("message.timestamp.type", kind)];
        kafka.create_topic_with(&topic, 1, &settings).unwrap();
        kafka.produce_lines(&topic, 0, ["line"]).unwrap();
        let reader = session.read().format("kafka").option("subscribe", &topic);
        let reader = reader.option("kafka.bootstrap.servers", kafka.bootstrap());
        let kinds = reader.load().unwrap().select(["timestampType"]).unwrap();
        let kinds = kinds.collect().unwrap();
        let kinds = kinds[0].column(0).as_primitive::<Int32Type>();
        assert_eq!(kinds.values().to_vec(), [expected], "{kind}");
    }
    session.stop().unwrap();
}

#[test]
fn an_interval_of_batches_is_refused_with_what_to_use() {
    let job = Job::new();
    let mut command = Command::new(SQLJOB);
    command
        .args(["--dir", job.input().to_str().unwrap()])
        .args(["--batch-interval", "1s"]);
    let process = ChildProcess::spawn("refused", &command).unwrap();
    assert_eq!(process.wait_exit(PATIENCE).unwrap().code(), Some(2));
    let said = process.output().text(Stream::Err);
    assert!(
        said.contains("--batch-interval is for DStreams alone"),
        "{said}"
    );
    assert!(
        said.contains("trigger(Trigger::ProcessingTime(..))"),
        "{said}"
    );
}

#[test]
fn a_signal_ends_what_waits_for_executors_that_never_come() {
    let job = Job::new();
    job.put("1.csv", FILE);
    // Reading twice, the second time after the signal; and a stream.
    for query in ["fixed", "by-job"] {
        let application = job
            .application(&["--query", query])
            .conf("stop.timeout", "500ms");
        let driver = application.start_driver().unwrap();
        driver.wait_ready().unwrap();
        wait_says(&driver.process, &["no executor can take tasks"]);
        // Broken off, as the batch can't be finished.
        assert_eq!(driver.stop().unwrap(), Some(4), "{query}");
        // What was not read isn't shown as if it were nothing.
        assert_eq!(driver.process.output().text(Stream::Out), "", "{query}");
    }
}
