//! What can end the executor from outside: its shutdown token, or leaving.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use millstream_common::time::{Clock, Tick};
use tokio_util::sync::CancellationToken;

use super::ExitReason;

pub(super) struct Life {
    shutdown: CancellationToken,
    leave: CancellationToken,
    clock: Arc<dyn Clock>,
    leave_deadline: OnceLock<Tick>,
}

impl Life {
    pub(super) fn new(
        shutdown: CancellationToken,
        leave: CancellationToken,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            shutdown,
            leave,
            clock,
            leave_deadline: OnceLock::new(),
        }
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leave.is_cancelled()
    }

    /// Resolves once it was told to leave.
    pub(super) async fn leaving(&self) {
        self.leave.cancelled().await;
    }

    /// Resolves when a registered executor has to end: at once by its token, `stop_timeout` after it was told to leave.
    pub(super) async fn ended(&self, stop_timeout: Duration) -> ExitReason {
        let late = async {
            self.leave.cancelled().await;
            let deadline = self
                .leave_deadline
                .get_or_init(|| self.clock.now().after(stop_timeout));
            self.clock.until(*deadline).await;
        };
        tokio::select! {
            () = self.shutdown.cancelled() => ExitReason::Stopped,
            () = late => ExitReason::Left,
        }
    }

    /// Resolves when one that isn't registered has to end: it holds nothing that anybody waits for.
    pub(super) async fn ended_unregistered(&self) -> ExitReason {
        tokio::select! {
            () = self.shutdown.cancelled() => ExitReason::Stopped,
            () = self.leave.cancelled() => ExitReason::Left,
        }
    }
}
