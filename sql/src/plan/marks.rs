//! Marks of event times, settled before a query is planned: a cast loses the mark, and a column of a union has it if the first input's has, as in Spark.

use std::sync::Arc;

use datafusion::{
    common::tree_node::{Transformed, TreeNode},
    error::Result,
    logical_expr::{
        Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, ScalarUDF, Union, lit,
        utils::merge_schema,
    },
};

use crate::functions::event_time::{self, MarkFunction};

/// The same plan, in which no mark reaches what is no event time, and all inputs of a union agree on theirs.
pub(super) fn settled(plan: LogicalPlan) -> Result<LogicalPlan> {
    let settled = plan.transform_up(|node| {
        let node = match node {
            LogicalPlan::Union(union) => LogicalPlan::Union(agreed(union)?),
            other => without_marked_casts(other)?,
        };
        // What is below may have other marks now.
        Ok(Transformed::yes(node.recompute_schema()?))
    })?;
    Ok(settled.data)
}

fn with_mark(column: Expr, is_marked: bool) -> Expr {
    ScalarUDF::from(MarkFunction::default()).call(vec![column, lit(is_marked)])
}

fn without_marked_casts(node: LogicalPlan) -> Result<LogicalPlan> {
    let schema = merge_schema(&node.inputs());
    let has_mark = |expression: &Expr| {
        let field = expression.to_field(&schema);
        field.is_ok_and(|(_, field)| event_time::has_mark(&field))
    };
    let unmarked = |mut expression: Box<Expr>| {
        if !has_mark(&expression) {
            return (expression, false);
        }
        *expression = with_mark(std::mem::take(&mut *expression), false);
        (expression, true)
    };
    let changed = node.map_expressions(|expression| {
        expression.transform_up(|inside| {
            let (inside, is_changed) = match inside {
                Expr::Cast(mut cast) => {
                    let is_changed;
                    (cast.expr, is_changed) = unmarked(cast.expr);
                    (Expr::Cast(cast), is_changed)
                }
                Expr::TryCast(mut cast) => {
                    let is_changed;
                    (cast.expr, is_changed) = unmarked(cast.expr);
                    (Expr::TryCast(cast), is_changed)
                }
                other => (other, false),
            };
            Ok(Transformed::new_transformed(inside, is_changed))
        })
    })?;
    Ok(changed.data)
}

fn agreed(union: Union) -> Result<Union> {
    let first = union.inputs.first().map(|input| Arc::clone(input.schema()));
    let Some(first) = first else {
        return Ok(union);
    };
    let mut wanted = Vec::new();
    for (position, field) in first.fields().iter().enumerate() {
        let same_type = union.inputs.iter().all(|input| {
            let fields = input.schema().fields();
            fields.get(position).map(|field| field.data_type()) == Some(field.data_type())
        });
        wanted.push(same_type && event_time::is_marked(field));
    }
    let mut inputs = Vec::with_capacity(union.inputs.len());
    for input in union.inputs {
        inputs.push(with_marks(input, &wanted)?);
    }
    Union::try_new_with_loose_types(inputs)
}

fn with_marks(input: Arc<LogicalPlan>, wanted: &[bool]) -> Result<Arc<LogicalPlan>> {
    let mut columns = Vec::new();
    let mut is_changed = false;
    for ((qualifier, field), wanted) in input.schema().iter().zip(wanted) {
        let column = Expr::Column(datafusion::common::Column::new(
            qualifier.cloned(),
            field.name(),
        ));
        if event_time::has_mark(field) == *wanted {
            columns.push(column);
            continue;
        }
        is_changed = true;
        columns.push(with_mark(column, *wanted).alias(field.name()));
    }
    if !is_changed {
        return Ok(input);
    }
    let projected = LogicalPlanBuilder::new_from_arc(input).project(columns)?;
    Ok(Arc::new(projected.build()?))
}
