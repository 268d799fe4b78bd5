//! Whether a store is away: said once when it goes, and once when it is back, however many requests wait for it.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;

use crate::time::{Clock, Tick};

/// A store that comes and goes is spoken of no more often than this.
const QUIET: Duration = Duration::from_secs(60);

/// What all requests to one store share.
pub(super) struct Away {
    location: String,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Since when, if that was said.
    since: Option<Tick>,
    last_said: Option<Tick>,
}

impl Away {
    pub(super) fn new(location: String, clock: Arc<dyn Clock>) -> Self {
        Self {
            location,
            clock,
            state: Mutex::default(),
        }
    }

    /// A request failed again. Whether that was said now.
    pub(super) fn failed(&self, begun: Tick, detail: &str) -> bool {
        let now = self.clock.now();
        let mut state = self.state.lock();
        let said_lately = state.last_said.is_some_and(|last| now.since(last) < QUIET);
        if state.since.is_some() || said_lately {
            return false;
        }
        state.since = Some(begun);
        state.last_said = Some(now);
        drop(state);
        tracing::warn!(
            store = self.location,
            detail,
            "the object store does not answer; what needs it waits until it is back"
        );
        true
    }

    /// A request was answered. Whether the store's return was said now.
    pub(super) fn answered(&self) -> bool {
        let Some(since) = self.state.lock().since.take() else {
            return false;
        };
        let away_ms = u64::try_from(self.clock.now().since(since).as_millis()).unwrap_or(u64::MAX);
        tracing::info!(store = self.location, away_ms, "the object store is back");
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::ManualClock;

    #[test]
    fn an_outage_is_said_once_and_its_end_once() {
        let clock = ManualClock::new(0);
        let away = Away::new("s3://bucket".to_owned(), Arc::new(clock.clone()));
        assert!(!away.answered());
        let begun = clock.now();
        assert!(away.failed(begun, "cut"));
        for _ in 0..1_000 {
            clock.advance(Duration::from_millis(100));
            assert!(!away.failed(begun, "cut"));
        }
        assert!(away.answered());
        assert!(!away.answered());
        // One that comes and goes is not spoken of each time.
        clock.advance(QUIET);
        assert!(away.failed(clock.now(), "cut"));
        assert!(away.answered());
        assert!(!away.failed(clock.now(), "cut"));
        assert!(!away.answered());
    }
}
