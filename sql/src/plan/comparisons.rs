//! Comparisons of floating point numbers as Spark has them: zeros are equal whatever their signs, and so are NaNs, which are greater than everything else.
//!
//! The engine compares bits, in an order of their own. Of one zero and one NaN that order is Spark's.

use arrow::datatypes::DataType;
use datafusion::{
    common::{
        DFSchema,
        config::ConfigOptions,
        tree_node::{Transformed, TreeNode},
    },
    error::Result,
    logical_expr::{
        Between, BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator, expr::InList,
        expr_rewriter::NamePreserver, utils::merge_schema,
    },
    optimizer::AnalyzerRule,
};

use crate::functions::normalized::NORMALIZED;

/// After the engine's own rules, which settle the types.
#[derive(Debug)]
pub(crate) struct Comparisons;

impl AnalyzerRule for Comparisons {
    fn name(&self) -> &str {
        "comparisons"
    }

    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> Result<LogicalPlan> {
        let analyzed = plan.transform_up_with_subqueries(|node| {
            let schema = merge_schema(&node.inputs());
            let names = NamePreserver::new(&node);
            let changed = node.map_expressions(|expression| {
                let name = names.save(&expression);
                let changed = expression.transform_up(|inside| Ok(compared(inside, &schema)))?;
                Ok(changed.update_data(|expression| name.restore(expression)))
            })?;
            changed.map_data(LogicalPlan::recompute_schema)
        })?;
        Ok(analyzed.data)
    }
}

fn is_comparison(operator: Operator) -> bool {
    matches!(
        operator,
        Operator::Eq
            | Operator::NotEq
            | Operator::Lt
            | Operator::LtEq
            | Operator::Gt
            | Operator::GtEq
            | Operator::IsDistinctFrom
            | Operator::IsNotDistinctFrom
    )
}

fn compared(expression: Expr, schema: &DFSchema) -> Transformed<Expr> {
    let is_float = |value: &Expr| {
        let data_type = value.get_type(schema);
        data_type.is_ok_and(|it| matches!(it, DataType::Float32 | DataType::Float64))
    };
    match expression {
        Expr::BinaryExpr(BinaryExpr { left, op, right })
            if is_comparison(op) && is_float(&left) && is_float(&right) =>
        {
            Transformed::yes(Expr::BinaryExpr(BinaryExpr {
                left: Box::new(normalized(*left)),
                op,
                right: Box::new(normalized(*right)),
            }))
        }
        Expr::InList(InList {
            expr,
            list,
            negated,
        }) if is_float(&expr) => Transformed::yes(Expr::InList(InList {
            expr: Box::new(normalized(*expr)),
            list: list.into_iter().map(normalized).collect(),
            negated,
        })),
        Expr::Between(Between {
            expr,
            negated,
            low,
            high,
        }) if is_float(&expr) => Transformed::yes(Expr::Between(Between {
            expr: Box::new(normalized(*expr)),
            negated,
            low: Box::new(normalized(*low)),
            high: Box::new(normalized(*high)),
        })),
        other => Transformed::no(other),
    }
}

/// Once: plans may be analyzed again.
fn normalized(value: Expr) -> Expr {
    let is_done = match &value {
        Expr::ScalarFunction(function) => function.name() == NORMALIZED.name,
        _ => false,
    };
    match is_done {
        true => value,
        false => NORMALIZED.function().call(vec![value]),
    }
}
