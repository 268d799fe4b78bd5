//! Kills, with TLS and the secret on.

use millstream_integration_tests::{certificates::Authority, cluster::Reached};

use super::node;
use crate::{
    faults::{executors::kill_executor_of, scene::Scene},
    word_job::{WordJob, wait_executors},
};

#[test]
fn an_executor_is_killed_while_it_serves_blocks() {
    let scene = Scene::new("tls-serving");
    let output = scene.files();
    let authority = Authority::new(scene.folder(), "authority").unwrap();
    let application = scene
        .application("wordcount", &output)
        .tls(&authority.node("node").unwrap());
    kill_executor_of(application, &scene, &output, "executor.fetch.serving");
}

#[test]
fn the_driver_is_killed_before_a_commit() {
    let job = WordJob::new("tls-driver");
    job.send(60);
    let application = job
        .application()
        .conf("kafka.max_rate_per_partition", 50)
        .tls(&node(&job))
        .failpoint("driver.put.before@kind=commits,number=1=pause");
    let mut cluster = application.start(2).unwrap();
    let reached = cluster.wait_failpoint("driver.put.before").unwrap();
    assert_eq!(reached, Reached::Driver);
    job.send(30);
    cluster.restart_driver().unwrap();
    wait_executors(&cluster, 2);
    job.send(10);
    job.finish(cluster);
}

#[test]
fn executors_of_local_cluster_use_the_drivers_files() {
    let job = WordJob::new("tls-local-cluster");
    job.send(40);
    let files = node(&job);
    let cluster = job
        .application()
        .master("local-cluster[2,1]")
        .tls(&files)
        .start(0)
        .unwrap();
    let executors = wait_executors(&cluster, 2);
    // A port with TLS says nothing to one that has no certificate.
    let address = executors[0]["block_address"].as_str().unwrap();
    let answer = super::ask_without_certificate(&files, address.parse().unwrap(), "hello");
    assert!(answer.is_err(), "it was let in: {answer:?}");
    job.finish(cluster);
}
