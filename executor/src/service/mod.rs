//! The executor itself: registers, builds the graph, keeps its session, obeys.
//!
//! Layout:
//! - `backoff`: pauses between tries
//! - `life`: what can end the executor
//! - `node`: what lives as long as the process, over all registrations
//! - `played`: a driver for tests
//! - `registration`: registering, and what follows from the driver's answer
//! - `session`: one session with the driver

mod backoff;
mod life;
mod node;
#[cfg(test)]
mod played;
mod registration;
mod session;
#[cfg(test)]
mod tests;

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use millstream_common::{
    config::{Address, keys},
    failure::{Failure, FailureKind, Fault, Retry},
    ids::BlockId,
    protocol::Application,
    telemetry::metrics::Metrics,
    time::{Clock, SystemClock},
};
use millstream_dataflow::program::Programs;
use tokio::{sync::watch, task};
use tokio_util::sync::CancellationToken;

use crate::{blocks::BlockStore, options::Options, server, transport::DriverLink};
use backoff::Backoff;
use life::Life;
use node::Node;
use registration::Registration;
pub(crate) use registration::unshared;
use session::SessionEnd;

/// Builds the application's graph and code from what the driver says of it: the same job function that the driver called.
pub type ProgramsFactory =
    Arc<dyn Fn(&Application) -> Result<Arc<dyn Programs>, Failure> + Send + Sync>;

/// Gives the build id; called once, off the IO threads.
pub type BuildId = Arc<dyn Fn() -> Result<String, Failure> + Send + Sync>;

/// Slot threads and servers that haven't ended this long after the executor has are left to the process's end.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// Why an executor ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExitReason {
    /// The driver said so.
    Shutdown {
        /// Its reason.
        reason: String,
    },
    /// It was told to leave, and the driver let it go or `stop.timeout` passed.
    Left,
    /// Its shutdown token was cancelled.
    Stopped,
}

/// Why an executor could not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The driver refused it.
    #[error("the driver refused this executor: {0}")]
    Refused(Failure),
    /// It could not be set up on this machine, or the application's graph could not be built.
    #[error("the executor could not start: {0}")]
    Setup(Failure),
    /// It and the driver don't accept each other's certificates, or only one of them speaks TLS or asks for the secret.
    #[error("no safe connection to the driver: {0}")]
    Unsafe(Failure),
}

impl Error {
    /// The failure inside.
    pub fn failure(&self) -> &Failure {
        match self {
            Self::Refused(failure) | Self::Setup(failure) | Self::Unsafe(failure) => failure,
        }
    }

    /// Whether somebody has to change the configuration of this process, or of the driver to fit it.
    pub fn is_misconfigured(&self) -> bool {
        match self {
            Self::Unsafe(_) => true,
            Self::Setup(failure) => failure.code == "http.exposed",
            Self::Refused(_) => false,
        }
    }

    /// A stable, searchable code.
    pub fn code(&self) -> &str {
        &self.failure().code
    }

    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        self.failure().fault
    }

    /// Whether trying again can help.
    pub fn retry(&self) -> Retry {
        self.failure().retry
    }
}

/// Where an executor is reached once it listens; empty where it doesn't serve.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Blocks, `host:port`.
    pub blocks: String,
    /// Metrics, `host:port`.
    pub http: String,
}

/// Steers a running executor. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    leave: CancellationToken,
    addresses: watch::Receiver<Option<Addresses>>,
    blocks: watch::Receiver<Option<Arc<BlockStore>>>,
}

impl Handle {
    /// Tells the driver that this executor leaves (SIGTERM): it takes nothing of later batches and serves its blocks until the driver
    /// lets it go, or `stop.timeout`.
    pub fn leave(&self) {
        self.leave.cancel();
    }

    /// Where it listens, once it does; `None` if it ended before.
    pub async fn addresses(&mut self) -> Option<Addresses> {
        let addresses = self.addresses.wait_for(Option::is_some).await;
        addresses.ok().and_then(|addresses| addresses.clone())
    }

    /// The frames of a block that it holds, for a driver in the same process; may read from disk. `None` where it doesn't hold it whole.
    pub fn block(&self, block: BlockId) -> Option<Vec<Bytes>> {
        let store = self.blocks.borrow().clone()?;
        let frames = store.frames(block)?;
        frames.iter().map(|frame| frame.read().ok()).collect()
    }
}

/// An executor, ready to run.
pub struct Executor {
    options: Options,
    programs: ProgramsFactory,
    build_id: BuildId,
    link: Arc<dyn DriverLink>,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    leave: CancellationToken,
    addresses: watch::Sender<Option<Addresses>>,
    blocks: watch::Sender<Option<Arc<BlockStore>>>,
}

impl Executor {
    /// An executor on the machine's clock with metrics of its own.
    pub fn new(
        options: Options,
        programs: ProgramsFactory,
        build_id: BuildId,
        link: Arc<dyn DriverLink>,
    ) -> Self {
        Self {
            options,
            programs,
            build_id,
            link,
            clock: Arc::new(SystemClock::new()),
            metrics: Metrics::of_executor(),
            leave: CancellationToken::new(),
            addresses: watch::Sender::new(None),
            blocks: watch::Sender::new(None),
        }
    }

    /// The same on another clock.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// The same counting into these metrics.
    #[must_use]
    pub fn with_metrics(mut self, metrics: Metrics) -> Self {
        self.metrics = metrics;
        self
    }

    /// A handle on it.
    pub fn handle(&self) -> Handle {
        Handle {
            leave: self.leave.clone(),
            addresses: self.addresses.subscribe(),
            blocks: self.blocks.subscribe(),
        }
    }

    /// Runs on the current tokio runtime, which serves its IO, until the driver or the caller ends it. Tasks run on threads of their
    /// own.
    ///
    /// # Errors
    /// [`Error`] when it can't be set up or the driver refuses it for good. An absent driver is waited for.
    pub fn run(self, shutdown: CancellationToken) -> BoxFuture<'static, Result<ExitReason, Error>> {
        // Boxed: all of the executor is compiled here, not again in each crate that awaits it.
        Box::pin(self.run_inside(shutdown))
    }

    async fn run_inside(self, shutdown: CancellationToken) -> Result<ExitReason, Error> {
        let life = Life::new(shutdown, self.leave.clone(), Arc::clone(&self.clock));
        let node = self.start_node().await?;
        self.blocks.send_replace(Some(Arc::clone(&node.store)));
        let servers = CancellationToken::new();
        let _ends_them_on_errors = servers.clone().drop_guard();
        let addresses = self.start_servers(&node, &servers).await?;
        self.addresses.send_replace(Some(addresses.clone()));
        let build_id = self.take_build_id().await?;

        let outcome = self.live(&node, &life, &addresses, &build_id).await;

        node.forget_everything();
        servers.cancel();
        node.stop(&self.clock, STOP_GRACE).await;
        if let Ok(reason) = &outcome {
            tracing::info!(?reason, "the executor ended");
        }
        outcome
    }

    async fn start_node(&self) -> Result<Arc<Node>, Error> {
        let spill = match self.options.config.get(keys::SHUFFLE_SPILL_DIR) {
            Some(folder) => PathBuf::from(folder),
            None => std::env::temp_dir(),
        };
        let options = self.options.clone();
        let clock = Arc::clone(&self.clock);
        let metrics = self.metrics.clone();
        let node = task::spawn_blocking(move || Node::start(&options, &spill, clock, metrics))
            .await
            .map_err(|error| Error::Setup(ended_early(&error)))?;
        node.map(Arc::new).map_err(Error::Setup)
    }

    async fn take_build_id(&self) -> Result<String, Error> {
        let build_id = Arc::clone(&self.build_id);
        task::spawn_blocking(move || build_id())
            .await
            .map_err(|error| Error::Setup(ended_early(&error)))?
            .map_err(Error::Setup)
    }

    async fn start_servers(
        &self,
        node: &Arc<Node>,
        shutdown: &CancellationToken,
    ) -> Result<Addresses, Error> {
        let mut addresses = Addresses::default();
        if let Some(listen) = &self.options.listen {
            let (listener, bound) = server::listen(listen, keys::EXECUTOR_LISTEN.name())
                .await
                .map_err(Error::Setup)?;
            addresses.blocks = match &self.options.advertise {
                Some(advertised) => advertised.of_port(bound.port()).to_string(),
                None => self.reachable(listen, bound),
            };
            let serving = server::serve_blocks(
                listener,
                Arc::clone(&node.store),
                self.options.secret.clone(),
                self.options.tls.clone(),
                shutdown.clone(),
            );
            task::spawn(report_end("blocks", serving));
        }
        if let Some(http) = &self.options.http {
            let (listener, bound) = server::listen(http, keys::EXECUTOR_HTTP.name())
                .await
                .map_err(Error::Setup)?;
            addresses.http = self.reachable(http, bound);
            let opened = server::open_http(
                &self.options.door,
                listener,
                self.metrics.clone(),
                Arc::clone(&node.budget),
            );
            let serving = server::serve_http(opened.map_err(Error::Setup)?, shutdown.clone());
            task::spawn(report_end("http", serving));
        }
        Ok(addresses)
    }

    /// What others dial: the address listened on, the host's name in place of a wildcard.
    fn reachable(&self, asked: &Address, bound: std::net::SocketAddr) -> String {
        if bound.ip().is_unspecified() {
            format!("{}:{}", self.options.host, bound.port())
        } else {
            asked.with_port(bound.port()).to_string()
        }
    }

    /// Registers and serves, again and again, until something ends it.
    async fn live(
        &self,
        node: &Arc<Node>,
        life: &Life,
        addresses: &Addresses,
        build_id: &str,
    ) -> Result<ExitReason, Error> {
        let mut backoff = Backoff::new(Arc::clone(&self.clock));
        loop {
            let registered = tokio::select! {
                reason = life.ended_unregistered() => return Ok(reason),
                registered = Registration::obtain(self, node, addresses, build_id, &mut backoff) => registered?,
            };
            let end = self.serve(node, life, &registered, &mut backoff).await;
            node.forget_everything();
            tokio::select! {
                () = registered.close() => {}
                () = self.clock.until(self.clock.now().after(STOP_GRACE)) => {
                    tracing::warn!("the application's programs take long to close; going on without them");
                }
            }
            match end {
                SessionEnd::Unknown => {
                    tracing::warn!(
                        executor = %registered.executor,
                        "the driver doesn't know this executor any more; it registers anew"
                    );
                }
                SessionEnd::Refused(failure) => return Err(Error::Refused(failure)),
                SessionEnd::Unsafe(failure) => return Err(Error::Unsafe(failure)),
                SessionEnd::Exit(reason) => return Ok(reason),
                SessionEnd::Cut => {}
            }
        }
    }

    /// Keeps sessions of one registration going. A cut one is opened again under the same id.
    async fn serve(
        &self,
        node: &Arc<Node>,
        life: &Life,
        registration: &Registration,
        backoff: &mut Backoff,
    ) -> SessionEnd {
        let mut is_told = false;
        loop {
            let opened = tokio::select! {
                reason = life.ended(registration.tuning.stop_timeout) => return SessionEnd::Exit(reason),
                opened = self.link.session(registration.hello()) => opened,
            };
            let end = match opened {
                Ok(session) => {
                    is_told = false;
                    session::run(node, life, registration, session, backoff).await
                }
                Err(error) => {
                    let end = SessionEnd::of_error(&error);
                    if matches!(end, SessionEnd::Cut) && life.is_leaving() {
                        // No driver is there that could still need its blocks.
                        return SessionEnd::Exit(ExitReason::Left);
                    }
                    if matches!(end, SessionEnd::Cut) && !is_told {
                        is_told = true;
                        tracing::warn!(%error, executor = %registration.executor, "the session can't be opened; trying on");
                    }
                    end
                }
            };
            match end {
                SessionEnd::Cut => {}
                SessionEnd::Unknown => {
                    backoff.pause().await;
                    return SessionEnd::Unknown;
                }
                end => return end,
            }
            tokio::select! {
                reason = life.ended(registration.tuning.stop_timeout) => return SessionEnd::Exit(reason),
                () = backoff.pause() => {}
            }
        }
    }
}

async fn report_end(what: &'static str, serving: impl Future<Output = Result<(), Failure>>) {
    if let Err(failure) = serving.await {
        tracing::error!(server = what, %failure, "a server of the executor ended");
    }
}

fn ended_early(error: &task::JoinError) -> Failure {
    Failure::caused_by(
        FailureKind::Internal,
        "a step of the start ended early",
        error,
    )
}
