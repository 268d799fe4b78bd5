//! The one error type that crosses the wire: what failed, whose fault it is, and whether trying again helps.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::{BlockId, ExecutorId, TaskId};

/// Whose fault a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The application's code, arguments or input.
    User,
    /// The machine, network, disk or a service outside.
    Environment,
    /// Millstream itself.
    Internal,
}

/// Whether trying again can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Retry {
    /// The same input gives the same failure.
    Never,
    /// At once, preferably elsewhere.
    Now,
    /// After a pause.
    Backoff,
}

/// What kind of thing failed; decides what the scheduler does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// A user function panicked or returned an error.
    UserCode,
    /// A record could not be read and the policy is `fail`.
    BadInput,
    /// A block could not be had from the executor that should hold it, or was corrupt.
    FetchFailed {
        /// The block.
        block: BlockId,
        /// Who should have had it.
        executor: ExecutorId,
    },
    /// Disk, network or an outside service.
    Io,
    /// More memory was wanted than the budget allows.
    OutOfMemory,
    /// The attempt was told to stop.
    Cancelled,
    /// The executor is gone.
    ExecutorLost,
    /// A newer attempt fenced this one at its sink; doesn't count against `task.max_failures`.
    Superseded,
    /// The same input gave other output than before; stops the query.
    Nondeterministic,
    /// Input that should be there is not (offset out of range); stops the query when the policy is `fail`.
    DataLoss,
    /// A defect of Millstream.
    Internal,
}

/// A failure, whole, as the log, the API and the user get it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// A stable, searchable code such as `task.user_code`.
    pub code: String,
    /// What kind of thing failed.
    pub kind: FailureKind,
    /// Whose fault it is.
    pub fault: Fault,
    /// Whether trying again can help.
    pub retry: Retry,
    /// What was tried, on what, and what to do; lower case, no full stop.
    pub message: String,
    /// The chain of causes, outermost first.
    pub causes: Vec<String>,
    /// The operator whose function failed, by its stable id.
    pub operator: Option<String>,
    /// The attempt that failed.
    pub task: Option<TaskId>,
}

impl Failure {
    /// A failure of `kind`, with that kind's usual code, fault and retry.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        let (code, fault, retry) = match &kind {
            FailureKind::UserCode => ("task.user_code", Fault::User, Retry::Now),
            FailureKind::BadInput => ("input.malformed", Fault::User, Retry::Never),
            FailureKind::FetchFailed { .. } => {
                ("shuffle.fetch_failed", Fault::Environment, Retry::Now)
            }
            FailureKind::Io => ("task.io", Fault::Environment, Retry::Backoff),
            FailureKind::OutOfMemory => ("task.out_of_memory", Fault::Environment, Retry::Now),
            FailureKind::Cancelled => ("task.cancelled", Fault::Environment, Retry::Now),
            FailureKind::ExecutorLost => ("executor.lost", Fault::Environment, Retry::Now),
            FailureKind::Superseded => ("sink.superseded", Fault::Environment, Retry::Backoff),
            FailureKind::Nondeterministic => {
                ("operator.nondeterministic", Fault::User, Retry::Never)
            }
            FailureKind::DataLoss => ("input.data_loss", Fault::Environment, Retry::Never),
            FailureKind::Internal => ("internal", Fault::Internal, Retry::Now),
        };
        Self {
            code: code.to_owned(),
            kind,
            fault,
            retry,
            message: message.into(),
            causes: Vec::new(),
            operator: None,
            task: None,
        }
    }

    /// A failure of `kind` caused by `error`, whose whole chain is kept. What an error says of its source in its own words is not said again.
    pub fn caused_by(
        kind: FailureKind,
        message: impl Into<String>,
        error: &dyn std::error::Error,
    ) -> Self {
        let mut failure = Self::new(kind, message);
        let mut cause = Some(error);
        while let Some(error) = cause {
            let said = error.to_string();
            let outer = failure.causes.last();
            if !outer.is_some_and(|outer| outer.ends_with(&said)) {
                failure.causes.push(said);
            }
            cause = error.source();
        }
        failure
    }

    /// The same with another code.
    pub fn with_code(mut self, code: &str) -> Self {
        code.clone_into(&mut self.code);
        self
    }

    /// The same with another verdict on retrying.
    pub fn with_retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// The same with the operator named, unless one is named already.
    pub fn in_operator(mut self, operator: &str) -> Self {
        if self.operator.is_none() {
            self.operator = Some(operator.to_owned());
        }
        self
    }

    /// The same with the attempt named, unless one is named already.
    pub fn in_task(mut self, task: TaskId) -> Self {
        if self.task.is_none() {
            self.task = Some(task);
        }
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.message)?;
        if let Some(operator) = &self.operator {
            write!(formatter, ", in operator {operator}")?;
        }
        if let Some(task) = &self.task {
            write!(formatter, ", in {task}")?;
        }
        for cause in &self.causes {
            write!(formatter, ": {cause}")?;
        }
        write!(formatter, " [{}]", self.code)
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Away {
        #[error("could not ask: {0}")]
        Whole(#[source] std::io::Error),
        #[error("could not ask")]
        Short(#[source] std::io::Error),
    }

    #[test]
    fn a_cause_is_said_once() {
        let refused = || std::io::Error::other("it refused");
        for away in [Away::Whole(refused()), Away::Short(refused())] {
            let failure = Failure::caused_by(FailureKind::Io, "no answer", &away);
            let told = "no answer: could not ask: it refused [task.io]";
            assert_eq!(failure.to_string(), told, "{away:?}");
        }
    }
}
