//! Sources and sinks. Each has a driver half (discover splits, publish, commit) and an executor half (read, write).
//!
//! Layout:
//! - `conformance`: what every source and sink must pass; with the feature `testing`
//! - [`kafka`]: Kafka topics
//! - [`malformed`]: what happens to records that can't be read
//! - [`sink`]: the contract of sinks
//! - [`socket`]: lines from a TCP connection
//! - [`source`]: the contract of sources
//! - [`text_files`]: text files

#[cfg(any(test, feature = "testing"))]
pub mod conformance;
pub mod kafka;
pub mod malformed;
pub mod sink;
pub mod socket;
pub mod source;
pub mod text_files;
