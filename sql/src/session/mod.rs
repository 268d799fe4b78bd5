//! Where queries run: a driver, and on `local[N]` an executor, in this process.
//!
//! Layout:
//! - `builder`: how a session is set up
//! - `host`: the driver and the executor
//! - `text`: SQL text

mod builder;
mod host;
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
use tokio::runtime::Runtime;
use uuid::Uuid;

pub use builder::SessionBuilder;
use host::Host;

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
    console: Console,
    numbers: AtomicU64,
    queries: Mutex<Vec<Arc<Running>>>,
    /// What the first query that was broken off left undone.
    unfinished: Mutex<Option<Stopped>>,
}

/// A query that is to run.
pub(crate) struct NewQuery {
    pub(crate) name: Option<String>,
    pub(crate) checkpoint: Option<String>,
    pub(crate) description: Description,
    pub(crate) trigger: Trigger,
    pub(crate) bounds: Bounds,
    /// Columns whose latest times make the watermark.
    pub(crate) event_times: Vec<EventTime>,
    /// Makes the stages for a number of partitions.
    pub(crate) cut: Box<dyn FnOnce(u32) -> Result<Stages, Error> + Send>,
    pub(crate) output: Arc<dyn OutputDriver>,
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
        let active = queries.iter().filter(|query| query.is_active());
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

    /// Asks every query to end, after the batch that runs or at once. Doesn't wait.
    pub fn stop_queries(&self, graceful: bool) {
        for query in self.0.queries.lock().iter() {
            query.handle.stop(graceful);
        }
    }

    /// Ends every query and the driver. Says whether all batches that were begun are committed.
    ///
    /// # Errors
    /// When the executor of this process failed.
    pub fn stop(&self) -> Result<bool, Error> {
        self.stop_queries(true);
        for query in self.active_queries() {
            // Its own caller hears why it ended.
            let _ = query.stop();
        }
        self.0.host.stop()?;
        Ok(self.0.unfinished.lock().is_none())
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
        let known = self.0.context.state();
        let known = known.scalar_functions().get(&name.to_ascii_lowercase());
        known
            .map(|function| function.as_ref().clone())
            .ok_or_else(|| Error::Plan(format!("there is no function {name}")))
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

    pub(crate) fn accepts_duplicates(&self) -> bool {
        self.0.host.config().get(keys::KAFKA_SINK_ACCEPT_DUPLICATES)
    }

    /// A folder for a query that isn't gone on with.
    pub(crate) fn scratch_checkpoint(&self) -> Result<String, Error> {
        self.0.host.temporary_location()
    }

    pub(crate) fn stop_timeout(&self) -> Duration {
        self.0.host.stop_timeout()
    }

    pub(crate) fn next_number(&self) -> u64 {
        self.0.numbers.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn note_end(&self, ended: &Ended) {
        if let Ok(stopped) = ended
            && stopped.unfinished.is_some()
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
        let name = query.name.clone();
        let is_taken = |known: &StreamingQuery| known.name() == name.as_deref();
        if name.is_some() && self.active_queries().iter().any(is_taken) {
            let name = name.unwrap_or_default();
            return Err(Error::refused(
                format!(
                    "cannot start query with name {name} as a query with that name is already active"
                ),
                "stop that one, or give another name",
            ));
        }
        let checkpoint = self.0.host.location(&query)?;
        // Held until the query is known, so that two starts at a time can't both find the checkpoint free.
        let mut queries = self.0.queries.lock();
        queries.retain(|query| query.is_active());
        let place = place_of(&checkpoint);
        if queries
            .iter()
            .any(|known| place_of(&known.checkpoint) == place)
        {
            return Err(Error::refused(
                format!("a query that runs has the checkpoint {checkpoint}"),
                "stop that one, or name the queries with query_name, or give each an option checkpointLocation",
            ));
        }
        let mut description = query.description.clone();
        let has_event_time = !query.event_times.is_empty();
        let (id, handle, sources) = self.0.host.begin(query, &checkpoint)?;
        description.sources = sources;
        let running = Arc::new(Running {
            id,
            run: Uuid::new_v4(),
            name,
            handle,
            checkpoint,
            description,
            has_event_time,
        });
        queries.push(Arc::clone(&running));
        Ok(StreamingQuery::new(running, self.clone()))
    }
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
