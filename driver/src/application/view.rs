//! What REST shows of an application: its queries, their batches and stages.

use std::sync::Arc;

use millstream_common::config::Config;
use millstream_dataflow::plan::Plan;
use parking_lot::RwLock;
use serde_json::{Value, json};

use crate::{
    http::ApplicationView,
    query::{
        handle::QueryHandle,
        progress::{BatchProgress, SourceProgress},
    },
};

/// The queries of a driver, and what it is itself.
pub(super) struct View {
    pub(super) name: String,
    build_id: String,
    config: Config,
    started_millis: i64,
    queries: RwLock<Vec<(Arc<Plan>, QueryHandle)>>,
}

impl View {
    pub(super) fn new(name: String, build_id: String, config: Config, started_millis: i64) -> Self {
        Self {
            name,
            build_id,
            config,
            started_millis,
            queries: RwLock::default(),
        }
    }

    pub(super) fn add(&self, plan: &Arc<Plan>, handle: QueryHandle) {
        self.queries.write().push((Arc::clone(plan), handle));
    }
}

impl ApplicationView for View {
    fn application(&self) -> Value {
        let queries = self.queries.read();
        let query = |(plan, handle): &(Arc<Plan>, QueryHandle)| {
            let status = handle.status().borrow().clone();
            json!({
                "state": format!("{:?}", handle.state()),
                "running_batch": status.running.map(|(batch, _)| batch),
                "queued_batches": status.queued,
                "waits_for_executor": status.waits_for_executor,
                "waits_for_source": status.waits_for_source,
                "plan": **plan,
            })
        };
        json!({
            "name": self.name,
            "version": env!("CARGO_PKG_VERSION"),
            "build_id": self.build_id,
            "process_id": std::process::id(),
            "started_millis": self.started_millis,
            "configuration": self.config.effective(),
            "queries": queries.iter().map(query).collect::<Vec<_>>(),
        })
    }

    fn batches(&self) -> Value {
        let queries = self.queries.read();
        let mut batches: Vec<Value> = Vec::new();
        for (_, handle) in queries.iter() {
            batches.extend(handle.recent().iter().rev().map(|batch| show_batch(batch)));
        }
        Value::Array(batches)
    }

    fn stages(&self) -> Value {
        let queries = self.queries.read();
        let mut stages = Vec::new();
        for (plan, handle) in queries.iter() {
            let newest = handle.recent().last().cloned();
            for (id, stage) in plan.stage_ids() {
                let index = usize::try_from(id.0).unwrap_or(usize::MAX);
                let summary = newest
                    .as_ref()
                    .and_then(|batch| batch.summary.stages.get(index));
                stages.push(json!({
                    "stage": id,
                    "name": stage.name,
                    "operators": stage.operators,
                    "batch": newest.as_ref().map(|batch| batch.batch),
                    "tasks": summary.map(|summary| summary.tasks),
                    "millis": summary.map(|summary| summary.micros as f64 / 1e3),
                    "input_rows": summary.map(|summary| summary.input_rows),
                    "shuffle_rows": summary.map(|summary| summary.shuffle_rows),
                }));
            }
        }
        Value::Array(stages)
    }
}

fn show_batch(batch: &BatchProgress) -> Value {
    let source = |source: &SourceProgress| json!({"id": source.id, "splits": source.splits, "rows": source.rows, "lag": source.lag});
    json!({
        "query": batch.query,
        "epoch": batch.epoch,
        "batch": batch.batch,
        "batch_time": batch.batch_time,
        "rerun": batch.rerun,
        "scheduling_delay_millis": batch.scheduling_delay_millis,
        "processing_millis": batch.processing_millis,
        "total_delay_millis": batch.total_delay_millis(),
        "queued": batch.queued,
        "input_rows": batch.input_rows(),
        "output_rows": batch.summary.counts.output_rows,
        "malformed": batch.summary.counts.malformed,
        "shuffle_rows": batch.summary.counts.shuffle_rows_written,
        "spilled_bytes": batch.summary.counts.spilled_bytes,
        "tasks": batch.summary.tasks,
        "retries": batch.summary.retries,
        "sources": batch.sources.iter().map(source).collect::<Vec<_>>(),
    })
}
