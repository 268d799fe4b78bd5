//! What can go wrong in the harness itself.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use rdkafka::error::KafkaError;

/// An error of the harness: the test can't go on, or what it waited for did not happen.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A part that the set-up script installs is not there.
    #[error("{part} is missing (looked at {}): run integration-tests/setup.sh", looked_at.display())]
    Missing {
        /// The part.
        part: &'static str,
        /// Where it was looked for.
        looked_at: PathBuf,
    },
    /// An operation of the operating system failed.
    #[error("could not {action}: {source}")]
    Io {
        /// What was tried, and on what.
        action: String,
        /// The operating system's reason.
        source: io::Error,
    },
    /// Something did not happen in time.
    #[error("waited {waited:?} in vain for {what}{detail}")]
    TimedOut {
        /// What was waited for.
        what: String,
        /// For how long.
        waited: Duration,
        /// What was seen instead; empty, or begins with a separator.
        detail: String,
    },
    /// A child process ended, or closed its output, before it did what was waited for.
    #[error("{name} ended before {what}; its last output:\n{output}")]
    Ended {
        /// The child's name.
        name: String,
        /// What was waited for.
        what: String,
        /// The last lines it wrote.
        output: String,
    },
    /// A command ran to its end but failed.
    #[error("{name} failed with {status}; its last output:\n{output}")]
    Failed {
        /// The child's name.
        name: String,
        /// Its exit status.
        status: String,
        /// The last lines it wrote.
        output: String,
    },
    /// Kafka refused an operation, or could not be reached.
    #[error("could not {action}: {source}")]
    Kafka {
        /// What was tried, and on what.
        action: String,
        /// The client's reason.
        source: KafkaError,
    },
    /// Processes are left that should be gone.
    #[error("processes are left that should be gone: {0}")]
    Left(String),
    /// The harness was used in the wrong order, such as stopping a broker that is stopped.
    #[error("{0}")]
    Misuse(String),
}

impl Error {
    /// For `map_err`: an operating system's error of the given action.
    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
        let action = action.into();
        move |source| Error::Io { action, source }
    }

    /// For `map_err`: a Kafka client's error of the given action.
    pub(crate) fn kafka(action: impl Into<String>) -> impl FnOnce(KafkaError) -> Error {
        let action = action.into();
        move |source| Error::Kafka { action, source }
    }
}
