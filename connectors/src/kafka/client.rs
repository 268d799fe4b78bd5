//! The consumers of a Kafka source, and what becomes of what they report.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use rdkafka::{
    ClientConfig, ClientContext,
    config::FromClientConfigAndContext,
    consumer::{BaseConsumer, Consumer as _, ConsumerContext},
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
};

use super::loss::Bounds;

/// A consumer of the source.
pub(super) type Consumer = BaseConsumer<Reports>;

/// Logs what a client reports: each kind of trouble once, until something works again. Ends of partitions are no trouble.
#[derive(Default)]
pub(super) struct Reports {
    said: Mutex<Vec<Option<RDKafkaErrorCode>>>,
    is_troubled: AtomicBool,
}

impl Reports {
    /// A broker answered: trouble from now on is new.
    pub(super) fn answered(&self) {
        if self.is_troubled.load(Ordering::Relaxed) {
            self.said.lock().clear();
            self.is_troubled.store(false, Ordering::Relaxed);
        }
    }

    /// Whether trouble of this kind is to be said: the first time, and not where it only repeats what was said of each broker.
    pub(super) fn is_news(&self, code: Option<RDKafkaErrorCode>) -> bool {
        if code == Some(RDKafkaErrorCode::AllBrokersDown) {
            return false;
        }
        let mut said = self.said.lock();
        if said.contains(&code) {
            return false;
        }
        said.push(code);
        self.is_troubled.store(true, Ordering::Relaxed);
        true
    }
}

impl ClientContext for Reports {
    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code();
        if code == Some(RDKafkaErrorCode::PartitionEOF) {
            return;
        }
        if self.is_news(code) {
            tracing::warn!(%error, reason, "Kafka client reports");
        } else {
            tracing::debug!(%error, reason, "Kafka client reports again");
        }
    }
}

impl ConsumerContext for Reports {}

/// Makes a consumer.
pub(super) fn consumer(config: &ClientConfig) -> KafkaResult<Consumer> {
    Consumer::from_config_and_context(config, Reports::default())
}

/// What a partition's log has, records of transactions that are not over included; `None` where the brokers know no such partition.
/// Asked by a client of its own, which remembers nothing of an older topic of that name.
pub(super) fn log_bounds(
    config: &ClientConfig,
    topic: &str,
    partition: i32,
    timeout: Duration,
) -> KafkaResult<Option<Bounds>> {
    let mut config = config.clone();
    config.set("isolation.level", "read_uncommitted");
    let consumer = consumer(&config)?;
    match consumer.fetch_watermarks(topic, partition, timeout) {
        Ok((oldest, end)) => Ok(Some(Bounds { oldest, end })),
        Err(error) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::OperationTimedOut) => {
            Err(error)
        }
        // That doesn't tell a partition that is gone from one that has no leader now.
        Err(error) => match is_gone(&consumer, topic, partition, timeout)? {
            true => Ok(None),
            false => Err(error),
        },
    }
}

fn is_gone(
    consumer: &Consumer,
    topic: &str,
    partition: i32,
    timeout: Duration,
) -> KafkaResult<bool> {
    let metadata = consumer.fetch_metadata(Some(topic), timeout)?;
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    let Some(found) = found else {
        return Ok(true);
    };
    Ok(match found.error().map(RDKafkaErrorCode::from) {
        None => found.partitions().iter().all(|it| it.id() != partition),
        Some(code) => code == RDKafkaErrorCode::UnknownTopicOrPartition,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_news_once_until_a_broker_answers() {
        let reports = Reports::default();
        let transport = Some(RDKafkaErrorCode::BrokerTransportFailure);
        let resolve = Some(RDKafkaErrorCode::Resolve);
        assert!(reports.is_news(transport));
        assert!(!reports.is_news(transport));
        assert!(reports.is_news(resolve));
        assert!(!reports.is_news(Some(RDKafkaErrorCode::AllBrokersDown)));
        reports.answered();
        assert!(reports.is_news(transport));
    }
}
