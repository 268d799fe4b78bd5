//! A stage that keeps groups: it brings them to the version of the batch before, merges in what came, and runs its plan over what changed, is over, or is there.

use std::{any::Any, collections::VecDeque, sync::Arc, time::Duration};

use arrow::{datatypes::SchemaRef, record_batch::RecordBatch};
use hashbrown::HashSet;
use millstream_common::{
    failpoint,
    failure::{Failure, FailureKind, Retry},
    protocol::StateFile,
    time::Clock,
};
use millstream_dataflow::{
    program::{CancelToken, TaskContext},
    state::{StateCell, StateFolder, StateKey, StateServices},
};
use parking_lot::MutexGuard;

use super::{Each, Rows, SqlStage};
use crate::{
    error::{Error, task_failure},
    keys::{self, Keys},
    pool::{Held, memory_of},
    program::{Emit, StateSpec},
    state::{GroupTable, Layout, Over, StateIo, in_time},
};

/// How long a task that waits for a state partition waits before it looks at its cancel token again.
const CELL_WAIT: Duration = Duration::from_millis(20);

/// So often merged rows are merged again.
const MOST_MERGES: usize = 4;

/// What a stage keeps.
pub(super) struct State {
    spec: StateSpec,
    schema: SchemaRef,
    layout: Layout,
}

impl State {
    pub(super) fn new(spec: StateSpec) -> Result<Self, Error> {
        let schema = spec.schema.schema()?;
        Ok(Self {
            layout: Layout {
                schema: Arc::clone(&schema),
                group_columns: spec.group_columns,
                time: spec.time,
            },
            schema,
            spec,
        })
    }
}

impl SqlStage {
    /// Merges what came with the state, and runs the plan over what the state hands on.
    pub(super) fn run_stateful<'t>(
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
