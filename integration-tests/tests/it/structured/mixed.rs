//! A batch that one build wrote half to Kafka and another build finds: it stops, and goes on when that is accepted.

use std::{collections::BTreeMap, fs, path::PathBuf};

use millstream_integration_tests::{
    cluster::{Application, PATIENCE},
    kafka::{Isolation, KafkaBroker, KafkaClient},
    wait::wait_until,
};
use tempfile::TempDir;

use super::job::SQLJOB;
use crate::word_job::assert_ends;

const JOBS: u64 = 7;
const EVENTS: u64 = 42;

struct Half {
    kafka: KafkaClient,
    topic: String,
    sink: String,
    folder: TempDir,
    port_of: Option<Application>,
}

impl Half {
    fn new() -> Self {
        let kafka = KafkaBroker::shared().client().clone();
        let topic = kafka.unique_topic("half-events", 1).unwrap();
        let events = (0..EVENTS).map(|number| {
            let job = number % JOBS;
            format!("{{\"at\":\"2026-01-01T00:00:00Z\",\"job\":\"job {job}\",\"n\":{number}}}")
        });
        let events: Vec<String> = events.collect();
        kafka.produce_lines(&topic, 0, &events).unwrap();
        Self {
            sink: kafka.unique_topic("half-counts", 2).unwrap(),
            topic,
            kafka,
            folder: tempfile::tempdir().unwrap(),
            port_of: None,
        }
    }

    fn application(&self, program: PathBuf, more: &[&str]) -> Application {
        let checkpoint = self.folder.path().join("checkpoint");
        let application = Application::new(program, self.folder.path())
            .unwrap()
            .args(["--query", "running", "--output-mode", "update"])
            .args(["--brokers", self.kafka.bootstrap()])
            .args(["--topic", &self.topic, "--out", &self.sink])
            .args(["--checkpoint", checkpoint.to_str().unwrap()])
            .args(more.iter().copied())
            .conf("parallelism", 2)
            .conf("checkpoint.fsync", false)
            .cores(1);
        match &self.port_of {
            Some(first) => application.on_port_of(first),
            None => application,
        }
    }

    /// Another build: the same program with another hash.
    fn rebuilt(&self) -> PathBuf {
        let program = self.folder.path().join("sqljob");
        if program.exists() {
            return program;
        }
        let mut bytes = fs::read(SQLJOB).unwrap();
        bytes.push(0);
        fs::write(&program, bytes).unwrap();
        fs::set_permissions(&program, fs::metadata(SQLJOB).unwrap().permissions()).unwrap();
        program
    }

    /// The texts by job, the newest last.
    fn written(&self) -> BTreeMap<String, Vec<String>> {
        let mut written: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let records = self.kafka.consume_all(&self.sink, Isolation::ReadCommitted);
        for record in records.unwrap() {
            let job = String::from_utf8(record.key.clone().unwrap()).unwrap();
            written
                .entry(job)
                .or_default()
                .push(record.text().to_owned());
        }
        written
    }
}

#[test]
fn a_batch_of_two_builds_must_be_accepted() {
    let mut half = Half::new();
    let old = half.application(PathBuf::from(SQLJOB), &[]);
    half.port_of = Some(old.clone());
    let held = "executor.task.start@batch=0,stage=1,partition=1=pause";
    let cluster = old.failpoint(held).start(1).unwrap();
    cluster.wait_failpoint("executor.task.start").unwrap();
    wait_until(PATIENCE, "the first sink partition", || {
        !half.written().is_empty()
    })
    .unwrap();
    cluster.driver.process.kill().unwrap();
    for pid in cluster.executors() {
        cluster.kill_executor(pid).unwrap();
    }
    drop(cluster);
    let first = half.written();
    assert!(
        first.len() < JOBS as usize,
        "both partitions are written: {first:?}"
    );

    let cluster = half
        .application(half.rebuilt(), &["--salt", "#"])
        .start(1)
        .unwrap();
    let words = [
        "sink partition 0",
        "run the old build once",
        "--accept-mixed-batch 0",
    ];
    assert_ends(&cluster.driver.process, 1, &words);
    drop(cluster);
    assert_eq!(half.written(), first, "the refused build wrote");

    let accepted = ["--salt", "#", "--accept-mixed-batch", "0"];
    let cluster = half
        .application(half.rebuilt(), &accepted)
        .start(1)
        .unwrap();
    wait_until(PATIENCE, "all jobs in the topic", || {
        half.written().len() == JOBS as usize
    })
    .unwrap();
    assert_eq!(cluster.stop().unwrap(), Some(0));
    let count = (EVENTS / JOBS).to_string();
    for (job, texts) in half.written() {
        let expected = match first.contains_key(&job) {
            true => count.clone(),
            false => format!("{count}#"),
        };
        assert_eq!(texts, [expected], "{job}");
    }
}
