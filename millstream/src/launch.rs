//! Runs a job function in the role that the command line gives: driver or executor.

use std::{
    ffi::OsString,
    fs,
    io::{self, BufRead, Read, Write},
    net::SocketAddr,
    path::Path,
    process::ExitCode,
    sync::{Arc, OnceLock, mpsc},
};

use clap::{Args, FromArgMatches};
use millstream_common::{
    config::{Config, LogFormat, keys},
    failure::{Failure, FailureKind, Retry},
    open_files,
    protocol::Application,
    telemetry::logging,
    time::{Clock, SystemClock},
};
use millstream_driver::cluster::ClusterHandle;
use millstream_dstreams::{CompileOptions, Master, Running, Side, StreamingContext};
use millstream_executor::{
    Executor, ExitReason, Options, ProgramsFactory, host_name, transport::GrpcLink,
};
use parking_lot::Mutex;
use serde::{Serialize, de::DeserializeOwned};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use tracing::Level;

use crate::{
    Error, Result,
    build_id::BuildId,
    children::Children,
    cli::{self, ExecutorArgs, LaunchArgs, ORDERS_TIMEOUT, Orders, Role},
    ending, progress,
    signals::Signals,
};

pub(crate) const EXIT_UNCOMMITTED: u8 = 4;

/// How this process logs, once it does.
static LOGGED_AS: OnceLock<LogFormat> = OnceLock::new();

type Job<A> = dyn Fn(&StreamingContext, A) -> Result<()> + Send + Sync;
type BeforeStart<A> = dyn FnOnce(&mut A, &mut Settings) -> Result<()>;
type OnReady<A> = dyn FnOnce(&A, &Ready);

/// What may be changed before an application starts.
#[derive(Debug)]
pub struct Settings {
    master: Master,
    master_given: bool,
}

impl Settings {
    /// Where tasks run when the command line doesn't say.
    pub fn default_master(&mut self, master: Master) {
        if !self.master_given {
            self.master = master;
        }
    }
}

/// Where a driver that serves can be reached.
#[derive(Clone, Debug, Serialize)]
pub struct Ready {
    /// Where executors come to, `host:port`; none on `local`.
    pub driver: Option<String>,
    /// Where metrics and REST are, `host:port`.
    pub http: Option<String>,
    /// The driver's process id.
    pub process_id: u32,
    /// Process ids of the executors that it started.
    pub executors: Vec<u32>,
}

impl Ready {
    /// Of this process, told in the log.
    pub(crate) fn told(
        driver: Option<SocketAddr>,
        http: Option<SocketAddr>,
        children: Option<&Children>,
        master: Master,
    ) -> Self {
        let ready = Self {
            driver: driver.map(|address| address.to_string()),
            http: http.map(|address| address.to_string()),
            process_id: std::process::id(),
            executors: children
                .map(|children| children.ids().lock().clone())
                .unwrap_or_default(),
        };
        tracing::info!(driver = ready.driver, http = ready.http, %master, "the driver serves");
        ready
    }
}

/// Runs `job` as the command line says, and gives the process's exit code. The job function is called on the driver and on every executor; given the
/// same arguments it must build the same graph.
pub fn launch<A, J>(job: J) -> ExitCode
where
    A: Args + FromArgMatches + Serialize + DeserializeOwned + 'static,
    J: Fn(&StreamingContext, A) -> Result<()> + Send + Sync + 'static,
{
    launcher(job).run()
}

/// The same with hooks.
pub fn launcher<A, J>(job: J) -> Launcher<A>
where
    A: Args + FromArgMatches + Serialize + DeserializeOwned + 'static,
    J: Fn(&StreamingContext, A) -> Result<()> + Send + Sync + 'static,
{
    Launcher {
        job: Arc::new(job),
        before_start: None,
        on_ready: None,
    }
}

/// A job function with hooks; see [`launcher`].
pub struct Launcher<A> {
    job: Arc<Job<A>>,
    before_start: Option<Box<BeforeStart<A>>>,
    on_ready: Option<Box<OnReady<A>>>,
}

impl<A> Launcher<A>
where
    A: Args + FromArgMatches + Serialize + DeserializeOwned + 'static,
{
    /// Called on the driver alone, before the graph is built: it may complete the arguments, which executors then get as they are.
    #[must_use]
    pub fn before_start(
        mut self,
        hook: impl FnOnce(&mut A, &mut Settings) -> Result<()> + 'static,
    ) -> Self {
        self.before_start = Some(Box::new(hook));
        self
    }

    /// Called on the driver alone, once it serves.
    #[must_use]
    pub fn on_ready(mut self, hook: impl FnOnce(&A, &Ready) + 'static) -> Self {
        self.on_ready = Some(Box::new(hook));
        self
    }

    /// Runs with this process's command line.
    pub fn run(self) -> ExitCode {
        self.run_with(std::env::args_os())
    }

    /// Runs with another command line; the first argument is the program's name.
    pub fn run_with(self, arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
        let mut command = match cli::command::<A>() {
            Ok(command) => command,
            Err(error) => return fail(&error),
        };
        match cli::parse::<A>(&mut command, arguments.into_iter().collect()) {
            Ok(Role::Driver(flags, own)) => self.drive(&flags, own),
            Ok(Role::Executor(flags)) => self.execute(&flags),
            Err(error) => {
                // A closed terminal can't show help.
                let _ = error.print();
                ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
            }
        }
    }

    fn drive(self, flags: &LaunchArgs, arguments: A) -> ExitCode {
        match self.try_drive(flags, arguments) {
            Ok(code) => code,
            Err(error) => fail(&error),
        }
    }

    fn try_drive(self, flags: &LaunchArgs, mut arguments: A) -> Result<ExitCode> {
        let build_id = BuildId::begin()?;
        let config = flags.config()?;
        begin(&config)?;
        let mut settings = Settings {
            master: flags.master.unwrap_or_else(Master::all_cores),
            master_given: flags.master.is_some(),
        };
        if let Some(hook) = self.before_start {
            hook(&mut arguments, &mut settings)?;
        }
        let config = with_secret(config, settings.master)?;
        let sent = serde_json::to_value(&arguments).map_err(Error::other)?;
        let ssc = StreamingContext::builder()
            .name(&cli::program_name())
            .master(settings.master)
            .config(&config)
            .arguments(sent.clone())
            .build_id(Box::new(move || build_id.wait()))
            .build()?;
        let own: A = serde_json::from_value(sent).map_err(Error::other)?;
        (self.job)(&ssc, own)?;
        let driving = Driving::start(&ssc, settings.master, config)?;
        let ready = driving.ready();
        if let Some(path) = &flags.ready_file {
            write_ready(path, &ready)?;
        }
        if let Some(hook) = self.on_ready {
            hook(&arguments, &ready);
        }
        driving.finish()
    }

    fn execute(self, flags: &ExecutorArgs) -> ExitCode {
        let job = self.job;
        let programs: ProgramsFactory = Arc::new(move |application: &Application| {
            if application.parallelism == 0 {
                return Err(other_program());
            }
            let ssc = StreamingContext::new(application.clone(), Side::Executor);
            let arguments: A = ssc.arguments()?;
            job(&ssc, arguments).map_err(|error| job_failed(&error))?;
            Ok(ssc.compile(&CompileOptions::default())?.programs)
        });
        match execute(flags, programs) {
            Ok(code) => code,
            Err(error) => fail(&error),
        }
    }
}

/// A started application with what stands around it. Apart from [`Launcher`], which is compiled anew in every program.
struct Driving {
    running: Arc<Running>,
    children: Option<Children>,
    master: Master,
    config: Config,
}

impl Driving {
    fn start(ssc: &StreamingContext, master: Master, config: Config) -> Result<Self> {
        let running = ssc.start()?;
        let children = start_children(&running, master, &config)?;
        watch_signals(&running)?;
        if progress::is_shown(config.get(keys::PROGRESS_SHOW)) {
            running.runtime()?.spawn(progress::show(
                running.query().clone(),
                running.cluster().clone(),
            ));
        }
        Ok(Self {
            running,
            children,
            master,
            config,
        })
    }

    fn ready(&self) -> Ready {
        let running = &self.running;
        Ready::told(
            running.address(),
            running.http(),
            self.children.as_ref(),
            self.master,
        )
    }

    /// Waits for the application's end.
    fn finish(self) -> Result<ExitCode> {
        let Self {
            running,
            children,
            config,
            ..
        } = self;
        let outcome = running.await_termination();
        if let Some(children) = children {
            stop_children(children, running.runtime()?);
        }
        let stopped = outcome?;
        if stopped.is_clean() {
            return Ok(ExitCode::SUCCESS);
        }
        ending::say_what_is_left(&stopped, config.get(keys::CHECKPOINT_LOCATION).is_some());
        Ok(ExitCode::from(EXIT_UNCOMMITTED))
    }
}

/// Runs an executor of these programs to its end.
pub(crate) fn execute(flags: &ExecutorArgs, programs: ProgramsFactory) -> Result<ExitCode> {
    let build_id = Mutex::new(Some(BuildId::begin()?));
    let mut config = flags.config()?;
    let mut drivers = flags.driver.clone();
    let mut orphaned = None;
    if flags.child {
        let orders;
        (orders, orphaned) = take_orders()?;
        config = orders.configuration(&config)?;
        drivers = vec![orders.driver];
    }
    begin(&config)?;
    let mut options = Options::of_config(config.clone())?;
    options.has_parent = flags.child;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let link = GrpcLink::new(
        &drivers,
        options.secret.as_ref(),
        &options.tls,
        config.get(keys::RPC_CONNECT_TIMEOUT),
        config.get(keys::RPC_MAX_MESSAGE).as_len(),
        clock,
    )
    .map_err(|error| Error::usage(error.to_string()))?;
    let take_build_id: millstream_executor::BuildId = Arc::new(move || {
        let Some(build_id) = build_id.lock().take() else {
            return Err(Failure::new(
                FailureKind::Internal,
                "the build id is taken once",
            ));
        };
        build_id.wait().map_err(|error| {
            Failure::caused_by(FailureKind::Io, "could not read this executable", &error)
        })
    });
    let executor = Executor::new(options, programs, take_build_id, Arc::new(link));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("io")
        .enable_all()
        .build()?;
    // On the runtime's threads: what comes from the driver needs no other thread to wake up.
    let running = runtime.spawn(run_executor(executor, orphaned));
    let ended = runtime.block_on(running).map_err(|error| {
        Failure::caused_by(FailureKind::Internal, "the executor broke off", &error)
    })?;
    let reason = ended?;
    runtime.shutdown_background();
    tracing::debug!(?reason, "executor exits");
    Ok(ExitCode::SUCCESS)
}

async fn run_executor(
    executor: Executor,
    orphaned: Option<tokio::sync::oneshot::Receiver<()>>,
) -> Result<ExitReason> {
    let handle = executor.handle();
    let shutdown = CancellationToken::new();
    let mut signals = Signals::new()?;
    let stop = shutdown.clone();
    tokio::spawn(async move {
        signals.next().await;
        handle.leave();
        signals.next().await;
        stop.cancel();
    });
    if let Some(orphaned) = orphaned {
        let stop = shutdown.clone();
        tokio::spawn(async move {
            // Either way the driver is gone.
            let _ = orphaned.await;
            stop.cancel();
            tracing::info!("the driver is gone; this executor exits");
        });
    }
    Ok(executor.run(shutdown).await?)
}

/// Only a driver of Structured queries has no partition count for all of them.
fn other_program() -> Failure {
    Failure::new(
        FailureKind::BadInput,
        "the driver runs Structured queries, and this program has none; run the driver's executable, or `millstream executor` where it has no functions of its own",
    )
    .with_code("session.build_mismatch")
    .with_retry(Retry::Never)
}

fn job_failed(error: &Error) -> Failure {
    Failure::new(
        FailureKind::UserCode,
        format!("the job function failed on this executor: {error}"),
    )
    .with_code("job.failed")
    .with_retry(Retry::Never)
}

/// Sets up logging, and what else a process begins with.
pub(crate) fn begin(config: &Config) -> Result<()> {
    let format = config.get(keys::LOG_FORMAT);
    match logging::init(format) {
        Ok(()) => {
            // Set once, as logging is.
            let _ = LOGGED_AS.set(format);
            open_files::raise_limit();
            Ok(())
        }
        Err(error) => Err(Error::usage(error.to_string())),
    }
}

/// Executors of `local-cluster` get a secret of their own where none is set.
pub(crate) fn with_secret(config: Config, master: Master) -> Result<Config> {
    if !matches!(master, Master::LocalCluster { .. }) {
        return Ok(config);
    }
    let mut builder = config.to_builder();
    if config.get(keys::AUTH_SECRET).is_none() {
        let secret = uuid::Uuid::new_v4().simple().to_string();
        builder = builder.conf(keys::AUTH_SECRET.name(), secret);
    }
    if !config.is_set(keys::DRIVER_LISTEN) {
        builder = builder.conf(keys::DRIVER_LISTEN.name(), "127.0.0.1:0");
    }
    Ok(builder.build()?)
}

fn start_children(running: &Running, master: Master, config: &Config) -> Result<Option<Children>> {
    let driver = (running.address(), running.cluster());
    start_children_of(driver, running.runtime()?, master, config)
}

pub(crate) fn start_children_of(
    (address, cluster): (Option<SocketAddr>, &ClusterHandle),
    runtime: &Runtime,
    master: Master,
    config: &Config,
) -> Result<Option<Children>> {
    let Master::LocalCluster { executors, cores } = master else {
        return Ok(None);
    };
    let Some(address) = address else {
        return Err(Error::usage("the driver has no address for its executors"));
    };
    let orders = Orders {
        driver: address.to_string(),
        cores,
        secret: config
            .get(keys::AUTH_SECRET)
            .map(|secret| secret.expose().to_owned()),
        http_token: config
            .get(keys::HTTP_TOKEN)
            .map(|token| token.expose().to_owned()),
        config: serde_json::to_value(config).map_err(Error::other)?,
    };
    let _inside = runtime.enter();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let children = Children::start(executors, &orders, cluster.clone(), clock, host_name())?;
    Ok(Some(children))
}

pub(crate) fn stop_children(children: Children, runtime: &Runtime) {
    let (stopped, done) = mpsc::sync_channel(1);
    runtime.spawn(async move {
        children.stop().await;
        let _ = stopped.send(());
    });
    // Broken off only with the runtime.
    let _ = done.recv();
}

impl Orders {
    /// What an executor of `local-cluster` runs with: its own settings, and its driver's.
    fn configuration(&self, own: &Config) -> Result<Config> {
        let driver: Config = serde_json::from_value(self.config.clone()).map_err(Error::other)?;
        let mut builder = driver
            .for_executor(own)
            .to_builder()
            .set(keys::EXECUTOR_CORES, Some(self.cores));
        if let Some(secret) = &self.secret {
            builder = builder.conf(keys::AUTH_SECRET.name(), secret);
        }
        if let Some(token) = &self.http_token {
            builder = builder.conf(keys::HTTP_TOKEN.name(), token);
        }
        Ok(builder.build()?)
    }
}

/// Reads the orders, then watches for the input's end, which means that the driver is gone.
fn take_orders() -> Result<(Orders, Option<tokio::sync::oneshot::Receiver<()>>)> {
    let (first, line) = mpsc::sync_channel(1);
    let (gone, orphaned) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("orders".to_owned())
        .spawn(move || {
            let mut input = std::io::stdin().lock();
            let mut text = String::new();
            let read = input.read_line(&mut text);
            let _ = first.send(read.map(|_| text));
            // Nothing more comes; only the end matters.
            let _ = std::io::copy(&mut input.by_ref(), &mut std::io::sink());
            let _ = gone.send(());
        })?;
    let text = line
        .recv_timeout(ORDERS_TIMEOUT)
        .map_err(|_| Error::usage("no orders came on standard input"))??;
    let orders = serde_json::from_str(&text).map_err(|_| {
        Error::usage("--child is for executors that a driver of local-cluster starts")
    })?;
    Ok((orders, Some(orphaned)))
}

/// The first signal stops in an orderly way, the second at once.
fn watch_signals(running: &Arc<Running>) -> Result<()> {
    let runtime = running.runtime()?;
    let mut signals = {
        let _inside = runtime.enter();
        Signals::new()?
    };
    let stopping = Arc::downgrade(running);
    runtime.spawn(async move {
        for graceful in [true, false] {
            signals.next().await;
            tracing::info!(graceful, "stopping");
            if let Some(running) = stopping.upgrade()
                && let Err(error) = running.stop(graceful)
            {
                tracing::debug!(%error, "already over");
            }
        }
    });
    Ok(())
}

pub(crate) fn write_ready(path: &Path, ready: &Ready) -> Result<()> {
    let mut line = serde_json::to_vec(ready).map_err(Error::other)?;
    line.push(b'\n');
    let unfinished = path.with_extension("tmp");
    let written = fs::write(&unfinished, line).and_then(|()| fs::rename(&unfinished, path));
    written.map_err(|error| {
        Error::usage(format!(
            "--ready-file {} can't be written: {error}; name a file in a folder that is there and can be written to",
            path.display()
        ))
    })
}

/// Says an error once: as a log line to what reads those as JSON, else in words.
pub(crate) fn fail(error: &Error) -> ExitCode {
    let is_read = LOGGED_AS.get() == Some(&LogFormat::Json) && tracing::enabled!(Level::ERROR);
    if is_read {
        tracing::error!(code = error.code(), %error, "the process ends with an error");
    } else {
        // The exit code says it too, where standard error is closed.
        let _ = writeln!(io::stderr(), "error: {}", error.with_code());
    }
    ExitCode::from(error.exit_code())
}
