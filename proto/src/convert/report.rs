//! Task reports and what they hold.

use millstream_common::{
    failure::Failure,
    protocol::{
        BlockMeta, EventTimesSeen, SinkCommit, StateFile, TaskCounts, TaskOutput, TaskReport,
    },
};

use super::{ConversionError, json_text, parse_json, require, wire_all};
use crate::pb::{self, task_report::Outcome};

impl From<TaskReport> for pb::TaskReport {
    fn from(report: TaskReport) -> Self {
        let outcome = match report.outcome {
            Ok(output) => Outcome::Output(output.into()),
            Err(failure) => Outcome::Failure(failure.into()),
        };
        Self {
            task: Some(report.task.into()),
            outcome: Some(outcome),
            run_micros: report.run_micros,
        }
    }
}

impl TryFrom<pb::TaskReport> for TaskReport {
    type Error = ConversionError;

    fn try_from(report: pb::TaskReport) -> Result<Self, ConversionError> {
        let outcome = match require(report.outcome, "TaskReport", "outcome")? {
            Outcome::Output(output) => Ok(TaskOutput::try_from(output)?),
            Outcome::Failure(failure) => Err(Failure::try_from(failure)?),
        };
        Ok(Self {
            task: require(report.task, "TaskReport", "task")?.try_into()?,
            outcome,
            run_micros: report.run_micros,
        })
    }
}

impl From<TaskOutput> for pb::TaskOutput {
    fn from(output: TaskOutput) -> Self {
        let exchanges = output
            .exchanges
            .into_iter()
            .map(|partitions| pb::ExchangeOutput {
                partitions: wire_all(partitions),
            })
            .collect();
        Self {
            exchanges,
            result: output.result,
            sink: output.sink.map(Into::into),
            state: wire_all(output.state),
            event_times: wire_map(output.event_times),
            counts: Some(output.counts.into()),
        }
    }
}

impl TryFrom<pb::TaskOutput> for TaskOutput {
    type Error = ConversionError;

    fn try_from(output: pb::TaskOutput) -> Result<Self, ConversionError> {
        let exchanges = output
            .exchanges
            .into_iter()
            .map(|exchange| wire_all(exchange.partitions))
            .collect();
        Ok(Self {
            exchanges,
            result: output.result,
            sink: output.sink.map(TryInto::try_into).transpose()?,
            state: wire_all(output.state),
            event_times: wire_map(output.event_times),
            counts: require(output.counts, "TaskOutput", "counts")?.into(),
        })
    }
}

/// Values to the wire's, or back.
fn wire_map<A, B, T, U>(values: A) -> B
where
    A: IntoIterator<Item = (String, T)>,
    B: FromIterator<(String, U)>,
    T: Into<U>,
{
    let values = values.into_iter();
    values.map(|(name, value)| (name, value.into())).collect()
}

impl From<EventTimesSeen> for pb::EventTimesSeen {
    fn from(seen: EventTimesSeen) -> Self {
        Self {
            min: seen.min,
            max: seen.max,
            mean: seen.mean,
            count: seen.count,
            counted: seen.counted,
        }
    }
}

impl From<pb::EventTimesSeen> for EventTimesSeen {
    fn from(seen: pb::EventTimesSeen) -> Self {
        Self {
            min: seen.min,
            max: seen.max,
            mean: seen.mean,
            count: seen.count,
            counted: seen.counted,
        }
    }
}

impl From<BlockMeta> for pb::BlockMeta {
    fn from(meta: BlockMeta) -> Self {
        Self {
            bytes: meta.bytes,
            rows: meta.rows,
            checksum: meta.checksum,
        }
    }
}

impl From<pb::BlockMeta> for BlockMeta {
    fn from(meta: pb::BlockMeta) -> Self {
        Self {
            bytes: meta.bytes,
            rows: meta.rows,
            checksum: meta.checksum,
        }
    }
}

impl From<TaskCounts> for pb::TaskCounts {
    fn from(counts: TaskCounts) -> Self {
        Self {
            input_rows: counts.input_rows,
            input_bytes: counts.input_bytes,
            malformed: counts.malformed,
            shuffle_rows_read: counts.shuffle_rows_read,
            shuffle_rows_written: counts.shuffle_rows_written,
            output_rows: counts.output_rows,
            spilled_bytes: counts.spilled_bytes,
            kafka_records: counts.kafka_records,
            kafka_ranges_buffered: counts.kafka_ranges_buffered,
            kafka_ranges_awaited: counts.kafka_ranges_awaited,
            late_rows: counts.late_rows,
            state_rows_updated: counts.state_rows_updated,
            state_rows_removed: counts.state_rows_removed,
            state_memory_bytes: counts.state_memory_bytes,
            state_update_micros: counts.state_update_micros,
            state_removal_micros: counts.state_removal_micros,
            state_commit_micros: counts.state_commit_micros,
        }
    }
}

impl From<pb::TaskCounts> for TaskCounts {
    fn from(counts: pb::TaskCounts) -> Self {
        Self {
            input_rows: counts.input_rows,
            input_bytes: counts.input_bytes,
            malformed: counts.malformed,
            shuffle_rows_read: counts.shuffle_rows_read,
            shuffle_rows_written: counts.shuffle_rows_written,
            output_rows: counts.output_rows,
            spilled_bytes: counts.spilled_bytes,
            kafka_records: counts.kafka_records,
            kafka_ranges_buffered: counts.kafka_ranges_buffered,
            kafka_ranges_awaited: counts.kafka_ranges_awaited,
            late_rows: counts.late_rows,
            state_rows_updated: counts.state_rows_updated,
            state_rows_removed: counts.state_rows_removed,
            state_memory_bytes: counts.state_memory_bytes,
            state_update_micros: counts.state_update_micros,
            state_removal_micros: counts.state_removal_micros,
            state_commit_micros: counts.state_commit_micros,
        }
    }
}

impl From<SinkCommit> for pb::SinkCommit {
    fn from(commit: SinkCommit) -> Self {
        Self {
            partition: commit.partition,
            rows: commit.rows,
            checksum: commit.checksum,
            payload_json: json_text(&commit.payload),
        }
    }
}

impl TryFrom<pb::SinkCommit> for SinkCommit {
    type Error = ConversionError;

    fn try_from(commit: pb::SinkCommit) -> Result<Self, ConversionError> {
        Ok(Self {
            partition: commit.partition,
            rows: commit.rows,
            checksum: commit.checksum,
            payload: parse_json(&commit.payload_json, "SinkCommit", "payload_json")?,
        })
    }
}

impl From<StateFile> for pb::StateFile {
    fn from(file: StateFile) -> Self {
        Self {
            operator: file.operator,
            partition: file.partition,
            file: file.file,
            offset: file.offset,
            length: file.length,
            checksum: file.checksum,
            rows: file.rows,
        }
    }
}

impl From<pb::StateFile> for StateFile {
    fn from(file: pb::StateFile) -> Self {
        Self {
            operator: file.operator,
            partition: file.partition,
            file: file.file,
            offset: file.offset,
            length: file.length,
            checksum: file.checksum,
            rows: file.rows,
        }
    }
}
