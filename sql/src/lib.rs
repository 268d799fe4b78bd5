//! Structured Streaming on the Millstream runtime: a stream is a table that grows, a query over it is kept up to date batch by batch.
//!
//! Queries are planned by DataFusion, once, on the driver. The physical plan is cut where rows change partitions; the pieces are the stages of an ordinary
//! Millstream query and travel to executors as bytes. What makes it incremental stands around the engine: sources as tables, aggregates whose groups are state of the
//! runtime, output modes.
//!
//! Layout:
//! - [`ddl`]: schemas as DDL text
//! - `engine`: DataFusion, set up alike on both sides
//! - [`error`]: what can be wrong with a query
//! - `exchange`: batches into the blocks of an exchange, and out of them
//! - `functions`: functions that the engine lacks
//! - [`frame`]: [`DataFrame`], a query under construction
//! - `input`: where rows enter a plan
//! - `ipc`: batches as Arrow IPC
//! - `keys`: canonical key bytes of columns
//! - `options`: options of readers and writers
//! - [`output_mode`]: what a batch writes
//! - `plan`: from a logical plan to stages
//! - `pool`: what operators hold in memory, counted
//! - `program`: a query as it travels to executors
//! - [`progress`]: what a query tells of its batches
//! - [`query`]: [`StreamingQuery`], a running query
//! - [`reader`]: reading streams
//! - [`session`]: [`Session`], where queries run
//! - `show`: tables as Spark prints them
//! - `sinks`: where results go
//! - `sources`: where rows come from
//! - `stage`: a stage's code
//! - `state`: groups that live on from batch to batch
//! - `table`: a stream as a table of the planner
//! - `texts`: what texts mean: dates, times, numbers
//! - [`trigger`]: when batches run
//! - [`udf`]: functions of the program's own
//! - [`writer`]: writing streams

pub mod ddl;
mod engine;
pub mod error;
mod exchange;
pub mod frame;
mod functions;
mod input;
mod ipc;
mod keys;
mod options;
pub mod output_mode;
mod plan;
mod pool;
mod program;
pub mod progress;
pub mod query;
pub mod reader;
pub mod session;
mod show;
mod sinks;
mod sources;
mod stage;
mod state;
mod table;
#[cfg(test)]
mod tests;
mod texts;
pub mod trigger;
pub mod udf;
pub mod writer;

pub use arrow;
pub use datafusion::{
    functions_aggregate::expr_fn::{count, max, min},
    logical_expr::{Expr, cast, lit, try_cast},
    prelude::col,
};
pub use error::Error;
pub use frame::{DataFrame, GroupedData};
pub use frame::{explode, from_json, split, window, window_sliding};
pub use functions::{avg::avg, checked_sum::sum};
pub use millstream_dstreams::{Console, Master};
pub use output_mode::OutputMode;
pub use progress::{StreamingQueryProgress, StreamingQueryStatus};
pub use query::StreamingQuery;
pub use reader::{DataStreamReader, MemoryStream};
pub use session::{Session, executor_programs};
pub use trigger::Trigger;
pub use udf::Registry;
pub use writer::DataStreamWriter;

/// What functions of this crate return.
pub type Result<T, E = Error> = std::result::Result<T, E>;
