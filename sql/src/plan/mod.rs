//! From a logical plan to the stages of a query.
//!
//! Layout:
//! - `ansi`: operators that end the query where they have no result
//! - `casts`: casts as Spark has them
//! - `check`: what streams can't do, by Spark's rules, said when the query is built
//! - `comparisons`: comparisons of floating point numbers
//! - `cut`: a physical plan cut where rows change partitions
//! - `fallible`: what may fail, after what leaves rows out
//! - `floats`: the least and the greatest of floating point numbers, as Spark orders them
//! - `marks`: which columns are event times, through casts and unions
//! - `origin`: what a query's groups and aggregates are computed from
//! - `rewrite`: windows, `explode` and event-time columns, as the engine can plan them

pub(crate) mod ansi;
mod casts;
pub(crate) mod check;
pub(crate) mod comparisons;
pub(crate) mod cut;
pub(crate) mod fallible;
mod floats;
mod marks;
pub(crate) mod origin;
pub(crate) mod rewrite;
