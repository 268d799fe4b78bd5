//! Merging segments beside the tasks.
//!
//! A task that finds a merge due hands a run of committed segments to a thread of the executor and goes on. A later task finds the result and adopts it: the
//! run is replaced in the version that the task writes, if that version still has the run. Nothing else is needed for it to be right, as the result
//! depends on nothing but the run's files, and those never change: not on what was committed since, not on which driver asked.

use std::sync::{
    Arc,
    mpsc::{self, Receiver, RecvTimeoutError, TryRecvError},
};
use std::time::Duration;

use millstream_common::{
    failure::{Failure, FailureKind},
    ids::TaskId,
    protocol::StateFile,
};
use millstream_dataflow::{
    program::CancelToken,
    state::{FileKind, SpareFile, StateFolder, StateServices},
};

use super::{
    Layout, file,
    segment::{Content, Segment},
};
use crate::error::task_failure;

/// So many segments of like size are merged.
pub(super) const MERGED_AT_ONCE: usize = 8;
/// Superseded rows that don't matter.
pub(super) const FEW_ROWS: usize = 8_192;
/// Merges of one partition at a time: a long one, and one of what came since.
pub(super) const MOST_JOBS: usize = 2;
/// With so many segments a task doesn't go on before they are fewer.
pub(super) const MOST_SEGMENTS: usize = 64;

/// How long a task waits for a merge, at most: then it merges itself. A merge that takes longer is stuck, on a disk that doesn't answer or behind others.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// How long a task that waits for a merge waits before it looks at its cancel token again.
const WAIT: Duration = Duration::from_millis(20);

/// What a task's changes are written through.
pub(crate) struct StateIo<'a> {
    pub(crate) folder: &'a StateFolder,
    pub(crate) task: TaskId,
    pub(crate) operator: &'a str,
    pub(crate) services: &'a dyn StateServices,
    pub(crate) cancel: &'a CancelToken,
}

/// The first of the segments that are to be merged with all after it, by what each costs to write again. The first `taken` are being merged already; `groups`
/// are there in all.
pub(super) fn due(weights: &[usize], groups: usize, taken: usize) -> Option<usize> {
    let total: usize = weights.iter().sum();
    if taken == 0 && weights.len() > 1 && total > 2 * groups + FEW_ROWS {
        return Some(0);
    }
    let mut from = weights.len();
    let mut newer = 0;
    while from > taken && (newer == 0 || weights[from - 1] <= newer) {
        from -= 1;
        newer += weights[from];
    }
    (weights.len() - from >= MERGED_AT_ONCE).then_some(from)
}

/// Where these segments have the run, if they do; one whose removals were left out must be the oldest.
pub(super) fn position(segments: &[Segment], run: &[StateFile], is_oldest: bool) -> Option<usize> {
    let first = run.first()?;
    let at = segments.iter().position(|segment| segment.file == *first)?;
    let there = segments.get(at..at + run.len())?;
    let is_whole = there.iter().map(|segment| &segment.file).eq(run);
    (is_whole && (at == 0 || !is_oldest)).then_some(at)
}

/// A merge that was asked for.
pub(super) struct Job {
    pub(super) run: Vec<StateFile>,
    pub(super) is_oldest: bool,
    /// Of the run, bytes.
    memory: usize,
    cancel: CancelToken,
    progress: Progress,
}

enum Progress {
    Running(Receiver<Result<Merged, Failure>>),
    Done(Merged),
}

/// What came of it.
pub(super) struct Merged {
    content: Arc<Content>,
    spare: SpareFile,
}

impl Job {
    /// Asks for a merge of these segments; none where too many are waiting already.
    pub(super) fn start(
        run: &[Segment],
        is_oldest: bool,
        layout: &Layout,
        io: &StateIo<'_>,
    ) -> Option<Self> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let cancel = CancelToken::new();
        let work = Work {
            run: run.to_vec(),
            is_oldest,
            layout: layout.clone(),
            folder: io.folder.clone(),
            task: io.task,
            operator: io.operator.to_owned(),
            cancel: cancel.clone(),
        };
        let asked = io.services.in_background(Box::new(move || {
            // Nobody waits any more for a state that is gone or elsewhere.
            let _ = sender.send(work.run());
        }));
        asked.ok()?;
        Some(Self {
            run: run.iter().map(|segment| segment.file.clone()).collect(),
            is_oldest,
            memory: run.iter().map(|segment| segment.content.memory()).sum(),
            cancel,
            progress: Progress::Running(receiver),
        })
    }

    /// The result, if there is one.
    pub(super) fn done(&self) -> Option<&Arc<Content>> {
        match &self.progress {
            Progress::Running(_) => None,
            Progress::Done(merged) => Some(&merged.content),
        }
    }

    /// While it runs: the bytes that the result may come to, about.
    pub(super) fn to_come(&self) -> usize {
        match &self.progress {
            Progress::Running(_) => self.memory,
            Progress::Done(_) => 0,
        }
    }

    /// Takes what came since.
    pub(super) fn look(&mut self) -> Result<(), Failure> {
        let Progress::Running(receiver) = &self.progress else {
            return Ok(());
        };
        match receiver.try_recv() {
            Ok(result) => self.progress = Progress::Done(result?),
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => return Err(ended_early()),
        }
        Ok(())
    }

    /// Waits for the result, so long at most; the outer error is the waiting task's own end.
    pub(super) fn wait(
        &mut self,
        cancel: &CancelToken,
        longest: Duration,
    ) -> Result<Result<(), Failure>, Failure> {
        let Progress::Running(receiver) = &self.progress else {
            return Ok(Ok(()));
        };
        let mut left = longest;
        loop {
            match receiver.recv_timeout(WAIT.min(left)) {
                Ok(Ok(merged)) => {
                    self.progress = Progress::Done(merged);
                    return Ok(Ok(()));
                }
                Ok(Err(failure)) => return Ok(Err(failure)),
                Err(RecvTimeoutError::Timeout) => {
                    cancel.check()?;
                    left = left.saturating_sub(WAIT);
                    if left.is_zero() {
                        return Ok(Err(too_long(longest)));
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(Err(ended_early())),
            }
        }
    }

    /// The result as a segment of the version that `task` writes, in place of the run; none where it isn't done, or its file is gone.
    pub(super) fn adopt(&self, task: TaskId) -> Result<Option<Segment>, Failure> {
        let Progress::Done(merged) = &self.progress else {
            return Ok(None);
        };
        let kind = kind(self.is_oldest);
        let Some(mut file) = merged.spare.adopt(task, kind)? else {
            return Ok(None);
        };
        file.rows = self.run.last().map_or(0, |last| last.rows);
        Ok(Some(Segment {
            content: Arc::clone(&merged.content),
            file,
        }))
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// Merges within the task.
pub(super) fn merge_now(
    run: &[Segment],
    is_oldest: bool,
    layout: &Layout,
    io: &StateIo<'_>,
) -> Result<Segment, Failure> {
    let content = Content::merged(run, is_oldest, layout).map_err(task_failure)?;
    let bytes = file::encode(&content.rows, &content.removed).map_err(task_failure)?;
    let mut file = io
        .folder
        .write(io.task, io.operator, kind(is_oldest), &bytes)?;
    file.rows = run.last().map_or(0, |last| last.file.rows);
    Ok(Segment {
        content: Arc::new(content),
        file,
    })
}

fn kind(is_oldest: bool) -> FileKind {
    match is_oldest {
        true => FileKind::Snapshot,
        false => FileKind::Merged,
    }
}

fn too_long(waited: Duration) -> Failure {
    let message = format!(
        "a merge of state files was not done after {} ms; see whether the checkpoint's disk answers",
        waited.as_millis()
    );
    Failure::new(FailureKind::Io, message).with_code("state.merge_timeout")
}

fn ended_early() -> Failure {
    Failure::new(
        FailureKind::Internal,
        "a merge of state files ended without a result",
    )
}

struct Work {
    run: Vec<Segment>,
    is_oldest: bool,
    layout: Layout,
    folder: StateFolder,
    task: TaskId,
    operator: String,
    cancel: CancelToken,
}

impl Work {
    fn run(self) -> Result<Merged, Failure> {
        self.cancel.check()?;
        let content =
            Content::merged(&self.run, self.is_oldest, &self.layout).map_err(task_failure)?;
        self.cancel.check()?;
        let bytes = file::encode(&content.rows, &content.removed).map_err(task_failure)?;
        self.cancel.check()?;
        let spare = self.folder.write_spare(self.task, &self.operator, &bytes)?;
        Ok(Merged {
            content: Arc::new(content),
            spare,
        })
    }
}
