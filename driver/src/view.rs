//! What REST shows of an application and its queries: those that run, and the newest that ended.

use std::{collections::VecDeque, sync::Arc};

use millstream_common::config::Config;
use millstream_dataflow::plan::Plan;
use parking_lot::RwLock;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{
    http::ApplicationView,
    query::{
        handle::{QueryHandle, QueryState},
        progress::{self, BatchProgress, RECENT_BATCHES},
    },
    streaming::{QueryInfo, StreamingQueryProgress, StreamingQueryStatus},
};

/// Queries that ended and are still shown.
const ENDED_QUERIES: usize = 16;

/// The label of metrics of queries that only read what is there.
const PASSING: &str = "(read)";

/// The application, and its queries in the order in which they were begun.
pub(crate) struct View {
    pub(crate) name: String,
    build_id: String,
    config: Config,
    started_millis: i64,
    queries: RwLock<VecDeque<Arc<Known>>>,
}

/// A query that is shown.
pub(crate) struct Known {
    pub(crate) plan: Arc<Plan>,
    pub(crate) handle: QueryHandle,
    pub(crate) info: QueryInfo,
    /// Its label in metrics, which no other query that runs has.
    pub(crate) label: String,
    /// Its gauges are gone.
    pub(crate) counted: CancellationToken,
    /// The same of the last query that had the label.
    pub(crate) before: Option<CancellationToken>,
}

impl View {
    pub(crate) fn new(name: String, build_id: String, config: Config, started_millis: i64) -> Self {
        Self {
            name,
            build_id,
            config,
            started_millis,
            queries: RwLock::default(),
        }
    }

    /// Takes a query up. Gives it with its label, and the queries that are shown no longer and whose labels nobody has any more.
    pub(crate) fn add(
        &self,
        plan: &Arc<Plan>,
        handle: QueryHandle,
        info: QueryInfo,
    ) -> (Arc<Known>, Vec<Arc<Known>>) {
        let mut queries = self.queries.write();
        let gone = forget_ended(&mut queries);
        let wanted = info.name.as_ref().unwrap_or(&self.name);
        let mut same = queries.iter().filter(|known| known.label == *wanted);
        let is_taken = same.clone().any(|known| is_active(&known.handle));
        let before = same.next_back().map(|known| known.counted.clone());
        let (label, before) = match (info.is_passing, is_taken) {
            (true, _) => (PASSING.to_owned(), None),
            (false, false) => (wanted.clone(), before),
            (false, true) => (info.run_id.to_string(), None),
        };
        let known = Arc::new(Known {
            plan: Arc::clone(plan),
            handle,
            info,
            label,
            counted: CancellationToken::new(),
            before,
        });
        if !known.info.is_passing {
            queries.push_back(Arc::clone(&known));
        }
        let has_label = |gone: &Arc<Known>| queries.iter().any(|known| known.label == gone.label);
        let unlabelled = gone.into_iter().filter(|gone| !has_label(gone)).collect();
        (known, unlabelled)
    }

    fn find(&self, wanted: &str) -> Option<Arc<Known>> {
        let queries = self.queries.read();
        let is_it = |known: &&Arc<Known>| {
            let id = known.handle.id().map(|id| id.to_string());
            known.info.run_id.to_string() == wanted
                || id.as_deref() == Some(wanted)
                || known.info.name.as_deref() == Some(wanted)
        };
        queries.iter().rev().find(is_it).cloned()
    }
}

fn is_active(handle: &QueryHandle) -> bool {
    handle.state() != QueryState::Stopped
}

/// The oldest ended queries go, down to what is shown.
fn forget_ended(queries: &mut VecDeque<Arc<Known>>) -> Vec<Arc<Known>> {
    let ended = queries.iter().filter(|known| !is_active(&known.handle));
    let mut too_many = ended.count().saturating_sub(ENDED_QUERIES);
    let mut gone = Vec::new();
    queries.retain(|known| {
        let goes = too_many > 0 && !is_active(&known.handle);
        if goes {
            too_many -= 1;
            gone.push(Arc::clone(known));
        }
        !goes
    });
    gone
}

impl ApplicationView for View {
    fn application(&self) -> Value {
        let queries = self.queries.read();
        let query = |known: &Arc<Known>| {
            let status = known.handle.status().borrow().clone();
            json!({
                "id": known.handle.id(),
                "run_id": known.info.run_id,
                "name": known.info.name,
                "state": format!("{:?}", known.handle.state()),
                "running_batch": status.running.map(|(batch, _)| batch),
                "queued_batches": status.queued,
                "waits_for_executor": status.waits_for_executor,
                "waits_for_source": status.waits_for_source,
                "plan": *known.plan,
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

    fn queries(&self) -> Value {
        let queries = self.queries.read();
        let query = |known: &Arc<Known>| {
            let failed = known.handle.ended().and_then(Result::err);
            json!({
                "id": known.handle.id(),
                "runId": known.info.run_id,
                "name": known.info.name,
                "isActive": is_active(&known.handle),
                "status": StreamingQueryStatus::of(&known.handle),
                "exception": failed.map(|error| error.to_string()),
                "lastProgress": StreamingQueryProgress::last(&known.info, &known.handle),
            })
        };
        queries.iter().map(query).collect()
    }

    fn progress(&self, query: &str) -> Option<Value> {
        let known = self.find(query)?;
        let recent = StreamingQueryProgress::recent(&known.info, &known.handle);
        serde_json::to_value(recent).ok()
    }

    fn batches(&self) -> Value {
        let mut batches: Vec<(Arc<BatchProgress>, Option<String>)> = Vec::new();
        for known in self.queries.read().iter() {
            let recent = known.handle.recent().into_iter().rev();
            batches.extend(recent.map(|batch| (batch, known.info.name.clone())));
        }
        // Of one query they are in order already.
        batches.sort_by_key(|(batch, _)| std::cmp::Reverse(batch.batch_time));
        let newest = batches.iter().take(RECENT_BATCHES);
        newest
            .map(|(batch, name)| show_batch(batch, name.as_deref()))
            .collect()
    }

    fn stages(&self) -> Value {
        let queries = self.queries.read();
        let mut stages = Vec::new();
        for known in queries.iter() {
            let newest = known.handle.recent().last().cloned();
            for (id, stage) in known.plan.stage_ids() {
                let index = usize::try_from(id.0).unwrap_or(usize::MAX);
                let summary = newest
                    .as_ref()
                    .and_then(|batch| batch.summary.stages.get(index));
                stages.push(json!({
                    "query": known.handle.id(),
                    "query_name": known.info.name,
                    "stage": id,
                    "name": stage.name,
                    "operators": stage.operators,
                    "batch": newest.as_ref().map(|batch| batch.batch),
                    "tasks": summary.map(|summary| summary.tasks),
                    "millis": summary.map(|summary| summary.micros as f64 / 1e3),
                    "input_rows": summary.map(|summary| summary.counts.input_rows),
                    "shuffle_rows": summary.map(|summary| summary.counts.shuffle_rows_written),
                }));
            }
        }
        Value::Array(stages)
    }
}

fn show_batch(batch: &BatchProgress, name: Option<&str>) -> Value {
    let source = |source: &progress::SourceProgress| json!({"id": source.id, "splits": source.splits, "rows": source.rows, "lag": source.lag});
    json!({
        "query": batch.query,
        "query_name": name,
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

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::query::handle::{self, Desk};

    fn info(name: Option<&str>) -> QueryInfo {
        QueryInfo {
            run_id: Uuid::new_v4(),
            name: name.map(str::to_owned),
            sources: Vec::new(),
            sink: String::new(),
            has_event_time: false,
            is_passing: false,
        }
    }

    struct Fixture {
        view: View,
        plan: Arc<Plan>,
    }

    impl Fixture {
        fn new() -> Self {
            let config = Config::builder().build().unwrap();
            Self {
                view: View::new("app".to_owned(), "build".to_owned(), config, 0),
                plan: Arc::default(),
            }
        }

        fn begin(&self, info: QueryInfo) -> (Desk, Arc<Known>, Vec<Arc<Known>>) {
            let (desk, handle) = handle::pair();
            let (known, gone) = self.view.add(&self.plan, handle, info);
            (desk, known, gone)
        }
    }

    fn end(desk: &Desk) {
        desk.ended.send_replace(Some(Ok(Default::default())));
    }

    #[test]
    fn no_two_queries_that_run_have_one_label() {
        let fixture = Fixture::new();
        let (_first, first, _) = fixture.begin(info(None));
        let (named, counts, _) = fixture.begin(info(Some("counts")));
        let (_second, second, _) = fixture.begin(info(None));
        let (_read, read, _) = fixture.begin(QueryInfo {
            is_passing: true,
            ..info(None)
        });
        assert_eq!(
            (first.label.as_str(), counts.label.as_str()),
            ("app", "counts")
        );
        assert_eq!(second.label, second.info.run_id.to_string());
        assert_eq!(read.label, "(read)");
        assert_eq!(fixture.view.queries().as_array().unwrap().len(), 3);
        // The next one of the name has the label too, once the gauges of the first are gone.
        end(&named);
        let (_again, again, _) = fixture.begin(info(Some("counts")));
        assert_eq!(again.label, "counts");
        counts.counted.cancel();
        assert!(again.before.as_ref().unwrap().is_cancelled());
        let run = again.info.run_id.to_string();
        assert!(fixture.view.progress("counts").is_some());
        assert!(fixture.view.progress(&run).is_some());
        assert!(fixture.view.progress("others").is_none());
    }

    #[test]
    fn ended_queries_are_forgotten_down_to_a_few() {
        let fixture = Fixture::new();
        let (_stays, _, _) = fixture.begin(info(Some("stays")));
        let mut forgotten = Vec::new();
        for number in 0..100 {
            let name = if number % 2 == 0 {
                "even".to_owned()
            } else {
                format!("odd {number}")
            };
            let (desk, _, gone) = fixture.begin(info(Some(&name)));
            end(&desk);
            forgotten.extend(gone.iter().map(|known| known.label.clone()));
        }
        let shown = fixture.view.queries();
        let shown = shown.as_array().unwrap();
        assert_eq!(shown.len(), ENDED_QUERIES + 2);
        assert_eq!(shown[0]["name"], "stays");
        assert_eq!(shown.last().unwrap()["name"], "odd 99");
        // A label that a newer query has is not let go.
        assert!(!forgotten.contains(&"even".to_owned()), "{forgotten:?}");
        assert!(forgotten.contains(&"odd 1".to_owned()), "{forgotten:?}");
    }
}
