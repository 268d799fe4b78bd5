//! Discretised streams on the Millstream runtime: [`StreamingContext`], [`DStream`] and its operators and outputs, compiled to a plan and the code
//! of its stages.
//!
//! Layout:
//! - [`batch`]: the rows of one batch as a plan ([`Batch`]) and as computed ([`ComputedBatch`])
//! - [`compile`]: a graph cut into stages
//! - [`context`]: where sources are declared
//! - [`display`]: values as Python and Scala print them
//! - [`error`]: what can be wrong with a graph
//! - `graph`: nodes with their row types erased
//! - `keyed`: operators on streams of pairs
//! - [`outputs`]: printing, callbacks, sinks
//! - [`stream`]: streams and their operators

pub mod batch;
pub mod compile;
pub mod context;
pub mod display;
pub mod error;
mod graph;
mod keyed;
pub mod outputs;
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
pub use millstream_dataflow::{
    combine::{Data, Key},
    partitions::{BoxIterator, Partition},
};
pub use outputs::{Console, Output, PartitionInfo};
pub use stream::DStream;
