//! A batch that one build wrote half to Kafka and another build finds: it stops with two ways out.

use std::collections::BTreeMap;

use millstream_integration_tests::{
    cluster::{Application, Cluster, PATIENCE},
    kafka::Isolation,
    wait::wait_until,
};

use super::rebuilt;
use crate::word_job::{Counts, TESTJOB, WordJob, assert_ends, kafka, text};

/// Where the old build is held in the other sink partition: nothing is begun, or a transaction is open.
const TASK_START: &str = "executor.task.start@batch=0,stage=1,partition=1";
const TRANSACTION_OPEN: &str = "sink.kafka.before_commit@batch=0,partition=1";

/// A job with Kafka as its sink.
struct Half {
    job: WordJob,
    sink: String,
    /// The application of the old build.
    old: Application,
}

impl Half {
    fn application(&self, program: &std::path::Path, more: &[&str]) -> Application {
        application(&self.job, &self.sink, program)
            .args(more.iter().copied())
            .on_port_of(&self.old)
    }

    fn counted(&self) -> Counts {
        let mut counts = Counts::new();
        for record in kafka()
            .consume_all(&self.sink, Isolation::ReadCommitted)
            .unwrap()
        {
            let word = String::from_utf8(record.key.clone().unwrap()).unwrap();
            *counts.entry(word).or_default() += record.text().trim().parse::<u64>().unwrap();
        }
        counts
    }

    fn finish(&self, cluster: Cluster) {
        let expected = self.job.expected();
        let wanted: u64 = expected.values().sum();
        wait_until(PATIENCE, "all words in the topic", || {
            self.counted().values().sum::<u64>() >= wanted
        })
        .unwrap();
        assert_eq!(cluster.stop().unwrap(), Some(0));
        assert_eq!(self.counted(), expected);
    }
}

fn application(job: &WordJob, sink: &str, program: &std::path::Path) -> Application {
    Application::new(program, job.folder())
        .unwrap()
        .args(["--brokers", kafka().bootstrap(), "--topic", job.topic()])
        .args(["--starting-offsets", "earliest", "--output-topic", sink])
        .args(["--checkpoint".to_owned(), text(&job.checkpoint())])
        .args(["--batch-interval", "200ms"])
        .conf("parallelism", 2)
        .conf("checkpoint.fsync", false)
}

/// The old build is killed when one of the two sink partitions of batch 0 is written; the new one, with a changed closure, must stop.
fn half_written(name: &str, point: &str) -> Half {
    let job = WordJob::new(name);
    job.send(40);
    let sink = kafka().unique_topic("half-sink", 2).unwrap();
    let old = application(&job, &sink, TESTJOB.as_ref());
    let cluster = old
        .clone()
        .failpoint(&format!("{point}=pause"))
        // One after the other: an open transaction hides what is committed behind it.
        .cores(1)
        .start(1)
        .unwrap();
    let name = point.split('@').next().unwrap();
    cluster.wait_failpoint(name).unwrap();
    let half = Half { job, sink, old };
    wait_until(PATIENCE, "the first sink partition", || {
        !half.counted().is_empty()
    })
    .unwrap();
    cluster.driver.process.kill().unwrap();
    for pid in cluster.executors() {
        cluster.kill_executor(pid).unwrap();
    }
    drop(cluster);
    let written = half.counted();
    assert!(
        written.len() < half.job.expected().len(),
        "both partitions are written: {written:?}"
    );

    // The new build's task for the partition that is written stands still: if the driver let the batch begin, the other partition would be written.
    let new = half
        .application(&rebuilt(&half.job), &["--salt", "1"])
        .failpoint("executor.task.start@batch=0,stage=1,partition=0=always-pause");
    let cluster = new.start(1).unwrap();
    assert_ends(
        &cluster.driver.process,
        1,
        &[
            "error:",
            "sink partition 0",
            "run the old build once",
            "--accept-mixed-batch 0",
        ],
    );
    assert_eq!(half.counted(), written, "the refused build wrote");
    half
}

#[test]
fn the_old_build_finishes_the_batch() {
    let half = half_written("mixed-old", TASK_START);
    let cluster = half.application(TESTJOB.as_ref(), &[]).start(1).unwrap();
    half.finish(cluster);
    // Then the new one goes on.
    half.job.send(20);
    let cluster = half
        .application(&rebuilt(&half.job), &["--salt", "1"])
        .start(1)
        .unwrap();
    half.finish(cluster);
}

#[test]
fn the_mixed_batch_is_accepted() {
    let half = half_written("mixed-accepted", TRANSACTION_OPEN);
    let accepted = ["--salt", "1", "--accept-mixed-batch", "0"];
    let cluster = half
        .application(&rebuilt(&half.job), &accepted)
        .start(1)
        .unwrap();
    half.finish(cluster);
    let records = kafka()
        .consume_all(&half.sink, Isolation::ReadCommitted)
        .unwrap();
    let mut builds: BTreeMap<bool, usize> = BTreeMap::new();
    for record in records {
        *builds.entry(record.text().ends_with(' ')).or_default() += 1;
    }
    assert_eq!(builds.len(), 2, "rows of both builds: {builds:?}");
}
