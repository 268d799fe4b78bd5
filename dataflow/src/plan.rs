//! A query's graph as data: what the driver schedules and what both sides fingerprint. It holds no code.

use millstream_common::ids::{OutputIndex, SourceId, StageId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_128;

/// A query's graph. Stages are in topological order: a stage reads only exchanges of earlier ones.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Sources, by [`SourceId`].
    pub sources: Vec<SourcePlan>,
    /// Stages, by [`StageId`].
    pub stages: Vec<StagePlan>,
    /// Outputs in the order of definition, by [`OutputIndex`].
    pub outputs: Vec<OutputPlan>,
}

/// A source as the plan knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourcePlan {
    /// Stable id: the user's name for it, else kind and ordinal among its kind (`kafka-0`).
    pub id: String,
    /// Kind, such as `kafka`, `text-files`, `socket`.
    pub kind: String,
    /// What of its settings a checkpoint depends on (topics, directory); not brokers, credentials or rate limits.
    pub settings: Value,
}

/// A stage: what one kind of task does, and where its rows go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StagePlan {
    /// For people: the operators in order, such as `kafka-0 → flat_map → map → combine`.
    pub name: String,
    /// Where tasks come from. A stage's partitions are those of its branches, one branch after the other (as in Spark's union).
    pub branches: Vec<Branch>,
    /// Exchanges that the stage's rows go into; empty for a stage that ends in an output.
    pub exchanges: Vec<Exchange>,
    /// The output that the stage feeds.
    pub output: Option<OutputIndex>,
    /// Stable ids of the operators inside, in order.
    pub operators: Vec<String>,
    /// Those that keep state: stable id, kind, and what of them a checkpoint depends on (keys, functions, the state's schema).
    pub stateful: Vec<NamedSettings>,
    /// A task without input rows would write none and have no effect: such tasks aren't run.
    pub empty_to_empty: bool,
    /// A task may be run twice at once; never where a sink is written.
    pub speculative: bool,
}

/// One origin of a stage's tasks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Branch {
    /// One task a split of the source.
    Source(SourceId),
    /// One task a partition; it reads that partition of each exchange, in this order. All have as many partitions.
    Exchanges(Vec<ExchangeRef>),
}

/// One exchange of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ExchangeRef {
    /// The stage that writes it.
    pub stage: StageId,
    /// Which of its exchanges.
    pub exchange: u32,
}

/// How rows travel to the next stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exchange {
    /// By the routing slot of the key's canonical bytes, to this many partitions.
    Hash(u32),
    /// Row `i` of a task to partition `(task's partition + i) mod n`.
    RoundRobin(u32),
    /// All to one partition.
    Gather,
    /// Partition to partition: rows stay as blocks where they were made; as many partitions as the stage has tasks.
    Keep,
}

/// An output as the plan knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OutputPlan {
    /// Stable id: the user's name for it, else kind and ordinal among its kind (`pprint-0`).
    pub id: String,
    /// Kind, such as `pprint`, `text-files`, `kafka`, `for-each-batch`.
    pub kind: String,
    /// The stage whose tasks feed it.
    pub stage: StageId,
    /// What of its settings a checkpoint depends on.
    pub settings: Value,
}

impl Plan {
    /// A stage by id.
    pub fn stage(&self, id: StageId) -> Option<&StagePlan> {
        self.stages.get(usize::try_from(id.0).ok()?)
    }

    /// Every stage with its id.
    pub fn stage_ids(&self) -> impl Iterator<Item = (StageId, &StagePlan)> {
        (0u32..).map(StageId).zip(&self.stages)
    }

    /// How many tasks feed an output in a batch in which the sources give so many splits each; 0 for an output that isn't there.
    pub fn output_partitions(&self, output: OutputIndex, splits: &[usize]) -> u32 {
        let known = usize::try_from(output.0)
            .ok()
            .and_then(|index| self.outputs.get(index));
        known.map_or(0, |output| self.partitions(output.stage, splits))
    }

    fn partitions(&self, stage: StageId, splits: &[usize]) -> u32 {
        let Some(stage) = self.stage(stage) else {
            return 0;
        };
        let of_branch = |branch: &Branch| match branch {
            Branch::Source(source) => {
                let splits = usize::try_from(source.0)
                    .ok()
                    .and_then(|index| splits.get(index));
                splits.map_or(0, |splits| u32::try_from(*splits).unwrap_or(u32::MAX))
            }
            // All exchanges of a branch have as many partitions.
            Branch::Exchanges(exchanges) => exchanges
                .first()
                .map_or(0, |exchange| self.exchange_partitions(*exchange, splits)),
        };
        stage
            .branches
            .iter()
            .map(of_branch)
            .fold(0, u32::saturating_add)
    }

    fn exchange_partitions(&self, exchange: ExchangeRef, splits: &[usize]) -> u32 {
        let index = usize::try_from(exchange.exchange).ok();
        let kind = self
            .stage(exchange.stage)
            .zip(index)
            .and_then(|(stage, index)| stage.exchanges.get(index));
        match kind {
            None => 0,
            Some(Exchange::Hash(count) | Exchange::RoundRobin(count)) => *count,
            Some(Exchange::Gather) => 1,
            // A stage's exchanges lead to later stages only.
            Some(Exchange::Keep) => self.partitions(exchange.stage, splits),
        }
    }

    /// What driver and executors must agree on: the whole graph and the build that made it.
    pub fn session_fingerprint(&self, build_id: &str) -> String {
        let graph = hash_json(self);
        format!("{build_id}/{graph:032x}")
    }

    /// What a checkpoint can go on with: sources, stateful operators, outputs and partition counts under their stable ids. No build, no
    /// stateless operators, no brokers or credentials. Kept in the checkpoint in full, so that a difference can be told.
    pub fn checkpoint_fingerprint(
        &self,
        parallelism: u32,
        batch_interval_millis: u64,
    ) -> CheckpointFingerprint {
        let named = |id: &str, kind: &str, settings: &Value| NamedSettings {
            id: id.to_owned(),
            kind: kind.to_owned(),
            settings: settings.clone(),
        };
        CheckpointFingerprint {
            sources: self
                .sources
                .iter()
                .map(|source| named(&source.id, &source.kind, &source.settings))
                .collect(),
            stateful: self
                .stages
                .iter()
                .flat_map(|stage| stage.stateful.iter().cloned())
                .collect(),
            outputs: self
                .outputs
                .iter()
                .map(|output| named(&output.id, &output.kind, &output.settings))
                .collect(),
            parallelism,
            batch_interval_millis,
        }
    }
}

fn hash_json<T: Serialize>(value: &T) -> u128 {
    // Plans are plain data: their JSON cannot fail, and an empty text would only make fingerprints differ.
    let text = serde_json::to_vec(value).unwrap_or_default();
    xxh3_128(&text)
}

/// See [`Plan::checkpoint_fingerprint`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckpointFingerprint {
    /// Sources.
    pub sources: Vec<NamedSettings>,
    /// Stateful operators.
    pub stateful: Vec<NamedSettings>,
    /// Outputs.
    pub outputs: Vec<NamedSettings>,
    /// Partition count of exchanges.
    pub parallelism: u32,
    /// Batch interval, milliseconds.
    pub batch_interval_millis: u64,
}

/// A source, stateful operator or output in a checkpoint's fingerprint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NamedSettings {
    /// Stable id.
    pub id: String,
    /// Kind.
    pub kind: String,
    /// Settings that the checkpoint depends on.
    pub settings: Value,
}

impl CheckpointFingerprint {
    /// What differs from `now`, a line each in the form `what: was X, is Y`; empty when a checkpoint with `self` can go on as `now`.
    pub fn differences(&self, now: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut compare = |what: &str, was: String, is: String| {
            if was != is {
                lines.push(format!("{what}: was {was}, is {is}"));
            }
        };
        compare(
            "batch interval",
            format!("{} ms", self.batch_interval_millis),
            format!("{} ms", now.batch_interval_millis),
        );
        compare_named("source", &self.sources, &now.sources, &mut compare);
        compare_named(
            "stateful operator",
            &self.stateful,
            &now.stateful,
            &mut compare,
        );
        compare_named("output", &self.outputs, &now.outputs, &mut compare);
        lines
    }
}

fn compare_named(
    what: &str,
    was: &[NamedSettings],
    is: &[NamedSettings],
    compare: &mut impl FnMut(&str, String, String),
) {
    let describe = |entry: Option<&NamedSettings>| match entry {
        Some(entry) => format!("{} {}", entry.kind, entry.settings),
        None => "absent".to_owned(),
    };
    let mut ids: Vec<&str> = was
        .iter()
        .chain(is)
        .map(|entry| entry.id.as_str())
        .collect();
    ids.sort_unstable();
    ids.dedup();
    for id in ids {
        let before = was.iter().find(|entry| entry.id == id);
        let after = is.iter().find(|entry| entry.id == id);
        compare(&format!("{what} {id}"), describe(before), describe(after));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fingerprint(topic: &str, interval: u64) -> CheckpointFingerprint {
        let plan = Plan {
            sources: vec![SourcePlan {
                id: "kafka-0".into(),
                kind: "kafka".into(),
                settings: json!({"topics": [topic]}),
            }],
            ..Plan::default()
        };
        plan.checkpoint_fingerprint(4, interval)
    }

    #[test]
    fn differences_name_what_changed_with_both_values() {
        let differences = fingerprint("a", 1000).differences(&fingerprint("b", 2000));
        assert_eq!(
            differences,
            [
                "batch interval: was 1000 ms, is 2000 ms",
                r#"source kafka-0: was kafka {"topics":["a"]}, is kafka {"topics":["b"]}"#
            ]
        );
        assert!(
            fingerprint("a", 1)
                .differences(&fingerprint("a", 1))
                .is_empty()
        );
    }

    #[test]
    fn the_session_fingerprint_depends_on_build_and_graph() {
        let plan = Plan::default();
        let mut other = Plan::default();
        other.stages.push(StagePlan {
            name: "x".into(),
            branches: vec![],
            exchanges: vec![],
            output: None,
            operators: vec![],
            stateful: vec![],
            empty_to_empty: true,
            speculative: true,
        });
        assert_ne!(plan.session_fingerprint("a"), plan.session_fingerprint("b"));
        assert_ne!(
            plan.session_fingerprint("a"),
            other.session_fingerprint("a")
        );
    }

    #[test]
    fn an_output_has_a_partition_per_task_that_feeds_it() {
        let stage = |branches, exchanges| StagePlan {
            name: String::new(),
            branches,
            exchanges,
            output: None,
            operators: Vec::new(),
            stateful: Vec::new(),
            empty_to_empty: false,
            speculative: false,
        };
        let from = |stage, exchange| {
            Branch::Exchanges(vec![ExchangeRef {
                stage: StageId(stage),
                exchange,
            }])
        };
        let source = |index| Branch::Source(SourceId(index));
        let plan = Plan {
            stages: vec![
                stage(
                    vec![source(0), source(1)],
                    vec![Exchange::Hash(7), Exchange::Keep],
                ),
                stage(vec![from(0, 0)], vec![Exchange::Gather]),
                stage(vec![from(0, 1), from(1, 0)], vec![]),
            ],
            ..Plan::default()
        };
        let fed_by = |stage| {
            let mut plan = plan.clone();
            plan.outputs = vec![OutputPlan {
                id: "out-0".into(),
                kind: "out".into(),
                stage: StageId(stage),
                settings: json!({}),
            }];
            plan.output_partitions(OutputIndex(0), &[3, 2])
        };
        assert_eq!([fed_by(0), fed_by(1), fed_by(2)], [5, 7, 6]);
        assert_eq!(plan.output_partitions(OutputIndex(0), &[3, 2]), 0);
    }
}
