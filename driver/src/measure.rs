//! A query's progress as metrics.

use std::{collections::BTreeSet, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use millstream_common::{
    log_store::{self, LogStore, PutOutcome},
    telemetry::metrics::{
        BatchLabels, BatchOutcome, DriverMetrics, LagLabels, Metrics, OperatorLabels, QueryLabel,
    },
    time::Clock,
};
use tokio::sync::broadcast::{Receiver, error::RecvError};

use crate::{
    query::{entries, progress::BatchProgress},
    view::Known,
};

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
pub(crate) async fn follow(
    query: Arc<Known>,
    mut batches: Receiver<Arc<BatchProgress>>,
    metrics: Metrics,
) {
    // However this ends.
    let _counted = query.counted.clone().drop_guard();
    if let Some(before) = &query.before {
        // The last query of this label drops its gauges first.
        before.cancelled().await;
    }
    let mut followed = Followed::new(&query, &metrics);
    loop {
        match batches.recv().await {
            Ok(batch) => followed.count(&batch),
            // The counts of batches that were missed are missing from the metrics, nowhere else.
            Err(RecvError::Lagged(missed)) => {
                tracing::warn!(missed, "batches went by faster than they could be counted")
            }
            Err(RecvError::Closed) => break,
        }
    }
    if query.handle.await_termination().await.is_err() {
        let failed = followed.outcome(BatchOutcome::Failed);
        metrics.driver().batches.with(&failed).inc();
    }
    followed.drop_gauges();
}

/// Drops what was counted of a query that is shown no longer.
pub(crate) fn forget(metrics: &Metrics, query: &Known) {
    let driver = metrics.driver();
    let label = QueryLabel {
        query: query.label.clone(),
    };
    for outcome in [BatchOutcome::Committed, BatchOutcome::Failed] {
        driver.batches.remove(&BatchLabels {
            query: query.label.clone(),
            outcome,
        });
    }
    driver.batch_processing.remove(&label);
    driver.batch_scheduling_delay.remove(&label);
    driver.input_records.remove(&label);
    for stage in &query.plan.stages {
        for operator in &stage.stateful {
            let labels = OperatorLabels {
                query: query.label.clone(),
                operator: operator.id.clone(),
            };
            driver.state_rows_updated.remove(&labels);
            driver.state_rows_removed.remove(&labels);
            driver.state_late_rows.remove(&labels);
        }
    }
}

/// What of a query's metrics there is.
struct Followed<'m> {
    driver: &'m DriverMetrics,
    label: QueryLabel,
    /// Its gauges are nobody else's.
    has_gauges: bool,
    lagging: BTreeSet<(String, String)>,
    operators: BTreeSet<String>,
}

impl<'m> Followed<'m> {
    fn new(query: &Known, metrics: &'m Metrics) -> Self {
        Self {
            driver: metrics.driver(),
            label: QueryLabel {
                query: query.label.clone(),
            },
            has_gauges: !query.info.is_passing,
            lagging: BTreeSet::new(),
            operators: BTreeSet::new(),
        }
    }

    fn outcome(&self, outcome: BatchOutcome) -> BatchLabels {
        BatchLabels {
            query: self.label.query.clone(),
            outcome,
        }
    }

    fn lag_of(&self, source: &str, partition: &str) -> LagLabels {
        LagLabels {
            query: self.label.query.clone(),
            source: source.to_owned(),
            partition: partition.to_owned(),
        }
    }

    fn operator(&self, operator: &str) -> OperatorLabels {
        OperatorLabels {
            query: self.label.query.clone(),
            operator: operator.to_owned(),
        }
    }

    fn count(&mut self, batch: &BatchProgress) {
        let driver = self.driver;
        let label = &self.label;
        let completed = self.outcome(BatchOutcome::Committed);
        driver.batches.with(&completed).inc();
        driver
            .batch_processing
            .with(label)
            .observe(millis(batch.processing_millis));
        driver
            .batch_scheduling_delay
            .with(label)
            .observe(millis(batch.scheduling_delay_millis));
        driver.input_records.with(label).inc_by(batch.input_rows());
        driver.stages.inc_by(batch.summary.stages.len() as u64);
        if self.has_gauges {
            self.set_gauges(batch);
        }
        for state in &batch.state {
            let labels = self.operator(&state.operator);
            let counts = &state.counts;
            let updated = driver.state_rows_updated.with(&labels);
            updated.inc_by(counts.state_rows_updated);
            let removed = driver.state_rows_removed.with(&labels);
            removed.inc_by(counts.state_rows_removed);
            let late = driver.state_late_rows.with(&labels);
            late.inc_by(counts.late_rows);
        }
    }

    fn set_gauges(&mut self, batch: &BatchProgress) {
        let driver = self.driver;
        driver
            .queued_batches
            .with(&self.label)
            .set(gauge(batch.queued as u64));
        for source in &batch.sources {
            for (partition, lag) in &source.lag {
                let labels = self.lag_of(&source.id, partition);
                driver.source_lag.with(&labels).set(gauge(*lag));
                self.lagging.insert((source.id.clone(), partition.clone()));
            }
        }
        for state in &batch.state {
            let labels = self.operator(&state.operator);
            driver.state_rows.with(&labels).set(gauge(state.rows));
            driver
                .state_file_bytes
                .with(&labels)
                .set(gauge(state.bytes));
            let memory = state.counts.state_memory_bytes;
            driver.state_memory.with(&labels).set(gauge(memory));
            self.operators.insert(state.operator.clone());
        }
    }

    fn drop_gauges(&self) {
        if !self.has_gauges {
            return;
        }
        let driver = self.driver;
        driver.queued_batches.remove(&self.label);
        for (source, partition) in &self.lagging {
            driver.source_lag.remove(&self.lag_of(source, partition));
        }
        for operator in &self.operators {
            let labels = self.operator(operator);
            driver.state_rows.remove(&labels);
            driver.state_file_bytes.remove(&labels);
            driver.state_memory.remove(&labels);
        }
    }
}

fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn millis(millis: f64) -> Duration {
    Duration::try_from_secs_f64(millis / 1e3).unwrap_or_default()
}
