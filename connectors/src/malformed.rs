//! What happens to a record that can't be read as what it should be. Decoding happens inside user closures (`record.text()`), so policy and count
//! of the running task lie in its thread.

use std::{cell::Cell, panic::resume_unwind};

use millstream_common::{
    config,
    failure::{Failure, FailureKind},
    text::{Blob, Text},
};

/// What to do with a malformed record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnMalformed {
    /// The batch fails with an error that names the record.
    #[default]
    Fail,
    /// The source leaves the record out, and counts it.
    Drop,
    /// What isn't UTF-8 becomes U+FFFD, and is counted.
    Replace,
}

impl From<config::OnMalformed> for OnMalformed {
    fn from(policy: config::OnMalformed) -> Self {
        match policy {
            config::OnMalformed::Fail => Self::Fail,
            config::OnMalformed::Drop => Self::Drop,
            config::OnMalformed::Replace => Self::Replace,
        }
    }
}

thread_local! {
    static POLICY: Cell<OnMalformed> = const { Cell::new(OnMalformed::Fail) };
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

/// Sets the policy of the task that this thread runs from now on, and its count to zero.
pub fn begin(policy: OnMalformed) {
    POLICY.set(policy);
    COUNT.set(0);
}

/// Malformed records since the last call.
pub fn take_count() -> u64 {
    COUNT.take()
}

/// Counts one.
pub fn count() {
    COUNT.set(COUNT.get() + 1);
}

/// `bytes` as text. What isn't UTF-8 is replaced, or ends the task with a `BadInput` failure that says where the record is.
pub fn text(bytes: Blob, place: impl FnOnce() -> String) -> Text {
    let bytes = match bytes.into_text() {
        Ok(text) => return text,
        Err(bytes) => bytes,
    };
    if POLICY.get() == OnMalformed::Fail {
        let message = format!(
            "{} is not UTF-8 text; set input.on_malformed to `replace` or `drop` to go on without it, or use the bytes of its value",
            place()
        );
        // Unwinds out of the user's closure; the task's runner takes the failure as it is.
        resume_unwind(Box::new(Failure::new(FailureKind::BadInput, message)));
    }
    count();
    bytes.to_text_lossy()
}
