//! Queries whose code came from the driver after the registration: built on a slot's thread by their first task, kept until the driver no longer names them.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use millstream_common::{
    config::{Config, keys},
    failure::{Failure, FailureKind, Retry},
    ids::{BatchId, QueryId, StageId},
    protocol::{QueryProgram, TaskOutput},
};
use millstream_dataflow::{
    program::{Programs, StageProgram, TaskContext},
    state::{BackgroundWork, StateCell, StateFolder, StateKey, StateServices},
};
use parking_lot::Mutex;

use crate::{background::Background, memory::MemoryBudget, service::unshared};

/// State partitions that no task of this executor used for so many batches have gone elsewhere.
const UNUSED_BATCHES: u64 = 100;

/// The queries of one registration.
#[derive(Default)]
pub(crate) struct Queries(Mutex<HashMap<QueryId, Arc<Query>>>);

struct Query {
    program: QueryProgram,
    application: Arc<dyn Programs>,
    /// Once it could be: what was in the way may be gone when the next task comes.
    built: Mutex<Option<Arc<dyn Programs>>>,
}

impl Queries {
    /// Takes a program; one that is known already stays, with what it holds.
    pub(crate) fn add(&self, program: QueryProgram, application: &Arc<dyn Programs>) {
        let mut queries = self.0.lock();
        let known = queries.get(&program.query);
        if known.is_none_or(|known| known.program != program) {
            let query = Query {
                application: Arc::clone(application),
                built: Mutex::default(),
                program,
            };
            queries.insert(query.program.query, Arc::new(query));
        }
    }

    /// A stage's code, if the query is one of these.
    pub(crate) fn program(&self, query: QueryId, stage: StageId) -> Option<Arc<dyn StageProgram>> {
        let query = Arc::clone(self.0.lock().get(&query)?);
        Some(Arc::new(QueryStage { query, stage }))
    }

    /// Forgets queries that the driver no longer names; what they held is to be closed off the IO threads.
    pub(crate) fn retain(&self, named: impl Fn(QueryId) -> bool) -> Vec<Arc<dyn Programs>> {
        let mut queries = self.0.lock();
        let gone = queries.extract_if(|query, _| !named(*query));
        // One that is being built now has nothing to close yet.
        gone.filter_map(|(_, query)| query.built.try_lock()?.clone())
            .collect()
    }
}

impl Query {
    fn programs(&self) -> Result<Arc<dyn Programs>, Failure> {
        let mut built = self.built.lock();
        if let Some(built) = &*built {
            return Ok(Arc::clone(built));
        }
        let files = self.program.shared_files.iter();
        let unshared: Vec<String> = files.filter_map(unshared).collect();
        if !unshared.is_empty() {
            let message = format!(
                "a file:// checkpoint or output must be one file system for the driver and every executor, but this executor could not read what the driver wrote: {}; mount the same folder on all hosts",
                unshared.join("; ")
            );
            return Err(Failure::new(FailureKind::Io, message)
                .with_code("executor.unshared_files")
                .with_retry(Retry::Backoff));
        }
        let programs = self.application.of_query(&self.program)?;
        Ok(Arc::clone(built.insert(programs)))
    }
}

struct QueryStage {
    query: Arc<Query>,
    stage: StageId,
}

impl StageProgram for QueryStage {
    fn run(&self, task: &mut TaskContext<'_>) -> Result<TaskOutput, Failure> {
        match self.query.programs()?.program(self.stage) {
            Some(program) => program.run(task),
            None => Err(Failure::new(
                FailureKind::Internal,
                format!("the query's program has no stage {}", self.stage),
            )),
        }
    }
}

/// State partitions of this process, over all registrations.
pub(crate) struct States {
    cells: Mutex<HashMap<StateKey, Cell>>,
    folders: Mutex<HashMap<QueryId, StateFolder>>,
    fsync: AtomicBool,
    budget: Arc<MemoryBudget>,
    background: Background,
}

struct Cell {
    state: StateCell,
    used: BatchId,
    /// What the state says that it holds.
    bytes: u64,
}

impl States {
    pub(crate) fn new(config: &Config, budget: Arc<MemoryBudget>, background: Background) -> Self {
        Self {
            cells: Mutex::default(),
            folders: Mutex::default(),
            fsync: AtomicBool::new(config.get(keys::CHECKPOINT_FSYNC)),
            budget,
            background,
        }
    }

    /// Takes what the driver's configuration says.
    pub(crate) fn adopt(&self, config: &Config) {
        let fsync = config.get(keys::CHECKPOINT_FSYNC);
        self.fsync.store(fsync, Ordering::Relaxed);
    }

    /// Where a query's state files are.
    pub(crate) fn add(&self, program: &QueryProgram) {
        let fsync = self.fsync.load(Ordering::Relaxed);
        let folder = program
            .checkpoint
            .as_ref()
            .map(|folder| StateFolder::new(folder, fsync));
        let mut folders = self.folders.lock();
        match folder {
            Some(folder) => folders.insert(program.query, folder),
            None => folders.remove(&program.query),
        };
    }

    /// Forgets the state of queries that the driver no longer names.
    pub(crate) fn retain(&self, named: impl Fn(QueryId) -> bool) {
        self.retain_cells(|key, _| named(key.query));
        self.folders.lock().retain(|query, _| named(*query));
    }

    /// A batch is over; state that was not used for long is somewhere else by now.
    pub(crate) fn batch_is_over(&self, query: QueryId, batch: BatchId) {
        self.retain_cells(|key, cell| {
            key.query != query || cell.used.0.saturating_add(UNUSED_BATCHES) >= batch.0
        });
    }

    fn retain_cells(&self, stays: impl Fn(&StateKey, &Cell) -> bool) {
        let mut cells = self.cells.lock();
        let gone: Vec<Cell> = cells
            .extract_if(|key, cell| !stays(key, cell))
            .map(|(_, cell)| cell)
            .inspect(|cell| {
                self.budget.state_changed(cell.bytes, 0);
            })
            .collect();
        drop(cells);
        drop(gone);
    }

    /// Forgets all state and ends the threads beside the tasks; waits for them.
    pub(crate) fn close(&self) {
        self.retain_cells(|_, _| false);
        self.background.close();
    }
}

impl StateServices for States {
    fn cell(&self, key: &StateKey, batch: BatchId) -> StateCell {
        let mut cells = self.cells.lock();
        let cell = cells.entry(key.clone()).or_insert_with(|| Cell {
            state: StateCell::default(),
            used: batch,
            bytes: 0,
        });
        cell.used = cell.used.max(batch);
        Arc::clone(&cell.state)
    }

    fn folder(&self, query: QueryId) -> Option<StateFolder> {
        self.folders.lock().get(&query).cloned()
    }

    fn holds(&self, key: &StateKey, bytes: u64) {
        let mut cells = self.cells.lock();
        // Where it isn't there, it was forgotten while its task ran.
        let Some(cell) = cells.get_mut(key) else {
            return;
        };
        let before = std::mem::replace(&mut cell.bytes, bytes);
        let is_past = self.budget.state_changed(before, bytes);
        drop(cells);
        if is_past {
            tracing::warn!(
                state_bytes = self.budget.state_bytes(),
                "the state of queries is larger than memory.budget: blocks go to disk, and tasks that hold memory run one at a time; raise memory.budget or add executors"
            );
        }
    }

    fn in_background(&self, work: BackgroundWork) -> Result<(), BackgroundWork> {
        self.background.submit(work)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use millstream_common::protocol::SharedFile;
    use millstream_dataflow::plan::Plan;

    use crate::testing::query;

    use super::*;

    /// An application whose queries have no stages.
    #[derive(Default)]
    struct Nothing(Plan);

    impl Programs for Nothing {
        fn plan(&self) -> &Plan {
            &self.0
        }

        fn program(&self, _stage: StageId) -> Option<Arc<dyn StageProgram>> {
            None
        }

        fn of_query(&self, _program: &QueryProgram) -> Result<Arc<dyn Programs>, Failure> {
            Ok(Arc::new(Self::default()))
        }
    }

    #[test]
    fn what_the_driver_wrote_is_looked_for_again_by_the_next_task() {
        let folder = tempfile::tempdir().expect("folder");
        let nonce = folder.path().join("nonce");
        let query = Query {
            application: Arc::new(Nothing::default()),
            built: Mutex::default(),
            program: QueryProgram {
                query: query(),
                bytes: Bytes::new(),
                checkpoint: None,
                shared_files: vec![SharedFile {
                    path: nonce.display().to_string(),
                    nonce: "a".to_owned(),
                    purpose: "checkpoint".to_owned(),
                }],
            },
        };
        let failure = query.programs().map(drop).expect_err("not there yet");
        assert_eq!(failure.code, "executor.unshared_files");
        std::fs::write(nonce, "a").expect("written");
        query.programs().map(drop).expect("there");
    }

    fn key(partition: u32) -> StateKey {
        StateKey {
            query: query(),
            operator: "aggregate-0".to_owned(),
            partition,
        }
    }

    #[test]
    fn what_state_holds_counts_until_its_partition_is_elsewhere() {
        let budget = Arc::new(MemoryBudget::new(1_000, 500));
        let states = States::new(
            &Config::default(),
            Arc::clone(&budget),
            Background::for_tests(),
        );
        states.holds(&key(0), 5);
        assert_eq!(budget.state_bytes(), 0, "nobody keeps it");
        states.cell(&key(0), BatchId(0));
        states.cell(&key(1), BatchId(200));
        states.holds(&key(0), 300);
        states.holds(&key(1), 200);
        states.holds(&key(0), 100);
        assert_eq!((budget.state_bytes(), budget.used()), (300, 300));
        states.batch_is_over(query(), BatchId(200));
        assert_eq!(budget.state_bytes(), 200);
        states.retain(|_| false);
        assert_eq!(budget.state_bytes(), 0);
    }
}
