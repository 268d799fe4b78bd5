//! A query under construction.
//!
//! Layout:
//! - `columns`: columns left out, renamed, or given as SQL text

mod columns;

use std::sync::Arc;

use arrow::{datatypes::SchemaRef, record_batch::RecordBatch};
use datafusion::{
    common::{
        Column,
        tree_node::{Transformed, TreeNode},
    },
    functions_aggregate::expr_fn::{count, max, min},
    logical_expr::{Expr, LogicalPlan, ScalarUDF, lit},
    prelude,
};

use crate::{
    error::Error,
    functions::{
        avg::avg,
        checked_sum::sum,
        event_time::{EventTimeFunction, SeenFunction},
        explode::ExplodeFunction,
        from_json::FromJsonFunction,
        interval,
        planner::divided,
        split::SPLIT,
        window::WindowFunction,
    },
    plan::rewrite,
    session::{self, Session},
    show::{self, Shown},
    table,
    writer::{self, DataStreamWriter},
};

/// A column by name, or an expression.
pub trait IntoColumn {
    /// The expression.
    ///
    /// # Errors
    /// When there is no such column.
    fn into_column(self, frame: &DataFrame) -> Result<Expr, Error>;
}

impl IntoColumn for Expr {
    fn into_column(self, frame: &DataFrame) -> Result<Expr, Error> {
        frame.in_session(self)
    }
}

impl IntoColumn for &str {
    fn into_column(self, frame: &DataFrame) -> Result<Expr, Error> {
        frame.column(self)
    }
}

impl IntoColumn for String {
    fn into_column(self, frame: &DataFrame) -> Result<Expr, Error> {
        frame.column(&self)
    }
}

/// A condition: an expression, or SQL text such as `salary > 1000`.
pub trait IntoCondition {
    /// The expression.
    ///
    /// # Errors
    /// When the text can't be read.
    fn into_condition(self, frame: &DataFrame) -> Result<Expr, Error>;
}

impl IntoCondition for Expr {
    fn into_condition(self, frame: &DataFrame) -> Result<Expr, Error> {
        frame.in_session(self)
    }
}

impl IntoCondition for &str {
    fn into_condition(self, frame: &DataFrame) -> Result<Expr, Error> {
        let context = frame.session.context();
        Ok(session::expression(context, self, frame.inner.schema())?)
    }
}

/// Rows with named columns: a stream, or what a query makes of one. Nothing is computed before a writer starts.
#[derive(Clone)]
pub struct DataFrame {
    session: Session,
    inner: prelude::DataFrame,
}

impl DataFrame {
    pub(crate) fn new(session: Session, inner: prelude::DataFrame) -> Self {
        Self { session, inner }
    }

    fn with(&self, inner: prelude::DataFrame) -> Self {
        Self::new(self.session.clone(), inner)
    }

    pub(crate) fn session(&self) -> &Session {
        &self.session
    }

    pub(crate) fn plan(&self) -> &LogicalPlan {
        self.inner.logical_plan()
    }

    /// An expression that was written without the session.
    fn in_session(&self, expression: Expr) -> Result<Expr, Error> {
        let zone = self.session.zone_name();
        let expression = FromJsonFunction::in_zone(expression, zone)?;
        let schema = self.inner.schema();
        let settled = expression.transform_up(|inside| match inside {
            Expr::Column(mut column) => {
                let spelling = match schema.maybe_index_of_column(&column) {
                    None if column.relation.is_none() => self.spelling(&column.name),
                    _ => None,
                };
                if let Some(spelling) = spelling {
                    spelling.clone_into(&mut column.name);
                    return Ok(Transformed::yes(Expr::Column(column)));
                }
                Ok(Transformed::no(Expr::Column(column)))
            }
            inside => divided(inside, schema),
        })?;
        Ok(settled.data)
    }

    /// The column of this name, or the one that has it in another case.
    fn known(&self, name: &str) -> Option<&str> {
        let fields = self.inner.schema().fields().iter();
        let mut names = fields.map(|field| field.name().as_str());
        names
            .find(|known| *known == name)
            .or_else(|| self.spelling(name))
    }

    /// The name as its column has it, where there is one of it in any case.
    pub(crate) fn spelled(&self, name: String) -> String {
        self.known(&name).map_or(name, str::to_owned)
    }

    /// The one column of this name in any case.
    fn spelling(&self, name: &str) -> Option<&str> {
        let fields = self.inner.schema().fields().iter();
        let names = fields.map(|field| field.name().as_str());
        let mut found = names.filter(|known| known.to_lowercase() == name.to_lowercase());
        let first = found.next();
        first.filter(|_| found.next().is_none())
    }

    fn column(&self, name: &str) -> Result<Expr, Error> {
        if let Some(known) = self.known(name) {
            return Ok(Expr::Column(Column::from_name(known)));
        }
        let fields = self.inner.schema().fields();
        let mut near: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
        near.sort_by_key(|known| strsim::levenshtein(known, name));
        near.truncate(5);
        Err(Error::Plan(format!(
            "there is no column `{name}`; the nearest are {}",
            near.join(", ")
        )))
    }

    /// The columns.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(self.inner.schema().inner())
    }

    /// Whether it grows.
    pub fn is_streaming(&self) -> bool {
        table::reads_stream(self.plan())
    }

    /// Some of the columns, or expressions of them.
    ///
    /// # Errors
    /// When there is no such column.
    pub fn select<C: IntoColumn>(
        &self,
        columns: impl IntoIterator<Item = C>,
    ) -> Result<Self, Error> {
        let mut expressions = Vec::new();
        for column in columns {
            expressions.push(column.into_column(self)?);
        }
        Ok(self.with(self.inner.clone().select(expressions)?))
    }

    /// A call of a function by name: of the program's own, or one that SQL has.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn call(&self, function: &str, arguments: Vec<Expr>) -> Result<Expr, Error> {
        Ok(self.session.function(function)?.call(arguments))
    }

    /// Rows for which the condition is true.
    ///
    /// # Errors
    /// When the condition can't be read, or names no column of this.
    pub fn filter(&self, condition: impl IntoCondition) -> Result<Self, Error> {
        let condition = condition.into_condition(self)?;
        Ok(self.with(self.inner.clone().filter(condition)?))
    }

    /// The same as [`filter`](Self::filter).
    ///
    /// # Errors
    /// As there.
    pub fn where_(&self, condition: impl IntoCondition) -> Result<Self, Error> {
        self.filter(condition)
    }

    /// With one column more, or another in its place.
    ///
    /// # Errors
    /// When the expression names no column of this.
    pub fn with_column(&self, name: &str, value: impl IntoCondition) -> Result<Self, Error> {
        let value = value.into_condition(self)?;
        let name = self.known(name).unwrap_or(name);
        Ok(self.with(self.inner.clone().with_column(name, value)?))
    }

    /// Declares that event times in this column are at most `delay` late, such as `10 minutes`: aggregates by the column, or by a window of it, let
    /// groups go that are over by then. Times further ahead of their batch than `watermark.max_ahead` don't count.
    ///
    /// # Errors
    /// When there is no such column, it holds no timestamps, or the delay is no length of time.
    pub fn with_watermark(&self, column: &str, delay: &str) -> Result<Self, Error> {
        let micros = interval::micros(delay)
            .map_err(|reason| Error::option("watermark delay", delay, reason))?;
        if micros < 0 {
            return Err(Error::option(
                "watermark delay",
                delay,
                "it can't be negative",
            ));
        }
        let column = self.known(column).unwrap_or(column);
        let number = self.session.next_number().to_string();
        let watched = ScalarUDF::from(EventTimeFunction::default()).call(vec![
            self.column(column)?,
            lit(number),
            lit(micros / 1_000),
            lit(self.session.most_ahead_millis()),
        ]);
        // Watched even where nothing else reads the column.
        let seen = ScalarUDF::from(SeenFunction::default()).call(vec![self.column(column)?]);
        let inner = self.inner.clone().with_column(column, watched)?;
        Ok(self.with(inner.filter(seen)?))
    }

    /// The rows of both; columns go together by their places.
    ///
    /// # Errors
    /// When the columns don't fit.
    pub fn union(&self, other: &Self) -> Result<Self, Error> {
        Ok(self.with(self.inner.clone().union(other.inner.clone())?))
    }

    /// Sorted; of streams only aggregates in complete mode are.
    ///
    /// # Errors
    /// When there is no such column.
    pub fn order_by<C: IntoColumn>(
        &self,
        columns: impl IntoIterator<Item = C>,
    ) -> Result<Self, Error> {
        let mut order = Vec::new();
        for column in columns {
            // As Spark: nulls come first going up.
            order.push(column.into_column(self)?.sort(true, true));
        }
        Ok(self.with(self.inner.clone().sort(order)?))
    }

    /// Groups rows by columns; by none makes one group of all.
    ///
    /// # Errors
    /// When there is no such column.
    pub fn group_by<C: IntoColumn>(
        &self,
        columns: impl IntoIterator<Item = C>,
    ) -> Result<GroupedData, Error> {
        let mut keys = Vec::new();
        for column in columns {
            keys.push(column.into_column(self)?);
        }
        Ok(GroupedData {
            frame: self.clone(),
            keys,
        })
    }

    /// Makes it known to [`Session::sql`] by this name.
    ///
    /// # Errors
    /// When the name can't be one.
    pub fn create_or_replace_temp_view(&self, name: &str) -> Result<(), Error> {
        let context = self.session.context();
        context.deregister_table(name)?;
        context.register_table(name, self.inner.clone().into_view())?;
        Ok(())
    }

    /// Its rows; not of a stream.
    ///
    /// # Errors
    /// For a stream; when reading or computing fails.
    pub fn collect(&self) -> Result<Vec<RecordBatch>, Error> {
        self.computed().map(|(_, rows)| rows)
    }

    fn computed(&self) -> Result<(SchemaRef, Vec<RecordBatch>), Error> {
        if self.is_streaming() {
            return Err(Error::refused(
                "Queries with streaming sources must be executed with writeStream.start()",
                "write it with write_stream",
            ));
        }
        if table::reads_files(self.plan()) {
            return writer::collect(&self.session, self.plan());
        }
        let (plan, _) = rewrite::rewrite(self.plan().clone(), self.session.zone_name())?;
        let inner = prelude::DataFrame::new(self.session.context().state(), plan);
        let schema = self.schema();
        let rows = self.session.wait(async move { inner.collect().await })??;
        Ok((schema, rows))
    }

    /// How many rows it has; not of a stream.
    ///
    /// # Errors
    /// As [`collect`](Self::collect).
    pub fn count(&self) -> Result<usize, Error> {
        let rows = self.collect()?;
        Ok(rows.iter().map(RecordBatch::num_rows).sum())
    }

    /// Prints its first rows, 20 unless told, in Spark's layout; not of a stream.
    ///
    /// # Errors
    /// As [`collect`](Self::collect).
    pub fn show(&self, rows: impl Into<Option<usize>>) -> Result<(), Error> {
        show::check_columns(self.schema().fields(), "shown")?;
        let (schema, batches) = self.computed()?;
        let shown = Shown {
            rows: rows.into().unwrap_or(20),
            ..Shown::default()
        };
        let table = show::table_of(&schema, &batches, shown, self.session.zone())?;
        self.session.console().write(&format!("{table}\n"))?;
        Ok(())
    }

    /// Begins to write it.
    pub fn write_stream(&self) -> DataStreamWriter {
        DataStreamWriter::new(self.clone())
    }
}

/// The window of this length, such as `10 minutes`, that a time is in.
pub fn window(time: Expr, length: &str) -> Expr {
    ScalarUDF::from(WindowFunction::default()).call(vec![time, lit(length)])
}

/// The windows of this length that a time is in: one begins each `slide`, counted from `start` after midnight, such as `0 minutes`.
pub fn window_sliding(time: Expr, length: &str, slide: &str, start: &str) -> Expr {
    let arguments = vec![time, lit(length), lit(slide), lit(start)];
    ScalarUDF::from(WindowFunction::default()).call(arguments)
}

/// A row for each element of a list; to be selected, under a name if wanted.
pub fn explode(list: Expr) -> Expr {
    ScalarUDF::from(ExplodeFunction::default()).call(vec![list])
}

/// JSON in a text as a struct of these columns, such as `a INT, b STRING`. Times without a zone are in the session's, `time.zone`.
pub fn from_json(text: Expr, schema: &str) -> Expr {
    // The frame that takes the expression puts its session's zone in.
    ScalarUDF::from(FromJsonFunction::new("UTC")).call(vec![text, lit(schema)])
}

/// Text cut at a regular expression.
pub fn split(text: Expr, pattern: &str) -> Expr {
    SPLIT.function().call(vec![text, lit(pattern)])
}

/// Rows in groups, to be aggregated.
#[derive(Clone)]
pub struct GroupedData {
    frame: DataFrame,
    keys: Vec<Expr>,
}

impl GroupedData {
    /// The keys and these aggregates.
    ///
    /// # Errors
    /// When an expression is no aggregate, or names no column.
    pub fn agg(&self, aggregates: impl IntoIterator<Item = Expr>) -> Result<DataFrame, Error> {
        let inner = self.frame.inner.clone();
        let aggregates = aggregates.into_iter();
        let aggregates: Result<Vec<Expr>, Error> = aggregates
            .map(|aggregate| self.frame.in_session(aggregate))
            .collect();
        Ok(self
            .frame
            .with(inner.aggregate(self.keys.clone(), aggregates?)?))
    }

    /// The keys and `count`, the rows of each group.
    ///
    /// # Errors
    /// When a key can't be one.
    pub fn count(&self) -> Result<DataFrame, Error> {
        self.agg([count(lit(1i64)).alias("count")])
    }

    fn each(
        &self,
        name: &str,
        columns: &[&str],
        function: impl Fn(Expr) -> Expr,
    ) -> Result<DataFrame, Error> {
        let mut aggregates = Vec::new();
        for column in columns {
            let of = self.frame.column(column)?;
            aggregates.push(function(of).alias(format!("{name}({column})")));
        }
        self.agg(aggregates)
    }

    /// The keys and the sum of each of these columns, as `sum(column)`.
    ///
    /// # Errors
    /// When there is no such column, or it has no sum.
    pub fn sum(&self, columns: &[&str]) -> Result<DataFrame, Error> {
        self.each("sum", columns, sum)
    }

    /// The keys and the mean of each of these columns, as `avg(column)`.
    ///
    /// # Errors
    /// When there is no such column, or it has no mean.
    pub fn avg(&self, columns: &[&str]) -> Result<DataFrame, Error> {
        self.each("avg", columns, avg)
    }

    /// The keys and the smallest value of each of these columns, as `min(column)`.
    ///
    /// # Errors
    /// When there is no such column.
    pub fn min(&self, columns: &[&str]) -> Result<DataFrame, Error> {
        self.each("min", columns, min)
    }

    /// The keys and the largest value of each of these columns, as `max(column)`.
    ///
    /// # Errors
    /// When there is no such column.
    pub fn max(&self, columns: &[&str]) -> Result<DataFrame, Error> {
        self.each("max", columns, max)
    }
}
