//! The place that an accepted connection takes at its port, and how long it may keep it: strangers must show in time that they belong here.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use millstream_common::time::{Clock, SystemClock, Timer};
use tokio::sync::OwnedSemaphorePermit;

/// Whether the peer of a connection has shown that it belongs here. Clones are of the same connection.
#[derive(Clone, Debug, Default)]
pub struct Guest(Arc<AtomicBool>);

impl Guest {
    /// A call of the connection was let in.
    pub fn vouch(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_vouched(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a connection must do to keep its place.
#[derive(Clone, Copy, Debug)]
pub(super) enum Terms {
    /// Have a call let in within this time; then it may stay.
    Vouched(Duration),
    /// Take something of an answer at least this often; what it sends doesn't count, as it could be a byte at a time for ever.
    Answered(Duration),
}

/// An accepted connection's place. Given back when dropped.
pub(super) struct Stay {
    _place: OwnedSemaphorePermit,
    guest: Guest,
    terms: Terms,
    clock: SystemClock,
    timer: Option<Timer>,
}

impl Stay {
    pub(super) fn new(place: OwnedSemaphorePermit, terms: Terms, clock: SystemClock) -> Self {
        Self {
            _place: place,
            guest: Guest::default(),
            terms,
            clock,
            timer: None,
        }
    }

    pub(super) fn guest(&self) -> Guest {
        self.guest.clone()
    }

    /// Bytes went.
    pub(super) fn answered(&mut self) {
        if matches!(self.terms, Terms::Answered(_)) {
            self.timer = None;
        }
    }

    /// Ready when the connection has to go.
    pub(super) fn poll_over(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let time = match self.terms {
            Terms::Vouched(_) if self.guest.is_vouched() => {
                self.timer = None;
                return Poll::Pending;
            }
            Terms::Vouched(time) | Terms::Answered(time) => time,
        };
        let clock = &self.clock;
        let timer = self
            .timer
            .get_or_insert_with(|| clock.until(clock.now().after(time)));
        timer.as_mut().poll(context)
    }
}
