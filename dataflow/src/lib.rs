//! What runs inside a task, and the plan that says which tasks there are.
//!
//! Layout:
//! - [`plan`]: the query's graph as data: sources, stages, exchanges, outputs, fingerprints
//! - [`program`]: the interface between a stage's code and the executor that runs it

pub mod plan;
pub mod program;
