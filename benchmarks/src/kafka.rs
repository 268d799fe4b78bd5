//! A broker with the corpus in a topic of four partitions; started by the first row that needs it.

use std::{cell::OnceCell, time::Duration};

use millstream_integration_tests::{
    kafka::{BrokerOptions, KafkaBroker},
    process::ChildProcess,
};

use crate::{Error, ours::Ours, sizes::SPLITS};

const TOPIC: &str = "lines";
/// Nobody writes to it.
const IDLE_TOPIC: &str = "idle";
const LOAD_LIMIT: Duration = Duration::from_secs(600);
const PARTITIONS: i32 = SPLITS as i32;

/// The broker, or the wish for one.
#[derive(Debug)]
pub struct Kafka {
    lines: u64,
    broker: OnceCell<KafkaBroker>,
}

impl Kafka {
    /// A broker whose topic will have so many lines.
    pub fn new(lines: u64) -> Self {
        Self {
            lines,
            broker: OnceCell::new(),
        }
    }

    /// Addresses of the broker, which holds the topics by now.
    pub fn brokers(&self, ours: &Ours) -> Result<String, Error> {
        if self.broker.get().is_none() {
            eprintln!("   a Kafka broker gets {} lines", self.lines);
            let broker = KafkaBroker::start_with(&BrokerOptions {
                // As a broker of one's own would run, not as one that starts quickly.
                jvm_flags: vec!["-Xms512m".into(), "-Xmx1g".into(), "-XX:+UseG1GC".into()],
                ..BrokerOptions::default()
            })?;
            broker.client().create_topic(TOPIC, PARTITIONS)?;
            broker.client().create_topic(IDLE_TOPIC, PARTITIONS)?;
            let mut load = ours.yardsticks();
            load.args(["send", broker.bootstrap(), TOPIC])
                .args(["--lines", &self.lines.to_string()])
                .args(["--partitions", &PARTITIONS.to_string()]);
            ChildProcess::spawn("send", &load)?.wait_success(LOAD_LIMIT)?;
            // The cell was empty.
            let _ = self.broker.set(broker);
        }
        let broker = self.broker.get().ok_or("the broker is not there")?;
        Ok(broker.bootstrap().to_owned())
    }

    /// The topic that holds the corpus.
    pub fn topic(&self) -> &'static str {
        TOPIC
    }

    /// The topic that stays empty.
    pub fn idle_topic(&self) -> &'static str {
        IDLE_TOPIC
    }
}
