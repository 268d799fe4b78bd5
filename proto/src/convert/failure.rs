//! Failures, whole.

use bytes::Bytes;
use millstream_common::failure::{Failure, FailureKind, Fault, Retry};

use super::{ConversionError, ids, require};
use crate::pb;

impl From<Failure> for pb::Failure {
    fn from(failure: Failure) -> Self {
        let (block, executor) = match &failure.kind {
            FailureKind::FetchFailed { block, executor } => {
                (Some((*block).into()), ids::wire_executor(*executor))
            }
            _ => (None, Bytes::new()),
        };
        let kind = match &failure.kind {
            FailureKind::UserCode => pb::FailureKind::UserCode,
            FailureKind::BadInput => pb::FailureKind::BadInput,
            FailureKind::FetchFailed { .. } => pb::FailureKind::FetchFailed,
            FailureKind::Io => pb::FailureKind::Io,
            FailureKind::OutOfMemory => pb::FailureKind::OutOfMemory,
            FailureKind::Cancelled => pb::FailureKind::Cancelled,
            FailureKind::ExecutorLost => pb::FailureKind::ExecutorLost,
            FailureKind::Superseded => pb::FailureKind::Superseded,
            FailureKind::Nondeterministic => pb::FailureKind::Nondeterministic,
            FailureKind::DataLoss => pb::FailureKind::DataLoss,
            FailureKind::Internal => pb::FailureKind::Internal,
        };
        let fault = match failure.fault {
            Fault::User => pb::Fault::User,
            Fault::Environment => pb::Fault::Environment,
            Fault::Internal => pb::Fault::Internal,
        };
        let retry = match failure.retry {
            Retry::Never => pb::Retry::Never,
            Retry::Now => pb::Retry::Now,
            Retry::Backoff => pb::Retry::Backoff,
        };
        Self {
            code: failure.code,
            kind: kind.into(),
            block,
            executor,
            fault: fault.into(),
            retry: retry.into(),
            message: failure.message,
            causes: failure.causes,
            operator: failure.operator,
            task: failure.task.map(Into::into),
        }
    }
}

impl TryFrom<pb::Failure> for Failure {
    type Error = ConversionError;

    fn try_from(failure: pb::Failure) -> Result<Self, ConversionError> {
        let unknown = |field| ConversionError::new("Failure", field, "unknown value");
        let kind = match failure.kind() {
            pb::FailureKind::Unspecified => return Err(unknown("kind")),
            pb::FailureKind::UserCode => FailureKind::UserCode,
            pb::FailureKind::BadInput => FailureKind::BadInput,
            pb::FailureKind::FetchFailed => FailureKind::FetchFailed {
                block: require(failure.block.clone(), "Failure", "block")?.try_into()?,
                executor: ids::executor(&failure.executor, "Failure", "executor")?,
            },
            pb::FailureKind::Io => FailureKind::Io,
            pb::FailureKind::OutOfMemory => FailureKind::OutOfMemory,
            pb::FailureKind::Cancelled => FailureKind::Cancelled,
            pb::FailureKind::ExecutorLost => FailureKind::ExecutorLost,
            pb::FailureKind::Superseded => FailureKind::Superseded,
            pb::FailureKind::Nondeterministic => FailureKind::Nondeterministic,
            pb::FailureKind::DataLoss => FailureKind::DataLoss,
            pb::FailureKind::Internal => FailureKind::Internal,
        };
        let fault = match failure.fault() {
            pb::Fault::Unspecified => return Err(unknown("fault")),
            pb::Fault::User => Fault::User,
            pb::Fault::Environment => Fault::Environment,
            pb::Fault::Internal => Fault::Internal,
        };
        let retry = match failure.retry() {
            pb::Retry::Unspecified => return Err(unknown("retry")),
            pb::Retry::Never => Retry::Never,
            pb::Retry::Now => Retry::Now,
            pb::Retry::Backoff => Retry::Backoff,
        };
        Ok(Self {
            code: failure.code,
            kind,
            fault,
            retry,
            message: failure.message,
            causes: failure.causes,
            operator: failure.operator,
            task: failure.task.map(TryInto::try_into).transpose()?,
        })
    }
}
