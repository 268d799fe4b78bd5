//! Every metric of driver and executor.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::instrument::{By, DurationHistogram, Instrument, MetricSpec, declare_metrics};
use super::labels::{
    BatchLabels, LagLabels, LocalityLevel, OperatorLabels, QueryLabel, RangeState, ReadOrigin,
    TaskOutcome,
};

declare_metrics! {
    /// What a driver counts.
    DriverMetrics "Driver" {
        /// Batches that ended.
        "millstream_driver_batches_total" batches: By<BatchLabels, Counter>;
        /// From a batch's start to its commit.
        "millstream_driver_batch_processing_seconds" batch_processing: By<QueryLabel, DurationHistogram>;
        /// From a batch's time to its start.
        "millstream_driver_batch_scheduling_delay_seconds" batch_scheduling_delay: By<QueryLabel, DurationHistogram>;
        /// Batches that wait behind the running one.
        "millstream_driver_queued_batches" queued_batches: By<QueryLabel, Gauge>;
        /// Records that committed batches took from their sources.
        "millstream_driver_input_records_total" input_records: By<QueryLabel, Counter>;
        /// Records that are in a partition of a source and in no committed batch yet.
        "millstream_driver_source_lag" source_lag: By<LagLabels, Gauge>;
        /// Groups in the state of an operator.
        "millstream_driver_state_rows" state_rows: By<OperatorLabels, Gauge>;
        /// Memory of an operator's state, over all executors.
        "millstream_driver_state_memory_bytes" state_memory: By<OperatorLabels, Gauge>;
        /// The files that an operator's state consists of.
        "millstream_driver_state_file_bytes" state_file_bytes: By<OperatorLabels, Gauge>;
        /// Groups of state that committed batches made or changed.
        "millstream_driver_state_rows_updated_total" state_rows_updated: By<OperatorLabels, Counter>;
        /// Groups of state that the watermark let go.
        "millstream_driver_state_rows_removed_total" state_rows_removed: By<OperatorLabels, Counter>;
        /// Rows that came to an operator behind the watermark and were left out.
        "millstream_driver_state_late_rows_total" state_late_rows: By<OperatorLabels, Counter>;
        /// Stages of batches that were committed.
        "millstream_driver_stages_total" stages: Counter;
        /// Attempts of stages made because blocks of an earlier attempt were lost.
        "millstream_driver_stage_reruns_total" stage_reruns: Counter;
        /// Attempts of tasks that ended.
        "millstream_driver_tasks_total" tasks: By<TaskOutcome, Counter>;
        /// Attempts of tasks made because an earlier attempt did not succeed.
        "millstream_driver_task_retries_total" task_retries: Counter;
        /// Attempts of tasks that had an executor to prefer (their consumer, block, state or producer is there), by whether they were placed on it.
        "millstream_driver_task_locality_total" task_locality: By<LocalityLevel, Counter>;
        /// Executors that are registered and alive.
        "millstream_driver_executors_alive" executors_alive: Gauge;
        /// Executors that went silent, lost their connection or died.
        "millstream_driver_executors_lost_total" executors_lost: Counter;
        /// Writing one entry of the offset log, its way to the disk included.
        "millstream_driver_offset_log_write_seconds" offset_log_write: DurationHistogram;
    }

    /// What an executor counts.
    ExecutorMetrics "Executor" {
        /// Tasks that run now.
        "millstream_executor_tasks_running" tasks_running: Gauge;
        /// Attempts of tasks that ended here.
        "millstream_executor_tasks_total" tasks: By<TaskOutcome, Counter>;
        /// From a task's start to its end.
        "millstream_executor_task_seconds" task_duration: DurationHistogram;
        /// Records read from Kafka by tasks that succeeded.
        "millstream_executor_kafka_records_total" kafka_records: Counter;
        /// Kafka ranges read by tasks that succeeded, by whether all records were there when the task came.
        "millstream_executor_kafka_ranges_total" kafka_ranges: By<RangeState, Counter>;
        /// Records that could not be decoded and were dropped or replaced, by tasks that succeeded.
        "millstream_executor_malformed_records_total" malformed_records: Counter;
        /// Bytes of blocks written, as they are stored.
        "millstream_executor_shuffle_written_bytes_total" shuffle_written_bytes: Counter;
        /// Records written into blocks, after combining.
        "millstream_executor_shuffle_written_records_total" shuffle_written_records: Counter;
        /// Bytes of blocks read, as they are stored.
        "millstream_executor_shuffle_read_bytes_total" shuffle_read_bytes: By<ReadOrigin, Counter>;
        /// Fetches of blocks that failed after all their tries.
        "millstream_executor_fetch_failures_total" fetch_failures: Counter;
        /// Blocks held in memory.
        "millstream_executor_blocks_memory_bytes" blocks_memory: Gauge;
        /// Bytes of tables and blocks moved to disk.
        "millstream_executor_spilled_bytes_total" spilled_bytes: Counter;
        /// Memory in use of `memory.budget`.
        "millstream_executor_memory_used_bytes" memory_used: Gauge;
        /// The part of it that the state of queries holds.
        "millstream_executor_state_memory_bytes" state_memory: Gauge;
        /// Merging the files of a state partition beside the tasks.
        "millstream_executor_state_merge_seconds" state_merge_duration: DurationHistogram;
        /// Rows written to sinks by tasks that succeeded.
        "millstream_executor_sink_rows_total" sink_rows: Counter;
    }
}
