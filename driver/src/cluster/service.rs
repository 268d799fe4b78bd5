//! The task that owns the scheduler and the registry of executors. Everything reaches it as a command in one inbox, so a command's effects are
//! whole before the next begins.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use millstream_common::{
    failure::{Failure, FailureKind},
    ids::{ExecutorId, QueryId},
    protocol::{
        Application, Hello, PROTOCOL_VERSION, QueryGrant, RegisterReply, RegisterRequest,
        SharedFile, ToDriver, ToExecutor,
    },
    telemetry::metrics::{LocalityLevel, Metrics, TaskOutcome},
    time::{Clock, Tick},
};
use millstream_proto::refusal::{BUILD_MISMATCH, PROTOCOL_MISMATCH, UNSHARED_FILES, refusal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::registry::{ExecutorView, Loss, Registry, RegistryOptions};
use crate::{
    query::event::QueryNews,
    scheduler::{
        Scheduler,
        message::{Action, Event, ExecutorInfo, Note},
        options::SchedulerOptions,
    },
};

/// Commands that may wait for the service; a sender past that waits.
const INBOX: usize = 4_096;
/// Messages that may wait for one executor; past that its session is ended, and it reconciles when it is back.
const SESSION_OUTBOX: usize = 4_096;
/// Messages that may wait between the scheduler and a query, each way.
const QUERY_PORT: usize = 1_024;
/// Registrations that may wait for the application to be ready.
const WAITING_REGISTRATIONS: usize = 4_096;

/// What the service needs to know.
pub struct ClusterOptions {
    /// When executors count as lost.
    pub registry: RegistryOptions,
    /// How tasks are placed and tried again.
    pub scheduler: SchedulerOptions,
    /// Millstream's version, for the message when an executor has another.
    pub version: String,
}

/// What executors are told at registration, once the driver knows it.
#[derive(Clone, Debug)]
pub struct Serving {
    /// The application.
    pub application: Application,
    /// The session fingerprint that executors must have.
    pub fingerprint: String,
    /// Files that they must be able to read.
    pub shared_files: Vec<SharedFile>,
}

/// A session as the transport gets it.
pub struct Session {
    /// Its number; goes with everything that is heard on it.
    pub number: u64,
    /// What to send to the executor; its end means that the driver ended the session.
    pub outbox: mpsc::Receiver<ToExecutor>,
}

/// Why a session was not opened.
#[derive(Debug, thiserror::Error)]
pub enum SessionEnd {
    /// The executor isn't known (any more); it must register anew.
    #[error(
        "executor {0} is not known to this driver (it was taken for lost, or the driver is a new one); it must register anew"
    )]
    Unknown(ExecutorId),
    /// The executor can't serve this driver.
    #[error("{0}")]
    Refused(Failure),
    /// The driver is stopping.
    #[error("the driver is stopping")]
    Stopping,
}

enum Command {
    Scheduler(Event),
    Register(
        RegisterRequest,
        oneshot::Sender<Result<RegisterReply, Failure>>,
    ),
    Open(Hello, oneshot::Sender<Result<Session, SessionEnd>>),
    Heard(ExecutorId, u64, ToDriver),
    Closed(ExecutorId, u64),
    ProcessGone {
        host: String,
        process_id: u32,
        reason: String,
    },
    AddQuery(QueryGrant, mpsc::Sender<QueryNews>),
    Serve(Box<Serving>),
    Views(oneshot::Sender<Vec<ExecutorView>>),
}

/// The service; see the module.
pub struct Cluster {
    options: ClusterOptions,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    registry: Registry,
    scheduler: Scheduler,
    sessions: HashMap<ExecutorId, mpsc::Sender<ToExecutor>>,
    queries: BTreeMap<QueryId, mpsc::Sender<QueryNews>>,
    serving: Option<Serving>,
    waiting: Vec<(
        RegisterRequest,
        oneshot::Sender<Result<RegisterReply, Failure>>,
    )>,
    wake_at: Option<Tick>,
    connected: watch::Sender<usize>,
    sender: mpsc::Sender<Command>,
    inbox: mpsc::Receiver<Command>,
}

/// Speaks to a running [`Cluster`]; cheap to clone.
#[derive(Clone)]
pub struct ClusterHandle {
    sender: mpsc::Sender<Command>,
    connected: watch::Receiver<usize>,
}

impl Cluster {
    /// A service that isn't running yet. `seed` decides ties and jitter.
    pub fn new(
        options: ClusterOptions,
        clock: Arc<dyn Clock>,
        metrics: Metrics,
        seed: u64,
    ) -> Self {
        let (sender, inbox) = mpsc::channel(INBOX);
        let registry = Registry::new(options.registry);
        let scheduler = Scheduler::new(options.scheduler.clone(), seed);
        Self {
            options,
            clock,
            metrics,
            registry,
            scheduler,
            sessions: HashMap::new(),
            queries: BTreeMap::new(),
            serving: None,
            waiting: Vec::new(),
            wake_at: None,
            connected: watch::Sender::new(0),
            sender,
            inbox,
        }
    }

    /// A handle.
    pub fn handle(&self) -> ClusterHandle {
        ClusterHandle {
            sender: self.sender.clone(),
            connected: self.connected.subscribe(),
        }
    }

    /// Runs until `shutdown`; then tells every executor to shut down.
    pub async fn run(mut self, shutdown: CancellationToken) {
        loop {
            let deadline = match (self.wake_at, self.registry.next_deadline()) {
                (Some(wake), Some(deadline)) => Some(wake.min(deadline)),
                (wake, deadline) => wake.or(deadline),
            };
            let timer = async {
                match deadline {
                    Some(at) => self.clock.until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                command = self.inbox.recv() => match command {
                    Some(command) => self.command(command).await,
                    None => break,
                },
                () = timer => self.timer().await,
            }
            self.connected.send_if_modified(|connected| {
                let now = self.registry.connected();
                std::mem::replace(connected, now) != now
            });
            self.metrics
                .driver()
                .executors_alive
                .set(i64::try_from(self.registry.connected()).unwrap_or(i64::MAX));
        }
        for outbox in self.sessions.values() {
            // A full outbox means that the executor doesn't listen; it exits when its stream ends.
            let _ = outbox.try_send(ToExecutor::Shutdown {
                reason: "the driver is stopping".to_owned(),
            });
        }
    }

    async fn timer(&mut self) {
        let now = self.clock.now();
        for loss in self.registry.expire(now) {
            self.lost(loss).await;
        }
        if self.wake_at.is_some_and(|at| at <= now) {
            self.wake_at = None;
            self.schedule(Event::Timer).await;
        }
    }

    async fn command(&mut self, command: Command) {
        let now = self.clock.now();
        match command {
            Command::Scheduler(event) => {
                if let Event::QueryRemoved(query) = &event {
                    self.queries.remove(query);
                }
                self.schedule(event).await;
            }
            Command::Register(request, reply) => self.register(request, reply).await,
            Command::Serve(serving) => {
                self.serving = Some(*serving);
                for (request, reply) in std::mem::take(&mut self.waiting) {
                    self.register(request, reply).await;
                }
            }
            Command::Open(hello, reply) => {
                let outcome = self.open(hello).await;
                // The transport gave up waiting: its session never was.
                let _ = reply.send(outcome);
            }
            Command::Heard(executor, session, message) => {
                if self.registry.heard(now, executor, session) {
                    self.heard(executor, message).await;
                }
            }
            Command::Closed(executor, session) => {
                if self.registry.heard(now, executor, session) {
                    self.sessions.remove(&executor);
                    tracing::info!(%executor, "executor session ended");
                }
                if let Some(loss) = self.registry.closed(now, executor, session) {
                    self.lost(loss).await;
                }
            }
            Command::ProcessGone {
                host,
                process_id,
                reason,
            } => {
                for loss in self.registry.process_gone(&host, process_id, &reason) {
                    self.lost(loss).await;
                }
            }
            Command::AddQuery(grant, news) => {
                self.queries.insert(grant.query, news);
                self.schedule(Event::QueryAdded(grant)).await;
            }
            Command::Views(reply) => {
                let _ = reply.send(self.registry.views());
            }
        }
    }

    async fn register(
        &mut self,
        request: RegisterRequest,
        reply: oneshot::Sender<Result<RegisterReply, Failure>>,
    ) {
        if let Err(refusal) = self.compatible(&request) {
            tracing::warn!(host = request.host, process = request.process_id, reason = %refusal, "executor refused");
            let _ = reply.send(Err(refusal));
            return;
        }
        let Some(serving) = self.serving.clone() else {
            if self.waiting.len() < WAITING_REGISTRATIONS {
                self.waiting.push((request, reply));
            }
            return;
        };
        if reply.is_closed() {
            return;
        }
        tracing::info!(
            host = request.host,
            process = request.process_id,
            cores = request.cores,
            "executor registers"
        );
        let (executor, losses) = self.registry.register(self.clock.now(), request);
        let accepted = RegisterReply {
            executor,
            application: serving.application,
            shared_files: serving.shared_files,
        };
        let _ = reply.send(Ok(accepted));
        for loss in losses {
            self.lost(loss).await;
        }
    }

    fn compatible(&self, request: &RegisterRequest) -> Result<(), Failure> {
        if request.protocol != PROTOCOL_VERSION {
            return Err(refusal(
                PROTOCOL_MISMATCH,
                format!(
                    "the executor of Millstream {} speaks protocol {}, this driver of Millstream {} speaks {PROTOCOL_VERSION}; run the same release on both",
                    request.version, request.protocol, self.options.version
                ),
            ));
        }
        Ok(())
    }

    async fn open(&mut self, hello: Hello) -> Result<Session, SessionEnd> {
        let Some(serving) = &self.serving else {
            return Err(SessionEnd::Unknown(hello.executor));
        };
        if hello.fingerprint != serving.fingerprint {
            let failure = refusal(
                BUILD_MISMATCH,
                other_build(&serving.fingerprint, &hello.fingerprint),
            );
            tracing::warn!(executor = %hello.executor, reason = %failure, "executor refused");
            return Err(SessionEnd::Refused(failure));
        }
        if !hello.unshared.is_empty() {
            let failure = refusal(
                UNSHARED_FILES,
                format!(
                    "a file:// checkpoint or output must be one file system for the driver and every executor, but the executor could not read what the driver wrote: {}; mount the same folder on all hosts",
                    hello.unshared.join("; ")
                ),
            );
            tracing::warn!(executor = %hello.executor, reason = %failure, "executor refused");
            return Err(SessionEnd::Refused(failure));
        }
        let now = self.clock.now();
        let Some((number, request)) = self.registry.connect(now, hello.executor) else {
            return Err(SessionEnd::Unknown(hello.executor));
        };
        let info = ExecutorInfo {
            id: hello.executor,
            cores: request.cores,
            host: request.host.clone(),
            block_address: request.block_address.clone(),
        };
        tracing::info!(executor = %info.id, host = info.host, cores = info.cores, "executor connected");
        let (sender, outbox) = mpsc::channel(SESSION_OUTBOX);
        self.sessions.insert(hello.executor, sender);
        self.schedule(Event::Connected(info)).await;
        Ok(Session { number, outbox })
    }

    async fn heard(&mut self, executor: ExecutorId, message: ToDriver) {
        match message {
            ToDriver::Truth { running, finished } => {
                self.schedule(Event::Truth {
                    executor,
                    running,
                    finished,
                })
                .await;
            }
            ToDriver::Report(report) => {
                let outcome = match &report.outcome {
                    Ok(_) => TaskOutcome::Succeeded,
                    Err(failure) if failure.kind == FailureKind::Cancelled => {
                        TaskOutcome::Cancelled
                    }
                    Err(failure) if failure.kind == FailureKind::Superseded => {
                        TaskOutcome::Superseded
                    }
                    Err(_) => TaskOutcome::Failed,
                };
                self.metrics.driver().tasks.with(&outcome).inc();
                self.schedule(Event::Reported { executor, report }).await;
            }
            ToDriver::Heartbeat(heartbeat) => self.registry.heartbeat(executor, heartbeat),
            ToDriver::Leaving => {
                tracing::info!(%executor, "executor is leaving");
                self.registry.leaving(executor);
                self.schedule(Event::Leaving(executor)).await;
            }
        }
    }

    async fn lost(&mut self, loss: Loss) {
        self.sessions.remove(&loss.executor);
        if !loss.was_known {
            return;
        }
        if loss.left {
            tracing::info!(executor = %loss.executor, "executor left");
        } else {
            tracing::warn!(executor = %loss.executor, reason = loss.reason, "executor lost");
            self.metrics.driver().executors_lost.inc();
        }
        self.schedule(Event::Lost {
            executor: loss.executor,
            reason: loss.reason,
        })
        .await;
    }

    async fn schedule(&mut self, event: Event) {
        let actions = self.scheduler.handle(self.clock.now(), event);
        for action in actions {
            self.act(action).await;
        }
    }

    async fn act(&mut self, action: Action) {
        match action {
            Action::Reconcile {
                executor,
                queries,
                wanted,
            } => {
                self.tell(executor, ToExecutor::Reconcile { queries, wanted });
            }
            Action::Launch { executor, launch } => self.tell(executor, ToExecutor::Launch(launch)),
            Action::Cancel { executor, tasks } => self.tell(executor, ToExecutor::Cancel(tasks)),
            Action::DropBatches {
                executor,
                grant,
                through,
            } => {
                self.tell(
                    executor,
                    ToExecutor::DropBatches {
                        query: grant.query,
                        epoch: grant.epoch,
                        through,
                    },
                );
            }
            Action::Release { executor } => {
                self.tell(
                    executor,
                    ToExecutor::Shutdown {
                        reason: "it was told to stop and is needed no more".to_owned(),
                    },
                );
            }
            Action::OutputReady {
                query,
                batch,
                output,
                results,
            } => {
                self.inform(
                    query,
                    QueryNews::OutputReady {
                        batch,
                        output,
                        results,
                    },
                )
                .await;
            }
            Action::BatchDone {
                query,
                batch,
                summary,
            } => {
                self.inform(query, QueryNews::BatchDone { batch, summary })
                    .await;
            }
            Action::BatchFailed {
                query,
                batch,
                failure,
            } => {
                self.inform(query, QueryNews::BatchFailed { batch, failure })
                    .await;
            }
            Action::NoExecutor { query, batch } => {
                tracing::warn!(%query, %batch, "tasks wait: no executor is there to run them");
                self.inform(query, QueryNews::NoExecutor { batch }).await;
            }
            Action::WakeAt(at) => self.wake_at = Some(at),
            Action::Noted(note) => self.note(note),
        }
    }

    fn tell(&mut self, executor: ExecutorId, message: ToExecutor) {
        let Some(outbox) = self.sessions.get(&executor) else {
            return;
        };
        if outbox.try_send(message).is_err() {
            // Nothing is assumed to have arrived: the executor reconciles on its next session.
            tracing::warn!(%executor, "executor does not take its messages; its session is ended");
            self.sessions.remove(&executor);
        }
    }

    async fn inform(&mut self, query: QueryId, news: QueryNews) {
        if let Some(inbox) = self.queries.get(&query) {
            // A query that is gone has no use for news.
            let _ = inbox.send(news).await;
        }
    }

    fn note(&self, note: Note) {
        match note {
            Note::Retried {
                task,
                executor,
                failure,
            } => {
                let driver = self.metrics.driver();
                driver.task_retries.inc();
                if failure.kind == FailureKind::ExecutorLost {
                    driver.tasks.with(&TaskOutcome::Lost).inc();
                }
                tracing::warn!(%task, %executor, %failure, "task failed and is tried again");
            }
            Note::Excluded { executor, task } => {
                tracing::warn!(%executor, batch = %task.batch, stage = %task.stage, "executor gets no more tasks of this stage");
            }
            Note::MapOutputsLost { tasks, executor } => {
                self.metrics.driver().stage_reruns.inc();
                tracing::warn!(%executor, tasks = tasks.len(), "map outputs are gone; their tasks run again");
            }
            Note::Differed {
                task,
                earlier,
                operators,
                exchange,
                partition,
            } => {
                tracing::warn!(%task, %earlier, ?operators, exchange, partition, "nondeterministic operator: a task that ran again wrote other rows");
            }
            Note::Placed {
                preferred,
                elsewhere,
            } => {
                let locality = &self.metrics.driver().task_locality;
                let there = locality.with(&LocalityLevel::Preferred);
                there.inc_by(u64::from(preferred));
                let other = locality.with(&LocalityLevel::Other);
                other.inc_by(u64::from(elsewhere));
                tracing::debug!(preferred, elsewhere, "tasks placed");
            }
        }
    }
}

fn other_build(driver: &str, executor: &str) -> String {
    let (driver_build, driver_graph) = driver.split_once('/').unwrap_or((driver, ""));
    let (executor_build, executor_graph) = executor.split_once('/').unwrap_or((executor, ""));
    if driver_build == executor_build {
        return format!(
            "the executor built another graph ({executor_graph}) than the driver ({driver_graph}) from the same build {driver_build}; the job function must give the same graph for the same arguments: it may read the clock, files or the environment only through the context"
        );
    }
    format!(
        "the executor is build {executor_build}, the driver is build {driver_build}; run the same executable on both"
    )
}

/// The cluster service ended.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the driver's cluster service has ended")]
pub struct Ended;

impl ClusterHandle {
    /// Hands an event to the scheduler.
    ///
    /// # Errors
    /// When the service has ended.
    pub async fn schedule(&self, event: Event) -> Result<(), Ended> {
        self.send(Command::Scheduler(event)).await
    }

    /// Adds a query; its news go to `news`.
    ///
    /// # Errors
    /// When the service has ended.
    pub async fn add_query(
        &self,
        grant: QueryGrant,
        news: mpsc::Sender<QueryNews>,
    ) -> Result<(), Ended> {
        self.send(Command::AddQuery(grant, news)).await
    }

    /// A channel to the scheduler for one query, and one for what the scheduler tells it. The query says who it is by its first event,
    /// [`Event::QueryAdded`].
    pub fn query_port(&self) -> (mpsc::Sender<Event>, mpsc::Receiver<QueryNews>) {
        let (events, mut inbox) = mpsc::channel(QUERY_PORT);
        let (news_sender, news) = mpsc::channel(QUERY_PORT);
        let cluster = self.clone();
        tokio::spawn(async move {
            loop {
                // The end of the service is the end of its news: the query must not wait for more.
                let event = tokio::select! {
                    event = inbox.recv() => event,
                    () = cluster.sender.closed() => None,
                };
                let Some(event) = event else {
                    break;
                };
                let sent = match event {
                    Event::QueryAdded(grant) => cluster.add_query(grant, news_sender.clone()).await,
                    event => cluster.schedule(event).await,
                };
                if sent.is_err() {
                    break;
                }
            }
        });
        (events, news)
    }

    /// Says what executors get at registration; those that came before get it now.
    ///
    /// # Errors
    /// When the service has ended.
    pub async fn serve(&self, serving: Serving) -> Result<(), Ended> {
        self.send(Command::Serve(Box::new(serving))).await
    }

    /// An executor registers. Waits until the application is ready.
    ///
    /// # Errors
    /// The refusal.
    pub async fn register(&self, request: RegisterRequest) -> Result<RegisterReply, Failure> {
        let (reply, answer) = oneshot::channel();
        let ended =
            || Failure::new(FailureKind::Io, "the driver is stopping").with_code("driver.stopping");
        self.send(Command::Register(request, reply))
            .await
            .map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }

    /// An executor opens its session.
    ///
    /// # Errors
    /// See [`SessionEnd`].
    pub async fn open(&self, hello: Hello) -> Result<Session, SessionEnd> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Open(hello, reply))
            .await
            .map_err(|_| SessionEnd::Stopping)?;
        answer.await.map_err(|_| SessionEnd::Stopping)?
    }

    /// Something was heard on a session.
    ///
    /// # Errors
    /// When the service has ended.
    pub async fn heard(
        &self,
        executor: ExecutorId,
        session: u64,
        message: ToDriver,
    ) -> Result<(), Ended> {
        self.send(Command::Heard(executor, session, message)).await
    }

    /// A session's stream ended.
    ///
    /// # Errors
    /// When the service has ended.
    pub async fn closed(&self, executor: ExecutorId, session: u64) -> Result<(), Ended> {
        self.send(Command::Closed(executor, session)).await
    }

    /// An executor process of this host is known to be gone.
    ///
    /// # Errors
    /// When the service has ended.
    pub async fn process_gone(
        &self,
        host: &str,
        process_id: u32,
        reason: &str,
    ) -> Result<(), Ended> {
        self.send(Command::ProcessGone {
            host: host.to_owned(),
            process_id,
            reason: reason.to_owned(),
        })
        .await
    }

    /// Every executor, for REST.
    ///
    /// # Errors
    /// When the service has ended.
    pub async fn executors(&self) -> Result<Vec<ExecutorView>, Ended> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Views(reply)).await?;
        answer.await.map_err(|_| Ended)
    }

    /// How many executors have an open session.
    pub fn connected(&self) -> watch::Receiver<usize> {
        self.connected.clone()
    }

    async fn send(&self, command: Command) -> Result<(), Ended> {
        self.sender.send(command).await.map_err(|_| Ended)
    }
}
