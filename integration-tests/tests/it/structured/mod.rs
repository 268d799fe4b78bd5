//! Structured Streaming over real processes: what is printed, and that it stays right when processes die.
//!
//! - `bad_input`: files that aren't as they should be, and checkpoints of something else
//! - `changing`: queries that go on as another one
//! - `example`: the example of the pages
//! - `faults`: processes that die under a growing table
//! - `fixed`: reading what is there, in one go
//! - `job`: a query over a folder of employees' files
//! - `kafka`: queries over Kafka that lose processes
//! - `local`: a session in this process, and its folders
//! - `matrix`: every fault at every point of those queries
//! - `mixed`: a query that two builds write to Kafka
//! - `plain`: executors of the plain program
//! - `printing`: what the console shows
//! - `scene`: those queries, their input and what must come of it

mod bad_input;
mod changing;
mod example;
mod faults;
mod fixed;
mod job;
mod kafka;
mod local;
mod matrix;
mod mixed;
mod plain;
mod printing;
mod scene;
