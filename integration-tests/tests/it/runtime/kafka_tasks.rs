//! Where Kafka tasks run, what they find read ahead, and partitions that come later.

use millstream_integration_tests::{
    cluster::{Application, PATIENCE},
    kafka::KafkaBroker,
    wait::wait_until,
};

use super::{Place, of_driver, of_executors, start, stop};

const PARTITIONS: i32 = 4;

fn application(place: &Place, topic: &str) -> Application {
    let output = place.path("out");
    let brokers = KafkaBroker::shared().bootstrap();
    Application::new(env!("CARGO_BIN_EXE_testjob"), place.folder.path())
        .unwrap()
        .args(["--job", "wordcount", "--brokers", brokers, "--topic", topic])
        .args(["--output", output.to_str().unwrap()])
        .conf("parallelism", 4)
        .conf("stop.timeout", "20s")
}

#[test]
fn in_steady_state_kafka_tasks_run_at_their_consumers_and_find_their_ranges_read_ahead() {
    let kafka = KafkaBroker::shared().client();
    let topic = kafka.unique_topic("locality", PARTITIONS).unwrap();
    let place = Place::new();
    let application = application(&place, &topic)
        .conf("batch.interval", "1s")
        // Longer than anything keeps a slot busy here, whatever else the machine does.
        .conf("scheduler.locality_wait", "5s");
    let cluster = start(&application, 2);
    let lines: Vec<String> = (0..50).map(|line| format!("word-{line} and")).collect();
    let mut sent = 0;
    let mut round = || {
        for partition in 0..PARTITIONS {
            kafka.produce_lines(&topic, partition, &lines).unwrap();
        }
        sent += lines.len() as u64 * PARTITIONS as u64;
        wait_until(PATIENCE, "what was sent to be committed", || {
            super::assert_running(&cluster);
            of_driver(&cluster, "millstream_driver_input_records_total", "") >= sent
        })
        .unwrap();
    };
    let figures = || {
        let ranges = "millstream_executor_kafka_ranges_total";
        let locality = "millstream_driver_task_locality_total";
        [
            of_executors(&cluster, ranges, "buffered"),
            of_executors(&cluster, ranges, "awaited"),
            of_driver(&cluster, locality, "preferred"),
            of_driver(&cluster, locality, "other"),
        ]
    };
    // The consumers are placed and positioned.
    for _ in 0..2 {
        round();
    }
    let before = figures();
    for _ in 0..10 {
        round();
    }
    let after = figures();
    let records = of_executors(&cluster, "millstream_executor_kafka_records_total", "");
    stop(cluster);

    let [buffered, awaited, preferred, other] =
        std::array::from_fn(|place| after[place] - before[place]);
    println!(
        "ranges: {buffered} buffered, {awaited} awaited; tasks: {preferred} preferred, {other} other"
    );
    assert!(buffered + awaited >= 40, "{buffered} + {awaited} ranges");
    assert!(
        buffered * 100 >= (buffered + awaited) * 95,
        "{buffered} buffered, {awaited} awaited"
    );
    assert!(preferred >= 40);
    assert!(
        preferred * 100 >= (preferred + other) * 95,
        "{preferred} preferred, {other} other"
    );
    assert_eq!(records, sent);
    assert_eq!(place.counts()["and"], sent);
}

#[test]
fn partitions_added_at_run_time_are_counted() {
    let kafka = KafkaBroker::shared().client();
    let topic = kafka.unique_topic("growing", 1).unwrap();
    let place = Place::new();
    let application = application(&place, &topic).conf("batch.interval", "300ms");
    let cluster = start(&application, 1);
    let wait_count = |count: u64| {
        wait_until(PATIENCE, "the words to be counted", || {
            super::assert_running(&cluster);
            place.counts().get("word") == Some(&count)
        })
        .unwrap();
    };
    kafka.produce_lines(&topic, 0, ["word", "word"]).unwrap();
    wait_count(2);
    kafka.add_partitions(&topic, 3).unwrap();
    for partition in 0..3 {
        kafka.produce_lines(&topic, partition, ["word"]).unwrap();
    }
    wait_count(5);
    stop(cluster);
    assert_eq!(place.counts()["word"], 5);
}
