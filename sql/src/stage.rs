//! A stage's code: decodes its plan for the task, feeds its leaves, and takes its rows where they go.

use std::{
    any::Any,
    cell::RefCell,
    collections::VecDeque,
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use arrow::{datatypes::SchemaRef, record_batch::RecordBatch};
use datafusion::{
    execution::{SendableRecordBatchStream, memory_pool::MemoryPool},
    physical_plan::ExecutionPlanProperties,
};
use datafusion_proto::bytes::physical_plan_from_bytes_with_extension_codec;
use hashbrown::HashSet;
use jiff::tz::TimeZone;
use millstream_common::{
    failpoint,
    failure::{Failure, FailureKind, Retry},
    protocol::{StateFile, TaskInput, TaskOutput},
    routing::PartitionCount,
    time::{Clock, SystemClock},
};
use millstream_dataflow::{
    program::{CancelToken, StageProgram, TaskContext},
    state::{StateCell, StateFolder, StateKey, StateServices},
};
use parking_lot::MutexGuard;
use tokio::runtime::Runtime;

use crate::{
    engine::SharedContext,
    error::{Error, task_failure},
    exchange::{ExchangeReader, ExchangeWriter, Route},
    functions::event_time,
    input::{Feed, InputCodec},
    ipc,
    keys::{self, Keys},
    pool::{CountingPool, Held, memory_of},
    program::{Emit, ExitSpec, InputSpec, SchemaBytes, StageSpec, StateSpec},
    sinks::ExecutorSink,
    sources::{BatchReader, ExecutorSource},
    state::{GroupTable, Layout, Over, StateIo, in_time},
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

struct State {
    spec: StateSpec,
    schema: SchemaRef,
    layout: Layout,
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
            Some(spec) => {
                let schema = spec.schema.schema()?;
                Some(State {
                    layout: Layout {
                        schema: Arc::clone(&schema),
                        group_columns: spec.group_columns,
                        time: spec.time,
                    },
                    schema,
                    spec,
                })
            }
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

    /// Merges what came with the state, and runs the plan over what the state hands on.
    fn run_stateful<'t>(
        &self,
        state: &State,
        task: &mut TaskContext<'t>,
        each: &mut Each<'_, 't>,
    ) -> Result<Vec<StateFile>, Failure> {
        let services = task.services;
        let kept = services
            .state()
            .ok_or_else(|| Failure::new(FailureKind::Internal, "this executor keeps no state"))?;
        let folder = kept.folder(task.id.query).ok_or_else(|| {
            Failure::new(
                FailureKind::Io,
                "an aggregate keeps state, and state needs a checkpoint folder that every executor can write to",
            )
            .with_code("state.no_checkpoint")
            .with_retry(Retry::Never)
        })?;
        let mut arrived = Vec::new();
        let mut held = Held::new(task.services, task.id);
        let mut bytes = 0;
        for (_, mut rows) in self.inputs(task)? {
            while let Some(batch) = rows.next(task)? {
                let batch = in_time(batch, &state.spec, task).map_err(task_failure)?;
                bytes += memory_of(&batch);
                held.settle(bytes, &task.cancel)?;
                arrived.push(batch);
            }
        }
        let key = StateKey {
            query: task.id.query,
            operator: state.spec.operator.clone(),
            partition: task.id.partition,
        };
        let cell = kept.cell(&key, task.id.batch);
        let mut cell = match cell.try_lock() {
            Some(cell) => cell,
            None => {
                // Whoever has it may wait for memory.
                held.settle(0, &task.cancel)?;
                let locked = lock(&cell, &task.cancel)?;
                held.settle(bytes, &task.cancel)?;
                locked
            }
        };
        let known = cell
            .take()
            .and_then(|known| known.downcast::<GroupTable>().ok())
            .filter(|known| known.has_layout(&state.layout));
        let mut table = match known {
            Some(table) => table,
            None => Box::new(GroupTable::new(state.layout.clone())),
        };
        let advanced = self.advance(state, &mut table, arrived, (kept, &folder), task);
        kept.holds(&key, table.memory() as u64);
        // Changes that don't count are dropped by the next task.
        *cell = Some(table);
        drop(cell);
        let (given, files) = advanced?;
        held.settle(memory_of(&given), &task.cancel)?;
        let rows = Rows::Given(VecDeque::from([given]));
        self.drive(
            &self.plan,
            vec![(Arc::clone(&state.schema), rows)],
            task,
            each,
        )?;
        Ok(files)
    }

    /// Brings the table to the batch before, takes the batch's changes, and gives what goes on to the plan and the files of the new state.
    fn advance(
        &self,
        state: &State,
        table: &mut GroupTable,
        arrived: Vec<RecordBatch>,
        (services, folder): (&dyn StateServices, &StateFolder),
        task: &mut TaskContext<'_>,
    ) -> Result<(RecordBatch, Vec<StateFile>), Failure> {
        let before: Vec<StateFile> = std::mem::take(&mut task.state);
        let restored = table.align(&before, folder)?;
        if restored && !before.is_empty() {
            tracing::info!(
                operator = state.spec.operator,
                partition = task.id.partition,
                groups = table.len(),
                bytes = table.memory(),
                "state restored"
            );
        }
        let begun = self.clock.now();
        let changed = self.merge(state, table, arrived, task)?;
        let merged = self.clock.now();
        let id = task.id;
        let operator = &state.spec.operator;
        let over = Over::of(table, &changed, &state.spec, task).map_err(task_failure)?;
        let parted = self.clock.now();
        task.counts.state_rows_updated += over.kept.num_rows() as u64;
        task.counts.state_rows_removed += over.removed.len() as u64;
        let io = StateIo {
            folder,
            task: id,
            operator,
            services,
            cancel: &task.cancel,
        };
        let files = table.change(&over.kept, over.removed, &io)?;
        failpoint!(
            "executor.state.durable",
            batch = id.batch,
            stage = id.stage,
            partition = id.partition,
            attempt = id.attempt
        );
        let counts = &mut task.counts;
        counts.state_update_micros += micros(merged.since(begun));
        counts.state_removal_micros += micros(parted.since(merged));
        counts.state_commit_micros += micros(self.clock.now().since(parted));
        counts.state_memory_bytes = table.memory() as u64;
        let given = match state.spec.emit {
            Emit::All => table.all().map_err(task_failure)?,
            Emit::Changed => changed,
            Emit::Over => over.rows,
        };
        Ok((given, files))
    }

    /// The new rows of the groups that the batch touched.
    fn merge(
        &self,
        state: &State,
        table: &GroupTable,
        arrived: Vec<RecordBatch>,
        task: &mut TaskContext<'_>,
    ) -> Result<RecordBatch, Failure> {
        let columns = state.spec.group_columns;
        let mut keys: Vec<Keys> = Vec::with_capacity(arrived.len());
        for batch in &arrived {
            let encoded = keys::encode(&batch.columns()[..columns], batch.num_rows());
            keys.push(encoded.map_err(task_failure)?);
        }
        let mut touched: HashSet<&[u8]> = HashSet::new();
        let first_seen = keys
            .iter()
            .flat_map(Keys::iter)
            .filter(|key| touched.insert(key));
        let old = table.rows_of(first_seen).map_err(task_failure)?;
        let mut given: VecDeque<RecordBatch> = old.into_iter().chain(arrived).collect();
        // The engine may give a key twice; then what it gave is merged again.
        for _ in 0..MOST_MERGES {
            let rows = Rows::Given(given);
            let mut merged = Vec::new();
            self.drive(
                &state.spec.merge,
                vec![(Arc::clone(&state.schema), rows)],
                task,
                &mut |batch, _| {
                    merged.push(batch);
                    Ok(())
                },
            )?;
            let merged = arrow::compute::concat_batches(&state.schema, &merged)
                .map_err(|error| task_failure(error.into()))?;
            let unique = keys::encode(&merged.columns()[..columns], merged.num_rows())
                .map_err(task_failure)?;
            let distinct: HashSet<&[u8]> = unique.iter().collect();
            if distinct.len() == merged.num_rows() {
                return Ok(merged);
            }
            given = VecDeque::from([merged]);
        }
        Err(Failure::new(
            FailureKind::Internal,
            "merging groups gives the same keys again and again",
        ))
    }
}

/// Waits for a state partition that another attempt has.
fn lock<'c>(
    cell: &'c StateCell,
    cancel: &CancelToken,
) -> Result<MutexGuard<'c, Option<Box<dyn Any + Send>>>, Failure> {
    loop {
        if let Some(locked) = cell.try_lock_for(CELL_WAIT) {
            return Ok(locked);
        }
        cancel.check()?;
    }
}

fn micros(taken: Duration) -> u64 {
    u64::try_from(taken.as_micros()).unwrap_or(u64::MAX)
}

/// How long a task that waits for a state partition waits before it looks at its cancel token again.
const CELL_WAIT: Duration = Duration::from_millis(20);

/// So often merged rows are merged again.
const MOST_MERGES: usize = 4;

impl StageProgram for SqlStage {
    fn run(&self, task: &mut TaskContext<'_>) -> Result<TaskOutput, Failure> {
        let mut output = TaskOutput::default();
        event_time::forget();
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
