//! From a logical plan to the stages of a query.
//!
//! Layout:
//! - `check`: what streams can't do, by Spark's rules, said when the query is built
//! - `cut`: a physical plan cut where rows change partitions

pub(crate) mod check;
pub(crate) mod cut;
