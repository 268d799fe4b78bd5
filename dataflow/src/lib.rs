//! What runs inside a task, and the plan that says which tasks there are.
//!
//! A stage is a pipeline of [`rows::Rows`] that is pulled chunk by chunk from its end ([`stage::Exit`]): an operator costs one virtual call for
//! some hundred rows, and its closure is inlined in the loop over them.
//!
//! Layout:
//! - [`combine`]: rows of equal keys merged in a table that spills
//! - [`detach`]: rows that outlive their chunk let go of its buffers
//! - [`exchange`]: the ends of stages that write into exchanges
//! - [`fold`]: operators that need all rows of a task first
//! - `held`: what a table holds of its executor's memory budget
//! - [`memory`]: what an executor provides, in memory, for tests
//! - [`narrow`]: operators that work row by row
//! - [`partitions`]: operators over all rows of a task as an iterator
//! - [`plan`]: the query's graph as data: sources, stages, exchanges, outputs, fingerprints
//! - [`program`]: the interface between a stage's code and the executor that runs it
//! - [`read`]: rows out of fetched blocks
//! - [`rows`]: what operators are made of
//! - [`runs`]: sorted runs on disk, and merging them
//! - [`stage`]: a pipeline and its end as a [`program::StageProgram`]
//! - [`state`]: what an executor keeps of stateful operators, and its files
//! - [`task`]: the running task as operators see it
//! - [`mod@write`]: rows into the blocks of an exchange

pub mod combine;
pub mod detach;
pub mod exchange;
pub mod fold;
mod held;
pub mod memory;
pub mod narrow;
pub mod partitions;
pub mod plan;
pub mod program;
pub mod read;
pub mod rows;
pub mod runs;
pub mod stage;
pub mod state;
pub mod task;
pub mod write;

#[cfg(test)]
mod testing;
