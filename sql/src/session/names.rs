//! Names in SQL text keep their case and are matched without regard to it, as Spark's.
//!
//! The engine's planner lower-cases names that aren't quoted. Names of columns that have capitals are quoted before, as their tables spell them; and the columns
//! of the result are named as the text spells them afterwards.

use std::{collections::BTreeMap, ops::ControlFlow, sync::Arc};

use arrow::datatypes::{DataType, Field, Fields};
use datafusion::{
    common::Column,
    error::Result,
    logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder},
    sql::sqlparser::ast::{
        self, BinaryOperator, DuplicateTreatment, FunctionArg, FunctionArgExpr, FunctionArguments,
        Ident, ObjectName, ObjectNamePart, Query, SelectItem, SetExpr, TableFactor, UnaryOperator,
        Value, VisitMut, VisitorMut,
    },
};

/// How columns are spelled, by their names in small letters.
#[derive(Default)]
pub(crate) struct Spellings {
    /// None: in several ways.
    known: BTreeMap<String, Option<String>>,
    /// Names of tables in the text, which are none of columns.
    tables: Vec<String>,
}

impl Spellings {
    /// Takes the columns of a table, and the fields within.
    pub(crate) fn add(&mut self, fields: &Fields) {
        for field in fields {
            self.add_field(field);
        }
    }

    fn add_field(&mut self, field: &Field) {
        let name = field.name();
        let spelling = self
            .known
            .entry(name.to_lowercase())
            .or_insert_with(|| Some(name.clone()));
        if spelling.as_ref() != Some(name) {
            *spelling = None;
        }
        match field.data_type() {
            DataType::Struct(fields) => self.add(fields),
            DataType::List(element) | DataType::LargeList(element) => self.add_field(element),
            DataType::Map(entries, _) => self.add_field(entries),
            _ => {}
        }
    }

    /// Quotes a name that the planner would lower-case away from its column.
    fn spell(&self, name: &mut Ident) {
        if name.quote_style.is_some() {
            return;
        }
        let small = name.value.to_lowercase();
        if let Some(Some(spelling)) = self.known.get(&small)
            && *spelling != small
        {
            name.value.clone_from(spelling);
            name.quote_style = Some('"');
        }
    }
}

/// Finds the names of tables, which come after what is selected from them.
struct Tables<'s>(&'s mut Spellings);

impl VisitorMut for Tables<'_> {
    type Break = ();

    fn pre_visit_table_factor(&mut self, table: &mut TableFactor) -> ControlFlow<()> {
        let (name, alias) = match table {
            TableFactor::Table { name, alias, .. } => (last_part(name), alias),
            TableFactor::Derived { alias, .. } => (None, alias),
            _ => (None, &mut None),
        };
        let spellings = &mut *self.0;
        let name = name.map(|name| name.value.to_lowercase());
        spellings.tables.extend(name);
        if let Some(alias) = alias {
            spellings.tables.push(alias.name.value.to_lowercase());
            for column in &mut alias.columns {
                spellings.spell(&mut column.name);
            }
        }
        ControlFlow::Continue(())
    }
}

impl VisitorMut for Spellings {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        self.spell_aliases(&mut query.body);
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expression: &mut ast::Expr) -> ControlFlow<()> {
        match expression {
            ast::Expr::Identifier(name) => self.spell(name),
            ast::Expr::CompoundIdentifier(names) => {
                for (position, name) in names.iter_mut().enumerate() {
                    let is_table = self.tables.contains(&name.value.to_lowercase());
                    if position > 0 || !is_table {
                        self.spell(name);
                    }
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

impl Spellings {
    /// Quotes what needs it in a text.
    pub(crate) fn quote(&mut self, text: &mut impl VisitMut) {
        let _: ControlFlow<()> = text.visit(&mut Tables(self));
        let _: ControlFlow<()> = text.visit(self);
    }

    fn spell_aliases(&self, body: &mut SetExpr) {
        match body {
            SetExpr::Select(select) => {
                for item in &mut select.projection {
                    if let SelectItem::ExprWithAlias { alias, .. } = item {
                        self.spell(alias);
                    }
                }
            }
            SetExpr::SetOperation { left, right, .. } => {
                self.spell_aliases(left);
                self.spell_aliases(right);
            }
            _ => {}
        }
    }
}

fn last_part(name: &ObjectName) -> Option<&Ident> {
    match name.0.last()? {
        ObjectNamePart::Identifier(name) => Some(name),
        ObjectNamePart::Function(_) => None,
    }
}

/// What a query's columns are to be called.
pub(super) struct Wanted(Vec<Item>);

enum Item {
    Named(String),
    /// As the engine has it.
    Unnamed,
    /// All columns of the input, or of a table.
    All,
}

impl Wanted {
    /// Of the outermost select of a text.
    pub(super) fn of(query: &Query) -> Self {
        let mut body = query.body.as_ref();
        let select = loop {
            match body {
                SetExpr::Select(select) => break select,
                SetExpr::SetOperation { left, .. } => body = left,
                SetExpr::Query(query) => body = &query.body,
                _ => return Self(Vec::new()),
            }
        };
        let items = select.projection.iter().map(|item| match item {
            SelectItem::ExprWithAlias { alias, .. } => Item::Named(alias.value.clone()),
            SelectItem::UnnamedExpr(expression) => {
                named(expression).map_or(Item::Unnamed, Item::Named)
            }
            _ => Item::All,
        });
        Self(items.collect())
    }

    /// The plan with its columns under these names.
    pub(super) fn name(&self, plan: LogicalPlan) -> Result<LogicalPlan> {
        let count = plan.schema().fields().len();
        let all = self.0.iter().filter(|item| matches!(item, Item::All));
        let rest = self.0.len() - all.clone().count();
        let in_all = match all.count() {
            0 if rest == count => 0,
            1 if rest <= count => count - rest,
            // It can't be told which column is which.
            _ => return Ok(plan),
        };
        let mut names: Vec<Option<&str>> = Vec::with_capacity(count);
        for item in &self.0 {
            match item {
                Item::Named(name) => names.push(Some(name)),
                Item::Unnamed => names.push(None),
                Item::All => names.extend(std::iter::repeat_n(None, in_all)),
            }
        }
        let mut changed = false;
        let mut columns = Vec::with_capacity(count);
        let mut taken: Vec<&str> = Vec::with_capacity(count);
        let schema = Arc::clone(plan.schema());
        for ((qualifier, field), name) in schema.iter().zip(names) {
            let column = Expr::Column(Column::new(qualifier.cloned(), field.name()));
            let name = name.unwrap_or(field.name());
            if taken.contains(&name) {
                return Ok(plan);
            }
            taken.push(name);
            if name == field.name() {
                columns.push(column);
            } else {
                changed = true;
                columns.push(column.alias(name));
            }
        }
        if !changed {
            return Ok(plan);
        }
        LogicalPlanBuilder::new(plan).project(columns)?.build()
    }
}

/// What Spark calls a column without a name of its own, as far as the engine calls it otherwise.
pub(super) fn named(expression: &ast::Expr) -> Option<String> {
    match expression {
        // A number alone is called otherwise.
        ast::Expr::Value(_) | ast::Expr::Nested(_) => None,
        other => text(other),
    }
}

/// Names of columns, numbers, arithmetic and aggregates of them.
fn text(expression: &ast::Expr) -> Option<String> {
    match expression {
        ast::Expr::Identifier(name) => Some(name.value.clone()),
        ast::Expr::CompoundIdentifier(names) => names.last().map(|name| name.value.clone()),
        ast::Expr::Nested(inside) => text(inside),
        ast::Expr::Value(value) => match &value.value {
            Value::Number(number, _) => Some(number.clone()),
            _ => None,
        },
        ast::Expr::BinaryOp { left, op, right } => {
            let is_arithmetic = matches!(
                op,
                BinaryOperator::Plus
                    | BinaryOperator::Minus
                    | BinaryOperator::Multiply
                    | BinaryOperator::Divide
                    | BinaryOperator::Modulo
            );
            let (left, right) = (text(left)?, text(right)?);
            is_arithmetic.then(|| format!("({left} {op} {right})"))
        }
        ast::Expr::UnaryOp {
            op: UnaryOperator::Minus,
            expr,
        } => text(expr).map(|value| format!("(- {value})")),
        ast::Expr::Function(function) => aggregate(function),
        _ => None,
    }
}

fn aggregate(function: &ast::Function) -> Option<String> {
    let [ObjectNamePart::Identifier(name)] = function.name.0.as_slice() else {
        return None;
    };
    let name = name.value.to_lowercase();
    let is_plain = function.filter.is_none() && function.over.is_none();
    let is_known = matches!(name.as_str(), "count" | "sum" | "avg" | "min" | "max");
    let FunctionArguments::List(list) = &function.args else {
        return None;
    };
    if !is_known || !is_plain || !list.clauses.is_empty() {
        return None;
    }
    let distinct = match list.duplicate_treatment {
        Some(DuplicateTreatment::Distinct) => "DISTINCT ",
        _ => "",
    };
    let mut arguments = Vec::new();
    for argument in &list.args {
        let FunctionArg::Unnamed(argument) = argument else {
            return None;
        };
        arguments.push(match argument {
            FunctionArgExpr::Expr(expression) => text(expression)?,
            FunctionArgExpr::Wildcard => "1".to_owned(),
            _ => return None,
        });
    }
    Some(format!("{name}({distinct}{})", arguments.join(", ")))
}
