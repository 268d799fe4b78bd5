//! The task that owns the scheduler and the registry of executors. Everything reaches it as a command in one inbox, so a command's effects are
//! whole before the next begins.
//!
//! Layout:
//! - `acting`: doing what the scheduler asks
//! - `handle`: what speaks to the service
//! - `joining`: registrations and sessions of executors

mod acting;
mod handle;
mod joining;

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::Arc,
};

use millstream_common::{
    failure::{Failure, FailureKind},
    ids::{ExecutorId, QueryId},
    protocol::{QueryProgram, RegisterReply, RegisterRequest, TaskReport, ToDriver, ToExecutor},
    telemetry::metrics::{Metrics, TaskOutcome},
    time::{Clock, Tick},
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::registry::{Loss, Registry, RegistryOptions};
use crate::{
    query::event::QueryNews,
    scheduler::{Scheduler, message::Event, options::SchedulerOptions},
};
use handle::Command;

pub use handle::{ClusterHandle, Ended};
pub use joining::{Serving, Session, SessionEnd};

/// Commands that may wait for the service; a sender past that waits.
const INBOX: usize = 4_096;

/// What the service needs to know.
pub struct ClusterOptions {
    /// When executors count as lost.
    pub registry: RegistryOptions,
    /// How tasks are placed and tried again.
    pub scheduler: SchedulerOptions,
    /// The largest message to an executor, bytes.
    pub max_message: usize,
    /// Millstream's version, for the message when an executor has another.
    pub version: String,
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
    /// What executors need for queries that aren't part of the application's graph.
    programs: HashMap<QueryId, Box<QueryProgram>>,
    /// Whom it was sent to on the open session.
    programmed: HashSet<(ExecutorId, QueryId)>,
    /// What is to be said of tasks that could not be sent.
    unsent: Vec<(ExecutorId, TaskReport)>,
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
            programs: HashMap::new(),
            programmed: HashSet::new(),
            unsent: Vec::new(),
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
        // Before an executor can end by what it is told: who hears of that end must know that no other one is wanted.
        self.inbox.close();
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
            Command::Scheduler(Event::Program(program)) => {
                self.programmed.retain(|(_, query)| *query != program.query);
                self.programs.insert(program.query, program);
            }
            Command::Scheduler(event) => {
                if let Event::QueryRemoved(query) = &event {
                    self.queries.remove(query);
                    self.programs.remove(query);
                    self.programmed.retain(|(_, known)| known != query);
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
        self.programmed
            .retain(|(executor, _)| *executor != loss.executor);
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
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let actions = self.scheduler.handle(self.clock.now(), event);
            for action in actions {
                self.act(action).await;
            }
            for (executor, report) in self.unsent.drain(..) {
                let report = Box::new(report);
                events.push_back(Event::Reported { executor, report });
            }
        }
    }
}
