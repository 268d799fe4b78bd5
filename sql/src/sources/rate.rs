//! Rows by the clock: so many a second, numbered from 0.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, Int64Array, TimestampMicrosecondArray},
    datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
    record_batch::RecordBatch,
};
use async_trait::async_trait;
use millstream_common::{
    failure::{Failure, FailureKind, Retry},
    ids::BatchId,
    time::Clock,
};
use millstream_connectors::source::{
    PlanRequest, PlannedInput, SourceDriver, SourceHistory, Split,
};
use millstream_dataflow::program::TaskContext;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{BATCH_ROWS, BatchReader, Bounds, batch};
use crate::{error::Error, options::Options};

/// Rows a second, so that the numbers of centuries fit their column.
const MOST_ROWS: u64 = 1_000_000_000;
/// Each is a split of each batch.
const MOST_PARTITIONS: u64 = 10_000;

/// How fast.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RateSource {
    rows_per_second: u64,
    partitions: u64,
}

impl RateSource {
    pub(crate) fn of(options: &mut Options, zone: &str) -> Result<(Self, SchemaRef), Error> {
        let within = |name: &str, value: Option<u64>, most: u64| match value.unwrap_or(1) {
            value if (1..=most).contains(&value) => Ok(value),
            value => {
                let reason = format!("it is at least 1 and at most {most}");
                Err(Error::option(name, &value.to_string(), reason))
            }
        };
        let rows = options.take_number("rowsPerSecond", "a number of rows")?;
        let partitions = options.take_number("numPartitions", "a number of partitions")?;
        let source = Self {
            rows_per_second: within("rowsPerSecond", rows, MOST_ROWS)?,
            partitions: within("numPartitions", partitions, MOST_PARTITIONS)?,
        };
        options.all_taken("rate", &["rowsPerSecond", "numPartitions"])?;
        let time = DataType::Timestamp(TimeUnit::Microsecond, Some(zone.into()));
        let schema = Schema::new(vec![
            Field::new("timestamp", time, true),
            Field::new("value", DataType::Int64, true),
        ]);
        Ok((source, Arc::new(schema)))
    }

    /// Which value a second begins with depends on it, so a query has one for good.
    pub(super) fn fingerprint(&self) -> Value {
        json!({ "rowsPerSecond": self.rows_per_second })
    }

    pub(super) fn driver(&self, clock: Arc<dyn Clock>, bounds: Bounds) -> Box<dyn SourceDriver> {
        Box::new(RateDriver {
            source: self.clone(),
            clock,
            only_present: bounds.only_present,
            end: None,
            started: 0,
            seconds: 0,
        })
    }
}

struct RateDriver {
    source: RateSource,
    clock: Arc<dyn Clock>,
    /// Rows end at the first look.
    only_present: bool,
    /// Seconds whose rows there are, then.
    end: Option<u64>,
    /// Wall-clock milliseconds.
    started: i64,
    /// Seconds since then whose rows were planned.
    seconds: u64,
}

/// Every `step`th row of a range.
#[derive(Serialize, Deserialize)]
struct Rows {
    from: u64,
    until: u64,
    step: u64,
    /// Microseconds since 1970 of row 0.
    started: i64,
    per_second: u64,
}

fn unreadable(value: &Value) -> Failure {
    Failure::new(
        FailureKind::Internal,
        format!("the offset log holds no position of a rate source but {value}"),
    )
    .with_retry(Retry::Never)
}

fn number(value: &Value) -> Result<i64, Failure> {
    value.as_i64().ok_or_else(|| unreadable(value))
}

#[async_trait]
impl SourceDriver for RateDriver {
    async fn start(&mut self) -> Result<Value, Failure> {
        self.started = self.clock.wall_millis();
        self.seconds = 0;
        Ok(json!({ "started": self.started, "seconds": 0 }))
    }

    async fn restore(&mut self, history: SourceHistory) -> Result<(), Failure> {
        let newest = history.logged.last();
        let position = newest.map_or(&history.start, |(_, input)| &input.position);
        self.started = number(&position["started"])?;
        self.seconds = u64::try_from(number(&position["seconds"])?).unwrap_or(0);
        Ok(())
    }

    async fn plan(&mut self, _request: PlanRequest) -> Result<PlannedInput, Failure> {
        let passed = self.clock.wall_millis().saturating_sub(self.started);
        let seconds = u64::try_from(passed / 1_000).unwrap_or(0).max(self.seconds);
        let seconds = match self.only_present {
            true => *self.end.get_or_insert(seconds),
            false => seconds,
        };
        let per_second = self.source.rows_per_second;
        let from = self.seconds.saturating_mul(per_second);
        let until = seconds.saturating_mul(per_second);
        self.seconds = seconds;
        let mut splits = Vec::new();
        for number in 0..self.source.partitions.min(until - from) {
            let rows = Rows {
                from: from + number,
                until,
                step: self.source.partitions,
                started: self.started.saturating_mul(1_000),
                per_second,
            };
            let split = serde_json::to_value(&rows).map_err(|error| {
                Failure::caused_by(FailureKind::Internal, "rows can't be written down", &error)
            })?;
            splits.push(Split {
                split,
                locality: None,
                rows: Some((until - rows.from).div_ceil(rows.step)),
            });
        }
        Ok(PlannedInput {
            splits,
            position: json!({ "started": self.started, "seconds": self.seconds }),
        })
    }

    async fn committed(&mut self, _batch: BatchId, _input: &PlannedInput) -> Result<(), Failure> {
        Ok(())
    }
}

struct RateReader {
    rows: Rows,
    schema: SchemaRef,
}

pub(super) fn open(split: &Value, schema: SchemaRef) -> Result<Box<dyn BatchReader>, Failure> {
    let rows = Rows::deserialize(split).map_err(|_| unreadable(split))?;
    Ok(Box::new(RateReader { rows, schema }))
}

impl BatchReader for RateReader {
    fn next(&mut self, task: &mut TaskContext<'_>) -> Result<Option<RecordBatch>, Failure> {
        task.cancel.check()?;
        let step = usize::try_from(self.rows.step).unwrap_or(usize::MAX);
        let values = (self.rows.from..self.rows.until).step_by(step);
        let values: Vec<u64> = values.take(BATCH_ROWS).collect();
        let Some(last) = values.last() else {
            return Ok(None);
        };
        self.rows.from = last.saturating_add(self.rows.step);
        task.counts.input_rows += values.len() as u64;
        let fields = self.schema.fields().iter();
        let columns = fields.map(|field| -> ArrayRef {
            if field.name() == "value" {
                let values = values.iter().map(|value| *value as i64);
                return Arc::new(Int64Array::from_iter_values(values));
            }
            let times = values.iter().map(|value| {
                let micros = u128::from(*value) * 1_000_000 / u128::from(self.rows.per_second);
                self.rows.started.saturating_add(micros as i64)
            });
            let zone = match field.data_type() {
                DataType::Timestamp(_, zone) => zone.clone(),
                _ => None,
            };
            let times = TimestampMicrosecondArray::from_iter_values(times);
            Arc::new(times.with_timezone_opt(zone))
        });
        batch(&self.schema, columns.collect(), values.len()).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use millstream_common::time::{BatchTime, ManualClock};

    use super::*;

    fn request() -> PlanRequest {
        PlanRequest {
            batch: BatchId(0),
            batch_time: BatchTime::default(),
            max_rows: None,
            interval_millis: 0,
        }
    }

    fn values(planned: &PlannedInput) -> Vec<(u64, u64)> {
        let splits = planned.splits.iter();
        splits
            .map(|split| {
                let rows = Rows::deserialize(&split.split).unwrap();
                (rows.from, rows.until)
            })
            .collect()
    }

    #[test]
    fn how_fast_has_bounds() {
        let of = |name: &str, value: u64| {
            let mut options = Options::default();
            options.set(name, &value);
            RateSource::of(&mut options, "UTC").map_err(|error| error.to_string())
        };
        for (name, most) in [("numPartitions", 10_000), ("rowsPerSecond", 1_000_000_000)] {
            for value in [1, most] {
                assert!(of(name, value).is_ok(), "{name} {value}");
            }
            for value in [0, most + 1, u64::MAX] {
                let expected = format!(
                    "option {name} can't be `{value}`: it is at least 1 and at most {most}"
                );
                assert_eq!(of(name, value).unwrap_err(), expected);
            }
        }
    }

    #[tokio::test]
    async fn what_is_present_ends_at_the_first_look() {
        let clock = ManualClock::new(1_000_000);
        let mut options = Options::default();
        options.set("rowsPerSecond", &10);
        let (source, _) = RateSource::of(&mut options, "UTC").unwrap();
        let driver = |only_present| {
            let bounds = Bounds {
                only_present,
                at_once: false,
            };
            source.driver(Arc::new(clock.clone()), bounds)
        };
        let mut first = driver(false);
        let start = first.start().await.unwrap();
        clock.advance(Duration::from_secs(3));
        let planned = first.plan(request()).await.unwrap();
        assert_eq!(values(&planned), [(0, 30)]);
        clock.advance(Duration::from_secs(2));
        let mut last = driver(true);
        let history = SourceHistory {
            start,
            seen: None,
            logged: vec![(BatchId(0), planned)],
        };
        last.restore(history).await.unwrap();
        assert_eq!(values(&last.plan(request()).await.unwrap()), [(30, 50)]);
        // A batch takes longer than a second, and still the query ends.
        clock.advance(Duration::from_secs(5));
        assert_eq!(values(&last.plan(request()).await.unwrap()), []);
    }
}
