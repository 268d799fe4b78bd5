//! Tests of the scheduler: a rule each, and a simulated cluster under random events.

mod blocks;
mod failures;
mod flow;
mod membership;
mod placing;
mod simulation;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use millstream_common::{
    failure::{Failure, FailureKind},
    ids::{BatchId, Epoch, ExecutorId, OutputIndex, QueryId, SourceId, StageId, TaskId},
    protocol::{BlockMeta, QueryGrant, TaskCounts, TaskInput, TaskOutput, TaskReport, TaskSpec},
    time::{BatchTime, Tick},
};
use millstream_connectors::source::Split;
use millstream_dataflow::plan::{
    Branch, Exchange, ExchangeRef, OutputPlan, Plan, SourcePlan, StagePlan,
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    Scheduler, invariants,
    message::{Action, BatchRun, BatchSummary, Event, ExecutorInfo, Note},
    options::SchedulerOptions,
};
use crate::output::PartitionResult;

pub(super) const QUERY: QueryId = QueryId(Uuid::from_u128(1));
pub(super) const OTHER_QUERY: QueryId = QueryId(Uuid::from_u128(2));
pub(super) const EPOCH: Epoch = Epoch(3);

pub(super) fn executor(number: u128) -> ExecutorId {
    ExecutorId(Uuid::from_u128(100 + number))
}

pub(super) fn info(number: u128, cores: u32) -> ExecutorInfo {
    ExecutorInfo {
        id: executor(number),
        cores,
        host: format!("host-{number}"),
        block_address: format!("host-{number}:7000"),
    }
}

pub(super) fn stage(branches: Vec<Branch>, exchanges: Vec<Exchange>) -> StagePlan {
    StagePlan {
        name: "stage".into(),
        branches,
        exchanges,
        output: None,
        operators: vec!["map-0".into(), "combine-0".into()],
        stateful: vec![],
        empty_to_empty: true,
        speculative: false,
    }
}

pub(super) fn source() -> Branch {
    Branch::Source(SourceId(0))
}

pub(super) fn reads(stage: u32, exchange: u32) -> Branch {
    Branch::Exchanges(vec![reference(stage, exchange)])
}

pub(super) fn reference(stage: u32, exchange: u32) -> ExchangeRef {
    ExchangeRef {
        stage: StageId(stage),
        exchange,
    }
}

/// A plan whose outputs are fed by these stages, in this order.
pub(super) fn plan(mut stages: Vec<StagePlan>, outputs: &[u32]) -> Plan {
    let mut output_plans = Vec::new();
    for (index, stage) in (0u32..).zip(outputs) {
        stages[*stage as usize].output = Some(OutputIndex(index));
        output_plans.push(OutputPlan {
            id: format!("pprint-{index}"),
            kind: "pprint".into(),
            stage: StageId(*stage),
            settings: Value::Null,
        });
    }
    Plan {
        sources: vec![SourcePlan {
            id: "kafka-0".into(),
            kind: "kafka".into(),
            settings: Value::Null,
        }],
        stages,
        outputs: output_plans,
    }
}

/// A source stage hashed to `reduces` partitions, and a stage that reads them and ends in the output.
pub(super) fn map_reduce(reduces: u32) -> Plan {
    plan(
        vec![
            stage(vec![source()], vec![Exchange::Hash(reduces)]),
            stage(vec![reads(0, 0)], vec![]),
        ],
        &[1],
    )
}

/// A source stage that ends in the output.
pub(super) fn one_stage() -> Plan {
    plan(vec![stage(vec![source()], vec![])], &[0])
}

pub(super) fn splits(count: usize) -> Vec<Split> {
    (0..count)
        .map(|number| Split {
            split: json!(number),
            locality: None,
            rows: None,
        })
        .collect()
}

pub(super) fn keyed_splits(count: usize) -> Vec<Split> {
    (0..count)
        .map(|number| Split {
            split: json!(number),
            locality: Some(format!("topic/{number}")),
            rows: None,
        })
        .collect()
}

/// One launched attempt.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Launched {
    pub id: TaskId,
    pub executor: ExecutorId,
    pub spec: TaskSpec,
}

/// A scheduler under test, with what it said so far.
pub(super) struct Bench {
    pub scheduler: Scheduler,
    pub now: Tick,
    pub running: BTreeMap<TaskId, Launched>,
    pub notes: Vec<Note>,
    pub ready: Vec<(OutputIndex, Vec<PartitionResult>)>,
    pub done: Vec<(QueryId, BatchId, BatchSummary)>,
    pub failed: Vec<(BatchId, Failure)>,
    pub cancelled: Vec<(ExecutorId, TaskId)>,
    pub wake: Option<Tick>,
    pub plan: Arc<Plan>,
}

impl Bench {
    pub(super) fn new(executors: &[u32]) -> Self {
        Self::with_options(executors, SchedulerOptions::default())
    }

    pub(super) fn with_options(executors: &[u32], options: SchedulerOptions) -> Self {
        let mut bench = Self {
            scheduler: Scheduler::new(options, 7),
            now: Tick(1_000_000),
            running: BTreeMap::new(),
            notes: vec![],
            ready: vec![],
            done: vec![],
            failed: vec![],
            cancelled: vec![],
            wake: None,
            plan: Arc::new(Plan::default()),
        };
        for query in [QUERY, OTHER_QUERY] {
            bench.handle(Event::QueryAdded(QueryGrant {
                query,
                epoch: EPOCH,
            }));
        }
        for (number, cores) in (0u128..).zip(executors) {
            bench.connect(number, *cores);
        }
        bench
    }

    pub(super) fn handle(&mut self, event: Event) -> Vec<Action> {
        let actions = self.scheduler.handle(self.now, event);
        invariants::check(&self.scheduler).expect("invariants hold");
        for action in &actions {
            match action.clone() {
                Action::Launch { executor, launch } => {
                    for spec in &launch.tasks {
                        let id = launch.task_id(spec);
                        let spec = spec.clone();
                        let launched = Launched { id, executor, spec };
                        assert!(self.running.insert(id, launched).is_none(), "{id} twice");
                    }
                }
                Action::Cancel { executor, tasks } => {
                    self.cancelled
                        .extend(tasks.iter().map(|task| (executor, *task)));
                }
                Action::OutputReady {
                    output, results, ..
                } => self.ready.push((output, results)),
                Action::BatchDone {
                    query,
                    batch,
                    summary,
                } => self.done.push((query, batch, summary)),
                Action::BatchFailed { batch, failure, .. } => self.failed.push((batch, failure)),
                Action::WakeAt(at) => self.wake = Some(at),
                Action::Noted(note) => self.notes.push(note),
                Action::Reconcile { .. }
                | Action::DropBatches { .. }
                | Action::Release { .. }
                | Action::NoExecutor { .. } => {}
            }
        }
        actions
    }

    /// Connects an executor and answers its `Reconcile`.
    pub(super) fn connect(&mut self, number: u128, cores: u32) -> Vec<Action> {
        let actions = self.handle(Event::Connected(info(number, cores)));
        self.handle(Event::Truth {
            executor: executor(number),
            running: self.running_on(number),
            finished: vec![],
        });
        actions
    }

    pub(super) fn run(&mut self, batch: u64, plan: &Plan, splits: Vec<Split>) -> Vec<Action> {
        self.run_of(QUERY, batch, plan, splits)
    }

    pub(super) fn run_of(
        &mut self,
        query: QueryId,
        batch: u64,
        plan: &Plan,
        splits: Vec<Split>,
    ) -> Vec<Action> {
        self.plan = Arc::new(plan.clone());
        self.handle(Event::Run(BatchRun {
            query,
            epoch: EPOCH,
            batch: BatchId(batch),
            batch_time: BatchTime(1_000),
            plan: self.plan.clone(),
            splits: vec![splits],
            state: Default::default(),
            watermarks: Default::default(),
            spill_threshold: None,
            rerun: false,
        }))
    }

    /// The running attempts of a stage, by partition.
    pub(super) fn of_stage(&self, stage: u32) -> Vec<Launched> {
        self.running
            .values()
            .filter(|launched| launched.id.stage == StageId(stage))
            .cloned()
            .collect()
    }

    pub(super) fn running_on(&self, number: u128) -> Vec<TaskId> {
        self.running
            .values()
            .filter(|launched| launched.executor == executor(number))
            .map(|launched| launched.id)
            .collect()
    }

    /// The only running attempt of a partition.
    pub(super) fn of(&self, stage: u32, partition: u32) -> Launched {
        let found: Vec<Launched> = self
            .of_stage(stage)
            .into_iter()
            .filter(|launched| launched.id.partition == partition)
            .collect();
        assert_eq!(found.len(), 1, "attempts of {stage}/{partition}: {found:?}");
        found[0].clone()
    }

    /// An output in which each partition of each exchange has one row, of which every writer makes the same.
    pub(super) fn output(&self, id: &TaskId) -> TaskOutput {
        self.output_of(id, |_, _| 1)
    }

    pub(super) fn output_of(&self, id: &TaskId, rows: impl Fn(usize, u32) -> u64) -> TaskOutput {
        let exchanges = &self.plan.stages[id.stage.0 as usize].exchanges;
        let lists = exchanges.iter().enumerate().map(|(exchange, kind)| {
            let partitions = match kind {
                Exchange::Hash(count) | Exchange::RoundRobin(count) => *count,
                Exchange::Gather | Exchange::Keep => 1,
            };
            (0..partitions)
                .map(|partition| BlockMeta {
                    bytes: 8,
                    rows: rows(exchange, partition),
                    checksum: 77,
                })
                .collect()
        });
        TaskOutput {
            exchanges: lists.collect(),
            result: Some(format!("{}", id.partition).into_bytes().into()),
            counts: TaskCounts {
                input_rows: 10,
                ..TaskCounts::default()
            },
            ..TaskOutput::default()
        }
    }

    pub(super) fn report(
        &mut self,
        launched: &Launched,
        outcome: Result<TaskOutput, Failure>,
    ) -> Vec<Action> {
        self.running.remove(&launched.id);
        self.handle(Event::Reported {
            executor: launched.executor,
            report: Box::new(TaskReport {
                task: launched.id,
                outcome,
                run_micros: 1_000,
            }),
        })
    }

    pub(super) fn succeed(&mut self, launched: &Launched) -> Vec<Action> {
        let output = self.output(&launched.id);
        self.report(launched, Ok(output))
    }

    /// Lets every running attempt of a stage succeed, in partition order, and those that follow.
    pub(super) fn succeed_stage(&mut self, stage: u32) {
        while let Some(launched) = self.of_stage(stage).first().cloned() {
            self.succeed(&launched);
        }
    }

    pub(super) fn fail(&mut self, launched: &Launched, kind: FailureKind) -> Vec<Action> {
        self.report(launched, Err(Failure::new(kind, "it broke")))
    }

    pub(super) fn fetch_failed(
        &mut self,
        reader: &Launched,
        of: &TaskId,
        from: ExecutorId,
    ) -> Vec<Action> {
        let block = millstream_common::ids::BlockId {
            task: *of,
            exchange: 0,
            partition: 0,
        };
        self.fail(
            reader,
            FailureKind::FetchFailed {
                block,
                executor: from,
            },
        )
    }

    pub(super) fn lose(&mut self, number: u128) -> Vec<Action> {
        self.running
            .retain(|_, launched| launched.executor != executor(number));
        self.handle(Event::Lost {
            executor: executor(number),
            reason: "process ended".into(),
        })
    }

    pub(super) fn output_done(&mut self, batch: u64, output: u32) -> Vec<Action> {
        self.handle(Event::OutputDone {
            query: QUERY,
            batch: BatchId(batch),
            output: OutputIndex(output),
        })
    }

    /// Moves the time and fires the timer.
    pub(super) fn wait(&mut self, by: Duration) -> Vec<Action> {
        self.now = self.now.after(by);
        self.handle(Event::Timer)
    }

    /// Runs one batch of a plan of one output to its end.
    pub(super) fn run_through(&mut self, batch: u64, plan: &Plan, splits: Vec<Split>) {
        self.run(batch, plan, splits);
        for stage in 0..u32::try_from(plan.stages.len()).expect("few stages") {
            self.succeed_stage(stage);
        }
        self.output_done(batch, 0);
        assert_eq!(self.done.last().map(|done| done.1), Some(BatchId(batch)));
    }
}

/// Which attempts a launched task reads, list by list.
pub(super) fn inputs(launched: &Launched) -> Vec<Vec<(u32, u32)>> {
    match &launched.spec.input {
        TaskInput::Split { .. } => vec![],
        TaskInput::Blocks(lists) => lists
            .iter()
            .map(|list| {
                list.iter()
                    .map(|location| (location.task.partition, location.task.attempt))
                    .collect()
            })
            .collect(),
    }
}
