//! The link within one process: the driver's two entry points, called directly.

use std::sync::Arc;

use async_trait::async_trait;
use futures::future::BoxFuture;
use millstream_common::{
    failure::Failure,
    protocol::{Hello, RegisterReply, RegisterRequest, ToDriver, ToExecutor},
};
use tokio::sync::mpsc;

use super::{DriverLink, LinkError, Session};

/// The executor's ends of a session's two channels.
pub type SessionChannels = (
    mpsc::Sender<ToDriver>,
    mpsc::Receiver<Result<ToExecutor, Failure>>,
);

/// What the driver does when an executor registers.
pub type Register =
    dyn Fn(RegisterRequest) -> BoxFuture<'static, Result<RegisterReply, Failure>> + Send + Sync;

/// What the driver does when an executor opens a session.
pub type OpenSession =
    dyn Fn(Hello) -> BoxFuture<'static, Result<SessionChannels, Failure>> + Send + Sync;

/// Calls the driver of the same process.
#[derive(Clone)]
pub struct InProcessLink {
    /// Registers.
    pub register: Arc<Register>,
    /// Opens a session.
    pub session: Arc<OpenSession>,
}

#[async_trait]
impl DriverLink for InProcessLink {
    async fn register(&self, request: RegisterRequest) -> Result<RegisterReply, LinkError> {
        (self.register)(request)
            .await
            .map_err(LinkError::of_failure)
    }

    async fn session(&self, hello: Hello) -> Result<Session, LinkError> {
        let (to_driver, from_driver) =
            (self.session)(hello).await.map_err(LinkError::of_failure)?;
        Ok(Session {
            to_driver,
            from_driver,
        })
    }
}
