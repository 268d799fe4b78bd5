//! Failures as gRPC statuses and back, and the codes of refusals that an executor acts on.

use millstream_common::failure::{Failure, FailureKind, Fault, Retry};
use prost::Message;
use tonic::{Code, Status};

use crate::{convert::clamp_text, pb};

/// The driver doesn't know the executor id (it restarted, or gave the executor up): the executor registers anew.
pub const UNKNOWN_EXECUTOR: &str = "session.unknown_executor";
/// Another process took the executor's place: it registers anew.
pub const SUPERSEDED_EXECUTOR: &str = "session.superseded_executor";
/// The executor speaks another protocol version or is of another release.
pub const PROTOCOL_MISMATCH: &str = "registration.protocol";
/// The executor's graph or build isn't the driver's.
pub const BUILD_MISMATCH: &str = "session.build_mismatch";
/// The executor doesn't see the driver's file system.
pub const UNSHARED_FILES: &str = "session.unshared_files";
/// The secret is missing or wrong.
pub const UNAUTHENTICATED: &str = "auth.secret";
/// A message could not be read.
pub const MALFORMED_MESSAGE: &str = "rpc.malformed_message";

// Details travel in a header, whose size HTTP/2 peers bound.
const MAX_DETAILS_TEXT: usize = 2048;
const MAX_DETAILS_CAUSES: usize = 4;

/// A refusal that trying again doesn't cure: somebody has to change something.
pub fn refusal(code: &str, message: impl Into<String>) -> Failure {
    let mut failure = Failure::new(FailureKind::Internal, message)
        .with_code(code)
        .with_retry(Retry::Never);
    failure.fault = Fault::Environment;
    failure
}

/// The driver's answer to an executor id that it doesn't know.
pub fn unknown_executor(message: impl Into<String>) -> Failure {
    refusal(UNKNOWN_EXECUTOR, message).with_retry(Retry::Now)
}

/// A status whose details are the failure. Long texts and chains of causes are cut.
pub fn to_status(failure: &Failure) -> Status {
    let mut failure = failure.clone();
    clamp_text(&mut failure.message, MAX_DETAILS_TEXT);
    failure.causes.truncate(MAX_DETAILS_CAUSES);
    for cause in &mut failure.causes {
        clamp_text(cause, MAX_DETAILS_TEXT / MAX_DETAILS_CAUSES);
    }
    let code = if failure.code == UNAUTHENTICATED {
        Code::Unauthenticated
    } else {
        match failure.retry {
            Retry::Never => Code::FailedPrecondition,
            Retry::Now => Code::Aborted,
            Retry::Backoff => Code::Unavailable,
        }
    };
    let message = failure.message.clone();
    let details = pb::Failure::from(failure).encode_to_vec();
    Status::with_details(code, message, details.into())
}

/// The failure that a status carries; for a status that isn't ours, what its code says. `None` for what another try may cure
/// (unreachable, cut, timed out).
pub fn from_status(status: &Status) -> Option<Failure> {
    if !status.details().is_empty()
        && let Ok(message) = pb::Failure::decode(status.details())
        && let Ok(failure) = Failure::try_from(message)
    {
        return Some(failure);
    }
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied => {
            Some(refusal(UNAUTHENTICATED, status.message()))
        }
        Code::Unimplemented => Some(refusal(
            PROTOCOL_MISMATCH,
            "the address answers, but not as a Millstream driver of this protocol: check the address and both releases",
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_survives_its_status() {
        let failure = refusal(BUILD_MISMATCH, "driver runs build a, this executor build b");
        assert_eq!(from_status(&to_status(&failure)), Some(failure));
    }

    #[test]
    fn what_may_heal_is_no_refusal() {
        assert_eq!(from_status(&Status::unavailable("down")), None);
        assert_eq!(from_status(&Status::internal("stream cut")), None);
        let unauthenticated = from_status(&Status::unauthenticated("who?")).expect("refusal");
        assert_eq!(unauthenticated.code, UNAUTHENTICATED);
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        let mut failure = refusal("x", "é".repeat(5_000));
        failure.causes = vec!["ü".repeat(5_000); 50];
        let status = to_status(&failure);
        assert!(status.details().len() < 8 * 1024);
        assert!(from_status(&status).is_some());
    }
}
