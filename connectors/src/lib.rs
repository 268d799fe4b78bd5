//! Sources and sinks. Each has a driver half (discover splits, publish, commit) and an executor half (read, write).
//!
//! Layout:
//! - [`kafka`]: Kafka topics
//! - [`malformed`]: what happens to records that can't be read
//! - [`sink`]: the contract of sinks
//! - [`source`]: the contract of sources

pub mod kafka;
pub mod malformed;
pub mod sink;
pub mod source;
