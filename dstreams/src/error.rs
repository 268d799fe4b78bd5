//! What can be wrong with a graph.

use millstream_common::failure::{Failure, FailureKind, Fault, Retry};

/// Why a graph can't be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nothing would ever be computed.
    #[error(
        "no output operations registered, so nothing to execute: call pprint, save_as_text_files, for_each_batch or another output on a stream"
    )]
    NoOutputs,
    /// Two parts of the graph have the same stable id.
    #[error(
        "two parts of the graph are called {id:?}: give one of them another name with named(..)"
    )]
    DuplicateName {
        /// The id.
        id: String,
    },
    /// Two outputs would write into the same folders.
    #[error(
        "{first} and {second} both save to {place}, where only one of them would be seen: give one another prefix, or save the union of the two streams"
    )]
    DuplicatePlace {
        /// The output declared first.
        first: String,
        /// The other.
        second: String,
        /// Where both go.
        place: String,
    },
    /// Streams of two contexts were brought together.
    #[error("{operator} brings together streams of two contexts: make both from the same one")]
    OtherContext {
        /// The operator's kind.
        operator: String,
    },
    /// A partition count out of range.
    #[error("{operator} was asked for {count} partitions: between 1 and 4096 are possible")]
    Partitions {
        /// The operator's kind.
        operator: String,
        /// The count asked for.
        count: u32,
    },
    /// The graph was changed after it had been compiled.
    #[error("{operator} was added after the start: declare all streams and outputs before")]
    Started {
        /// The operator's kind.
        operator: String,
    },
    /// The arguments that the driver sent are not those of this application.
    #[error(
        "the application's arguments could not be read: {reason}; an executor must be the same executable as its driver"
    )]
    Arguments {
        /// What serde said.
        reason: String,
    },
    /// A read through the context can't be repeated on an executor.
    #[error(
        "{name:?} was read on this executor, but not on the driver: the job function must do the same on both sides"
    )]
    NotRecorded {
        /// The name given to the read.
        name: String,
    },
    /// A read through the context failed.
    #[error("reading {name:?} through the context failed: {reason}")]
    Recording {
        /// The name given to the read.
        name: String,
        /// Why.
        reason: String,
    },
    /// A defect of Millstream.
    #[error(
        "the graph was put together wrongly at {operator}: this is a defect of Millstream, please report it"
    )]
    Internal {
        /// The operator's id.
        operator: String,
    },
}

impl Error {
    /// A stable, searchable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoOutputs => "graph.no_outputs",
            Self::DuplicateName { .. } => "graph.duplicate_name",
            Self::DuplicatePlace { .. } => "files.duplicate_place",
            Self::OtherContext { .. } => "graph.other_context",
            Self::Partitions { .. } => "graph.partitions",
            Self::Started { .. } => "graph.started",
            Self::Arguments { .. } => "graph.arguments",
            Self::NotRecorded { .. } => "graph.not_recorded",
            Self::Recording { .. } => "graph.recording",
            Self::Internal { .. } => "graph.internal",
        }
    }

    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Internal { .. } => Fault::Internal,
            _ => Fault::User,
        }
    }

    /// Whether trying again can help: it can't.
    pub fn retry(&self) -> Retry {
        Retry::Never
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let mut failure = Failure::new(FailureKind::UserCode, error.to_string())
            .with_code(error.code())
            .with_retry(error.retry());
        failure.fault = error.fault();
        failure
    }
}

/// What a user's function on a batch or partition may return: nothing, or whether it succeeded.
pub trait Outcome {
    /// The failure, as a text.
    ///
    /// # Errors
    /// What the function said.
    fn into_result(self) -> Result<(), String>;
}

impl Outcome for () {
    fn into_result(self) -> Result<(), String> {
        Ok(())
    }
}

impl<E: std::fmt::Display> Outcome for Result<(), E> {
    fn into_result(self) -> Result<(), String> {
        self.map_err(|error| format!("{error:#}"))
    }
}

/// The failure of a user function that returned an error.
pub(crate) fn user_failure(reason: String) -> Failure {
    Failure::new(
        FailureKind::UserCode,
        format!("a user function failed: {reason}"),
    )
}
