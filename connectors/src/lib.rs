//! Sources and sinks. Each has a driver half (discover splits, publish, commit) and an executor half (read, write).
//!
//! Layout:
//! - [`sink`]: the contract of sinks
//! - [`source`]: the contract of sources

pub mod sink;
pub mod source;
