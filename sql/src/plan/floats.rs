//! The least and the greatest of floating point numbers, as Spark orders them: NaN is the greatest.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::{
    common::{Column, tree_node::Transformed},
    error::Result,
    logical_expr::{
        Aggregate, Expr, ExprSchemable, LogicalPlan, Projection, cast, expr::AggregateFunction,
    },
};

use crate::functions::total_order::{OF_TOTAL_ORDER, TOTAL_ORDER};

/// `min` and `max` over floating point numbers, in aggregates of a plan, become those of whole numbers of the same order.
pub(super) fn ordered(node: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let LogicalPlan::Aggregate(aggregate) = node else {
        return Ok(Transformed::no(node));
    };
    let mut types: Vec<Option<DataType>> = Vec::new();
    let mut functions = Vec::new();
    for expression in &aggregate.aggr_expr {
        let (changed, data_type) = replaced(expression, &aggregate)?;
        types.push(data_type);
        functions.push(changed);
    }
    if types.iter().all(Option::is_none) {
        return Ok(Transformed::no(LogicalPlan::Aggregate(aggregate)));
    }
    let first = aggregate.schema.fields().len() - types.len();
    let mut columns = Vec::new();
    for (position, (qualifier, field)) in aggregate.schema.iter().enumerate() {
        let column = Expr::Column(Column::new(qualifier.cloned(), field.name()));
        let was = position
            .checked_sub(first)
            .and_then(|position| types.get(position).cloned().flatten());
        columns.push(match was {
            None => column,
            Some(data_type) => {
                let number = OF_TOTAL_ORDER.function().call(vec![column]);
                cast(number, data_type).alias(field.name())
            }
        });
    }
    let input = Aggregate::try_new(aggregate.input, aggregate.group_expr, functions)?;
    let input = Arc::new(LogicalPlan::Aggregate(input));
    let projection = Projection::try_new(columns, input)?;
    Ok(Transformed::yes(LogicalPlan::Projection(projection)))
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
