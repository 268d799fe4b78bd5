//! What streams can't do, by Spark's rules, said when the query is built.

use datafusion::logical_expr::{
    Aggregate, Expr, LogicalPlan, Volatility,
    expr::{AggregateFunction, ScalarFunction},
};

use crate::{error::Error, functions::event_time, keys, output_mode::OutputMode, table};

/// What of a query decides how it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shape {
    /// It keeps groups over batches.
    pub(crate) aggregates: bool,
    /// Its rows have an order.
    pub(crate) sorted: bool,
    /// A watermark tells when groups are over.
    pub(crate) has_event_time: bool,
}

/// Checks a streaming query.
pub(crate) fn check(plan: &LogicalPlan, mode: OutputMode) -> Result<Shape, Error> {
    let mut shape = Shape::default();
    visit(plan, mode, &mut shape)?;
    match mode {
        OutputMode::Complete if !shape.aggregates => Err(Error::refused(
            "Complete output mode not supported when there are no streaming aggregations on streaming DataFrames/Datasets",
            "use append or update mode, or aggregate the rows",
        )),
        OutputMode::Append if shape.aggregates && !shape.has_event_time => Err(Error::refused(
            "Append output mode not supported when there are streaming aggregations on streaming DataFrames/Datasets without watermark",
            "group by a column of event times or a window of them, with with_watermark before; or use complete mode for the whole result of each batch, or update mode for what changed",
        )),
        _ => Ok(shape),
    }
}

fn visit(plan: &LogicalPlan, mode: OutputMode, shape: &mut Shape) -> Result<(), Error> {
    match plan {
        LogicalPlan::Projection(_)
        | LogicalPlan::Filter(_)
        | LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::TableScan(_)
        | LogicalPlan::Unnest(_) => {}
        LogicalPlan::Union(union) => {
            let mut inputs = union.inputs.iter();
            if !inputs.all(|input| table::reads_stream(input)) {
                return Err(Error::refused(
                    "union between streaming and batch DataFrames/Datasets is not supported",
                    "read both with read_stream, or write two queries",
                ));
            }
        }
        LogicalPlan::Aggregate(aggregate) => {
            if shape.aggregates {
                return Err(Error::refused(
                    "multiple streaming aggregations are not supported with streaming DataFrames/Datasets",
                    "aggregate once, and write a second query over the first one's output",
                ));
            }
            shape.aggregates = true;
            let keys = aggregate.schema.fields().iter();
            let mut keys = keys.take(aggregate.group_expr.len());
            shape.has_event_time = keys.any(|field| event_time::is_marked(field));
            check_aggregate(aggregate)?;
        }
        LogicalPlan::Sort(_) => {
            if mode != OutputMode::Complete || shape.aggregates || !has_aggregate(plan) {
                return Err(Error::refused(
                    "sorting is not supported on streaming DataFrames/Datasets, unless it is on aggregated DataFrame/Dataset in Complete output mode",
                    "sort the result of an aggregate in complete mode, or sort where the output is read",
                ));
            }
            shape.sorted = true;
        }
        LogicalPlan::Limit(limit) => {
            if !matches!(
                limit.get_skip_type(),
                Ok(datafusion::logical_expr::SkipType::Literal(0))
            ) {
                return Err(Error::refused(
                    "OFFSET is not supported on streaming DataFrames/Datasets",
                    "leave it out",
                ));
            }
            if mode != OutputMode::Complete || !has_aggregate(plan) {
                return Err(Error::refused(
                    "limits are not supported on streaming DataFrames/Datasets here, unless on an aggregated one in Complete output mode",
                    "limit the result of an aggregate in complete mode",
                ));
            }
        }
        LogicalPlan::Join(_) => {
            return Err(Error::refused(
                "joins are not supported on streaming DataFrames/Datasets here",
                "join where the output is read",
            ));
        }
        LogicalPlan::Window(_) => {
            return Err(Error::refused(
                "non-time-based windows are not supported on streaming DataFrames/Datasets",
                "group by the columns instead",
            ));
        }
        LogicalPlan::Distinct(_) => {
            return Err(Error::refused(
                "distinct is not supported on streaming DataFrames/Datasets here",
                "group by all columns and count",
            ));
        }
        other => {
            return Err(Error::refused(
                format!(
                    "{} is not supported on streaming DataFrames/Datasets",
                    other.display()
                ),
                "write the query with select, filter, group by and union",
            ));
        }
    }
    for expression in plan.expressions() {
        check_expression(&expression)?;
    }
    for input in plan.inputs() {
        visit(input, mode, shape)?;
    }
    Ok(())
}

fn has_aggregate(plan: &LogicalPlan) -> bool {
    matches!(plan, LogicalPlan::Aggregate(_)) || plan.inputs().into_iter().any(has_aggregate)
}

fn check_aggregate(aggregate: &Aggregate) -> Result<(), Error> {
    for expression in &aggregate.group_expr {
        if matches!(expression, Expr::GroupingSet(_)) {
            return Err(Error::refused(
                "grouping sets, cube and rollup are not supported on streaming DataFrames/Datasets",
                "write a query for each grouping",
            ));
        }
    }
    for field in aggregate
        .schema
        .fields()
        .iter()
        .take(aggregate.group_expr.len())
    {
        keys::check_type(field.name(), field.data_type())?;
    }
    for expression in &aggregate.aggr_expr {
        let function = match expression {
            Expr::Alias(alias) => alias.expr.as_ref(),
            other => other,
        };
        let Expr::AggregateFunction(AggregateFunction { func, params }) = function else {
            continue;
        };
        if params.distinct {
            return Err(Error::refused(
                "distinct aggregations are not supported on streaming DataFrames/Datasets",
                "take the column into the grouping keys, and count its values where the output is read",
            ));
        }
        if !params.order_by.is_empty() || !MERGEABLE.contains(&func.name()) {
            return Err(Error::refused(
                format!("aggregate {} is not supported on streams here", func.name()),
                format!("there are {}", MERGEABLE.join(", ")),
            ));
        }
    }
    Ok(())
}

/// Aggregates whose state has been proven to go on from batch to batch.
const MERGEABLE: [&str; 5] = ["count", "sum", "avg", "min", "max"];

fn check_expression(expression: &Expr) -> Result<(), Error> {
    let mut refused = None;
    let visited = datafusion::common::tree_node::TreeNode::apply(expression, |inside| {
        let what = match inside {
            Expr::ScalarSubquery(_) | Expr::InSubquery(_) | Expr::Exists(_) => Some("a subquery"),
            Expr::ScalarFunction(function) if !gives_the_same(function) => {
                Some("a function that gives another value at each call")
            }
            _ => None,
        };
        if what.is_some() {
            refused = what.map(|what| (what, inside.to_string()));
            return Ok(datafusion::common::tree_node::TreeNodeRecursion::Stop);
        }
        Ok(datafusion::common::tree_node::TreeNodeRecursion::Continue)
    });
    visited?;
    match refused {
        None => Ok(()),
        Some((what, text)) => Err(Error::refused(
            format!("{what} is not supported on streams here: {text}"),
            "compute it from the columns",
        )),
    }
}

/// A task may run again, on rows that come in another order: what it computes may depend on its arguments alone.
fn gives_the_same(function: &ScalarFunction) -> bool {
    let is_our_own = matches!(function.name(), event_time::NAME | event_time::SEEN_NAME);
    // Depends on the session's zone, which a query has for good.
    let is_cast = function.name() == "spark_cast";
    is_our_own || is_cast || function.func.signature().volatility == Volatility::Immutable
}
