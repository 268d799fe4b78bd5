//! An executor against a driver that the test plays.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use millstream_common::{
    config::{Address, Config, keys},
    failure::{Failure, FailureKind},
    ids::{BatchId, Epoch, ExecutorId, StageId, TaskId},
    protocol::{
        Application, QueryGrant, RegisterReply, SharedFile, StageLaunch, TaskInput, TaskOutput,
        TaskSpec, ToDriver, ToExecutor, Watermarks,
    },
    time::{BatchTime, SystemClock},
};
use millstream_dataflow::{
    plan::Plan,
    program::{Programs, StageProgram},
};
use millstream_proto::{refusal, tls::Tls};
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    Error, Executor, ExitReason, Handle, ProgramsFactory,
    played::{play, play_on, play_openly, secret},
};
use crate::{
    Options,
    testing::{DEADLINE, Function, block, frame, query},
    transport::{GrpcLink, InProcessLink},
};

struct TestPrograms {
    plan: Plan,
    program: Arc<dyn StageProgram>,
}

impl Programs for TestPrograms {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn program(&self, stage: StageId) -> Option<Arc<dyn StageProgram>> {
        (stage == StageId(0)).then(|| Arc::clone(&self.program))
    }
}

/// Finds on registration that something is missing.
struct Lacking(Plan);

impl Programs for Lacking {
    fn plan(&self) -> &Plan {
        &self.0
    }

    fn program(&self, _: StageId) -> Option<Arc<dyn StageProgram>> {
        None
    }

    fn check(&self) -> Result<(), Failure> {
        let runtime = tokio::runtime::Handle::current();
        runtime.block_on(async { Err(refusal::refusal("s3.credentials", "there are none")) })
    }
}

/// Partition 0 writes a block, partition 1 runs until cancelled, partition 7 says where it would spill, others give a result.
fn programs() -> ProgramsFactory {
    let program = Function(
        |context: &mut millstream_dataflow::program::TaskContext<'_>| match context.id.partition {
            0 => {
                let id = millstream_common::ids::BlockId {
                    task: context.id,
                    exchange: 0,
                    partition: 0,
                };
                context.services.append_block(id, frame(b"row"))?;
                Ok(TaskOutput::default())
            }
            1 => loop {
                context.cancel.check()?;
                std::thread::yield_now();
            },
            7 => Ok(TaskOutput {
                result: Some(context.services.spill_threshold().to_string().into()),
                ..TaskOutput::default()
            }),
            _ => Ok(TaskOutput {
                result: Some(Bytes::from_static(b"result")),
                ..TaskOutput::default()
            }),
        },
    );
    let programs: Arc<dyn Programs> = Arc::new(TestPrograms {
        plan: Plan::default(),
        program: Arc::new(program),
    });
    Arc::new(move |_| Ok(Arc::clone(&programs)))
}

struct Running {
    handle: Handle,
    shutdown: CancellationToken,
    outcome: JoinHandle<Result<ExitReason, Error>>,
}

impl Running {
    async fn end(self) -> Result<ExitReason, Error> {
        let outcome = timeout(DEADLINE, self.outcome).await;
        outcome.expect("in time").expect("no panic")
    }
}

fn start(driver: &str, secret_text: &str) -> Running {
    start_with(driver, secret_text, programs())
}

fn start_with(driver: &str, secret_text: &str, programs: ProgramsFactory) -> Running {
    let secret = secret(secret_text);
    let options = Options {
        listen: Some(Address::loopback(0)),
        http: Some(Address::loopback(0)),
        secret: Some(secret.clone()),
        ..Options::in_process(2, Config::default())
    };
    let link = GrpcLink::new(
        &[driver.to_owned()],
        Some(&secret),
        &Tls::default(),
        Duration::from_secs(5),
        64 << 20,
        Arc::new(SystemClock::new()),
    );
    let build_id = Arc::new(|| Ok("build-1".to_owned()));
    let executor = Executor::new(options, programs, build_id, Arc::new(link.expect("link")));
    let shutdown = CancellationToken::new();
    Running {
        handle: executor.handle(),
        shutdown: shutdown.clone(),
        outcome: tokio::spawn(executor.run(shutdown)),
    }
}

fn launch(epoch: u64, batch: u64, partitions: &[u32]) -> StageLaunch {
    StageLaunch {
        query: query(),
        epoch: Epoch(epoch),
        batch: BatchId(batch),
        batch_time: BatchTime(0),
        stage: StageId(0),
        output: None,
        rerun: false,
        watermarks: Watermarks::default(),
        spill_threshold: None,
        tasks: partitions
            .iter()
            .map(|partition| TaskSpec {
                partition: *partition,
                attempt: 0,
                branch: 0,
                input: TaskInput::Blocks(vec![]),
                state: vec![],
            })
            .collect(),
    }
}

fn attempt(epoch: u64, batch: u64, partition: u32) -> TaskId {
    TaskId {
        epoch: Epoch(epoch),
        batch: BatchId(batch),
        ..block(partition, 0).task
    }
}

#[tokio::test]
async fn registers_runs_tasks_and_ends_when_told() {
    let mut stage = play().await;
    let mut executor = start(&stage.address, "right");
    let addresses = executor.handle.addresses().await.expect("listens");
    let registration = stage.next_registration().await;
    assert_eq!(registration.cores, 2);
    assert_eq!(registration.build_id, "build-1");
    assert_eq!(registration.block_address, addresses.blocks);
    let mut line = stage.next_line().await;
    assert_eq!(
        line.hello.fingerprint,
        Plan::default().session_fingerprint("build-1")
    );
    assert!(line.hello.unshared.is_empty());
    assert_eq!(line.reconcile(1, vec![]).await, (vec![], vec![]));
    line.say(ToExecutor::Launch(launch(1, 0, &[5]))).await;
    let report = line.hear_report().await;
    assert_eq!(report.task, attempt(1, 0, 5));
    let result = report.outcome.expect("success").result;
    assert_eq!(result, Some(Bytes::from_static(b"result")));
    let mut unknown = launch(1, 0, &[6]);
    unknown.stage = StageId(9);
    line.say(ToExecutor::Launch(unknown)).await;
    let failure = line.hear_report().await.outcome.expect_err("no such stage");
    assert_eq!(failure.kind, FailureKind::Internal);
    let reason = "done".to_owned();
    line.say(ToExecutor::Shutdown { reason }).await;
    let outcome = executor.end().await.expect("a clean end");
    assert_eq!(
        outcome,
        ExitReason::Shutdown {
            reason: "done".into()
        }
    );
}

#[tokio::test]
async fn a_launch_may_have_a_spill_threshold_of_its_own() {
    let mut stage = play().await;
    let executor = start(&stage.address, "right");
    stage.next_registration().await;
    let mut line = stage.next_line().await;
    line.reconcile(1, vec![]).await;
    let configured = Config::default().get(keys::MEMORY_SPILL_THRESHOLD).bytes();
    for (batch, own) in [(0, None), (1, Some(12_345)), (2, None)] {
        let mut launch = launch(1, batch, &[7]);
        launch.spill_threshold = own;
        line.say(ToExecutor::Launch(launch)).await;
        let result = line.hear_report().await.outcome.expect("success").result;
        let wanted = own.unwrap_or(configured).to_string();
        assert_eq!(result, Some(Bytes::from(wanted)));
    }
    let reason = "done".to_owned();
    line.say(ToExecutor::Shutdown { reason }).await;
    executor.end().await.expect("a clean end");
}

#[tokio::test]
async fn an_executor_that_lacks_something_ends_when_it_registers() {
    let stage = play().await;
    let lacking: ProgramsFactory = Arc::new(|_| Ok(Arc::new(Lacking(Plan::default())) as _));
    let executor = start_with(&stage.address, "right", lacking);
    let error = executor.end().await.expect_err("it lacks something");
    assert!(matches!(error, Error::Setup(_)));
    assert_eq!(error.code(), "s3.credentials");
}

#[tokio::test]
async fn heartbeats_go_on_while_every_slot_computes() {
    let mut stage = play().await;
    let executor = start(&stage.address, "right");
    let mut line = stage.next_line().await;
    line.reconcile(1, vec![]).await;
    let mut both = launch(1, 0, &[1]);
    line.say(ToExecutor::Launch(both.clone())).await;
    both.batch = BatchId(1);
    line.say(ToExecutor::Launch(both)).await;
    while line.hear_heartbeat().await.running < 2 {}
    for _ in 0..3 {
        let heartbeat = line.hear_heartbeat().await;
        assert!(heartbeat.running == 2 && heartbeat.resident_bytes > 0);
    }
    line.say(ToExecutor::Cancel(vec![attempt(1, 0, 1)])).await;
    let failure = line.hear_report().await.outcome.expect_err("cancelled");
    assert_eq!(failure.kind, FailureKind::Cancelled);
    executor.shutdown.cancel();
    assert_eq!(
        executor.end().await.expect("a clean end"),
        ExitReason::Stopped
    );
}

#[tokio::test]
async fn a_wrong_secret_is_final_and_says_so() {
    let stage = play().await;
    let executor = start(&stage.address, "wrong");
    let error = executor.end().await.expect_err("refused");
    assert!(matches!(error, Error::Refused(_)));
    assert_eq!(error.code(), refusal::UNAUTHENTICATED);
    assert!(error.to_string().contains("auth.secret"), "{error}");
}

#[tokio::test]
async fn an_executor_with_a_secret_does_not_stay_where_none_is_asked_for() {
    let stage = play_openly().await;
    let executor = start(&stage.address, "right");
    let error = executor.end().await.expect_err("no safe connection");
    assert!(matches!(error, Error::Unsafe(_)) && error.is_misconfigured());
    assert_eq!(error.code(), refusal::UNAUTHENTICATED);
    assert!(error.to_string().contains("asks for none"), "{error}");
}

#[tokio::test]
async fn a_refused_registration_ends_with_the_drivers_words() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let words = "driver runs build a, this executor build b";
    let failure = refusal::refusal(refusal::BUILD_MISMATCH, words);
    let stage = play_on(listener, Some(failure), vec![]).await;
    let error = start(&stage.address, "right")
        .end()
        .await
        .expect_err("refused");
    assert_eq!(error.code(), refusal::BUILD_MISMATCH);
    assert!(error.to_string().contains(words), "{error}");
}

#[tokio::test]
async fn a_refused_session_ends_with_the_drivers_words() {
    let mut stage = play().await;
    let executor = start(&stage.address, "right");
    let line = stage.next_line().await;
    let failure = refusal::refusal(refusal::BUILD_MISMATCH, "two builds met");
    let sent = line
        .to_executor
        .send(Err(refusal::to_status(&failure)))
        .await;
    sent.expect("open");
    let error = executor.end().await.expect_err("refused");
    assert!(error.to_string().contains("two builds met"), "{error}");
}

#[tokio::test]
async fn an_executor_may_come_before_its_driver() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("address");
    drop(listener);
    let mut executor = start(&address.to_string(), "right");
    executor.handle.addresses().await.expect("listens");
    let listener = TcpListener::bind(address).await.expect("binds");
    let mut stage = play_on(listener, None, vec![]).await;
    stage.next_line().await.reconcile(1, vec![]).await;
    executor.shutdown.cancel();
    assert_eq!(
        executor.end().await.expect("a clean end"),
        ExitReason::Stopped
    );
}

#[tokio::test]
async fn files_that_do_not_read_alike_are_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let file = SharedFile {
        path: "/nonexistent/nonce".to_owned(),
        nonce: "n".to_owned(),
        purpose: "checkpoint".to_owned(),
    };
    let mut stage = play_on(listener, None, vec![file]).await;
    let executor = start(&stage.address, "right");
    let line = stage.next_line().await;
    assert!(line.hello.unshared[0].starts_with("checkpoint /nonexistent/nonce"));
    executor.shutdown.cancel();
    executor.end().await.expect("a clean end");
}

#[tokio::test]
async fn a_cut_session_comes_back_with_the_same_id_and_the_whole_truth() {
    let mut stage = play().await;
    let executor = start(&stage.address, "right");
    let mut line = stage.next_line().await;
    line.reconcile(1, vec![]).await;
    line.say(ToExecutor::Launch(launch(1, 0, &[1, 5]))).await;
    assert!(line.hear_report().await.outcome.is_ok());
    let id = line.hello.executor;
    drop(line);
    let mut line = stage.next_line().await;
    assert_eq!(line.hello.executor, id);
    let lost = attempt(1, 0, 9);
    let (running, finished) = line.reconcile(1, vec![attempt(1, 0, 1), lost]).await;
    assert_eq!(running, [attempt(1, 0, 1)]);
    assert_eq!(finished.len(), 2);
    assert!(
        finished
            .iter()
            .any(|report| report.task == attempt(1, 0, 5) && report.outcome.is_ok())
    );
    let report = finished.iter().find(|report| report.task == lost);
    let failure = report.expect("reported").outcome.clone().expect_err("lost");
    assert_eq!(failure.kind, FailureKind::ExecutorLost);
    // A launch that is said again runs nothing twice.
    line.say(ToExecutor::Launch(launch(1, 0, &[1]))).await;
    line.say(ToExecutor::Cancel(vec![attempt(1, 0, 1)])).await;
    let failure = line.hear_report().await.outcome.expect_err("cancelled");
    assert_eq!(failure.kind, FailureKind::Cancelled);
    assert_eq!(stage.known.lock().len(), 1);
    executor.shutdown.cancel();
    executor.end().await.expect("a clean end");
}

#[tokio::test]
async fn an_unknown_executor_registers_anew_with_nothing_left() {
    let mut stage = play().await;
    let executor = start(&stage.address, "right");
    let mut line = stage.next_line().await;
    line.reconcile(1, vec![]).await;
    line.say(ToExecutor::Launch(launch(1, 0, &[0, 1]))).await;
    assert!(line.hear_report().await.outcome.is_ok());
    while line.hear_heartbeat().await.block_bytes == 0 {}
    let id = line.hello.executor;
    stage.known.lock().clear();
    drop(line);
    let mut line = stage.next_line().await;
    assert_ne!(line.hello.executor, id);
    assert_eq!(line.reconcile(1, vec![]).await, (vec![], vec![]));
    loop {
        let heartbeat = line.hear_heartbeat().await;
        if heartbeat.running == 0 && heartbeat.block_bytes == 0 {
            break;
        }
    }
    executor.shutdown.cancel();
    executor.end().await.expect("a clean end");
}

#[tokio::test]
async fn a_launch_of_a_stale_epoch_is_refused_even_after_a_new_registration() {
    let mut stage = play().await;
    let executor = start(&stage.address, "right");
    let mut line = stage.next_line().await;
    line.reconcile(2, vec![]).await;
    line.say(ToExecutor::Launch(launch(1, 0, &[5]))).await;
    let failure = line.hear_report().await.outcome.expect_err("stale");
    assert_eq!(failure.kind, FailureKind::Superseded);
    stage.known.lock().clear();
    drop(line);
    let mut line = stage.next_line().await;
    line.reconcile(1, vec![]).await;
    line.say(ToExecutor::Launch(launch(1, 0, &[5]))).await;
    let failure = line.hear_report().await.outcome.expect_err("stale");
    assert_eq!(failure.code, "epoch.superseded");
    executor.shutdown.cancel();
    executor.end().await.expect("a clean end");
}

#[tokio::test]
async fn dropped_batches_give_their_blocks_back() {
    let mut stage = play().await;
    let executor = start(&stage.address, "right");
    let mut line = stage.next_line().await;
    line.reconcile(1, vec![]).await;
    line.say(ToExecutor::Launch(launch(1, 3, &[0]))).await;
    assert!(line.hear_report().await.outcome.is_ok());
    while line.hear_heartbeat().await.block_bytes == 0 {}
    let drop_batches = |through| ToExecutor::DropBatches {
        query: query(),
        epoch: Epoch(1),
        through: BatchId(through),
    };
    line.say(drop_batches(3)).await;
    while line.hear_heartbeat().await.block_bytes > 0 {}
    executor.shutdown.cancel();
    executor.end().await.expect("a clean end");
}

#[tokio::test]
async fn a_leaving_executor_says_so_and_serves_until_it_is_let_go() {
    let mut stage = play().await;
    let executor = start(&stage.address, "right");
    let mut line = stage.next_line().await;
    line.reconcile(1, vec![]).await;
    executor.handle.leave();
    assert_eq!(line.hear().await, ToDriver::Leaving);
    line.say(ToExecutor::Launch(launch(1, 0, &[5]))).await;
    assert!(line.hear_report().await.outcome.is_ok());
    drop(line);
    let mut line = stage.next_line().await;
    assert_eq!(
        line.hear().await,
        ToDriver::Leaving,
        "said again in the next session"
    );
    let reason = "released".to_owned();
    line.say(ToExecutor::Shutdown { reason }).await;
    assert_eq!(executor.end().await.expect("a clean end"), ExitReason::Left);
}

#[tokio::test]
async fn metrics_and_health_are_served() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let mut stage = play().await;
    let mut executor = start(&stage.address, "right");
    let addresses = executor.handle.addresses().await.expect("listens");
    stage.next_line().await;
    for (path, expected) in [
        ("/healthz", "ok"),
        ("/metrics", "millstream_executor_tasks_running"),
    ] {
        let mut stream = tokio::net::TcpStream::connect(&addresses.http)
            .await
            .expect("connects");
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("asks");
        let mut answer = String::new();
        let read = timeout(DEADLINE, stream.read_to_string(&mut answer)).await;
        read.expect("in time").expect("answers");
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.contains(expected),
            "{answer}"
        );
    }
    executor.shutdown.cancel();
    executor.end().await.expect("a clean end");
}

#[tokio::test]
async fn the_in_process_twin_runs_tasks_without_a_network() {
    let (opened, mut sessions) = mpsc::channel(1);
    let link = InProcessLink {
        register: Arc::new(|_| {
            Box::pin(async {
                Ok(RegisterReply {
                    executor: ExecutorId::random(),
                    application: Application {
                        name: "test".to_owned(),
                        arguments: serde_json::Value::Null,
                        configuration: BTreeMap::new(),
                        parallelism: 1,
                        batch_interval_millis: 0,
                        build_id: String::new(),
                        recorded: BTreeMap::new(),
                    },
                    shared_files: vec![],
                })
            })
        }),
        session: Arc::new(move |_| {
            let opened = opened.clone();
            Box::pin(async move {
                let (to_driver, from_executor) = mpsc::channel(100);
                let (to_executor, from_driver) = mpsc::channel(100);
                opened
                    .send((from_executor, to_executor))
                    .await
                    .expect("test");
                Ok((to_driver, from_driver))
            })
        }),
    };
    let options = Options::in_process(1, Config::default());
    let build_id = Arc::new(|| Ok("build-1".to_owned()));
    let executor = Executor::new(options, programs(), build_id, Arc::new(link));
    let outcome = tokio::spawn(executor.run(CancellationToken::new()));
    let (mut from_executor, to_executor) = sessions.recv().await.expect("session");
    let queries = vec![QueryGrant {
        query: query(),
        epoch: Epoch(1),
    }];
    let wanted = vec![];
    let messages = [
        ToExecutor::Reconcile { queries, wanted },
        ToExecutor::Launch(launch(1, 0, &[5])),
    ];
    for message in messages {
        to_executor.send(Ok(message)).await.expect("open");
    }
    let report = timeout(DEADLINE, async {
        loop {
            if let Some(ToDriver::Report(report)) = from_executor.recv().await {
                return report;
            }
        }
    });
    assert!(report.await.expect("in time").outcome.is_ok());
    let reason = "done".to_owned();
    to_executor
        .send(Ok(ToExecutor::Shutdown { reason }))
        .await
        .expect("open");
    let outcome = timeout(DEADLINE, outcome)
        .await
        .expect("in time")
        .expect("no panic");
    assert!(matches!(outcome, Ok(ExitReason::Shutdown { .. })));
}
