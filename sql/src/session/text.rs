//! SQL text, with what Spark writes otherwise than the engine's planner takes it: `window(..).start`, and names in any case.

use std::ops::ControlFlow;

use datafusion::{
    common::DFSchema,
    error::Result,
    execution::context::SQLOptions,
    logical_expr::Expr as LogicalExpr,
    prelude::{DataFrame, SessionContext},
    sql::{
        parser::Statement,
        sqlparser::ast::{self, AccessExpr, Expr, ExprWithAlias, Value, visit_expressions_mut},
    },
};

use super::names::{Spellings, Wanted, named};

/// The query that a text is.
pub(super) async fn query(context: &SessionContext, text: &str) -> Result<DataFrame> {
    let state = context.state();
    let dialect = state.config().options().sql_parser.dialect;
    let mut statement = state.sql_to_statement(text, &dialect)?;
    let mut spellings = Spellings::default();
    for table in state.resolve_table_references(&statement)? {
        // A table of the text's own isn't known yet.
        if let Ok(table) = context.table_provider(table).await {
            spellings.add(table.schema().fields());
        }
    }
    let mut wanted = None;
    if let Statement::Statement(statement) = &mut statement {
        if let ast::Statement::Query(query) = statement.as_ref() {
            wanted = Some(Wanted::of(query));
        }
        spellings.quote(statement.as_mut());
        let _: ControlFlow<()> = visit_expressions_mut(statement.as_mut(), |expression| {
            name_fields(expression);
            ControlFlow::Continue(())
        });
    }
    let mut plan = state.statement_to_plan(statement).await?;
    SQLOptions::new()
        .with_allow_ddl(false)
        .with_allow_dml(false)
        .with_allow_statements(false)
        .verify_plan(&plan)?;
    if let Some(wanted) = wanted {
        plan = wanted.name(plan)?;
    }
    context.execute_logical_plan(plan).await
}

/// The expression that a text is, over these columns.
pub(crate) fn expression(
    context: &SessionContext,
    text: &str,
    schema: &DFSchema,
) -> Result<LogicalExpr> {
    let parsed = parse(context, text)?;
    plan(context, parsed, schema)
}

/// The column that a text is, over these columns, with the name that it would have in a `SELECT`.
pub(crate) fn selected(
    context: &SessionContext,
    text: &str,
    schema: &DFSchema,
) -> Result<LogicalExpr> {
    let parsed = parse(context, text)?;
    let wanted = match &parsed.alias {
        Some(alias) => Some(alias.value.clone()),
        None => named(&parsed.expr),
    };
    let planned = plan(context, parsed, schema)?;
    Ok(match wanted {
        Some(name) if planned.qualified_name().1 != name => planned.unalias().alias(name),
        _ => planned,
    })
}

fn parse(context: &SessionContext, text: &str) -> Result<ExprWithAlias> {
    let state = context.state();
    let dialect = state.config().options().sql_parser.dialect;
    state.sql_to_expr_with_alias(text, &dialect)
}

fn plan(
    context: &SessionContext,
    mut parsed: ExprWithAlias,
    schema: &DFSchema,
) -> Result<LogicalExpr> {
    let mut spellings = Spellings::default();
    spellings.add(schema.fields());
    spellings.quote(&mut parsed.expr);
    let _: ControlFlow<()> = visit_expressions_mut(&mut parsed.expr, |expression| {
        name_fields(expression);
        ControlFlow::Continue(())
    });
    context
        .state()
        .create_logical_expr_from_sql_expr(parsed, schema)
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
