//! The Kafka sink: one transaction a batch and sink partition holds the rows and a marker that says which batch they are of, so a row is
//! seen once however often its task runs.
//!
//! Readers need `isolation.level=read_committed`; others also see rows of transactions that were aborted. What is atomic is one sink
//! partition's share of a batch, not the batch.
//!
//! Layout:
//! - `cache`: producers kept from batch to batch, without IO
//! - `driver`: the driver half: topics are there, or are made
//! - `failures`: from what Kafka says to what the scheduler does
//! - `interrupted`: what another build wrote of a batch that is run again
//! - `lines`: what the clients log themselves
//! - `marker`: what a marker says and what follows from it
//! - `record`: a row
//! - `session`: one producer and its transactions
//! - `writer`: the executor half

mod cache;
mod driver;
mod failures;
mod interrupted;
mod lines;
mod marker;
mod record;
mod session;
mod writer;

use std::{collections::BTreeMap, time::Duration};

use millstream_common::{
    config::{Config, OnNondeterminism, keys},
    failure::{Failure, FailureKind},
    ids::{BatchId, QueryId},
};
use rdkafka::ClientConfig;
use serde::{Deserialize, Serialize};

pub use self::{driver::KafkaSinkDriver, record::ProducerRecord, writer::KafkaSink};
use crate::sink::WriteId;

/// Everything a Kafka sink needs to know, on both sides.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `host:port` of one or more brokers, separated by commas.
    pub brokers: String,
    /// The topic of records that name none. Without it every record must name one, and `marker_topic` is needed.
    pub topic: Option<String>,
    /// The existing topic on whose partition 0 the markers' offsets are committed; nothing is written to it. Default: `topic`.
    pub marker_topic: Option<String>,
    /// Makes topics that are not there.
    pub topic_create: bool,
    /// Partitions of a topic that is made; by default as the broker is configured. A topic for markers alone has one.
    pub topic_partitions: Option<i32>,
    /// Replicas of a topic that is made; by default as the broker is configured.
    pub topic_replication: Option<i32>,
    /// How long the broker keeps a transaction open that its writer left; a task that writes for longer fails. At most what the broker's
    /// `transaction.max.timeout.ms` says.
    pub transaction_timeout: Duration,
    /// How long the brokers may take to answer anything but a commit.
    pub request_timeout: Duration,
    /// How long a commit may take until its outcome is called unknown and is looked up.
    pub commit_timeout: Duration,
    /// Further properties of librdkafka, such as `security.protocol` or `compression.type`. Those that the guarantees rest on are not the user's.
    pub properties: BTreeMap<String, String>,
    /// What happens when a batch that ran again gives other rows than were written.
    pub on_nondeterminism: OnNondeterminism,
    /// The build that computes the rows; empty where it isn't known.
    pub build_id: String,
    /// A batch of which rows of an older build stay beside this build's.
    pub accept_mixed_batch: Option<BatchId>,
    /// How long the brokers keep a marker: their `offsets.retention.minutes`.
    pub marker_retention: Duration,
    /// Writes a batch again of which it can't be told any more whether it was written.
    pub accept_duplicates: bool,
    /// Producers kept for the next batch, at most.
    pub max_idle_producers: usize,
    /// How long a producer is kept that isn't used.
    pub idle_timeout: Duration,
}

/// What the configuration says of every Kafka sink, as data that can travel to executors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configured {
    transaction_timeout: Duration,
    on_nondeterminism: OnNondeterminism,
    accept_mixed_batch: Option<BatchId>,
    accept_duplicates: bool,
}

impl Configured {
    /// What this configuration says.
    pub fn of(config: &Config) -> Self {
        Self {
            transaction_timeout: config.get(keys::KAFKA_SINK_TRANSACTION_TIMEOUT),
            on_nondeterminism: config.get(keys::DETERMINISM_CHECK),
            accept_mixed_batch: config.get(keys::KAFKA_SINK_ACCEPT_MIXED_BATCH).map(BatchId),
            accept_duplicates: config.get(keys::KAFKA_SINK_ACCEPT_DUPLICATES),
        }
    }
}

impl Settings {
    /// Takes what the configuration says.
    pub fn configure(&mut self, configured: &Configured) {
        self.transaction_timeout = configured.transaction_timeout;
        self.on_nondeterminism = configured.on_nondeterminism;
        self.accept_mixed_batch = configured.accept_mixed_batch;
        self.accept_duplicates = configured.accept_duplicates;
    }

    /// Settings with every default.
    pub fn new(brokers: impl Into<String>, topic: Option<String>) -> Self {
        Self {
            brokers: brokers.into(),
            topic,
            marker_topic: None,
            topic_create: false,
            topic_partitions: None,
            topic_replication: None,
            transaction_timeout: Duration::from_secs(60),
            request_timeout: Duration::from_secs(30),
            commit_timeout: Duration::from_secs(60),
            properties: BTreeMap::new(),
            on_nondeterminism: OnNondeterminism::Fail,
            build_id: String::new(),
            accept_mixed_batch: None,
            marker_retention: Duration::from_secs(7 * 24 * 60 * 60),
            accept_duplicates: false,
            max_idle_producers: 64,
            idle_timeout: Duration::from_secs(300),
        }
    }

    /// What a checkpoint depends on.
    pub fn fingerprint(&self) -> serde_json::Value {
        serde_json::json!({ "topic": self.topic, "marker_topic": self.marker_topic })
    }

    /// The topic that carries the markers.
    ///
    /// # Errors
    /// When there is neither an output topic nor a marker topic.
    fn marker_topic(&self) -> Result<&str, Failure> {
        let topic = self.marker_topic.as_ref().or(self.topic.as_ref());
        topic.map(String::as_str).ok_or_else(|| {
            let message = "a Kafka output whose records choose their topics needs an existing topic for its markers; set `marker.topic`";
            failures::user(Failure::new(FailureKind::Io, message).with_code("sink.no_marker_topic"))
        })
    }

    /// What all clients have in common.
    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("reconnect.backoff.max.ms", "1000");
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        config
            .set("bootstrap.servers", &self.brokers)
            .set("allow.auto.create.topics", "false");
        config
    }

    fn producer(&self, names: &Names) -> ClientConfig {
        let mut config = self.client();
        // The client's own default is a gigabyte.
        let buffer = "queue.buffering.max.kbytes";
        if !self.properties.contains_key(buffer) {
            config.set(buffer, "65536");
        }
        config
            .set("transactional.id", &names.transactional_id)
            .set(
                "transaction.timeout.ms",
                self.transaction_timeout.as_millis().to_string(),
            )
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("delivery.report.only.error", "true");
        config
    }

    /// Reads markers.
    fn reader(&self, names: &Names) -> ClientConfig {
        let mut config = self.client();
        for property in ["transactional.id", "group.instance.id"] {
            config.remove(property);
        }
        config
            .set("group.id", &names.marker_group)
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false");
        config
    }

    /// The largest record that the client sends.
    fn max_message_bytes(&self) -> u64 {
        let given = ["message.max.bytes", "max.message.bytes"]
            .iter()
            .find_map(|name| self.properties.get(*name));
        given
            .and_then(|value| value.parse().ok())
            .unwrap_or(1_000_000)
    }
}

/// What a sink partition is called at the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Names {
    /// Of its producers: the newest one fences the others.
    transactional_id: String,
    /// The consumer group whose one offset is the marker.
    marker_group: String,
}

impl Names {
    fn of(id: &WriteId) -> Self {
        Self::new(id.query, &id.output, id.partition)
    }

    fn new(query: QueryId, output: &str, partition: u32) -> Self {
        let place = format!("{query}-{output}-{partition}");
        Self {
            transactional_id: format!("millstream-{place}"),
            marker_group: format!("millstream-marker-{place}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_guarantees_rest_on_is_not_the_users() {
        let mut settings = Settings::new("broker:9092", Some("out".to_owned()));
        for (name, value) in [
            ("acks", "1"),
            ("enable.idempotence", "false"),
            ("transactional.id", "mine"),
            ("isolation.level", "read_uncommitted"),
            ("linger.ms", "50"),
        ] {
            settings
                .properties
                .insert(name.to_owned(), value.to_owned());
        }
        let names = Names {
            transactional_id: "t".to_owned(),
            marker_group: "g".to_owned(),
        };
        let producer = settings.producer(&names);
        assert_eq!(producer.get("acks"), Some("all"));
        assert_eq!(producer.get("enable.idempotence"), Some("true"));
        assert_eq!(producer.get("transactional.id"), Some("t"));
        assert_eq!(producer.get("linger.ms"), Some("50"));
        let reader = settings.reader(&names);
        assert_eq!(reader.get("isolation.level"), Some("read_committed"));
        assert_eq!(reader.get("group.id"), Some("g"));
        assert_eq!(reader.get("transactional.id"), None);
    }

    #[test]
    fn the_configuration_counts_also_after_a_journey() {
        let config = Config::builder()
            .conf("kafka_sink.transaction_timeout", "7s")
            .conf("determinism.check", "warn")
            .conf("kafka_sink.accept_mixed_batch", 3)
            .conf("kafka_sink.accept_duplicates", true)
            .build()
            .unwrap();
        let sent = serde_json::to_string(&Configured::of(&config)).unwrap();
        let mut settings = Settings::new("broker:9092", None);
        settings.configure(&serde_json::from_str(&sent).unwrap());
        assert_eq!(settings.transaction_timeout, Duration::from_secs(7));
        assert_eq!(settings.on_nondeterminism, OnNondeterminism::Warn);
        assert_eq!(settings.accept_mixed_batch, Some(BatchId(3)));
        assert!(settings.accept_duplicates);
    }

    #[test]
    fn markers_lie_on_the_output_topic_unless_told() {
        let mut settings = Settings::new("broker:9092", Some("out".to_owned()));
        assert_eq!(settings.marker_topic().unwrap(), "out");
        settings.marker_topic = Some("markers".to_owned());
        assert_eq!(settings.marker_topic().unwrap(), "markers");
        settings.topic = None;
        assert_eq!(settings.marker_topic().unwrap(), "markers");
        settings.marker_topic = None;
        assert_eq!(
            settings.marker_topic().unwrap_err().code,
            "sink.no_marker_topic"
        );
    }
}
