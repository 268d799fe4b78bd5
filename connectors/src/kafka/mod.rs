//! Kafka: one task a topic partition, exact offset ranges, read-ahead on the executors.
//!
//! Layout:
//! - `asking`: what the driver half asks the brokers
//! - `buffer`: what was fetched of a partition and not yet read, without IO
//! - `client`: the source's consumers and what they report
//! - `driver`: the driver half: partitions, end offsets, ranges
//! - `fetcher`: one consumer and what it read ahead, as tasks see it
//! - `group`: group offsets for lag tools
//! - `loss`: what of a range the brokers no longer have
//! - `offsets`: starting offsets
//! - `pending`: records on their way into a chunk
//! - `polling`: a fetcher's thread
//! - `ranges`: which offset ranges a batch takes
//! - `record`: a record as a row
//! - [`sink`]: writes rows to topics, exactly once
//! - `source`: the executor half: reads ranges

mod asking;
mod buffer;
mod client;
mod driver;
mod fetcher;
mod group;
mod loss;
mod offsets;
mod pending;
mod polling;
mod ranges;
mod record;
pub mod sink;
mod source;

use std::{collections::BTreeMap, time::Duration};

use rdkafka::ClientConfig;
use regex::Regex;
use serde::{Deserialize, Serialize};

pub use self::{
    driver::KafkaDriver,
    offsets::{EndingOffsets, OffsetsError, StartingOffsets},
    record::{Header, Record, TimestampKind},
    source::{KafkaSplits, OffsetRange, ReadAhead},
};
use crate::malformed::OnMalformed;

/// Which partitions to read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subscription {
    /// All partitions of these topics, also ones added later.
    Topics(Vec<String>),
    /// All partitions of all topics whose whole name matches, also ones made later.
    Pattern(String),
    /// Just these.
    Assign(Vec<(String, i32)>),
}

/// What to do when records that should be read are no longer there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDataLoss {
    /// The query stops with an error.
    #[default]
    Fail,
    /// A warning; reading goes on with what is there.
    Warn,
}

/// Everything a Kafka source needs to know, on both sides.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `host:port` of one or more brokers, separated by commas.
    pub brokers: String,
    /// Which partitions.
    pub subscription: Subscription,
    /// Where to begin.
    pub starting_offsets: StartingOffsets,
    /// Where to end, where that is before what is there at the first plan; with [`only_present`](Self::only_present).
    pub ending_offsets: EndingOffsets,
    /// Consumer group under which progress is committed for lag tools; never read back.
    pub group: String,
    /// Further properties of librdkafka, such as `security.protocol` or `isolation.level` (default `read_committed`).
    pub properties: BTreeMap<String, String>,
    /// Whether group offsets are committed after each batch.
    pub commit_offsets: bool,
    /// Records a second and partition that a batch takes at most.
    pub max_rate_per_partition: Option<u64>,
    /// Records that a batch takes at most, of all partitions together.
    pub max_per_batch: Option<u64>,
    /// Only records that are there at the first plan are read.
    pub only_present: bool,
    /// Records lost before they were read.
    pub on_data_loss: OnDataLoss,
    /// Values that are not UTF-8 where text is wanted, or too long.
    pub on_malformed: OnMalformed,
    /// Longest value, bytes.
    pub max_record_bytes: usize,
    /// Bytes read ahead for each partition.
    pub read_ahead_bytes: usize,
    /// How long the brokers may take to answer when a batch is planned.
    pub plan_timeout: Duration,
    /// How often new partitions are looked for.
    pub metadata_interval: Duration,
}

impl Settings {
    /// Settings with every default.
    pub fn new(brokers: impl Into<String>, subscription: Subscription) -> Self {
        Self {
            brokers: brokers.into(),
            subscription,
            starting_offsets: StartingOffsets::default(),
            ending_offsets: EndingOffsets::default(),
            group: "millstream".to_owned(),
            properties: BTreeMap::new(),
            commit_offsets: true,
            max_rate_per_partition: None,
            max_per_batch: None,
            only_present: false,
            on_data_loss: OnDataLoss::default(),
            on_malformed: OnMalformed::default(),
            max_record_bytes: 16 << 20,
            read_ahead_bytes: 4 << 20,
            plan_timeout: Duration::from_secs(10),
            metadata_interval: Duration::from_secs(1),
        }
    }

    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("isolation.level", "read_committed")
            .set("client.id", "millstream")
            .set("fetch.queue.backoff.ms", "10")
            // A new position waits for the fetch under way, which an idle topic keeps for this long.
            .set("fetch.wait.max.ms", "100")
            .set("fetch.error.backoff.ms", "100")
            .set("socket.nagle.disable", "true")
            // The client keeps some 300 bytes beside each record that it holds; what is read ahead is in buffers of our own, which keep a fifth of that.
            .set("fetch.message.max.bytes", "524288")
            .set("queued.min.messages", "10000")
            .set("queued.max.messages.kbytes", "8192")
            .set("reconnect.backoff.max.ms", "1000")
            .set("topic.metadata.refresh.fast.interval.ms", "100");
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        // What the engine's correctness rests on is not the user's to set.
        config
            .set("bootstrap.servers", &self.brokers)
            .set("group.id", &self.group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("enable.partition.eof", "true")
            .set("allow.auto.create.topics", "false");
        // A replica that lags ends before the leader does, and only the leader's end says that nothing more of a range comes.
        config.remove("client.rack");
        config
    }

    /// What a checkpoint depends on.
    pub fn fingerprint(&self) -> serde_json::Value {
        serde_json::json!({ "subscription": self.subscription })
    }
}

/// Checks a topic pattern; it must match a topic's whole name.
///
/// # Errors
/// The pattern's own error.
pub fn compile_pattern(pattern: &str) -> Result<Regex, regex::Error> {
    Regex::new(&format!("^(?:{pattern})$"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_reads_from_leaders_alone_and_takes_what_else_is_said() {
        let mut settings = Settings::new("127.0.0.1:1", Subscription::Topics(vec![]));
        for (name, value) in [
            ("client.rack", "zone-1"),
            ("auto.offset.reset", "latest"),
            ("isolation.level", "read_uncommitted"),
        ] {
            settings
                .properties
                .insert(name.to_owned(), value.to_owned());
        }
        let client = settings.client();
        assert_eq!(client.get("client.rack"), None);
        assert_eq!(client.get("auto.offset.reset"), Some("error"));
        assert_eq!(client.get("isolation.level"), Some("read_uncommitted"));
    }
}
