//! Pauses between tries: short at first, longer while nothing works, never in step with other executors.

use std::{sync::Arc, time::Duration};

use millstream_common::time::Clock;
use rand::Rng;

const FIRST: Duration = Duration::from_millis(20);
const LONGEST: Duration = Duration::from_secs(1);

pub(super) struct Backoff {
    clock: Arc<dyn Clock>,
    next: Duration,
}

impl Backoff {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, next: FIRST }
    }

    /// Waits; the next wait is twice as long.
    pub(super) async fn pause(&mut self) {
        let jitter = rand::rng().random_range(0.5..1.0);
        let wait = self.next.mul_f64(jitter);
        self.next = (self.next * 2).min(LONGEST);
        self.clock.until(self.clock.now().after(wait)).await;
    }

    /// Something worked.
    pub(super) fn reset(&mut self) {
        self.next = FIRST;
    }
}
