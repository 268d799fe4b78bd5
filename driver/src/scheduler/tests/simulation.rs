//! A cluster in which anything may happen in any order: random plans, completions, failures, losses, lost messages, late messages.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use millstream_common::{
    failure::{Failure, FailureKind, Retry},
    ids::{BatchId, BlockId, ExecutorId, OutputIndex, QueryId, TaskId},
    protocol::{BlockMeta, QueryGrant, TaskInput, TaskOutput, TaskReport},
    time::{BatchTime, Tick},
};
use millstream_dataflow::plan::{Branch, Exchange, Plan};
use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use uuid::Uuid;

use super::{EPOCH, executor, info, plan, reference, source, splits, stage};
use crate::scheduler::{
    Scheduler, invariants,
    message::{Action, BatchRun, Event},
    options::{SchedulerOptions, Speculation},
};

const MOST_STEPS: usize = 20_000;
/// Fewer than the losses of one task that end a batch.
const MOST_EXECUTORS: u128 = 12;

/// How unkind the world is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum World {
    /// Failures stay below every limit: each batch has to get done.
    Kind,
    /// Anything goes: a batch may fail, for a reason that was given.
    Unkind,
}

#[derive(Default)]
struct SimExecutor {
    alive: bool,
    connected: bool,
    leaving: bool,
    cores: u32,
    running: BTreeMap<TaskId, TaskInput>,
    finished: Vec<TaskReport>,
    outbox: VecDeque<Event>,
}

struct SimQuery {
    id: QueryId,
    plan: Arc<Plan>,
    splits: usize,
    batch: u64,
    running: bool,
    next_output: u32,
    /// Announced and not yet done.
    announced: Option<u32>,
    winners: BTreeMap<(u32, u32), (TaskId, ExecutorId)>,
    failures: BTreeMap<(u32, u32), u32>,
    fetch_failures: u32,
    never: bool,
    batches_done: u64,
}

struct Sim {
    scheduler: Scheduler,
    world: World,
    random: SmallRng,
    now: Tick,
    wake: Option<Tick>,
    executors: BTreeMap<u128, SimExecutor>,
    next_executor: u128,
    /// Attempts that the scheduler waits for.
    live: BTreeMap<TaskId, ExecutorId>,
    queries: Vec<SimQuery>,
    old: Vec<(ExecutorId, TaskReport)>,
}

fn random_plan(random: &mut SmallRng) -> Plan {
    let count = random.random_range(1..=4u32);
    let mut stages = Vec::new();
    for number in 0..count {
        let mut branches = Vec::new();
        for _ in 0..random.random_range(1..=2) {
            if number == 0 || random.random_bool(0.3) {
                branches.push(source());
                continue;
            }
            branches.push(Branch::Exchanges(vec![reference(
                random.random_range(0..number),
                0,
            )]));
            let second = reference(random.random_range(0..number), 1);
            if random.random_bool(0.3) {
                // Exchange 1 of each stage is hashed to 3: two such can be read side by side.
                let first = reference(random.random_range(0..number), 1);
                branches.pop();
                branches.push(Branch::Exchanges(vec![first, second]));
            }
        }
        let own = match random.random_range(0..4) {
            0 => Exchange::Gather,
            1 => Exchange::Keep,
            2 => Exchange::RoundRobin(2),
            _ => Exchange::Hash(random.random_range(1..5)),
        };
        let mut made = stage(branches, vec![own, Exchange::Hash(3)]);
        made.empty_to_empty = random.random_bool(0.7);
        made.speculative = random.random_bool(0.5);
        stages.push(made);
    }
    let mut outputs = vec![count - 1];
    if count > 1 && random.random_bool(0.5) {
        outputs.insert(random.random_range(0..2), random.random_range(0..count - 1));
    }
    plan(stages, &outputs)
}

impl SimQuery {
    fn partitions(&self, stage: u32) -> u32 {
        let branches = &self.plan.stages[stage as usize].branches;
        branches
            .iter()
            .map(|branch| self.branch_partitions(branch))
            .sum()
    }

    fn branch_partitions(&self, branch: &Branch) -> u32 {
        match branch {
            Branch::Source(_) => u32::try_from(self.splits).expect("few"),
            Branch::Exchanges(refs) => self.exchange_partitions(refs[0].stage.0, refs[0].exchange),
        }
    }

    fn exchange_partitions(&self, stage: u32, exchange: u32) -> u32 {
        match self.plan.stages[stage as usize].exchanges[exchange as usize] {
            Exchange::Hash(count) | Exchange::RoundRobin(count) => count,
            Exchange::Gather => 1,
            Exchange::Keep => self.partitions(stage),
        }
    }

    /// What a task writes depends on the task alone.
    fn rows(&self, stage: u32, map: u32, exchange: u32, partition: u32) -> u64 {
        if self.plan.stages[stage as usize].exchanges[exchange as usize] == Exchange::Keep
            && map != partition
        {
            return 0;
        }
        let mixed = (u64::from(stage) * 31
            + u64::from(map) * 17
            + u64::from(exchange) * 7
            + u64::from(partition) * 13
            + self.batch)
            .wrapping_mul(0x9E37_79B9_7F4A_7C15)
            >> 60;
        mixed.saturating_sub(5)
    }

    /// The maps whose rows each list of a partition has to name; `None` for a split.
    fn expected_inputs(&self, stage: u32, partition: u32) -> Option<Vec<Vec<u32>>> {
        let mut first = 0;
        for branch in &self.plan.stages[stage as usize].branches {
            let count = self.branch_partitions(branch);
            if partition < first + count {
                let within = partition - first;
                return match branch {
                    Branch::Source(_) => None,
                    Branch::Exchanges(refs) => Some(
                        refs.iter()
                            .map(|of| {
                                (0..self.partitions(of.stage.0))
                                    .filter(|map| self.runs(of.stage.0, *map))
                                    .filter(|map| {
                                        self.rows(of.stage.0, *map, of.exchange, within) > 0
                                    })
                                    .collect()
                            })
                            .collect(),
                    ),
                };
            }
            first += count;
        }
        panic!("no such partition")
    }

    /// Whether a partition has to run at all.
    fn runs(&self, stage: u32, partition: u32) -> bool {
        if !self.plan.stages[stage as usize].empty_to_empty {
            return true;
        }
        match self.expected_inputs(stage, partition) {
            None => true,
            Some(lists) => lists.iter().any(|list| !list.is_empty()),
        }
    }

    fn output(&self, task: &TaskId) -> TaskOutput {
        let exchanges = self.plan.stages[task.stage.0 as usize].exchanges.len();
        let lists = (0..u32::try_from(exchanges).expect("few")).map(|exchange| {
            (0..self.exchange_partitions(task.stage.0, exchange))
                .map(|partition| {
                    let rows = self.rows(task.stage.0, task.partition, exchange, partition);
                    BlockMeta {
                        bytes: rows * 10,
                        rows,
                        checksum: rows + 1,
                    }
                })
                .collect()
        });
        TaskOutput {
            exchanges: lists.collect(),
            ..TaskOutput::default()
        }
    }
}

impl Sim {
    fn new(seed: u64, world: World) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let options = SchedulerOptions {
            locality_wait: Duration::from_millis(random.random_range(0..2) * 50),
            speculation: random.random_bool(0.5).then(|| Speculation {
                quantile: 0.3,
                multiplier: 1.0,
                interval: Duration::from_millis(5),
                min_run_time: Duration::from_millis(1),
            }),
            ..SchedulerOptions::default()
        };
        let mut sim = Self {
            scheduler: Scheduler::new(options, seed),
            world,
            random,
            now: Tick(1_000_000),
            wake: None,
            executors: BTreeMap::new(),
            next_executor: 0,
            live: BTreeMap::new(),
            queries: vec![],
            old: vec![],
        };
        for number in 0..sim.random.random_range(1..=2u128) {
            let id = QueryId(Uuid::from_u128(1 + number));
            let plan = Arc::new(random_plan(&mut sim.random));
            sim.queries.push(SimQuery {
                id,
                plan,
                splits: 0,
                batch: 0,
                running: false,
                next_output: 0,
                announced: None,
                winners: BTreeMap::new(),
                failures: BTreeMap::new(),
                fetch_failures: 0,
                never: false,
                batches_done: 0,
            });
            sim.handle(Event::QueryAdded(QueryGrant {
                query: id,
                epoch: EPOCH,
            }));
        }
        for _ in 0..sim.random.random_range(0..4) {
            sim.add_executor();
        }
        sim
    }

    fn handle(&mut self, event: Event) {
        if let Event::Reported { executor, report } = &event {
            self.note_report(*executor, report);
        }
        if let Event::Truth {
            executor, finished, ..
        } = &event
        {
            for report in finished.clone() {
                self.note_report(*executor, &report);
            }
        }
        let text = format!("{event:?}");
        let actions = self.scheduler.handle(self.now, event);
        if let Err(broken) = invariants::check(&self.scheduler) {
            panic!("{broken} after {text}");
        }
        for action in actions {
            self.act(action);
        }
    }

    /// Keeps the model of winners in step: the first success of an attempt that is waited for counts.
    fn note_report(&mut self, from: ExecutorId, report: &TaskReport) {
        let id = report.task;
        if self.live.get(&id) != Some(&from) {
            return;
        }
        self.live.remove(&id);
        if report.outcome.is_ok()
            && let Some(query) = self.queries.iter_mut().find(|query| query.id == id.query)
            && query.running
            && BatchId(query.batch) == id.batch
        {
            query.winners.insert((id.stage.0, id.partition), (id, from));
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Launch { executor, launch } => {
                let number = executor.0.as_u128() - 100;
                for spec in launch.tasks {
                    let id = TaskId {
                        query: launch.query,
                        epoch: launch.epoch,
                        batch: launch.batch,
                        stage: launch.stage,
                        partition: spec.partition,
                        attempt: spec.attempt,
                    };
                    self.check_launch(&id, &spec.input);
                    assert!(
                        self.live.insert(id, executor).is_none(),
                        "{id} launched twice"
                    );
                    let on = self.executors.get_mut(&number).expect("a known executor");
                    if on.alive && on.connected {
                        on.running.insert(id, spec.input);
                    }
                }
                let running = self.live.values().filter(|of| **of == executor).count();
                assert!(running <= self.executors[&number].cores as usize, "slots");
            }
            Action::Cancel { executor, tasks } => {
                let number = executor.0.as_u128() - 100;
                for task in tasks {
                    self.live.remove(&task);
                    let on = self.executors.get_mut(&number).expect("a known executor");
                    if on.alive && on.connected && on.running.remove(&task).is_some() {
                        on.outbox.push_back(Event::Reported {
                            executor,
                            report: Box::new(TaskReport {
                                task,
                                outcome: Err(Failure::new(FailureKind::Cancelled, "told to stop")),
                                run_micros: 1,
                            }),
                        });
                    }
                }
            }
            Action::Reconcile {
                executor, wanted, ..
            } => {
                let on = self
                    .executors
                    .get_mut(&(executor.0.as_u128() - 100))
                    .expect("a known executor");
                for task in &wanted {
                    assert_eq!(self.live.get(task), Some(&executor));
                }
                if on.alive && on.connected {
                    on.outbox.push_back(Event::Truth {
                        executor,
                        running: on.running.keys().copied().collect(),
                        finished: on.finished.clone(),
                    });
                }
            }
            Action::OutputReady {
                query,
                output,
                results,
                ..
            } => {
                let query = self.query(query);
                assert!(query.running && query.announced.is_none());
                assert_eq!(output.0, query.next_output, "outputs in order");
                query.announced = Some(output.0);
                let stage = query.plan.outputs[output.0 as usize].stage.0;
                let expected: Vec<u32> = (0..query.partitions(stage))
                    .filter(|partition| query.runs(stage, *partition))
                    .collect();
                let found: Vec<u32> = results.iter().map(|result| result.partition).collect();
                assert_eq!(found, expected, "results complete");
            }
            Action::BatchDone { query, summary, .. } => {
                let query = self.query(query);
                assert_eq!(query.next_output as usize, query.plan.outputs.len());
                let winners = u64::try_from(query.winners.len()).expect("few");
                assert_eq!(summary.tasks, winners, "winners counted once");
                query.running = false;
                query.batches_done += 1;
                let id = query.id;
                self.live.retain(|task, _| task.query != id);
            }
            Action::BatchFailed { query, failure, .. } => {
                let world = self.world;
                let query = self.query(query);
                assert_eq!(world, World::Unkind, "failed below the limits: {failure}");
                let most = query.failures.values().max().copied().unwrap_or(0);
                let legal = match failure.kind {
                    FailureKind::UserCode => query.never || most >= 4,
                    FailureKind::FetchFailed { .. } | FailureKind::Io => query.fetch_failures >= 4,
                    _ => false,
                };
                assert!(legal, "failed without a reason: {failure}");
                query.running = false;
                query.announced = None;
            }
            Action::WakeAt(at) => self.wake = Some(at),
            Action::Release { executor } => {
                let number = executor.0.as_u128() - 100;
                self.executors.get_mut(&number).expect("known").alive = false;
            }
            Action::DropBatches { .. } | Action::NoExecutor { .. } | Action::Noted(_) => {}
        }
    }

    fn check_launch(&mut self, id: &TaskId, input: &TaskInput) {
        let query = self.query(id.query);
        assert!(query.running && id.batch == BatchId(query.batch));
        let stage = &query.plan.stages[id.stage.0 as usize];
        let is_read = query.plan.stages.iter().flat_map(|stage| &stage.branches).any(|branch| {
            matches!(branch, Branch::Exchanges(refs) if refs.iter().any(|of| of.stage == id.stage))
        });
        let turn_came = stage
            .output
            .is_none_or(|output| output.0 <= query.next_output);
        assert!(is_read || turn_came, "its turn");
        match (query.expected_inputs(id.stage.0, id.partition), input) {
            (None, TaskInput::Split { .. }) => {}
            (Some(expected), TaskInput::Blocks(lists)) => {
                assert!(
                    query.runs(id.stage.0, id.partition),
                    "{id} has nothing to do"
                );
                assert_eq!(expected.len(), lists.len());
                for (maps, list) in expected.iter().zip(lists) {
                    let found: Vec<u32> = list.iter().map(|of| of.task.partition).collect();
                    assert_eq!(&found, maps, "inputs of {id}");
                    for location in list {
                        let key = (location.task.stage.0, location.task.partition);
                        let (winner, on) = query.winners[&key];
                        assert_eq!(
                            (location.task, location.executor),
                            (winner, on),
                            "the winner's block"
                        );
                    }
                }
            }
            (expected, input) => panic!("{id} expects {expected:?}, got {input:?}"),
        }
    }

    fn query(&mut self, id: QueryId) -> &mut SimQuery {
        self.queries
            .iter_mut()
            .find(|query| query.id == id)
            .expect("a known query")
    }

    fn add_executor(&mut self) {
        let number = self.next_executor;
        self.next_executor += 1;
        let cores = self.random.random_range(1..4);
        self.executors.insert(
            number,
            SimExecutor {
                alive: true,
                connected: true,
                cores,
                ..SimExecutor::default()
            },
        );
        self.handle(Event::Connected(info(number, cores)));
    }

    fn start_batch(&mut self, position: usize) {
        let count = self.random.random_range(0..5);
        let query = &mut self.queries[position];
        query.batch += 1;
        query.splits = count;
        query.running = true;
        query.next_output = 0;
        query.announced = None;
        query.winners.clear();
        query.failures.clear();
        query.fetch_failures = 0;
        query.never = false;
        let run = BatchRun {
            query: query.id,
            epoch: EPOCH,
            batch: BatchId(query.batch),
            batch_time: BatchTime(5),
            plan: query.plan.clone(),
            splits: vec![splits(count)],
            rerun: false,
        };
        self.handle(Event::Run(run));
    }

    fn lose(&mut self, number: u128) {
        let id = executor(number);
        let gone = self.executors.get_mut(&number).expect("known");
        *gone = SimExecutor {
            cores: gone.cores,
            ..SimExecutor::default()
        };
        self.live.retain(|_, on| *on != id);
        self.handle(Event::Lost {
            executor: id,
            reason: "killed".into(),
        });
        self.executors.remove(&number);
    }

    fn pick(&mut self, wanted: impl Fn(&SimExecutor) -> bool) -> Option<u128> {
        let found: Vec<u128> = self
            .executors
            .iter()
            .filter(|(_, executor)| wanted(executor))
            .map(|(number, _)| *number)
            .collect();
        if found.is_empty() {
            return None;
        }
        Some(found[self.random.random_range(0..found.len())])
    }

    /// An executor's running attempt ends; the report waits to be sent.
    fn end_attempt(&mut self, number: u128, task: TaskId, outcome: Result<TaskOutput, Failure>) {
        let on = self.executors.get_mut(&number).expect("known");
        on.running.remove(&task);
        let report = TaskReport {
            task,
            outcome,
            run_micros: 500,
        };
        on.finished.push(report.clone());
        if on.connected {
            on.outbox.push_back(Event::Reported {
                executor: executor(number),
                report: Box::new(report.clone()),
            });
        }
        self.old.push((executor(number), report));
    }

    fn deliver(&mut self, number: u128) -> bool {
        let Some(event) = self
            .executors
            .get_mut(&number)
            .and_then(|on| on.outbox.pop_front())
        else {
            return false;
        };
        // What a truth leaves out is no longer waited for.
        if let Event::Truth {
            executor,
            running,
            finished,
        } = &event
        {
            let has = |task: &TaskId| {
                running.contains(task) || finished.iter().any(|report| report.task == *task)
            };
            let on = &self.executors[&number];
            let here = on.running.clone();
            self.live.retain(|task, of| {
                of != executor || has(task) || here.contains_key(task)
                    || on.outbox.iter().any(|event| matches!(event, Event::Reported { report, .. } if report.task == *task))
            });
        }
        self.handle(event);
        true
    }

    fn random_task(&mut self) -> Option<(u128, TaskId, TaskInput)> {
        let number = self.pick(|on| on.alive && !on.running.is_empty())?;
        let running = &self.executors[&number].running;
        let position = self.random.random_range(0..running.len());
        let (task, input) = running.iter().nth(position).expect("in range");
        Some((number, *task, input.clone()))
    }

    fn succeed_one(&mut self) {
        if let Some((number, task, _)) = self.random_task() {
            let output = self.query(task.query).output(&task);
            self.end_attempt(number, task, Ok(output));
        }
    }

    fn fail_one(&mut self) {
        let Some((number, task, input)) = self.random_task() else {
            return;
        };
        let world = self.world;
        let choice = self.random.random_range(0..10);
        let is_current = {
            let query = self.query(task.query);
            query.running && BatchId(query.batch) == task.batch
        };
        if !is_current {
            return;
        }
        let failure = match (choice, input) {
            (0..=2, TaskInput::Blocks(lists)) => {
                let blocks: Vec<_> = lists.into_iter().flatten().collect();
                if blocks.is_empty() {
                    return;
                }
                let block = &blocks[self.random.random_range(0..blocks.len())];
                let query = self.query(task.query);
                if world == World::Kind && query.fetch_failures >= 1 {
                    return;
                }
                query.fetch_failures += 1;
                let id = BlockId {
                    task: block.task,
                    exchange: block.exchange,
                    partition: block.partition,
                };
                Failure::new(
                    FailureKind::FetchFailed {
                        block: id,
                        executor: block.executor,
                    },
                    "no block",
                )
            }
            (3, _) => Failure::new(FailureKind::Cancelled, "stopped"),
            (4, _) if world == World::Unkind && self.random.random_bool(0.1) => {
                self.query(task.query).never = true;
                Failure::new(FailureKind::UserCode, "broken").with_retry(Retry::Never)
            }
            (5, _) => Failure::new(FailureKind::Superseded, "fenced"),
            _ => {
                let query = self.query(task.query);
                let failures = query
                    .failures
                    .entry((task.stage.0, task.partition))
                    .or_default();
                if world == World::Kind && *failures >= 3 {
                    return;
                }
                *failures += 1;
                let retry = if choice == 6 {
                    Retry::Backoff
                } else {
                    Retry::Now
                };
                Failure::new(FailureKind::UserCode, "broken").with_retry(retry)
            }
        };
        self.end_attempt(number, task, Err(failure));
    }

    fn step(&mut self) {
        self.now = self
            .now
            .after(Duration::from_micros(self.random.random_range(0..3_000)));
        match self.random.random_range(0..100) {
            0..=34 => self.succeed_one(),
            35..=44 => self.fail_one(),
            45..=69 => {
                if let Some(number) = self.pick(|on| on.alive && !on.outbox.is_empty()) {
                    self.deliver(number);
                }
            }
            70..=73 => {
                if let Some(number) = self.pick(|on| on.alive) {
                    self.lose(number);
                }
            }
            74..=77 => {
                if self.next_executor < MOST_EXECUTORS {
                    self.add_executor();
                }
            }
            78..=80 => {
                if let Some(number) = self.pick(|on| on.alive && on.connected) {
                    let on = self.executors.get_mut(&number).expect("known");
                    on.connected = false;
                    on.outbox.clear();
                }
            }
            81..=84 => self.reconnect_one(),
            85 => {
                if let Some(number) = self.pick(|on| on.alive && on.connected) {
                    self.executors.get_mut(&number).expect("known").leaving = true;
                    self.handle(Event::Leaving(executor(number)));
                }
            }
            86..=88 => {
                if !self.old.is_empty() {
                    let position = self.random.random_range(0..self.old.len());
                    let (from, report) = self.old[position].clone();
                    let is_known = self.executors.contains_key(&(from.0.as_u128() - 100));
                    // A report that is on its way is no late one.
                    if !is_known || !self.live.contains_key(&report.task) {
                        self.handle(Event::Reported {
                            executor: from,
                            report: Box::new(report),
                        });
                    }
                }
            }
            89..=92 => {
                self.start_next();
            }
            93..=95 => {
                self.finish_output(true);
            }
            _ => {
                self.fire_timer();
            }
        }
    }

    fn reconnect_one(&mut self) {
        if let Some(number) = self.pick(|on| on.alive && !on.connected) {
            let on = self.executors.get_mut(&number).expect("known");
            on.connected = true;
            let cores = on.cores;
            self.handle(Event::Connected(info(number, cores)));
        }
    }

    fn start_next(&mut self) -> bool {
        let waiting = self
            .queries
            .iter()
            .position(|query| !query.running && query.batches_done < 3);
        if let Some(position) = waiting {
            self.start_batch(position);
        }
        waiting.is_some()
    }

    fn finish_output(&mut self, may_fail: bool) -> bool {
        let Some(position) = self
            .queries
            .iter()
            .position(|query| query.announced.is_some())
        else {
            return false;
        };
        let refetch = may_fail && self.random.random_bool(0.3);
        let world = self.world;
        let query = &mut self.queries[position];
        let output = query.announced.take().expect("announced");
        let (id, batch) = (query.id, BatchId(query.batch));
        let stage = query.plan.outputs[output as usize].stage.0;
        let kept = query.winners.iter().find(|((of, _), _)| *of == stage);
        if refetch
            && let Some((_, (task, on))) = kept
            && (world == World::Unkind || query.fetch_failures < 1)
        {
            query.fetch_failures += 1;
            let (task, on) = (*task, *on);
            self.handle(Event::OutputFetchFailed {
                query: id,
                batch,
                output: OutputIndex(output),
                task,
                executor: on,
                failure: Box::new(Failure::new(FailureKind::Io, "not there")),
            });
            return true;
        }
        query.next_output += 1;
        self.handle(Event::OutputDone {
            query: id,
            batch,
            output: OutputIndex(output),
        });
        true
    }

    fn fire_timer(&mut self) -> bool {
        let Some(at) = self.wake.take() else {
            return false;
        };
        self.now = self.now.max(at);
        self.handle(Event::Timer);
        true
    }

    /// Nothing bad happens any more: everything has to come to its end.
    fn drain(&mut self) {
        for _ in 0..MOST_STEPS {
            if self.queries.iter().all(|query| !query.running) {
                return;
            }
            if let Some(number) = self.pick(|on| !on.alive) {
                self.lose(number);
            } else if self.pick(|on| on.alive && !on.connected).is_some() {
                self.reconnect_one();
            } else if let Some(number) = self.pick(|on| !on.outbox.is_empty()) {
                self.deliver(number);
            } else if self.pick(|on| !on.running.is_empty()).is_some() {
                self.succeed_one();
            } else if self.pick(|on| on.alive && !on.leaving).is_none() {
                self.add_executor();
            } else if !self.finish_output(false) && !self.fire_timer() {
                panic!("stuck: {:?}", self.scheduler.queries);
            }
        }
        panic!("no end: {:?}", self.scheduler.queries);
    }
}

fn simulate(seed: u64, steps: usize, world: World) -> u64 {
    let mut sim = Sim::new(seed, world);
    for _ in 0..steps {
        sim.step();
    }
    sim.drain();
    while world == World::Kind && sim.start_next() {
        sim.drain();
    }
    sim.queries.iter().map(|query| query.batches_done).sum()
}

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 512,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn below_the_limits_every_batch_gets_done(seed in any::<u64>(), steps in 0usize..600) {
        prop_assert!(simulate(seed, steps, World::Kind) >= 3);
    }

    #[test]
    fn past_the_limits_a_batch_ends_all_the_same(seed in any::<u64>(), steps in 0usize..600) {
        simulate(seed, steps, World::Unkind);
    }
}
