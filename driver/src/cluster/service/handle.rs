//! What speaks to the running service, and the commands by which it does.

use millstream_common::{
    failure::{Failure, FailureKind},
    ids::ExecutorId,
    protocol::{Hello, QueryGrant, RegisterReply, RegisterRequest, ToDriver},
};
use tokio::sync::{mpsc, oneshot, watch};

use super::{Serving, Session, SessionEnd};
use crate::{cluster::registry::ExecutorView, query::event::QueryNews, scheduler::message::Event};

/// Messages that may wait between the scheduler and a query, each way.
const QUERY_PORT: usize = 1_024;

pub(super) enum Command {
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

/// Speaks to a running [`Cluster`](super::Cluster); cheap to clone.
#[derive(Clone)]
pub struct ClusterHandle {
    pub(super) sender: mpsc::Sender<Command>,
    pub(super) connected: watch::Receiver<usize>,
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
