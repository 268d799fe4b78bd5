//! A stage's code: decodes its plan for the task, feeds its leaves, and takes its rows where they go.
//!
//! Layout:
//! - `explode`: a row for each element of a list, where that needs no copies
//! - `grouped`: partial aggregation by one text, whose table of keys is `texts`
//! - `stateful`: what a stage that keeps groups does between its input and its plan

mod explode;
mod grouped;
mod stateful;
mod texts;

use std::{
    cell::RefCell,
    collections::VecDeque,
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
};

use arrow::{datatypes::SchemaRef, record_batch::RecordBatch};
use datafusion::{
    execution::{SendableRecordBatchStream, memory_pool::MemoryPool},
    physical_plan::ExecutionPlanProperties,
};
use datafusion_proto::bytes::physical_plan_from_bytes_with_extension_codec;
use jiff::tz::TimeZone;
use millstream_common::{
    failure::{Failure, FailureKind},
    protocol::{StateFile, TaskInput, TaskOutput},
    routing::PartitionCount,
    time::SystemClock,
};
use millstream_dataflow::program::{StageProgram, TaskContext};
use tokio::runtime::Runtime;

use self::stateful::State;
use crate::{
    engine::SharedContext,
    error::{Error, task_failure},
    exchange::{ExchangeReader, ExchangeWriter, Route},
    functions::event_time,
    input::{Feed, InputCodec},
    ipc,
    pool::{CountingPool, Held},
    program::{ExitSpec, InputSpec, SchemaBytes, StageSpec},
    sinks::ExecutorSink,
    sources::{BatchReader, ExecutorSource},
};

thread_local! {
    /// Drives the plans of this slot.
    static RUNTIME: RefCell<Option<Runtime>> = const { RefCell::new(None) };
}

/// A stage, ready for tasks.
pub(crate) struct SqlStage {
    inputs: Vec<Input>,
    state: Option<State>,
    plan: Vec<u8>,
    schema: SchemaRef,
    exit: Exit,
    sources: Arc<[ExecutorSource]>,
    context: SharedContext,
    zone: TimeZone,
    clock: SystemClock,
}

enum Input {
    Source {
        branch: u32,
        source: usize,
        schema: SchemaRef,
        projection: Vec<usize>,
        projected: SchemaRef,
    },
    Exchange {
        list: usize,
        schema: SchemaRef,
    },
}

enum Exit {
    Exchange(Route),
    Collect(Option<usize>),
    Drop,
    Sink(Arc<ExecutorSink>),
}

/// Where a leaf's rows come from in one task.
enum Rows {
    Split(Box<dyn BatchReader>),
    Exchange(ExchangeReader),
    Given(VecDeque<RecordBatch>),
    /// The task's branch has none.
    None,
}

impl Rows {
    fn next(&mut self, task: &mut TaskContext<'_>) -> Result<Option<RecordBatch>, Failure> {
        task.cancel.check()?;
        match self {
            Self::Split(reader) => reader.next(task),
            Self::Exchange(reader) => reader.next(task),
            Self::Given(batches) => Ok(batches.pop_front()),
            Self::None => Ok(None),
        }
    }
}

type Each<'e, 't> = dyn FnMut(RecordBatch, &mut TaskContext<'t>) -> Result<(), Failure> + 'e;

impl SqlStage {
    pub(crate) fn new(
        spec: StageSpec,
        sources: &Arc<[ExecutorSource]>,
        context: &SharedContext,
        zone: &TimeZone,
    ) -> Result<Self, Error> {
        let mut inputs = Vec::with_capacity(spec.inputs.len());
        for input in spec.inputs {
            inputs.push(match input {
                InputSpec::Source {
                    branch,
                    source,
                    schema,
                    projection,
                } => {
                    let schema = schema.schema()?;
                    Input::Source {
                        branch,
                        source,
                        projected: Arc::new(schema.project(&projection)?),
                        schema,
                        projection,
                    }
                }
                InputSpec::Exchange { list, schema } => Input::Exchange {
                    list,
                    schema: schema.schema()?,
                },
            });
        }
        let state = match spec.state {
            Some(spec) => Some(State::new(spec)?),
            None => None,
        };
        let exit = match spec.exit {
            ExitSpec::Gather => Exit::Exchange(Route::Gather),
            ExitSpec::Hash {
                columns,
                partitions,
            } => Exit::Exchange(Route::Hash {
                columns,
                partitions: PartitionCount::new(partitions)
                    .map_err(|error| Error::internal(error.to_string()))?,
            }),
            ExitSpec::Collect { rows } => Exit::Collect(rows),
            ExitSpec::Drop => Exit::Drop,
            ExitSpec::Sink(sink) => Exit::Sink(Arc::new(ExecutorSink::new(sink))),
        };
        Ok(Self {
            inputs,
            state,
            plan: spec.plan,
            schema: SchemaBytes::schema(&spec.schema)?,
            exit,
            sources: Arc::clone(sources),
            context: Arc::clone(context),
            zone: zone.clone(),
            clock: SystemClock::new(),
        })
    }

    /// The sink that tasks write to.
    pub(crate) fn sink(&self) -> Option<Arc<ExecutorSink>> {
        match &self.exit {
            Exit::Sink(sink) => Some(Arc::clone(sink)),
            _ => None,
        }
    }

    fn open(&self, input: &Input, task: &mut TaskContext<'_>) -> Result<Rows, Failure> {
        match input {
            Input::Exchange { list, .. } => Ok(Rows::Exchange(ExchangeReader::open(*list, task)?)),
            Input::Source { branch, .. } if *branch != task.branch => Ok(Rows::None),
            Input::Source {
                source,
                schema,
                projection,
                ..
            } => {
                let TaskInput::Split { split, .. } = &task.input else {
                    return Err(Failure::new(
                        FailureKind::Internal,
                        "the task should read a split, but was given blocks",
                    ));
                };
                let spec = self.sources.get(*source).ok_or_else(|| {
                    Failure::new(
                        FailureKind::Internal,
                        format!("there is no source {source}"),
                    )
                })?;
                let reader = spec.open(split, schema, projection, &self.zone, task)?;
                Ok(Rows::Split(reader))
            }
        }
    }

    fn inputs(&self, task: &mut TaskContext<'_>) -> Result<Vec<(SchemaRef, Rows)>, Failure> {
        let mut opened = Vec::with_capacity(self.inputs.len());
        for input in &self.inputs {
            let schema = match input {
                Input::Source { projected, .. } => projected,
                Input::Exchange { schema, .. } => schema,
            };
            opened.push((Arc::clone(schema), self.open(input, task)?));
        }
        Ok(opened)
    }

    /// Runs a plan over these inputs, and hands its rows to `each`.
    fn drive<'t>(
        &self,
        plan: &[u8],
        inputs: Vec<(SchemaRef, Rows)>,
        task: &mut TaskContext<'t>,
        each: &mut Each<'_, 't>,
    ) -> Result<(), Failure> {
        let mut fed = Vec::with_capacity(inputs.len());
        let mut codec = InputCodec::default();
        for (schema, rows) in inputs {
            let feed = Feed::default();
            codec.inputs.push((schema, feed.clone()));
            fed.push((feed, rows));
        }
        let mut memory = Memory {
            pool: Arc::new(CountingPool::default()),
            held: Held::new(task.services, task.id),
        };
        let context = memory.pool.context(&self.context);
        let plan = physical_plan_from_bytes_with_extension_codec(plan, &context, &codec)
            .and_then(explode::in_place)
            .and_then(grouped::in_place)
            .map_err(|error| engine_failure(error.into()))?;
        let partitions = plan.output_partitioning().partition_count();
        with_runtime(|runtime| {
            for partition in 0..partitions {
                let stream = plan
                    .execute(partition, Arc::clone(&context))
                    .map_err(|error| engine_failure(error.into()))?;
                runtime.block_on(drain(stream, &mut fed, &mut memory, task, each))?;
            }
            Ok(())
        })
    }

    /// Runs the whole stage, and gives the files of its state.
    fn run_into<'t>(
        &self,
        task: &mut TaskContext<'t>,
        each: &mut Each<'_, 't>,
    ) -> Result<Vec<StateFile>, Failure> {
        match &self.state {
            None => {
                self.run_stateless(task, each)?;
                Ok(Vec::new())
            }
            Some(state) => self.run_stateful(state, task, each),
        }
    }

    fn run_stateless<'t>(
        &self,
        task: &mut TaskContext<'t>,
        each: &mut Each<'_, 't>,
    ) -> Result<(), Failure> {
        let inputs = self.inputs(task)?;
        self.drive(&self.plan, inputs, task, each)
    }
}

impl StageProgram for SqlStage {
    fn run(&self, task: &mut TaskContext<'_>) -> Result<TaskOutput, Failure> {
        let mut output = TaskOutput::default();
        event_time::begin(task.batch_time);
        match &self.exit {
            Exit::Exchange(route) => {
                let mut writer =
                    ExchangeWriter::new(route.clone(), Arc::clone(&self.schema), task)?;
                output.state = self.run_into(task, &mut |batch, task| writer.push(&batch, task))?;
                output.exchanges = vec![writer.finish(task)?];
            }
            Exit::Collect(most) => {
                let mut left = most.unwrap_or(usize::MAX);
                let mut collected = Vec::new();
                output.state = self.run_into(task, &mut |batch, task| {
                    let taken = batch.num_rows().min(left);
                    left -= taken;
                    task.counts.output_rows += batch.num_rows() as u64;
                    if taken > 0 {
                        collected.push(batch.slice(0, taken));
                    }
                    Ok(())
                })?;
                if !collected.is_empty() {
                    let mut bytes = Vec::new();
                    ipc::append(&self.schema, &collected, &mut bytes).map_err(task_failure)?;
                    output.result = Some(bytes.into());
                }
            }
            Exit::Sink(sink) => {
                let mut writer = sink.writer(&self.schema, &self.zone, task)?;
                output.state = self.run_into(task, &mut |batch, task| {
                    task.counts.output_rows += batch.num_rows() as u64;
                    writer.write(&batch, task)
                })?;
                output.sink = Some(writer.finish(task)?);
            }
            Exit::Drop => {
                output.state = self.run_into(task, &mut |batch, task| {
                    task.counts.output_rows += batch.num_rows() as u64;
                    Ok(())
                })?;
            }
        }
        output.event_times = event_time::take_seen();
        Ok(output)
    }
}

/// What the plan of a task holds.
struct Memory<'a> {
    pool: Arc<CountingPool>,
    held: Held<'a>,
}

/// What the engine says of a plan or of rows.
fn engine_failure(error: Error) -> Failure {
    task_failure(error)
}

fn with_runtime<R>(use_it: impl FnOnce(&Runtime) -> Result<R, Failure>) -> Result<R, Failure> {
    RUNTIME.with_borrow_mut(|kept| {
        if kept.is_none() {
            let made = tokio::runtime::Builder::new_current_thread().build();
            *kept = Some(made.map_err(|error| {
                Failure::caused_by(FailureKind::Io, "no runtime for a task's plan", &error)
            })?);
        }
        match kept {
            Some(runtime) => use_it(runtime),
            None => Err(Failure::new(FailureKind::Internal, "no runtime")),
        }
    })
}

/// Pulls a stream to its end. While it waits for a leaf, the leaf is fed.
async fn drain<'t>(
    mut stream: SendableRecordBatchStream,
    inputs: &mut [(Feed, Rows)],
    memory: &mut Memory<'t>,
    task: &mut TaskContext<'t>,
    each: &mut Each<'_, 't>,
) -> Result<(), Failure> {
    loop {
        let next = poll_fn(|context| poll_fed(&mut stream, inputs, memory, task, context)).await?;
        match next {
            Some(batch) => each(batch, task)?,
            None => return Ok(()),
        }
    }
}

fn poll_fed(
    stream: &mut SendableRecordBatchStream,
    inputs: &mut [(Feed, Rows)],
    memory: &mut Memory<'_>,
    task: &mut TaskContext<'_>,
    context: &mut Context<'_>,
) -> Poll<Result<Option<RecordBatch>, Failure>> {
    loop {
        let next = stream.as_mut().poll_next(context);
        let reserved = memory.pool.reserved();
        if let Err(failure) = memory.held.settle(reserved, &task.cancel) {
            return Poll::Ready(Err(failure));
        }
        match next {
            Poll::Ready(None) => return Poll::Ready(Ok(None)),
            Poll::Ready(Some(Ok(batch))) => return Poll::Ready(Ok(Some(batch))),
            Poll::Ready(Some(Err(error))) => {
                return Poll::Ready(Err(engine_failure(error.into())));
            }
            Poll::Pending => {}
        }
        let mut has_fed = false;
        for (feed, rows) in inputs.iter_mut() {
            if !feed.is_wanted() {
                continue;
            }
            match rows.next(task) {
                Ok(Some(batch)) => feed.push(batch),
                Ok(None) => feed.close(),
                Err(failure) => return Poll::Ready(Err(failure)),
            }
            has_fed = true;
        }
        if !has_fed {
            return Poll::Pending;
        }
    }
}
