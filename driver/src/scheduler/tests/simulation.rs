//! A cluster in which anything may happen in any order: random plans, completions, failures, losses, lost messages, late messages.

mod model;
mod steps;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use millstream_common::{
    failure::{Failure, FailureKind},
    ids::{BatchId, ExecutorId, OutputIndex, QueryId, TaskId},
    protocol::{QueryGrant, TaskInput, TaskOutput, TaskReport},
    time::{BatchTime, Tick},
};
use millstream_dataflow::plan::Branch;
use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use uuid::Uuid;

use self::model::{SimQuery, random_plan};
use super::{EPOCH, executor, info, splits};
use crate::scheduler::{
    Scheduler, invariants,
    message::{Action, BatchRun, Event},
    options::{Nondeterminism, SchedulerOptions, Speculation},
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
    /// What the attempts that are waited for were given to read.
    inputs: BTreeMap<TaskId, TaskInput>,
    old: Vec<(ExecutorId, TaskReport)>,
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
            nondeterminism: if world == World::Unkind && random.random_bool(0.5) {
                Nondeterminism::Fail
            } else {
                Nondeterminism::Warn
            },
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
            inputs: BTreeMap::new(),
            old: vec![],
        };
        for number in 0..sim.random.random_range(1..=2u128) {
            let id = QueryId(Uuid::from_u128(1 + number));
            let plan = Arc::new(random_plan(&mut sim.random));
            let unsteady = sim.random.random_bool(0.5);
            sim.queries.push(SimQuery {
                id,
                plan,
                unsteady,
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
            if let Ok(output) = &report.outcome {
                self.forget_misled(&id, output);
            }
        }
    }

    /// Attempts that were given other rows of a task than those that count now are waited for no longer.
    fn forget_misled(&mut self, writer: &TaskId, output: &TaskOutput) {
        let inputs = &self.inputs;
        let is_misled = |reader: &TaskId| {
            let same_batch = reader.query == writer.query && reader.batch == writer.batch;
            let Some(TaskInput::Blocks(lists)) = inputs.get(reader).filter(|_| same_batch) else {
                return false;
            };
            lists.iter().flatten().any(|location| {
                let of_writer = location.task.stage == writer.stage
                    && location.task.partition == writer.partition;
                let list = &output.exchanges[location.exchange as usize];
                of_writer && list[location.partition as usize] != location.meta
            })
        };
        self.live.retain(|reader, _| !is_misled(reader));
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Launch { executor, launch } => {
                let number = executor.0.as_u128() - 100;
                for spec in &launch.tasks {
                    let id = launch.task_id(spec);
                    self.check_launch(&id, &spec.input);
                    assert!(
                        self.live.insert(id, executor).is_none(),
                        "{id} launched twice"
                    );
                    self.inputs.insert(id, spec.input.clone());
                    let on = self.executors.get_mut(&number).expect("a known executor");
                    if on.alive && on.connected {
                        on.running.insert(id, spec.input.clone());
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
                    FailureKind::Nondeterministic => query.unsteady,
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
            state: Default::default(),
            watermarks: Default::default(),
            spill_threshold: None,
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
