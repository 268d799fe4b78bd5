//! Discretised streams on the Millstream runtime: [`StreamingContext`], [`DStream`] and its operators and outputs, compiled to a plan and the code
//! of its stages.
//!
//! Layout:
//! - [`batch`]: the rows of one batch as a plan ([`Batch`]) and as computed ([`ComputedBatch`])
//! - [`compile`]: a graph cut into stages
//! - [`context`]: where sources are declared
//! - [`display`]: values as Python and Scala print them
//! - [`error`]: what can be wrong with a graph
//! - [`files`]: text files as streams, and streams as text files
//! - `graph`: nodes with their row types erased
//! - [`kafka`]: Kafka topics as streams
//! - `keyed`: operators on streams of pairs
//! - [`master`]: where tasks run
//! - [`outputs`]: printing, callbacks, sinks
//! - `recorded`: what the job function saw of the outside
//! - [`run`]: running an application
//! - [`socket`]: lines from a TCP server
//! - [`stream`]: streams and their operators

pub mod batch;
pub mod compile;
pub mod context;
pub mod display;
pub mod error;
pub mod files;
mod graph;
pub mod kafka;
mod keyed;
pub mod master;
pub mod outputs;
mod recorded;
pub mod run;
pub mod socket;
pub mod stream;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use batch::{Batch, ComputedBatch, Plan};
pub use compile::{CompileOptions, CompiledJob};
pub use context::{Side, StreamingContext};
pub use error::{Error, Outcome};
pub use graph::SourceFactory;
pub use master::Master;
pub use millstream_dataflow::{
    combine::{Data, Key},
    partitions::{BoxIterator, Partition},
};
pub use outputs::{Console, Output, PartitionInfo};
pub use run::{InProcessFetch, RunError, Running, in_process_link};
pub use stream::DStream;
