//! A driver that tests play, over real gRPC.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures::Stream;
use millstream_common::{
    failure::Failure,
    ids::{Epoch, ExecutorId, TaskId},
    protocol::{
        Application, Heartbeat, Hello, QueryGrant, RegisterReply, RegisterRequest, SharedFile,
        TaskReport, ToDriver, ToExecutor,
    },
};
use millstream_proto::{
    auth::{RequireSecret, Secret},
    pb::{
        self,
        driver_server::{Driver, DriverServer},
    },
    refusal, server,
    tls::Tls,
};
use parking_lot::Mutex;
use tokio::{net::TcpListener, sync::mpsc, time::timeout};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{
    Request, Response, Status, Streaming,
    service::{Routes, interceptor::InterceptedService},
};

use crate::testing::{DEADLINE, query};

/// A session as the played driver sees it.
pub(super) struct Line {
    pub(super) hello: Hello,
    from_executor: mpsc::Receiver<ToDriver>,
    pub(super) to_executor: mpsc::Sender<Result<pb::DriverMessage, Status>>,
}

impl Line {
    pub(super) async fn say(&self, message: ToExecutor) {
        let sent = self.to_executor.send(Ok(message.into())).await;
        sent.expect("the session is open");
    }

    /// The next message that is no heartbeat.
    pub(super) async fn hear(&mut self) -> ToDriver {
        loop {
            let message = timeout(DEADLINE, self.from_executor.recv()).await;
            match message.expect("in time").expect("the session is open") {
                ToDriver::Heartbeat(_) => {}
                message => return message,
            }
        }
    }

    pub(super) async fn hear_heartbeat(&mut self) -> Heartbeat {
        loop {
            let message = timeout(DEADLINE, self.from_executor.recv()).await;
            if let ToDriver::Heartbeat(heartbeat) =
                message.expect("in time").expect("the session is open")
            {
                return heartbeat;
            }
        }
    }

    pub(super) async fn hear_report(&mut self) -> TaskReport {
        match self.hear().await {
            ToDriver::Report(report) => *report,
            other => panic!("not a report: {other:?}"),
        }
    }

    pub(super) async fn reconcile(
        &mut self,
        epoch: u64,
        wanted: Vec<TaskId>,
    ) -> (Vec<TaskId>, Vec<TaskReport>) {
        let queries = vec![QueryGrant {
            query: query(),
            epoch: Epoch(epoch),
        }];
        self.say(ToExecutor::Reconcile { queries, wanted }).await;
        match self.hear().await {
            ToDriver::Truth { running, finished } => (running, finished),
            other => panic!("not a truth: {other:?}"),
        }
    }
}

struct Played {
    lines: mpsc::Sender<Line>,
    registered: mpsc::Sender<RegisterRequest>,
    known: Arc<Mutex<BTreeSet<ExecutorId>>>,
    refusal: Option<Failure>,
    shared_files: Vec<SharedFile>,
    asks_for_secret: bool,
}

#[tonic::async_trait]
impl Driver for Played {
    async fn register(
        &self,
        request: Request<pb::RegisterRequest>,
    ) -> Result<Response<pb::RegisterReply>, Status> {
        let request = RegisterRequest::from(request.into_inner());
        self.registered.send(request).await.expect("test");
        if let Some(failure) = &self.refusal {
            return Err(refusal::to_status(failure));
        }
        let executor = ExecutorId::random();
        self.known.lock().insert(executor);
        let reply = RegisterReply {
            executor,
            application: Application {
                name: "test".to_owned(),
                arguments: serde_json::Value::Null,
                configuration: BTreeMap::from([(
                    "executor.heartbeat_interval".to_owned(),
                    "20ms".to_owned(),
                )]),
                parallelism: 2,
                batch_interval_millis: 0,
                build_id: String::new(),
                recorded: BTreeMap::new(),
            },
            shared_files: self.shared_files.clone(),
        };
        Ok(Response::new(pb::RegisterReply {
            asked_for_secret: self.asks_for_secret,
            ..reply.into()
        }))
    }

    type SessionStream = ReceiverStream<Result<pb::DriverMessage, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<pb::ExecutorMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let mut messages = request.into_inner();
        let first = messages
            .message()
            .await?
            .ok_or(Status::aborted("no hello"))?;
        let hello = Hello::try_from(first)?;
        if !self.known.lock().contains(&hello.executor) {
            let failure = refusal::unknown_executor("register anew");
            return Err(refusal::to_status(&failure));
        }
        let (heard, from_executor) = mpsc::channel(1_000);
        tokio::spawn(forward(messages, heard));
        let (to_executor, outgoing) = mpsc::channel(100);
        let line = Line {
            hello,
            from_executor,
            to_executor,
        };
        self.lines.send(line).await.expect("test");
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }
}

async fn forward(
    mut messages: impl Stream<Item = Result<pb::ExecutorMessage, Status>> + Unpin,
    heard: mpsc::Sender<ToDriver>,
) {
    while let Some(Ok(message)) = messages.next().await {
        let message = ToDriver::try_from(message).expect("converts");
        if heard.send(message).await.is_err() {
            return;
        }
    }
}

/// The played driver, listening.
pub(super) struct Stage {
    pub(super) address: String,
    lines: mpsc::Receiver<Line>,
    registered: mpsc::Receiver<RegisterRequest>,
    pub(super) known: Arc<Mutex<BTreeSet<ExecutorId>>>,
    _stop: DropGuard,
}

impl Stage {
    pub(super) async fn next_line(&mut self) -> Line {
        let line = timeout(DEADLINE, self.lines.recv()).await;
        line.expect("in time").expect("driver")
    }

    pub(super) async fn next_registration(&mut self) -> RegisterRequest {
        let request = timeout(DEADLINE, self.registered.recv()).await;
        request.expect("in time").expect("driver")
    }
}

pub(super) async fn play_on(
    listener: TcpListener,
    refusal: Option<Failure>,
    shared_files: Vec<SharedFile>,
) -> Stage {
    play_with(listener, refusal, shared_files, Some(secret("right")))
}

/// Asks for no secret.
pub(super) async fn play_openly() -> Stage {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    play_with(listener, None, vec![], None)
}

fn play_with(
    listener: TcpListener,
    refusal: Option<Failure>,
    shared_files: Vec<SharedFile>,
    required: Option<Secret>,
) -> Stage {
    let address = listener.local_addr().expect("address").to_string();
    let (lines, next_line) = mpsc::channel(10);
    let (registered, next_registration) = mpsc::channel(10);
    let known = Arc::new(Mutex::new(BTreeSet::new()));
    let played = Played {
        lines,
        registered,
        known: Arc::clone(&known),
        refusal,
        shared_files,
        asks_for_secret: required.is_some(),
    };
    let required = RequireSecret::new(required);
    let service = InterceptedService::new(DriverServer::new(played), required);
    let stop = CancellationToken::new();
    let routes = Routes::new(service);
    let serving = server::serve(
        &Tls::default(),
        listener,
        "driver.listen",
        routes,
        stop.clone(),
    );
    tokio::spawn(serving);
    Stage {
        address,
        lines: next_line,
        registered: next_registration,
        known,
        _stop: stop.drop_guard(),
    }
}

pub(super) async fn play() -> Stage {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    play_on(listener, None, vec![]).await
}

pub(super) fn secret(text: &str) -> Secret {
    Secret::new(text).expect("secret")
}
