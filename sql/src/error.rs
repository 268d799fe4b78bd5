//! What can be wrong with a query, and with running it.

use std::{convert::Infallible, sync::Arc};

use arrow::error::ArrowError;
use datafusion::error::DataFusionError;
use millstream_common::{
    config,
    failure::{Failure, FailureKind, Fault, Retry},
};
use millstream_driver::{application, query::error::QueryError};

/// Why a query can't be built or run, or ended.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// A schema that isn't one.
    #[error("the schema `{text}` can't be read: {reason}")]
    Schema {
        /// What was given.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An option of a reader or writer.
    #[error("option {name} can't be `{value}`: {reason}")]
    Option {
        /// Its name.
        name: String,
        /// What it was set to.
        value: String,
        /// What it may be.
        reason: String,
    },
    /// What streams can't do, as in Spark or not yet here.
    #[error("{what}; {instead}")]
    Refused {
        /// The rule.
        what: String,
        /// What to do instead.
        instead: String,
    },
    /// The query makes no sense to the planner: an unknown column, a wrong type, broken SQL.
    #[error("{0}")]
    Plan(String),
    /// The session, a source, a sink or a checkpoint.
    #[error("{0}")]
    Setup(Failure),
    /// The query ended.
    #[error(transparent)]
    Query(Arc<QueryError>),
    /// A defect of Millstream.
    #[error("{0}")]
    Internal(String),
}

impl Error {
    pub(crate) fn refused(what: impl Into<String>, instead: impl Into<String>) -> Self {
        Self::Refused {
            what: what.into(),
            instead: instead.into(),
        }
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::Internal(message.into())
    }

    pub(crate) fn option(name: &str, value: &str, reason: impl Into<String>) -> Self {
        Self::Option {
            name: name.to_owned(),
            value: value.to_owned(),
            reason: reason.into(),
        }
    }

    /// A stable, searchable code.
    pub fn code(&self) -> &str {
        match self {
            Self::Schema { .. } => "sql.schema",
            Self::Option { .. } => "sql.option",
            Self::Refused { .. } => "sql.refused",
            Self::Plan(_) => "sql.plan",
            Self::Setup(failure) => &failure.code,
            Self::Query(error) => error.code(),
            Self::Internal(_) => "internal",
        }
    }

    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Schema { .. } | Self::Option { .. } | Self::Refused { .. } | Self::Plan(_) => {
                Fault::User
            }
            Self::Setup(failure) => failure.fault,
            Self::Query(error) => error.fault(),
            Self::Internal(_) => Fault::Internal,
        }
    }

    /// Whether trying again can help.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Setup(failure) => failure.retry,
            Self::Query(error) => error.retry(),
            _ => Retry::Never,
        }
    }

    /// The process's exit code: 2 for what the program asked for wrongly, 3 when superseded, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Query(error) => error.exit_code(),
            Self::Schema { .. } | Self::Option { .. } | Self::Refused { .. } | Self::Plan(_) => 2,
            Self::Setup(failure) if failure.fault == Fault::User => 2,
            Self::Setup(_) | Self::Internal(_) => 1,
        }
    }
}

impl From<Infallible> for Error {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

impl From<DataFusionError> for Error {
    fn from(error: DataFusionError) -> Self {
        match error.find_root() {
            DataFusionError::Internal(message) => Self::Internal(message.clone()),
            _ => Self::Plan(error.strip_backtrace()),
        }
    }
}

impl From<ArrowError> for Error {
    fn from(error: ArrowError) -> Self {
        Self::Internal(error.to_string())
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::Setup(failure)
    }
}

impl From<config::Error> for Error {
    fn from(error: config::Error) -> Self {
        Self::Setup(
            Failure::new(FailureKind::BadInput, error.to_string()).with_code("config.invalid"),
        )
    }
}

impl From<application::Error> for Error {
    fn from(error: application::Error) -> Self {
        match error {
            application::Error::Query(error) => Self::Query(Arc::new(error)),
            other => Self::Setup(
                Failure::new(FailureKind::Io, other.to_string()).with_code("driver.start"),
            ),
        }
    }
}

/// A failure of a task. What the engine says of the data is the query's fault; a panic or an inner error is ours.
pub(crate) fn task_failure(error: Error) -> Failure {
    match error {
        Error::Setup(failure) => failure,
        Error::Internal(message) => Failure::new(FailureKind::Internal, message),
        other => Failure::new(FailureKind::UserCode, other.to_string())
            .with_code(other.code())
            .with_retry(Retry::Never),
    }
}
