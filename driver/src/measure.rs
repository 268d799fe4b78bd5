//! A query's progress as metrics.

use std::{collections::BTreeSet, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use millstream_common::{
    log_store::{self, LogStore, PutOutcome},
    telemetry::metrics::{BatchLabels, BatchOutcome, LagLabels, Metrics, QueryLabel},
    time::Clock,
};
use tokio::sync::broadcast::error::RecvError;

use crate::query::{entries, handle::QueryHandle, progress::BatchProgress};

/// A log store that measures how long entries of the offset log take to write.
pub(crate) struct MeasuredStore {
    pub store: Arc<dyn LogStore>,
    pub clock: Arc<dyn Clock>,
    pub metrics: Metrics,
}

impl fmt::Debug for MeasuredStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.store.fmt(formatter)
    }
}

#[async_trait]
impl LogStore for MeasuredStore {
    async fn put_if_absent(
        &self,
        name: &str,
        bytes: Bytes,
    ) -> Result<PutOutcome, log_store::Error> {
        let begun = self.clock.now();
        let put = self.store.put_if_absent(name, bytes).await;
        if name.starts_with(entries::OFFSETS) {
            let taken = self.clock.now().since(begun);
            self.metrics.driver().offset_log_write.observe(taken);
        }
        put
    }

    async fn get(&self, name: &str) -> Result<Option<Bytes>, log_store::Error> {
        self.store.get(name).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, log_store::Error> {
        self.store.list(prefix).await
    }

    async fn delete(&self, name: &str) -> Result<(), log_store::Error> {
        self.store.delete(name).await
    }

    fn location(&self) -> String {
        self.store.location()
    }
}

/// Counts every batch of the query until it is over; then its gauges are dropped.
pub(crate) async fn follow(query: QueryHandle, metrics: Metrics, name: String) {
    let mut batches = query.follow();
    let label = QueryLabel {
        query: name.clone(),
    };
    let mut lagging: BTreeSet<(String, String)> = BTreeSet::new();
    loop {
        match batches.recv().await {
            Ok(batch) => count(&metrics, &label, &batch, &mut lagging),
            // The counts of batches that were missed are missing from the metrics, nowhere else.
            Err(RecvError::Lagged(missed)) => {
                tracing::warn!(missed, "batches went by faster than they could be counted")
            }
            Err(RecvError::Closed) => break,
        }
    }
    if query.await_termination().await.is_err() {
        let failed = BatchLabels {
            query: name.clone(),
            outcome: BatchOutcome::Failed,
        };
        metrics.driver().batches.with(&failed).inc();
    }
    metrics.driver().queued_batches.remove(&label);
    for (source, partition) in lagging {
        metrics.driver().source_lag.remove(&LagLabels {
            query: name.clone(),
            source,
            partition,
        });
    }
}

fn count(
    metrics: &Metrics,
    label: &QueryLabel,
    batch: &BatchProgress,
    lagging: &mut BTreeSet<(String, String)>,
) {
    let driver = metrics.driver();
    let completed = BatchLabels {
        query: label.query.clone(),
        outcome: BatchOutcome::Committed,
    };
    driver.batches.with(&completed).inc();
    driver
        .batch_processing
        .with(label)
        .observe(millis(batch.processing_millis));
    driver
        .batch_scheduling_delay
        .with(label)
        .observe(millis(batch.scheduling_delay_millis));
    driver
        .queued_batches
        .with(label)
        .set(i64::try_from(batch.queued).unwrap_or(i64::MAX));
    driver.input_records.with(label).inc_by(batch.input_rows());
    driver.stages.inc_by(batch.summary.stages.len() as u64);
    for source in &batch.sources {
        for (partition, lag) in &source.lag {
            let labels = LagLabels {
                query: label.query.clone(),
                source: source.id.clone(),
                partition: partition.clone(),
            };
            driver
                .source_lag
                .with(&labels)
                .set(i64::try_from(*lag).unwrap_or(i64::MAX));
            lagging.insert((source.id.clone(), partition.clone()));
        }
    }
}

fn millis(millis: f64) -> Duration {
    Duration::try_from_secs_f64(millis / 1e3).unwrap_or_default()
}
