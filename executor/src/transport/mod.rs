//! The link to the driver: how an executor registers and keeps its session, whatever carries the messages.
//!
//! Layout:
//! - `grpc`: over the network
//! - `in_process`: within one process, for `local[N]`

mod grpc;
mod in_process;

use async_trait::async_trait;
use millstream_common::{
    failure::{Failure, Retry},
    protocol::{Hello, RegisterReply, RegisterRequest, ToDriver, ToExecutor},
};
use millstream_proto::refusal;
use tokio::sync::mpsc;

pub use grpc::{GrpcLink, InvalidAddress};
pub use in_process::{InProcessLink, SessionChannels};

/// Reaches the driver.
#[async_trait]
pub trait DriverLink: Send + Sync {
    /// Asks to take part. One try; the caller tries again.
    ///
    /// # Errors
    /// [`LinkError`].
    async fn register(&self, request: RegisterRequest) -> Result<RegisterReply, LinkError>;

    /// Opens a session. One try; the caller tries again. The session ends when either channel closes.
    ///
    /// # Errors
    /// [`LinkError`].
    async fn session(&self, hello: Hello) -> Result<Session, LinkError>;
}

/// An open session: bounded channels in both directions.
#[derive(Debug)]
pub struct Session {
    /// To the driver, in order.
    pub to_driver: mpsc::Sender<ToDriver>,
    /// From the driver, in order. A failure says why the driver ended the session; the end without one is a cut.
    pub from_driver: mpsc::Receiver<Result<ToExecutor, Failure>>,
}

/// Why a try didn't reach or convince the driver.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Nobody answered, or the line was cut: another try may help.
    #[error("no driver answers: {0}")]
    Unreachable(String),
    /// The driver doesn't know this executor id: register anew.
    #[error("the driver doesn't know this executor")]
    Unknown(#[source] Failure),
    /// The driver said no, and will say it again.
    #[error("the driver refused this executor")]
    Refused(#[source] Failure),
    /// The two sides' TLS doesn't fit, and won't by itself.
    #[error("no safe connection to the driver")]
    Unsafe(#[source] Failure),
}

impl LinkError {
    /// What a driver's refusal means: one that may heal is as good as no answer.
    pub fn of_failure(failure: Failure) -> Self {
        match failure.code.as_str() {
            refusal::UNKNOWN_EXECUTOR | refusal::SUPERSEDED_EXECUTOR => Self::Unknown(failure),
            _ if failure.retry == Retry::Never => Self::Refused(failure),
            _ => Self::Unreachable(failure.to_string()),
        }
    }
}
