//! A running application: waiting for its end, and stopping it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use millstream_common::time::Clock;
use millstream_driver::{
    application::Driver,
    cluster::ClusterHandle,
    query::{
        error::{QueryError, Stopped},
        handle::QueryHandle,
    },
};
use millstream_executor as executor;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use super::{RunError, wait};

/// A running application.
pub struct Running {
    pub(super) runtime: Option<Runtime>,
    pub(super) driver: parking_lot::Mutex<Option<Driver>>,
    pub(super) query: QueryHandle,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) stop_timeout: Duration,
    pub(super) address: Option<SocketAddr>,
    pub(super) http: Option<SocketAddr>,
    pub(super) cluster: ClusterHandle,
    pub(super) executor_failed: Arc<parking_lot::Mutex<Option<executor::Error>>>,
    pub(super) executor:
        parking_lot::Mutex<Option<(tokio::task::JoinHandle<()>, CancellationToken)>>,
}

impl Running {
    /// Where executors come to.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Where metrics and REST are served.
    pub fn http(&self) -> Option<SocketAddr> {
        self.http
    }

    /// The query.
    pub fn query(&self) -> &QueryHandle {
        &self.query
    }

    /// The cluster.
    pub fn cluster(&self) -> &ClusterHandle {
        &self.cluster
    }

    /// The IO threads.
    ///
    /// # Errors
    /// After the end.
    pub fn runtime(&self) -> Result<&Runtime, RunError> {
        self.runtime
            .as_ref()
            .ok_or(RunError::State("the application has ended"))
    }

    /// Waits for the query's end; then ends the driver.
    ///
    /// # Errors
    /// Why it ended, unless it was stopped.
    pub fn await_termination(&self) -> Result<Stopped, RunError> {
        let query = self.query.clone();
        let ended = wait(
            self.runtime()?,
            async move { query.await_termination().await },
        )?;
        self.end_driver()?;
        self.outcome(ended)
    }

    /// Waits at most this long; `None` when it goes on.
    ///
    /// # Errors
    /// Why it ended, unless it was stopped.
    pub fn await_termination_or_timeout(
        &self,
        timeout: Duration,
    ) -> Result<Option<Stopped>, RunError> {
        let query = self.query.clone();
        let over = self.clock.until(self.clock.now().after(timeout));
        let waiting = async move {
            tokio::select! {
                ended = query.await_termination() => Some(ended),
                () = over => None,
            }
        };
        match wait(self.runtime()?, waiting)? {
            None => Ok(None),
            Some(ended) => {
                self.end_driver()?;
                self.outcome(ended).map(Some)
            }
        }
    }

    fn outcome(&self, ended: Result<Stopped, Arc<QueryError>>) -> Result<Stopped, RunError> {
        if let Some(error) = self.executor_failed.lock().take() {
            return Err(error.into());
        }
        ended.map_err(RunError::Query)
    }

    fn end_driver(&self) -> Result<(), RunError> {
        let Some(driver) = self.driver.lock().take() else {
            return Ok(());
        };
        let executor = self.executor.lock().take();
        wait(self.runtime()?, async move {
            driver.stop().await;
            if let Some((executor, shutdown)) = executor {
                // A session told it already, but it has none if the query ended before it was ready for executors.
                shutdown.cancel();
                // A panic of it has been reported by its thread.
                let _ = executor.await;
            }
        })
    }

    /// Stops the query: gracefully after what is queued is committed, at most for `stop.timeout`; else at once. Doesn't wait.
    ///
    /// # Errors
    /// After the end.
    pub fn stop(&self, graceful: bool) -> Result<(), RunError> {
        self.query.stop(graceful);
        if graceful {
            let query = self.query.clone();
            let over = self.clock.until(self.clock.now().after(self.stop_timeout));
            self.runtime()?.spawn(async move {
                tokio::select! {
                    _ = query.await_termination() => {}
                    () = over => query.stop(false),
                }
            });
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Dropping a runtime waits, which isn't allowed on another runtime's threads.
            runtime.shutdown_background();
        }
    }
}
