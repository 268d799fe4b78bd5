//! What a query tells of itself, under Spark's names: the JSON of `StreamingQueryProgress` and `StreamingQueryStatus`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use millstream_dataflow::plan::Plan;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::query::{
    handle::{QueryHandle, QueryState},
    progress::{self, BatchProgress, StateProgress},
};

/// What of a query stays the same, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryInfo {
    /// The run's identity.
    pub run_id: Uuid,
    /// The query's name.
    pub name: Option<String>,
    /// What each source is.
    pub sources: Vec<String>,
    /// What is written to.
    pub sink: String,
    /// Whether the query watches event times.
    pub has_event_time: bool,
    /// It reads what is there, ends, and has no place among the queries that are shown.
    pub is_passing: bool,
}

impl QueryInfo {
    /// Of a query that has no other words for its sources and outputs than their ids.
    pub fn of_plan(name: &str, plan: &Plan) -> Self {
        let outputs: Vec<&str> = plan
            .outputs
            .iter()
            .map(|output| output.id.as_str())
            .collect();
        Self {
            run_id: Uuid::new_v4(),
            name: Some(name.to_owned()),
            sources: plan
                .sources
                .iter()
                .map(|source| source.id.clone())
                .collect(),
            sink: outputs.join(", "),
            has_event_time: false,
            is_passing: false,
        }
    }
}

/// A batch of a query.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StreamingQueryProgress {
    /// The query's identity, that of its checkpoint.
    pub id: Uuid,
    /// The run's identity.
    pub run_id: Uuid,
    /// The query's name.
    pub name: Option<String>,
    /// The batch's time, in UTC.
    pub timestamp: String,
    /// The batch's number.
    pub batch_id: u64,
    /// From asking the sources to the commit, milliseconds.
    pub batch_duration: u64,
    /// Rows read.
    pub num_input_rows: u64,
    /// Rows a second that arrived since the batch before.
    pub input_rows_per_second: f64,
    /// Rows a second that were processed.
    pub processed_rows_per_second: f64,
    /// How long parts of it took, milliseconds: `latestOffset`, `walCommit`, `addBatch`, `commitOffsets`, and all of it as `triggerExecution`.
    pub duration_ms: BTreeMap<String, u64>,
    /// Its `watermark`, where the query has one, and of the event times that it saw `min`, `avg` and `max`, and
    /// `aheadOfBatch` when the latest is further ahead of the batch than `watermark.max_ahead`, and so doesn't count for the watermark.
    pub event_time: BTreeMap<String, String>,
    /// Operators that keep state.
    pub state_operators: Vec<StateOperatorProgress>,
    /// What was read.
    pub sources: Vec<SourceProgress>,
    /// What was written.
    pub sink: SinkProgress,
}

/// An operator's state after a batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StateOperatorProgress {
    /// Its stable id.
    pub operator_name: String,
    /// Groups.
    pub num_rows_total: u64,
    /// Groups that the batch made or changed.
    pub num_rows_updated: u64,
    /// Finding and changing them, milliseconds over all tasks.
    pub all_updates_time_ms: u64,
    /// Groups that the watermark let go.
    pub num_rows_removed: u64,
    /// Finding them, milliseconds over all tasks.
    pub all_removals_time_ms: u64,
    /// Making the changes durable, milliseconds over all tasks.
    pub commit_time_ms: u64,
    /// Memory of the groups on the executors, bytes.
    pub memory_used_bytes: u64,
    /// Rows of the shuffle that were late and left out.
    pub num_rows_dropped_by_watermark: u64,
    /// Its partitions.
    pub num_shuffle_partitions: u32,
    /// Partitions that have any state.
    pub num_state_store_instances: u32,
    /// What Spark has no name for: `stateFileBytes`, the files that the state consists of.
    pub custom_metrics: BTreeMap<String, u64>,
}

/// What a batch read of a source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceProgress {
    /// What it is.
    pub description: String,
    /// Its position before.
    pub start_offset: Value,
    /// Its position after.
    pub end_offset: Value,
    /// The newest position that it had, where it knows.
    pub latest_offset: Value,
    /// Rows.
    pub num_input_rows: u64,
    /// Rows a second that arrived since the batch before.
    pub input_rows_per_second: f64,
    /// Rows a second that were processed.
    pub processed_rows_per_second: f64,
    /// Of sources with offsets, how far the batch left them behind: `minOffsetsBehindLatest`, `avgOffsetsBehindLatest`, `maxOffsetsBehindLatest`.
    pub metrics: BTreeMap<String, String>,
}

/// What a batch wrote.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SinkProgress {
    /// Where.
    pub description: String,
    /// Rows.
    pub num_output_rows: u64,
}

/// What a query does now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StreamingQueryStatus {
    /// For people.
    pub message: String,
    /// Whether there is something that no batch has taken.
    pub is_data_available: bool,
    /// Whether a batch runs.
    pub is_trigger_active: bool,
}

impl StreamingQueryStatus {
    /// What this query does.
    pub fn of(query: &QueryHandle) -> Self {
        let status = query.status().borrow().clone();
        let is_trigger_active = status.running.is_some();
        let message = if query.state() == QueryState::Stopped {
            "Stopped".to_owned()
        } else if status.waits_for_executor {
            "Waiting for an executor".to_owned()
        } else if let Some(source) = status.waits_for_source {
            format!("Waiting for source {source}")
        } else if is_trigger_active {
            "Processing new data".to_owned()
        } else {
            "Waiting for data to arrive".to_owned()
        };
        Self {
            message,
            is_data_available: is_trigger_active || status.queued > 0,
            is_trigger_active,
        }
    }
}

/// Milliseconds since 1970 as Spark writes them.
fn instant(millis: i64) -> String {
    match Timestamp::from_millisecond(millis) {
        Ok(time) => time.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string(),
        Err(_) => millis.to_string(),
    }
}

fn per_second(rows: u64, millis: f64) -> f64 {
    if millis <= 0.0 {
        return 0.0;
    }
    rows as f64 * 1_000.0 / millis
}

/// How long a batch took, milliseconds.
struct Taken {
    /// All of it.
    whole: f64,
    /// Since the batch before; nothing for the first of a run.
    since: Option<f64>,
}

impl Taken {
    fn of(batch: &BatchProgress, before: Option<&BatchProgress>) -> Self {
        let since = before.map(|before| batch.batch_time.0.saturating_sub(before.batch_time.0));
        Self {
            whole: batch.processing_millis + batch.parts.planning.as_secs_f64() * 1e3,
            since: since.map(|millis| millis as f64),
        }
    }

    fn input_rate(&self, rows: u64) -> f64 {
        self.since.map_or(0.0, |since| per_second(rows, since))
    }
}

impl StreamingQueryProgress {
    /// What a batch comes to; `before` is the one before it in the same run.
    pub fn of(query: &QueryInfo, batch: &BatchProgress, before: Option<&BatchProgress>) -> Self {
        let counts = &batch.summary.counts;
        let taken = Taken::of(batch, before);
        let sources = batch.sources.iter().enumerate().map(|(number, source)| {
            let known = query.sources.get(number);
            source_progress(known.unwrap_or(&source.id), source, &taken)
        });
        Self {
            id: batch.query.0,
            run_id: query.run_id,
            name: query.name.clone(),
            timestamp: instant(batch.batch_time.0),
            batch_id: batch.batch.0,
            batch_duration: taken.whole.round() as u64,
            num_input_rows: counts.input_rows,
            input_rows_per_second: taken.input_rate(counts.input_rows),
            processed_rows_per_second: per_second(counts.input_rows, taken.whole),
            duration_ms: durations(batch, &taken),
            event_time: event_time(query, batch),
            state_operators: batch.state.iter().map(state_progress).collect(),
            sources: sources.collect(),
            sink: SinkProgress {
                description: query.sink.clone(),
                num_output_rows: counts.output_rows,
            },
        }
    }

    /// The newest batches of a query, oldest first.
    pub fn recent(query: &QueryInfo, handle: &QueryHandle) -> Vec<Self> {
        let batches = handle.recent();
        let mut before = None;
        let mut progress = Vec::with_capacity(batches.len());
        for batch in &batches {
            progress.push(Self::of(query, batch, before));
            before = Some(batch.as_ref());
        }
        progress
    }

    /// The newest batch of a query.
    pub fn last(query: &QueryInfo, handle: &QueryHandle) -> Option<Self> {
        let batches = handle.recent();
        let (last, earlier) = batches.split_last()?;
        let before = earlier.last().map(|batch| batch.as_ref());
        Some(Self::of(query, last, before))
    }

    /// As JSON on one line.
    pub fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// As JSON that is easy to read.
    pub fn pretty_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

fn durations(batch: &BatchProgress, taken: &Taken) -> BTreeMap<String, u64> {
    let parts = &batch.parts;
    let millis = |name: &str, part: std::time::Duration| {
        (name.to_owned(), (part.as_secs_f64() * 1e3).round() as u64)
    };
    BTreeMap::from([
        millis("latestOffset", parts.planning),
        millis("walCommit", parts.logging),
        millis("addBatch", parts.running),
        millis("commitOffsets", parts.committing),
        ("triggerExecution".to_owned(), taken.whole.round() as u64),
    ])
}

fn event_time(query: &QueryInfo, batch: &BatchProgress) -> BTreeMap<String, String> {
    let mut event_time = BTreeMap::new();
    if !query.has_event_time {
        return event_time;
    }
    // As Spark: before any event time was seen it is the beginning of 1970.
    let watermark = instant(batch.watermarks.evict.unwrap_or(0));
    event_time.insert("watermark".to_owned(), watermark);
    let seen = batch.summary.event_times.values().copied();
    if let Some(seen) = seen.reduce(|all, seen| all.and(&seen)) {
        event_time.insert("min".to_owned(), instant(seen.min));
        event_time.insert("avg".to_owned(), instant(seen.mean.round() as i64));
        event_time.insert("max".to_owned(), instant(seen.max));
        if seen.counted < Some(seen.max) {
            let ahead = seen.max.saturating_sub(batch.batch_time.0);
            event_time.insert("aheadOfBatch".to_owned(), format!("PT{}S", ahead / 1_000));
        }
    }
    event_time
}

fn state_progress(state: &StateProgress) -> StateOperatorProgress {
    let counts = &state.counts;
    StateOperatorProgress {
        operator_name: state.operator.clone(),
        num_rows_total: state.rows,
        num_rows_updated: counts.state_rows_updated,
        all_updates_time_ms: counts.state_update_micros / 1_000,
        num_rows_removed: counts.state_rows_removed,
        all_removals_time_ms: counts.state_removal_micros / 1_000,
        commit_time_ms: counts.state_commit_micros / 1_000,
        memory_used_bytes: counts.state_memory_bytes,
        num_rows_dropped_by_watermark: counts.late_rows,
        num_shuffle_partitions: state.partitions,
        num_state_store_instances: state.partitions,
        custom_metrics: BTreeMap::from([("stateFileBytes".to_owned(), state.bytes)]),
    }
}

fn source_progress(
    description: &str,
    source: &progress::SourceProgress,
    taken: &Taken,
) -> SourceProgress {
    SourceProgress {
        description: description.to_owned(),
        start_offset: source.before.clone(),
        end_offset: source.position.clone(),
        latest_offset: source.latest.clone(),
        num_input_rows: source.read,
        input_rows_per_second: taken.input_rate(source.read),
        processed_rows_per_second: per_second(source.read, taken.whole),
        metrics: behind(&source.position, &source.latest),
    }
}

/// How far the partitions are behind after the batch, for positions by topic and partition.
fn behind(position: &Value, latest: &Value) -> BTreeMap<String, String> {
    let mut all: Vec<i64> = Vec::new();
    for (topic, partitions) in latest.as_object().into_iter().flatten() {
        for (partition, end) in partitions.as_object().into_iter().flatten() {
            let reached = &position[topic.as_str()][partition.as_str()];
            if let (Some(end), Some(reached)) = (end.as_i64(), reached.as_i64()) {
                all.push(end.saturating_sub(reached).max(0));
            }
        }
    }
    let (Some(least), Some(most)) = (all.iter().min(), all.iter().max()) else {
        return BTreeMap::new();
    };
    let mean = all.iter().sum::<i64>() as f64 / all.len() as f64;
    BTreeMap::from([
        ("minOffsetsBehindLatest".to_owned(), least.to_string()),
        ("avgOffsetsBehindLatest".to_owned(), format!("{mean:?}")),
        ("maxOffsetsBehindLatest".to_owned(), most.to_string()),
    ])
}

#[cfg(test)]
mod tests {
    use millstream_common::{
        ids::{BatchId, Epoch, QueryId},
        protocol::{EventTimesSeen, TaskCounts, Watermarks},
        time::BatchTime,
    };
    use serde_json::json;

    use super::*;
    use crate::{query::progress::PartTimes, scheduler::message::BatchSummary};

    fn batch(number: u64, time: i64) -> BatchProgress {
        let millis = std::time::Duration::from_millis;
        let seen = |min, max, mean, count| EventTimesSeen {
            min,
            max,
            counted: Some(max),
            mean,
            count,
        };
        BatchProgress {
            query: QueryId(Uuid::nil()),
            epoch: Epoch(1),
            batch: BatchId(number),
            batch_time: BatchTime(time),
            rerun: false,
            scheduling_delay_millis: 0.0,
            processing_millis: 400.0,
            queued: 0,
            parts: PartTimes {
                planning: millis(100),
                logging: millis(50),
                running: millis(300),
                committing: millis(50),
            },
            watermarks: Watermarks {
                late: None,
                evict: Some(1_500),
            },
            sources: vec![progress::SourceProgress {
                id: "kafka-0".to_owned(),
                splits: 2,
                before: json!({ "events": { "0": 5, "1": 7 } }),
                position: json!({ "events": { "0": 10, "1": 9 } }),
                latest: json!({ "events": { "0": 10, "1": 12 } }),
                rows: Some(7),
                read: 7,
                lag: Vec::new(),
            }],
            summary: BatchSummary {
                counts: TaskCounts {
                    input_rows: 7,
                    output_rows: 3,
                    ..TaskCounts::default()
                },
                event_times: [
                    ("a".to_owned(), seen(1_000, 4_000, 2_000.0, 3)),
                    ("b".to_owned(), seen(3_000, 5_000, 4_000.0, 1)),
                ]
                .into(),
                ..BatchSummary::default()
            },
            state: vec![StateProgress {
                operator: "aggregate-0".to_owned(),
                rows: 11,
                bytes: 900,
                partitions: 4,
                counts: TaskCounts {
                    late_rows: 1,
                    state_rows_updated: 2,
                    state_rows_removed: 3,
                    state_memory_bytes: 4_000,
                    state_update_micros: 5_000,
                    state_removal_micros: 6_000,
                    state_commit_micros: 7_000,
                    ..TaskCounts::default()
                },
            }],
        }
    }

    #[test]
    fn a_batch_is_told_as_spark_tells_it() {
        let query = QueryInfo {
            run_id: Uuid::max(),
            name: Some("counts".to_owned()),
            sources: vec!["KafkaV2[Subscribe[events]]".to_owned()],
            sink: "MemorySink".to_owned(),
            has_event_time: true,
            is_passing: false,
        };
        let told = StreamingQueryProgress::of(&query, &batch(4, 7_000), Some(&batch(3, 5_000)));
        let told: Value = serde_json::from_str(&told.json()).unwrap();
        let expected = json!({
            "id": Uuid::nil(),
            "runId": Uuid::max(),
            "name": "counts",
            "timestamp": "1970-01-01T00:00:07.000Z",
            "batchId": 4,
            "batchDuration": 500,
            "numInputRows": 7,
            "inputRowsPerSecond": 3.5,
            "processedRowsPerSecond": 14.0,
            "durationMs": {
                "latestOffset": 100,
                "walCommit": 50,
                "addBatch": 300,
                "commitOffsets": 50,
                "triggerExecution": 500,
            },
            "eventTime": {
                "min": "1970-01-01T00:00:01.000Z",
                "avg": "1970-01-01T00:00:02.500Z",
                "max": "1970-01-01T00:00:05.000Z",
                "watermark": "1970-01-01T00:00:01.500Z",
            },
            "stateOperators": [{
                "operatorName": "aggregate-0",
                "numRowsTotal": 11,
                "numRowsUpdated": 2,
                "allUpdatesTimeMs": 5,
                "numRowsRemoved": 3,
                "allRemovalsTimeMs": 6,
                "commitTimeMs": 7,
                "memoryUsedBytes": 4000,
                "numRowsDroppedByWatermark": 1,
                "numShufflePartitions": 4,
                "numStateStoreInstances": 4,
                "customMetrics": { "stateFileBytes": 900 },
            }],
            "sources": [{
                "description": "KafkaV2[Subscribe[events]]",
                "startOffset": { "events": { "0": 5, "1": 7 } },
                "endOffset": { "events": { "0": 10, "1": 9 } },
                "latestOffset": { "events": { "0": 10, "1": 12 } },
                "numInputRows": 7,
                "inputRowsPerSecond": 3.5,
                "processedRowsPerSecond": 14.0,
                "metrics": {
                    "minOffsetsBehindLatest": "0",
                    "avgOffsetsBehindLatest": "1.5",
                    "maxOffsetsBehindLatest": "3",
                },
            }],
            "sink": { "description": "MemorySink", "numOutputRows": 3 },
        });
        assert_eq!(told, expected);
    }

    #[test]
    fn without_a_batch_before_nothing_is_said_of_what_arrives() {
        let query = QueryInfo {
            run_id: Uuid::nil(),
            name: None,
            sources: Vec::new(),
            sink: "NoopTable".to_owned(),
            has_event_time: false,
            is_passing: false,
        };
        let told = StreamingQueryProgress::of(&query, &batch(0, 7_000), None);
        assert_eq!(told.input_rows_per_second, 0.0);
        assert_eq!(told.sources[0].description, "kafka-0");
        assert!(told.event_time.is_empty());
    }
}
