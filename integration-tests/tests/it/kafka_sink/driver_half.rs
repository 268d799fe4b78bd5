//! What the driver half looks at before the first batch.

use std::{sync::Arc, time::Duration};

use millstream_common::{ids::BatchId, time::SystemClock};
use millstream_connectors::{
    kafka::sink::{KafkaSinkDriver, Settings},
    sink::{SinkDriver as _, SinkStart},
};

use super::Output;

fn start(output: &Output) -> SinkStart {
    SinkStart {
        query: output.query,
        output: "out".to_owned(),
        next: BatchId(0),
        interrupted: None,
    }
}

#[test]
fn the_driver_half_finds_or_makes_the_topics() {
    let mut output = Output::shared("sink-check");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let check = |settings: &Settings| {
        let driver = KafkaSinkDriver::new(Arc::new(settings.clone()), Arc::new(SystemClock::new()));
        runtime.block_on(driver.check(&start(&output)))
    };
    assert_eq!(check(&output.settings), Ok(Vec::new()));

    let missing = format!("{}-made", output.topic);
    let mut settings = output.settings.clone();
    settings.topic = Some(missing.clone());
    let failure = check(&settings).unwrap_err();
    assert_eq!(failure.code, "kafka.unknown_topic");
    assert!(
        failure
            .message
            .contains(&format!("--create --topic {missing}")),
        "{failure}"
    );
    settings.topic_create = true;
    settings.topic_partitions = Some(3);
    settings.marker_topic = Some(format!("{missing}-markers"));
    assert_eq!(check(&settings), Ok(Vec::new()));
    assert_eq!(output.kafka.partition_count(&missing).unwrap(), 3);
    assert_eq!(
        output
            .kafka
            .partition_count(&format!("{missing}-markers"))
            .unwrap(),
        1
    );
    assert_eq!(check(&settings), Ok(Vec::new()));

    settings
        .properties
        .insert("compression.tipe".to_owned(), "lz4".to_owned());
    assert_eq!(check(&settings).unwrap_err().code, "kafka.properties");

    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    output.settings.brokers = nobody.local_addr().unwrap().to_string();
    output.settings.request_timeout = Duration::from_secs(1);
    let settings = output.settings.clone();
    drop(nobody);
    let driver = KafkaSinkDriver::new(Arc::new(settings), Arc::new(SystemClock::new()));
    let failure = runtime.block_on(driver.check(&start(&output))).unwrap_err();
    assert_eq!(failure.code, "kafka.no_broker");
}
