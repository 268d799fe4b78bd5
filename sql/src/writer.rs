//! Writing streams.

use std::{fmt::Display, sync::Arc};

use arrow::{datatypes::SchemaRef, record_batch::RecordBatch};
use datafusion::{
    common::{
        Column, TableReference,
        tree_node::{Transformed, TreeNode},
    },
    logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder},
    physical_plan::{ExecutionPlan, empty::EmptyExec},
};
use millstream_common::ids::StageId;
use millstream_dataflow::plan::OutputPlan;

use crate::{
    engine::PLANNED_PARTITIONS,
    error::Error,
    frame::DataFrame,
    input::InputExec,
    options::Options,
    output_mode::OutputMode,
    plan::{check, cut, origin::Origin, rewrite},
    query::{Description, StreamingQuery},
    session::{NewQuery, Progress, Session, is_among},
    sinks::{SinkSpec, Wanted, memory::MemoryTable},
    sources::Bounds,
    table,
    trigger::Trigger,
};

/// What planners call the tables of readers, which have no name.
const UNNAMED: &str = "?table?.";

/// Where a stream is written to; made by [`DataFrame::write_stream`].
pub struct DataStreamWriter {
    frame: DataFrame,
    target: Target,
    mode: Result<OutputMode, Error>,
    options: Options,
    partition_by: Vec<String>,
    name: Option<String>,
    trigger: Trigger,
}

enum Target {
    None,
    Format(String),
    Function(crate::sinks::memory::BatchFunction),
}

impl DataStreamWriter {
    pub(crate) fn new(frame: DataFrame) -> Self {
        Self {
            frame,
            target: Target::None,
            mode: Ok(OutputMode::default()),
            options: Options::default(),
            partition_by: Vec::new(),
            name: None,
            trigger: Trigger::default(),
        }
    }

    /// Where to: `console`, `csv`, `json`, `kafka`, `memory`, `noop`, `parquet` or `text`.
    #[must_use]
    pub fn format(mut self, format: &str) -> Self {
        self.target = Target::Format(format.to_owned());
        self
    }

    /// Calls a function with each batch and its number, on the driver. After a restart in mid-batch it is called again with the same number. The rows must fit
    /// the driver's memory.
    #[must_use]
    pub fn for_each_batch<F>(mut self, function: F) -> Self
    where
        F: Fn(DataFrame, u64) -> Result<(), Error> + Send + Sync + 'static,
    {
        self.target = Target::Function(Arc::new(function));
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

    /// Sets options.
    #[must_use]
    pub fn options<'a>(mut self, options: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        for (name, value) in options {
            self.options.set(name, &value);
        }
        self
    }

    /// Columns whose values name the folders that files go to.
    #[must_use]
    pub fn partition_by<'a>(mut self, columns: impl IntoIterator<Item = &'a str>) -> Self {
        self.partition_by = columns.into_iter().map(str::to_owned).collect();
        self
    }

    /// When batches run; by default back to back.
    #[must_use]
    pub fn trigger(mut self, trigger: Trigger) -> Self {
        self.trigger = trigger;
        self
    }

    /// Names the query: for logs, for its folder below the session's checkpoint, and the table of format `memory`.
    #[must_use]
    pub fn query_name(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// The same as [`start`](Self::start), to files in this folder.
    ///
    /// # Errors
    /// As there.
    pub fn start_at(self, folder: &str) -> Result<StreamingQuery, Error> {
        self.option("path", folder).start()
    }

    /// Checks the query, plans it, and begins to run it.
    ///
    /// # Errors
    /// What streams can't do, with what to do instead; a format or option that isn't one; a checkpoint of another query.
    pub fn start(mut self) -> Result<StreamingQuery, Error> {
        let mode = self.mode?;
        let session = self.frame.session().clone();
        if !table::reads_stream(self.frame.plan()) {
            return Err(Error::refused(
                "'writeStream' can be called only on streaming Dataset/DataFrame",
                "begin with read_stream",
            ));
        }
        let checkpoint = self.options.take("checkpointLocation");
        let named = self.partition_by.into_iter();
        let wanted = Wanted {
            mode,
            partition_by: named.map(|name| self.frame.spelled(name)).collect(),
            session: &session,
        };
        let sink = match self.target {
            Target::None => {
                return Err(Error::option(
                    "format",
                    "",
                    "say where the stream is written to",
                ));
            }
            Target::Format(format) => SinkSpec::of(&format, self.options, wanted)?,
            Target::Function(function) => {
                self.options
                    .all_taken("for_each_batch", &["checkpointLocation"])?;
                SinkSpec::ForEachBatch(function)
            }
        };
        let reads = table::folders(self.frame.plan());
        if let SinkSpec::Files(files) = &sink
            && let Some(folder) = files.folder.to_str()
            && is_among(folder, &reads)
        {
            return Err(Error::option(
                "path",
                folder,
                "the query reads this folder, and would read what it writes",
            ));
        }
        if matches!(sink, SinkSpec::Memory) && self.name.is_none() {
            return Err(Error::refused(
                "queryName must be specified for memory sink",
                "name the query with query_name: the table has its name",
            ));
        }
        if let (SinkSpec::Memory, Some(name)) = (&sink, &self.name)
            && !matches!(
                TableReference::from(name.as_str()),
                TableReference::Bare { .. }
            )
        {
            return Err(Error::option(
                "queryName",
                name,
                "the table of format memory has this name: leave the dots out",
            ));
        }
        let planned = Planned::of(&session, self.frame.plan(), Some(mode), &sink)?;
        let table = matches!(sink, SinkSpec::Memory).then(|| MemoryTable::new(&planned.schema));
        let output = sink.driver(&planned.schema, mode, table.as_ref(), &session);
        let name = self.name.clone();
        let query = session.begin(NewQuery {
            name: self.name,
            checkpoint: checkpoint.map_or(Progress::Default, Progress::At),
            reads,
            recovers: !matches!(sink, SinkSpec::Memory) || mode == OutputMode::Complete,
            is_passing: false,
            description: planned.description,
            trigger: self.trigger.rule(),
            bounds: Bounds {
                only_present: matches!(self.trigger, Trigger::Once | Trigger::AvailableNow),
                at_once: self.trigger == Trigger::Once,
            },
            event_times: planned.event_times,
            cut: planned.cut,
            output,
        })?;
        if let (Some(name), Some(table)) = (name, table) {
            session.context().deregister_table(name.as_str())?;
            session
                .context()
                .register_table(name.as_str(), Arc::new(table))?;
        }
        Ok(query)
    }
}

/// A query that was planned for a sink.
struct Planned {
    schema: SchemaRef,
    physical: Arc<dyn ExecutionPlan>,
    description: Description,
    event_times: Vec<millstream_driver::query::event::EventTime>,
    cut: Box<dyn FnOnce(u32) -> Result<cut::Stages, Error> + Send>,
}

impl Planned {
    /// Without a mode the rows don't grow, and streams' rules don't hold.
    fn of(
        session: &Session,
        plan: &LogicalPlan,
        mode: Option<OutputMode>,
        sink: &SinkSpec,
    ) -> Result<Self, Error> {
        let origin = Origin::of(plan)?;
        let (plan, event_times) = rewrite::rewrite(plan.clone(), session.zone_name())?;
        if let Some(mode) = mode {
            check::check(&plan, mode)?;
        }
        let mode = mode.unwrap_or(OutputMode::Complete);
        let named = with_names(&plan)?;
        let logical = named.display_indent().to_string();
        let physical = session.plan(named)?;
        let schema = physical.schema();
        sink.check(&schema)?;
        let output = cut::Output {
            plan: OutputPlan {
                id: format!("{}-0", sink.kind()),
                kind: sink.kind().to_owned(),
                stage: StageId(0),
                settings: sink.fingerprint(mode),
            },
            exit: sink.exit(session.build_id()),
            speculative: sink.is_speculative(),
        };
        let description = Description {
            logical,
            physical: datafusion::physical_plan::displayable(physical.as_ref())
                .indent(false)
                .to_string(),
            sink: sink.description(),
        };
        let zone = session.zone_name().to_owned();
        let query = cut::Planned {
            plan: Arc::clone(&physical),
            mode,
            origin,
        };
        let cut = move |parallelism| cut::cut(query, output, parallelism, &zone);
        Ok(Self {
            schema,
            physical,
            description,
            event_times,
            cut: Box::new(cut),
        })
    }
}

/// Runs a query over what doesn't grow, to its end, and gives its rows.
pub(crate) fn collect(
    session: &Session,
    plan: &LogicalPlan,
) -> Result<(SchemaRef, Vec<RecordBatch>), Error> {
    let sink = SinkSpec::Memory;
    let planned = Planned::of(session, plan, None, &sink)?;
    let table = MemoryTable::new(&planned.schema);
    let output = sink.driver(&planned.schema, OutputMode::Append, Some(&table), session);
    // Deleted at the end.
    let scratch = session.scratch()?;
    let checkpoint = scratch
        .as_ref()
        .map(|folder| folder.path().display().to_string());
    let query = session.begin(NewQuery {
        name: None,
        checkpoint: checkpoint.map_or(Progress::Forgotten, Progress::At),
        reads: Vec::new(),
        recovers: true,
        is_passing: true,
        description: planned.description,
        trigger: Trigger::Once.rule(),
        bounds: Bounds {
            only_present: true,
            at_once: true,
        },
        event_times: Vec::new(),
        cut: planned.cut,
        output,
    })?;
    query.await_termination()?;
    let rows = match query.last_progress() {
        Some(_) => table.rows(),
        // Broken off: nothing would look like all there is.
        None if session.is_ending() => return Err(session.ended()),
        None => rows_of_nothing(session, planned.physical)?,
    };
    Ok((planned.schema, rows))
}

/// What a query makes of no input at all, where no batch runs: an aggregate over everything has a row all the same.
fn rows_of_nothing(
    session: &Session,
    plan: Arc<dyn ExecutionPlan>,
) -> Result<Vec<RecordBatch>, Error> {
    let without_input = plan.transform_up(|node| {
        if !node.is::<InputExec>() {
            return Ok(Transformed::no(node));
        }
        let nothing = EmptyExec::new(node.schema()).with_partitions(PLANNED_PARTITIONS);
        let nothing: Arc<dyn ExecutionPlan> = Arc::new(nothing);
        Ok(Transformed::yes(nothing))
    })?;
    let context = session.context().task_ctx();
    let computed =
        async move { datafusion::physical_plan::collect(without_input.data, context).await };
    Ok(session.wait(computed)??)
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
