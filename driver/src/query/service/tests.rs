use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use millstream_common::{
    failure::{Failure, FailureKind},
    ids::{BatchId, StageId},
    log_store::{FileLogStore, FileOptions, MemoryLogStore},
    protocol::SinkCommit,
    time::{ManualClock, SystemClock},
};
use millstream_connectors::{
    sink::SinkStart,
    source::{PlanRequest, PlannedInput, SourceHistory, Split},
};
use millstream_dataflow::plan::{OutputPlan, SourcePlan};
use parking_lot::Mutex;
use serde_json::json;

use super::*;
use crate::scheduler::message::BatchSummary;

const DEADLINE: Duration = Duration::from_secs(20);

/// A source of numbers: a batch takes all that are there.
struct Numbers {
    there: Arc<AtomicU64>,
    taken: u64,
    committed: Arc<Mutex<Vec<BatchId>>>,
    away: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
}

#[async_trait]
impl SourceDriver for Numbers {
    async fn start(&mut self) -> Result<Value, Failure> {
        self.taken = self.there.load(Ordering::SeqCst);
        Ok(json!(self.taken))
    }

    async fn restore(&mut self, history: SourceHistory) -> Result<(), Failure> {
        let newest = history.logged.last().map(|(_, input)| &input.position);
        self.taken = newest.unwrap_or(&history.start).as_u64().expect("a number");
        Ok(())
    }

    async fn plan(&mut self, _request: PlanRequest) -> Result<PlannedInput, Failure> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if self.away.load(Ordering::SeqCst) {
            return Err(Failure::new(FailureKind::Io, "the source is away"));
        }
        let from = self.taken;
        self.taken = self.there.load(Ordering::SeqCst).max(from);
        let split = Split {
            split: json!([from, self.taken]),
            locality: None,
            rows: Some(self.taken - from),
        };
        Ok(PlannedInput {
            splits: if self.taken > from {
                vec![split]
            } else {
                vec![]
            },
            position: json!(self.taken),
        })
    }

    async fn committed(&mut self, batch: BatchId, _input: &PlannedInput) -> Result<(), Failure> {
        self.committed.lock().push(batch);
        Ok(())
    }
}

/// An output that remembers what it was given.
struct Memory {
    log: Arc<Mutex<Vec<String>>>,
    publishes: bool,
    panics: bool,
    folder: Option<PathBuf>,
}

#[async_trait]
impl OutputDriver for Memory {
    async fn check(&self, _start: &SinkStart) -> Result<Vec<PathBuf>, Failure> {
        Ok(self.folder.clone().into_iter().collect())
    }

    async fn complete(
        &self,
        batch: BatchInfo,
        results: &[PartitionResult],
        _blocks: Arc<dyn BlockReader>,
    ) -> Result<(), Failure> {
        if self.panics {
            panic!("callback of batch {}", batch.batch);
        }
        let rows: Vec<String> = results
            .iter()
            .filter_map(|result| result.result.clone())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .collect();
        self.log
            .lock()
            .push(format!("complete {} {rows:?}", batch.batch));
        Ok(())
    }

    async fn publish(&self, batch: BatchInfo, winners: &[SinkCommit]) -> Result<(), Failure> {
        self.log
            .lock()
            .push(format!("publish {} {}", batch.batch, winners.len()));
        Ok(())
    }

    fn publishes(&self) -> bool {
        self.publishes
    }
}

/// A store whose every third put arrives although it is said to have failed, and whose every fifth doesn't arrive.
#[derive(Debug, Default)]
struct Flaky {
    inner: MemoryLogStore,
    puts: AtomicU64,
}

#[async_trait]
impl LogStore for Flaky {
    async fn put_if_absent(
        &self,
        name: &str,
        bytes: Bytes,
    ) -> Result<log_store::PutOutcome, log_store::Error> {
        let put = self.puts.fetch_add(1, Ordering::SeqCst);
        let failed = || log_store::Error::Contended {
            name: name.to_owned(),
            location: "flaky".to_owned(),
        };
        // The first two are the probe's.
        if put > 1 && put.is_multiple_of(5) {
            return Err(log_store::Error::Io {
                action: "write",
                path: PathBuf::from(name),
                advice: "the disk is full: make room there",
                source: std::io::ErrorKind::StorageFull.into(),
            });
        }
        let outcome = self.inner.put_if_absent(name, bytes).await?;
        if put > 1 && put.is_multiple_of(3) {
            return Err(failed());
        }
        Ok(outcome)
    }

    async fn get(&self, name: &str) -> Result<Option<Bytes>, log_store::Error> {
        self.inner.get(name).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, log_store::Error> {
        self.inner.list(prefix).await
    }

    async fn delete(&self, name: &str) -> Result<(), log_store::Error> {
        self.inner.delete(name).await
    }

    fn location(&self) -> String {
        "flaky".to_owned()
    }
}

struct NoBlocks;

#[async_trait]
impl BlockReader for NoBlocks {
    async fn read(&self, _partition: u32, _max_bytes: u64) -> Result<Vec<Bytes>, Failure> {
        Ok(Vec::new())
    }
}

/// What stays over restarts, and what tests turn.
struct World {
    there: Arc<AtomicU64>,
    away: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
    committed: Arc<Mutex<Vec<BatchId>>>,
    log: Arc<Mutex<Vec<String>>>,
    publishes: bool,
    panics: bool,
    fails: bool,
    interval: u64,
    folder: Option<PathBuf>,
}

impl World {
    fn new(interval: u64) -> Self {
        Self {
            there: Arc::default(),
            away: Arc::default(),
            asked: Arc::default(),
            committed: Arc::default(),
            log: Arc::default(),
            publishes: false,
            panics: false,
            fails: false,
            interval,
            folder: None,
        }
    }

    fn plan(&self) -> Arc<Plan> {
        Arc::new(Plan {
            sources: vec![SourcePlan {
                id: "numbers-0".into(),
                kind: "numbers".into(),
                settings: Value::Null,
            }],
            stages: vec![],
            outputs: vec![OutputPlan {
                id: "memory-0".into(),
                kind: "memory".into(),
                stage: StageId(0),
                settings: Value::Null,
            }],
        })
    }

    /// Starts a query with a scheduler that does every batch at once, one result per split.
    fn start(&self, store: Arc<dyn LogStore>, clock: Arc<dyn Clock>) -> QueryHandle {
        let (scheduler, mut inbox) = mpsc::channel(16);
        let (news_sender, news) = mpsc::channel(16);
        let fails = self.fails;
        tokio::spawn(async move {
            while let Some(event) = inbox.recv().await {
                match event {
                    message::Event::Run(run) if fails => {
                        let failure = Failure::new(FailureKind::UserCode, "division by zero");
                        let batch = run.batch;
                        let _ = news_sender
                            .send(QueryNews::BatchFailed { batch, failure })
                            .await;
                    }
                    message::Event::Run(run) => {
                        let results = (0u32..).zip(&run.splits[0]).map(|(partition, split)| {
                            PartitionResult {
                                partition,
                                result: Some(Bytes::from(format!(
                                    "{}{}",
                                    split.split,
                                    if run.rerun { " again" } else { "" }
                                ))),
                                kept: None,
                                sink: None,
                            }
                        });
                        let news = QueryNews::OutputReady {
                            batch: run.batch,
                            output: OutputIndex(0),
                            results: results.collect(),
                        };
                        let _ = news_sender.send(news).await;
                    }
                    message::Event::OutputDone { batch, .. } => {
                        let summary = BatchSummary::default();
                        let _ = news_sender
                            .send(QueryNews::BatchDone { batch, summary })
                            .await;
                    }
                    _ => {}
                }
            }
        });
        let options = QueryOptions {
            plan: self.plan(),
            parallelism: 2,
            rules: Default::default(),
            interval_millis: self.interval,
            fresh_query: QueryId::random(),
            address: "test".into(),
            build_id: "build".into(),
            arguments: Value::Null,
            configuration: BTreeMap::new(),
            affecting: BTreeMap::new(),
            recorded: BTreeMap::new(),
            max_queued: 10,
            retained_batches: 5,
            rate: None,
            checkpoint_folder: None,
            program: None,
        };
        let parts = QueryParts {
            store,
            sources: vec![Box::new(Numbers {
                there: Arc::clone(&self.there),
                taken: 0,
                committed: Arc::clone(&self.committed),
                away: Arc::clone(&self.away),
                asked: Arc::clone(&self.asked),
            })],
            outputs: vec![Arc::new(Memory {
                log: Arc::clone(&self.log),
                publishes: self.publishes,
                panics: self.panics,
                folder: self.folder.clone(),
            })],
            clock,
            scheduler,
            news,
            blocks: Arc::new(|_, _, _| Arc::new(NoBlocks)),
        };
        let (service, handle) = QueryService::new(options, parts).expect("service");
        tokio::spawn(service.run(CancellationToken::new()));
        handle
    }

    fn log(&self) -> Vec<String> {
        self.log.lock().clone()
    }
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, work).await.expect("in time")
}

async fn finished(handle: &QueryHandle, batch: u64) {
    let mut progress = handle.progress();
    let done = progress.wait_for(|newest| {
        newest
            .as_ref()
            .is_some_and(|newest| newest.batch.0 >= batch)
    });
    within(done).await.expect("progress");
}

/// Moves the clock from batch time to batch time.
async fn run_batches(
    clock: &ManualClock,
    handle: &QueryHandle,
    world: &World,
    batches: std::ops::Range<u64>,
) {
    for batch in batches {
        world.there.fetch_add(10, Ordering::SeqCst);
        clock.advance(Duration::from_secs(1));
        finished(handle, batch).await;
    }
}

#[tokio::test]
async fn batches_run_at_multiples_of_the_interval_and_go_on_after_a_restart() {
    let world = World::new(1_000);
    let store: Arc<dyn LogStore> = Arc::new(MemoryLogStore::new());
    let clock = ManualClock::new(10_000);
    let handle = world.start(Arc::clone(&store), Arc::new(clock.clone()));
    let first = within(handle.ready()).await.expect("ready");
    assert_eq!(handle.state(), handle::QueryState::Active);
    run_batches(&clock, &handle, &world, 0..2).await;
    assert_eq!(handle.recent()[1].batch_time.0, 12_000);
    handle.stop(true);
    assert_eq!(
        within(handle.await_termination()).await,
        Ok(Stopped::default())
    );
    assert_eq!(handle.state(), handle::QueryState::Stopped);

    let handle = world.start(Arc::clone(&store), Arc::new(clock.clone()));
    let second = within(handle.ready()).await.expect("ready");
    assert_eq!(second.query, first.query);
    assert_eq!((first.epoch.0, second.epoch.0, second.next.0), (1, 2, 2));
    run_batches(&clock, &handle, &world, 2..3).await;
    handle.stop(true);
    within(handle.await_termination()).await.expect("stopped");

    assert_eq!(
        world.log(),
        [
            r#"complete 0 ["[0,10]"]"#,
            r#"complete 1 ["[10,20]"]"#,
            r#"complete 2 ["[20,30]"]"#
        ]
    );
    let told: Vec<u64> = world.committed.lock().iter().map(|batch| batch.0).collect();
    assert_eq!(told, [0, 1, 1, 2]);
}

#[tokio::test]
async fn a_panicking_callback_fails_the_batch_which_runs_again_with_the_same_input() {
    let mut world = World::new(1_000);
    world.panics = true;
    let store: Arc<dyn LogStore> = Arc::new(MemoryLogStore::new());
    let clock = ManualClock::new(0);
    let handle = world.start(Arc::clone(&store), Arc::new(clock.clone()));
    within(handle.ready()).await.expect("ready");
    world.there.store(7, Ordering::SeqCst);
    clock.advance(Duration::from_secs(1));
    let error = within(handle.await_termination())
        .await
        .expect_err("failed");
    let QueryError::Batch { batch, failure } = error.as_ref() else {
        panic!("{error}");
    };
    assert_eq!((batch.0, &failure.kind), (0, &FailureKind::UserCode));
    assert!(failure.message.contains("callback of batch 0"), "{failure}");

    world.panics = false;
    world.there.store(9, Ordering::SeqCst);
    let handle = world.start(store, Arc::new(clock.clone()));
    finished(&handle, 0).await;
    assert!(handle.recent()[0].rerun);
    clock.advance(Duration::from_secs(1));
    finished(&handle, 1).await;
    assert_eq!(
        world.log(),
        [r#"complete 0 ["[0,7] again"]"#, r#"complete 1 ["[7,9]"]"#]
    );
}

#[tokio::test]
async fn a_failed_batch_stops_the_query() {
    let mut world = World::new(1_000);
    world.fails = true;
    let clock = ManualClock::new(0);
    let handle = world.start(Arc::new(MemoryLogStore::new()), Arc::new(clock.clone()));
    within(handle.ready()).await.expect("ready");
    clock.advance(Duration::from_secs(1));
    let error = within(handle.await_termination())
        .await
        .expect_err("failed");
    assert_eq!(error.exit_code(), 1);
    assert!(error.to_string().contains("division by zero"), "{error}");
}

#[tokio::test]
async fn a_second_driver_supersedes_the_first() {
    let world = World::new(1_000);
    let store: Arc<dyn LogStore> = Arc::new(MemoryLogStore::new());
    let clock = ManualClock::new(0);
    let first = world.start(Arc::clone(&store), Arc::new(clock.clone()));
    within(first.ready()).await.expect("ready");
    let second = world.start(Arc::clone(&store), Arc::new(clock.clone()));
    within(second.ready()).await.expect("ready");
    clock.advance(Duration::from_secs(1));
    let error = within(first.await_termination())
        .await
        .expect_err("superseded");
    assert_eq!(error.exit_code(), 3, "{error}");
    clock.advance(Duration::from_secs(1));
    finished(&second, 0).await;
}

#[tokio::test]
async fn a_source_that_is_away_holds_its_batch_up_and_loses_none() {
    let world = World::new(1_000);
    world.away.store(true, Ordering::SeqCst);
    let clock = ManualClock::new(0);
    let handle = world.start(Arc::new(MemoryLogStore::new()), Arc::new(clock.clone()));
    within(handle.ready()).await.expect("ready");
    clock.advance(Duration::from_millis(3_500));
    let mut status = handle.status();
    within(status.wait_for(|status| status.waits_for_source.is_some()))
        .await
        .expect("status");
    world.away.store(false, Ordering::SeqCst);
    clock.advance(Duration::from_millis(100));
    finished(&handle, 2).await;
    let times: Vec<i64> = handle
        .recent()
        .iter()
        .map(|batch| batch.batch_time.0)
        .collect();
    assert_eq!(times, [1_000, 2_000, 3_000]);
    assert_eq!(handle.status().borrow().waits_for_source, None);
}

#[tokio::test]
async fn back_to_back_batches_run_only_with_input_on_a_real_clock_and_disk() {
    let mut world = World::new(0);
    world.publishes = true;
    let folder = tempfile::tempdir().expect("folder");
    let store = FileLogStore::open(folder.path(), FileOptions { fsync: false })
        .await
        .expect("store");
    let handle = world.start(Arc::new(store), Arc::new(SystemClock::new()));
    within(handle.ready()).await.expect("ready");
    for batch in 0..12 {
        world.there.fetch_add(1, Ordering::SeqCst);
        finished(&handle, batch).await;
    }
    handle.stop(true);
    within(handle.await_termination()).await.expect("stopped");
    let log = world.log();
    assert_eq!(log.len(), 24);
    assert_eq!(log[1], "publish 0 0");
    let kept = std::fs::read_dir(folder.path().join("offsets"))
        .expect("offsets")
        .count();
    assert!((5..=6).contains(&kept), "{kept}");
}

#[tokio::test]
async fn an_altered_checkpoint_is_refused_and_left_alone() {
    let world = World::new(1_000);
    let store: Arc<dyn LogStore> = Arc::new(MemoryLogStore::new());
    let clock = ManualClock::new(0);
    let handle = world.start(Arc::clone(&store), Arc::new(clock.clone()));
    within(handle.ready()).await.expect("ready");
    run_batches(&clock, &handle, &world, 0..1).await;
    handle.stop(true);
    within(handle.await_termination()).await.expect("stopped");

    let name = super::super::entries::Name::Offsets(BatchId(0)).to_string();
    let bytes = store.get(&name).await.expect("get").expect("there");
    store.delete(&name).await.expect("delete");
    store
        .put_if_absent(&name, bytes.slice(..bytes.len() / 2))
        .await
        .expect("put");
    let before = store.list("").await.expect("list");
    let handle = world.start(Arc::clone(&store), Arc::new(clock.clone()));
    let error = within(handle.ready()).await.expect_err("refused");
    assert_eq!(error.code(), "checkpoint.unreadable");
    assert!(error.to_string().contains(&name), "{error}");
    assert_eq!(store.list("").await.expect("list"), before);

    let other = World::new(2_000);
    let handle = other.start(Arc::clone(&store), Arc::new(clock));
    within(handle.ready()).await.expect_err("refused");
    assert_eq!(store.list("").await.expect("list"), before);
}

#[tokio::test]
async fn puts_of_unknown_outcome_are_read_back_and_those_on_a_full_disk_tried_again() {
    let mut world = World::new(0);
    world.publishes = true;
    let handle = world.start(Arc::new(Flaky::default()), Arc::new(SystemClock::new()));
    within(handle.ready()).await.expect("ready");
    for batch in 0..6 {
        world.there.fetch_add(1, Ordering::SeqCst);
        finished(&handle, batch).await;
    }
    handle.stop(true);
    within(handle.await_termination()).await.expect("stopped");
    let rows: Vec<String> = world
        .log()
        .into_iter()
        .filter(|line| line.starts_with("complete"))
        .collect();
    assert_eq!(rows.len(), 6, "{rows:?}");
    assert_eq!(rows[5], r#"complete 5 ["[5,6]"]"#);
}

#[tokio::test]
async fn folders_that_executors_must_share_hold_a_nonce_until_the_query_stops() {
    let folder = tempfile::tempdir().expect("folder");
    let mut world = World::new(1_000);
    world.folder = Some(folder.path().join("out"));
    let clock = ManualClock::new(0);
    let handle = world.start(Arc::new(MemoryLogStore::new()), Arc::new(clock));
    let ready = within(handle.ready()).await.expect("ready");
    let [file] = &ready.shared_files[..] else {
        panic!("one file: {ready:?}");
    };
    assert_eq!(file.purpose, "output");
    assert_eq!(
        std::fs::read_to_string(&file.path).expect("read"),
        file.nonce
    );
    handle.stop(false);
    within(handle.await_termination()).await.expect("stopped");
    assert!(!std::path::Path::new(&file.path).exists());
}
