//! The consumers of a Kafka source, and what becomes of what they report.

use rdkafka::{
    ClientConfig, ClientContext,
    config::FromClientConfigAndContext,
    consumer::{BaseConsumer, ConsumerContext},
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
};

/// A consumer of the source.
pub(super) type Consumer = BaseConsumer<Reports>;

/// Logs what a client reports; ends of partitions are no trouble.
pub(super) struct Reports;

impl ClientContext for Reports {
    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::PartitionEOF) {
            tracing::warn!(%error, reason, "Kafka client reports");
        }
    }
}

impl ConsumerContext for Reports {}

/// Makes a consumer.
pub(super) fn consumer(config: &ClientConfig) -> KafkaResult<Consumer> {
    Consumer::from_config_and_context(config, Reports)
}
