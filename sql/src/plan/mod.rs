//! From a logical plan to the stages of a query.
//!
//! Layout:
//! - `check`: what streams can't do, by Spark's rules, said when the query is built
//! - `cut`: a physical plan cut where rows change partitions
//! - `floats`: the least and the greatest of floating point numbers, as Spark orders them
//! - `marks`: which columns are event times, through casts and unions
//! - `origin`: what a query's groups and aggregates are computed from
//! - `rewrite`: windows, `explode` and event-time columns, as the engine can plan them
//! - `texts`: casts to text, as Spark writes them

pub(crate) mod check;
pub(crate) mod cut;
mod floats;
mod marks;
pub(crate) mod origin;
pub(crate) mod rewrite;
mod texts;
