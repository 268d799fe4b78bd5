//! Where queries run: a driver, and on `local[N]` an executor, in this process.
//!
//! Layout:
//! - `builder`: how a session is set up
//! - `host`: the driver and the executor
//! - `names`: names in SQL text, in any case
//! - `queries`: which queries there are
//! - `text`: SQL text

mod builder;
mod host;
mod names;
mod queries;
mod text;

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
};

use datafusion::{
    logical_expr::{LogicalPlan, ScalarUDF},
    physical_plan::ExecutionPlan,
    prelude::SessionContext,
};
use jiff::tz::TimeZone;
use millstream_common::{
    config::{Config, keys},
    failure::{Failure, FailureKind},
    protocol::Application,
    time::Clock,
};
use millstream_connectors::kafka::sink::Configured;
use millstream_driver::{
    cluster::ClusterHandle,
    output::OutputDriver,
    query::{
        error::Stopped,
        event::{EventTime, Trigger},
        handle::Ended,
    },
};
use millstream_dstreams::Console;
use millstream_executor::ProgramsFactory;
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use uuid::Uuid;

pub use builder::SessionBuilder;
use host::Host;
use queries::{Queries, Starting};
pub(crate) use text::{expression, selected};

use crate::{
    ddl::IntoSchema,
    engine::SharedContext,
    error::Error,
    frame::DataFrame,
    plan::cut::Stages,
    program::SessionPrograms,
    query::{Description, Running, StreamingQuery},
    reader::{DataStreamReader, MemoryStream},
    sources::Bounds,
    udf::Registry,
};

/// Where queries run. Cheap to clone.
#[derive(Clone)]
pub struct Session(Arc<Inner>);

/// A session that may be gone.
pub struct WeakSession(Weak<Inner>);

impl WeakSession {
    /// The session, while somebody holds it.
    pub fn upgrade(&self) -> Option<Session> {
        self.0.upgrade().map(Session)
    }
}

struct Inner {
    host: Host,
    context: SharedContext,
    zone: TimeZone,
    zone_name: String,
    most_ahead_millis: i64,
    console: Console,
    numbers: AtomicU64,
    queries: Mutex<Queries>,
    /// What the first query that was broken off left undone.
    unfinished: Mutex<Option<Stopped>>,
}

/// A query that is to run.
pub(crate) struct NewQuery {
    pub(crate) name: Option<String>,
    pub(crate) checkpoint: Progress,
    /// Folders that it reads.
    pub(crate) reads: Vec<String>,
    /// What it gave before is still there after a restart.
    pub(crate) recovers: bool,
    /// It reads what is there, ends, and is not shown among the queries.
    pub(crate) is_passing: bool,
    pub(crate) description: Description,
    pub(crate) trigger: Trigger,
    pub(crate) bounds: Bounds,
    /// Columns whose latest times make the watermark.
    pub(crate) event_times: Vec<EventTime>,
    /// Makes the stages for a number of partitions.
    pub(crate) cut: Box<dyn FnOnce(u32) -> Result<Stages, Error> + Send>,
    pub(crate) output: Arc<dyn OutputDriver>,
}

/// Where a query keeps how far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// As the session says.
    Default,
    /// There.
    At(String),
    /// In memory; such a query keeps no state.
    Forgotten,
}

/// What an executor of another process runs for sessions with these functions.
pub fn executor_programs(functions: Registry) -> ProgramsFactory {
    Arc::new(move |_: &Application| Ok(Arc::new(SessionPrograms::new(functions.clone())) as Arc<_>))
}

impl Session {
    /// A session that is to be set up.
    pub fn builder() -> SessionBuilder {
        SessionBuilder::default()
    }

    /// The same, without keeping it alive.
    pub fn downgrade(&self) -> WeakSession {
        WeakSession(Arc::downgrade(&self.0))
    }

    /// Begins to read a stream.
    pub fn read_stream(&self) -> DataStreamReader {
        DataStreamReader::new(self.clone(), true)
    }

    /// Begins to read what doesn't grow: files as they are when a query runs.
    pub fn read(&self) -> DataStreamReader {
        DataStreamReader::new(self.clone(), false)
    }

    /// A stream whose rows the program gives, for tests.
    ///
    /// # Errors
    /// A schema that isn't one.
    pub fn memory_stream(&self, schema: impl IntoSchema) -> Result<MemoryStream, Error> {
        MemoryStream::new(self, schema.into_schema(self.zone_name())?)
    }

    /// A query in SQL over views that [`DataFrame::create_or_replace_temp_view`] made.
    ///
    /// # Errors
    /// When the text can't be read, or names what isn't there.
    pub fn sql(&self, text: &str) -> Result<DataFrame, Error> {
        let context = Arc::clone(&self.0.context);
        let text = text.to_owned();
        let planned = self.wait(async move { text::query(&context, &text).await })??;
        Ok(DataFrame::new(self.clone(), planned))
    }

    /// Queries that run.
    pub fn active_queries(&self) -> Vec<StreamingQuery> {
        let queries = self.0.queries.lock();
        let active = queries.running.iter().filter(|query| query.is_active());
        active
            .map(|query| StreamingQuery::new(Arc::clone(query), self.clone()))
            .collect()
    }

    /// Where executors come to, where they come from outside.
    pub fn address(&self) -> Option<std::net::SocketAddr> {
        self.0.host.address()
    }

    /// Where metrics and REST are served.
    pub fn http(&self) -> Option<std::net::SocketAddr> {
        self.0.host.http()
    }

    /// The cluster.
    pub fn cluster(&self) -> &ClusterHandle {
        self.0.host.cluster()
    }

    /// The IO threads.
    ///
    /// # Errors
    /// After the end.
    pub fn runtime(&self) -> Result<&Runtime, Error> {
        self.0.host.runtime()
    }

    /// Asks every query to end, after the batch that runs or at once; none starts any more. What [`read`](Self::read) reads is broken off at once only. Doesn't wait.
    pub fn stop_queries(&self, graceful: bool) {
        self.0.queries.lock().stop(graceful);
    }

    /// Whether every query was asked to end.
    pub fn is_ending(&self) -> bool {
        self.0.queries.lock().ending.is_some()
    }

    /// Ends every query and the driver. Says whether all that was planned is committed and published.
    ///
    /// # Errors
    /// When the executor of this process failed.
    pub fn stop(&self) -> Result<bool, Error> {
        self.stop_queries(true);
        // They have the same time, all of them together.
        let begun = self.clock().now();
        for query in self.active_queries() {
            let passed = self.clock().now().since(begun);
            // Its own caller hears why it ended.
            let _ = query.stop_within(self.stop_timeout().saturating_sub(passed));
        }
        self.0.host.stop()?;
        Ok(self.0.unfinished.lock().is_none())
    }

    /// What is said to whoever wants something of it then.
    pub(crate) fn ended(&self) -> Error {
        host::ended().into()
    }

    pub(crate) fn context(&self) -> &SessionContext {
        &self.0.context
    }

    pub(crate) fn console(&self) -> &Console {
        &self.0.console
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        self.0.host.clock()
    }

    /// So far ahead of its batch an event time may be and still counts for a watermark.
    pub(crate) fn most_ahead_millis(&self) -> i64 {
        self.0.most_ahead_millis
    }

    pub(crate) fn zone(&self) -> &TimeZone {
        &self.0.zone
    }

    pub(crate) fn zone_name(&self) -> &str {
        &self.0.zone_name
    }

    pub(crate) fn function(&self, name: &str) -> Result<ScalarUDF, Error> {
        if let Some(function) = self.0.host.functions().find(name) {
            return Ok(function.clone());
        }
        let state = self.0.context.state();
        let known = state.scalar_functions();
        let wanted = name.to_ascii_lowercase();
        if let Some(function) = known.get(&wanted) {
            return Ok(function.as_ref().clone());
        }
        let near = known
            .keys()
            .min_by_key(|known| (strsim::levenshtein(known, &wanted), known.as_str()));
        let message = match near {
            Some(nearest) => format!("there is no function {name}; is {nearest} meant?"),
            None => format!("there is no function {name}"),
        };
        Err(Error::Plan(message))
    }

    pub(crate) fn build_id(&self) -> &str {
        self.0.host.build_id()
    }

    pub(crate) fn config(&self) -> &Config {
        self.0.host.config()
    }

    /// Whether files are forced to the disk before they count.
    pub(crate) fn fsync(&self) -> bool {
        self.0.host.config().get(keys::FILE_SINK_FSYNC)
    }

    /// What the configuration says of Kafka sinks.
    pub(crate) fn kafka_sinks(&self) -> Configured {
        Configured::of(self.0.host.config())
    }

    /// A folder for a query that isn't gone on with, deleted when this is dropped; none where executors reach none.
    pub(crate) fn scratch(&self) -> Result<Option<TempDir>, Error> {
        self.0.host.scratch()
    }

    #[cfg(test)]
    pub(crate) fn temporary_folders(&self) -> Vec<PathBuf> {
        self.0.host.temporary_folders()
    }

    pub(crate) fn stop_timeout(&self) -> Duration {
        self.0.host.stop_timeout()
    }

    pub(crate) fn next_number(&self) -> u64 {
        self.0.numbers.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn note_end(&self, ended: &Ended) {
        if let Ok(stopped) = ended
            && !stopped.is_clean()
        {
            self.0.unfinished.lock().get_or_insert(stopped.clone());
        }
    }

    /// Runs a future on the IO threads and waits for it on this one.
    pub(crate) fn wait<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Error> {
        wait(self.runtime()?, future)
    }

    /// The physical plan.
    pub(crate) fn plan(&self, plan: LogicalPlan) -> Result<Arc<dyn ExecutionPlan>, Error> {
        let state = self.0.context.state();
        let planned = self.wait(async move { state.create_physical_plan(&plan).await })?;
        Ok(planned?)
    }

    pub(crate) fn begin(&self, query: NewQuery) -> Result<StreamingQuery, Error> {
        let run = Uuid::new_v4();
        let checkpoint = self.0.host.location(&query)?;
        if let Some(location) = &checkpoint
            && is_among(location, &query.reads)
        {
            return Err(Error::option(
                "checkpointLocation",
                location,
                "the query reads this folder, and would read its own progress",
            ));
        }
        let claimed = self.0.queries.lock().claim(Starting {
            run,
            name: query.name.clone(),
            checkpoint: checkpoint.clone(),
            is_passing: query.is_passing,
            stop: None,
        });
        if let Err(refused) = claimed {
            self.0.host.give_up(checkpoint.as_deref());
            return Err(refused);
        }
        let description = query.description.clone();
        let begun = self.0.host.begin(query, run, checkpoint.as_deref());
        let begun = begun.map(|begun| {
            Arc::new(Running {
                id: begun.id,
                handle: begun.handle,
                checkpoint,
                description,
                info: begun.info,
            })
        });
        self.0.queries.lock().begun(run, begun.as_ref().ok());
        Ok(StreamingQuery::new(begun?, self.clone()))
    }
}

/// Whether a location is one of these folders.
pub(crate) fn is_among(location: &str, folders: &[String]) -> bool {
    let place = place_of(location);
    folders.iter().any(|folder| place_of(folder) == place)
}

/// A location however it is written: by links, or by the way from another folder.
fn place_of(location: &str) -> PathBuf {
    let path = location.strip_prefix("file://").unwrap_or(location);
    fs::canonicalize(path).unwrap_or_else(|_| PathBuf::from(location))
}

fn wait<T: Send + 'static>(
    runtime: &Runtime,
    future: impl Future<Output = T> + Send + 'static,
) -> Result<T, Error> {
    let (sender, receiver) = mpsc::sync_channel(1);
    runtime.spawn(async move {
        // Nobody waits any more when the receiver is gone.
        let _ = sender.send(future.await);
    });
    receiver.recv().map_err(|_| {
        Failure::new(FailureKind::Io, "the session's IO threads ended early")
            .with_code("session.ended")
            .into()
    })
}
