//! The graph under construction: nodes whose row types are erased, so that it can be cut into stages. Every node brings the functions that put its
//! typed pipeline together.

use std::{any::Any, sync::Arc};

use millstream_common::{config::Config, failure::Failure, routing::PartitionCount};
use millstream_connectors::source::SourceDriver;
use millstream_dataflow::{
    combine::Data,
    exchange,
    plan::Exchange,
    program::StageProgram,
    read::{self, Texts},
    rows::Opener,
    stage::{Exit, stage_program},
    task::OperatorIndex,
};
use millstream_driver::output::OutputDriver;
use serde_json::Value;

use crate::{compile::CompileOptions, error::Error, recorded::Recorded};

/// A node's position in the graph: also its operator index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct NodeId(pub usize);

impl NodeId {
    pub(crate) fn operator(self) -> OperatorIndex {
        OperatorIndex(u32::try_from(self.0).unwrap_or(u32::MAX))
    }
}

/// An [`Opener`] of some row type.
pub(crate) type Erased = Box<dyn Any + Send + Sync>;

/// What a program is built with: the operators' stable ids, and which of them is being built.
pub(crate) struct Build {
    pub ids: Arc<[String]>,
    pub node: NodeId,
}

impl Build {
    pub(crate) fn id(&self) -> &str {
        self.ids.get(self.node.0).map_or("", String::as_str)
    }

    /// The typed opener inside.
    pub(crate) fn typed<T: 'static>(&self, erased: Erased) -> Result<Opener<T>, Error> {
        match erased.downcast::<Opener<T>>() {
            Ok(open) => Ok(*open),
            Err(_) => Err(Error::Internal {
                operator: self.id().to_owned(),
            }),
        }
    }

    /// A stage's program.
    pub(crate) fn program<T: 'static>(
        &self,
        open: Opener<T>,
        exit: impl Exit<T> + 'static,
    ) -> Arc<dyn StageProgram> {
        stage_program(open, exit, self.ids.clone())
    }
}

pub(crate) fn erase<T: 'static>(open: Opener<T>) -> Erased {
    Box::new(open)
}

/// Ends a stage.
pub(crate) type ProgramFn =
    Box<dyn Fn(&Build, Erased) -> Result<Arc<dyn StageProgram>, Error> + Send + Sync>;
/// Continues a pipeline.
pub(crate) type NarrowFn = Box<dyn Fn(&Build, Erased) -> Result<Erased, Error> + Send + Sync>;
/// Begins a pipeline.
pub(crate) type ReadFn = Box<dyn Fn(&Build) -> Erased + Send + Sync>;
/// Joins the branches of a stage; each comes with the first branch after those it covers.
pub(crate) type UnionFn =
    Box<dyn Fn(&Build, Vec<(u32, Erased)>) -> Result<Erased, Error> + Send + Sync>;
/// Makes a source's driver half.
pub type SourceFactory = Arc<dyn Fn() -> Result<Box<dyn SourceDriver>, Failure> + Send + Sync>;
/// Makes an output's driver half; it is given the output's stable id.
pub(crate) type OutputFactory =
    Box<dyn Fn(&str, &CompileOptions) -> Arc<dyn OutputDriver> + Send + Sync>;
/// Whether an executor has what a connector needs of it.
pub(crate) type CheckFn = Arc<dyn Fn() -> Result<(), Failure> + Send + Sync>;
/// Lets go of what a connector's executor half holds.
pub(crate) type CloseFn = Arc<dyn Fn() + Send + Sync>;

pub(crate) enum Shape {
    Source {
        settings: Value,
        driver: SourceFactory,
        open: ReadFn,
        close: CloseFn,
    },
    Narrow {
        build: NarrowFn,
        empty_to_empty: bool,
    },
    Union {
        build: UnionFn,
    },
    /// One way of writing for each input; all go to exchanges of the same kind, which the next stage reads in the inputs' order.
    Shuffle {
        exchange: Exchange,
        writes: Vec<ProgramFn>,
        read: ReadFn,
        empty_to_empty: bool,
    },
    Output {
        settings: Value,
        exchanges: Vec<Exchange>,
        program: ProgramFn,
        driver: OutputFactory,
        check: Option<CheckFn>,
        close: Option<CloseFn>,
        empty_to_empty: bool,
        speculative: bool,
    },
}

/// How a node's rows are kept as blocks when several nodes use it.
pub(crate) struct Keeping {
    pub write: ProgramFn,
    pub read: ReadFn,
}

impl Keeping {
    pub(crate) fn of<T: Data>() -> Self {
        Self {
            write: Box::new(|build, open| {
                Ok(build.program(build.typed::<T>(open)?, exchange::Keep))
            }),
            read: Box::new(|_| erase(read::read::<T>(0, Texts::Shared))),
        }
    }
}

pub(crate) struct Node {
    /// Such as `map`, `kafka`, `pprint`.
    pub kind: String,
    pub name: Option<String>,
    pub inputs: Vec<NodeId>,
    pub shape: Shape,
    /// Absent for outputs.
    pub keeping: Option<Keeping>,
}

/// All that was declared, in the order of declaration.
#[derive(Default)]
pub(crate) struct Graph {
    /// For connectors' settings.
    pub config: Config,
    /// The driver's build, for connectors.
    pub build_id: String,
    pub recorded: Recorded,
    pub nodes: Vec<Node>,
    /// Where outputs go that bear no other beside them.
    pub places: Vec<(NodeId, String)>,
    /// What was wrong with declarations whose methods can't return errors; the first is reported.
    pub problems: Vec<Error>,
    pub compiled: bool,
}

impl Graph {
    pub(crate) fn add(&mut self, node: Node) -> NodeId {
        if self.compiled {
            let error = Error::Started {
                operator: node.kind.clone(),
            };
            tracing::error!(%error, "the graph was changed after the start");
            self.problems.push(error);
        }
        let id = NodeId(self.nodes.len());
        self.nodes.push(node);
        id
    }

    /// A partition count that was asked for; a wrong one is reported when the graph is compiled.
    pub(crate) fn partitions(&mut self, operator: &str, count: u32) -> PartitionCount {
        match PartitionCount::new(count) {
            Ok(partitions) => partitions,
            Err(_) => {
                self.problems.push(Error::Partitions {
                    operator: operator.to_owned(),
                    count,
                });
                PartitionCount::ONE
            }
        }
    }
}
