//! A job whose rows differ from run to run must stop rather than mix two runs.

use millstream_integration_tests::{
    cluster::{Cluster, PATIENCE, Reached},
    process::Stream,
    wait::wait_until,
};

use super::scene::{Output, PARTITIONS, Scene, counter, executor_at, wait_connected};

/// The whole input is one batch, which begins when both executors are there: each has blocks that the other reads.
fn start(scene: &Scene, output: &Output, point: &str) -> Cluster {
    scene.send(400);
    let begin = "driver.put.before";
    let application = scene
        .application("random", output)
        .failpoint(&format!("{begin}@kind=offsets=pause"))
        .failpoint(&format!("{point}=pause"));
    let cluster = application.start(2).unwrap();
    assert_eq!(cluster.wait_failpoint(begin).unwrap(), Reached::Driver);
    wait_connected(&cluster, &cluster.executors());
    application.release(begin).unwrap();
    cluster
}

/// Kills the executor, and waits for the query to stop with the code.
fn kill_and_expect_stop(cluster: &Cluster, victim: u32) {
    cluster.kill_executor(victim).unwrap();
    let driver = &cluster.driver.process;
    let status = driver.wait_exit(PATIENCE).unwrap();
    let said = driver.output().text(Stream::Err);
    assert!(!status.success(), "{said}");
    assert!(said.contains("operator.nondeterministic"), "{said}");
    for executor in cluster.executors() {
        cluster.kill_executor(executor).unwrap();
    }
    cluster.application.assert_nothing_left().unwrap();
}

#[test]
fn killed_between_two_sink_partitions() {
    let scene = Scene::new("random-sink");
    let output = scene.topic();
    let point = "sink.kafka.after_commit";
    let cluster = start(&scene, &output, point);
    let victim = executor_at(&cluster, point);
    kill_and_expect_stop(&cluster, victim);
}

#[test]
fn map_run_again_after_a_reader_finished() {
    let scene = Scene::new("random-map");
    let output = scene.files();
    let point = "sink.files.before_finish";
    let cluster = start(&scene, &output, point);
    let victim = executor_at(&cluster, point);
    wait_until(PATIENCE, "another reader to finish", || {
        counter(&cluster, "millstream_driver_tasks_total") > PARTITIONS as u64
    })
    .unwrap();
    kill_and_expect_stop(&cluster, victim);
}
