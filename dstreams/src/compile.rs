//! A graph cut into stages: at shuffles, and where a stream has two users. Only what an output needs is compiled.

use std::{collections::HashMap, sync::Arc};

use jiff::tz::TimeZone;
use millstream_common::{
    failure::Failure,
    ids::{OutputIndex, SourceId, StageId},
};
use millstream_dataflow::{
    plan::{Branch, Exchange, ExchangeRef, OutputPlan, Plan, SourcePlan, StagePlan},
    program::{Programs, StageProgram},
};
use millstream_driver::output::OutputDriver;

use crate::{
    error::Error,
    graph::{Build, CheckFn, CloseFn, Erased, Graph, Keeping, NodeId, Shape, SourceFactory},
    outputs::Console,
};

/// What outputs need to know of the driver that they run on.
#[derive(Clone)]
pub struct CompileOptions {
    /// Where printed batches go; by default stdout.
    pub console: Console,
    /// The time zone of `pprint`; by default the system's.
    pub time_zone: TimeZone,
    /// Encoded bytes of rows that a callback may bring to the driver in one batch; by default 64 MiB.
    pub collect_max_bytes: u64,
}

impl Default for CompileOptions {
    fn default() -> Self {
        Self {
            console: Console::stdout(),
            time_zone: TimeZone::system(),
            collect_max_bytes: 64 << 20,
        }
    }
}

/// A graph, ready to run: the plan that both sides agree on, the executor's code, and the driver's halves.
pub struct CompiledJob {
    /// The graph as data.
    pub plan: Plan,
    /// The stages' code, for executors.
    pub programs: Arc<dyn Programs>,
    /// Makes each source's driver half, in the plan's order.
    pub sources: Vec<SourceFactory>,
    /// Each output's driver half, in the plan's order.
    pub outputs: Vec<Arc<dyn OutputDriver>>,
}

struct CompiledPrograms {
    plan: Plan,
    programs: Vec<Arc<dyn StageProgram>>,
    check: Vec<CheckFn>,
    close: Vec<CloseFn>,
}

impl Programs for CompiledPrograms {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn program(&self, stage: StageId) -> Option<Arc<dyn StageProgram>> {
        self.programs.get(usize::try_from(stage.0).ok()?).cloned()
    }

    fn check(&self) -> Result<(), Failure> {
        self.check.iter().try_for_each(|check| check())
    }

    fn close(&self) {
        for close in &self.close {
            close();
        }
    }
}

pub(crate) fn compile(graph: &mut Graph, options: &CompileOptions) -> Result<CompiledJob, Error> {
    if let Some(problem) = graph.problems.first() {
        return Err(problem.clone());
    }
    let ids = stable_ids(graph)?;
    check_places(graph, &ids)?;
    let users = count_users(graph);
    warn_of_unused(graph, &ids, &users);
    let mut compiler = Compiler {
        graph,
        ids,
        users,
        plan: Plan::default(),
        programs: Vec::new(),
        sources: HashMap::new(),
        factories: Vec::new(),
        outputs: Vec::new(),
        kept: HashMap::new(),
        check: Vec::new(),
        close: Vec::new(),
    };
    for node in 0..compiler.graph.nodes.len() {
        compiler.source(NodeId(node));
    }
    for node in 0..compiler.graph.nodes.len() {
        compiler.output(NodeId(node), options)?;
    }
    if compiler.plan.outputs.is_empty() {
        return Err(Error::NoOutputs);
    }
    let job = CompiledJob {
        plan: compiler.plan.clone(),
        sources: compiler.factories,
        outputs: compiler.outputs,
        programs: Arc::new(CompiledPrograms {
            plan: compiler.plan,
            programs: compiler.programs,
            check: compiler.check,
            close: compiler.close,
        }),
    };
    graph.compiled = true;
    Ok(job)
}

/// The user's names, else kind and ordinal among the unnamed of that kind. Streams without an output count, so that an output added later renames
/// nothing.
fn stable_ids(graph: &Graph) -> Result<Arc<[String]>, Error> {
    let mut ordinals: HashMap<&str, u32> = HashMap::new();
    let mut ids: Vec<String> = Vec::with_capacity(graph.nodes.len());
    for node in &graph.nodes {
        let id = match &node.name {
            Some(name) => name.clone(),
            None => {
                let ordinal = ordinals.entry(&node.kind).or_default();
                let id = format!("{}-{ordinal}", node.kind);
                *ordinal += 1;
                id
            }
        };
        if ids.contains(&id) {
            return Err(Error::DuplicateName { id });
        }
        ids.push(id);
    }
    Ok(ids.into())
}

/// Two outputs of one place would take each other's batches for published.
fn check_places(graph: &Graph, ids: &[String]) -> Result<(), Error> {
    let mut outputs: HashMap<&str, NodeId> = HashMap::new();
    for (node, place) in &graph.places {
        if let Some(first) = outputs.insert(place, *node) {
            return Err(Error::DuplicatePlace {
                first: ids[first.0].clone(),
                second: ids[node.0].clone(),
                place: place.clone(),
            });
        }
    }
    Ok(())
}

/// How many nodes read each node's rows, of those that an output needs. Outputs count one for themselves.
fn count_users(graph: &Graph) -> Vec<u32> {
    let mut users = vec![0u32; graph.nodes.len()];
    // Inputs stand before their users.
    for (at, node) in graph.nodes.iter().enumerate().rev() {
        if matches!(node.shape, Shape::Output { .. }) {
            users[at] += 1;
        }
        if users[at] > 0 {
            for input in &node.inputs {
                users[input.0] += 1;
            }
        }
    }
    users
}

fn warn_of_unused(graph: &Graph, ids: &[String], users: &[u32]) {
    let mut read = vec![false; graph.nodes.len()];
    for node in &graph.nodes {
        for input in &node.inputs {
            read[input.0] = true;
        }
    }
    for at in 0..graph.nodes.len() {
        // Of a chain without an output, its end alone.
        if users[at] == 0 && !read[at] {
            tracing::warn!(
                stream = ids[at],
                "a stream without an output is never computed"
            );
        }
    }
}

struct Compiler<'g> {
    graph: &'g Graph,
    ids: Arc<[String]>,
    users: Vec<u32>,
    plan: Plan,
    programs: Vec<Arc<dyn StageProgram>>,
    sources: HashMap<NodeId, SourceId>,
    factories: Vec<SourceFactory>,
    outputs: Vec<Arc<dyn OutputDriver>>,
    /// Stages that keep the rows of a node with several users.
    kept: HashMap<NodeId, StageId>,
    check: Vec<CheckFn>,
    close: Vec<CloseFn>,
}

/// A stage while its pipeline is put together.
struct Draft {
    branches: Vec<Branch>,
    operators: Vec<String>,
    label: Vec<String>,
    empty_to_empty: bool,
}

impl Draft {
    fn new() -> Self {
        Self {
            branches: Vec::new(),
            operators: Vec::new(),
            label: Vec::new(),
            empty_to_empty: true,
        }
    }
}

impl<'g> Compiler<'g> {
    fn build(&self, node: NodeId) -> Build {
        Build {
            ids: self.ids.clone(),
            node,
        }
    }

    fn id(&self, node: NodeId) -> &str {
        &self.ids[node.0]
    }

    fn source(&mut self, node: NodeId) {
        let known = &self.graph.nodes[node.0];
        let Shape::Source {
            settings,
            driver,
            close,
            ..
        } = &known.shape
        else {
            return;
        };
        if self.users[node.0] == 0 {
            return;
        }
        let id = SourceId(number(self.plan.sources.len()));
        self.plan.sources.push(SourcePlan {
            id: self.ids[node.0].clone(),
            kind: known.kind.clone(),
            settings: settings.clone(),
        });
        self.factories.push(driver.clone());
        self.close.push(close.clone());
        self.sources.insert(node, id);
    }

    fn output(&mut self, node: NodeId, options: &CompileOptions) -> Result<(), Error> {
        let known = &self.graph.nodes[node.0];
        let Shape::Output {
            settings,
            exchanges,
            program,
            driver,
            check,
            close,
            empty_to_empty,
            speculative,
        } = &known.shape
        else {
            return Ok(());
        };
        let mut draft = Draft::new();
        let open = self.open_inputs(node, &mut draft)?;
        let program = program(&self.build(node), open)?;
        let index = OutputIndex(number(self.plan.outputs.len()));
        draft.empty_to_empty &= *empty_to_empty;
        self.add_operator(node, &mut draft);
        let stage = self.add_stage(draft, exchanges.clone(), program, |stage| {
            stage.output = Some(index);
            stage.speculative = *speculative;
        });
        let id = self.ids[node.0].clone();
        self.outputs.push(driver(&id, options));
        self.plan.outputs.push(OutputPlan {
            id,
            kind: known.kind.clone(),
            stage,
            settings: settings.clone(),
        });
        self.check.extend(check.clone());
        self.close.extend(close.clone());
        Ok(())
    }

    fn add_operator(&self, node: NodeId, draft: &mut Draft) {
        draft.operators.push(self.id(node).to_owned());
        draft.label.push(self.id(node).to_owned());
    }

    fn add_stage(
        &mut self,
        draft: Draft,
        exchanges: Vec<Exchange>,
        program: Arc<dyn StageProgram>,
        change: impl FnOnce(&mut StagePlan),
    ) -> StageId {
        let id = StageId(number(self.plan.stages.len()));
        let mut stage = StagePlan {
            name: draft.label.join(" → "),
            branches: draft.branches,
            exchanges,
            output: None,
            operators: draft.operators,
            stateful: Vec::new(),
            empty_to_empty: draft.empty_to_empty,
            speculative: true,
        };
        change(&mut stage);
        self.plan.stages.push(stage);
        self.programs.push(program);
        id
    }

    /// The pipeline of a node's rows within the stage of the draft.
    fn open(&mut self, node: NodeId, draft: &mut Draft) -> Result<Erased, Error> {
        if self.users[node.0] < 2 {
            return self.open_here(node, draft);
        }
        let stage = match self.kept.get(&node) {
            Some(stage) => *stage,
            None => self.keep(node)?,
        };
        let keeping = self.keeping(node)?;
        draft
            .branches
            .push(Branch::Exchanges(vec![ExchangeRef { stage, exchange: 0 }]));
        draft.label.push(self.id(node).to_owned());
        Ok((keeping.read)(&self.build(node)))
    }

    /// Ends a stage at a node with several users.
    fn keep(&mut self, node: NodeId) -> Result<StageId, Error> {
        let mut draft = Draft::new();
        let open = self.open_here(node, &mut draft)?;
        let keeping = self.keeping(node)?;
        let program = (keeping.write)(&self.build(node), open)?;
        let stage = self.add_stage(draft, vec![Exchange::Keep], program, |_| {});
        self.kept.insert(node, stage);
        Ok(stage)
    }

    fn keeping(&self, node: NodeId) -> Result<&'g Keeping, Error> {
        let keeping = self.graph.nodes[node.0].keeping.as_ref();
        keeping.ok_or_else(|| Error::Internal {
            operator: self.ids[node.0].clone(),
        })
    }

    fn open_here(&mut self, node: NodeId, draft: &mut Draft) -> Result<Erased, Error> {
        let graph = self.graph;
        let build = self.build(node);
        match &graph.nodes[node.0].shape {
            Shape::Source { open, .. } => {
                let source = self.sources.get(&node).copied();
                let source = source.ok_or_else(|| Error::Internal {
                    operator: build.id().to_owned(),
                })?;
                draft.branches.push(Branch::Source(source));
                draft.label.push(self.id(node).to_owned());
                Ok(open(&build))
            }
            Shape::Narrow {
                build: continue_with,
                empty_to_empty,
            } => {
                let upstream = self.open_inputs(node, draft)?;
                draft.empty_to_empty &= *empty_to_empty;
                self.add_operator(node, draft);
                continue_with(&build, upstream)
            }
            Shape::Union { build: join } => {
                let mut covered = Vec::new();
                for input in &graph.nodes[node.0].inputs {
                    let upstream = self.open(*input, draft)?;
                    covered.push((number(draft.branches.len()), upstream));
                }
                self.add_operator(node, draft);
                join(&build, covered)
            }
            Shape::Shuffle {
                exchange,
                writes,
                read,
                empty_to_empty,
            } => {
                let inputs = &graph.nodes[node.0].inputs;
                let mut references = Vec::with_capacity(inputs.len());
                for (input, write) in inputs.iter().zip(writes) {
                    let mut upstream = Draft::new();
                    let open = self.open(*input, &mut upstream)?;
                    self.add_operator(node, &mut upstream);
                    let program = write(&build, open)?;
                    let stage = self.add_stage(upstream, vec![*exchange], program, |_| {});
                    references.push(ExchangeRef { stage, exchange: 0 });
                }
                draft.branches.push(Branch::Exchanges(references));
                draft.empty_to_empty &= *empty_to_empty;
                self.add_operator(node, draft);
                Ok(read(&build))
            }
            Shape::Output { .. } => Err(Error::Internal {
                operator: build.id().to_owned(),
            }),
        }
    }

    /// The pipeline of a node's one input.
    fn open_inputs(&mut self, node: NodeId, draft: &mut Draft) -> Result<Erased, Error> {
        match self.graph.nodes[node.0].inputs.as_slice() {
            [input] => self.open(*input, draft),
            _ => Err(Error::Internal {
                operator: self.ids[node.0].clone(),
            }),
        }
    }
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
