//! From a logical plan to the stages of a query.
//!
//! Layout:
//! - `check`: what streams can't do, by Spark's rules, said when the query is built
//! - `cut`: a physical plan cut where rows change partitions
//! - `rewrite`: windows, `explode` and event-time columns, as the engine can plan them

pub(crate) mod check;
pub(crate) mod cut;
pub(crate) mod rewrite;
