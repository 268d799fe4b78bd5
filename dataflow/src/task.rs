//! The running task as operators see it: a [`TaskContext`] that a whole pipeline shares, and the marker that tells whose user function is running.

use std::{
    cell::{Cell, RefCell},
    path::PathBuf,
};

use millstream_common::{
    failure::{Failure, FailureKind, Retry},
    ids::TaskId,
    protocol::{BlockLocation, TaskCounts, TaskInput},
    time::BatchTime,
};

use crate::program::{CancelToken, TaskContext, TaskServices};

/// A running task, shared by the operators of its pipeline. It lives on one thread.
pub struct Task<'a> {
    context: RefCell<TaskContext<'a>>,
    services: &'a dyn TaskServices,
    cancel: CancelToken,
    id: TaskId,
    batch_time: BatchTime,
    branch: u32,
    spill_files: Cell<u32>,
}

impl<'a> Task<'a> {
    /// Takes over what `context` holds; its input is moved here.
    pub fn new(context: &mut TaskContext<'a>) -> Self {
        let own = TaskContext {
            id: context.id,
            batch_time: context.batch_time,
            branch: context.branch,
            input: std::mem::replace(&mut context.input, TaskInput::Blocks(Vec::new())),
            state: std::mem::take(&mut context.state),
            watermarks: context.watermarks,
            rerun: context.rerun,
            cancel: context.cancel.clone(),
            input_deadline: context.input_deadline,
            counts: std::mem::take(&mut context.counts),
            services: context.services,
        };
        Self {
            services: own.services,
            cancel: own.cancel.clone(),
            id: own.id,
            batch_time: own.batch_time,
            branch: own.branch,
            spill_files: Cell::new(0),
            context: RefCell::new(own),
        }
    }

    /// Lends the context. The function must not pull rows.
    pub fn with<R>(&self, use_context: impl FnOnce(&mut TaskContext<'a>) -> R) -> R {
        use_context(&mut self.context.borrow_mut())
    }

    /// The attempt.
    pub fn id(&self) -> TaskId {
        self.id
    }

    /// The batch's time.
    pub fn batch_time(&self) -> BatchTime {
        self.batch_time
    }

    /// The stage's branch that the task belongs to.
    pub fn branch(&self) -> u32 {
        self.branch
    }

    /// The executor.
    pub fn services(&self) -> &'a dyn TaskServices {
        self.services
    }

    /// The cancel token.
    pub fn cancel(&self) -> &CancelToken {
        &self.cancel
    }

    /// For loops over chunks: an error once the task should stop.
    ///
    /// # Errors
    /// `Cancelled`.
    pub fn check(&self) -> Result<(), Failure> {
        self.cancel.check()
    }

    /// Changes the counts.
    pub fn count(&self, change: impl FnOnce(&mut TaskCounts)) {
        self.with(|context| change(&mut context.counts));
    }

    /// Takes the blocks of one of the exchanges that the task's branch reads.
    ///
    /// # Errors
    /// `Internal` when the task was given a split or fewer lists.
    pub fn take_blocks(&self, list: usize) -> Result<Vec<BlockLocation>, Failure> {
        self.with(|context| match &mut context.input {
            TaskInput::Blocks(lists) => match lists.get_mut(list) {
                Some(blocks) => Ok(std::mem::take(blocks)),
                None => Err(Failure::new(
                    FailureKind::Internal,
                    format!("the task should read exchange {list} of its branch, but was given {} lists of blocks", lists.len()),
                )),
            },
            TaskInput::Split { source, .. } => Err(Failure::new(
                FailureKind::Internal,
                format!("the task should read blocks, but was given a split of source {source}"),
            )),
        })
    }

    /// A name for a spill file that no other file of the task has.
    ///
    /// # Errors
    /// `Io` when the folder can't be made.
    pub fn next_spill_file(&self) -> Result<PathBuf, Failure> {
        let number = self.spill_files.get();
        self.spill_files.set(number + 1);
        let folder = self.services.spill_folder(self.id)?;
        Ok(folder.join(format!("run-{number:05}")))
    }
}

/// An operator's index in its query, by which a failing user function is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OperatorIndex(pub u32);

const NO_OPERATOR: u32 = u32::MAX;

thread_local! {
    static CURRENT_OPERATOR: Cell<u32> = const { Cell::new(NO_OPERATOR) };
}

impl OperatorIndex {
    /// Says that user functions of this operator run from now on. Called once a chunk.
    #[inline]
    pub fn enter(self) {
        CURRENT_OPERATOR.set(self.0);
    }
}

/// The operator entered last on this thread.
pub(crate) fn current_operator() -> Option<OperatorIndex> {
    let index = CURRENT_OPERATOR.get();
    (index != NO_OPERATOR).then_some(OperatorIndex(index))
}

/// Forgets which operator was entered.
pub(crate) fn leave_operators() {
    CURRENT_OPERATOR.set(NO_OPERATOR);
}

/// What a row or key that can't be encoded or decoded is: the fault of its type, and the same at every attempt.
pub fn codec_failure(error: &dyn std::error::Error) -> Failure {
    Failure::new(FailureKind::UserCode, error.to_string())
        .with_code("task.codec")
        .with_retry(Retry::Never)
}
