//! What of a query must be written otherwise before the engine can plan it: windows, `explode`, and the names of event-time columns.

use std::sync::Arc;

use datafusion::{
    common::{
        Column, ScalarValue, UnnestOptions,
        tree_node::{Transformed, TreeNode, TreeNodeRecursion},
    },
    logical_expr::{
        Aggregate, Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, Projection, ScalarUDF,
        expr::ScalarFunction, lit,
    },
};
use millstream_driver::query::event::EventTime;

use super::{casts, floats, marks};
use crate::{
    error::Error,
    functions::{
        event_time, explode,
        window::{self, InWindowFunction, SlidesFunction, Windows},
    },
};

/// Between `window_slides` and its rows; no user's column has this name.
const SLIDES: &str = "__millstream_window";
/// Between a list and its elements.
const ELEMENT: &str = "__millstream_element";

/// A plan that the engine can plan, and the event-time columns that it watches.
pub(crate) fn rewrite(
    plan: LogicalPlan,
    zone: &str,
) -> Result<(LogicalPlan, Vec<EventTime>), Error> {
    let plan = casts::written(marks::settled(plan)?, zone)?;
    let mut refused = None;
    let rewritten = plan.transform_up(|node| match generators(node) {
        Ok(done) => Ok(done),
        Err(error) => {
            let text = error.to_string();
            refused = Some(error);
            Err(datafusion::error::DataFusionError::Plan(text))
        }
    });
    if let Some(error) = refused {
        return Err(error);
    }
    let rewritten = rewritten?.data;
    check_generators(&rewritten)?;
    let ordered = rewritten.transform_up(floats::ordered)?;
    number_event_times(ordered.data)
}

/// A call of one of our functions by name.
fn call<'e>(expression: &'e Expr, name: &str) -> Option<&'e ScalarFunction> {
    match expression {
        Expr::ScalarFunction(function) if function.name() == name => Some(function),
        _ => None,
    }
}

/// The different calls of a function in some expressions.
fn calls(expressions: &[Expr], name: &str) -> Result<Vec<Expr>, Error> {
    let mut found: Vec<Expr> = Vec::new();
    for expression in expressions {
        expression.apply(|inside| {
            if call(inside, name).is_some() && !found.contains(inside) {
                found.push(inside.clone());
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
    }
    Ok(found)
}

fn generators(node: LogicalPlan) -> Result<Transformed<LogicalPlan>, Error> {
    if !matches!(
        node,
        LogicalPlan::Projection(_) | LogicalPlan::Aggregate(_) | LogicalPlan::Filter(_)
    ) {
        return Ok(Transformed::no(node));
    }
    let expressions = node.expressions();
    let windows = calls(&expressions, window::NAME)?;
    let lists = calls(&expressions, explode::NAME)?;
    if windows.is_empty() && lists.is_empty() {
        return Ok(Transformed::no(node));
    }
    if matches!(node, LogicalPlan::Filter(_)) {
        return Err(Error::refused(
            "window and explode are not supported in a condition",
            "select them under a name first",
        ));
    }
    if windows.len() + lists.len() > 1 {
        return Err(Error::refused(
            "multiple window or explode expressions in one select or group by would result in a cartesian product of rows",
            "take one after the other, each in a select of its own",
        ));
    }
    let Some(input) = node.inputs().first().map(|input| (*input).clone()) else {
        return Ok(Transformed::no(node));
    };
    let (generator, input, instead) = match (windows.into_iter().next(), lists.into_iter().next()) {
        (Some(call), _) => window_rows(call, input)?,
        (None, Some(call)) => list_rows(call, input)?,
        (None, None) => return Ok(Transformed::no(node)),
    };
    let replace = |expression: Expr| -> Result<Expr, Error> {
        let name = expression.schema_name().to_string();
        let replaced = expression.transform_up(|inside| {
            if inside == generator {
                return Ok(Transformed::yes(instead.clone()));
            }
            Ok(Transformed::no(inside))
        })?;
        let replaced = replaced.data;
        if replaced.schema_name().to_string() == name {
            return Ok(replaced);
        }
        Ok(replaced.alias(name))
    };
    let all = |expressions: Vec<Expr>| -> Result<Vec<Expr>, Error> {
        expressions.into_iter().map(replace).collect()
    };
    let input = Arc::new(input);
    let rewritten = match node {
        LogicalPlan::Projection(projection) => {
            LogicalPlan::Projection(Projection::try_new(all(projection.expr)?, input)?)
        }
        LogicalPlan::Aggregate(aggregate) => LogicalPlan::Aggregate(Aggregate::try_new(
            input,
            all(aggregate.group_expr)?,
            aggregate.aggr_expr,
        )?),
        other => return Ok(Transformed::no(other)),
    };
    Ok(Transformed::yes(rewritten))
}

/// `explode` makes rows: none may be left where no rows are made.
fn check_generators(plan: &LogicalPlan) -> Result<(), Error> {
    let mut is_left = false;
    plan.apply(|node| {
        for expression in node.expressions() {
            is_left |= expression.exists(|inside| Ok(call(inside, explode::NAME).is_some()))?;
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    match is_left {
        false => Ok(()),
        true => Err(Error::refused(
            "explode is supported only in a select or among the keys of a group by",
            "select it under a name first, then go on with that column",
        )),
    }
}

type Rewritten = (Expr, LogicalPlan, Expr);

/// Rows without a time are in no window.
fn window_rows(generator: Expr, input: LogicalPlan) -> Result<Rewritten, Error> {
    let Some(function) = call(&generator, window::NAME) else {
        return Err(Error::internal("a window that is none"));
    };
    let Some(time) = function.args.first().cloned() else {
        return Err(Error::Plan("window needs a column of times".to_owned()));
    };
    // What is wrong with the call is said here, not when tasks run.
    time.get_type(input.schema())?;
    generator.to_field(input.schema())?;
    let windows = Windows::of_call(&function.args)?;
    let timed = LogicalPlanBuilder::new(input)
        .filter(time.clone().is_not_null())?
        .build()?;
    if !windows.overlap() {
        let instead = generator.clone();
        return Ok((generator, timed, instead));
    }
    let slides = ScalarUDF::from(SlidesFunction::default()).call(function.args.clone());
    let rows = unnested(timed, slides, SLIDES)?;
    let column = Expr::Column(Column::from_name(SLIDES));
    let instead = ScalarUDF::from(InWindowFunction::default()).call(vec![column, time]);
    Ok((generator, rows, instead))
}

fn list_rows(generator: Expr, input: LogicalPlan) -> Result<Rewritten, Error> {
    let Some(function) = call(&generator, explode::NAME) else {
        return Err(Error::internal("an explode that is none"));
    };
    let list = function.args.first().cloned();
    let list = list.ok_or_else(|| Error::Plan("explode needs a list".to_owned()))?;
    generator.to_field(input.schema())?;
    let rows = unnested(input, list, ELEMENT)?;
    let instead = Expr::Column(Column::from_name(ELEMENT));
    Ok((generator, rows, instead))
}

/// The columns of the input and one more, a row for each element.
fn unnested(input: LogicalPlan, list: Expr, name: &str) -> Result<LogicalPlan, Error> {
    let mut columns: Vec<Expr> = input
        .schema()
        .columns()
        .into_iter()
        .map(Expr::Column)
        .collect();
    columns.push(list.alias(name));
    let options = UnnestOptions::new().with_preserve_nulls(false);
    Ok(LogicalPlanBuilder::new(input)
        .project(columns)?
        .unnest_column_with_options(Column::from_name(name), options)?
        .build()?)
}

/// Event-time columns get stable ids: `watermark-0` and so on.
fn number_event_times(plan: LogicalPlan) -> Result<(LogicalPlan, Vec<EventTime>), Error> {
    let mut watched: Vec<EventTime> = Vec::new();
    let mut delays: Vec<Vec<Expr>> = Vec::new();
    let numbered = plan.transform_up(|node| {
        node.map_expressions(|expression| {
            let name = expression.schema_name().to_string();
            let changed = expression.transform_up(|inside| {
                let Expr::ScalarFunction(mut function) = inside else {
                    return Ok(Transformed::no(inside));
                };
                if function.name() != event_time::NAME {
                    return Ok(Transformed::no(Expr::ScalarFunction(function)));
                }
                let [_, _, Expr::Literal(ScalarValue::Int64(Some(delay)), _), ..] =
                    function.args.as_slice()
                else {
                    return Ok(Transformed::no(Expr::ScalarFunction(function)));
                };
                let delay = *delay;
                let known = delays.iter().position(|known| *known == function.args);
                let number = known.unwrap_or(delays.len());
                let id = format!("watermark-{number}");
                if known.is_none() {
                    delays.push(function.args.clone());
                    watched.push(EventTime {
                        id: id.clone(),
                        delay_millis: delay,
                    });
                }
                function.args[1] = lit(id);
                Ok(Transformed::yes(Expr::ScalarFunction(function)))
            })?;
            if !changed.transformed || changed.data.schema_name().to_string() == name {
                return Ok(changed);
            }
            Ok(Transformed::yes(changed.data.alias(name)))
        })
    })?;
    let plan = numbered.data.recompute_schema()?;
    Ok((plan, watched))
}
