//! Executors that sleep or are cut off for longer than the driver waits, and come back: refused, they register anew, and what they still
//! had in hand changes nothing.

use std::time::Duration;

use millstream_integration_tests::{
    cluster::Cluster, kafka::Isolation, process::Signal, proxy::TcpProxy, wait::wait_until,
};

use super::scene::{
    Output, Scene, executor_at, executor_id, lost_executors, reruns, wait_connected, wait_lost,
    wait_rejoined,
};

/// Stops an executor at the point until another one has written its batch, and lets it go on from there.
fn slept_at(scene: &Scene, output: &Output, point: &str) {
    let application = scene
        .application("wordcount", output)
        .failpoint(&format!("{point}=pause"));
    let cluster = application.start(2).unwrap();
    wait_connected(&cluster, &cluster.executors());
    scene.send(2_000);

    let sleeper = executor_at(&cluster, point);
    let old = executor_id(&cluster, sleeper).expect("it is connected");
    cluster.signal_executor(sleeper, Signal::STOP).unwrap();
    wait_lost(&cluster);
    scene.wait_whole(&cluster, output, 1);
    assert!(reruns(&cluster) > 0, "nothing ran again");

    application.release(point).unwrap();
    cluster.signal_executor(sleeper, Signal::CONT).unwrap();
    wait_rejoined(&cluster, sleeper, &old);
    scene.send(400);
    scene.finish(cluster, output, 1);
}

#[test]
fn late_transaction_changes_nothing() {
    let scene = Scene::new("late-transaction");
    let output = scene.topic();
    slept_at(&scene, &output, "sink.kafka.before_commit");
    let Output::Topic(topic) = &output else {
        panic!("a topic was asked for");
    };
    let (seen, _) = scene.records(topic, Isolation::ReadCommitted);
    let (sent, _) = scene.records(topic, Isolation::ReadUncommitted);
    assert!(sent > seen, "the sleeper had sent nothing");
}

#[test]
fn late_files_change_nothing() {
    let scene = Scene::new("late-files");
    let output = scene.files();
    slept_at(&scene, &output, "sink.files.before_finish");
}

/// A driver with two executors, each behind a proxy of its own.
fn proxied(scene: &Scene, output: &Output, point: &str) -> (Cluster, Vec<(u32, TcpProxy)>) {
    let application = scene
        .application("wordcount", output)
        .conf("executor.reconnect_timeout", "2s")
        .failpoint(&format!("{point}=pause"));
    let cluster = application.start(0).unwrap();
    let driver = cluster.driver.wait_ready().unwrap().driver.unwrap();
    let executors: Vec<_> = (0..2)
        .map(|_| {
            let proxy = TcpProxy::start(driver.parse().unwrap()).unwrap();
            let address = proxy.address().to_string();
            (cluster.add_executor_for(&address).unwrap(), proxy)
        })
        .collect();
    wait_connected(&cluster, &cluster.executors());
    (cluster, executors)
}

/// The executor that gets to the point first, the id under which it is connected, and its proxy.
fn lonely_at<'e>(
    cluster: &Cluster,
    executors: &'e [(u32, TcpProxy)],
    point: &str,
) -> (u32, String, &'e TcpProxy) {
    let lonely = executor_at(cluster, point);
    let id = executor_id(cluster, lonely).expect("it is connected");
    let (_, proxy) = executors
        .iter()
        .find(|(pid, _)| *pid == lonely)
        .expect("one of the two");
    (lonely, id, proxy)
}

#[test]
fn cut_off_with_a_report_in_hand() {
    let scene = Scene::new("cut-off");
    let output = scene.topic();
    let point = "sink.kafka.after_commit";
    let (cluster, executors) = proxied(&scene, &output, point);
    scene.send(2_000);

    let (lonely, old, proxy) = lonely_at(&cluster, &executors, point);
    proxy.stall();
    cluster.application.release(point).unwrap();
    wait_lost(&cluster);
    scene.wait_whole(&cluster, &output, 1);
    assert!(reruns(&cluster) > 0, "nothing ran again");

    proxy.heal();
    wait_rejoined(&cluster, lonely, &old);
    scene.send(400);
    scene.finish(cluster, &output, 1);
}

#[test]
fn short_cut_runs_nothing_again() {
    let scene = Scene::new("short-cut");
    let output = scene.files();
    let point = "executor.task.before_report";
    let (cluster, executors) = proxied(&scene, &output, point);
    scene.send(2_000);

    let (lonely, old, proxy) = lonely_at(&cluster, &executors, point);
    let before = proxy.accepted();
    proxy.cut();
    wait_until(
        Duration::from_secs(10),
        "the executor to dial again",
        || proxy.accepted() > before,
    )
    .unwrap();
    proxy.heal();
    cluster.application.release(point).unwrap();

    scene.wait_whole(&cluster, &output, 1);
    wait_connected(&cluster, &[lonely]);
    assert_eq!(executor_id(&cluster, lonely), Some(old));
    assert_eq!((lost_executors(&cluster), reruns(&cluster)), (0, 0));
    scene.finish(cluster, &output, 1);
}
