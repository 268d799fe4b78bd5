//! Time: batch times, ticks, and the clock seam through which everything else takes them.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// The wall-clock instant a batch stands for, in milliseconds since the Unix epoch.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct BatchTime(pub i64);

impl fmt::Display for BatchTime {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} ms", self.0)
    }
}

/// Microseconds on a monotonic clock that starts anywhere; what the state machines take as "now".
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
pub struct Tick(pub u64);

impl Tick {
    /// The tick `duration` later; saturates.
    pub fn after(self, duration: Duration) -> Self {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(micros))
    }

    /// How long after `earlier` this tick is; zero if it isn't.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

/// A future that a [`Clock`] resolves.
pub type Timer = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The clock seam: monotonic ticks, wall time in milliseconds since the Unix epoch, and timers.
pub trait Clock: Send + Sync {
    /// The monotonic now.
    fn now(&self) -> Tick;
    /// The wall-clock now, in milliseconds since the Unix epoch.
    fn wall_millis(&self) -> i64;
    /// Resolves once `now()` is at or past `at`.
    fn until(&self, at: Tick) -> Timer;
}

/// The machine's clock.
#[derive(Debug, Clone)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// A clock whose ticks start at 1 second, so that "earlier than the start" can be said.
    #[expect(clippy::disallowed_methods, reason = "this is the clock seam")]
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
        }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

const SYSTEM_CLOCK_OFFSET_MICROS: u64 = 1_000_000;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock seam")]
    fn now(&self) -> Tick {
        let micros = Instant::now().duration_since(self.start).as_micros();
        Tick(
            u64::try_from(micros)
                .unwrap_or(u64::MAX)
                .saturating_add(SYSTEM_CLOCK_OFFSET_MICROS),
        )
    }

    #[expect(clippy::disallowed_methods, reason = "this is the clock seam")]
    fn wall_millis(&self) -> i64 {
        match SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
            Err(before) => -i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX),
        }
    }

    fn until(&self, at: Tick) -> Timer {
        let wait = at.since(self.now());
        #[expect(clippy::disallowed_methods, reason = "this is the clock seam")]
        Box::pin(async move { tokio::time::sleep(wait).await })
    }
}

#[derive(Clone, Copy)]
struct ManualTime {
    tick: Tick,
    wall_millis: i64,
}

/// A clock that moves only when told to; for tests and simulations.
#[derive(Clone)]
pub struct ManualClock {
    shared: Arc<Mutex<watch::Sender<ManualTime>>>,
    receiver: watch::Receiver<ManualTime>,
}

impl ManualClock {
    /// A clock that stands at `wall_millis` milliseconds since the Unix epoch.
    pub fn new(wall_millis: i64) -> Self {
        let start = ManualTime {
            tick: Tick(SYSTEM_CLOCK_OFFSET_MICROS),
            wall_millis,
        };
        let (sender, receiver) = watch::channel(start);
        Self {
            shared: Arc::new(Mutex::new(sender)),
            receiver,
        }
    }

    /// Moves both times forward and wakes the timers that are due.
    pub fn advance(&self, by: Duration) {
        let millis = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        self.shared.lock().send_modify(|time| {
            time.tick = time.tick.after(by);
            time.wall_millis = time.wall_millis.saturating_add(millis);
        });
    }
}

impl fmt::Debug for ManualClock {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ManualClock")
            .field("now", &self.now())
            .finish()
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Tick {
        self.receiver.borrow().tick
    }

    fn wall_millis(&self) -> i64 {
        self.receiver.borrow().wall_millis
    }

    fn until(&self, at: Tick) -> Timer {
        let mut receiver = self.receiver.clone();
        Box::pin(async move {
            // An error means that the clock is gone: nothing will be due any more.
            if receiver.wait_for(|time| time.tick >= at).await.is_err() {
                std::future::pending::<()>().await;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_saturate() {
        assert_eq!(Tick(5).since(Tick(9)), Duration::ZERO);
        assert_eq!(Tick(u64::MAX).after(Duration::from_secs(1)), Tick(u64::MAX));
    }

    #[tokio::test]
    async fn a_manual_timer_resolves_only_when_the_clock_reaches_it() {
        let clock = ManualClock::new(1_000);
        let due = clock.now().after(Duration::from_secs(2));
        let timer = tokio::spawn(clock.until(due));
        clock.advance(Duration::from_secs(1));
        tokio::task::yield_now().await;
        assert!(!timer.is_finished());
        clock.advance(Duration::from_secs(1));
        timer.await.expect("timer");
        assert_eq!(clock.wall_millis(), 3_000);
    }
}
