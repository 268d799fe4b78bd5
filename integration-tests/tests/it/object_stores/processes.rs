//! Executors and drivers that are killed or stopped, with checkpoint and output on the object store.

use millstream_integration_tests::{cluster::Reached, minio::Minio, wait::wait_until};

use crate::{
    driver_faults::{kill_and_restart_after, kill_and_restart_job, take_over_job},
    word_job::{SOON, WordJob, wait_executors},
};

/// Kills the executor that gets to the point first.
fn kill_executor_at(name: &str, point: &str) {
    let job = WordJob::on_objects(name);
    let application = job.application().failpoint(&format!("{point}=pause"));
    let cluster = application.start(2).unwrap();
    wait_executors(&cluster, 2);
    job.send(60);
    let Reached::Executor(pid) = cluster.wait_failpoint(point).unwrap() else {
        panic!("the driver was at {point}");
    };
    job.send(10);
    cluster.kill_executor(pid).unwrap();
    job.finish(cluster);
}

#[test]
fn an_executor_killed_before_it_stages_loses_nothing() {
    kill_executor_at("s3-staging", "sink.files.before_finish");
}

#[test]
fn an_executor_killed_with_its_upload_open_loses_nothing() {
    kill_executor_at("s3-staged", "sink.files.after_finish");
}

#[test]
fn uploads_of_a_killed_executor_are_aborted() {
    let server = Minio::shared();
    let job = WordJob::on_objects("s3-swept");
    let point = "sink.files.after_finish";
    let application = job.application().failpoint(&format!("{point}=pause"));
    let cluster = application.start(2).unwrap();
    wait_executors(&cluster, 2);
    job.send(60);
    let Reached::Executor(pid) = cluster.wait_failpoint(point).unwrap() else {
        panic!("the driver was at {point}");
    };
    let open = open_uploads(&job);
    assert!(!open.is_empty());
    cluster.kill_executor(pid).unwrap();
    job.wait_counted();
    let is_closed = |(key, upload): &(String, String)| !server.upload_is_open(key, upload);
    wait_until(SOON, "the uploads to be completed or aborted", || {
        open.iter().all(is_closed)
    })
    .unwrap();
    job.finish(cluster);
}

/// Key and id of each upload that is noted as open.
fn open_uploads(job: &WordJob) -> Vec<(String, String)> {
    let notes = job.files().into_iter().filter(|(path, content)| {
        path.to_string_lossy().contains("/.staging/") && !content.is_empty()
    });
    let note =
        |content: Vec<u8>| -> serde_json::Value { serde_json::from_slice(&content).unwrap() };
    notes
        .map(|(_, content)| note(content))
        .map(|note| {
            let text = |field: &str| note[field].as_str().unwrap().to_owned();
            (text("key"), text("upload"))
        })
        .collect()
}

#[test]
fn a_driver_killed_after_its_offsets_entry_goes_on_from_it() {
    let job = WordJob::on_objects("s3-offsets");
    kill_and_restart_job(&job, "driver.put.after@kind=offsets,number=1", 0);
}

#[test]
fn a_driver_killed_before_its_commit_runs_the_batch_again() {
    let job = WordJob::on_objects("s3-commit");
    kill_and_restart_job(&job, "driver.put.before@kind=commits,number=1", 0);
}

#[test]
fn a_driver_killed_between_commit_and_publish_publishes() {
    let job = WordJob::on_objects("s3-committed");
    kill_and_restart_job(&job, "driver.put.after@kind=commits,number=1", -1);
}

#[test]
fn a_driver_killed_in_mid_publish_completes_it() {
    let job = WordJob::on_objects("s3-publish");
    // The other upload's completion is under way. MinIO drops the notes of its parts before it makes the object, and gives up in between when the
    // client goes: then nobody can complete it any more.
    let first_is_there = || {
        let made = || job.batches().len() == 2;
        wait_until(SOON, "the first object of the batch", made).unwrap();
    };
    let point = "sink.files.publish@batch=1,done=1";
    kill_and_restart_after(&job, point, 0, first_is_there);
}

#[test]
fn a_driver_killed_before_the_success_object_puts_it() {
    let job = WordJob::on_objects("s3-success");
    kill_and_restart_job(&job, "sink.files.before_success@batch=1", 0);
}

#[test]
fn a_driver_stopped_before_its_commit_is_superseded() {
    let job = WordJob::on_objects("s3-zombie-commit");
    take_over_job(&job, "driver.put.before@kind=commits,number=1");
}

#[test]
fn a_driver_stopped_in_mid_publish_is_superseded() {
    let job = WordJob::on_objects("s3-zombie-publish");
    take_over_job(&job, "sink.files.publish@batch=1,done=1");
}
