//! Random plans, and what is expected of a query that runs one.

use std::{collections::BTreeMap, sync::Arc};

use millstream_common::{
    ids::{ExecutorId, QueryId, TaskId},
    protocol::{BlockMeta, TaskOutput},
};
use millstream_dataflow::plan::{Branch, Exchange, Plan};
use rand::{Rng, rngs::SmallRng};

use super::super::{plan, reference, source, stage};

pub(super) fn random_plan(random: &mut SmallRng) -> Plan {
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

/// A query, and how far its batch is.
pub(super) struct SimQuery {
    pub(super) id: QueryId,
    pub(super) plan: Arc<Plan>,
    /// What a task writes depends on the attempt, too.
    pub(super) unsteady: bool,
    pub(super) splits: usize,
    pub(super) batch: u64,
    pub(super) running: bool,
    pub(super) next_output: u32,
    /// Announced and not yet done.
    pub(super) announced: Option<u32>,
    pub(super) winners: BTreeMap<(u32, u32), (TaskId, ExecutorId)>,
    pub(super) failures: BTreeMap<(u32, u32), u32>,
    pub(super) fetch_failures: u32,
    pub(super) never: bool,
    pub(super) batches_done: u64,
}

impl SimQuery {
    pub(super) fn partitions(&self, stage: u32) -> u32 {
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

    /// How many rows a task writes depends on the task alone.
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
    pub(super) fn expected_inputs(&self, stage: u32, partition: u32) -> Option<Vec<Vec<u32>>> {
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
    pub(super) fn runs(&self, stage: u32, partition: u32) -> bool {
        if !self.plan.stages[stage as usize].empty_to_empty {
            return true;
        }
        match self.expected_inputs(stage, partition) {
            None => true,
            Some(lists) => lists.iter().any(|list| !list.is_empty()),
        }
    }

    pub(super) fn output(&self, task: &TaskId) -> TaskOutput {
        let exchanges = self.plan.stages[task.stage.0 as usize].exchanges.len();
        let differs = self.unsteady && (task.attempt + task.partition) % 3 == 2;
        let lists = (0..u32::try_from(exchanges).expect("few")).map(|exchange| {
            (0..self.exchange_partitions(task.stage.0, exchange))
                .map(|partition| {
                    let rows = self.rows(task.stage.0, task.partition, exchange, partition);
                    BlockMeta {
                        bytes: rows * 10,
                        rows,
                        checksum: rows + 1 + u64::from(differs && rows > 0) * 1_000,
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
