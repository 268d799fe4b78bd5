//! Kafka topics as streams, and streams as Kafka topics.

use std::{collections::BTreeMap, sync::Arc};

use millstream_common::{
    config::{self, keys},
    failure::{Failure, FailureKind, Fault, Retry},
    time::{Clock, SystemClock},
};
use millstream_connectors::{
    kafka::{
        KafkaDriver, KafkaSplits, OnDataLoss, Settings, Subscription, compile_pattern,
        sink::{self, Configured, KafkaSink, KafkaSinkDriver},
    },
    source::SourceDriver,
};

use crate::{context::StreamingContext, outputs::Output, stream::DStream};

pub use millstream_connectors::kafka::{
    Header, OffsetsError, Record, StartingOffsets, sink::ProducerRecord,
};

/// What to read of Kafka, and how.
#[derive(Clone, Debug)]
pub struct Consumer {
    brokers: String,
    subscription: Option<Subscription>,
    starting_offsets: StartingOffsets,
    group: Option<String>,
    properties: BTreeMap<String, String>,
    name: Option<String>,
}

impl Consumer {
    /// A consumer of these brokers, `host:port` separated by commas. By default it begins at the latest offsets.
    pub fn new(brokers: impl Into<String>) -> Self {
        Self {
            brokers: brokers.into(),
            subscription: None,
            starting_offsets: StartingOffsets::default(),
            group: None,
            properties: BTreeMap::new(),
            name: None,
        }
    }

    /// Reads all partitions of these topics, also ones that are added later.
    #[must_use]
    pub fn topics<S: Into<String>>(mut self, topics: impl IntoIterator<Item = S>) -> Self {
        self.subscription = Some(Subscription::Topics(
            topics.into_iter().map(Into::into).collect(),
        ));
        self
    }

    /// Reads all topics whose whole name matches the regular expression, also ones that are made later.
    #[must_use]
    pub fn pattern(mut self, pattern: &str) -> Self {
        self.subscription = Some(Subscription::Pattern(pattern.to_owned()));
        self
    }

    /// Reads just these partitions.
    #[must_use]
    pub fn assign<S: Into<String>>(
        mut self,
        partitions: impl IntoIterator<Item = (S, i32)>,
    ) -> Self {
        let partitions = partitions
            .into_iter()
            .map(|(topic, partition)| (topic.into(), partition));
        self.subscription = Some(Subscription::Assign(partitions.collect()));
        self
    }

    /// Where to begin at the first start.
    #[must_use]
    pub fn starting_offsets(mut self, offsets: StartingOffsets) -> Self {
        self.starting_offsets = offsets;
        self
    }

    /// The consumer group under which progress is committed for lag tools; by default `millstream-` and the application's name.
    #[must_use]
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.group = Some(group.into());
        self
    }

    /// A property of librdkafka, such as `security.protocol`, or `isolation.level` (by default `read_committed`).
    #[must_use]
    pub fn property(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.properties.insert(name.into(), value.into());
        self
    }

    /// The source's stable id in the checkpoint; by default `kafka-` and its ordinal.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    fn settings(self, ssc: &StreamingContext) -> Result<Settings, Failure> {
        let Some(subscription) = self.subscription else {
            return Err(user(
                "kafka.subscription",
                "a Kafka consumer needs topics(..), pattern(..) or assign(..)".to_owned(),
            ));
        };
        if let Subscription::Pattern(pattern) = &subscription {
            compile_pattern(pattern).map_err(|error| {
                user(
                    "kafka.pattern",
                    format!("the topic pattern `{pattern}` is not a regular expression: {error}"),
                )
            })?;
        }
        let config = ssc.config();
        let mut settings = Settings::new(self.brokers, subscription);
        settings.starting_offsets = self.starting_offsets;
        settings.group = self
            .group
            .unwrap_or_else(|| format!("millstream-{}", ssc.name()));
        settings.properties = self.properties;
        settings.commit_offsets = config.get(keys::KAFKA_COMMIT_OFFSETS);
        settings.max_rate_per_partition = config.get(keys::KAFKA_MAX_RATE_PER_PARTITION);
        settings.on_data_loss = match config.get(keys::KAFKA_ON_DATA_LOSS) {
            config::OnDataLoss::Fail => OnDataLoss::Fail,
            config::OnDataLoss::Warn => OnDataLoss::Warn,
        };
        settings.on_malformed = config.get(keys::INPUT_ON_MALFORMED).into();
        settings.max_record_bytes = config.get(keys::INPUT_MAX_RECORD_BYTES).as_len();
        settings.read_ahead_bytes = config.get(keys::KAFKA_READ_AHEAD).as_len();
        settings.plan_timeout = config.get(keys::KAFKA_PLAN_TIMEOUT);
        Ok(settings)
    }
}

fn user(code: &str, message: String) -> Failure {
    let mut failure = Failure::new(FailureKind::Internal, message)
        .with_code(code)
        .with_retry(Retry::Never);
    failure.fault = Fault::User;
    failure
}

/// Where to send rows in Kafka, and how.
#[derive(Clone, Debug)]
pub struct Producer {
    settings: sink::Settings,
}

impl Producer {
    /// A producer for this topic of these brokers, `host:port` separated by commas. The topic must exist.
    pub fn new(brokers: impl Into<String>, topic: impl Into<String>) -> Self {
        Self {
            settings: sink::Settings::new(brokers, Some(topic.into())),
        }
    }

    /// A producer for records that name their topics themselves. The markers of what was written go with an existing topic.
    pub fn to_topics(brokers: impl Into<String>, marker_topic: impl Into<String>) -> Self {
        let mut settings = sink::Settings::new(brokers, None);
        settings.marker_topic = Some(marker_topic.into());
        Self { settings }
    }

    /// Makes the topic at start where it isn't there.
    #[must_use]
    pub fn create_topic(mut self, partitions: i32, replication: i32) -> Self {
        self.settings.topic_create = true;
        self.settings.topic_partitions = Some(partitions);
        self.settings.topic_replication = Some(replication);
        self
    }

    /// A property of librdkafka, such as `security.protocol` or `compression.type`.
    #[must_use]
    pub fn property(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.properties.insert(name.into(), value.into());
        self
    }
}

impl DStream<ProducerRecord> {
    /// Sends every batch to Kafka, exactly once for readers of `read_committed`: one transaction a partition and batch.
    ///
    /// # Errors
    /// When the producer lacks something. Brokers and topics are first asked when the query starts.
    pub fn save_to_kafka(&self, producer: Producer) -> Result<Output, Failure> {
        let (config, build_id) = {
            let graph = self.graph.lock();
            (graph.config.clone(), graph.build_id.clone())
        };
        let mut settings = producer.settings;
        settings.configure(&Configured::of(&config));
        settings.build_id = build_id;
        let fingerprint = settings.fingerprint();
        let settings = Arc::new(settings);
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let writer = Arc::new(KafkaSink::new(Arc::clone(&settings), Arc::clone(&clock)));
        Ok(self.sink(
            "kafka",
            fingerprint,
            writer,
            Arc::new(KafkaSinkDriver::new(settings, clock)),
        ))
    }
}

/// A stream of the records of Kafka topics: one task a topic partition, exact offset ranges, no receiver.
///
/// # Errors
/// When the consumer lacks something. Brokers are first asked when the query starts.
pub fn direct_stream(
    ssc: &StreamingContext,
    consumer: Consumer,
) -> Result<DStream<Record>, Failure> {
    let name = consumer.name.clone();
    let settings = Arc::new(consumer.settings(ssc)?);
    let splits = Arc::new(KafkaSplits::new(Arc::clone(&settings), ssc.clock()));
    let fingerprint = settings.fingerprint();
    let clock = ssc.clock();
    let driver = Arc::new(move || {
        let driver = KafkaDriver::new(Arc::clone(&settings), Arc::clone(&clock))?;
        Ok(Box::new(driver) as Box<dyn SourceDriver>)
    });
    let stream = ssc.source("kafka", fingerprint, driver, splits);
    Ok(match name {
        Some(name) => stream.named(&name),
        None => stream,
    })
}
