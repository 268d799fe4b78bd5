//! Why an application could not be run, or ended.

use std::{io, sync::Arc};

use millstream_common::{
    config,
    failure::{Failure, Fault, Retry},
};
use millstream_driver::{application, query::error::QueryError};
use millstream_executor as executor;

use crate::error::Error as GraphError;

/// Why an application could not be run, or ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// The graph is wrong.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The driver could not be started.
    #[error(transparent)]
    Driver(#[from] application::Error),
    /// The query ended.
    #[error(transparent)]
    Query(Arc<QueryError>),
    /// The executor within this process ended.
    #[error(transparent)]
    Executor(#[from] executor::Error),
    /// A part of the graph could not be made.
    #[error(transparent)]
    Part(#[from] Failure),
    /// The machine refuses threads or the like.
    #[error("could not {action}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// Something was asked of a context in the wrong state.
    #[error("{0}")]
    State(&'static str),
}

impl RunError {
    /// A stable, searchable code.
    pub fn code(&self) -> &str {
        match self {
            Self::Config(error) => error.code(),
            Self::Graph(error) => error.code(),
            Self::Driver(application::Error::Query(error)) => error.code(),
            Self::Driver(application::Error::Tls(_)) => "tls.files",
            Self::Driver(application::Error::Door(_)) => "http.exposed",
            Self::Driver(_) => "driver.start",
            Self::Query(error) => error.code(),
            Self::Executor(error) => error.code(),
            Self::Part(failure) => &failure.code,
            Self::Io { .. } => "io",
            Self::State(_) => "context.state",
        }
    }

    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Config(_)
            | Self::State(_)
            | Self::Driver(application::Error::Tls(_) | application::Error::Door(_)) => Fault::User,
            Self::Graph(error) => error.fault(),
            Self::Driver(application::Error::Query(error)) => error.fault(),
            Self::Driver(application::Error::Checkpoint { source, .. }) => source.fault(),
            Self::Driver(_) | Self::Io { .. } => Fault::Environment,
            Self::Query(error) => error.fault(),
            Self::Executor(error) => error.fault(),
            Self::Part(failure) => failure.fault,
        }
    }

    /// Whether starting again can help.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Driver(application::Error::Query(error)) => error.retry(),
            Self::Query(error) => error.retry(),
            Self::Executor(error) => error.retry(),
            Self::Part(failure) => failure.retry,
            Self::Driver(application::Error::Tls(_) | application::Error::Door(_)) => Retry::Never,
            Self::Driver(_) | Self::Io { .. } => Retry::Backoff,
            Self::Config(_) | Self::Graph(_) | Self::State(_) => Retry::Never,
        }
    }

    /// The process's exit code: 2 for bad arguments or configuration, 3 when superseded, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Query(error) => error.exit_code(),
            Self::Driver(application::Error::Query(error)) => error.exit_code(),
            Self::Config(_)
            | Self::Graph(_)
            | Self::State(_)
            | Self::Driver(application::Error::Tls(_) | application::Error::Door(_)) => 2,
            // Such as a location of an unknown kind.
            Self::Driver(application::Error::Checkpoint { source, .. })
                if source.fault() == Fault::User =>
            {
                2
            }
            // Such as a time zone that is none.
            Self::Part(failure) if failure.fault == Fault::User => 2,
            _ => 1,
        }
    }
}
