//! A driver is stopped, a second one takes its checkpoint over, and the first goes on: it must exit with code 3 and change nothing.

use std::{collections::BTreeMap, path::PathBuf};

use millstream_integration_tests::{
    cluster::{Application, Driver},
    process::{ChildProcess, Signal},
    wait::wait_until,
};

use crate::word_job::{SOON, WordJob, wait_says};

/// The second driver, on a port of its own, with an executor of its own.
pub(crate) struct Second {
    pub(crate) driver: Driver,
    executor: ChildProcess,
}

impl Second {
    pub(crate) fn start(application: &Application) -> Self {
        let driver = application.start_driver_on(0).unwrap();
        let address = driver.wait_ready().unwrap().driver.unwrap();
        let executor = application.start_executor_for(&address).unwrap();
        Self { driver, executor }
    }

    fn newest_batch(&self) -> u64 {
        let batches = self.driver.rest("batches").unwrap();
        batches[0]["batch"].as_u64().unwrap_or(0)
    }

    pub(crate) fn stop(&self) {
        assert_eq!(self.driver.stop().unwrap(), Some(0));
        self.executor.signal(Signal::TERM).unwrap();
        self.executor.wait_exit(SOON).unwrap();
    }
}

/// The files of output and checkpoint, but for the empty marks of publishing: one that was purged may come back, which nobody reads.
fn lasting(job: &WordJob) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = job.files();
    files.retain(|path, _| {
        path.extension()
            .is_none_or(|extension| extension != "published")
    });
    files
}

/// Lets a driver that was stopped go on: it ends as one that was superseded.
fn go_on_superseded(driver: &ChildProcess) {
    driver.signal(Signal::CONT).unwrap();
    let status = driver.wait_exit(SOON).unwrap();
    assert_eq!(status.code(), Some(3), "{}", driver.output().tail());
}

/// Stops the first driver at `point`, lets a second one do all there is, then lets the first go on.
fn take_over(name: &str, point: &str) {
    take_over_job(&WordJob::new(name), point);
}

/// The same with a job of any place.
pub(crate) fn take_over_job(job: &WordJob, point: &str) {
    job.send(60);
    let application = job
        .application()
        .conf("kafka.max_rate_per_partition", 50)
        .failpoint(&format!("{point}=pause"));
    let first = application.start(1).unwrap();
    let short = point.split('@').next().unwrap();
    first.wait_failpoint(short).unwrap();
    first.driver.process.signal(Signal::STOP).unwrap();

    let second = Second::start(&application);
    job.send(20);
    job.wait_counted();
    second.stop();
    job.check();
    let left = lasting(job);

    application.release(short).unwrap();
    go_on_superseded(&first.driver.process);
    wait_says(
        &first.driver.process,
        &["another driver took over", "stop one of the two"],
    );
    let found = lasting(job);
    let changed: Vec<_> = found
        .iter()
        .filter(|(path, content)| left.get(*path) != Some(*content))
        .map(|(path, _)| path)
        .chain(left.keys().filter(|path| !found.contains_key(*path)))
        .collect();
    assert!(changed.is_empty(), "the first driver changed {changed:?}");
    drop(first);

    let third = application.start(1).unwrap();
    job.send(10);
    job.finish(third);
}

#[test]
fn a_driver_stopped_after_its_offsets_entry_is_superseded() {
    take_over("zombie-offsets", "driver.put.after@kind=offsets,number=1");
}

#[test]
fn a_driver_stopped_before_its_commit_is_superseded() {
    take_over("zombie-commit", "driver.put.before@kind=commits,number=1");
}

#[test]
fn a_driver_stopped_between_commit_and_publish_is_superseded() {
    take_over("zombie-committed", "driver.put.after@kind=commits,number=1");
}

#[test]
fn a_driver_stopped_in_mid_publish_is_superseded() {
    take_over("zombie-publish", "sink.files.publish@batch=1,done=1");
}

#[test]
fn a_driver_stopped_before_an_offsets_entry_is_superseded() {
    take_over("zombie-next", "driver.put.before@kind=offsets,number=2");
}

/// The second driver purges past the commit that the first then wins; it is a stray entry to whoever comes after them.
#[test]
fn a_commit_won_after_it_was_purged_is_no_ones() {
    let job = WordJob::new("zombie-purged");
    job.send(60);
    let application = job
        .application()
        .conf("kafka.max_rate_per_partition", 50)
        .conf("checkpoint.retained_batches", 2)
        .failpoint("driver.put.before@kind=commits,number=1=pause");
    let first = application.start(1).unwrap();
    first.wait_failpoint("driver.put.before").unwrap();
    first.driver.process.signal(Signal::STOP).unwrap();

    let second = Second::start(&application);
    job.wait_counted();
    let commit = job.checkpoint().join("commits").join(format!("{:020}", 1));
    wait_until(SOON, "batch 1 to be purged", || {
        second.newest_batch() > 4 && !commit.exists()
    })
    .unwrap();
    second.driver.process.kill().unwrap();
    application.release("driver.put.before").unwrap();
    go_on_superseded(&first.driver.process);
    assert!(commit.exists(), "the first driver did not win its commit");
    drop((first, second));

    job.send(20);
    let third = application.start(1).unwrap();
    job.finish(third);
    assert!(!commit.exists(), "the stray commit is still there");
}
