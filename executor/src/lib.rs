//! The executor: runs stages' tasks for a driver, keeps the blocks they write, and serves those to its peers.
//!
//! Tasks compute on slot threads; everything that waits for a network runs on the tokio runtime that [`Executor::run`] is called on,
//! so a task that computes never delays a heartbeat.
//!
//! Layout:
//! - `background`: work beside the tasks, on a few threads
//! - [`blocks`]: blocks in memory under a budget, else on local disk
//! - [`fetch`]: reading blocks, own and remote, in the order asked
//! - `ledger`: what was asked of this executor and what came of it; pure
//! - [`memory`]: the memory budget
//! - `options`: what it is started with, what it takes from the driver's configuration
//! - `queries`: queries that came after the registration, and the state that their operators keep here
//! - [`runner`]: the task slots
//! - [`server`]: blocks by gRPC, metrics by HTTP
//! - `service`: the executor itself: registering, sessions
//! - `services`: what a running task gets
//! - [`transport`]: the link to the driver: gRPC, or within the process

mod background;
pub mod blocks;
pub mod fetch;
mod ledger;
pub mod memory;
mod options;
mod queries;
pub mod runner;
pub mod server;
mod service;
mod services;
#[cfg(test)]
mod testing;
pub mod transport;

pub use options::{Options, Tuning, effective_config, host_name};
pub use service::{Addresses, BuildId, Error, Executor, ExitReason, Handle, ProgramsFactory};
pub use services::Services;
