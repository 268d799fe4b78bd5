//! Writing streams.

use std::{fmt::Display, sync::Arc};

use datafusion::{
    common::Column,
    logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder},
};
use millstream_common::ids::StageId;
use millstream_dataflow::plan::OutputPlan;

use crate::{
    error::Error,
    frame::DataFrame,
    output_mode::OutputMode,
    plan::{check, cut},
    query::StreamingQuery,
    reader::Options,
    session::{NewQuery, Session},
    sinks::SinkSpec,
    table,
};

/// What planners call the tables of readers, which have no name.
const UNNAMED: &str = "?table?.";

/// Where a stream is written to; made by [`DataFrame::write_stream`].
pub struct DataStreamWriter {
    frame: DataFrame,
    format: Option<String>,
    mode: Result<OutputMode, Error>,
    options: Options,
    name: Option<String>,
}

impl DataStreamWriter {
    pub(crate) fn new(frame: DataFrame) -> Self {
        Self {
            frame,
            format: None,
            mode: Ok(OutputMode::default()),
            options: Options::default(),
            name: None,
        }
    }

    /// Where to: `console` or `noop`.
    #[must_use]
    pub fn format(mut self, format: &str) -> Self {
        self.format = Some(format.to_owned());
        self
    }

    /// What each batch writes; by default [`OutputMode::Append`]. Takes a mode, or its name.
    #[must_use]
    pub fn output_mode<M>(mut self, mode: M) -> Self
    where
        M: TryInto<OutputMode>,
        M::Error: Into<Error>,
    {
        self.mode = mode.try_into().map_err(Into::into);
        self
    }

    /// Sets an option of the format, or `checkpointLocation`, by Spark's name or the same in snake case.
    #[must_use]
    pub fn option(mut self, name: &str, value: impl Display) -> Self {
        self.options.set(name, &value);
        self
    }

    /// Names the query: for logs, and for its folder below the session's checkpoint.
    #[must_use]
    pub fn query_name(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// Checks the query, plans it, and begins to run it.
    ///
    /// # Errors
    /// What streams can't do, with what to do instead; a format or option that isn't one; a checkpoint of another query.
    pub fn start(mut self) -> Result<StreamingQuery, Error> {
        let mode = self.mode?;
        let format = self
            .format
            .ok_or_else(|| Error::option("format", "", "say where the stream is written to"))?;
        let session = self.frame.session().clone();
        let plan = self.frame.plan();
        if !table::reads_stream(plan) {
            return Err(Error::refused(
                "'writeStream' can be called only on streaming Dataset/DataFrame",
                "begin with read_stream",
            ));
        }
        check::check(plan, mode)?;
        let checkpoint = self.options.take("checkpointLocation");
        let sink = SinkSpec::of(&format, self.options)?;
        let named = with_names(plan)?;
        let text = named.display_indent().to_string();
        let physical = session.plan(named)?;
        let schema = physical.schema();
        let output = cut::Output {
            plan: OutputPlan {
                id: format!("{}-0", sink.kind()),
                kind: sink.kind().to_owned(),
                stage: StageId(0),
                settings: sink.fingerprint(mode),
            },
            exit: sink.exit(),
            speculative: true,
        };
        let zone = session.zone_name().to_owned();
        let cut = move |parallelism| cut::cut(&physical, output, mode, parallelism, &zone);
        start(
            &session,
            NewQuery {
                name: self.name,
                checkpoint,
                text,
                cut: Box::new(cut),
                output: sink.driver(&schema, session.console(), session.zone()),
            },
        )
    }
}

fn start(session: &Session, query: NewQuery) -> Result<StreamingQuery, Error> {
    session.begin(query)
}

/// Columns of tables without a name carry none before theirs.
fn with_names(plan: &LogicalPlan) -> Result<LogicalPlan, Error> {
    let schema = plan.schema();
    let columns = schema.iter().map(|(qualifier, field)| {
        let column = Expr::Column(Column::new(qualifier.cloned(), field.name()));
        let name = field.name().replace(UNNAMED, "");
        column.alias(name)
    });
    let columns: Vec<Expr> = columns.collect();
    Ok(LogicalPlanBuilder::new_from_arc(Arc::new(plan.clone()))
        .project(columns)?
        .build()?)
}
