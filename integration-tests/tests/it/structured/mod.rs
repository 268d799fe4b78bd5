//! Structured Streaming over real processes: what is printed, and that it stays right when processes die.

mod faults;
mod fixed;
mod job;
mod mixed;
mod plain;
mod printing;
