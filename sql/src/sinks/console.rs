//! Results printed by the driver, as Spark's console sink prints them.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use jiff::tz::TimeZone;
use millstream_common::failure::Failure;
use millstream_driver::output::{BatchInfo, BlockReader, OutputDriver, PartitionResult};
use millstream_dstreams::Console;

use super::memory::rows_of;
use crate::{
    error::task_failure,
    show::{self, Shown},
};

const RULE: &str = "-------------------------------------------";

pub(super) struct ConsoleOutput {
    pub(super) schema: SchemaRef,
    pub(super) shown: Shown,
    pub(super) console: Console,
    pub(super) zone: TimeZone,
}

#[async_trait]
impl OutputDriver for ConsoleOutput {
    async fn complete(
        &self,
        batch: BatchInfo,
        results: &[PartitionResult],
        _blocks: Arc<dyn BlockReader>,
    ) -> Result<(), Failure> {
        let batches = rows_of(results)?;
        let table =
            show::table_of(&self.schema, &batches, self.shown, &self.zone).map_err(task_failure)?;
        let number = batch.batch;
        let block = format!("{RULE}\nBatch: {number}\n{RULE}\n{table}\n");
        self.console.print(block).await
    }
}
