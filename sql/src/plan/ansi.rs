//! Operators that have no result for some values become functions that end the query there: see `functions::checked`.
//!
//! The engine computes a right side of `AND` and `OR` also for rows whose left side decides. As there must be no error for those, as in Spark, an argument is
//! null there. A filter's conditions are put in order afterwards: see `plan::fallible`.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::{
    common::{
        DFSchema, ScalarValue,
        config::ConfigOptions,
        tree_node::{Transformed, TreeNode, TreeNodeRecursion},
    },
    error::Result,
    logical_expr::{
        BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator, ScalarUDF,
        expr_rewriter::NamePreserver,
        utils::{
            conjunction, disjunction, merge_schema, split_conjunction, split_conjunction_owned,
        },
        when,
    },
    optimizer::AnalyzerRule,
};

use crate::functions::{
    self,
    checked::{CheckedFunction, Operation},
};

/// After the engine's own rules, which settle the types.
#[derive(Debug)]
pub(crate) struct Ansi {
    functions: Vec<(Operation, Arc<ScalarUDF>)>,
}

impl Default for Ansi {
    fn default() -> Self {
        let functions = Operation::ALL.into_iter().map(|operation| {
            let function = ScalarUDF::from(CheckedFunction::new(operation));
            (operation, Arc::new(function))
        });
        Self {
            functions: functions.collect(),
        }
    }
}

impl AnalyzerRule for Ansi {
    fn name(&self) -> &str {
        "ansi"
    }

    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> Result<LogicalPlan> {
        let analyzed = plan.transform_up_with_subqueries(|node| {
            let schema = merge_schema(&node.inputs());
            let names = NamePreserver::new(&node);
            let is_filter = matches!(node, LogicalPlan::Filter(_));
            let changed = node.map_expressions(|expression| {
                let name = names.save(&expression);
                let changed = if is_filter {
                    self.condition(expression, &schema)?
                } else {
                    self.value(expression, &schema)?
                };
                Ok(changed.update_data(|expression| name.restore(expression)))
            })?;
            changed.map_data(LogicalPlan::recompute_schema)
        })?;
        Ok(analyzed.data)
    }
}

impl Ansi {
    /// What a filter takes: its parts are put in order later.
    fn condition(&self, expression: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
        let mut parts = Vec::new();
        let mut transformed = false;
        for part in split_conjunction_owned(expression) {
            let changed = self.value(part, schema)?;
            transformed |= changed.transformed;
            parts.push(changed.data);
        }
        let all = conjunction(parts).unwrap_or_else(|| Expr::Literal(true.into(), None));
        Ok(Transformed::new_transformed(all, transformed))
    }

    fn value(&self, expression: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
        let checked = expression.transform_up(|inside| self.checked(inside, schema))?;
        let may_end = |inside: &Expr| match inside {
            Expr::ScalarFunction(function) => functions::may_end_queries(function.name()),
            _ => false,
        };
        if !checked.data.exists(|inside| Ok(may_end(inside)))? {
            return Ok(checked);
        }
        checked
            .transform_data(|expression| expression.transform_up(|inside| guarded(inside, schema)))
    }

    fn checked(&self, expression: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
        let (operation, arguments) = match expression {
            Expr::Negative(value) => (Operation::Negate, vec![*value]),
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => match Operation::of(op) {
                Some(operation) => (operation, vec![*left, *right]),
                None => {
                    let unchanged = BinaryExpr { left, op, right };
                    return Ok(Transformed::no(Expr::BinaryExpr(unchanged)));
                }
            },
            other => return Ok(Transformed::no(other)),
        };
        let is_for = arguments.iter().all(|argument| {
            let data_type = argument.get_type(schema);
            data_type.is_ok_and(|data_type| operation.is_for(&data_type))
        });
        let function = self.functions.iter().find(|(of, _)| *of == operation);
        match (is_for, function) {
            (true, Some((_, function))) => {
                let arguments = flattened(arguments, function);
                Ok(Transformed::yes(function.call(arguments)))
            }
            _ => Ok(Transformed::no(unchecked(operation, arguments))),
        }
    }
}

/// The arguments, with those of the first in its place where that is a call of the same function of two or more.
fn flattened(mut arguments: Vec<Expr>, function: &ScalarUDF) -> Vec<Expr> {
    match arguments.first_mut() {
        Some(Expr::ScalarFunction(first))
            if first.name() == function.name() && first.args.len() > 1 =>
        {
            let mut all = std::mem::take(&mut first.args);
            all.extend(arguments.into_iter().skip(1));
            all
        }
        _ => arguments,
    }
}

fn unchecked(operation: Operation, arguments: Vec<Expr>) -> Expr {
    let mut arguments = arguments.into_iter();
    match (arguments.next(), arguments.next()) {
        (Some(left), Some(right)) => Expr::BinaryExpr(BinaryExpr {
            left: Box::new(left),
            op: operation.operator(),
            right: Box::new(right),
        }),
        (Some(value), None) => Expr::Negative(Box::new(value)),
        _ => Expr::Literal(ScalarValue::Null, None),
    }
}

/// Whether an expression computes what has no result for some values, casts aside: they may well say for which rows there is one.
fn may_fail(expression: &Expr) -> Result<bool> {
    expression.exists(|inside| Ok(is_fallible(inside)))
}

fn is_fallible(expression: &Expr) -> bool {
    match expression {
        Expr::ScalarFunction(function) => functions::is_fallible(function.name()),
        _ => false,
    }
}

/// What is computed for rows that it isn't for, computes nothing there: a right side of `AND` and `OR`, and an aggregate's arguments.
fn guarded(expression: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    match expression {
        Expr::BinaryExpr(BinaryExpr { left, op, right })
            if matches!(op, Operator::And | Operator::Or) =>
        {
            let decided = decided(&left, op)?;
            let right = match decided {
                Some(decided) => unless(&decided, *right, schema)?,
                None => Transformed::no(*right),
            };
            Ok(right.update_data(|right| {
                Expr::BinaryExpr(BinaryExpr {
                    left,
                    op,
                    right: Box::new(right),
                })
            }))
        }
        Expr::AggregateFunction(mut function) => {
            let Some(filter) = function.params.filter.clone() else {
                return Ok(Transformed::no(Expr::AggregateFunction(function)));
            };
            if may_fail(&filter)? {
                return Ok(Transformed::no(Expr::AggregateFunction(function)));
            }
            let left_out = filter.is_not_true();
            let mut arguments = Vec::new();
            for argument in function.params.args {
                arguments.push(unless(&left_out, argument, schema)?.data);
            }
            function.params.args = arguments;
            Ok(Transformed::yes(Expr::AggregateFunction(function)))
        }
        other => Ok(Transformed::no(other)),
    }
}

/// When the left side decides, as far as that is told without what may fail itself.
fn decided(left: &Expr, operator: Operator) -> Result<Option<Expr>> {
    let is_and = operator == Operator::And;
    let mut safe = Vec::new();
    for part in parts(left, operator) {
        if !may_fail(part)? {
            safe.push(part.clone());
        }
    }
    let decided = if is_and {
        conjunction(safe).map(Expr::is_false)
    } else {
        disjunction(safe).map(Expr::is_true)
    };
    Ok(decided)
}

fn parts(expression: &Expr, operator: Operator) -> Vec<&Expr> {
    if operator == Operator::And {
        return split_conjunction(expression);
    }
    match expression {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if *op == Operator::Or => {
            let mut all = parts(left, operator);
            all.extend(parts(right, operator));
            all
        }
        other => vec![other],
    }
}

/// The expression with null for arguments of what may fail, where `decided` is true.
fn unless(decided: &Expr, expression: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    expression.transform_down(|inside| {
        let Expr::ScalarFunction(mut function) = inside else {
            return Ok(Transformed::no(inside));
        };
        if !functions::may_end_queries(function.name()) {
            return Ok(Transformed::no(Expr::ScalarFunction(function)));
        }
        // What begins with a null is null, whatever follows.
        if let Some(first) = function.args.first_mut() {
            let none = null_of(&first.get_type(schema)?)?;
            *first = when(decided.clone(), none).otherwise(std::mem::take(first))?;
        }
        let guarded = Expr::ScalarFunction(function);
        Ok(Transformed::new(guarded, true, TreeNodeRecursion::Continue))
    })
}

fn null_of(data_type: &DataType) -> Result<Expr> {
    Ok(Expr::Literal(ScalarValue::try_from(data_type)?, None))
}
