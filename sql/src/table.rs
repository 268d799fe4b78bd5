//! A stream as a table of the planner.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::{
    catalog::{Session, TableProvider},
    datasource::TableType,
    error::Result,
    logical_expr::{Expr, LogicalPlan},
    physical_plan::ExecutionPlan,
};

use crate::{
    input::{InputExec, Scan},
    sources::SourceSpec,
};

/// A source that a reader loaded.
#[derive(Debug, PartialEq)]
pub(crate) struct StreamSource {
    pub(crate) spec: SourceSpec,
    pub(crate) schema: SchemaRef,
    /// Tells two loads of the same folder apart.
    pub(crate) number: u64,
}

/// The table.
#[derive(Debug)]
pub(crate) struct StreamTable(pub(crate) Arc<StreamSource>);

#[async_trait]
impl TableProvider for StreamTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.0.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let all = || (0..self.0.schema.fields().len()).collect();
        let projection = projection.cloned().unwrap_or_else(all);
        let schema = Arc::new(self.0.schema.project(&projection)?);
        let scan = Scan {
            source: Arc::clone(&self.0),
            projection,
        };
        Ok(Arc::new(InputExec::scanning(scan, schema)))
    }
}

/// Whether a plan reads a stream.
pub(crate) fn reads_stream(plan: &LogicalPlan) -> bool {
    if let LogicalPlan::TableScan(_) = plan {
        return true;
    }
    plan.inputs().into_iter().any(reads_stream)
}
