//! Where a query's groups and aggregates come from, in words: a checkpoint depends on what is computed, not on the names that it passes through.
//!
//! `SELECT k, count(*) FROM (SELECT id % 2 AS k FROM t) GROUP BY k` groups by `id % 2`, whatever `k` is called in between.

use datafusion::{
    common::{
        Column, DFSchema,
        tree_node::{Transformed, TreeNode},
    },
    error::Result,
    logical_expr::{Expr, LogicalPlan, expr::ScalarFunction},
};

use crate::functions::{
    event_time,
    window::{self, Windows},
};

/// Of an aggregate: its keys and its functions, each over the columns of the sources.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) keys: Vec<String>,
    pub(crate) functions: Vec<String>,
}

impl Origin {
    /// Of the outermost aggregate of a query as it was written; nothing if it has none.
    pub(crate) fn of(plan: &LogicalPlan) -> Result<Self> {
        if let LogicalPlan::Aggregate(aggregate) = plan {
            let texts = |expressions: &[Expr]| -> Result<Vec<String>> {
                let texts = expressions.iter();
                texts
                    .map(|expression| text(expression, &aggregate.input))
                    .collect()
            };
            return Ok(Self {
                keys: texts(&aggregate.group_expr)?,
                functions: texts(&aggregate.aggr_expr)?,
            });
        }
        for input in plan.inputs() {
            let found = Self::of(input)?;
            if found != Self::default() {
                return Ok(found);
            }
        }
        Ok(Self::default())
    }
}

fn text(expression: &Expr, input: &LogicalPlan) -> Result<String> {
    Ok(traced(expression.clone(), input)?.to_string())
}

/// The expression over the columns of the sources.
fn traced(expression: Expr, input: &LogicalPlan) -> Result<Expr> {
    let traced = expression.unalias_nested().data.transform_up(|inside| {
        Ok(Transformed::yes(match inside {
            Expr::Column(column) => of_column(&column, input)?,
            Expr::ScalarFunction(function) => of_function(function)?,
            other => other,
        }))
    })?;
    Ok(traced.data)
}

/// A function without what no group depends on.
fn of_function(function: ScalarFunction) -> Result<Expr> {
    match function.name() {
        // How late a time may come is no part of the group that it is in.
        event_time::NAME => {
            let time = function.args.first().cloned();
            Ok(time.unwrap_or(Expr::ScalarFunction(function)))
        }
        window::NAME => {
            let windows = Windows::of_call(&function.args)?;
            let time = function.args.first().map(Expr::to_string);
            Ok(named(format!(
                "window({}, {windows})",
                time.unwrap_or_default()
            )))
        }
        _ => Ok(Expr::ScalarFunction(function)),
    }
}

fn named(text: String) -> Expr {
    Expr::Column(Column::new_unqualified(text))
}

fn of_column(column: &Column, plan: &LogicalPlan) -> Result<Expr> {
    let at = |schema: &DFSchema| schema.maybe_index_of_column(column);
    let unknown = || named(column.name.clone());
    match plan {
        LogicalPlan::Projection(projection) => match at(&projection.schema) {
            Some(position) => traced(projection.expr[position].clone(), &projection.input),
            None => Ok(unknown()),
        },
        LogicalPlan::SubqueryAlias(alias) => match at(&alias.schema) {
            Some(position) => of_position(position, &alias.input),
            None => Ok(unknown()),
        },
        LogicalPlan::Unnest(unnest) => match at(&unnest.schema) {
            Some(position) => of_position(unnest.dependency_indices[position], &unnest.input),
            None => Ok(unknown()),
        },
        LogicalPlan::Union(union) => {
            let Some(position) = at(&union.schema) else {
                return Ok(unknown());
            };
            let mut texts: Vec<String> = Vec::new();
            for input in &union.inputs {
                let text = of_position(position, input)?.to_string();
                if !texts.contains(&text) {
                    texts.push(text);
                }
            }
            Ok(named(texts.join(" or ")))
        }
        LogicalPlan::Filter(_) | LogicalPlan::Sort(_) | LogicalPlan::Limit(_) => {
            match plan.inputs().as_slice() {
                [input] => of_column(column, input),
                _ => Ok(unknown()),
            }
        }
        _ => Ok(unknown()),
    }
}

fn of_position(position: usize, plan: &LogicalPlan) -> Result<Expr> {
    let (qualifier, field) = plan.schema().qualified_field(position);
    of_column(&Column::new(qualifier.cloned(), field.name()), plan)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::Schema;
    use datafusion::{datasource::empty::EmptyTable, prelude::SessionContext};

    use super::*;
    use crate::{ddl::IntoSchema, engine, functions::event_time::EventTimeFunction, udf::Registry};

    fn context() -> SessionContext {
        let context = engine::context("UTC", &Registry::default()).unwrap();
        let schema: Arc<Schema> = "id INT, job STRING, at TIMESTAMP"
            .into_schema("UTC")
            .unwrap();
        let table = Arc::new(EmptyTable::new(schema));
        context.register_table("t", table).unwrap();
        context
    }

    async fn of(context: &SessionContext, sql: &str) -> Origin {
        let plan = context.state().create_logical_plan(sql).await.unwrap();
        Origin::of(&plan).unwrap()
    }

    #[tokio::test]
    async fn names_on_the_way_change_nothing_and_what_is_computed_does() {
        let context = context();
        let plain = of(&context, "SELECT id % 2, sum(id) FROM t GROUP BY id % 2").await;
        let named = "SELECT k, sum(n) AS s FROM (SELECT id % 2 AS k, id AS n FROM t WHERE id > 0) AS u GROUP BY k";
        assert_eq!(of(&context, named).await, plain);
        let other = of(&context, &named.replace("% 2", "% 3")).await;
        assert_ne!(other, plain);
        assert_eq!(other.functions, plain.functions);
        let filtered = "SELECT id % 2, sum(id) FILTER (WHERE id > 1) FROM t GROUP BY id % 2";
        assert_ne!(of(&context, filtered).await.functions, plain.functions);
        let none = of(&context, "SELECT id FROM t").await;
        assert_eq!(none, Origin::default());
    }

    #[tokio::test]
    async fn windows_are_what_they_come_to() {
        let context = context();
        let keys = async |window: &str| {
            let sql = format!("SELECT count(*) FROM t GROUP BY {window}");
            of(&context, &sql).await.keys
        };
        let ten = keys("window(at, '10 minutes')").await;
        assert_eq!(ten, ["window(at, 10m each 10m from 0s)"]);
        assert_eq!(keys("window(at, '600 seconds', '10 minutes')").await, ten);
        for other in [
            "window(at, '20 minutes')",
            "window(at, '10 minutes', '5 minutes')",
            "window(at, '10 minutes', '10 minutes', '3 minutes')",
        ] {
            assert_ne!(keys(other).await, ten, "{other}");
        }
    }

    #[tokio::test]
    async fn a_watermark_is_no_part_of_a_key() {
        let context = context();
        let watch = datafusion::logical_expr::ScalarUDF::from(EventTimeFunction::default());
        let watched = watch.call(vec![
            datafusion::prelude::col("at"),
            datafusion::logical_expr::lit("0"),
            datafusion::logical_expr::lit(5i64),
            datafusion::logical_expr::lit(0i64),
        ]);
        let frame = context.table("t").await.unwrap();
        let frame = frame.with_column("at", watched).unwrap();
        let frame = frame
            .aggregate(vec![datafusion::prelude::col("at")], vec![])
            .unwrap();
        assert_eq!(Origin::of(frame.logical_plan()).unwrap().keys, ["at"]);
    }

    #[tokio::test]
    async fn a_column_of_a_union_is_one_of_its_inputs() {
        let context = context();
        let union = "SELECT k, count(*) FROM (SELECT job AS k FROM t UNION ALL SELECT upper(job) FROM t) GROUP BY k";
        assert_eq!(of(&context, union).await.keys, ["job or upper(job)"]);
    }
}
