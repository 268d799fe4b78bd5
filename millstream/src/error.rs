//! What a job function or a launch may fail with.

use millstream_common::{
    config,
    failure::{Failure, Fault, Retry},
};
use millstream_dstreams::RunError;

/// The result of a job function.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a job function or a launch failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line asks for what can't be done; the message says what to try.
    #[error("{0}")]
    Usage(String),
    /// An application has a flag that every application has already.
    #[error(
        "the application's own flag --{flag} is taken: --{flag} belongs to every application's command line; give yours another name"
    )]
    FlagTaken {
        /// The flag.
        flag: String,
    },
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// The application could not run, or ended.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A part of the graph could not be made.
    #[error(transparent)]
    Part(#[from] Failure),
    /// The executor ended.
    #[error(transparent)]
    Executor(#[from] millstream_executor::Error),
    /// A query of Structured Streaming.
    #[cfg(feature = "sql")]
    #[error(transparent)]
    Sql(#[from] millstream_sql::Error),
    /// Anything else of the job function.
    #[error(transparent)]
    Other(#[from] Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// An error of the command line.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }

    /// Any other error.
    pub fn other(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Other(error.into())
    }

    /// A stable, searchable code.
    pub fn code(&self) -> &str {
        match self {
            Self::Usage(_) | Self::FlagTaken { .. } => "arguments",
            Self::Config(error) => error.code(),
            Self::Run(error) => error.code(),
            Self::Part(failure) => &failure.code,
            Self::Executor(error) => error.code(),
            #[cfg(feature = "sql")]
            Self::Sql(error) => error.code(),
            Self::Other(_) => "job",
        }
    }

    /// What went wrong, then the code. A failure's words have their code already, and so have those of whatever it brought down.
    pub(crate) fn with_code(&self) -> String {
        let words = self.to_string();
        let code = format!("[{}]", self.code());
        if words.contains(&code) {
            words
        } else {
            format!("{words} {code}")
        }
    }

    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Usage(_) | Self::FlagTaken { .. } | Self::Config(_) | Self::Other(_) => {
                Fault::User
            }
            Self::Run(error) => error.fault(),
            Self::Part(failure) => failure.fault,
            Self::Executor(error) => error.fault(),
            #[cfg(feature = "sql")]
            Self::Sql(error) => error.fault(),
        }
    }

    /// Whether starting again can help.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Usage(_) | Self::FlagTaken { .. } | Self::Config(_) | Self::Other(_) => {
                Retry::Never
            }
            Self::Run(error) => error.retry(),
            Self::Part(failure) => failure.retry,
            Self::Executor(error) => error.retry(),
            #[cfg(feature = "sql")]
            Self::Sql(error) => error.retry(),
        }
    }

    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::FlagTaken { .. } | Self::Config(_) => 2,
            Self::Run(error) => error.exit_code(),
            #[cfg(feature = "sql")]
            Self::Sql(error) => error.exit_code(),
            Self::Part(failure) if failure.fault == Fault::User => 2,
            Self::Executor(executor) if executor.is_misconfigured() => 2,
            Self::Part(_) | Self::Executor(_) | Self::Other(_) => 1,
        }
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self::Other(error.into())
    }
}

impl From<millstream_dstreams::Error> for Error {
    fn from(error: millstream_dstreams::Error) -> Self {
        Self::Run(error.into())
    }
}

impl From<millstream_dstreams::kafka::OffsetsError> for Error {
    fn from(error: millstream_dstreams::kafka::OffsetsError) -> Self {
        Self::Usage(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use millstream_common::{failure::FailureKind, ids::BatchId};
    use millstream_driver::{application, query::error::QueryError};
    use millstream_executor as executor;

    use super::*;

    #[test]
    fn every_error_is_told_with_its_code_once() {
        let failure =
            || Failure::new(FailureKind::Io, "the broker is away").with_code("kafka.away");
        let batch = || QueryError::Batch {
            batch: BatchId(3),
            failure: Box::new(failure()),
        };
        let source = QueryError::Source {
            source_id: "kafka-0".to_owned(),
            failure: Box::new(failure()),
        };
        let output = QueryError::Output {
            output: "kafka-sink-0".to_owned(),
            what: "be written to".to_owned(),
            failure: Box::new(failure()),
        };
        let graph = millstream_dstreams::Error::NoOutputs;
        let errors: [Error; 14] = [
            Error::usage("give a folder"),
            Error::FlagTaken {
                flag: "conf".to_owned(),
            },
            Error::other("the job has its own reasons"),
            Error::other(failure()),
            failure().into(),
            graph.into(),
            RunError::Part(failure()).into(),
            RunError::State("the context runs").into(),
            RunError::Query(Arc::new(batch())).into(),
            RunError::Query(Arc::new(source)).into(),
            RunError::Query(Arc::new(output)).into(),
            RunError::Driver(application::Error::Query(batch())).into(),
            RunError::Executor(executor::Error::Setup(failure())).into(),
            executor::Error::Refused(failure()).into(),
        ];
        for error in errors {
            let told = error.with_code();
            let code = format!("[{}]", error.code());
            assert!(told.ends_with(&code), "{told}");
            assert_eq!(told.matches(&code).count(), 1, "{told}");
        }
    }
}
