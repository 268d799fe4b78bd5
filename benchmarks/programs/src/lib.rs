//! What the benchmarks measure, built alone and for release, so that nothing of their harness is in it.
//!
//! Layout:
//! - [`corpus`]: lines of words as they come in texts, into files or a Kafka topic
//! - [`handwritten`]: word count as one would write it by hand for one process
//! - [`scheduler`]: the scheduler's core with simulated executors
//! - [`tables`]: files for the structured queries
//!
//! The programs are `words`, Millstream's own word count, and `yardsticks`, all the rest.

pub mod corpus;
pub mod handwritten;
pub mod scheduler;
pub mod tables;

/// What a program of the benchmarks fails with.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
