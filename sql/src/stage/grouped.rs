//! Partial aggregation by one text column. It is the engine's own but for its table of keys: that one looks keys up one after the other, and each waits for
//! memory; this one takes rows a block at a time ([`TextGroups`]).
//!
//! What is partial may be given in parts: so groups are given away when they hold much memory, and rows whose keys hardly repeat go through ungrouped.

use std::{collections::VecDeque, fmt, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray},
    datatypes::{DataType, SchemaRef},
    record_batch::RecordBatch,
};
use datafusion::{
    common::{
        Result,
        tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion},
    },
    execution::{
        SendableRecordBatchStream, TaskContext,
        memory_pool::{MemoryConsumer, MemoryReservation},
    },
    logical_expr::{EmitTo, GroupsAccumulator},
    physical_plan::{
        DisplayAs, DisplayFormatType, ExecutionPlan, InputOrderMode, PhysicalExpr, PlanProperties,
        aggregates::{AggregateExec, AggregateMode, aggregate_expressions, evaluate_many},
        execution_plan::replace_children_if_necessary,
        stream::RecordBatchStreamAdapter,
    },
};
use futures::{StreamExt, stream};

use super::texts::TextGroups;

/// When groups are given away, and when it is looked whether grouping is worth while.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// Bytes of groups.
    full: usize,
    /// Rows.
    probed: usize,
}

/// The second is the engine's default.
const BOUNDS: Bounds = Bounds {
    full: 64 << 20,
    probed: 100_000,
};
/// Grouping is worth while where there are fewer groups than so many in a hundred rows, as for the engine.
const MOST_GROUPS: usize = 80;

/// Puts the operator where a plan has the engine's for such keys.
pub(super) fn in_place(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    plan.transform_up(|node| {
        let suits = node
            .downcast_ref::<AggregateExec>()
            .filter(|aggregate| is_by_one_text(aggregate));
        Ok(match suits {
            Some(aggregate) => Transformed::yes(Arc::new(GroupedExec {
                aggregate: Arc::new(aggregate.clone()),
                bounds: BOUNDS,
            })),
            None => Transformed::no(node),
        })
    })
    .data()
}

fn is_by_one_text(aggregate: &AggregateExec) -> bool {
    let [(key, _)] = aggregate.group_expr().expr() else {
        return false;
    };
    let is_text = matches!(
        key.data_type(&aggregate.input().schema()),
        Ok(DataType::Utf8)
    );
    let mut functions = aggregate.aggr_expr().iter();
    is_text
        && *aggregate.mode() == AggregateMode::Partial
        && aggregate.group_expr().is_single()
        && *aggregate.input_order_mode() == InputOrderMode::Linear
        && aggregate.limit_options().is_none()
        && functions.all(|function| {
            function.groups_accumulator_supported() && function.order_bys().is_empty()
        })
}

/// Keeps the engine's node, which knows keys, functions and schemas.
#[derive(Debug)]
struct GroupedExec {
    aggregate: Arc<AggregateExec>,
    bounds: Bounds,
}

impl DisplayAs for GroupedExec {
    fn fmt_as(&self, format: DisplayFormatType, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("GroupedExec: ")?;
        self.aggregate.fmt_as(format, formatter)
    }
}

impl ExecutionPlan for GroupedExec {
    fn name(&self) -> &str {
        "GroupedExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.aggregate.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.aggregate.children()
    }

    fn apply_expressions(
        &self,
        visit: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.aggregate.apply_expressions(visit)
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let aggregate: Arc<dyn ExecutionPlan> = Arc::clone(&self.aggregate) as _;
        in_place(replace_children_if_necessary(aggregate, children)?)
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let reservation = MemoryConsumer::new(self.name()).register(context.memory_pool());
        let most = context.session_config().batch_size().max(1);
        let input = self.aggregate.input().execute(partition, context)?;
        let groups = Groups::new(Arc::clone(&self.aggregate), self.bounds, most, reservation)?;
        let batches = stream::unfold((input, groups), |(mut input, mut groups)| async move {
            let batch = groups.next(&mut input).await.transpose()?;
            Some((batch, (input, groups)))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(
            self.aggregate.schema(),
            batches,
        )))
    }
}

/// What an aggregate's functions are given of a batch.
struct Arguments {
    values: Vec<Vec<ArrayRef>>,
    filters: Vec<Option<ArrayRef>>,
}

impl Arguments {
    fn filter(&self, function: usize) -> Option<&BooleanArray> {
        let filter = self.filters.get(function)?.as_ref();
        filter.map(|filter| filter.as_boolean())
    }
}

fn accumulators(aggregate: &AggregateExec) -> Result<Vec<Box<dyn GroupsAccumulator>>> {
    let functions = aggregate.aggr_expr().iter();
    functions
        .map(|function| function.create_groups_accumulator())
        .collect()
}

/// The groups of one partition so far.
struct Groups {
    aggregate: Arc<AggregateExec>,
    schema: SchemaRef,
    /// Of each function.
    arguments: Vec<Vec<Arc<dyn PhysicalExpr>>>,
    functions: Vec<Box<dyn GroupsAccumulator>>,
    keys: TextGroups,
    /// The group of each row of the batch at hand.
    of_rows: Vec<usize>,
    rows: usize,
    /// Keys hardly repeat: rows go through as they are.
    goes_through: bool,
    ready: VecDeque<RecordBatch>,
    has_ended: bool,
    /// Rows of a batch that is given.
    most: usize,
    bounds: Bounds,
    reservation: MemoryReservation,
}

impl Groups {
    fn new(
        aggregate: Arc<AggregateExec>,
        bounds: Bounds,
        most: usize,
        reservation: MemoryReservation,
    ) -> Result<Self> {
        let functions = accumulators(&aggregate)?;
        Ok(Self {
            arguments: aggregate_expressions(aggregate.aggr_expr(), aggregate.mode(), 1)?,
            schema: aggregate.schema(),
            aggregate,
            functions,
            keys: TextGroups::default(),
            of_rows: Vec::new(),
            rows: 0,
            goes_through: false,
            ready: VecDeque::new(),
            has_ended: false,
            most,
            bounds,
            reservation,
        })
    }

    async fn next(&mut self, input: &mut SendableRecordBatchStream) -> Result<Option<RecordBatch>> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Ok(Some(batch));
            }
            if self.has_ended {
                return Ok(None);
            }
            match input.next().await {
                Some(batch) => self.take(&batch?)?,
                None => {
                    self.has_ended = true;
                    self.give()?;
                }
            }
        }
    }

    fn take(&mut self, batch: &RecordBatch) -> Result<()> {
        let rows = batch.num_rows();
        if rows == 0 {
            return Ok(());
        }
        let (key, _) = &self.aggregate.group_expr().expr()[0];
        let keys = key.evaluate(batch)?.into_array(rows)?;
        let mut filters = Vec::with_capacity(self.functions.len());
        for filter in self.aggregate.filter_expr() {
            filters.push(match filter {
                Some(filter) => Some(filter.evaluate(batch)?.into_array(rows)?),
                None => None,
            });
        }
        let arguments = Arguments {
            values: evaluate_many(&self.arguments, batch)?,
            filters,
        };
        if self.goes_through {
            return self.pass_on(keys, &arguments);
        }
        self.group(&keys, &arguments)
    }

    fn group(&mut self, keys: &ArrayRef, arguments: &Arguments) -> Result<()> {
        let texts = keys.as_string::<i32>();
        if !self.keys.has_room_for(texts) {
            self.give()?;
        }
        self.keys.groups_of(texts, &mut self.of_rows);
        for (function, accumulator) in self.functions.iter_mut().enumerate() {
            accumulator.update_batch(
                &arguments.values[function],
                &self.of_rows,
                arguments.filter(function),
                self.keys.len(),
            )?;
        }
        let was = self.rows;
        self.rows += texts.len();
        if was < self.bounds.probed && self.rows >= self.bounds.probed {
            self.goes_through = self.keys.len() * 100 >= self.rows * MOST_GROUPS;
        }
        let functions = self.functions.iter().map(|function| function.size());
        let held = self.keys.memory() + functions.sum::<usize>();
        if held > self.bounds.full || self.goes_through {
            return self.give();
        }
        self.reservation.try_resize(held)
    }

    /// The rows as groups of their own.
    fn pass_on(&mut self, keys: ArrayRef, arguments: &Arguments) -> Result<()> {
        let mut columns = vec![keys];
        for (function, accumulator) in self.functions.iter().enumerate() {
            let values = &arguments.values[function];
            columns.extend(accumulator.convert_to_state(values, arguments.filter(function))?);
        }
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns)?;
        self.ready.push_back(batch);
        Ok(())
    }

    /// Gives all groups away.
    fn give(&mut self) -> Result<()> {
        let groups = self.keys.len();
        if groups == 0 {
            return Ok(());
        }
        let mut columns: Vec<ArrayRef> = vec![Arc::new(self.keys.take()?)];
        for mut function in std::mem::replace(&mut self.functions, accumulators(&self.aggregate)?) {
            columns.extend(function.state(EmitTo::All)?);
        }
        let all = RecordBatch::try_new(Arc::clone(&self.schema), columns)?;
        for from in (0..groups).step_by(self.most) {
            let batch = all.slice(from, self.most.min(groups - from));
            self.ready.push_back(batch);
        }
        self.reservation.free();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use arrow::{
        array::{Int64Array, StringArray},
        datatypes::{Field, Schema},
        util::pretty::pretty_format_batches,
    };
    use datafusion::{
        datasource::MemTable,
        physical_plan::collect,
        prelude::{SessionConfig, SessionContext},
    };
    use proptest::prelude::*;

    use super::*;

    const QUERY: &str = "SELECT key, count(*), count(value), sum(value) FILTER (WHERE value > 3), min(value), avg(value), max(key) FROM rows GROUP BY key";

    type Row = (Option<String>, Option<i64>);

    fn table(batches: &[Vec<Row>]) -> MemTable {
        let schema = Arc::new(Schema::new(vec![
            Field::new("key", DataType::Utf8, true),
            Field::new("value", DataType::Int64, true),
        ]));
        let batches = batches.iter().map(|rows| {
            let keys: StringArray = rows.iter().map(|(key, _)| key.as_deref()).collect();
            let values: Int64Array = rows.iter().map(|(_, value)| *value).collect();
            RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(keys), Arc::new(values)])
                .unwrap()
        });
        MemTable::try_new(Arc::clone(&schema), vec![batches.collect()]).unwrap()
    }

    /// Runs a plan that has this query's partial aggregation in it.
    fn run(
        batches: &[Vec<Row>],
        plan: impl FnOnce(AggregateExec) -> Arc<dyn ExecutionPlan>,
    ) -> Vec<RecordBatch> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            let config = SessionConfig::new()
                .with_target_partitions(1)
                .with_batch_size(64);
            let session = SessionContext::new_with_config(config);
            session
                .register_table("rows", Arc::new(table(batches)))
                .unwrap();
            let query = session.sql(QUERY).await.unwrap();
            let mut whole = query.create_physical_plan().await.unwrap();
            while whole.downcast_ref::<AggregateExec>().is_none() {
                whole = Arc::clone(whole.children()[0]);
            }
            let whole = whole.downcast_ref::<AggregateExec>().unwrap();
            let partial = AggregateExec::try_new(
                AggregateMode::Partial,
                whole.group_expr().clone(),
                whole.aggr_expr().to_vec(),
                whole.filter_expr().to_vec(),
                Arc::clone(whole.input()),
                whole.input_schema(),
            );
            let plan = plan(partial.unwrap());
            collect(plan, session.task_ctx()).await.unwrap()
        })
    }

    fn grouped(partial: AggregateExec, bounds: Bounds) -> Arc<dyn ExecutionPlan> {
        let plan = in_place(Arc::new(partial)).unwrap();
        let grouped = plan.downcast_ref::<GroupedExec>().expect("it suits");
        Arc::new(GroupedExec {
            aggregate: Arc::clone(&grouped.aggregate),
            bounds,
        })
    }

    /// The whole aggregation's rows, after this partial one.
    fn rows(
        batches: &[Vec<Row>],
        operator: impl FnOnce(AggregateExec) -> Arc<dyn ExecutionPlan>,
    ) -> Vec<String> {
        let whole = |partial: AggregateExec| -> Arc<dyn ExecutionPlan> {
            let last = AggregateExec::try_new(
                AggregateMode::Final,
                partial.group_expr().as_final(),
                partial.aggr_expr().to_vec(),
                vec![None; partial.aggr_expr().len()],
                operator(partial.clone()),
                partial.input_schema(),
            );
            Arc::new(last.unwrap())
        };
        let shown = pretty_format_batches(&run(batches, whole)).unwrap();
        let mut lines: Vec<String> = shown.to_string().lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }

    fn of_the_engine(batches: &[Vec<Row>]) -> Vec<String> {
        rows(batches, |partial| Arc::new(partial))
    }

    fn of_ours(batches: &[Vec<Row>], bounds: Bounds) -> Vec<String> {
        rows(batches, |partial| grouped(partial, bounds))
    }

    /// The rows that the operator gives to the next one.
    fn partial_rows(batches: &[Vec<Row>], bounds: Bounds) -> usize {
        let batches = run(batches, |partial| grouped(partial, bounds));
        batches.iter().map(RecordBatch::num_rows).sum()
    }

    fn batches() -> impl Strategy<Value = Vec<Vec<Row>>> {
        let row = (
            prop::option::weighted(0.9, "[ab]{0,4}"),
            prop::option::weighted(0.9, 0i64..9),
        );
        prop::collection::vec(prop::collection::vec(row, 0..80), 0..6)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn groups_are_those_of_the_engine(batches in batches()) {
            let expected = of_the_engine(&batches);
            prop_assert_eq!(&of_ours(&batches, BOUNDS), &expected);
            let at_once = Bounds { full: 1, ..BOUNDS };
            prop_assert_eq!(&of_ours(&batches, at_once), &expected, "given away after each batch");
        }
    }

    #[test]
    fn rows_whose_keys_hardly_repeat_go_through() {
        let batches = |rows: i64, keys: i64| -> Vec<Vec<Row>> {
            let row = |number: i64| (Some(format!("key {}", number % keys)), Some(number % 7));
            let numbers: Vec<i64> = (0..rows).collect();
            let chunks = numbers.chunks(800);
            chunks
                .map(|numbers| numbers.iter().copied().map(row).collect())
                .collect()
        };
        let bounds = Bounds {
            probed: 10_000,
            ..BOUNDS
        };
        let rare = batches(16_000, 15_000);
        assert_eq!(partial_rows(&rare, bounds), 16_000);
        assert_eq!(of_ours(&rare, bounds), of_the_engine(&rare));
        assert_eq!(partial_rows(&batches(16_000, 7_000), bounds), 7_000);
        assert_eq!(
            partial_rows(&batches(8_000, 7_900), bounds),
            7_900,
            "too few to tell"
        );
    }
}
