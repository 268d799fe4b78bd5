//! The least and the greatest of floating point numbers, as Spark orders them, NaN being the greatest; and groups of them, where equal ones are one.

use std::sync::Arc;

use arrow::datatypes::{DataType, FieldRef};
use datafusion::{
    common::{Column, tree_node::Transformed},
    error::Result,
    logical_expr::{
        Aggregate, Distinct, Expr, ExprSchemable, LogicalPlan, Projection, cast,
        expr::AggregateFunction,
    },
};

use crate::functions::{
    normalized::{self, NORMALIZED},
    total_order::{OF_TOTAL_ORDER, TOTAL_ORDER},
};

/// In aggregates of a plan, `min` and `max` over floating point numbers become those of whole numbers of the same order, and keys have one zero and one NaN.
pub(super) fn ordered(node: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    match node {
        LogicalPlan::Aggregate(aggregate) => aggregated(aggregate),
        LogicalPlan::Distinct(Distinct::All(input)) => distinct(input),
        other => Ok(Transformed::no(other)),
    }
}

fn aggregated(aggregate: Aggregate) -> Result<Transformed<LogicalPlan>> {
    let mut types: Vec<Option<DataType>> = Vec::new();
    let mut functions = Vec::new();
    for expression in &aggregate.aggr_expr {
        let (changed, data_type) = replaced(expression, &aggregate)?;
        types.push(data_type);
        functions.push(changed);
    }
    let first = aggregate.schema.fields().len() - types.len();
    let mut keys = Vec::new();
    let mut has_floats = false;
    for (expression, (_, field)) in aggregate.group_expr.iter().zip(aggregate.schema.iter()) {
        let is_float = normalized::is_for(field.data_type());
        // Keys of grouping sets aren't the schema's, one by one.
        if !is_float || matches!(expression, Expr::GroupingSet(_)) {
            keys.push(expression.clone());
            continue;
        }
        has_floats = true;
        let key = expression.clone().unalias();
        keys.push(NORMALIZED.function().call(vec![key]).alias(field.name()));
    }
    if !has_floats && types.iter().all(Option::is_none) {
        return Ok(Transformed::no(LogicalPlan::Aggregate(aggregate)));
    }
    let input = Aggregate::try_new(aggregate.input, keys, functions)?;
    let mut columns = Vec::new();
    let made = input.schema.iter().zip(aggregate.schema.iter());
    for (position, ((made, _), (qualifier, field))) in made.enumerate() {
        let column = Expr::Column(Column::new(made.cloned(), field.name()));
        let was = position
            .checked_sub(first)
            .and_then(|position| types.get(position).cloned().flatten());
        columns.push(match was {
            None if made == qualifier => column,
            None => column.alias_qualified(qualifier.cloned(), field.name()),
            Some(data_type) => {
                let number = OF_TOTAL_ORDER.function().call(vec![column]);
                cast(number, data_type).alias(field.name())
            }
        });
    }
    let input = Arc::new(LogicalPlan::Aggregate(input));
    let projection = Projection::try_new(columns, input)?;
    Ok(Transformed::yes(LogicalPlan::Projection(projection)))
}

/// Rows that are equal are one, whichever zero or NaN they hold.
fn distinct(input: Arc<LogicalPlan>) -> Result<Transformed<LogicalPlan>> {
    let is_float = |field: &FieldRef| normalized::is_for(field.data_type());
    if !input.schema().fields().iter().any(is_float) {
        return Ok(Transformed::no(LogicalPlan::Distinct(Distinct::All(input))));
    }
    let columns = input.schema().iter().map(|(qualifier, field)| {
        let column = Expr::Column(Column::new(qualifier.cloned(), field.name()));
        match is_float(field) {
            true => NORMALIZED
                .function()
                .call(vec![column])
                .alias_qualified(qualifier.cloned(), field.name()),
            false => column,
        }
    });
    let columns: Vec<Expr> = columns.collect();
    let projection = Projection::try_new(columns, input)?;
    let input = Arc::new(LogicalPlan::Projection(projection));
    Ok(Transformed::yes(LogicalPlan::Distinct(Distinct::All(
        input,
    ))))
}

/// The function over whole numbers under its own name, and the type that it had, if it is one of those.
fn replaced(expression: &Expr, aggregate: &Aggregate) -> Result<(Expr, Option<DataType>)> {
    let function = match expression {
        Expr::Alias(alias) => alias.expr.as_ref(),
        other => other,
    };
    let unchanged = || Ok((expression.clone(), None));
    let Expr::AggregateFunction(AggregateFunction { func, params }) = function else {
        return unchanged();
    };
    let [argument] = params.args.as_slice() else {
        return unchanged();
    };
    let data_type = argument.get_type(aggregate.input.schema())?;
    let is_float = matches!(data_type, DataType::Float32 | DataType::Float64);
    if !is_float || !matches!(func.name(), "min" | "max") {
        return unchanged();
    }
    let ordered = TOTAL_ORDER.function().call(vec![argument.clone()]);
    let mut params = params.clone();
    params.args = vec![ordered];
    let changed = Expr::AggregateFunction(AggregateFunction {
        func: Arc::clone(func),
        params,
    });
    let name = expression.schema_name().to_string();
    Ok((changed.alias(name), Some(data_type)))
}
