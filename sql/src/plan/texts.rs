//! Casts to text, as Spark writes numbers and times.

use datafusion::{
    common::tree_node::{Transformed, TreeNode},
    error::Result,
    logical_expr::{Expr, ExprSchemable, LogicalPlan, ScalarUDF, utils::merge_schema},
};

use crate::functions::spark_text::SparkTextFunction;

/// The same plan, with casts to text that the engine would write otherwise replaced.
pub(super) fn written(plan: LogicalPlan, zone: &str) -> Result<LogicalPlan> {
    let function = ScalarUDF::from(SparkTextFunction::new(zone));
    let written = plan.transform_up(|node| {
        let schema = merge_schema(&node.inputs());
        node.map_expressions(|expression| {
            expression.transform_up(|inside| {
                let (value, to) = match &inside {
                    Expr::Cast(cast) => (&cast.expr, cast.field.data_type()),
                    Expr::TryCast(cast) => (&cast.expr, cast.field.data_type()),
                    _ => return Ok(Transformed::no(inside)),
                };
                let from = value.get_type(&schema);
                let is_other = from.is_ok_and(|from| SparkTextFunction::is_for(&from));
                if !is_other || !to.is_string() {
                    return Ok(Transformed::no(inside));
                }
                Ok(Transformed::yes(function.call(vec![(**value).clone()])))
            })
        })
    })?;
    Ok(written.data)
}
