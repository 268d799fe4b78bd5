//! Which queries a session has, which are begun, and which have ended.

use std::{sync::Arc, time::Duration};

use futures::future::select_all;
use millstream_driver::query::handle::Ended;
use tokio::sync::watch;
use uuid::Uuid;

use super::{Session, host, place_of};
use crate::{error::Error, query::Running};

/// The queries of a session.
#[derive(Default)]
pub(super) struct Queries {
    pub(super) running: Vec<Arc<Running>>,
    /// Queries that are being begun; their names and checkpoints are taken.
    starting: Vec<Starting>,
    /// All were asked to end: gracefully, or at once. None starts any more.
    pub(super) ending: Option<bool>,
    /// The first that ended, or a later one that failed; what reads in passing is none.
    terminated: Option<Arc<Running>>,
    /// Told when a query was begun, or all are to end.
    news: watch::Sender<()>,
}

pub(super) struct Starting {
    pub(super) run: Uuid,
    pub(super) name: Option<String>,
    pub(super) checkpoint: Option<String>,
    pub(super) is_passing: bool,
    /// It is to end as soon as it runs: gracefully, or at once.
    pub(super) stop: Option<bool>,
}

impl Queries {
    /// Takes name and checkpoint for a query, so that of two starts at a time one is refused.
    pub(super) fn claim(&mut self, claim: Starting) -> Result<(), Error> {
        // What reads in passing may be part of the batch that is to be finished.
        let may_start = self
            .ending
            .is_none_or(|graceful| graceful && claim.is_passing);
        if !may_start {
            return Err(host::ended().into());
        }
        self.note_terminated();
        let running = self.running.iter();
        let running = running.map(|query| (&query.info.name, &query.checkpoint));
        let starting = self.starting.iter();
        let known = running.chain(starting.map(|query| (&query.name, &query.checkpoint)));
        let place = claim.checkpoint.as_deref().map(place_of);
        for (name, checkpoint) in known {
            if let Some(name) = claim.name.as_ref().filter(|_| *name == claim.name) {
                return Err(Error::refused(
                    format!(
                        "cannot start query with name {name} as a query with that name is already active"
                    ),
                    "stop that one, or give another name",
                ));
            }
            if let Some(location) = &claim.checkpoint
                && checkpoint.as_deref().map(place_of) == place
            {
                return Err(Error::refused(
                    format!("a query that runs has the checkpoint {location}"),
                    "stop that one, or name the queries with query_name, or give each an option checkpointLocation",
                ));
            }
        }
        self.starting.push(claim);
        Ok(())
    }

    /// The query was begun, or could not be.
    pub(super) fn begun(&mut self, run: Uuid, running: Option<&Arc<Running>>) {
        self.news.send_replace(());
        let claim = self.starting.iter().position(|claim| claim.run == run);
        let claim = claim.map(|position| self.starting.swap_remove(position));
        let Some(running) = running else {
            return;
        };
        if let Some(graceful) = claim.and_then(|claim| claim.stop) {
            running.handle.stop(graceful);
        }
        self.running.push(Arc::clone(running));
    }

    /// Forgets queries that have ended, but the one that [`Session::await_any_termination`] tells of.
    fn note_terminated(&mut self) {
        for query in self.running.extract_if(.., |query| !query.is_active()) {
            let failed = || matches!(query.handle.ended(), Some(Err(_)));
            if !query.info.is_passing && (self.terminated.is_none() || failed()) {
                self.terminated = Some(query);
            }
        }
    }

    pub(super) fn stop(&mut self, graceful: bool) {
        // At once, if that was ever asked for.
        self.ending = Some(graceful && self.ending.unwrap_or(true));
        // What reads in passing ends by itself.
        let running = self.running.iter();
        for query in running.filter(|query| !(graceful && query.info.is_passing)) {
            query.handle.stop(graceful);
        }
        let starting = self.starting.iter_mut();
        for query in starting.filter(|query| !(graceful && query.is_passing)) {
            query.stop = Some(graceful && query.stop.unwrap_or(true));
        }
        self.news.send_replace(());
    }
}

/// What a look for a query that has ended finds.
enum Look {
    Terminated(Ended),
    /// None will be begun any more, and none runs.
    Over,
    /// Those that run, and what tells of others.
    Running(Vec<Arc<Running>>, watch::Receiver<()>),
}

impl Session {
    /// Waits until one of the queries has ended, by itself, by a stop or by an error: of those there are, and of those that are started meanwhile. Returns at
    /// once when one has ended before, until [`reset_terminated`](Self::reset_terminated); and when every query was asked to end and none is left.
    ///
    /// # Errors
    /// Why a query ended, unless it was stopped.
    pub fn await_any_termination(&self) -> Result<(), Error> {
        self.await_any(None).map(drop)
    }

    /// Waits at most this long; says whether one has ended.
    ///
    /// # Errors
    /// As [`await_any_termination`](Self::await_any_termination).
    pub fn await_any_termination_timeout(&self, timeout: Duration) -> Result<bool, Error> {
        self.await_any(Some(timeout))
    }

    /// Forgets which queries have ended: the next wait is for another one.
    pub fn reset_terminated(&self) {
        let mut queries = self.0.queries.lock();
        queries.note_terminated();
        queries.terminated = None;
    }

    fn await_any(&self, timeout: Option<Duration>) -> Result<bool, Error> {
        let deadline = timeout.map(|timeout| self.clock().now().after(timeout));
        loop {
            let (running, mut news) = match self.look_for_terminated() {
                Look::Terminated(ended) => {
                    self.note_end(&ended);
                    return ended.map(|_| true).map_err(Error::Query);
                }
                Look::Over => return Ok(true),
                Look::Running(running, news) => (running, news),
            };
            let clock = Arc::clone(self.clock());
            let waiting = async move {
                let ends = running.iter().map(|query| {
                    let handle = query.handle.clone();
                    Box::pin(async move { handle.await_termination().await })
                });
                let any = async {
                    match running.is_empty() {
                        true => std::future::pending().await,
                        false => drop(select_all(ends).await),
                    }
                };
                let over = async {
                    match deadline {
                        Some(deadline) => clock.until(deadline).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    biased;
                    () = any => true,
                    // The session outlives the wait, and with it what tells the news.
                    _ = news.changed() => true,
                    () = over => false,
                }
            };
            if !self.wait(waiting)? {
                return Ok(false);
            }
        }
    }

    fn look_for_terminated(&self) -> Look {
        let mut queries = self.0.queries.lock();
        queries.note_terminated();
        let terminated = queries.terminated.as_ref();
        if let Some(ended) = terminated.and_then(|query| query.handle.ended()) {
            return Look::Terminated(ended);
        }
        let all = queries.running.iter();
        let running: Vec<_> = all
            .filter(|query| !query.info.is_passing)
            .cloned()
            .collect();
        if queries.ending.is_some() && running.is_empty() && queries.starting.is_empty() {
            return Look::Over;
        }
        Look::Running(running, queries.news.subscribe())
    }
}
