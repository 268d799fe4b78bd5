//! A running batch: its stages, their partitions, the attempts of each, and what follows from the plan alone.

use millstream_common::{
    ids::{ExecutorId, SourceId, TaskId},
    protocol::{BlockMeta, TaskOutput},
    time::Tick,
};
use millstream_connectors::source::Split;
use millstream_dataflow::plan::{Branch, Exchange, ExchangeRef};

use super::{
    executors::{ExecutorIndex, NOWHERE},
    message::{BatchRun, BatchSummary, StageSummary},
    queue::Queue,
};

/// A running batch.
#[derive(Debug)]
pub(super) struct Batch {
    pub run: BatchRun,
    /// Grows with every batch of the scheduler.
    pub sequence: u64,
    pub stages: Vec<Stage>,
    /// Stages that outputs need, by the first output that needs them.
    pub order: Vec<usize>,
    /// The output whose turn it is.
    pub current: usize,
    /// `OutputReady` was said of it.
    pub announced: bool,
    /// How often the current output could not read a kept block.
    pub output_rounds: u32,
    /// Tasks that wait for a slot.
    pub queued: u32,
    pub retries: u64,
    /// When it is to be said that no executor may have the tasks that wait; none while one may.
    pub tell_at: Option<Tick>,
}

/// Where a branch's partitions lie within its stage.
#[derive(Clone, Copy, Debug)]
pub(super) struct BranchSpan {
    pub first: u32,
    pub count: u32,
}

/// Who reads an exchange.
#[derive(Clone, Copy, Debug)]
pub(super) struct Consumer {
    pub stage: usize,
    pub branch: usize,
    pub exchange: usize,
}

/// A stage of a running batch.
#[derive(Debug)]
pub(super) struct Stage {
    pub branches: Vec<BranchSpan>,
    pub exchange_partitions: Vec<u32>,
    /// Stages that it reads.
    pub inputs: Vec<usize>,
    pub consumers: Vec<Consumer>,
    /// The output that it feeds.
    pub output: Option<usize>,
    /// The first output that needs it.
    pub needed_by: Option<usize>,
    pub tasks: Vec<Task>,
    /// Partitions neither done nor skipped.
    pub unfinished: u32,
    /// Partitions that wait for inputs.
    pub idle: u32,
    /// Its inputs were complete once; what to skip is decided.
    pub opened: bool,
    pub queue: Queue,
    /// Executors that get no more of its tasks.
    pub excluded: Vec<ExecutorIndex>,
    /// Failed attempts by executor.
    pub failed_on: Vec<(ExecutorIndex, u32)>,
    /// Grows when a block could not be fetched by an attempt of this round.
    pub round: u32,
    /// Such rounds since the stage was last complete.
    pub failed_rounds: u32,
    /// Executors whose blocks could not be fetched in such a round.
    pub suspects: Vec<ExecutorIndex>,
    pub first_launch: Option<Tick>,
    pub last_success: Tick,
    /// Run times of winning attempts, microseconds; kept for speculation only.
    pub run_times: Vec<u64>,
}

/// One partition of a stage.
#[derive(Debug)]
pub(super) struct Task {
    pub state: State,
    /// Attempts so far.
    pub attempts: u32,
    /// Failed attempts that count.
    pub failures: u32,
    /// Attempts that were fenced at their sink.
    pub superseded: u32,
    /// Reports of attempts that ended without counting.
    pub uncounted: u32,
    /// Attempts that were lost with their executor, since it last succeeded.
    pub losses: u32,
    /// The executor to stay away from, if there is another.
    pub avoid: ExecutorIndex,
    /// The newest successful attempt, also while the task runs again.
    pub winner: Option<Box<Winner>>,
    /// Attempts that run: one, or two when speculated.
    pub running: [Option<Attempt>; 2],
}

/// What a task is up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It waits for its inputs, or isn't needed.
    Idle,
    /// It waits for a slot.
    Queued {
        ticket: u32,
        preferred: ExecutorIndex,
    },
    /// It waits for a time.
    Paused { ticket: u32 },
    /// At least one attempt runs.
    Running,
    /// Its winner counts.
    Done,
    /// It has no input, and none is needed.
    Skipped,
}

/// A running attempt.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt {
    pub number: u32,
    pub executor: ExecutorIndex,
    pub slot: u32,
    pub started: Tick,
    pub round: u32,
}

/// A successful attempt and what it left.
#[derive(Debug)]
pub(super) struct Winner {
    pub attempt: u32,
    /// [`NOWHERE`] once its executor is lost.
    pub executor: ExecutorIndex,
    pub executor_id: ExecutorId,
    /// Its blocks can still be had, as far as is known.
    pub available: bool,
    pub output: TaskOutput,
}

impl Winner {
    /// Whether it wrote any row into blocks.
    pub(super) fn has_blocks(&self) -> bool {
        self.output
            .exchanges
            .iter()
            .flatten()
            .any(|meta| meta.rows > 0)
    }
}

impl Task {
    fn new() -> Self {
        Self {
            state: State::Idle,
            attempts: 0,
            failures: 0,
            superseded: 0,
            uncounted: 0,
            losses: 0,
            avoid: NOWHERE,
            winner: None,
            running: [None, None],
        }
    }

    pub(super) fn is_running(&self) -> bool {
        self.running.iter().any(Option::is_some)
    }

    pub(super) fn attempt(&self, number: u32, executor: ExecutorIndex) -> Option<Attempt> {
        self.running
            .iter()
            .flatten()
            .find(|attempt| attempt.number == number && attempt.executor == executor)
            .copied()
    }

    pub(super) fn forget_attempt(&mut self, number: u32) {
        for place in &mut self.running {
            if place.is_some_and(|attempt| attempt.number == number) {
                *place = None;
            }
        }
    }
}

impl Stage {
    /// All its partitions are done or skipped.
    pub(super) fn is_complete(&self) -> bool {
        self.opened && self.unfinished == 0
    }

    /// The branch of a partition and the partition's place within the branch.
    pub(super) fn branch_of(&self, partition: u32) -> Option<(usize, u32)> {
        self.branches
            .iter()
            .enumerate()
            .find(|(_, span)| partition >= span.first && partition - span.first < span.count)
            .map(|(branch, span)| (branch, partition - span.first))
    }
}

impl Batch {
    /// Lays the batch out.
    ///
    /// # Errors
    /// What is wrong with the plan.
    pub(super) fn build(run: BatchRun, sequence: u64) -> Result<Self, String> {
        let plan = run.plan.clone();
        let mut stages: Vec<Stage> = Vec::with_capacity(plan.stages.len());
        for (number, stage_plan) in plan.stages.iter().enumerate() {
            let mut stage = Stage::empty();
            let mut first = 0u32;
            for (branch_number, branch) in stage_plan.branches.iter().enumerate() {
                let count = match branch {
                    Branch::Source(source) => {
                        let splits = run.splits.get(source.0 as usize).ok_or_else(|| {
                            format!(
                                "stage {number} reads source {source}, which has no splits planned"
                            )
                        })?;
                        u32::try_from(splits.len())
                            .map_err(|_| format!("source {source} has too many splits"))?
                    }
                    Branch::Exchanges(refs) => {
                        let mut count = None;
                        for reference in refs {
                            let producer =
                                stages.get_mut(reference.stage.0 as usize).ok_or_else(|| {
                                    format!(
                                        "stage {number} reads stage {}, which is not before it",
                                        reference.stage
                                    )
                                })?;
                            let exchange = reference.exchange as usize;
                            let partitions =
                                *producer.exchange_partitions.get(exchange).ok_or_else(|| {
                                    format!("stage {number} reads exchange {exchange} of stage {}, which has none such", reference.stage)
                                })?;
                            if count.is_some_and(|count| count != partitions) {
                                return Err(format!(
                                    "stage {number} reads exchanges of unlike partition counts in branch {branch_number}"
                                ));
                            }
                            count = Some(partitions);
                            producer.consumers.push(Consumer {
                                stage: number,
                                branch: branch_number,
                                exchange,
                            });
                            let input = reference.stage.0 as usize;
                            if !stage.inputs.contains(&input) {
                                stage.inputs.push(input);
                            }
                        }
                        count.unwrap_or(0)
                    }
                };
                stage.branches.push(BranchSpan { first, count });
                first = first
                    .checked_add(count)
                    .ok_or_else(|| format!("stage {number} has too many partitions"))?;
            }
            stage.tasks = (0..first).map(|_| Task::new()).collect();
            stage.unfinished = first;
            stage.idle = first;
            stage.exchange_partitions = stage_plan
                .exchanges
                .iter()
                .map(|exchange| match exchange {
                    Exchange::Hash(count) | Exchange::RoundRobin(count) => *count,
                    Exchange::Gather => 1,
                    Exchange::Keep => first,
                })
                .collect();
            stages.push(stage);
        }
        for (index, output) in plan.outputs.iter().enumerate() {
            let stage = stages.get_mut(output.stage.0 as usize).ok_or_else(|| {
                format!(
                    "output {index} is fed by stage {}, which isn't there",
                    output.stage
                )
            })?;
            if stage.output.replace(index).is_some() {
                return Err(format!("two outputs are fed by stage {}", output.stage));
            }
        }
        for number in (0..stages.len()).rev() {
            let by_consumers = stages[number]
                .consumers
                .iter()
                .filter_map(|consumer| stages[consumer.stage].needed_by)
                .min();
            let own = stages[number].output;
            stages[number].needed_by = own.into_iter().chain(by_consumers).min();
        }
        let mut order: Vec<usize> = (0..stages.len())
            .filter(|number| stages[*number].needed_by.is_some())
            .collect();
        order.sort_by_key(|number| (stages[*number].needed_by, *number));
        Ok(Self {
            run,
            sequence,
            stages,
            order,
            current: 0,
            announced: false,
            output_rounds: 0,
            queued: 0,
            retries: 0,
            tell_at: None,
        })
    }

    pub(super) fn task_id(&self, stage: usize, partition: u32, attempt: u32) -> TaskId {
        TaskId {
            query: self.run.query,
            epoch: self.run.epoch,
            batch: self.run.batch,
            // Stages come from a plan whose ids are of this width.
            stage: millstream_common::ids::StageId(u32::try_from(stage).unwrap_or(u32::MAX)),
            partition,
            attempt,
        }
    }

    /// The partition that a task id of this batch names.
    pub(super) fn locate(&self, task: &TaskId) -> Option<usize> {
        let stage = task.stage.0 as usize;
        let same = task.query == self.run.query
            && task.epoch == self.run.epoch
            && task.batch == self.run.batch;
        let there = self.stages.get(stage)?.tasks.len() > task.partition as usize;
        (same && there).then_some(stage)
    }

    /// All stages that it reads are complete; and its output's turn has come, or that of an output that reads its blocks.
    pub(super) fn may_run(&self, stage: usize) -> bool {
        let stage = &self.stages[stage];
        let turn_came =
            stage.output.is_none() || stage.needed_by.is_some_and(|output| output <= self.current);
        turn_came
            && stage
                .inputs
                .iter()
                .all(|input| self.stages[*input].is_complete())
    }

    /// The split that a source stage's partition reads.
    pub(super) fn split(&self, source: SourceId, within: u32) -> Option<&Split> {
        self.run.splits.get(source.0 as usize)?.get(within as usize)
    }

    /// Whether an exchange keeps partitions where they are.
    pub(super) fn keeps(&self, stage: usize, exchange: usize) -> bool {
        self.run
            .plan
            .stages
            .get(stage)
            .and_then(|plan| plan.exchanges.get(exchange))
            .is_some_and(|exchange| matches!(exchange, Exchange::Keep))
    }

    /// What a map partition's newest winner wrote for a partition of an exchange; `None` if it wrote no rows there.
    pub(super) fn block(
        &self,
        stage: usize,
        exchange: usize,
        map: u32,
        partition: u32,
    ) -> Option<(&Winner, BlockMeta)> {
        let winner = self
            .stages
            .get(stage)?
            .tasks
            .get(map as usize)?
            .winner
            .as_deref()?;
        let meta = self.meta(&winner.output, stage, exchange, map, partition)?;
        (meta.rows > 0).then_some((winner, meta))
    }

    /// The entry of an output for a partition of an exchange. Of an exchange that keeps partitions a task may list its own alone.
    pub(super) fn meta(
        &self,
        output: &TaskOutput,
        stage: usize,
        exchange: usize,
        map: u32,
        partition: u32,
    ) -> Option<BlockMeta> {
        let list = output.exchanges.get(exchange)?;
        if !self.keeps(stage, exchange) {
            return list.get(partition as usize).copied();
        }
        if map != partition {
            return None;
        }
        let position = if list.len() == 1 {
            0
        } else {
            partition as usize
        };
        list.get(position).copied()
    }

    /// Calls `found` for each block that a partition of an exchange consists of, in map order.
    pub(super) fn for_each_block<'a>(
        &'a self,
        reference: &ExchangeRef,
        partition: u32,
        mut found: impl FnMut(u32, &'a Winner, BlockMeta) -> bool,
    ) {
        let stage = reference.stage.0 as usize;
        let exchange = reference.exchange as usize;
        let maps = if self.keeps(stage, exchange) {
            partition..partition.saturating_add(1)
        } else {
            let count = self.stages.get(stage).map_or(0, |stage| stage.tasks.len());
            0..u32::try_from(count).unwrap_or(u32::MAX)
        };
        for map in maps {
            if let Some((winner, meta)) = self.block(stage, exchange, map, partition)
                && !found(map, winner, meta)
            {
                return;
            }
        }
    }

    /// Whether a partition has anything to read.
    pub(super) fn has_input(&self, stage: usize, partition: u32) -> bool {
        let Some((branch, within)) = self.stages[stage].branch_of(partition) else {
            return false;
        };
        match self.branch(stage, branch) {
            Some(Branch::Source(_)) => true,
            Some(Branch::Exchanges(refs)) => refs.iter().any(|reference| {
                let mut any = false;
                self.for_each_block(reference, within, |_, _, _| {
                    any = true;
                    false
                });
                any
            }),
            None => false,
        }
    }

    pub(super) fn branch(&self, stage: usize, branch: usize) -> Option<&Branch> {
        self.run.plan.stages.get(stage)?.branches.get(branch)
    }

    /// Whether a stage's blocks are still to be read: by a stage with partitions to run, or by its output.
    pub(super) fn blocks_needed(&self, stage: usize) -> bool {
        let stage = &self.stages[stage];
        let by_output = !stage.exchange_partitions.is_empty()
            && stage.output.is_some_and(|output| {
                output > self.current || (output == self.current && !self.announced)
            });
        by_output
            || stage.consumers.iter().any(|consumer| {
                let consumer = &self.stages[consumer.stage];
                consumer.needed_by.is_some() && consumer.unfinished > 0
            })
    }

    /// An executor no longer gives its blocks away: none of them count, and what made them runs elsewhere if it can.
    pub(super) fn lose_blocks_of(&mut self, executor: ExecutorIndex) {
        for task in self.stages.iter_mut().flat_map(|stage| &mut stage.tasks) {
            if let Some(winner) = &mut task.winner
                && winner.executor == executor
                && winner.has_blocks()
            {
                winner.available = false;
                task.avoid = executor;
            }
        }
    }

    /// The source that a task reads.
    fn source_of(&self, stage: usize, partition: u32) -> Option<usize> {
        let (branch, _) = self.stages.get(stage)?.branch_of(partition)?;
        match self.branch(stage, branch)? {
            Branch::Source(source) => usize::try_from(source.0).ok(),
            Branch::Exchanges(_) => None,
        }
    }

    /// What the batch came to, from winning attempts alone.
    pub(super) fn summary(&self) -> BatchSummary {
        let mut summary = BatchSummary {
            retries: self.retries,
            source_rows: vec![0; self.run.plan.sources.len()],
            ..BatchSummary::default()
        };
        for (index, stage) in self.stages.iter().enumerate() {
            let mut of_stage = StageSummary {
                micros: stage
                    .first_launch
                    .map_or(0, |first| stage.last_success.0.saturating_sub(first.0)),
                ..StageSummary::default()
            };
            for (partition, task) in (0u32..).zip(&stage.tasks) {
                let Some(winner) = &task.winner else {
                    continue;
                };
                let counts = &winner.output.counts;
                of_stage.tasks += 1;
                of_stage.counts.add(counts);
                if let Some(rows) = self
                    .source_of(index, partition)
                    .and_then(|source| summary.source_rows.get_mut(source))
                {
                    *rows += counts.input_rows;
                }
                if !winner.output.state.is_empty() {
                    let memory = (partition, counts.state_memory_bytes);
                    of_stage.state_memory.push(memory);
                }
                summary.state.extend(winner.output.state.iter().cloned());
                for (operator, seen) in &winner.output.event_times {
                    let known = summary.event_times.get(operator);
                    let both = known.map_or(*seen, |known| known.and(seen));
                    summary.event_times.insert(operator.clone(), both);
                }
            }
            summary.counts.add(&of_stage.counts);
            summary.tasks += u64::from(of_stage.tasks);
            summary.stages.push(of_stage);
        }
        summary
    }
}

impl Stage {
    fn empty() -> Self {
        Self {
            branches: Vec::new(),
            exchange_partitions: Vec::new(),
            inputs: Vec::new(),
            consumers: Vec::new(),
            output: None,
            needed_by: None,
            tasks: Vec::new(),
            unfinished: 0,
            idle: 0,
            opened: false,
            queue: Queue::default(),
            excluded: Vec::new(),
            failed_on: Vec::new(),
            round: 0,
            failed_rounds: 0,
            suspects: Vec::new(),
            first_launch: None,
            last_success: Tick::default(),
            run_times: Vec::new(),
        }
    }
}
