//! Rows that a program gives, for tests. They travel in the splits themselves, so the offset log has them.

use std::{collections::VecDeque, sync::Arc};

use arrow::{datatypes::SchemaRef, record_batch::RecordBatch};
use async_trait::async_trait;
use millstream_common::{
    failure::{Failure, FailureKind, Retry},
    ids::BatchId,
};
use millstream_connectors::source::{
    PlanRequest, PlannedInput, SourceDriver, SourceHistory, Split,
};
use millstream_dataflow::program::TaskContext;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::BatchReader;
use crate::{
    error::{Error, task_failure},
    ipc,
};

/// The rows given so far, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct MemoryRows(Arc<Mutex<Vec<String>>>);

impl MemoryRows {
    pub(crate) fn add(&self, schema: &SchemaRef, rows: &RecordBatch) -> Result<(), Error> {
        if rows.schema() != *schema {
            return Err(Error::Schema {
                text: rows.schema().to_string(),
                reason: format!("the stream has the columns {schema}"),
            });
        }
        let mut bytes = Vec::new();
        ipc::append(schema, [rows], &mut bytes)?;
        let hex = bytes.iter().map(|byte| format!("{byte:02x}"));
        self.0.lock().push(hex.collect());
        Ok(())
    }

    pub(super) fn driver(&self) -> Box<dyn SourceDriver> {
        Box::new(MemoryDriver {
            rows: self.clone(),
            taken: 0,
        })
    }
}

struct MemoryDriver {
    rows: MemoryRows,
    taken: usize,
}

#[async_trait]
impl SourceDriver for MemoryDriver {
    async fn start(&mut self) -> Result<Value, Failure> {
        self.taken = 0;
        Ok(json!(0))
    }

    async fn restore(&mut self, history: SourceHistory) -> Result<(), Failure> {
        let newest = history.logged.last();
        let position = newest.map_or(&history.start, |(_, input)| &input.position);
        let taken = position.as_u64().ok_or_else(|| unreadable(position))?;
        self.taken = usize::try_from(taken).unwrap_or(usize::MAX);
        let given = self.rows.0.lock().len();
        if self.taken > given {
            // What is added from now on would be taken for what was read before.
            let message = format!(
                "the checkpoint says that {taken} blocks of a memory stream were read, but it was given {given}: its rows are gone with the program that added them; give another checkpoint"
            );
            return Err(Failure::new(FailureKind::DataLoss, message)
                .with_code("memory.gone")
                .with_retry(Retry::Never));
        }
        Ok(())
    }

    async fn plan(&mut self, _request: PlanRequest) -> Result<PlannedInput, Failure> {
        let rows = self.rows.0.lock();
        let new = rows.iter().skip(self.taken);
        let splits: Vec<Split> = new
            .map(|hex| Split {
                split: json!(hex),
                locality: None,
                rows: None,
            })
            .collect();
        self.taken = self.taken.saturating_add(splits.len());
        Ok(PlannedInput {
            splits,
            position: json!(self.taken),
        })
    }

    async fn committed(&mut self, _batch: BatchId, _input: &PlannedInput) -> Result<(), Failure> {
        Ok(())
    }
}

fn unreadable(value: &Value) -> Failure {
    Failure::new(
        FailureKind::Internal,
        format!("the offset log holds nothing of a memory stream but {value}"),
    )
    .with_retry(Retry::Never)
}

struct MemoryReader(VecDeque<RecordBatch>);

pub(super) fn open(split: &Value, projection: &[usize]) -> Result<Box<dyn BatchReader>, Failure> {
    let hex = split.as_str().ok_or_else(|| unreadable(split))?;
    let digits = hex.as_bytes().chunks(2);
    let bytes: Option<Vec<u8>> = digits
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect();
    let bytes = bytes.ok_or_else(|| unreadable(split))?;
    let (_, batches) = ipc::read(&bytes).map_err(task_failure)?;
    let mut projected = VecDeque::new();
    for batch in batches {
        let batch = batch.project(projection);
        projected.push_back(batch.map_err(|error| task_failure(error.into()))?);
    }
    Ok(Box::new(MemoryReader(projected)))
}

impl BatchReader for MemoryReader {
    fn next(&mut self, task: &mut TaskContext<'_>) -> Result<Option<RecordBatch>, Failure> {
        let next = self.0.pop_front();
        task.counts.input_rows += next.as_ref().map_or(0, |rows| rows.num_rows() as u64);
        Ok(next)
    }
}
