//! A physical plan cut where rows change partitions: each piece is a stage, each cut an edge of the runtime.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::{
    physical_expr::expressions::Column,
    physical_plan::{
        ExecutionPlan, ExecutionPlanProperties, Partitioning, PhysicalExpr,
        aggregates::{AggregateExec, AggregateMode},
        coalesce_partitions::CoalescePartitionsExec,
        empty::EmptyExec,
        execution_plan::replace_children_if_necessary,
        filter::FilterExec,
        limit::{GlobalLimitExec, LocalLimitExec},
        placeholder_row::PlaceholderRowExec,
        projection::ProjectionExec,
        repartition::RepartitionExec,
        sorts::{sort::SortExec, sort_preserving_merge::SortPreservingMergeExec},
        union::UnionExec,
        unnest::UnnestExec,
    },
};
use datafusion_proto::{
    bytes::physical_plan_to_bytes_with_extension_codec, physical_plan::AsExecutionPlan,
    protobuf::PhysicalPlanNode,
};
use millstream_common::ids::{OutputIndex, SourceId, StageId};
use millstream_dataflow::plan::{
    Branch, Exchange, ExchangeRef, NamedSettings, OutputPlan, Plan, SourcePlan, StagePlan,
};
use serde_json::json;

use crate::{
    error::Error,
    functions::event_time,
    input::{Feed, InputCodec, InputExec, Scan},
    output_mode::OutputMode,
    plan::origin::Origin,
    program::{Emit, ExitSpec, InputSpec, Program, SchemaBytes, StageSpec, StateSpec},
    table::StreamSource,
};

/// What the stages of a query end in.
pub(crate) struct Output {
    pub(crate) plan: OutputPlan,
    pub(crate) exit: ExitSpec,
    pub(crate) speculative: bool,
}

/// A query cut into stages.
pub(crate) struct Stages {
    pub(crate) program: Program,
    /// The sources, as the plan has them.
    pub(crate) sources: Vec<Arc<StreamSource>>,
    /// A batch is due when the watermark has moved.
    pub(crate) waits_for_watermark: bool,
}

/// A query that was planned, and what its aggregate is computed from.
pub(crate) struct Planned {
    pub(crate) plan: Arc<dyn ExecutionPlan>,
    pub(crate) mode: OutputMode,
    pub(crate) origin: Origin,
}

/// Cuts a plan.
pub(crate) fn cut(
    query: Planned,
    output: Output,
    parallelism: u32,
    zone: &str,
) -> Result<Stages, Error> {
    let mut cutter = Cutter {
        mode: query.mode,
        origin: query.origin,
        parallelism,
        plan: Plan::default(),
        stages: Vec::new(),
        sources: Vec::new(),
        aggregates: 0,
        waits_for_watermark: false,
    };
    let mut draft = Draft::default();
    let top = cutter.piece(&query.plan, &mut draft)?;
    draft.operators.push(output.plan.id.clone());
    let stage = cutter.end(draft, &top, output.exit, Vec::new(), |stage| {
        stage.output = Some(OutputIndex(0));
        stage.speculative &= output.speculative;
    })?;
    cutter.plan.outputs.push(OutputPlan {
        stage,
        ..output.plan
    });
    Ok(Stages {
        program: Program {
            plan: cutter.plan,
            zone: zone.to_owned(),
            sources: cutter
                .sources
                .iter()
                .map(|source| source.spec.clone())
                .collect(),
            stages: cutter.stages,
        },
        sources: cutter.sources,
        waits_for_watermark: cutter.waits_for_watermark,
    })
}

struct Cutter {
    mode: OutputMode,
    origin: Origin,
    parallelism: u32,
    plan: Plan,
    stages: Vec<StageSpec>,
    sources: Vec<Arc<StreamSource>>,
    aggregates: u32,
    waits_for_watermark: bool,
}

/// A stage while its piece is put together.
#[derive(Default)]
struct Draft {
    branches: Vec<Branch>,
    inputs: Vec<InputSpec>,
    state: Option<StateSpec>,
    stateful: Vec<NamedSettings>,
    operators: Vec<String>,
    /// It gives rows without having any.
    gives_anyway: bool,
}

impl Draft {
    /// A stage with state has the one input.
    fn takes_more(&self) -> Result<(), Error> {
        match self.state {
            None => Ok(()),
            Some(_) => Err(union_with_aggregate()),
        }
    }
}

/// The engine leaves out sources of which no row could count.
pub(crate) fn reads_nothing() -> Error {
    Error::refused(
        "a condition that is never true leaves out all rows, so nothing would be read",
        "correct the condition",
    )
}

fn union_with_aggregate() -> Error {
    Error::refused(
        "a union with an aggregate is not supported here",
        "write two queries",
    )
}

impl Cutter {
    /// The part of a plan that runs in the draft's stage; what is below a cut becomes stages of its own.
    fn piece(
        &mut self,
        node: &Arc<dyn ExecutionPlan>,
        draft: &mut Draft,
    ) -> Result<Arc<dyn ExecutionPlan>, Error> {
        if let Some(input) = node.downcast_ref::<InputExec>() {
            let scan = input.scan().ok_or_else(|| misplaced(node))?;
            return self.scan(scan, node.schema(), draft);
        }
        if let Some(repartition) = node.downcast_ref::<RepartitionExec>() {
            let Partitioning::Hash(keys, _) = repartition.partitioning() else {
                return self.piece(repartition.input(), draft);
            };
            let columns = columns_of(keys)?;
            let exit = ExitSpec::Hash {
                columns,
                partitions: self.parallelism,
            };
            let exchange = Exchange::Hash(self.parallelism);
            return self.edge(repartition.input(), exit, exchange, draft);
        }
        if let Some(gather) = node.downcast_ref::<CoalescePartitionsExec>() {
            let gathered = self.edge(gather.input(), ExitSpec::Gather, Exchange::Gather, draft)?;
            return Ok(match gather.fetch() {
                Some(fetch) => Arc::new(GlobalLimitExec::new(gathered, 0, Some(fetch))),
                None => gathered,
            });
        }
        if let Some(merge) = node.downcast_ref::<SortPreservingMergeExec>() {
            let gathered = self.edge(merge.input(), ExitSpec::Gather, Exchange::Gather, draft)?;
            let sort = SortExec::new(merge.expr().clone(), gathered).with_fetch(merge.fetch());
            return Ok(Arc::new(sort));
        }
        if let Some(aggregate) = node.downcast_ref::<AggregateExec>() {
            return match aggregate.mode() {
                AggregateMode::Final | AggregateMode::FinalPartitioned => {
                    self.aggregate(aggregate, draft)
                }
                AggregateMode::Partial => {
                    draft.gives_anyway |= aggregate.group_expr().is_true_no_grouping();
                    self.inside(node, draft)
                }
                _ => Err(misplaced(node)),
            };
        }
        let may_stay = node.is::<ProjectionExec>()
            || node.is::<FilterExec>()
            || node.is::<SortExec>()
            || node.is::<GlobalLimitExec>()
            || node.is::<LocalLimitExec>()
            || node.is::<UnionExec>()
            || node.is::<UnnestExec>()
            || node.is::<EmptyExec>()
            || matches!(node.name(), "CoalesceBatchesExec" | "CooperativeExec");
        if node.is::<PlaceholderRowExec>() {
            return Err(reads_nothing());
        }
        if !may_stay {
            return Err(Error::refused(
                format!("{} is not supported here", node.name()),
                "write the query with select, filter, group by and union",
            ));
        }
        self.inside(node, draft)
    }

    /// A node that stays in the stage, over what stays of its inputs.
    fn inside(
        &mut self,
        node: &Arc<dyn ExecutionPlan>,
        draft: &mut Draft,
    ) -> Result<Arc<dyn ExecutionPlan>, Error> {
        let mut children = Vec::new();
        for child in node.children() {
            children.push(self.piece(child, draft)?);
        }
        if children.is_empty() {
            return Ok(Arc::clone(node));
        }
        Ok(replace_children_if_necessary(Arc::clone(node), children)?)
    }

    fn scan(
        &mut self,
        scan: &Scan,
        schema: SchemaRef,
        draft: &mut Draft,
    ) -> Result<Arc<dyn ExecutionPlan>, Error> {
        draft.takes_more()?;
        let known = self
            .sources
            .iter()
            .position(|known| Arc::ptr_eq(known, &scan.source));
        let source = match known {
            Some(source) => source,
            None => self.add_source(scan),
        };
        let index = draft.inputs.len();
        draft.inputs.push(InputSpec::Source {
            branch: number(draft.branches.len()),
            source,
            schema: SchemaBytes::of(&scan.source.schema)?,
            projection: scan.projection.clone(),
        });
        draft
            .branches
            .push(Branch::Source(SourceId(number(source))));
        draft.operators.push(self.plan.sources[source].id.clone());
        Ok(Arc::new(InputExec::new(index, schema, Feed::default())))
    }

    fn add_source(&mut self, scan: &Scan) -> usize {
        let spec = &scan.source.spec;
        let kind = spec.kind();
        let of_kind = self.plan.sources.iter().filter(|known| known.kind == kind);
        self.plan.sources.push(SourcePlan {
            id: format!("{kind}-{}", of_kind.count()),
            kind: kind.to_owned(),
            settings: spec.fingerprint(),
        });
        self.sources.push(Arc::clone(&scan.source));
        self.sources.len() - 1
    }

    /// An aggregate that lives on: what is below its exchange is a stage, and this stage keeps the groups.
    fn aggregate(
        &mut self,
        last: &AggregateExec,
        draft: &mut Draft,
    ) -> Result<Arc<dyn ExecutionPlan>, Error> {
        let partial = partial_below(last.input())
            .ok_or_else(|| Error::internal("an aggregate isn't planned in two steps"))?;
        draft.takes_more()?;
        if !draft.branches.is_empty() {
            return Err(union_with_aggregate());
        }
        let mut below = Draft::default();
        let input = self.piece(last.input(), &mut below)?;
        let schema = input.schema();
        let groups = partial.group_expr().as_final();
        let group_columns = groups.expr().len();
        let merge = AggregateExec::try_new(
            AggregateMode::PartialReduce,
            groups,
            partial.aggr_expr().to_vec(),
            vec![None; partial.aggr_expr().len()],
            Arc::new(InputExec::new(0, Arc::clone(&schema), Feed::default())),
            partial.input_schema(),
        )?;
        if merge.schema() != schema {
            return Err(Error::internal(format!(
                "groups merge to {} instead of {schema}",
                merge.schema()
            )));
        }
        let id = format!("aggregate-{}", self.aggregates);
        self.aggregates += 1;
        draft.branches = below.branches;
        draft.inputs = below.inputs;
        draft.operators.extend(below.operators);
        draft.operators.push(id.clone());
        draft.stateful.push(NamedSettings {
            id: id.clone(),
            kind: "aggregate".to_owned(),
            settings: settings(&self.origin, &schema, group_columns),
        });
        let emit = match self.mode {
            OutputMode::Complete => Emit::All,
            OutputMode::Update => Emit::Changed,
            OutputMode::Append => Emit::Over,
        };
        let mut keys = schema.fields().iter().take(group_columns);
        // A complete result lets nothing go.
        let time = match emit {
            Emit::All => None,
            Emit::Changed | Emit::Over => keys.position(|field| event_time::is_marked(field)),
        };
        draft.gives_anyway |= emit == Emit::All || group_columns == 0 || time.is_some();
        // As Spark: also where the watermark lets nothing go.
        self.waits_for_watermark |= emit != Emit::All;
        draft.state = Some(StateSpec {
            operator: id,
            group_columns,
            time,
            schema: SchemaBytes::of(&schema)?,
            merge: bytes_of(Arc::new(merge))?,
            emit,
        });
        let kept: Arc<dyn ExecutionPlan> = Arc::new(InputExec::new(0, schema, Feed::default()));
        let last = AggregateExec::try_new(
            *last.mode(),
            last.group_expr().clone(),
            last.aggr_expr().to_vec(),
            last.filter_expr().to_vec(),
            kept,
            last.input_schema(),
        )?;
        Ok(Arc::new(last))
    }

    /// Ends a stage below an exchange, and begins this one with what comes out of it.
    fn edge(
        &mut self,
        input: &Arc<dyn ExecutionPlan>,
        exit: ExitSpec,
        exchange: Exchange,
        draft: &mut Draft,
    ) -> Result<Arc<dyn ExecutionPlan>, Error> {
        draft.takes_more()?;
        let mut below = Draft::default();
        let piece = self.piece(input, &mut below)?;
        let schema = piece.schema();
        let stage = self.end(below, &piece, exit, vec![exchange], |_| {})?;
        let reference = ExchangeRef { stage, exchange: 0 };
        let list = match draft.branches.as_mut_slice() {
            [] => {
                draft.branches.push(Branch::Exchanges(vec![reference]));
                0
            }
            [Branch::Exchanges(references)] => {
                references.push(reference);
                references.len() - 1
            }
            _ => return Err(union_with_aggregate()),
        };
        let index = draft.inputs.len();
        draft.inputs.push(InputSpec::Exchange {
            list,
            schema: SchemaBytes::of(&schema)?,
        });
        Ok(Arc::new(InputExec::new(index, schema, Feed::default())))
    }

    fn end(
        &mut self,
        draft: Draft,
        piece: &Arc<dyn ExecutionPlan>,
        exit: ExitSpec,
        exchanges: Vec<Exchange>,
        change: impl FnOnce(&mut StagePlan),
    ) -> Result<StageId, Error> {
        let id = StageId(number(self.stages.len()));
        let mut stage = StagePlan {
            name: draft.operators.join(" → "),
            branches: draft.branches,
            exchanges,
            output: None,
            operators: draft.operators,
            stateful: draft.stateful,
            empty_to_empty: !draft.gives_anyway,
            speculative: draft.state.is_none(),
        };
        change(&mut stage);
        self.plan.stages.push(stage);
        self.stages.push(StageSpec {
            inputs: draft.inputs,
            state: draft.state,
            plan: bytes_of(Arc::clone(piece))?,
            schema: SchemaBytes::of(&piece.schema())?,
            exit,
        });
        Ok(id)
    }
}

fn bytes_of(plan: Arc<dyn ExecutionPlan>) -> Result<Vec<u8>, Error> {
    let bytes = physical_plan_to_bytes_with_extension_codec(plan, &InputCodec::default())?;
    // What is nested deeper than they may be can't be read by executors: said here, not by the first batch.
    PhysicalPlanNode::try_decode(&bytes).map_err(|_| {
        Error::refused(
            "the query, or an expression of it, is nested too deeply to travel to executors",
            "write it with fewer operators within each other, or with a function of your own",
        )
    })?;
    Ok(bytes.to_vec())
}

/// What of an aggregate a checkpoint depends on: what is computed, and of which types. The engine's names of columns depend on the tables that they pass through.
fn settings(origin: &Origin, schema: &SchemaRef, group_columns: usize) -> serde_json::Value {
    let fields = schema.fields().iter();
    let mut keys: Vec<String> = fields.map(|field| field.data_type().to_string()).collect();
    let state = keys.split_off(group_columns);
    json!({
        "keys": keys,
        "of": origin.keys,
        "functions": origin.functions,
        "state": state,
    })
}

/// The first step of an aggregate, below its exchange.
fn partial_below(node: &Arc<dyn ExecutionPlan>) -> Option<&AggregateExec> {
    if let Some(aggregate) = node.downcast_ref::<AggregateExec>() {
        return (*aggregate.mode() == AggregateMode::Partial).then_some(aggregate);
    }
    match node.children().as_slice() {
        [child] => partial_below(child),
        _ => None,
    }
}

fn columns_of(keys: &[Arc<dyn PhysicalExpr>]) -> Result<Vec<usize>, Error> {
    keys.iter()
        .map(|key| {
            let column = key.downcast_ref::<Column>();
            let column = column
                .ok_or_else(|| Error::internal(format!("rows are routed by {key}, no column")))?;
            Ok(column.index())
        })
        .collect()
}

fn misplaced(node: &Arc<dyn ExecutionPlan>) -> Error {
    Error::internal(format!(
        "the planner put {} where it can't be, over {} partitions",
        node.name(),
        node.output_partitioning().partition_count()
    ))
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
