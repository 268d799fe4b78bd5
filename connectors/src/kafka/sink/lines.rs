//! What the clients of a sink log themselves. All of them meet the same trouble, each half a second until it passes: that is said now and then.

use std::{collections::HashMap, sync::Arc, time::Duration};

use millstream_common::time::{Clock, Tick};
use parking_lot::Mutex;
use rdkafka::config::RDKafkaLogLevel;
use tracing::Level;

/// A line that was said is said again after so long, if it still comes.
const QUIET: Duration = Duration::from_secs(60);
/// So many different lines are known; before another one, all are forgotten.
const KNOWN: usize = 256;

/// What was said, of all clients that share it.
pub(super) struct Lines {
    clock: Arc<dyn Clock>,
    said: Mutex<HashMap<String, Tick>>,
}

impl Lines {
    /// Nothing was said yet.
    pub fn new(clock: &Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            clock: Arc::clone(clock),
            said: Mutex::default(),
        })
    }

    /// Logs a line; one that was said lately for debugging only.
    pub fn say(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        match self.level(level, line) {
            Level::ERROR => tracing::error!(target: "librdkafka", "librdkafka: {facility} {line}"),
            Level::WARN => tracing::warn!(target: "librdkafka", "librdkafka: {facility} {line}"),
            Level::INFO => tracing::info!(target: "librdkafka", "librdkafka: {facility} {line}"),
            _ => tracing::debug!(target: "librdkafka", "librdkafka: {facility} {line}"),
        }
    }

    fn level(&self, level: RDKafkaLogLevel, line: &str) -> Level {
        let level = match level {
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error => Level::ERROR,
            RDKafkaLogLevel::Warning => Level::WARN,
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => Level::INFO,
            RDKafkaLogLevel::Debug => return Level::DEBUG,
        };
        let now = self.clock.now();
        let mut said = self.said.lock();
        if let Some(at) = said.get(line)
            && now.since(*at) < QUIET
        {
            return Level::DEBUG;
        }
        if said.len() >= KNOWN {
            said.clear();
        }
        said.insert(line.to_owned(), now);
        level
    }
}

#[cfg(test)]
mod tests {
    use millstream_common::time::ManualClock;

    use super::*;

    #[test]
    fn a_line_that_repeats_is_said_once_a_minute() {
        let manual = Arc::new(ManualClock::new(0));
        let clock: Arc<dyn Clock> = Arc::clone(&manual) as _;
        let lines = Lines::new(&clock);
        let retrying = "[thrd:main]: Failed to acquire transactional PID: retrying";
        let of_retrying = || lines.level(RDKafkaLogLevel::Warning, retrying);
        assert_eq!(of_retrying(), Level::WARN);
        for _ in 0..40 {
            assert_eq!(of_retrying(), Level::DEBUG);
        }
        assert_eq!(lines.level(RDKafkaLogLevel::Error, "fenced"), Level::ERROR);
        manual.advance(QUIET);
        assert_eq!(of_retrying(), Level::WARN);
        assert_eq!(of_retrying(), Level::DEBUG);
    }

    #[test]
    fn the_lines_that_are_known_are_bounded() {
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(0));
        let lines = Lines::new(&clock);
        for number in 0..10 * KNOWN {
            let line = format!("broker {number} is down");
            assert_eq!(lines.level(RDKafkaLogLevel::Notice, &line), Level::INFO);
            assert!(lines.said.lock().len() <= KNOWN);
        }
    }
}
