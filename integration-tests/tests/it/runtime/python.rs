//! The examples with a real topic: a Python producer, and the Rust one.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::Duration,
};

use millstream_integration_tests::{
    cluster::{Application, PATIENCE},
    installed,
    kafka::{Isolation, KafkaBroker},
    process::{ChildProcess, SpawnOptions},
    wait::wait_until,
};

use super::{Counts, Place, start, stop};
use crate::own_job::{cargo, checkout};

/// An example of the same build profile as this test, built if it isn't.
pub(crate) fn example(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let profile = Path::new(env!("CARGO_BIN_EXE_testjob")).parent().unwrap();
        let mut cargo = cargo(checkout(), "build");
        // With the whole workspace's features nothing is compiled twice.
        cargo.args([
            "--workspace",
            "--example",
            "wordcount",
            "--example",
            "producer",
        ]);
        let built = ChildProcess::spawn("cargo", &cargo).unwrap();
        built.wait_success(Duration::from_secs(900)).unwrap();
        profile.join("examples")
    });
    folder.join(name)
}

const PRODUCER: &str = r#"
import json, sys
from kafka import KafkaProducer
brokers, topic = sys.argv[1:]
producer = KafkaProducer(bootstrap_servers=brokers, value_serializer=lambda v: json.dumps(v).encode("utf-8"))
lines = ["Hello World", "Hello \"quoted\" words", "back\\slash", "Grüße Hello", "snow ☃", "{not an object}"]
for line in lines * 50:
    producer.send(topic, line)
producer.flush()
producer.close()
"#;

#[test]
fn what_kafka_python_serialised_as_json_is_counted() {
    let kafka = KafkaBroker::shared().client();
    let topic = kafka.unique_topic("from-python", 2).unwrap();
    let place = Place::new();
    let output = place.path("out");
    let application = Application::new(example("wordcount"), place.folder.path())
        .unwrap()
        .args(["--json", "--brokers", kafka.bootstrap(), "--topic", &topic])
        .args(["--starting-offsets", "earliest"])
        .args(["--output", output.to_str().unwrap()])
        .args(["--batch-interval", "500ms"]);
    let cluster = start(&application, 1);

    let mut python = Command::new(installed::python().unwrap());
    python.args(["-c", PRODUCER, kafka.bootstrap(), &topic]);
    let python = ChildProcess::spawn("kafka-python", &python).unwrap();
    python.wait_success(PATIENCE).unwrap();

    let words = [
        ("Hello", 150),
        ("World", 50),
        ("\"quoted\"", 50),
        ("words", 50),
        ("back\\slash", 50),
        ("Grüße", 50),
        ("snow", 50),
        ("☃", 50),
        ("{not", 50),
        ("an", 50),
        ("object}", 50),
    ];
    let wanted: Counts = words
        .into_iter()
        .map(|(word, count)| (word.to_owned(), count))
        .collect();
    let total: u64 = wanted.values().sum();
    let waited = wait_until(PATIENCE, "the words to be counted", || {
        super::assert_running(&cluster);
        place.counts().values().sum::<u64>() >= total
    });
    assert!(waited.is_ok(), "{:?}", place.counts());
    stop(cluster);
    assert_eq!(place.counts(), wanted);
}

#[test]
fn the_producer_example_sends_lines_plain_as_json_and_with_a_key() {
    let kafka = KafkaBroker::shared().client();
    let sent = ["plain", "with \"quotes\"", ""];
    let send = |arguments: &[&str]| {
        let topic = kafka.unique_topic("produced", 1).unwrap();
        let mut command = Command::new(example("producer"));
        command
            .args(["--brokers", kafka.bootstrap(), "--topic", &topic])
            .args(arguments);
        let options = SpawnOptions {
            stdin: true,
            ..SpawnOptions::default()
        };
        let producer = ChildProcess::spawn_with("producer", &command, &options).unwrap();
        let mut stdin = producer.take_stdin().unwrap();
        stdin
            .write_all((sent.join("\n") + "\n").as_bytes())
            .unwrap();
        drop(stdin);
        producer.wait_success(PATIENCE).unwrap();
        let records = kafka.consume_all(&topic, Isolation::ReadCommitted).unwrap();
        let pairs = records
            .iter()
            .map(|record| (record.key.clone(), record.text()));
        pairs.collect::<Vec<_>>()
    };
    let values = |key: Option<&str>, values: [&str; 3]| {
        values.map(|value| (key.map(|key| key.as_bytes().to_vec()), value.to_owned()))
    };
    assert_eq!(send(&[]), values(None, sent));
    assert_eq!(
        send(&["--json"]),
        values(None, ["\"plain\"", r#""with \"quotes\"""#, "\"\""])
    );
    assert_eq!(send(&["--key", "k"]), values(Some("k"), sent));
}
