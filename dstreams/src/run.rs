//! Running an application: its driver, and on `local[N]` its executor, on IO threads of its own.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, mpsc},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use jiff::tz::TimeZone;
use millstream_common::{
    config::{self, Config, keys},
    failure::{Failure, FailureKind, Fault, Retry},
    protocol::{Application, BlockLocation},
    telemetry::metrics::Metrics,
    time::{Clock, SystemClock},
};
use millstream_driver::{
    application::{self, Checkpoint, Driver, DriverOptions, QuerySetup},
    blocks::{FetchBlock, GrpcFetch, block_of, fetch_failed, too_large},
    cluster::{ClusterHandle, SessionEnd},
    query::{
        error::{QueryError, Stopped},
        handle::QueryHandle,
    },
};
use millstream_executor::{
    self as executor, Executor, Options, ProgramsFactory,
    transport::{InProcessLink, SessionChannels},
};
use millstream_proto::{auth::Secret, refusal::unknown_executor};
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::{
    compile::{CompileOptions, CompiledJob},
    context::{Side, StreamingContext},
    error::Error as GraphError,
    master::Master,
    outputs::Console,
};

/// Threads for IO; they don't compute.
const IO_THREADS: usize = 2;
/// Messages that may wait in a session within the process.
const SESSION: usize = 1_024;

pub use millstream_driver::query::handle::QueryState as State;

/// Why an application could not be run, or ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// The graph is wrong.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The driver could not be started.
    #[error(transparent)]
    Driver(#[from] application::Error),
    /// The query ended.
    #[error(transparent)]
    Query(Arc<QueryError>),
    /// The executor within this process ended.
    #[error(transparent)]
    Executor(#[from] executor::Error),
    /// A part of the graph could not be made.
    #[error(transparent)]
    Part(#[from] Failure),
    /// The machine refuses threads or the like.
    #[error("could not {action}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// Something was asked of a context in the wrong state.
    #[error("{0}")]
    State(&'static str),
}

impl RunError {
    /// A stable, searchable code.
    pub fn code(&self) -> &str {
        match self {
            Self::Config(error) => error.code(),
            Self::Graph(error) => error.code(),
            Self::Driver(application::Error::Query(error)) => error.code(),
            Self::Driver(application::Error::Tls(_)) => "tls.files",
            Self::Driver(application::Error::Door(_)) => "http.exposed",
            Self::Driver(_) => "driver.start",
            Self::Query(error) => error.code(),
            Self::Executor(error) => error.code(),
            Self::Part(failure) => &failure.code,
            Self::Io { .. } => "io",
            Self::State(_) => "context.state",
        }
    }

    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Config(_)
            | Self::State(_)
            | Self::Driver(application::Error::Tls(_) | application::Error::Door(_)) => Fault::User,
            Self::Graph(error) => error.fault(),
            Self::Driver(application::Error::Query(error)) => error.fault(),
            Self::Driver(application::Error::Checkpoint { source, .. }) => source.fault(),
            Self::Driver(_) | Self::Io { .. } => Fault::Environment,
            Self::Query(error) => error.fault(),
            Self::Executor(error) => error.fault(),
            Self::Part(failure) => failure.fault,
        }
    }

    /// Whether starting again can help.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Driver(application::Error::Query(error)) => error.retry(),
            Self::Query(error) => error.retry(),
            Self::Executor(error) => error.retry(),
            Self::Part(failure) => failure.retry,
            Self::Driver(application::Error::Tls(_) | application::Error::Door(_)) => Retry::Never,
            Self::Driver(_) | Self::Io { .. } => Retry::Backoff,
            Self::Config(_) | Self::Graph(_) | Self::State(_) => Retry::Never,
        }
    }

    /// The process's exit code: 2 for bad arguments or configuration, 3 when superseded, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Query(error) => error.exit_code(),
            Self::Driver(application::Error::Query(error)) => error.exit_code(),
            Self::Config(_)
            | Self::Graph(_)
            | Self::State(_)
            | Self::Driver(application::Error::Tls(_) | application::Error::Door(_)) => 2,
            // Such as a location of an unknown kind.
            Self::Driver(application::Error::Checkpoint { source, .. })
                if source.fault() == Fault::User =>
            {
                2
            }
            _ => 1,
        }
    }
}

/// Gives the build id; called once.
pub type BuildId = Box<dyn FnOnce() -> io::Result<String> + Send>;

/// How an application is run.
pub struct Builder {
    name: String,
    master: Master,
    config: config::Builder,
    arguments: Value,
    console: Console,
    clock: Arc<dyn Clock>,
    build_id: Option<BuildId>,
}

/// An application that is prepared: its checkpoint is open and its partition counts are known.
pub(crate) struct Prepared {
    runtime: Runtime,
    master: Master,
    config: Config,
    application: Application,
    checkpoint: Checkpoint,
    console: Console,
    time_zone: TimeZone,
    clock: Arc<dyn Clock>,
    build_id: String,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            name: "millstream".to_owned(),
            master: Master::all_cores(),
            config: Config::builder().process_variables(),
            arguments: Value::Null,
            console: Console::stdout(),
            clock: Arc::new(SystemClock::new()),
            build_id: None,
        }
    }
}

impl Builder {
    /// The application's name, for logs, metrics and REST.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// Where tasks run; by default in this process, one slot a core. Executors of other processes need the job function of `launch`.
    #[must_use]
    pub fn master(mut self, master: Master) -> Self {
        self.master = master;
        self
    }

    /// Sets a configuration key; wins over variables.
    #[must_use]
    pub fn conf(mut self, key: &str, value: impl std::fmt::Display) -> Self {
        self.config = self.config.conf(key, value);
        self
    }

    /// Starts from this configuration instead of the variables.
    #[must_use]
    pub fn config(mut self, config: &Config) -> Self {
        self.config = config.to_builder();
        self
    }

    /// How long each batch spans; zero runs batches back to back.
    #[must_use]
    pub fn batch_interval(mut self, interval: Duration) -> Self {
        self.config = self.config.set(keys::BATCH_INTERVAL, interval);
        self
    }

    /// Where progress is kept.
    #[must_use]
    pub fn checkpoint(mut self, location: &str) -> Self {
        self.config = self
            .config
            .set(keys::CHECKPOINT_LOCATION, Some(location.to_owned()));
        self
    }

    /// The application's own arguments, for executors and the checkpoint.
    #[must_use]
    pub fn arguments(mut self, arguments: Value) -> Self {
        self.arguments = arguments;
        self
    }

    /// Where printed batches go; by default standard output.
    #[must_use]
    pub fn console(mut self, console: Console) -> Self {
        self.console = console;
        self
    }

    /// Another clock, for tests.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// The hash of this executable; without it a rebuilt program isn't told from a nondeterministic one.
    #[must_use]
    pub fn build_id(mut self, build_id: BuildId) -> Self {
        self.build_id = Some(build_id);
        self
    }

    /// Opens the checkpoint and gives the context for the graph.
    ///
    /// # Errors
    /// What is wrong with configuration or checkpoint.
    pub fn build(self) -> Result<StreamingContext, RunError> {
        let config = self.config.build()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(IO_THREADS)
            .thread_name("io")
            .enable_all()
            .build()
            .map_err(|source| RunError::Io {
                action: "start the IO threads",
                source,
            })?;
        let time_zone = match config.get(keys::TIME_ZONE) {
            Some(zone) => zone.zone().map_err(|error| {
                let message = format!(
                    "time.zone is {}, which this machine doesn't know",
                    zone.as_str()
                );
                Failure::caused_by(FailureKind::Io, message, &error)
                    .with_code("config.time_zone")
                    .with_retry(Retry::Never)
            })?,
            None => TimeZone::system(),
        };
        let opened = config.clone();
        let checkpoint = wait(&runtime, async move { Checkpoint::open(&opened).await })??;
        let build_id = match self.build_id {
            Some(build_id) => build_id().map_err(|source| RunError::Io {
                action: "read this executable",
                source,
            })?,
            None => "unknown".to_owned(),
        };
        let metadata = checkpoint.metadata.as_ref();
        let parallelism = metadata
            .map(|metadata| metadata.fingerprint.parallelism)
            .or_else(|| config.get(keys::PARALLELISM))
            .unwrap_or_else(|| self.master.default_parallelism());
        let interval = config.get(keys::BATCH_INTERVAL).as_millis();
        let application = Application {
            name: self.name,
            arguments: self.arguments,
            configuration: shown_configuration(&config),
            parallelism,
            batch_interval_millis: u64::try_from(interval).unwrap_or(u64::MAX),
            build_id: build_id.clone(),
            recorded: metadata
                .map(|metadata| metadata.recorded.clone())
                .unwrap_or_default(),
        };
        let prepared = Prepared {
            runtime,
            master: self.master,
            config: config.clone(),
            application: application.clone(),
            checkpoint,
            console: self.console,
            time_zone,
            clock: self.clock,
            build_id,
        };
        Ok(StreamingContext::with_run(
            application,
            Side::Driver,
            config,
            prepared,
        ))
    }
}

/// Every key that has a value and is no secret.
fn shown_configuration(config: &Config) -> BTreeMap<String, String> {
    let shown = config
        .effective()
        .into_iter()
        .filter(|entry| !entry.value.is_empty() && entry.value != config::REDACTED);
    shown.map(|entry| (entry.key, entry.value)).collect()
}

/// Runs a future on the runtime and waits for it on this thread, whatever that thread is.
fn wait<T: Send + 'static>(
    runtime: &Runtime,
    future: impl Future<Output = T> + Send + 'static,
) -> Result<T, RunError> {
    let (sender, receiver) = mpsc::sync_channel(1);
    runtime.spawn(async move {
        // Nobody waits any more when the receiver is gone.
        let _ = sender.send(future.await);
    });
    receiver
        .recv()
        .map_err(|_| RunError::State("the application's IO threads ended early"))
}

/// A running application.
pub struct Running {
    runtime: Option<Runtime>,
    driver: parking_lot::Mutex<Option<Driver>>,
    query: QueryHandle,
    clock: Arc<dyn Clock>,
    stop_timeout: Duration,
    address: Option<SocketAddr>,
    http: Option<SocketAddr>,
    cluster: ClusterHandle,
    executor_failed: Arc<parking_lot::Mutex<Option<executor::Error>>>,
    executor: parking_lot::Mutex<Option<(tokio::task::JoinHandle<()>, CancellationToken)>>,
}

impl Prepared {
    pub(crate) fn compile_options(&self) -> CompileOptions {
        CompileOptions {
            console: self.console.clone(),
            time_zone: self.time_zone.clone(),
            collect_max_bytes: self.config.get(keys::COLLECT_MAX_BYTES).bytes(),
        }
    }

    pub(crate) fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock)
    }

    pub(crate) fn start(
        self,
        recorded: BTreeMap<String, Value>,
        job: CompiledJob,
    ) -> Result<Running, RunError> {
        let Self {
            runtime,
            master,
            config,
            mut application,
            checkpoint,
            clock,
            build_id,
            ..
        } = self;
        application.recorded = recorded;
        if checkpoint.folder.is_none() {
            tracing::warn!(
                "no checkpoint: progress is kept in this process alone, and after a crash the next start begins anew; give --checkpoint to go on where it was"
            );
        }
        let sources = job
            .sources
            .iter()
            .map(|factory| factory())
            .collect::<Result<Vec<_>, _>>()?;
        let stop_timeout = config.get(keys::STOP_TIMEOUT);
        let metrics = if master.is_local() {
            Metrics::of_both()
        } else {
            Metrics::of_driver()
        };
        let fingerprint = job.plan.session_fingerprint(&build_id);
        let options = DriverOptions {
            name: application.name.clone(),
            config: config.clone(),
            build_id: build_id.clone(),
            serves_executors: !master.is_local(),
            metrics: metrics.clone(),
            clock: Arc::clone(&clock),
            seed: rand_seed(),
        };
        let programs = Arc::clone(&job.programs);
        let starting_clock = Arc::clone(&clock);
        let starting = async move {
            let mut driver = Driver::start(options).await?;
            let executor_failed: Arc<parking_lot::Mutex<Option<executor::Error>>> = Arc::default();
            let (fetcher, executor): (Arc<dyn FetchBlock>, _) = match master {
                Master::Local { slots } => {
                    let options = Options::in_process(slots, config.clone());
                    let factory: ProgramsFactory =
                        Arc::new(move |_: &Application| Ok(Arc::clone(&programs)));
                    let id = build_id.clone();
                    let link = in_process_link(driver.cluster().clone());
                    let executor = Executor::new(
                        options,
                        factory,
                        Arc::new(move || Ok(id.clone())),
                        Arc::new(link),
                    )
                    .with_clock(starting_clock)
                    .with_metrics(metrics);
                    let fetcher = InProcessFetch(executor.handle());
                    (Arc::new(fetcher), Some(executor))
                }
                Master::LocalCluster { .. } | Master::Cluster => {
                    let secret = config
                        .get(keys::AUTH_SECRET)
                        .map(|secret| Secret::new(secret.expose()));
                    let secret = secret.transpose().map_err(application::Error::Secret)?;
                    let max_message = config.get(keys::RPC_MAX_MESSAGE).as_len();
                    (
                        Arc::new(GrpcFetch::new(
                            secret,
                            driver.tls().clone(),
                            max_message,
                            config.get(keys::SHUFFLE_FETCH_TIMEOUT),
                        )),
                        None,
                    )
                }
            };
            let setup = QuerySetup {
                plan: Arc::new(job.plan),
                sources,
                outputs: job.outputs,
                application,
                fingerprint,
                build_id,
                checkpoint,
                fetcher,
            };
            let query = driver.run_query(setup).await?;
            let executor = executor.map(|executor| {
                let query = query.clone();
                let failed = Arc::clone(&executor_failed);
                let shutdown = CancellationToken::new();
                let told = shutdown.clone();
                let task = tokio::spawn(async move {
                    if let Err(error) = executor.run(told).await {
                        *failed.lock() = Some(error);
                        query.stop(false);
                    }
                });
                (task, shutdown)
            });
            Ok::<_, RunError>((driver, query, executor, executor_failed))
        };
        let (driver, query, executor, executor_failed) = wait(&runtime, starting)??;
        Ok(Running {
            address: driver.address(),
            http: driver.http(),
            cluster: driver.cluster().clone(),
            runtime: Some(runtime),
            driver: parking_lot::Mutex::new(Some(driver)),
            query,
            clock,
            stop_timeout,
            executor_failed,
            executor: parking_lot::Mutex::new(executor),
        })
    }
}

fn rand_seed() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().0
}

impl Running {
    /// Where executors come to.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Where metrics and REST are served.
    pub fn http(&self) -> Option<SocketAddr> {
        self.http
    }

    /// The query.
    pub fn query(&self) -> &QueryHandle {
        &self.query
    }

    /// The cluster.
    pub fn cluster(&self) -> &ClusterHandle {
        &self.cluster
    }

    /// The IO threads.
    ///
    /// # Errors
    /// After the end.
    pub fn runtime(&self) -> Result<&Runtime, RunError> {
        self.runtime
            .as_ref()
            .ok_or(RunError::State("the application has ended"))
    }

    /// Waits for the query's end; then ends the driver.
    ///
    /// # Errors
    /// Why it ended, unless it was stopped.
    pub fn await_termination(&self) -> Result<Stopped, RunError> {
        let query = self.query.clone();
        let ended = wait(
            self.runtime()?,
            async move { query.await_termination().await },
        )?;
        self.end_driver()?;
        self.outcome(ended)
    }

    /// Waits at most this long; `None` when it goes on.
    ///
    /// # Errors
    /// Why it ended, unless it was stopped.
    pub fn await_termination_or_timeout(
        &self,
        timeout: Duration,
    ) -> Result<Option<Stopped>, RunError> {
        let query = self.query.clone();
        let over = self.clock.until(self.clock.now().after(timeout));
        let waiting = async move {
            tokio::select! {
                ended = query.await_termination() => Some(ended),
                () = over => None,
            }
        };
        match wait(self.runtime()?, waiting)? {
            None => Ok(None),
            Some(ended) => {
                self.end_driver()?;
                self.outcome(ended).map(Some)
            }
        }
    }

    fn outcome(&self, ended: Result<Stopped, Arc<QueryError>>) -> Result<Stopped, RunError> {
        if let Some(error) = self.executor_failed.lock().take() {
            return Err(error.into());
        }
        ended.map_err(RunError::Query)
    }

    fn end_driver(&self) -> Result<(), RunError> {
        let Some(driver) = self.driver.lock().take() else {
            return Ok(());
        };
        let executor = self.executor.lock().take();
        wait(self.runtime()?, async move {
            driver.stop().await;
            if let Some((executor, shutdown)) = executor {
                // A session told it already, but it has none if the query ended before it was ready for executors.
                shutdown.cancel();
                // A panic of it has been reported by its thread.
                let _ = executor.await;
            }
        })
    }

    /// Stops the query: gracefully after what is queued is committed, at most for `stop.timeout`; else at once. Doesn't wait.
    ///
    /// # Errors
    /// After the end.
    pub fn stop(&self, graceful: bool) -> Result<(), RunError> {
        self.query.stop(graceful);
        if graceful {
            let query = self.query.clone();
            let over = self.clock.until(self.clock.now().after(self.stop_timeout));
            self.runtime()?.spawn(async move {
                tokio::select! {
                    _ = query.await_termination() => {}
                    () = over => query.stop(false),
                }
            });
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Dropping a runtime waits, which isn't allowed on another runtime's threads.
            runtime.shutdown_background();
        }
    }
}

fn in_process_link(cluster: ClusterHandle) -> InProcessLink {
    let registering = cluster.clone();
    let register = move |request| {
        let cluster = registering.clone();
        async move { cluster.register(request).await }.boxed()
    };
    let session = move |hello: millstream_common::protocol::Hello| {
        let cluster = cluster.clone();
        async move {
            let executor = hello.executor;
            let session = cluster.open(hello).await.map_err(|end| match end {
                SessionEnd::Unknown(_) => unknown_executor(end.to_string()),
                SessionEnd::Refused(failure) => failure,
                SessionEnd::Stopping => {
                    Failure::new(FailureKind::Io, end.to_string()).with_code("driver.stopping")
                }
            })?;
            Ok(connect(cluster, executor, session))
        }
        .boxed()
    };
    InProcessLink {
        register: Arc::new(register),
        session: Arc::new(session),
    }
}

fn connect(
    cluster: ClusterHandle,
    executor: millstream_common::ids::ExecutorId,
    mut session: millstream_driver::cluster::service::Session,
) -> SessionChannels {
    let (to_driver, mut from_executor) = tokio::sync::mpsc::channel(SESSION);
    let (to_executor, from_driver) = tokio::sync::mpsc::channel(SESSION);
    let number = session.number;
    tokio::spawn(async move {
        while let Some(message) = from_executor.recv().await {
            if cluster.heard(executor, number, message).await.is_err() {
                return;
            }
        }
        // The service may have ended first.
        let _ = cluster.closed(executor, number).await;
    });
    tokio::spawn(async move {
        while let Some(message) = session.outbox.recv().await {
            if to_executor.send(Ok(message)).await.is_err() {
                return;
            }
        }
    });
    (to_driver, from_driver)
}

/// Reads blocks of the executor in this process.
struct InProcessFetch(executor::Handle);

#[async_trait]
impl FetchBlock for InProcessFetch {
    async fn fetch(&self, location: &BlockLocation, max_bytes: u64) -> Result<Vec<Bytes>, Failure> {
        if location.meta.bytes > max_bytes {
            return Err(too_large(max_bytes));
        }
        let handle = self.0.clone();
        let block = block_of(location);
        let read = tokio::task::spawn_blocking(move || handle.block(block)).await;
        match read {
            Ok(Some(frames)) => Ok(frames),
            Ok(None) => Err(fetch_failed(location, "the executor doesn't hold it whole")),
            Err(error) => Err(fetch_failed(location, &error.to_string())),
        }
    }
}
