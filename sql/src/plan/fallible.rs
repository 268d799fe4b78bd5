//! What may fail is computed for rows that get there, as in Spark: `WHERE b <> 0 AND a / b > 1` divides by no zero.
//!
//! The engine computes all conditions of a filter for a batch of rows, and puts columns that aren't many below a filter.

use std::sync::Arc;

use datafusion::{
    common::{
        config::ConfigOptions,
        tree_node::{Transformed, TreeNode},
    },
    error::Result,
    physical_expr::{ScalarFunctionExpr, conjunction, expressions::Column, split_conjunction},
    physical_expr_common::physical_expr::is_volatile,
    physical_optimizer::PhysicalOptimizerRule,
    physical_plan::{
        ExecutionPlan, PhysicalExpr,
        filter::{FilterExec, FilterExecBuilder},
        projection::{ProjectionExec, ProjectionExpr},
    },
};

use crate::functions;

/// After the engine's own rules.
#[derive(Debug)]
pub(crate) struct FallibleLast;

impl PhysicalOptimizerRule for FallibleLast {
    fn name(&self) -> &str {
        "fallible_last"
    }

    fn schema_check(&self) -> bool {
        true
    }

    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let swapped = plan.transform_down(projected_later)?;
        Ok(swapped.data.transform_up(in_order)?.data)
    }
}

fn may_fail(expression: &Arc<dyn PhysicalExpr>) -> Result<bool> {
    expression.exists(|inside| {
        let function = inside.downcast_ref::<ScalarFunctionExpr>();
        Ok(function.is_some_and(|function| functions::may_end_queries(function.fun().name())))
    })
}

/// A filter over columns that may fail becomes those columns over the filter.
fn projected_later(node: Arc<dyn ExecutionPlan>) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    let Some(filter) = node.downcast_ref::<FilterExec>() else {
        return Ok(Transformed::no(node));
    };
    let Some(projection) = filter.input().downcast_ref::<ProjectionExec>() else {
        return Ok(Transformed::no(node));
    };
    let mut fallible = false;
    for column in projection.expr() {
        // What watches event times stays where it is.
        if is_volatile(&column.expr) {
            return Ok(Transformed::no(node));
        }
        fallible |= may_fail(&column.expr)?;
    }
    if !fallible || filter.fetch().is_some() {
        return Ok(Transformed::no(node));
    }
    let predicate = Arc::clone(filter.predicate()).transform_up(|inside| {
        let Some(column) = inside.downcast_ref::<Column>() else {
            return Ok(Transformed::no(inside));
        };
        let computed = &projection.expr()[column.index()].expr;
        Ok(Transformed::yes(Arc::clone(computed)))
    })?;
    let below = FilterExec::try_new(predicate.data, Arc::clone(projection.input()))?;
    let kept: Vec<ProjectionExpr> = match filter.projection() {
        None => projection.expr().to_vec(),
        Some(columns) => {
            let columns = columns.iter();
            columns
                .map(|column| projection.expr()[*column].clone())
                .collect()
        }
    };
    let above = ProjectionExec::try_new(kept, Arc::new(below))?;
    Ok(Transformed::yes(Arc::new(above)))
}

/// Conditions that may fail are a filter each, over one of the others.
fn in_order(node: Arc<dyn ExecutionPlan>) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    let Some(filter) = node.downcast_ref::<FilterExec>() else {
        return Ok(Transformed::no(node));
    };
    let mut safe = Vec::new();
    let mut fallible = Vec::new();
    for condition in split_conjunction(filter.predicate()) {
        let condition = Arc::clone(condition);
        if may_fail(&condition)? {
            fallible.push(condition);
        } else {
            safe.push(condition);
        }
    }
    let Some(last) = fallible.pop() else {
        return Ok(Transformed::no(node));
    };
    if safe.is_empty() && fallible.is_empty() {
        return Ok(Transformed::no(node));
    }
    let mut input = Arc::clone(filter.input());
    if !safe.is_empty() {
        input = Arc::new(FilterExec::try_new(conjunction(safe), input)?);
    }
    for condition in fallible {
        input = Arc::new(FilterExec::try_new(condition, input)?);
    }
    let top = FilterExecBuilder::from(filter)
        .with_predicate(last)
        .with_input(input)
        .build()?;
    Ok(Transformed::yes(Arc::new(top)))
}
