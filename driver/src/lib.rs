//! Millstream's driver: cuts a stream into batches, schedules their tasks on executors, commits.
//!
//! Layout:
//! - [`output`]: the contract of the driver half of outputs
//! - [`query`]: the life of a query: claim, plan, log, run, commit, publish, purge, recover
//! - [`scheduler`]: which task runs where: a state machine without IO

pub mod output;
pub mod query;
pub mod scheduler;
