//! A running query.

use std::{fmt, sync::Arc, time::Duration};

use millstream_common::ids::QueryId;
use millstream_driver::{
    query::handle::{QueryHandle, QueryState},
    streaming::QueryInfo,
};
use uuid::Uuid;

use crate::{
    error::Error,
    progress::{StreamingQueryProgress, StreamingQueryStatus},
    session::Session,
};

/// A running query. Cheap to clone; it runs on when every clone is gone.
#[derive(Clone)]
pub struct StreamingQuery {
    running: Arc<Running>,
    session: Session,
}

/// A query, as its session knows it.
pub(crate) struct Running {
    pub(crate) id: QueryId,
    pub(crate) handle: QueryHandle,
    /// Where, unless it is the driver's memory.
    pub(crate) checkpoint: Option<String>,
    pub(crate) description: Description,
    pub(crate) info: QueryInfo,
}

/// A query in words.
#[derive(Clone, Debug, Default)]
pub(crate) struct Description {
    pub(crate) logical: String,
    pub(crate) physical: String,
    pub(crate) sink: String,
}

impl Running {
    pub(crate) fn is_active(&self) -> bool {
        self.handle.state() != QueryState::Stopped
    }
}

impl fmt::Debug for StreamingQuery {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("StreamingQuery")
            .field("id", &self.running.id)
            .field("name", &self.running.info.name)
            .finish()
    }
}

impl StreamingQuery {
    pub(crate) fn new(running: Arc<Running>, session: Session) -> Self {
        Self { running, session }
    }

    #[cfg(test)]
    pub(crate) fn checkpoint(&self) -> Option<&str> {
        self.running.checkpoint.as_deref()
    }

    /// Its identity: that of its checkpoint.
    pub fn id(&self) -> Uuid {
        self.running.id.0
    }

    /// The identity of this run.
    pub fn run_id(&self) -> Uuid {
        self.running.info.run_id
    }

    /// Its name, where it has one.
    pub fn name(&self) -> Option<&str> {
        self.running.info.name.as_deref()
    }

    /// What it does now.
    pub fn status(&self) -> StreamingQueryStatus {
        StreamingQueryStatus::of(&self.running.handle)
    }

    /// The newest batches, at most a thousand, oldest first.
    pub fn recent_progress(&self) -> Vec<StreamingQueryProgress> {
        StreamingQueryProgress::recent(&self.running.info, &self.running.handle)
    }

    /// The newest batch.
    pub fn last_progress(&self) -> Option<StreamingQueryProgress> {
        StreamingQueryProgress::last(&self.running.info, &self.running.handle)
    }

    /// How it is computed: the logical plan, and the physical one before it is cut into stages.
    pub fn explain(&self) -> String {
        let description = &self.running.description;
        format!(
            "== Logical Plan ==\n{}\n\n== Physical Plan ==\n{}",
            description.logical, description.physical
        )
    }

    /// Whether it runs.
    pub fn is_active(&self) -> bool {
        self.running.is_active()
    }

    /// Waits until it ends, by [`stop`](Self::stop), a signal, or an error.
    ///
    /// # Errors
    /// Why it ended, unless it was stopped.
    pub fn await_termination(&self) -> Result<(), Error> {
        let handle = self.running.handle.clone();
        let ended = async move { handle.await_termination().await };
        let ended = self.session.wait(ended)?;
        self.session.note_end(&ended);
        ended.map(drop).map_err(Error::Query)
    }

    /// Waits at most this long; says whether it ended.
    ///
    /// # Errors
    /// Why it ended, unless it was stopped.
    pub fn await_termination_timeout(&self, timeout: Duration) -> Result<bool, Error> {
        let handle = self.running.handle.clone();
        let clock = Arc::clone(self.session.clock());
        let waiting = async move {
            let over = clock.until(clock.now().after(timeout));
            tokio::select! {
                ended = handle.await_termination() => Some(ended),
                () = over => None,
            }
        };
        match self.session.wait(waiting)? {
            None => Ok(false),
            Some(ended) => {
                self.session.note_end(&ended);
                ended.map(|_| true).map_err(Error::Query)
            }
        }
    }

    /// Ends it: the batch that runs is finished and committed first, within `stop.timeout`.
    ///
    /// # Errors
    /// Why it had ended before, unless it was stopped.
    pub fn stop(&self) -> Result<(), Error> {
        self.stop_within(self.session.stop_timeout())
    }

    /// The same, with so much time for the batch that runs.
    pub(crate) fn stop_within(&self, timeout: Duration) -> Result<(), Error> {
        self.running.handle.stop(true);
        if !self.await_termination_timeout(timeout)? {
            self.running.handle.stop(false);
            self.await_termination()?;
        }
        Ok(())
    }

    /// Why it ended, if it did by an error.
    pub fn exception(&self) -> Option<Error> {
        if self.is_active() {
            return None;
        }
        self.await_termination().err()
    }

    /// Waits until everything that was in the sources when this was called has been committed.
    ///
    /// # Errors
    /// Why the query ended, unless it was stopped.
    pub fn process_all_available(&self) -> Result<(), Error> {
        let handle = self.running.handle.clone();
        let done = async move {
            let mut status = handle.status();
            // One look at the sources may be under way already; the next begins after this call.
            let looks = status.borrow().empty_looks.saturating_add(2);
            let looked = async {
                // Closed when the query ends, which is heard below.
                let closed = status
                    .wait_for(|status| status.empty_looks >= looks)
                    .await
                    .is_err();
                if closed {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = looked => Ok(()),
                ended = handle.await_termination() => ended.map(drop),
            }
        };
        self.session.wait(done)?.map_err(Error::Query)
    }
}
