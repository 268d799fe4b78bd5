//! Millstream: Spark Streaming without the JVM.
//!
//! A driver cuts a stream into micro-batches, runs each batch as stages of tasks on executors, shuffles keyed data between them, and writes results
//! to sinks exactly once, from a checkpoint that survives the loss of any process.
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! use millstream::prelude::*;
//! use serde::{Deserialize, Serialize};
//!
//! /// Counts words of a Kafka topic, batch by batch.
//! #[derive(clap::Args, Serialize, Deserialize)]
//! struct Args {
//!     #[arg(long)]
//!     brokers: String,
//!     #[arg(long)]
//!     topic: String,
//! }
//!
//! fn word_count(ssc: &StreamingContext, args: Args) -> Result<()> {
//!     let lines = kafka::direct_stream(ssc, kafka::Consumer::new(&args.brokers).topics([&args.topic]))?
//!         .map(|record| record.text());
//!     let counts = lines
//!         .flat_map(|line| line.split(' '))
//!         .map(|word| (word, 1u64))
//!         .reduce_by_key(|a, b| a + b);
//!     counts.pprint();
//!     Ok(())
//! }
//!
//! fn main() -> ExitCode {
//!     millstream::launch(word_count)
//! }
//! ```
//!
//! Layout:
//! - `build_id`: the hash of the running executable
//! - `children`: the executor processes of `local-cluster`
//! - `cli`: the command line that every application has
//! - `ending`: what a driver says of the work that a stop leaves
//! - `error`: what a job function or a launch may fail with
//! - [`launch`](mod@launch): running a job function in the role that the command line gives
//! - [`prelude`]: what programs import
//! - `progress`: one line on a terminal
//! - `signals`: SIGINT and SIGTERM
//! - `sql`: Structured Streaming, with the feature `sql`

mod build_id;
mod children;
mod cli;
mod ending;
mod error;
pub mod launch;
mod progress;
mod signals;
#[cfg(feature = "sql")]
pub mod sql;

pub use error::{Error, Result};
pub use launch::{Launcher, launch, launcher};
pub use millstream_common as common;
pub use millstream_connectors as connectors;
pub use millstream_dstreams as dstreams;

/// The hash of the running executable, which tells builds apart.
///
/// # Errors
/// When the executable can't be read.
pub fn build_id() -> std::io::Result<String> {
    build_id::BuildId::begin()?.wait()
}

pub mod prelude {
    //! What programs import.

    pub use millstream_common::{
        text::{Blob, Text},
        time::BatchTime,
    };
    pub use millstream_dstreams::{
        Batch, ComputedBatch, DStream, Data, Key, Master, StreamingContext, kafka,
    };

    pub use crate::{Error, Result};
}
