//! The scheduler's core with simulated executors: every task succeeds as soon as it is launched, and the time is what the core takes.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use millstream_common::{
    ids::{BatchId, Epoch, ExecutorId, OutputIndex, QueryId, SourceId, StageId, TaskId},
    protocol::{BlockMeta, QueryGrant, TaskCounts, TaskOutput, TaskReport},
    time::{BatchTime, Clock, Tick},
};
use millstream_connectors::source::Split;
use millstream_dataflow::plan::{
    Branch, Exchange, ExchangeRef, OutputPlan, Plan, SourcePlan, StagePlan,
};
use millstream_driver::scheduler::{
    Scheduler,
    message::{Action, BatchRun, Event, ExecutorInfo},
    options::SchedulerOptions,
};
use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::Error;

const QUERY: QueryId = QueryId(Uuid::from_u128(1));
const EPOCH: Epoch = Epoch(1);
/// Partitions of the exchange between the two stages, as `cluster` has them by default.
const REDUCES: u32 = 8;
/// Between two completions, as the core sees it.
const STEP: Duration = Duration::from_micros(3);

/// How much to simulate.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Executors.
    pub executors: u32,
    /// Slots of each.
    pub cores: u32,
    /// Tasks of the first stage of each batch; the second has 8.
    pub maps: u32,
    /// Batches.
    pub batches: u64,
}

/// What the core did.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Completed {
    /// Executors.
    pub executors: u32,
    /// Tasks completed.
    pub tasks: u64,
    /// Seconds that all batches took.
    pub seconds: f64,
    /// Tasks completed a second.
    pub tasks_per_second: f64,
    /// Microseconds a task.
    pub micros_per_task: f64,
}

struct Simulation {
    scheduler: Scheduler,
    now: Tick,
    wake: Option<Tick>,
    running: VecDeque<(ExecutorId, TaskId)>,
    ready: Vec<OutputIndex>,
    done: bool,
}

fn executor(number: u32) -> ExecutorId {
    ExecutorId(Uuid::from_u128(1_000 + u128::from(number)))
}

fn two_stages() -> Plan {
    let stage = |branch, exchanges, output| StagePlan {
        name: "stage".into(),
        branches: vec![branch],
        exchanges,
        output,
        operators: vec!["map-0".into(), "combine-0".into()],
        stateful: vec![],
        empty_to_empty: true,
        speculative: false,
    };
    let exchange = ExchangeRef {
        stage: StageId(0),
        exchange: 0,
    };
    Plan {
        sources: vec![SourcePlan {
            id: "kafka-0".into(),
            kind: "kafka".into(),
            settings: Value::Null,
        }],
        stages: vec![
            stage(
                Branch::Source(SourceId(0)),
                vec![Exchange::Hash(REDUCES)],
                None,
            ),
            stage(
                Branch::Exchanges(vec![exchange]),
                vec![],
                Some(OutputIndex(0)),
            ),
        ],
        outputs: vec![OutputPlan {
            id: "pprint-0".into(),
            kind: "pprint".into(),
            stage: StageId(1),
            settings: Value::Null,
        }],
    }
}

impl Simulation {
    fn new(load: Load) -> Self {
        let mut simulation = Self {
            scheduler: Scheduler::new(SchedulerOptions::default(), 1),
            now: Tick(1_000_000),
            wake: None,
            running: VecDeque::new(),
            ready: vec![],
            done: false,
        };
        simulation.handle(Event::QueryAdded(QueryGrant {
            query: QUERY,
            epoch: EPOCH,
        }));
        for number in 0..load.executors {
            simulation.handle(Event::Connected(ExecutorInfo {
                id: executor(number),
                cores: load.cores,
                host: format!("host-{number}"),
                block_address: format!("host-{number}:7000"),
            }));
            simulation.handle(Event::Truth {
                executor: executor(number),
                running: vec![],
                finished: vec![],
            });
        }
        simulation
    }

    fn handle(&mut self, event: Event) {
        for action in self.scheduler.handle(self.now, event) {
            match action {
                Action::Launch { executor, launch } => {
                    for spec in &launch.tasks {
                        self.running.push_back((executor, launch.task_id(spec)));
                    }
                }
                Action::OutputReady { output, .. } => self.ready.push(output),
                Action::BatchDone { .. } => self.done = true,
                Action::WakeAt(at) => self.wake = Some(at),
                _ => {}
            }
        }
    }

    /// Runs a batch to its end and gives the number of its tasks.
    fn run(&mut self, batch: BatchId, plan: &Arc<Plan>, splits: Vec<Split>) -> Result<u64, Error> {
        self.done = false;
        self.handle(Event::Run(BatchRun {
            query: QUERY,
            epoch: EPOCH,
            batch,
            batch_time: BatchTime(0),
            plan: Arc::clone(plan),
            splits: vec![splits],
            state: Arc::default(),
            watermarks: Default::default(),
            spill_threshold: None,
            rerun: false,
        }));
        let mut tasks = 0;
        while !self.done {
            if let Some(output) = self.ready.pop() {
                self.handle(Event::OutputDone {
                    query: QUERY,
                    batch,
                    output,
                });
            } else if let Some((executor, task)) = self.running.pop_front() {
                tasks += 1;
                self.now = self.now.after(STEP);
                self.handle(Event::Reported {
                    executor,
                    report: Box::new(report(task)),
                });
            } else if let Some(at) = self.wake.take() {
                self.now = self.now.max(at);
                self.handle(Event::Timer);
            } else {
                return Err("the scheduler waits for nothing".into());
            }
        }
        self.handle(Event::BatchReleased {
            query: QUERY,
            batch,
        });
        Ok(tasks)
    }
}

/// That a task succeeded: each of the first stage wrote a block for each of the second.
fn report(task: TaskId) -> TaskReport {
    let block = BlockMeta {
        bytes: 1_000,
        rows: 100,
        checksum: 1,
    };
    let exchanges = match task.stage {
        StageId(0) => vec![vec![block; REDUCES as usize]],
        _ => vec![],
    };
    TaskReport {
        task,
        outcome: Ok(TaskOutput {
            exchanges,
            counts: TaskCounts {
                input_rows: 100,
                ..TaskCounts::default()
            },
            ..TaskOutput::default()
        }),
        run_micros: 1_000,
    }
}

/// Runs batches through the core and measures the whole: events in, actions out, and the simulation around it.
///
/// # Errors
/// When the core comes to a halt.
pub fn run(load: Load, clock: &dyn Clock) -> Result<Completed, Error> {
    let mut simulation = Simulation::new(load);
    let plan = Arc::new(two_stages());
    let splits: Vec<Split> = (0..load.maps)
        .map(|number| Split {
            split: json!(number),
            locality: None,
            rows: None,
        })
        .collect();
    let mut tasks = 0;
    let mut time = Duration::ZERO;
    for batch in 0..load.batches {
        let splits = splits.clone();
        let begun = clock.now();
        tasks += simulation.run(BatchId(batch), &plan, splits)?;
        time += clock.now().since(begun);
    }
    let seconds = time.as_secs_f64().max(1e-9);
    Ok(Completed {
        executors: load.executors,
        tasks,
        seconds,
        tasks_per_second: tasks as f64 / seconds,
        micros_per_task: seconds * 1e6 / tasks.max(1) as f64,
    })
}

/// The same for several numbers of executors, by turns `repeats` times; the median of each.
///
/// # Errors
/// As [`run`].
pub fn compare(
    executors: &[u32],
    load: Load,
    repeats: u32,
    clock: &dyn Clock,
) -> Result<Vec<Completed>, Error> {
    let mut all: BTreeMap<u32, Vec<Completed>> = BTreeMap::new();
    for _ in 0..repeats.max(1) {
        for executors in executors {
            let load = Load {
                executors: *executors,
                ..load
            };
            let completed = run(load, clock)?;
            all.entry(*executors).or_default().push(completed);
        }
    }
    let mut medians = Vec::new();
    for mut completed in all.into_values() {
        completed.sort_by(|a, b| a.micros_per_task.total_cmp(&b.micros_per_task));
        medians.push(completed[completed.len() / 2]);
    }
    Ok(medians)
}

#[cfg(test)]
mod tests {
    use millstream_common::time::SystemClock;

    use super::*;

    #[test]
    fn every_task_of_every_batch_completes_whatever_the_number_of_executors() {
        let load = Load {
            executors: 0,
            cores: 2,
            maps: 50,
            batches: 2,
        };
        let compared = compare(&[1, 10, 100], load, 1, &SystemClock::new()).unwrap();
        let seen: Vec<(u32, u64)> = compared
            .iter()
            .map(|completed| (completed.executors, completed.tasks))
            .collect();
        assert_eq!(seen, [(1, 116), (10, 116), (100, 116)]);
    }
}
