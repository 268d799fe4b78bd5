//! for_each_batch: rows stay as blocks where they were made, and a function on the driver looks at them.

use std::{marker::PhantomData, sync::Arc};

use async_trait::async_trait;
use millstream_common::{
    config::keys,
    failure::{Failure, FailureKind},
    time::BatchTime,
};
use millstream_connectors::malformed::{self, OnMalformed};
use millstream_dataflow::{combine::Data, exchange, plan::Exchange};
use millstream_driver::output::{BatchInfo, BlockReader, OutputDriver, PartitionResult};
use serde_json::Value;
use tokio::{runtime::Handle, task::JoinError};

use crate::{
    batch::{ComputedBatch, Missed},
    error::{Outcome, user_failure},
    graph::{Node, Shape},
    outputs::Output,
    stream::DStream,
};

impl<T: Data> DStream<T> {
    /// Calls `f` on the driver with every batch, also with one without rows, and its time. It runs on a thread of its own; the batch is committed
    /// after it has returned. It is called for a batch again after a restart in the middle of it, and when an executor died while it read the rows. An error that
    /// it returns, or a panic, ends the query, unless it couldn't read the rows for that reason.
    pub fn for_each_batch<F, R>(&self, f: F) -> Output
    where
        F: Fn(&ComputedBatch<T>, BatchTime) -> R + Send + Sync + 'static,
        R: Outcome,
    {
        let f: Callback<T> = Arc::new(move |batch, time| f(batch, time).into_result());
        let on_malformed = self.graph.lock().config.get(keys::INPUT_ON_MALFORMED);
        self.add_output(Node {
            kind: "for-each-batch".to_owned(),
            name: None,
            inputs: vec![self.node],
            shape: Shape::Output {
                settings: Value::Null,
                exchanges: vec![Exchange::Keep],
                program: Box::new(|with, open| {
                    Ok(with.program(with.typed::<T>(open)?, exchange::Keep))
                }),
                driver: Box::new(move |id, options| {
                    Arc::new(CallbackDriver {
                        id: id.to_owned(),
                        f: f.clone(),
                        max_bytes: options.collect_max_bytes,
                        on_malformed: on_malformed.into(),
                        row: PhantomData,
                    })
                }),
                check: None,
                close: None,
                empty_to_empty: true,
                speculative: true,
            },
            keeping: None,
        })
    }
}

type Callback<T> = Arc<dyn Fn(&ComputedBatch<T>, BatchTime) -> Result<(), String> + Send + Sync>;

struct CallbackDriver<T> {
    id: String,
    f: Callback<T>,
    max_bytes: u64,
    /// What becomes of records that `f` finds malformed as it decodes them.
    on_malformed: OnMalformed,
    row: PhantomData<fn() -> T>,
}

#[async_trait]
impl<T: Data> OutputDriver for CallbackDriver<T> {
    async fn complete(
        &self,
        batch: BatchInfo,
        results: &[PartitionResult],
        blocks: Arc<dyn BlockReader>,
    ) -> Result<(), Failure> {
        let missed = Missed::default();
        let computed = ComputedBatch::new(
            batch,
            results,
            blocks,
            Handle::current(),
            self.max_bytes,
            missed.clone(),
        );
        let (f, on_malformed) = (self.f.clone(), self.on_malformed);
        let call = move || {
            malformed::begin(on_malformed);
            f(&computed, batch.batch_time)
        };
        let called = tokio::task::spawn_blocking(call).await;
        let is_done = matches!(called, Ok(Ok(())));
        if !is_done && let Some(failure) = missed.take() {
            // It failed for want of rows that can be made again.
            return Err(failure);
        }
        match called {
            Ok(Ok(())) => Ok(()),
            Ok(Err(reason)) => Err(user_failure(reason).in_operator(&self.id)),
            Err(error) if error.is_panic() => Err(of_panic(error).in_operator(&self.id)),
            Err(error) => Err(Failure::caused_by(
                FailureKind::Internal,
                "a callback ended early",
                &error,
            )),
        }
    }
}

/// A connector that is called within the function (a record's text) unwinds with the failure itself.
fn of_panic(error: JoinError) -> Failure {
    let message = format!("a callback panicked: {error}");
    let panic = error.try_into_panic().ok();
    match panic.and_then(|panic| panic.downcast::<Failure>().ok()) {
        Some(failure) => *failure,
        None => Failure::new(FailureKind::UserCode, message),
    }
}
