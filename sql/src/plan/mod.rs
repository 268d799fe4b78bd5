//! From a logical plan to the stages of a query.
//!
//! Layout:
//! - `check`: what streams can't do, by Spark's rules, said when the query is built
//! - `cut`: a physical plan cut where rows change partitions
//! - `floats`: the least and the greatest of floating point numbers, as Spark orders them
//! - `rewrite`: windows, `explode` and event-time columns, as the engine can plan them

pub(crate) mod check;
pub(crate) mod cut;
mod floats;
pub(crate) mod rewrite;
