//! The asynchronous shell around the state machine: does what it asks, and tells it what came of it.

mod perform;
mod sources;
mod store;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    sync::Arc,
};

use bytes::Bytes;
use millstream_common::{
    ids::{Epoch, OutputIndex, QueryId, SourceId},
    log_store::{self, LogStore},
    protocol::QueryGrant,
    routing::ROUTING_VERSION,
    time::{Clock, Timer},
};
use millstream_connectors::source::SourceDriver;
use millstream_dataflow::plan::Plan;
use serde_json::Value;
use tokio::{
    sync::mpsc,
    task::{JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use uuid::Uuid;

pub use self::store::read_metadata;
use self::{sources::SourceTask, store::Storage};
use super::{
    core::QueryCore,
    error::{QueryError, Stopped},
    event::{BatchRules, CoreOptions, Event, OutputInfo, QueryNews},
    handle::{self, Desk, QueryHandle, StopWish},
    rate::RateOptions,
    shared_file::SharedFiles,
};
use crate::{
    output::{BatchInfo, BlockReader, OutputDriver, PartitionResult},
    scheduler::message,
};

/// Makes the reader of blocks that an output's tasks kept.
pub type BlockReaders =
    Arc<dyn Fn(BatchInfo, OutputIndex, &[PartitionResult]) -> Arc<dyn BlockReader> + Send + Sync>;

/// What a query is run with.
#[derive(Clone, Debug)]
pub struct QueryOptions {
    /// The graph, built with `parallelism`.
    pub plan: Arc<Plan>,
    /// Partition count of exchanges: that of the checkpoint's metadata ([`read_metadata`]) where there is one.
    pub parallelism: u32,
    /// The batch interval, milliseconds; 0 runs batches back to back, and only those with input.
    pub interval_millis: u64,
    /// The query's id if this is its first start; else the metadata's counts.
    pub fresh_query: QueryId,
    /// Where this driver can be reached, for people.
    pub address: String,
    /// This driver's build.
    pub build_id: String,
    /// The application's arguments.
    pub arguments: Value,
    /// The configuration, without secrets.
    pub configuration: BTreeMap<String, String>,
    /// Configuration that affects results; logged with each batch.
    pub affecting: BTreeMap<String, String>,
    /// What the job function saw through the context.
    pub recorded: BTreeMap<String, Value>,
    /// Planned batches that may wait behind the running one.
    pub max_queued: usize,
    /// Committed batches whose entries are kept; at least 2.
    pub retained_batches: u64,
    /// The rate controller's settings; none leaves it off.
    pub rate: Option<RateOptions>,
    /// How batches follow each other.
    pub rules: BatchRules,
    /// The checkpoint's folder, where executors must share it.
    pub checkpoint_folder: Option<PathBuf>,
    /// What executors need to run it, where that isn't part of the application's graph.
    pub program: Option<Bytes>,
}

/// What a query works with.
pub struct QueryParts {
    /// The checkpoint.
    pub store: Arc<dyn LogStore>,
    /// Driver halves of the plan's sources, in order.
    pub sources: Vec<Box<dyn SourceDriver>>,
    /// Driver halves of the plan's outputs, in order.
    pub outputs: Vec<Arc<dyn OutputDriver>>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The scheduler's inbox.
    pub scheduler: mpsc::Sender<message::Event>,
    /// What the scheduler says of this query.
    pub news: mpsc::Receiver<QueryNews>,
    /// Readers of kept blocks.
    pub blocks: BlockReaders,
}

/// A query that waits to be run.
pub struct QueryService {
    core: QueryCore,
    plan: Arc<Plan>,
    storage: Storage,
    sources: Vec<Box<dyn SourceDriver>>,
    outputs: Arc<[Arc<dyn OutputDriver>]>,
    clock: Arc<dyn Clock>,
    scheduler: mpsc::Sender<message::Event>,
    news: mpsc::Receiver<QueryNews>,
    blocks: BlockReaders,
    max_queued: usize,
    checkpoint_folder: Option<PathBuf>,
    program: Option<Bytes>,
    desk: Desk,
}

impl QueryService {
    /// A service and its handle.
    ///
    /// # Errors
    /// When sources or outputs are not as many as the plan's.
    pub fn new(
        options: QueryOptions,
        parts: QueryParts,
    ) -> Result<(Self, QueryHandle), QueryError> {
        let plan = &options.plan;
        let counts = (parts.sources.len(), parts.outputs.len());
        if counts != (plan.sources.len(), plan.outputs.len()) {
            return Err(QueryError::Internal(format!(
                "the plan has {} sources and {} outputs, {} and {} were given",
                plan.sources.len(),
                plan.outputs.len(),
                counts.0,
                counts.1
            )));
        }
        let outputs = plan.outputs.iter().zip(&parts.outputs);
        let outputs = outputs.map(|(output, driver)| OutputInfo {
            id: output.id.clone(),
            publishes: driver.publishes(),
        });
        let core = QueryCore::new(CoreOptions {
            fresh_query: options.fresh_query,
            session: Uuid::new_v4().to_string(),
            address: options.address,
            build_id: options.build_id,
            fingerprint: plan.checkpoint_fingerprint(options.parallelism, options.interval_millis),
            routing_version: ROUTING_VERSION,
            arguments: options.arguments,
            configuration: options.configuration,
            affecting: options.affecting,
            recorded: options.recorded,
            sources: plan
                .sources
                .iter()
                .map(|source| source.id.clone())
                .collect(),
            outputs: outputs.collect(),
            interval_millis: options.interval_millis,
            max_queued: options.max_queued,
            retained_batches: options.retained_batches,
            rate: options.rate,
            rules: options.rules,
        });
        let (desk, handle) = handle::pair();
        let service = Self {
            core,
            storage: Storage {
                store: parts.store,
                clock: Arc::clone(&parts.clock),
            },
            sources: parts.sources,
            outputs: parts.outputs.into(),
            clock: parts.clock,
            scheduler: parts.scheduler,
            news: parts.news,
            blocks: parts.blocks,
            max_queued: options.max_queued,
            checkpoint_folder: options.checkpoint_folder,
            program: options.program,
            desk,
            plan: options.plan,
        };
        Ok((service, handle))
    }

    /// Runs the query to its end, which the handle tells. `shutdown` ends it at once.
    pub async fn run(self, shutdown: CancellationToken) {
        let span = tracing::info_span!(
            "query",
            query = tracing::field::Empty,
            epoch = tracing::field::Empty
        );
        let inside = span.clone();
        self.run_inside(shutdown, inside).instrument(span).await;
    }

    async fn run_inside(self, shutdown: CancellationToken, span: tracing::Span) {
        let (events, inbox) = mpsc::channel(EVENTS);
        let mut sources = Vec::new();
        let known = (0u32..).map(SourceId).zip(&self.plan.sources);
        for ((source, known), driver) in known.zip(self.sources) {
            let id = known.id.clone();
            let task = SourceTask::spawn(source, id, driver, self.max_queued, events.clone());
            sources.push(task);
        }
        let mut running = Running {
            core: self.core,
            plan: self.plan,
            storage: self.storage,
            sources,
            outputs: self.outputs,
            clock: self.clock,
            scheduler: self.scheduler,
            outbox: VecDeque::new(),
            blocks: self.blocks,
            checkpoint_folder: self.checkpoint_folder,
            program: self.program,
            shared_files: Arc::default(),
            desk: self.desk,
            span,
            tasks: JoinSet::new(),
            timer: None,
            state_memory: BTreeMap::new(),
            added: None,
        };
        let mut result = running.serve(shutdown, inbox, self.news).await;
        if let Err(error) = result {
            result = Err(running.storage.cause_of(error, running.core.epoch()).await);
        }
        running.leave(result).await;
    }
}

/// Events that may wait for the loop.
const EVENTS: usize = 256;

struct Running {
    core: QueryCore,
    plan: Arc<Plan>,
    storage: Storage,
    sources: Vec<SourceTask>,
    outputs: Arc<[Arc<dyn OutputDriver>]>,
    clock: Arc<dyn Clock>,
    scheduler: mpsc::Sender<message::Event>,
    /// For the scheduler. The loop never waits for room in its inbox, as the scheduler may be waiting for room in ours; a query has only a few messages a
    /// batch on the way.
    outbox: VecDeque<message::Event>,
    blocks: BlockReaders,
    checkpoint_folder: Option<PathBuf>,
    program: Option<Bytes>,
    shared_files: Arc<parking_lot::Mutex<SharedFiles>>,
    desk: Desk,
    span: tracing::Span,
    /// What is being done; each gives the event to tell.
    tasks: JoinSet<Option<Event>>,
    timer: Option<Timer>,
    /// Memory of state, by stage and partition, as the newest tasks told it.
    state_memory: BTreeMap<(usize, u32), u64>,
    added: Option<QueryGrant>,
}

impl Running {
    async fn serve(
        &mut self,
        shutdown: CancellationToken,
        mut inbox: mpsc::Receiver<Event>,
        mut news: mpsc::Receiver<QueryNews>,
    ) -> Result<Stopped, QueryError> {
        let store = Arc::clone(&self.storage.store);
        log_store::probe(store.as_ref())
            .await
            .map_err(|error| store::failure("use", "it", store.as_ref(), &error))?;
        let mut told = StopWish::None;
        let mut event = Event::Start {
            wall_millis: self.clock.wall_millis(),
        };
        loop {
            for action in self.core.handle(self.clock.now(), event) {
                if let Some(result) = self.perform(action)? {
                    return result;
                }
            }
            event = loop {
                let timer = async {
                    match &mut self.timer {
                        Some(timer) => timer.await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    biased;
                    () = shutdown.cancelled(), if told < StopWish::Now => {
                        told = StopWish::Now;
                        break Event::Stop { graceful: false };
                    }
                    Ok(()) = self.desk.stop.changed() => {
                        let wish = *self.desk.stop.borrow_and_update();
                        if wish > told {
                            told = wish;
                            break Event::Stop { graceful: wish == StopWish::Graceful };
                        }
                    }
                    permit = self.scheduler.reserve(), if !self.outbox.is_empty() => {
                        let permit = permit.map_err(|_| scheduler_gone())?;
                        if let Some(message) = self.outbox.pop_front() {
                            permit.send(message);
                        }
                    }
                    Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                        if let Some(event) = done.map_err(task_died)? {
                            break event;
                        }
                    }
                    Some(event) = inbox.recv() => break event,
                    heard = news.recv() => match heard {
                        Some(heard) => break Event::News(heard),
                        None => return Err(scheduler_gone()),
                    },
                    () = timer => {
                        self.timer = None;
                        break Event::Timer { wall_millis: self.clock.wall_millis() };
                    }
                }
            };
        }
    }

    async fn leave(mut self, result: Result<Stopped, QueryError>) {
        self.tasks.abort_all();
        if let Some(grant) = self.added {
            self.outbox
                .push_back(message::Event::QueryRemoved(grant.query));
        }
        while let Some(message) = self.outbox.pop_front() {
            if self.scheduler.send(message).await.is_err() {
                break;
            }
        }
        for source in self.sources {
            source.stop().await;
        }
        drop(self.shared_files);
        match &result {
            Ok(stopped) => {
                tracing::info!(unfinished = ?stopped.unfinished, dropped = stopped.dropped, "query stopped");
            }
            // Whoever waits for the end gets the error, and says it.
            Err(error) => tracing::debug!(code = error.code(), %error, "query ended"),
        }
        self.desk.ended.send_replace(Some(result.map_err(Arc::new)));
    }

    fn batch_info(&self, batch: super::event::BatchRef) -> BatchInfo {
        BatchInfo {
            query: self.core.query(),
            epoch: self.core.epoch(),
            batch: batch.batch,
            batch_time: batch.batch_time,
        }
    }

    fn grant(query: QueryId, epoch: Epoch) -> QueryGrant {
        QueryGrant { query, epoch }
    }
}

fn scheduler_gone() -> QueryError {
    QueryError::Internal("the scheduler is gone".to_owned())
}

fn task_died(error: JoinError) -> QueryError {
    let what = match error.try_into_panic() {
        Ok(panic) => sources::panic_message(panic.as_ref()),
        Err(error) => error.to_string(),
    };
    QueryError::Internal(format!("a part of the query died: {what}"))
}
