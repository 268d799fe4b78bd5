//! Faults around the commit of the Kafka sink's transactions, and of the broker itself.

use millstream_integration_tests::kafka::{Isolation, KafkaBroker, Stop};

use super::scene::{Output, Scene, executor_at, reruns, said, wait_connected};

/// What a task says that finds its rows written by an earlier attempt.
const WRITTEN: &str = "the rows of this batch are in Kafka already";

/// Kills the executor at the point; gives whether a later attempt met its marker, and how many records were sent in vain.
fn killed_at(point: &str, job: &str, times: u64) -> (bool, usize) {
    let scene = Scene::new("kafka-output");
    let output = scene.topic();
    let application = scene
        .application(job, &output)
        .failpoint(&format!("{point}=pause"));
    let cluster = application.start(2).unwrap();
    wait_connected(&cluster, &cluster.executors());
    scene.send(2_000);

    let victim = executor_at(&cluster, point);
    scene.send(200);
    cluster.kill_executor(victim).unwrap();

    scene.wait_whole(&cluster, &output, times);
    assert!(reruns(&cluster) > 0, "nothing ran again");
    let met = cluster
        .executors()
        .iter()
        .any(|executor| said(&cluster, *executor, WRITTEN));
    scene.finish(cluster, &output, times);
    let Output::Topic(topic) = &output else {
        panic!("a topic was asked for");
    };
    let (seen, _) = scene.records(topic, Isolation::ReadCommitted);
    let (sent, _) = scene.records(topic, Isolation::ReadUncommitted);
    (met, sent - seen)
}

#[test]
fn killed_before_the_commit() {
    let (_, in_vain) = killed_at("sink.kafka.before_commit", "wordcount", 1);
    assert!(in_vain > 0, "the killed attempt had sent nothing");
}

#[test]
fn killed_after_the_commit() {
    let (met, _) = killed_at("sink.kafka.after_commit", "wordcount", 1);
    assert!(met, "the second attempt did not look at the marker");
}

#[test]
fn two_outputs_to_one_topic_keep_apart() {
    let (met, _) = killed_at("sink.kafka.after_commit", "two-outputs", 2);
    assert!(met, "the second attempt did not look at the marker");
}

#[test]
fn broker_restarted_in_mid_batch() {
    let broker = KafkaBroker::start().unwrap();
    let scene = Scene::on("broker", broker.client());
    let output = scene.topic();
    let application = scene
        .application("wordcount", &output)
        .failpoint("sink.kafka.before_commit=pause");
    let cluster = application.start(2).unwrap();
    wait_connected(&cluster, &cluster.executors());
    scene.send(2_000);

    executor_at(&cluster, "sink.kafka.before_commit");
    broker.stop(Stop::Kill).unwrap();
    application.release("sink.kafka.before_commit").unwrap();
    broker.start_again().unwrap();
    scene.send(200);

    scene.finish(cluster, &output, 1);
}
