//! Results kept by the driver: as a table that SQL can read, or for a function of the program.

use std::{fmt, sync::Arc};

use arrow::{datatypes::SchemaRef, record_batch::RecordBatch};
use async_trait::async_trait;
use datafusion::{
    catalog::{Session as PlanningSession, TableProvider},
    datasource::{MemTable, TableType},
    error::Result as PlanResult,
    logical_expr::Expr,
    physical_plan::ExecutionPlan,
};
use millstream_common::failure::{Failure, FailureKind, Retry};
use millstream_driver::output::{BatchInfo, BlockReader, OutputDriver, PartitionResult};
use parking_lot::Mutex;

use crate::{
    DataFrame, Error,
    error::task_failure,
    ipc,
    output_mode::OutputMode,
    session::{Session, WeakSession},
};

/// The rows that tasks sent, in partition order.
pub(super) fn rows_of(results: &[PartitionResult]) -> Result<Vec<RecordBatch>, Failure> {
    let mut batches = Vec::new();
    for result in results.iter().filter_map(|result| result.result.as_ref()) {
        batches.extend(ipc::read(result).map_err(task_failure)?.1);
    }
    Ok(batches)
}

/// A table in the driver's memory that a query adds to.
#[derive(Clone, Debug)]
pub(crate) struct MemoryTable {
    schema: SchemaRef,
    rows: Arc<Mutex<Vec<RecordBatch>>>,
}

impl MemoryTable {
    pub(crate) fn new(schema: &SchemaRef) -> Self {
        Self {
            schema: Arc::clone(schema),
            rows: Arc::default(),
        }
    }

    pub(crate) fn rows(&self) -> Vec<RecordBatch> {
        self.rows.lock().clone()
    }
}

#[async_trait]
impl TableProvider for MemoryTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn PlanningSession,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> PlanResult<Arc<dyn ExecutionPlan>> {
        let table = MemTable::try_new(self.schema(), vec![self.rows()])?;
        table.scan(state, projection, filters, limit).await
    }
}

/// Adds each batch to a table, or puts it in place of what was there.
pub(crate) struct MemoryOutput {
    pub(crate) table: MemoryTable,
    pub(crate) mode: OutputMode,
}

#[async_trait]
impl OutputDriver for MemoryOutput {
    async fn complete(
        &self,
        _batch: BatchInfo,
        results: &[PartitionResult],
        _blocks: Arc<dyn BlockReader>,
    ) -> Result<(), Failure> {
        let batches = rows_of(results)?;
        let mut rows = self.table.rows.lock();
        if self.mode == OutputMode::Complete {
            rows.clear();
        }
        rows.extend(batches);
        Ok(())
    }
}

/// A function of the program that is called with each batch, on the driver.
pub(crate) type BatchFunction = Arc<dyn Fn(DataFrame, u64) -> Result<(), Error> + Send + Sync>;

/// Calls it.
pub(crate) struct ForEachBatch {
    pub(crate) function: BatchFunction,
    pub(crate) schema: SchemaRef,
    /// Weak, as the session holds the query that holds this.
    pub(crate) session: WeakSession,
}

impl fmt::Debug for ForEachBatch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ForEachBatch")
    }
}

impl ForEachBatch {
    fn frame(&self, session: Session, rows: Vec<RecordBatch>) -> Result<DataFrame, Error> {
        let table = MemTable::try_new(Arc::clone(&self.schema), vec![rows])?;
        let inner = session.context().read_table(Arc::new(table))?;
        Ok(DataFrame::new(session, inner))
    }
}

#[async_trait]
impl OutputDriver for ForEachBatch {
    async fn complete(
        &self,
        batch: BatchInfo,
        results: &[PartitionResult],
        _blocks: Arc<dyn BlockReader>,
    ) -> Result<(), Failure> {
        let Some(session) = self.session.upgrade() else {
            return Err(Failure::new(FailureKind::Cancelled, "the session is gone"));
        };
        let rows = rows_of(results)?;
        let frame = self.frame(session, rows).map_err(task_failure)?;
        let function = Arc::clone(&self.function);
        let number = batch.batch.0;
        // What it computes waits for the session's IO threads, so it runs beside them.
        let called = tokio::task::spawn_blocking(move || function(frame, number)).await;
        match called {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Failure::caused_by(
                FailureKind::UserCode,
                format!("the function of for_each_batch failed on batch {number}"),
                &error,
            )
            .with_retry(Retry::Never)),
            Err(_) => Err(Failure::new(
                FailureKind::UserCode,
                format!("the function of for_each_batch panicked on batch {number}"),
            )
            .with_retry(Retry::Never)),
        }
    }
}
