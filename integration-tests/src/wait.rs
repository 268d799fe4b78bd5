//! Deadlines, and waiting for a condition of the outside world.
//!
//! What another process does can often only be looked at, again and again. This module alone may pause
//! and read the machine's clock for that; everything else awaits an event.

use std::fmt::Display;
use std::thread;
use std::time::{Duration, Instant};

use crate::Error;

/// Pause between two looks at the outside world.
const PAUSE: Duration = Duration::from_millis(10);

/// A point in time by which something must have happened.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    begun: Instant,
    allowed: Duration,
}

impl Deadline {
    /// A deadline this far from now.
    pub fn after(allowed: Duration) -> Self {
        Self {
            begun: now(),
            allowed,
        }
    }

    /// What is left; zero once it has passed.
    pub fn remaining(&self) -> Duration {
        self.allowed.saturating_sub(self.elapsed())
    }

    /// Time since the deadline was set.
    pub fn elapsed(&self) -> Duration {
        now().saturating_duration_since(self.begun)
    }

    /// Whether it has passed.
    pub fn has_passed(&self) -> bool {
        self.remaining().is_zero()
    }

    /// The error of something that did not happen in time. `detail` says what was seen instead, or is empty.
    pub fn error(&self, what: impl Display, detail: impl Display) -> Error {
        let detail = detail.to_string();
        let separator = if detail.is_empty() { "" } else { "; " };
        Error::TimedOut {
            what: what.to_string(),
            waited: self.allowed,
            detail: format!("{separator}{detail}"),
        }
    }
}

/// Waits until `condition` holds, or fails with `what` after `within`. The condition is looked at once more
/// when the time is over.
pub fn wait_until(
    within: Duration,
    what: &str,
    mut condition: impl FnMut() -> bool,
) -> Result<(), Error> {
    wait_for(within, what, || condition().then_some(()))
}

/// Waits until `look` gives a value, or fails with `what` after `within`.
pub fn wait_for<T>(
    within: Duration,
    what: &str,
    mut look: impl FnMut() -> Option<T>,
) -> Result<T, Error> {
    let deadline = Deadline::after(within);
    loop {
        let last = deadline.has_passed();
        if let Some(found) = look() {
            return Ok(found);
        }
        if last {
            return Err(deadline.error(what, ""));
        }
        pause(PAUSE.min(deadline.remaining()));
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the harness observes real processes in real time"
)]
fn now() -> Instant {
    Instant::now()
}

#[expect(
    clippy::disallowed_methods,
    reason = "another process's state gives no event to await; the wait is bounded by a deadline"
)]
fn pause(duration: Duration) {
    thread::sleep(duration);
}
