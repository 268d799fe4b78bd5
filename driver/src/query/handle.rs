//! What a running query's owner holds.

use std::sync::Arc;

use millstream_common::{
    ids::{BatchId, Epoch, QueryId},
    protocol::SharedFile,
};
use parking_lot::Mutex;
use tokio::sync::{broadcast, watch};

use super::{
    error::{QueryError, Stopped},
    progress::{BatchProgress, QueryStatus, RecentBatches},
};

/// Batches that a slow follower of [`QueryHandle::follow`] may lag behind.
const FOLLOWED_BATCHES: usize = 1_024;

/// Where a query is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryState {
    /// Not claimed and checked yet.
    Initialized,
    /// Running batches.
    Active,
    /// Over.
    Stopped,
}

/// A query that was claimed and checked: executors may be told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// The query.
    pub query: QueryId,
    /// This driver's epoch of it.
    pub epoch: Epoch,
    /// The first batch to run.
    pub next: BatchId,
    /// What executors must be able to read.
    pub shared_files: Vec<SharedFile>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum StopWish {
    None,
    Graceful,
    Now,
}

/// How a query ended.
pub type Ended = Result<Stopped, Arc<QueryError>>;

/// A cheap handle to a query.
#[derive(Clone)]
pub struct QueryHandle {
    ready: watch::Receiver<Option<Ready>>,
    ended: watch::Receiver<Option<Ended>>,
    status: watch::Receiver<QueryStatus>,
    latest: watch::Receiver<Option<Arc<BatchProgress>>>,
    batches: broadcast::WeakSender<Arc<BatchProgress>>,
    recent: Arc<Mutex<RecentBatches>>,
    stop: Arc<watch::Sender<StopWish>>,
}

/// The service's side of the handle.
pub(crate) struct Desk {
    pub(super) ready: watch::Sender<Option<Ready>>,
    pub(crate) ended: watch::Sender<Option<Ended>>,
    pub(super) status: watch::Sender<QueryStatus>,
    latest: watch::Sender<Option<Arc<BatchProgress>>>,
    batches: broadcast::Sender<Arc<BatchProgress>>,
    recent: Arc<Mutex<RecentBatches>>,
    pub(super) stop: watch::Receiver<StopWish>,
    /// Keeps `stop` open when every handle is gone.
    _stop: Arc<watch::Sender<StopWish>>,
}

pub(crate) fn pair() -> (Desk, QueryHandle) {
    let (ready, ready_seen) = watch::channel(None);
    let (ended, ended_seen) = watch::channel(None);
    let (status, status_seen) = watch::channel(QueryStatus::default());
    let (latest, latest_seen) = watch::channel(None);
    let (batches, _) = broadcast::channel(FOLLOWED_BATCHES);
    let (stop, stop_seen) = watch::channel(StopWish::None);
    let recent = Arc::new(Mutex::new(RecentBatches::default()));
    let stop = Arc::new(stop);
    let handle = QueryHandle {
        ready: ready_seen,
        ended: ended_seen,
        status: status_seen,
        latest: latest_seen,
        batches: batches.downgrade(),
        recent: Arc::clone(&recent),
        stop: Arc::clone(&stop),
    };
    let desk = Desk {
        ready,
        ended,
        status,
        latest,
        batches,
        recent,
        stop: stop_seen,
        _stop: stop,
    };
    (desk, handle)
}

impl Desk {
    pub(super) fn tell(&self, batch: BatchProgress) {
        let batch = Arc::new(batch);
        self.recent.lock().push(Arc::clone(&batch));
        self.latest.send_replace(Some(Arc::clone(&batch)));
        // Nobody may be following.
        let _ = self.batches.send(batch);
    }
}

impl QueryHandle {
    /// Where the query is.
    pub fn state(&self) -> QueryState {
        if self.ended.borrow().is_some() {
            QueryState::Stopped
        } else if self.ready.borrow().is_some() {
            QueryState::Active
        } else {
            QueryState::Initialized
        }
    }

    /// The query's id, once it is claimed and checked.
    pub fn id(&self) -> Option<QueryId> {
        self.ready.borrow().as_ref().map(|ready| ready.query)
    }

    /// How the query ended, once it has.
    pub fn ended(&self) -> Option<Ended> {
        self.ended.borrow().clone()
    }

    /// Resolves when the query is claimed and checked.
    ///
    /// # Errors
    /// When it ended before.
    pub async fn ready(&self) -> Result<Ready, Arc<QueryError>> {
        let mut ready = self.ready.clone();
        let mut ended = self.ended.clone();
        tokio::select! {
            biased;
            Ok(ready) = ready.wait_for(Option::is_some) => {
                if let Some(ready) = ready.clone() {
                    return Ok(ready);
                }
            }
            _ = ended.wait_for(Option::is_some) => {}
        }
        match self.await_termination().await {
            Ok(_) => Err(Arc::new(QueryError::Internal(
                "the query was stopped before it was ready".to_owned(),
            ))),
            Err(error) => Err(error),
        }
    }

    /// Ends the query: gracefully after the batches planned so far are committed, else at once. A graceful stop has no deadline of its own: follow it with
    /// `stop(false)` when it takes too long.
    pub fn stop(&self, graceful: bool) {
        let wish = if graceful {
            StopWish::Graceful
        } else {
            StopWish::Now
        };
        self.stop.send_if_modified(|current| {
            let grows = wish > *current;
            if grows {
                *current = wish;
            }
            grows
        });
    }

    /// Resolves when the query is over.
    ///
    /// # Errors
    /// Why it ended, unless it was stopped.
    pub async fn await_termination(&self) -> Ended {
        let mut ended = self.ended.clone();
        if let Ok(result) = ended.wait_for(Option::is_some).await
            && let Some(result) = result.clone()
        {
            return result;
        }
        Err(Arc::new(QueryError::Internal(
            "the query's task ended without a result".to_owned(),
        )))
    }

    /// The newest finished batch, and every later one that a reader is in time for.
    pub fn progress(&self) -> watch::Receiver<Option<Arc<BatchProgress>>> {
        self.latest.clone()
    }

    /// Every batch that finishes from now on; closed when the query is over.
    pub fn follow(&self) -> broadcast::Receiver<Arc<BatchProgress>> {
        match self.batches.upgrade() {
            Some(sender) => sender.subscribe(),
            None => broadcast::channel(1).1,
        }
    }

    /// What the query does now.
    pub fn status(&self) -> watch::Receiver<QueryStatus> {
        self.status.clone()
    }

    /// The newest finished batches, at most a thousand, oldest first.
    pub fn recent(&self) -> Vec<Arc<BatchProgress>> {
        self.recent.lock().all()
    }
}
