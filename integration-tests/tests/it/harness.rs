//! The harness does what the other tests trust it to do.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use millstream_integration_tests::Error;
use millstream_integration_tests::installed;
use millstream_integration_tests::kafka::{
    BrokerOptions, Isolation, KafkaBroker, KafkaClient, NewRecord, Outcome, Stop,
};
use millstream_integration_tests::process::{
    ChildProcess, MARKER, Signal, SpawnOptions, Stream, assert_no_process_left, descendants,
    processes_with, unique_marker,
};
use millstream_integration_tests::proxy::TcpProxy;
use millstream_integration_tests::wait::{wait_for, wait_until};

const SOON: Duration = Duration::from_secs(20);

#[test]
fn records_come_back_as_they_were_written() {
    let kafka = KafkaBroker::shared().client();
    let topic = kafka.unique_topic("round-trip", 2).unwrap();
    let full = NewRecord {
        partition: Some(1),
        timestamp: Some(1_624_532_215_000),
        key: Some(b"k".to_vec()),
        value: Some(b"v".to_vec()),
        headers: vec![("h".to_owned(), b"1".to_vec())],
    };
    kafka.produce(&topic, &[full]).unwrap();
    kafka.produce_lines(&topic, 0, ["a", "b"]).unwrap();

    let records = kafka.consume_all(&topic, Isolation::ReadCommitted).unwrap();
    let placed: Vec<(i32, i64, String)> = records
        .iter()
        .map(|r| (r.partition, r.offset, r.text()))
        .collect();
    assert_eq!(
        placed,
        [
            (0, 0, "a".to_owned()),
            (0, 1, "b".to_owned()),
            (1, 0, "v".to_owned())
        ]
    );
    let last = &records[2];
    assert_eq!(last.timestamp, Some(1_624_532_215_000));
    assert_eq!(last.key.as_deref(), Some(b"k".as_slice()));
    assert_eq!(last.headers, [("h".to_owned(), Some(b"1".to_vec()))]);

    kafka.add_partitions(&topic, 3).unwrap();
    assert_eq!(
        kafka.end_offsets(&topic).unwrap(),
        BTreeMap::from([(0, 2), (1, 1), (2, 0)])
    );
    kafka.delete_records(&topic, 0, 1).unwrap();
    assert_eq!(kafka.begin_offsets(&topic).unwrap()[&0], 1);
    kafka.delete_topic(&topic).unwrap();
    assert_eq!(kafka.partition_count(&topic).unwrap(), 0);
}

#[test]
fn an_aborted_transaction_leaves_a_marker_and_no_record() {
    let kafka = KafkaBroker::shared().client();
    let topic = kafka.unique_topic("transactions", 1).unwrap();
    let record = |value: &str| [NewRecord::value(value)];
    kafka
        .produce_transaction(&topic, &record("kept"), Outcome::Commit)
        .unwrap();
    kafka
        .produce_transaction(&topic, &record("dropped"), Outcome::Abort)
        .unwrap();

    let texts = |isolation| -> Vec<String> {
        let records = kafka.consume_all(&topic, isolation).unwrap();
        records.iter().map(|record| record.text()).collect()
    };
    assert_eq!(texts(Isolation::ReadCommitted), ["kept"]);
    assert_eq!(texts(Isolation::ReadUncommitted), ["kept", "dropped"]);
    assert_eq!(kafka.end_offsets(&topic).unwrap(), BTreeMap::from([(0, 4)]));
}

#[test]
fn kafka_python_writes_what_the_harness_reads() {
    let kafka = KafkaBroker::shared().client();
    let topic = kafka.unique_topic("python", 1).unwrap();
    let program = "
import sys
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.structs import OffsetAndMetadata
bootstrap, topic = sys.argv[1:]
producer = KafkaProducer(bootstrap_servers=bootstrap)
producer.send(topic, b'hello').get(timeout=30)
consumer = KafkaConsumer(bootstrap_servers=bootstrap, group_id='python-' + topic, enable_auto_commit=False)
consumer.assign([TopicPartition(topic, 0)])
consumer.commit({TopicPartition(topic, 0): OffsetAndMetadata(1, '', -1)})
";
    let mut command = Command::new(installed::python().unwrap());
    command.args(["-c", program, kafka.bootstrap(), &topic]);
    let python = ChildProcess::spawn("python", &command).unwrap();
    python.wait_success(Duration::from_secs(90)).unwrap();

    let records = kafka.consume_all(&topic, Isolation::ReadCommitted).unwrap();
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].text(), "hello");
    let committed = kafka
        .committed_offsets(&format!("python-{topic}"), &topic)
        .unwrap();
    assert_eq!(committed, BTreeMap::from([(0, 1)]));
}

#[test]
fn a_broker_keeps_its_data_over_restarts_and_stays_behind_its_proxy() {
    let options = BrokerOptions {
        properties: vec![("message.max.bytes".to_owned(), "2000".to_owned())],
        proxied: true,
        ..BrokerOptions::default()
    };
    let broker = KafkaBroker::start_with(&options).unwrap();
    let kafka = broker.client();
    kafka.create_topic("kept", 1).unwrap();
    kafka.produce_lines("kept", 0, ["before"]).unwrap();
    let refused = kafka.produce("kept", &[NewRecord::value("x".repeat(4_000))]);
    assert!(matches!(refused, Err(Error::Kafka { .. })), "{refused:?}");

    let first_pid = broker.pid().unwrap();
    broker.restart(Stop::Kill).unwrap();
    assert_ne!(broker.pid(), Some(first_pid));
    kafka.produce_lines("kept", 0, ["between"]).unwrap();
    broker.restart(Stop::Graceful).unwrap();

    let proxy = broker.proxy().unwrap();
    let through_proxy = KafkaClient::new(proxy.address().to_string());
    let texts = || -> Vec<String> {
        let records = through_proxy
            .consume_all("kept", Isolation::ReadCommitted)
            .unwrap();
        records.iter().map(|record| record.text()).collect()
    };
    assert_eq!(texts(), ["before", "between"]);
    proxy.cut();
    assert!(through_proxy.broker_count(Duration::from_secs(1)).is_err());
    assert_eq!(kafka.broker_count(SOON).unwrap(), 1);
    proxy.heal();
    assert_eq!(texts(), ["before", "between"]);
}

#[test]
fn a_proxy_cuts_stalls_and_heals() {
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = TcpProxy::start(upstream.local_addr().unwrap()).unwrap();
    // An echo for every connection; ends with the test process.
    thread::Builder::new()
        .spawn(move || {
            for connection in upstream.incoming() {
                let connection = Arc::new(connection.unwrap());
                thread::Builder::new()
                    .spawn(move || std::io::copy(&mut &*connection, &mut &*connection))
                    .unwrap();
            }
        })
        .unwrap();
    let connect = || {
        let connection = TcpStream::connect(proxy.address()).unwrap();
        connection.set_read_timeout(Some(SOON)).unwrap();
        connection
    };
    let mut byte = [0];

    let mut first = connect();
    first.write_all(b"a").unwrap();
    first.read_exact(&mut byte).unwrap();
    assert_eq!(byte, *b"a");

    proxy.stall();
    first.write_all(b"b").unwrap();
    let mut during_stall = connect();
    during_stall.write_all(b"c").unwrap();
    for silent in [&mut first, &mut during_stall] {
        silent
            .set_read_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        assert_eq!(
            silent.read(&mut byte).unwrap_err().kind(),
            ErrorKind::WouldBlock
        );
        silent.set_read_timeout(Some(SOON)).unwrap();
    }
    proxy.heal();
    first.read_exact(&mut byte).unwrap();
    assert_eq!(byte, *b"b");
    during_stall.read_exact(&mut byte).unwrap();
    assert_eq!(byte, *b"c");

    proxy.cut();
    proxy.heal();
    assert_eq!(
        first.read(&mut byte).unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    proxy.cut();
    let during_cut = connect().read(&mut byte);
    assert!(during_cut.is_err() || during_cut.is_ok_and(|read| read == 0));
    proxy.heal();
    let mut after = connect();
    after.write_all(b"d").unwrap();
    after.shutdown(std::net::Shutdown::Write).unwrap();
    let mut all = Vec::new();
    after.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"d");
}

#[test]
fn a_dropped_child_takes_all_its_processes_along() {
    let mut command = Command::new("sh");
    // One grandchild stays in the group, the other leaves it.
    command.args(["-c", "sleep 1000 & setsid sleep 1000 & echo ready; wait"]);
    let child = ChildProcess::spawn("sleepers", &command).unwrap();
    let marker = child.marker().to_owned();
    child
        .wait_for_line("ready", SOON, |line| line.text == "ready")
        .unwrap();
    wait_until(SOON, "both sleepers", || {
        let found = descendants(child.pid());
        found
            .iter()
            .filter(|process| process.command == "sleep 1000")
            .count()
            == 2
    })
    .unwrap();
    let left = child
        .assert_nothing_left(Duration::from_millis(50))
        .unwrap_err();
    assert!(left.to_string().contains("sleep 1000"), "{left}");
    drop(child);
    assert_no_process_left(&marker, SOON).unwrap();
}

#[test]
fn a_signal_reaches_the_child_alone_and_its_end_is_seen() {
    let mut command = Command::new("sh");
    command.args([
        "-c",
        "trap 'echo stopped; exit 3' TERM; echo ready; while :; do sleep 0.05; done",
    ]);
    let child = ChildProcess::spawn("trap", &command).unwrap();
    let line = child
        .wait_for_line("ready", SOON, |line| line.text == "ready")
        .unwrap();
    child.signal(Signal::TERM).unwrap();
    child
        .wait_for_line_from(line.number + 1, "stopped", SOON, |line| {
            line.text == "stopped"
        })
        .unwrap();
    assert_eq!(child.wait_exit(SOON).unwrap().code(), Some(3));
    let ended = child
        .wait_for_line("more", SOON, |line| line.text == "more")
        .unwrap_err();
    assert!(
        matches!(&ended, Error::Ended { output, .. } if output.contains("stopped")),
        "{ended}"
    );
}

#[test]
fn a_child_reads_what_is_written_to_it() {
    let options = SpawnOptions {
        stdin: true,
        ..SpawnOptions::default()
    };
    let child = ChildProcess::spawn_with("cat", &Command::new("cat"), &options).unwrap();
    let mut stdin = child.take_stdin().unwrap();
    stdin.write_all(b"hello\nworld").unwrap();
    drop(stdin);
    child.wait_success(SOON).unwrap();
    child
        .wait_for_line("world", SOON, |line| line.text == "world")
        .unwrap();
    assert_eq!(child.output().text(Stream::Out), "hello\nworld\n");

    let guarded = ChildProcess::spawn("guarded-cat", &Command::new("cat")).unwrap();
    assert!(guarded.take_stdin().is_none());
    guarded.wait_success(SOON).unwrap();
}

/// Plays the test process that is killed, when [`nothing_outlives_a_killed_test_process`] runs this binary again.
#[test]
#[ignore = "run by another test"]
fn start_a_child_and_wait() {
    let Ok(inner_marker) = std::env::var("INNER_MARKER") else {
        return;
    };
    let mut command = Command::new("sleep");
    command.arg("1000").env(MARKER, inner_marker);
    let child = ChildProcess::spawn("inner", &command).unwrap();
    child.wait_exit(Duration::from_secs(1000)).unwrap();
}

#[test]
fn nothing_outlives_a_killed_test_process() {
    let inner_marker = format!("inner-{}", unique_marker());
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([
        "--exact",
        "harness::start_a_child_and_wait",
        "--ignored",
        "--nocapture",
    ]);
    command.env("INNER_MARKER", &inner_marker);
    let test_process = ChildProcess::spawn("test-process", &command).unwrap();
    let inner = wait_for(SOON, "the inner child", || {
        let found = processes_with(&format!("{MARKER}={inner_marker}"));
        found
            .into_iter()
            .find(|process| process.command == "sleep 1000")
    })
    .unwrap();
    assert!(Path::new(&format!("/proc/{}", inner.pid)).exists());
    test_process.kill().unwrap();
    assert_no_process_left(&inner_marker, SOON).unwrap();
}
