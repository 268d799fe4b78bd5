//! A stream as a table of the planner.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::{
    catalog::{Session, TableProvider},
    common::tree_node::TreeNodeRecursion,
    datasource::{DefaultTableSource, TableType},
    error::Result,
    logical_expr::{Expr, LogicalPlan},
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
    reads(plan, |table| table.0.grows)
}

/// Whether a plan reads anything that executors read.
pub(crate) fn reads_files(plan: &LogicalPlan) -> bool {
    reads(plan, |_| true)
}

/// Whether a plan, or a subquery in it, reads such a table.
fn reads(plan: &LogicalPlan, is_such: impl Fn(&StreamTable) -> bool) -> bool {
    let mut found = false;
    let looked = plan.apply_with_subqueries(|node| {
        found |= table_of(node).is_some_and(&is_such);
        Ok(match found {
            true => TreeNodeRecursion::Stop,
            false => TreeNodeRecursion::Continue,
        })
    });
    found || looked.is_err()
}

/// The folders that a plan reads.
pub(crate) fn folders(plan: &LogicalPlan) -> Vec<String> {
    let mut folders = Vec::new();
    // Nothing is told of what can't be looked at.
    let _ = plan.apply_with_subqueries(|node| {
        if let Some(StreamTable(source)) = table_of(node)
            && let SourceSpec::Files(files) = &source.spec
        {
            folders.push(files.folder.clone());
        }
        Ok(TreeNodeRecursion::Continue)
    });
    folders
}

fn table_of(node: &LogicalPlan) -> Option<&StreamTable> {
    let LogicalPlan::TableScan(scan) = node else {
        return None;
    };
    let provider = scan.source.downcast_ref::<DefaultTableSource>()?;
    provider.table_provider.downcast_ref::<StreamTable>()
}
