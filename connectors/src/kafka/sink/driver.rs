//! The driver half of the Kafka sink. Transactions are committed by the tasks, so there is nothing to publish and nothing to sweep.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use millstream_common::{
    failure::{Failure, FailureKind},
    ids::QueryId,
    protocol::SinkCommit,
    time::{Clock, Tick},
};
use rdkafka::{
    admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer as _},
    types::RDKafkaErrorCode as Code,
};

use super::{
    super::asking::{impossible_topic, no_broker},
    Names, Settings, failures,
    interrupted::refuse_mixed,
};
use crate::sink::{SinkBatch, SinkDriver, SinkStart};

/// Between two looks whether a topic that was made can be used.
const PAUSE: Duration = Duration::from_millis(50);

/// The driver half of the Kafka sink.
pub struct KafkaSinkDriver {
    settings: Arc<Settings>,
    clock: Arc<dyn Clock>,
}

impl KafkaSinkDriver {
    /// A driver half that has asked nothing yet.
    pub fn new(settings: Arc<Settings>, clock: Arc<dyn Clock>) -> Self {
        Self { settings, clock }
    }

    /// The topics that must be there, with the partitions that each is made with.
    fn topics(&self) -> Result<BTreeMap<String, i32>, Failure> {
        // The broker's own default.
        const DEFAULT: i32 = -1;
        let mut topics = BTreeMap::from([(self.settings.marker_topic()?.to_owned(), 1)]);
        if let Some(topic) = &self.settings.topic {
            topics.insert(
                topic.clone(),
                self.settings.topic_partitions.unwrap_or(DEFAULT),
            );
        }
        match topics.keys().find_map(|topic| impossible_topic(topic)) {
            Some(impossible) => Err(impossible),
            None => Ok(topics),
        }
    }

    /// Tells wrong properties at once instead of in the first task.
    fn check_properties(&self, query: QueryId) -> Result<(), Failure> {
        let names = Names {
            transactional_id: format!("millstream-{query}"),
            marker_group: format!("millstream-marker-{query}"),
        };
        for config in [self.settings.producer(&names), self.settings.reader(&names)] {
            config
                .create_native_config()
                .map_err(|error| failures::properties(&error))?;
        }
        Ok(())
    }

    async fn create(
        &self,
        admin: &AdminClient<DefaultClientContext>,
        topic: &str,
        partitions: i32,
    ) -> Result<(), Failure> {
        let replication = TopicReplication::Fixed(self.settings.topic_replication.unwrap_or(-1));
        let new = NewTopic::new(topic, partitions, replication);
        let brokers = &self.settings.brokers;
        let refused = |code: &dyn std::error::Error| {
            let message = format!(
                "could not make topic {topic} (brokers {brokers}); make it by hand, for example with: {}",
                failures::create_command(brokers, topic)
            );
            failures::user(
                Failure::caused_by(FailureKind::Io, message, code)
                    .with_code("sink.topic_not_created"),
            )
        };
        let answered = admin
            .create_topics([&new], &self.patience())
            .await
            .map_err(|error| no_broker(brokers, self.settings.request_timeout, &error))?;
        for answer in answered {
            match answer {
                Ok(_) => tracing::info!(topic, "made a Kafka topic"),
                Err((_, Code::TopicAlreadyExists)) => {}
                Err((_, code)) => return Err(refused(&code)),
            }
        }
        Ok(())
    }

    fn patience(&self) -> AdminOptions {
        let timeout = Some(self.settings.request_timeout);
        AdminOptions::new()
            .request_timeout(timeout)
            .operation_timeout(timeout)
    }

    /// Brokers that forget markers sooner than the settings say can't be asked after a long stop. Best effort: not every user may ask.
    async fn look_at_retention(&self, admin: &AdminClient<DefaultClientContext>, broker: i32) {
        let asked = [ResourceSpecifier::Broker(broker)];
        let Ok(answers) = admin.describe_configs(&asked, &self.patience()).await else {
            return;
        };
        let minutes = answers.into_iter().flatten().find_map(|resource| {
            let entry = resource.get("offsets.retention.minutes")?;
            entry.value.as_ref()?.parse::<u64>().ok()
        });
        let Some(minutes) = minutes else {
            return;
        };
        let kept = Duration::from_secs(minutes.saturating_mul(60));
        if kept < self.settings.marker_retention {
            tracing::warn!(
                kept_minutes = minutes,
                assumed_minutes = self.settings.marker_retention.as_secs() / 60,
                "the brokers keep markers for less time than assumed (offsets.retention.minutes); a batch that was interrupted longer ago may be doubled"
            );
        }
    }
}

#[async_trait]
impl SinkDriver for KafkaSinkDriver {
    async fn check(&self, start: &SinkStart) -> Result<Vec<PathBuf>, Failure> {
        let topics = self.topics()?;
        self.check_properties(start.query)?;
        let admin: AdminClient<DefaultClientContext> = self
            .settings
            .client()
            .create()
            .map_err(|error| failures::properties(&error))?;
        let names: Vec<String> = topics.keys().cloned().collect();
        let (missing, broker) = self.missing(names, self.clock.now()).await?;
        if let (Some(topic), false) = (missing.first(), self.settings.topic_create) {
            let brokers = &self.settings.brokers;
            let message = format!(
                "topic {topic} is not there (brokers {brokers}); let the output make it with `Producer::create_topic`, or make it, for example with: {}",
                failures::create_command(brokers, topic)
            );
            return Err(failures::user(
                Failure::new(FailureKind::Io, message).with_code("kafka.unknown_topic"),
            ));
        }
        for topic in &missing {
            let partitions = topics.get(topic).copied().unwrap_or(1);
            self.create(&admin, topic, partitions).await?;
        }
        let deadline = self.clock.now().after(self.settings.request_timeout);
        let (still_missing, _) = self.missing(missing, deadline).await?;
        if let Some(topic) = still_missing.first() {
            let message = format!(
                "topic {topic} was made but can't be used yet (brokers {}); start again in a while",
                self.settings.brokers
            );
            return Err(Failure::new(FailureKind::Io, message));
        }
        if let Some(broker) = broker {
            self.look_at_retention(&admin, broker).await;
        }
        refuse_mixed(&self.settings, &self.clock, start).await?;
        // Closing a client waits for its threads.
        let closing = tokio::task::spawn_blocking(move || drop(admin));
        if closing.await.is_err() {
            tracing::debug!("closing the Kafka client broke off");
        }
        Ok(Vec::new())
    }

    async fn publish(&self, _batch: SinkBatch, _winners: &[SinkCommit]) -> Result<(), Failure> {
        Ok(())
    }

    async fn sweep(&self, _batch: SinkBatch) {}
}

impl KafkaSinkDriver {
    /// Those of the topics that can't be used, looking until the deadline, and any broker.
    async fn missing(
        &self,
        topics: Vec<String>,
        deadline: Tick,
    ) -> Result<(Vec<String>, Option<i32>), Failure> {
        let settings = Arc::clone(&self.settings);
        let clock = Arc::clone(&self.clock);
        let looking = tokio::task::spawn_blocking(move || {
            let mut config = settings.client();
            for property in ["transactional.id", "group.instance.id"] {
                config.remove(property);
            }
            let consumer: BaseConsumer = config
                .create()
                .map_err(|error| failures::properties(&error))?;
            loop {
                let mut missing = Vec::new();
                let mut broker = None;
                for topic in &topics {
                    let metadata = consumer
                        .fetch_metadata(Some(topic), settings.request_timeout)
                        .map_err(|error| {
                            no_broker(&settings.brokers, settings.request_timeout, &error)
                        })?;
                    broker = metadata.brokers().first().map(|broker| broker.id());
                    let usable = metadata.topics().iter().any(|found| {
                        found.name() == topic
                            && !found.partitions().is_empty()
                            && found
                                .partitions()
                                .iter()
                                .all(|partition| partition.leader() >= 0)
                    });
                    if !usable {
                        missing.push(topic.clone());
                    }
                }
                if missing.is_empty() || clock.now() >= deadline {
                    return Ok((missing, broker));
                }
                // Without a subscription nothing comes: a pause.
                consumer.poll(PAUSE);
            }
        });
        looking.await.map_err(|error| failures::broke_off(&error))?
    }
}

#[cfg(test)]
mod tests {
    use millstream_common::{ids::BatchId, time::SystemClock};

    use super::*;

    #[tokio::test]
    async fn an_output_to_a_topic_that_cannot_be_is_refused() {
        let start = SinkStart {
            query: QueryId::random(),
            output: "out".to_owned(),
            next: BatchId(0),
            interrupted: None,
        };
        let settings = |topic: &str, marker: &str| Settings {
            marker_topic: Some(marker.to_owned()),
            // Nobody is asked.
            request_timeout: Duration::from_millis(100),
            ..Settings::new("127.0.0.1:1", Some(topic.to_owned()))
        };
        for settings in [settings("a b", "markers"), settings("out", "..")] {
            let driver = KafkaSinkDriver::new(Arc::new(settings), Arc::new(SystemClock::new()));
            let failure = driver.check(&start).await.expect_err("no such topic");
            assert_eq!(failure.code, "kafka.topic_name", "{failure}");
        }
    }
}
