//! Executors that are killed, at points that differ in what is lost with them.

use millstream_integration_tests::cluster::{Application, Reached};

use super::scene::{Output, Scene, counter, executor_at, reruns, wait_connected};

/// Kills the executor that gets to `point` first.
fn killed_at(name: &str, point: &str) {
    let scene = Scene::new(name);
    let output = scene.files();
    let application = scene.application("wordcount", &output);
    kill_executor_of(application, &scene, &output, point);
}

/// The same with an application of any kind.
pub(crate) fn kill_executor_of(
    application: Application,
    scene: &Scene,
    output: &Output,
    point: &str,
) {
    let application = application.failpoint(&format!("{point}=pause"));
    let cluster = application.start(2).unwrap();
    wait_connected(&cluster, &cluster.executors());
    scene.send(2_000);

    let victim = executor_at(&cluster, point);
    scene.send(200);
    cluster.kill_executor(victim).unwrap();

    scene.wait_whole(&cluster, output, 1);
    assert!(reruns(&cluster) > 0, "nothing ran again");
    scene.finish(cluster, output, 1);
}

#[test]
fn killed_while_mapping() {
    killed_at("mapping", "executor.map.writing");
}

#[test]
fn killed_while_serving_blocks() {
    killed_at("serving", "executor.fetch.serving");
}

#[test]
fn killed_while_staging_files() {
    killed_at("staging", "sink.files.before_finish");
}

/// The one executor with the rows dies while a function on the driver is about to read them.
#[test]
fn killed_while_a_function_on_the_driver_reads() {
    let scene = Scene::new("callback");
    let output = scene.files();
    let cluster = scene
        .application("callback", &output)
        .failpoint("job.callback.before_read=pause")
        .start(1)
        .unwrap();
    wait_connected(&cluster, &cluster.executors());
    scene.send(2_000);

    let at = cluster.wait_failpoint("job.callback.before_read").unwrap();
    assert_eq!(at, Reached::Driver);
    let [holder] = cluster.executors()[..] else {
        panic!("one executor was started");
    };
    cluster.add_executor().unwrap();
    wait_connected(&cluster, &cluster.executors());
    cluster.kill_executor(holder).unwrap();
    scene.send(200);
    cluster
        .application
        .release("job.callback.before_read")
        .unwrap();

    scene.wait_whole(&cluster, &output, 1);
    assert!(reruns(&cluster) > 0, "nothing ran again");
    scene.finish(cluster, &output, 1);
}

#[test]
fn all_killed_and_new_ones_started() {
    let scene = Scene::new("all-killed");
    let output = scene.files();
    let application = scene
        .application("wordcount", &output)
        .failpoint("executor.task.before_report@stage=1=pause");
    let cluster = application.start(2).unwrap();
    wait_connected(&cluster, &cluster.executors());
    scene.send(2_000);

    executor_at(&cluster, "executor.task.before_report");
    for executor in cluster.executors() {
        cluster.kill_executor(executor).unwrap();
    }
    scene.send(200);
    for _ in 0..2 {
        cluster.add_executor().unwrap();
    }

    scene.wait_whole(&cluster, &output, 1);
    let maps_again = counter(&cluster, "millstream_driver_stage_reruns_total");
    assert!(maps_again > 0, "the lost blocks were not made again");
    scene.finish(cluster, &output, 1);
}
