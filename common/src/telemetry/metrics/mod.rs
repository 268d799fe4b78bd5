//! Metrics: one table of all of them, and the handle through which driver and executor count.
//!
//! Names are `millstream_<component>_<what>`, then the unit (`seconds`, `bytes`), then `total` for a counter.
//!
//! ```
//! use millstream_common::telemetry::metrics::{Metrics, TaskOutcome};
//!
//! let metrics = Metrics::of_executor();
//! metrics.executor().tasks.with(&TaskOutcome::Succeeded).inc();
//! assert!(metrics.encode().contains("millstream_executor_tasks_total{outcome=\"succeeded\"} 1"));
//! ```
//!
//! Layout:
//!
//! * `table`: every metric
//! * `instrument`: the kinds of metrics, and the macro that declares them
//! * `labels`: the labels and their values

mod instrument;
mod labels;
mod table;

use std::fmt::Write;
use std::sync::Arc;

use prometheus_client::registry::Registry;

pub use instrument::{By, DurationHistogram, Instrument, MetricSpec};
pub use labels::{
    BatchLabels, BatchOutcome, Labels, LagLabels, LocalityLevel, OperatorLabels, QueryLabel,
    RangeState, ReadOrigin, TaskOutcome,
};
pub use prometheus_client::metrics::counter::Counter;
pub use prometheus_client::metrics::gauge::Gauge;
pub use table::{DriverMetrics, ExecutorMetrics};

/// The content type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The metrics of one process. Cheap to clone; all clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    registry: Registry,
    driver: DriverMetrics,
    executor: ExecutorMetrics,
}

impl Metrics {
    /// For a driver without task slots of its own.
    pub fn of_driver() -> Self {
        Self::new(true, false)
    }

    /// For an executor.
    pub fn of_executor() -> Self {
        Self::new(false, true)
    }

    /// For a process that is both, as on `local[N]`.
    pub fn of_both() -> Self {
        Self::new(true, true)
    }

    fn new(is_driver: bool, is_executor: bool) -> Self {
        let driver = DriverMetrics::new();
        let executor = ExecutorMetrics::new();
        let mut registry = Registry::default();
        if is_driver {
            driver.register(&mut registry);
        }
        if is_executor {
            executor.register(&mut registry);
        }
        let inner = Inner {
            registry,
            driver,
            executor,
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// The driver's metrics. In a process that is no driver they can be counted and are not shown.
    pub fn driver(&self) -> &DriverMetrics {
        &self.inner.driver
    }

    /// The executor's metrics. In a process that is no executor they can be counted and are not shown.
    pub fn executor(&self) -> &ExecutorMetrics {
        &self.inner.executor
    }

    /// All metrics in the OpenMetrics text format, which Prometheus reads; see [`CONTENT_TYPE`].
    pub fn encode(&self) -> String {
        let mut text = String::new();
        if prometheus_client::encoding::text::encode(&mut text, &self.inner.registry).is_err() {
            tracing::error!("metrics could not be written");
        }
        text
    }
}

/// Every metric, the driver's first.
pub fn specs() -> impl Iterator<Item = &'static MetricSpec> {
    table::SPECS.iter().flat_map(|(_, specs)| specs.iter())
}

const INTRODUCTION: &str = "\
<!-- Made from the table in common/src/telemetry/metrics/table.rs. Renew: UPDATE_DOCS=1 cargo test -p millstream-common --test docs -->

# Metrics

Driver and executors each serve their own at `/metrics`, in the OpenMetrics text format that Prometheus reads. A process
that runs driver and tasks in one (`local[N]`) serves both kinds. The addresses are `driver.http` and `executor.http`;
`metrics.enabled=false` turns them off.

A histogram `NAME` is served as `NAME_bucket`, `NAME_sum` and `NAME_count`. The label `query` is the name of the
query; that of a query without a name is the application's name, or where another query has that already, the identity of its
run. What `session.read()` reads is counted as `(read)`. A query's gauges end with it, and its counters when REST no longer shows it.
";

/// The reference of all metrics as a Markdown page.
pub fn reference_markdown() -> String {
    let mut page = INTRODUCTION.to_owned();
    for (title, specs) in table::SPECS {
        let _ = write!(
            page,
            "\n## {title}\n\n| Metric | Kind | Labels | What it says |\n| --- | --- | --- | --- |\n"
        );
        for spec in *specs {
            let labels: Vec<String> = spec
                .labels
                .iter()
                .map(labels::LabelSpec::describe)
                .collect();
            let _ = writeln!(
                page,
                "| `{}` | {} | {} | {} |",
                spec.name,
                spec.kind,
                labels.join("; "),
                spec.help(),
            );
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::Duration;

    use super::*;

    #[test]
    fn names_follow_the_rule() {
        let mut seen = HashSet::new();
        for spec in specs() {
            let name = spec.name;
            assert!(seen.insert(name), "{name} stands twice");
            let component = name.strip_prefix("millstream_").expect("the prefix");
            assert!(component.starts_with("driver_") || component.starts_with("executor_"));
            assert_eq!(name.ends_with("_total"), spec.kind == "counter", "{name}");
            if spec.kind == "histogram" {
                assert!(name.ends_with("_seconds"), "{name}");
            }
            assert!(spec.help().ends_with('.'), "{name}");
        }
    }

    #[test]
    fn every_metric_is_served_under_its_name() {
        let metrics = Metrics::of_both();
        // What has free labels is served once it is counted.
        let driver = metrics.driver();
        let query = QueryLabel {
            query: "q1".to_owned(),
        };
        driver.batch_processing.with(&query);
        driver.batch_scheduling_delay.with(&query);
        driver.queued_batches.with(&query);
        driver.input_records.with(&query);
        driver.batches.with(&BatchLabels {
            query: "q1".to_owned(),
            outcome: BatchOutcome::Failed,
        });
        driver.source_lag.with(&LagLabels {
            query: "q1".to_owned(),
            source: "kafka-0".to_owned(),
            partition: "lines-3".to_owned(),
        });
        let operator = OperatorLabels {
            query: "q1".to_owned(),
            operator: "aggregate-0".to_owned(),
        };
        driver.state_rows.with(&operator);
        driver.state_memory.with(&operator);
        driver.state_file_bytes.with(&operator);
        driver.state_rows_updated.with(&operator);
        driver.state_rows_removed.with(&operator);
        driver.state_late_rows.with(&operator);
        let text = metrics.encode();
        for spec in specs() {
            // OpenMetrics names a counter's family without the suffix.
            let family = spec.name.strip_suffix("_total").unwrap_or(spec.name);
            let line = format!("# TYPE {family} {}\n", spec.kind);
            assert!(text.contains(&line), "{line} is not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn a_process_serves_what_it_is() {
        assert!(
            !Metrics::of_driver()
                .encode()
                .contains("millstream_executor_")
        );
        assert!(
            !Metrics::of_executor()
                .encode()
                .contains("millstream_driver_")
        );
    }

    #[test]
    fn values_are_served_as_they_were_counted() {
        let metrics = Metrics::of_both();
        let clone = metrics.clone();
        let batch = BatchLabels {
            query: "q1".to_owned(),
            outcome: BatchOutcome::Committed,
        };
        clone.driver().batches.with(&batch).inc();
        let lag = LagLabels {
            query: "q1".to_owned(),
            source: "kafka-0".to_owned(),
            partition: "lines-3".to_owned(),
        };
        clone.driver().source_lag.with(&lag).set(42);
        let query = QueryLabel {
            query: "q1".to_owned(),
        };
        let processing = clone.driver().batch_processing.with(&query);
        processing.observe(Duration::from_millis(1_500));
        clone
            .executor()
            .shuffle_read_bytes
            .with(&ReadOrigin::Remote)
            .inc_by(7);
        clone.executor().memory_used.set(1_024);

        let text = metrics.encode();
        for line in [
            "millstream_driver_batches_total{query=\"q1\",outcome=\"committed\"} 1",
            "millstream_driver_source_lag{query=\"q1\",source=\"kafka-0\",partition=\"lines-3\"} 42",
            "millstream_driver_batch_processing_seconds_sum{query=\"q1\"} 1.5",
            "millstream_driver_batch_processing_seconds_count{query=\"q1\"} 1",
            "millstream_executor_shuffle_read_bytes_total{origin=\"remote\"} 7",
            // Known label values are there from the start.
            "millstream_executor_shuffle_read_bytes_total{origin=\"local\"} 0",
            "millstream_executor_memory_used_bytes 1024",
            "# UNIT millstream_executor_memory_used_bytes bytes",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }

        assert!(metrics.driver().source_lag.remove(&lag));
        assert!(!metrics.encode().contains("lines-3"));
    }
}
