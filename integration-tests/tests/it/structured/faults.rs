//! Executors and drivers are killed in mid-batch; the table comes out right, and no state is counted twice.

use std::{ffi::OsStr, path::PathBuf};

use millstream_integration_tests::cluster::{Application, Cluster, Reached};

use super::job::{Job, printed, wait_printed, wait_table};
use crate::faults::scene::{executor_at, wait_connected};

/// Batches that there are to do while state is merged.
const BATCHES: usize = 100;

fn finish(job: &Job, cluster: Cluster) {
    wait_table(&cluster, &job.expected());
    let batches: Vec<u64> = printed(&cluster)
        .iter()
        .map(|printed| printed.batch)
        .collect();
    assert!(batches.is_sorted(), "{batches:?}");
    assert_eq!(cluster.stop().unwrap(), Some(0));
}

/// Kills the executor that gets to `point` first, once there is state.
fn executor_killed_at(point: &str) {
    let job = Job::new();
    let application = job.application(&[]).failpoint(&format!("{point}=pause"));
    let cluster = application.start(2).unwrap();
    wait_connected(&cluster, &cluster.executors());
    for _ in 0..3 {
        let before = printed(&cluster).len();
        job.send(300);
        wait_printed(&cluster, before + 1);
    }
    job.send(300);
    let short = point.split('@').next().unwrap();
    let victim = executor_at(&cluster, short);
    job.send(300);
    cluster.kill_executor(victim).unwrap();
    finish(&job, cluster);
}

#[test]
fn an_executor_is_killed_when_its_state_is_written_and_not_yet_reported() {
    executor_killed_at("executor.state.durable@batch=3");
}

#[test]
fn an_executor_is_killed_between_its_state_file_and_the_next() {
    executor_killed_at("executor.state.written@batch=3");
}

#[test]
fn all_executors_are_killed_and_new_ones_restore_the_state() {
    let job = Job::new();
    let application = job
        .application(&[])
        .failpoint("executor.task.before_report@stage=1,batch=2=pause");
    let cluster = application.start(2).unwrap();
    wait_connected(&cluster, &cluster.executors());
    for _ in 0..2 {
        let before = printed(&cluster).len();
        job.send(300);
        wait_printed(&cluster, before + 1);
    }
    job.send(300);
    executor_at(&cluster, "executor.task.before_report");
    for executor in cluster.executors() {
        cluster.kill_executor(executor).unwrap();
    }
    for _ in 0..2 {
        cluster.add_executor().unwrap();
    }
    job.send(300);
    finish(&job, cluster);
}

/// An application that pauses at a point of the first merge that gets there, and its input: so many batches that tasks would wait for merges sooner or later.
/// What a version needed goes soon after it.
fn merging(job: &Job, point: &str) -> Application {
    for _ in 0..BATCHES {
        job.send(40);
    }
    job.application(&["--max-files", "1"])
        .conf("checkpoint.retained_batches", 5)
        .failpoint(&format!("{point}=pause"))
}

/// Files of a merge that no commit names, while an executor waits at a point of it: they show that the merge is not over.
fn unnamed(job: &Job, point: &str) -> Vec<PathBuf> {
    let extensions: &[&str] = match point {
        "executor.state.merged" => &["merging"],
        _ => &["merged", "snapshot"],
    };
    let commits = job.commits();
    let is_unnamed = |path: &PathBuf| {
        let extension = path.extension().and_then(OsStr::to_str);
        let is_merged = extension.is_some_and(|extension| extensions.contains(&extension));
        let name = path.file_name().and_then(OsStr::to_str).unwrap();
        is_merged && !commits.contains(name)
    };
    let files = job.state_files().into_iter();
    files.filter(is_unnamed).collect()
}

/// Starts it, and waits until an executor is at the point, in the midst of the batches.
fn start_merging(
    job: &Job,
    application: &Application,
    point: &str,
) -> (Cluster, u32, Vec<PathBuf>) {
    let cluster = application.start(2).unwrap();
    let merging = executor_at(&cluster, point);
    let files = unnamed(job, point);
    assert!(!files.is_empty(), "no merge is under way");
    (cluster, merging, files)
}

/// The table is whole, batches were left when the process was killed, and state was merged again afterwards.
fn finish_merging(job: &Job, cluster: Cluster, printed_before: usize) {
    assert!(printed_before < BATCHES, "nothing was left to do");
    finish(job, cluster);
    let commits = job.commits();
    let is_merged = [".merged", ".snapshot"]
        .iter()
        .any(|kind| commits.contains(kind));
    assert!(is_merged, "no commit names what was merged");
}

fn executor_killed_merging(point: &str) {
    let job = Job::new();
    let application = merging(&job, point);
    let (cluster, victim, _) = start_merging(&job, &application, point);
    cluster.kill_executor(victim).unwrap();
    let before = printed(&cluster).len();
    finish_merging(&job, cluster, before);
}

/// Kills the driver while an executor is at a point of a merge. That executor goes on once another driver has taken over.
fn driver_killed_merging(point: &str) {
    let job = Job::new();
    let application = merging(&job, point);
    let (mut cluster, merging, files) = start_merging(&job, &application, point);
    cluster.driver.process.kill().unwrap();
    let before = printed(&cluster).len();
    // Nobody went on with the merge meanwhile, and nobody will before it is released.
    for file in &files {
        assert!(file.exists(), "{} is gone", file.display());
    }
    let executors = cluster.executors();
    assert!(executors.contains(&merging));
    cluster.restart_driver().unwrap();
    wait_connected(&cluster, &executors);
    application.release(point).unwrap();
    finish_merging(&job, cluster, before);
}

#[test]
fn an_executor_is_killed_when_it_has_merged_state_that_no_commit_names_yet() {
    executor_killed_merging("executor.state.merged");
}

#[test]
fn an_executor_is_killed_when_it_has_taken_merged_state_into_a_version() {
    executor_killed_merging("executor.state.adopted");
}

#[test]
fn the_driver_is_killed_while_an_executor_has_merged_state_that_no_commit_names_yet() {
    driver_killed_merging("executor.state.merged");
}

#[test]
fn the_driver_is_killed_while_an_executor_takes_merged_state_into_a_version() {
    driver_killed_merging("executor.state.adopted");
}

/// Kills the driver at a point of its second batch and starts it again.
fn driver_killed_at(point: &str) {
    let job = Job::new();
    job.send(300);
    let application = job.application(&[]).failpoint(&format!("{point}=pause"));
    let mut cluster = application.start(2).unwrap();
    wait_printed(&cluster, 1);
    job.send(300);
    let short = point.split('@').next().unwrap();
    assert_eq!(cluster.wait_failpoint(short).unwrap(), Reached::Driver);
    cluster.driver.process.kill().unwrap();
    job.send(300);
    cluster.restart_driver().unwrap();
    finish(&job, cluster);
}

#[test]
fn the_driver_is_killed_before_a_commit() {
    driver_killed_at("driver.put.before@kind=commits,number=1");
}

#[test]
fn the_driver_is_killed_after_a_commit() {
    driver_killed_at("driver.put.after@kind=commits,number=1");
}

#[test]
fn state_files_stay_few() {
    let job = Job::new();
    let application = job
        .application(&["--max-files", "1"])
        .conf("checkpoint.retained_batches", 5)
        .master("local[2]");
    for _ in 0..120 {
        job.send(40);
    }
    let cluster = application.start(0).unwrap();
    wait_table(&cluster, &job.expected());
    assert_eq!(cluster.stop().unwrap(), Some(0));
    let cluster = application.start(0).unwrap();
    job.send(40);
    wait_table(&cluster, &job.expected());
    assert_eq!(cluster.stop().unwrap(), Some(0));
    // Four partitions; the newest of six retained versions lists 64 files at most, however late the merges are, and the others share most of them.
    let files = job.state_files().len();
    assert!(files < 4 * 90, "{files} state files of 120 batches");
}
