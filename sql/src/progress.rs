//! What a query tells of its batches, under Spark's names.

use std::collections::BTreeMap;

use jiff::Timestamp;
use millstream_driver::query::progress::BatchProgress;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

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
    /// From its start to its commit, milliseconds.
    pub batch_duration: u64,
    /// Rows read.
    pub num_input_rows: u64,
    /// Rows a second that arrived since the batch before.
    pub input_rows_per_second: f64,
    /// Rows a second that were processed.
    pub processed_rows_per_second: f64,
    /// How long parts of it took, milliseconds.
    pub duration_ms: BTreeMap<String, u64>,
    /// Its watermark, where the query has one.
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
    /// Groups that the watermark let go.
    pub num_rows_removed: u64,
    /// Rows of the shuffle that were late and left out.
    pub num_rows_dropped_by_watermark: u64,
    /// Bytes of its files.
    pub memory_used_bytes: u64,
    /// Its partitions.
    pub num_shuffle_partitions: u32,
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
    /// Rows, where the source knows.
    pub num_input_rows: u64,
    /// How far it is behind, by partition.
    pub lag: BTreeMap<String, u64>,
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

/// What of a query stays the same.
pub(crate) struct Identity<'q> {
    pub(crate) id: Uuid,
    pub(crate) run_id: Uuid,
    pub(crate) name: Option<&'q str>,
    pub(crate) sources: &'q [String],
    pub(crate) sink: &'q str,
    pub(crate) has_event_time: bool,
}

/// An event time so far ahead of its batch is told of: the watermark follows it, and what is older is late from then on.
const AHEAD_MILLIS: i64 = 3_600_000;

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

impl StreamingQueryProgress {
    pub(crate) fn of(
        query: &Identity<'_>,
        batch: &BatchProgress,
        before: Option<&BatchProgress>,
    ) -> Self {
        let counts = &batch.summary.counts;
        let since = before.map(|before| batch.batch_time.0.saturating_sub(before.batch_time.0));
        let millis = batch.processing_millis.round();
        let mut event_time = BTreeMap::new();
        if query.has_event_time {
            // As Spark: before any event time was seen it is the beginning of 1970.
            let watermark = instant(batch.watermarks.evict.unwrap_or(0));
            event_time.insert("watermark".to_owned(), watermark);
            if let Some(latest) = batch.summary.event_time_maxima.values().max() {
                event_time.insert("max".to_owned(), instant(*latest));
                let ahead = latest.saturating_sub(batch.batch_time.0);
                if ahead > AHEAD_MILLIS {
                    event_time.insert("aheadOfBatch".to_owned(), format!("PT{}S", ahead / 1_000));
                }
            }
        }
        let state_operators = batch.state.iter().map(|state| StateOperatorProgress {
            operator_name: state.operator.clone(),
            num_rows_total: state.rows,
            num_rows_updated: counts.state_rows_updated,
            num_rows_removed: counts.state_rows_removed,
            num_rows_dropped_by_watermark: counts.late_rows,
            memory_used_bytes: state.bytes,
            num_shuffle_partitions: state.partitions,
        });
        let is_alone = batch.sources.len() == 1;
        let sources = batch.sources.iter().enumerate();
        let sources = sources.map(|(number, source)| {
            let earlier = before.and_then(|before| before.sources.get(number));
            let known = query.sources.get(number);
            SourceProgress {
                description: known.unwrap_or(&source.id).clone(),
                start_offset: earlier.map_or(Value::Null, |earlier| earlier.position.clone()),
                end_offset: source.position.clone(),
                num_input_rows: match (source.rows, is_alone) {
                    (Some(rows), _) => rows,
                    (None, true) => counts.input_rows,
                    (None, false) => 0,
                },
                lag: source.lag.iter().cloned().collect(),
            }
        });
        Self {
            id: query.id,
            run_id: query.run_id,
            name: query.name.map(str::to_owned),
            timestamp: instant(batch.batch_time.0),
            batch_id: batch.batch.0,
            batch_duration: millis as u64,
            num_input_rows: counts.input_rows,
            input_rows_per_second: since
                .map_or(0.0, |since| per_second(counts.input_rows, since as f64)),
            processed_rows_per_second: per_second(counts.input_rows, batch.processing_millis),
            duration_ms: BTreeMap::from([("triggerExecution".to_owned(), millis as u64)]),
            event_time,
            state_operators: state_operators.collect(),
            sources: sources.collect(),
            sink: SinkProgress {
                description: query.sink.to_owned(),
                num_output_rows: counts.output_rows,
            },
        }
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
