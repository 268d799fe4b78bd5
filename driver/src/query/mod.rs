//! The life of a query: claim its checkpoint, plan batches, log them, run them, commit, publish, purge, and go on after a restart.
//!
//! Layout:
//! - [`checkpoint`]: one pure function from what is in storage to where the query stands
//! - [`clock`]: which batch times are due
//! - [`core`]: the state machine, without IO
//! - [`entries`]: what the checkpoint's log entries hold, and their names
//! - [`error`]: why a query ended
//! - [`event`]: what goes into the state machine and what comes out of it
//! - [`handle`]: what a running query's owner holds
//! - [`progress`]: what is told of batches
//! - [`rate`]: how many rows the next batch may take
//! - [`service`]: the asynchronous shell around the state machine
//! - [`shared_file`]: proofs that driver and executors share a file system
//! - [`state`]: which state files there are

pub mod checkpoint;
pub mod clock;
pub mod core;
pub mod entries;
pub mod error;
pub mod event;
pub mod handle;
pub mod progress;
pub mod rate;
pub mod service;
pub mod shared_file;
pub mod state;
