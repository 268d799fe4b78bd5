//! The consumers of a Kafka source, and what becomes of what they report.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rdkafka::{
    ClientConfig, ClientContext,
    config::FromClientConfigAndContext,
    consumer::{BaseConsumer, ConsumerContext},
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
};

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
