//! Why a query ended.

use millstream_common::{
    failure::{Failure, FailureKind, Fault, Retry},
    ids::{BatchId, Epoch},
};
use thiserror::Error;

use super::checkpoint::CheckpointError;

/// Why a query ended otherwise than by being stopped.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum QueryError {
    /// Another driver claimed the checkpoint.
    #[error(
        "another driver took over: it claimed epoch {by} of the checkpoint, this one had epoch {ours}; stop one of the two"
    )]
    Superseded {
        /// The epoch of this driver.
        ours: Epoch,
        /// The higher one.
        by: Epoch,
    },
    /// A batch failed. It stays uncommitted and runs again, with the same input, at the next start.
    #[error("batch {batch} failed: {failure}")]
    Batch {
        /// The batch.
        batch: BatchId,
        /// Why.
        failure: Box<Failure>,
    },
    /// A source can't go on.
    #[error("source {source_id} can't go on: {failure}")]
    Source {
        /// The source's stable id.
        source_id: String,
        /// Why.
        failure: Box<Failure>,
    },
    /// An output isn't ready, or could not publish a committed batch. What is staged stays; the next start publishes it.
    #[error("output {output} can't {what}: {failure}")]
    Output {
        /// The output's stable id.
        output: String,
        /// What it was to do.
        what: String,
        /// Why.
        failure: Box<Failure>,
    },
    /// The checkpoint can't be gone on with.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The checkpoint's storage doesn't answer as it should.
    #[error("can't {what}: {reason}; check the checkpoint's storage, then start again")]
    Store {
        /// What was tried.
        what: String,
        /// Why it didn't work.
        reason: String,
    },
    /// A part of the driver that the query needs is gone.
    #[error("{0}")]
    Internal(String),
}

impl QueryError {
    /// A stable, searchable code.
    pub fn code(&self) -> &str {
        match self {
            Self::Superseded { .. } => "query.superseded",
            Self::Batch { failure, .. }
            | Self::Source { failure, .. }
            | Self::Output { failure, .. } => &failure.code,
            Self::Checkpoint(error) => match error {
                CheckpointError::Unreadable { .. } => "checkpoint.unreadable",
                CheckpointError::Newer { .. } => "checkpoint.newer",
                CheckpointError::OtherApplication { .. } => "checkpoint.other_application",
                CheckpointError::SourceMoved { .. } => "checkpoint.source_moved",
                CheckpointError::Incomplete { .. } => "checkpoint.incomplete",
                CheckpointError::Unwritable { .. } => "checkpoint.unwritable",
            },
            Self::Store { .. } => "checkpoint.store",
            Self::Internal(_) => "internal",
        }
    }

    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Superseded { .. } | Self::Store { .. } => Fault::Environment,
            Self::Batch { failure, .. }
            | Self::Source { failure, .. }
            | Self::Output { failure, .. } => failure.fault,
            Self::Checkpoint(CheckpointError::Unwritable { .. }) | Self::Internal(_) => {
                Fault::Internal
            }
            Self::Checkpoint(_) => Fault::User,
        }
    }

    /// Whether starting again can help.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Superseded { .. } | Self::Checkpoint(_) => Retry::Never,
            Self::Batch { failure, .. }
            | Self::Source { failure, .. }
            | Self::Output { failure, .. } => failure.retry,
            Self::Store { .. } => Retry::Backoff,
            Self::Internal(_) => Retry::Now,
        }
    }

    /// The process's exit code: 3 when superseded, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Superseded { .. } => 3,
            _ => 1,
        }
    }

    /// As the type that the API and the log share with tasks.
    pub fn to_failure(&self) -> Failure {
        match self {
            Self::Batch { failure, .. }
            | Self::Source { failure, .. }
            | Self::Output { failure, .. } => {
                let mut whole = failure.as_ref().clone();
                whole.causes.insert(0, whole.message.clone());
                whole.message = match self {
                    Self::Batch { batch, .. } => format!("batch {batch} failed"),
                    Self::Source { source_id, .. } => format!("source {source_id} can't go on"),
                    _ => "an output failed".to_owned(),
                };
                whole
            }
            _ => {
                let mut failure = Failure::new(FailureKind::Io, self.to_string())
                    .with_code(self.code())
                    .with_retry(self.retry());
                failure.fault = self.fault();
                failure
            }
        }
    }
}

/// Why the store didn't do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("can't {what}: {reason}")]
pub struct StoreFailure {
    /// What was tried, with the name.
    pub what: String,
    /// Why it didn't work.
    pub reason: String,
}

impl From<StoreFailure> for QueryError {
    fn from(failure: StoreFailure) -> Self {
        Self::Store {
            what: failure.what,
            reason: failure.reason,
        }
    }
}

/// How a query that was stopped ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stopped {
    /// The batch that was logged and isn't committed; it runs again at the next start.
    pub unfinished: Option<BatchId>,
    /// The batch that is committed and whose output may not be seen yet; it is published at the next start.
    pub unpublished: Option<BatchId>,
    /// Planned batches that were not started, or whose entry was still being put; their input is planned anew at the next start.
    pub dropped: usize,
}

impl Stopped {
    /// Whether nothing was left undone. If not, a process exits with code 4.
    pub fn is_clean(&self) -> bool {
        *self == Self::default()
    }
}
