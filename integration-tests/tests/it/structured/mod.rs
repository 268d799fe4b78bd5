//! Structured Streaming over real processes: what is printed, and that it stays right when processes die.

mod faults;
mod job;
mod kafka;
mod printing;
