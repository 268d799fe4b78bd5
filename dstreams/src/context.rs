//! [`StreamingContext`]: where a job function declares its sources, and through which it sees the outside.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use millstream_common::{
    config::{Config, Spec},
    protocol::Application,
    time::{Clock, SystemClock},
};
use millstream_common::{
    failure::{Failure, FailureKind},
    protocol::TaskInput,
    routing::MAX_PARTITIONS,
};
use millstream_connectors::source::{More, SplitReader, SplitSource};
use millstream_dataflow::{
    combine::Data,
    rows::{Opener, Rows, opener},
    task::Task,
};
use millstream_driver::query::error::Stopped;
use parking_lot::Mutex;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    compile::{CompileOptions, CompiledJob, compile},
    error::Error,
    graph::{Graph, Keeping, Node, NodeId, Shape, SourceFactory, erase},
    recorded::Recorded,
    run::{Builder, Prepared, RunError, Running, State},
    stream::DStream,
};

/// Which side builds the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The driver: what the job function reads through the context is recorded.
    Driver,
    /// An executor: what it reads is what the driver recorded.
    Executor,
}

/// The graph of an application under construction. Cheap to clone; clones are the same context.
#[derive(Clone)]
pub struct StreamingContext {
    inner: Arc<Inner>,
}

struct Inner {
    application: Application,
    config: Config,
    clock: Arc<dyn Clock>,
    graph: Arc<Mutex<Graph>>,
    recorded: Recorded,
    run: Mutex<Run>,
}

enum Run {
    /// A graph alone: on executors, and where somebody else runs it.
    Graph,
    Prepared(Box<Prepared>),
    Running(Arc<Running>),
}

impl StreamingContext {
    /// How to run an application from a program's own `main`.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// A context without streams. Its partition count is the application's, between 1 and 4,096. Keys of its configuration that this release
    /// doesn't know count as unset.
    pub fn new(application: Application, side: Side) -> Self {
        let mut config = Config::builder();
        for (key, value) in &application.configuration {
            if Spec::find(key).is_some() {
                config = config.conf(key.as_str(), value);
            }
        }
        let config = config.build().unwrap_or_default();
        Self::with(
            application,
            side,
            config,
            Arc::new(SystemClock::new()),
            Run::Graph,
        )
    }

    pub(crate) fn with_run(
        application: Application,
        side: Side,
        config: Config,
        prepared: Prepared,
    ) -> Self {
        let clock = prepared.clock();
        Self::with(
            application,
            side,
            config,
            clock,
            Run::Prepared(Box::new(prepared)),
        )
    }

    fn with(
        application: Application,
        side: Side,
        config: Config,
        clock: Arc<dyn Clock>,
        run: Run,
    ) -> Self {
        let recorded = Recorded::new(side, application.recorded.clone());
        let graph = Graph {
            config: config.clone(),
            recorded: recorded.clone(),
            build_id: application.build_id.clone(),
            ..Graph::default()
        };
        Self {
            inner: Arc::new(Inner {
                application,
                config,
                clock,
                graph: Arc::new(Mutex::new(graph)),
                recorded,
                run: Mutex::new(run),
            }),
        }
    }

    /// Starts what was declared; nothing can be added afterwards.
    ///
    /// # Errors
    /// When the graph is wrong, or the driver can't be started.
    pub fn start(&self) -> Result<Arc<Running>, RunError> {
        let mut run = self.inner.run.lock();
        let prepared = match std::mem::replace(&mut *run, Run::Graph) {
            Run::Prepared(prepared) => prepared,
            other => {
                *run = other;
                return Err(RunError::State(
                    "a context is started once, and only one that the builder made",
                ));
            }
        };
        let job = self.compile(&prepared.compile_options())?;
        let running = Arc::new(prepared.start(self.recorded(), job)?);
        *run = Run::Running(Arc::clone(&running));
        Ok(running)
    }

    fn running(&self) -> Result<Arc<Running>, RunError> {
        match &*self.inner.run.lock() {
            Run::Running(running) => Ok(Arc::clone(running)),
            Run::Graph | Run::Prepared(_) => Err(RunError::State("the context was not started")),
        }
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// Why it ended, unless it was stopped.
    pub fn await_termination(&self) -> Result<Stopped, RunError> {
        self.running()?.await_termination()
    }

    /// Waits at most this long; `None` when it goes on.
    ///
    /// # Errors
    /// Why it ended, unless it was stopped.
    pub fn await_termination_or_timeout(
        &self,
        timeout: Duration,
    ) -> Result<Option<Stopped>, RunError> {
        self.running()?.await_termination_or_timeout(timeout)
    }

    /// Stops: gracefully after what is queued is committed, at most for `stop.timeout`; else at once. Doesn't wait for the end.
    ///
    /// # Errors
    /// When it isn't running.
    pub fn stop(&self, graceful: bool) -> Result<(), RunError> {
        self.running()?.stop(graceful)
    }

    /// Where the application is.
    pub fn state(&self) -> State {
        match &*self.inner.run.lock() {
            Run::Running(running) => running.query().state(),
            Run::Graph | Run::Prepared(_) => State::Initialized,
        }
    }

    /// The configuration, typed.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// The clock, for connectors.
    pub fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.inner.clock)
    }

    /// The application's name.
    pub fn name(&self) -> &str {
        &self.inner.application.name
    }

    /// Partitions of an exchange where no count is asked for.
    pub fn parallelism(&self) -> u32 {
        self.inner.application.parallelism.clamp(1, MAX_PARTITIONS)
    }

    /// The batch interval; zero when batches run back to back.
    pub fn batch_interval(&self) -> Duration {
        Duration::from_millis(self.inner.application.batch_interval_millis)
    }

    /// A value of the configuration, as text.
    pub fn configuration(&self, key: &str) -> Option<&str> {
        self.inner
            .application
            .configuration
            .get(key)
            .map(String::as_str)
    }

    /// The application's own arguments.
    ///
    /// # Errors
    /// [`Error::Arguments`].
    pub fn arguments<A: DeserializeOwned>(&self) -> Result<A, Error> {
        serde_json::from_value(self.inner.application.arguments.clone()).map_err(|error| {
            Error::Arguments {
                reason: error.to_string(),
            }
        })
    }

    /// Reads something outside of the arguments (a file, the clock) so that both sides see the same: `read` runs on the driver, executors get its
    /// value. A second call of the same name gives the first one's value.
    ///
    /// # Errors
    /// When `read` fails, or its value can't be kept as JSON, or the driver never read under this name.
    pub fn record<V, E>(&self, name: &str, read: impl FnOnce() -> Result<V, E>) -> Result<V, Error>
    where
        V: Serialize + DeserializeOwned,
        E: std::fmt::Display,
    {
        self.inner.recorded.record(name, read)
    }

    /// All that was recorded, for [`Application::recorded`].
    pub fn recorded(&self) -> BTreeMap<String, Value> {
        self.inner.recorded.all()
    }

    /// What relative paths are relative to.
    pub(crate) fn working_folder(&self) -> Result<PathBuf, Error> {
        self.inner.recorded.working_folder()
    }

    /// A stream of a source. `settings` are those that a checkpoint depends on. For connectors; programs call theirs.
    pub fn source<T: Data>(
        &self,
        kind: &str,
        settings: Value,
        driver: SourceFactory,
        reader: Arc<dyn SplitSource<Vec<T>>>,
    ) -> DStream<T> {
        let closing = reader.clone();
        let node = self.inner.graph.lock().add(Node {
            kind: kind.to_owned(),
            name: None,
            inputs: Vec::new(),
            shape: Shape::Source {
                settings,
                driver,
                open: Box::new(move |_| erase(read_split(reader.clone()))),
                close: Arc::new(move || closing.close()),
            },
            keeping: Some(Keeping::of::<T>()),
        });
        self.stream(node)
    }

    /// The union of several streams; at least one.
    pub fn union<T: Data>(&self, first: &DStream<T>, others: &[DStream<T>]) -> DStream<T> {
        first.union_all(others)
    }

    fn stream<T>(&self, node: NodeId) -> DStream<T> {
        DStream::new(self.inner.graph.clone(), node, self.parallelism())
    }

    /// Cuts the graph into stages. Nothing can be added afterwards.
    ///
    /// # Errors
    /// What is wrong with the graph.
    pub fn compile(&self, options: &CompileOptions) -> Result<CompiledJob, Error> {
        compile(&mut self.inner.graph.lock(), options)
    }
}

fn read_split<T: 'static>(source: Arc<dyn SplitSource<Vec<T>>>) -> Opener<T> {
    opener(move |task| {
        let reader = task.with(|context| {
            let TaskInput::Split { split, .. } = context.input.clone() else {
                return Err(Failure::new(
                    FailureKind::Internal,
                    "the task should read a split, but was given blocks",
                ));
            };
            source.open(&split, context)
        })?;
        Ok(Box::new(SplitRows { reader, task }))
    })
}

struct SplitRows<'t, 'a, T> {
    reader: Box<dyn SplitReader<Vec<T>>>,
    task: &'t Task<'a>,
}

impl<T> Rows<T> for SplitRows<'_, '_, T> {
    fn next(&mut self, chunk: &mut Vec<T>) -> Result<bool, Failure> {
        let more = self.task.with(|context| self.reader.next(chunk, context))?;
        Ok(more == More::Yes)
    }
}
