//! SQL text, with what Spark writes otherwise than the engine's planner takes it: `window(..).start`.

use std::ops::ControlFlow;

use datafusion::{
    error::Result,
    execution::context::SQLOptions,
    prelude::{DataFrame, SessionContext},
    sql::{
        parser::Statement,
        sqlparser::ast::{AccessExpr, Expr, Value, visit_expressions_mut},
    },
};

/// The query that a text is.
pub(super) async fn query(context: &SessionContext, text: &str) -> Result<DataFrame> {
    let state = context.state();
    let dialect = state.config().options().sql_parser.dialect;
    let mut statement = state.sql_to_statement(text, &dialect)?;
    if let Statement::Statement(statement) = &mut statement {
        let _: ControlFlow<()> = visit_expressions_mut(statement.as_mut(), |expression| {
            name_fields(expression);
            ControlFlow::Continue(())
        });
    }
    let plan = state.statement_to_plan(statement).await?;
    SQLOptions::new()
        .with_allow_ddl(false)
        .with_allow_dml(false)
        .with_allow_statements(false)
        .verify_plan(&plan)?;
    context.execute_logical_plan(plan).await
}

/// A field after a dot is its name as text, which the planner understands after any expression.
fn name_fields(expression: &mut Expr) {
    let Expr::CompoundFieldAccess { access_chain, .. } = expression else {
        return;
    };
    for access in access_chain {
        if let AccessExpr::Dot(Expr::Identifier(name)) = access {
            let name = Value::SingleQuotedString(name.value.clone());
            *access = AccessExpr::Dot(Expr::value(name));
        }
    }
}
