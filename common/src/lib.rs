//! The vocabulary of Millstream's driver and executors: values and formats that both sides must agree on. No networking.
//!
//! Layout:
//! - [`failure`]: the error type that crosses the wire
//! - [`ids`]: queries, epochs, batches, stages, tasks, blocks, executors
//! - [`protocol`]: what driver and executors say to each other
//! - [`time`]: batch times and the clock seam

pub mod failure;
pub mod ids;
pub mod protocol;
pub mod time;
