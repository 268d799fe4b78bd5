//! What the scheduler can be told.

use std::time::Duration;

/// Limits and waits of the scheduler.
#[derive(Clone, Debug, PartialEq)]
pub struct SchedulerOptions {
    /// Failed attempts of one task that end its batch; so do four times as many that were lost with their executor. Default 4.
    pub max_failures: u32,
    /// Consecutive tries of one stage, ended by blocks that could not be fetched, that end its batch. Default 4.
    pub stage_max_attempts: u32,
    /// Failed attempts of one stage's tasks on one executor after which it gets no more tasks of that stage in that batch. Default 2.
    pub exclude_after: u32,
    /// How long a task waits for a slot of the executor that it prefers before it takes any. Default 100 ms.
    pub locality_wait: Duration,
    /// The first pause before a task is tried again that asks for one; doubles with each failure. Default 100 ms.
    pub backoff_first: Duration,
    /// The longest such pause. Default 5 s.
    pub backoff_most: Duration,
    /// The pause before a task runs again whose attempt was fenced at its sink. Default 1 s.
    pub superseded_wait: Duration,
    /// How often that may happen to one task. Default 10.
    pub superseded_limit: u32,
    /// How often it is said that tasks wait because there is no executor. Default 10 s.
    pub wait_log_interval: Duration,
    /// What to do when a task that ran again wrote other rows than before. Default: fail.
    pub nondeterminism: Nondeterminism,
    /// Run slow tasks twice. Default: no.
    pub speculation: Option<Speculation>,
}

/// What to do when a task that ran again wrote other rows than those that a reader has already used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nondeterminism {
    /// The batch fails.
    Fail,
    /// A note is given and the batch goes on.
    Warn,
}

/// When a task counts as slow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speculation {
    /// The share of a stage's tasks that must be done before any counts as slow. Default 0.9.
    pub quantile: f64,
    /// How many times the median run time of the stage's tasks is slow. Default 3.
    pub multiplier: f64,
    /// How often to look. Default 100 ms.
    pub interval: Duration,
    /// A task that ran no longer than this isn't slow. Default 100 ms.
    pub min_run_time: Duration,
}

impl Default for SchedulerOptions {
    fn default() -> Self {
        Self {
            max_failures: 4,
            stage_max_attempts: 4,
            exclude_after: 2,
            locality_wait: Duration::from_millis(100),
            backoff_first: Duration::from_millis(100),
            backoff_most: Duration::from_secs(5),
            superseded_wait: Duration::from_secs(1),
            superseded_limit: 10,
            wait_log_interval: Duration::from_secs(10),
            nondeterminism: Nondeterminism::Fail,
            speculation: None,
        }
    }
}

impl Default for Speculation {
    fn default() -> Self {
        Self {
            quantile: 0.9,
            multiplier: 3.0,
            interval: Duration::from_millis(100),
            min_run_time: Duration::from_millis(100),
        }
    }
}
