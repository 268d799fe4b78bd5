//! Signals: what is queued is finished, or left to the next start, and the exit code says which.

use std::fs;

use millstream_integration_tests::{
    cluster::{Application, Cluster, Reached},
    process::{ChildProcess, Signal},
    wait::wait_until,
};

use rustix::process::{Pid, kill_process};

use crate::word_job::{SOON, TESTJOB, WordJob, assert_ends, wait_executors};

/// A cluster whose first batch stands still in a task, with more batches queued behind it that hold all that was sent.
fn held_up(job: &WordJob, change: impl FnOnce(Application) -> Application) -> Cluster {
    job.send(40);
    let application = change(job.application());
    let cluster = application
        .failpoint("executor.task.before_report@batch=0=pause")
        .start(1)
        .unwrap();
    cluster
        .wait_failpoint("executor.task.before_report")
        .unwrap();
    job.send(40);
    let queued = || {
        let shown = cluster.driver.rest("application").unwrap();
        shown["queries"][0]["queued_batches"].as_u64().unwrap()
    };
    let more = queued() + 3;
    wait_until(SOON, "batches in the queue", || queued() >= more).unwrap();
    cluster
}

#[test]
fn sigterm_finishes_the_queued_batches() {
    for signal in [Signal::TERM, Signal::INT] {
        let job = WordJob::new("graceful");
        let cluster = held_up(&job, |application| application);
        cluster.driver.process.signal(signal).unwrap();
        let driver = &cluster.driver.process;
        driver
            .wait_for_line("stopping", SOON, |line| line.text.contains("stopping"))
            .unwrap();
        cluster
            .application
            .release("executor.task.before_report")
            .unwrap();
        assert_eq!(driver.wait_exit(SOON).unwrap().code(), Some(0));
        // Nothing runs any more, and all that had been planned is there.
        job.check();
    }
}

/// Tells the driver to stop, and once it does so, to stop at once.
fn stop_at_once(driver: &ChildProcess) {
    driver.signal(Signal::TERM).unwrap();
    let first = driver
        .wait_for_line("stopping", SOON, |line| line.text.contains("stopping"))
        .unwrap();
    driver.signal(Signal::INT).unwrap();
    driver
        .wait_for_line_from(first.number + 1, "stopping at once", SOON, |line| {
            line.text.contains("stopping")
        })
        .unwrap();
}

/// To an executor that its driver started.
fn send(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

/// The test job, but what it and its executors write to standard error is refused, as by a disk that is full or a reader that is gone.
fn without_log(job: &WordJob) -> Application {
    let program = job.folder().join("silent");
    fs::write(
        &program,
        format!("#!/bin/sh\nexec '{TESTJOB}' \"$@\" 2>/dev/full\n"),
    )
    .unwrap();
    fs::set_permissions(&program, fs::metadata(TESTJOB).unwrap().permissions()).unwrap();
    let application = job.application().with_program(program);
    application.master("local-cluster[2,1]")
}

#[test]
fn a_log_that_can_not_be_written_changes_nothing() {
    let job = WordJob::new("no-log");
    job.send(20);
    let application = without_log(&job);
    let cluster = application.start(0).unwrap();
    wait_executors(&cluster, 2);
    let executors = cluster.driver.wait_ready().unwrap().executors;
    send(executors[0], Signal::KILL);
    job.send(20);
    job.wait_counted();
    let driver = &cluster.driver.process;
    driver.signal(Signal::TERM).unwrap();
    assert_eq!(driver.wait_exit(SOON).unwrap().code(), Some(0));
    application.assert_nothing_left().unwrap();
    job.check();

    let cluster = application.start(0).unwrap();
    wait_executors(&cluster, 2);
    cluster.driver.process.kill().unwrap();
    application.assert_nothing_left().unwrap();
    let refused = application.args(["--conf", "task.max_failures=none"]);
    let driver = refused.start_driver().unwrap();
    assert_eq!(driver.process.wait_exit(SOON).unwrap().code(), Some(2));
}

#[test]
fn executors_that_stand_still_do_not_hold_up_a_second_signal() {
    let job = WordJob::new("still");
    let application = job.application().master("local-cluster[2,1]");
    let application = application.conf("stop.timeout", "1h");
    job.send(20);
    let cluster = application.start(0).unwrap();
    wait_executors(&cluster, 2);
    let executors = cluster.driver.wait_ready().unwrap().executors;
    for pid in &executors {
        send(*pid, Signal::STOP);
    }
    let driver = &cluster.driver.process;
    stop_at_once(driver);
    driver.wait_exit(SOON).unwrap();
    application.assert_nothing_left().unwrap();
}

/// Starts the driver anew, which finishes the batch that it left.
fn finish_anew(job: &WordJob, mut cluster: Cluster) {
    cluster
        .application
        .release("executor.task.before_report")
        .unwrap();
    cluster.restart_driver().unwrap();
    // The first one was told to shut down with its driver.
    cluster.add_executor().unwrap();
    job.finish(cluster);
}

#[test]
fn a_second_signal_stops_at_once() {
    let job = WordJob::new("at-once");
    let cluster = held_up(&job, |application| application.conf("stop.timeout", "1h"));
    let driver = &cluster.driver.process;
    stop_at_once(driver);
    assert_ends(driver, 4, &["uncommitted", "the next start runs it again"]);
    assert!(job.counted().is_empty());
    finish_anew(&job, cluster);
}

#[test]
fn past_the_stop_timeout_the_exit_code_says_that_a_batch_is_left() {
    let job = WordJob::new("stop-timeout");
    let cluster = held_up(&job, |application| {
        application.conf("stop.timeout", "500ms")
    });
    let driver = &cluster.driver.process;
    driver.signal(Signal::TERM).unwrap();
    assert_ends(driver, 4, &["uncommitted", "the next start runs it again"]);
    finish_anew(&job, cluster);
}

/// The driver stands still at `point` when it is told to stop, and says `left`.
fn stopped_at(name: &str, point: &str, left: &[&str]) {
    let job = WordJob::new(name);
    job.send(40);
    let mut cluster = job
        .application()
        .conf("stop.timeout", "500ms")
        .failpoint(&format!("{point}=pause"))
        .start(1)
        .unwrap();
    let short = point.split('@').next().unwrap();
    assert_eq!(cluster.wait_failpoint(short).unwrap(), Reached::Driver);
    let driver = &cluster.driver.process;
    driver.signal(Signal::TERM).unwrap();
    assert_ends(driver, 4, left);
    cluster.application.release(short).unwrap();
    cluster.restart_driver().unwrap();
    // The first one was told to shut down with its driver.
    cluster.add_executor().unwrap();
    job.send(40);
    job.finish(cluster);
}

#[test]
fn a_batch_that_could_not_be_begun_is_left_to_the_next_start() {
    let left = [
        "planned batches not begun",
        "the next start takes their input",
    ];
    stopped_at("dropped", "driver.put.before@kind=offsets,number=0", &left);
}

#[test]
fn a_committed_batch_that_could_not_be_published_is_left_to_the_next_start() {
    let left = ["not yet published", "the next start publishes it"];
    stopped_at("unpublished", "sink.files.publish", &left);
}

#[test]
fn an_executor_that_leaves_exits_with_0_and_the_job_goes_on() {
    let job = WordJob::new("leaving");
    job.send(40);
    let cluster = job.application().start(2).unwrap();
    wait_executors(&cluster, 2);
    job.wait_counted();
    let pid = cluster.executors()[0];
    job.send(40);
    cluster.signal_executor(pid, Signal::TERM).unwrap();
    let code = cluster
        .with_executor(pid, |executor| executor.wait_exit(SOON).unwrap().code())
        .unwrap();
    assert_eq!(code, Some(0));
    job.send(40);
    job.wait_counted();
    wait_executors(&cluster, 1);
    let page = cluster.driver.http("/metrics").unwrap();
    let lost = crate::word_job::metric(&page, "millstream_driver_executors_lost_total", "");
    assert_eq!(lost, 0.0, "it left, it was not lost");
    job.finish(cluster);
}

#[test]
fn an_executor_leaves_when_its_running_batch_is_over() {
    let job = WordJob::new("leaving-busy");
    job.send(40);
    let cluster = job
        .application()
        .failpoint("executor.task.before_report@batch=0=pause")
        .start(1)
        .unwrap();
    cluster
        .wait_failpoint("executor.task.before_report")
        .unwrap();
    let pid = cluster.executors()[0];
    cluster.signal_executor(pid, Signal::TERM).unwrap();
    wait_until(SOON, "the driver to know that it leaves", || {
        let shown = cluster.driver.rest("executors").unwrap();
        shown[0]["state"] == "leaving"
    })
    .unwrap();
    cluster
        .application
        .release("executor.task.before_report")
        .unwrap();
    cluster.add_executor().unwrap();
    let code = cluster
        .with_executor(pid, |executor| executor.wait_exit(SOON).unwrap().code())
        .unwrap();
    assert_eq!(code, Some(0));
    job.finish(cluster);
}
