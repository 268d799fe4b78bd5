//! The driver is killed at a point of a batch's life and started again.

use std::fs;

use millstream_integration_tests::{
    cluster::{Application, Reached},
    kafka::Isolation,
    process::Signal,
    wait::wait_until,
};

use crate::word_job::{SOON, TESTJOB, WordJob, kafka, text, wait_executors};

/// Ten records a partition and batch, so that the first batches all have some.
fn in_small_batches(job: &WordJob) -> Application {
    job.application().conf("kafka.max_rate_per_partition", 50)
}

/// Kills the driver at `point`, sends more lines, starts it again with `executors` more executors, or fewer, than the two before.
fn kill_and_restart(name: &str, point: &str, executors: i32) {
    kill_and_restart_job(&WordJob::new(name), point, executors);
}

/// The same with a job of any place.
pub(crate) fn kill_and_restart_job(job: &WordJob, point: &str, executors: i32) {
    kill_and_restart_after(job, point, executors, || {});
}

/// The same, with the kill after what `before` waits for.
pub(crate) fn kill_and_restart_after(
    job: &WordJob,
    point: &str,
    executors: i32,
    before: impl FnOnce(),
) {
    job.send(60);
    let application = in_small_batches(job).failpoint(&format!("{point}=pause"));
    let mut cluster = application.start(2).unwrap();
    let short = point.split('@').next().unwrap();
    assert_eq!(cluster.wait_failpoint(short).unwrap(), Reached::Driver);
    before();
    cluster.driver.process.kill().unwrap();
    job.send(30);
    for _ in 0..executors {
        cluster.add_executor().unwrap();
    }
    for pid in cluster
        .executors()
        .into_iter()
        .take(usize::try_from(-executors).unwrap_or(0))
    {
        cluster.kill_executor(pid).unwrap();
    }
    cluster.restart_driver().unwrap();
    let left = usize::try_from(2 + executors).unwrap();
    wait_executors(&cluster, left);
    job.send(10);
    job.finish(cluster);
}

#[test]
fn killed_after_the_offset_log_and_before_the_commit() {
    kill_and_restart("after-offsets", "driver.put.after@kind=offsets,number=1", 0);
}

#[test]
fn killed_before_the_commit_and_restarted_with_more_executors() {
    kill_and_restart(
        "before-commit",
        "driver.put.before@kind=commits,number=1",
        1,
    );
}

#[test]
fn killed_between_commit_and_publish_and_restarted_with_fewer_executors() {
    kill_and_restart("after-commit", "driver.put.after@kind=commits,number=1", -1);
}

#[test]
fn killed_between_commit_and_the_next_batch() {
    kill_and_restart("next-batch", "driver.put.before@kind=offsets,number=2", 0);
}

#[test]
fn killed_during_a_publish() {
    kill_and_restart("publish", "sink.files.publish@batch=1,done=1", 0);
}

#[test]
fn killed_before_the_success_file() {
    kill_and_restart("success", "sink.files.before_success@batch=1", 0);
}

#[test]
fn killed_before_the_publish_is_marked_done() {
    kill_and_restart("mark", "sink.files.before_mark@batch=1", 1);
}

#[test]
fn killed_before_its_very_first_entries() {
    kill_and_restart("metadata", "driver.put.after@kind=epochs,number=1", 0);
    kill_and_restart("first", "driver.put.before@kind=offsets,number=0", 0);
}

#[test]
fn a_first_start_at_latest_without_data_counts_what_came_after() {
    let job = WordJob::new("latest");
    // The start is resolved and written, and no batch is.
    let application = job
        .application_from("latest")
        .failpoint("driver.put.before@kind=offsets,number=0=pause");
    let mut cluster = application.start(1).unwrap();
    cluster.wait_failpoint("driver.put.before").unwrap();
    cluster.driver.process.kill().unwrap();
    let there = |part: &str| job.checkpoint().join(part).exists();
    assert!(there("sources/0/start") && !there("offsets"));
    job.send(50);
    cluster.restart_driver().unwrap();
    job.finish(cluster);
}

#[test]
fn a_new_checkpoint_under_the_same_name_skips_nothing() {
    let job = WordJob::new("anew");
    job.send(40);
    let application = job.application();
    let cluster = application.start(1).unwrap();
    job.finish(cluster);
    fs::remove_dir_all(job.checkpoint()).unwrap();
    let first = job.expected();
    let cluster = application.start(1).unwrap();
    let twice = || job.counted().values().sum::<u64>() >= 2 * first.values().sum::<u64>();
    wait_until(SOON, "all words a second time", twice).unwrap();
    assert_eq!(cluster.stop().unwrap(), Some(0));
    let doubled = first.into_iter().map(|(word, count)| (word, 2 * count));
    assert_eq!(job.counted(), doubled.collect());
}

/// The markers at the broker are the old checkpoint's, not the new one's.
#[test]
fn a_new_checkpoint_under_the_same_name_writes_to_kafka_anew() {
    let job = WordJob::new("anew-kafka");
    job.send(40);
    let sink = kafka().unique_topic("anew-sink", 2).unwrap();
    let application = Application::new(TESTJOB, job.folder())
        .unwrap()
        .args(["--brokers", kafka().bootstrap(), "--topic", job.topic()])
        .args(["--starting-offsets", "earliest", "--output-topic", &sink])
        .args(["--checkpoint".to_owned(), text(&job.checkpoint())])
        .args(["--batch-interval", "200ms"])
        .conf("parallelism", 2)
        .conf("checkpoint.fsync", false);
    let words: u64 = job.expected().values().sum();
    let written = || -> u64 {
        let records = kafka()
            .consume_all(&sink, Isolation::ReadCommitted)
            .unwrap();
        let counts = records.iter().map(|record| record.text());
        counts
            .map(|count| count.trim().parse::<u64>().unwrap())
            .sum()
    };
    for times in [1, 2] {
        let cluster = application.start(1).unwrap();
        wait_until(SOON, "all words in the topic", || {
            written() >= times * words
        })
        .unwrap();
        assert_eq!(cluster.stop().unwrap(), Some(0));
        assert_eq!(written(), times * words);
        fs::remove_dir_all(job.checkpoint()).unwrap();
    }
}

#[test]
fn another_build_goes_on_from_the_checkpoint() {
    let job = WordJob::new("rebuilt");
    job.send(60);
    let application =
        in_small_batches(&job).failpoint("driver.put.before@kind=commits,number=1=pause");
    let cluster = application.start(1).unwrap();
    cluster.wait_failpoint("driver.put.before").unwrap();
    cluster.driver.process.kill().unwrap();
    for pid in cluster.executors() {
        cluster.kill_executor(pid).unwrap();
    }
    job.send(20);
    let rebuilt = application.with_program(rebuilt(&job));
    let before = fs::read_to_string(job.checkpoint().join("offsets").join(format!("{:020}", 1)));
    let cluster = rebuilt.start(1).unwrap();
    job.wait_counted();
    let build = cluster.driver.rest("application").unwrap()["build_id"].clone();
    let build = build.as_str().unwrap().to_owned();
    assert!(!before.unwrap().contains(&build), "it is another build");
    job.finish(cluster);
}

/// The same program with another build id.
pub(crate) fn rebuilt(job: &WordJob) -> std::path::PathBuf {
    let folder = job.folder().join("rebuilt");
    fs::create_dir_all(&folder).unwrap();
    let program = folder.join("testjob");
    let mut bytes = fs::read(TESTJOB).unwrap();
    bytes.push(0);
    fs::write(&program, bytes).unwrap();
    fs::set_permissions(&program, fs::metadata(TESTJOB).unwrap().permissions()).unwrap();
    program
}

#[test]
fn a_killed_driver_of_local_cluster_leaves_no_executor_behind() {
    let job = WordJob::new("orphans");
    job.send(20);
    let application = job.application().master("local-cluster[2,1]");
    let cluster = application.start(0).unwrap();
    assert_eq!(cluster.driver.wait_ready().unwrap().executors.len(), 2);
    wait_executors(&cluster, 2);
    cluster.driver.process.kill().unwrap();
    application.assert_nothing_left().unwrap();
    job.send(20);
    let cluster = application.start(0).unwrap();
    job.finish(cluster);
}

#[test]
fn a_killed_driver_of_local_cluster_leaves_none_in_mid_task_either() {
    let job = WordJob::new("orphans-busy");
    job.send(20);
    let application = job
        .application()
        .master("local-cluster[2,1]")
        .failpoint("executor.task.start@batch=0=pause");
    let cluster = application.start(0).unwrap();
    cluster.wait_failpoint("executor.task.start").unwrap();
    cluster.driver.process.signal(Signal::KILL).unwrap();
    application.assert_nothing_left().unwrap();
    let cluster = application.start(0).unwrap();
    job.finish(cluster);
}
