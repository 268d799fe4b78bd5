//! A stream as a table of the planner.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::{
    catalog::{Session, TableProvider},
    datasource::{DefaultTableSource, TableType},
    error::Result,
    logical_expr::{Expr, LogicalPlan, TableSource},
    physical_plan::ExecutionPlan,
};

use crate::{
    input::{InputExec, Scan},
    sources::{SourceSpec, memory::MemoryRows},
};

/// A source that a reader loaded.
#[derive(Debug)]
pub(crate) struct StreamSource {
    pub(crate) spec: SourceSpec,
    pub(crate) schema: SchemaRef,
    /// Of a memory stream.
    pub(crate) rows: Option<MemoryRows>,
    /// It is a stream; else what is there when a query starts is all.
    pub(crate) grows: bool,
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
    if let LogicalPlan::TableScan(scan) = plan {
        return grows(scan.source.as_ref());
    }
    plan.inputs().into_iter().any(reads_stream)
}

/// Whether a plan reads anything that executors read.
pub(crate) fn reads_files(plan: &LogicalPlan) -> bool {
    if let LogicalPlan::TableScan(scan) = plan {
        let provider = scan.source.downcast_ref::<DefaultTableSource>();
        return provider.is_some_and(|provider| provider.table_provider.is::<StreamTable>());
    }
    plan.inputs().into_iter().any(reads_files)
}

fn grows(source: &dyn TableSource) -> bool {
    let Some(provider) = source.downcast_ref::<DefaultTableSource>() else {
        return false;
    };
    let table = provider.table_provider.downcast_ref::<StreamTable>();
    table.is_some_and(|table| table.0.grows)
}
