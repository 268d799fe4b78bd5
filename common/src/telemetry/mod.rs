//! What a running process tells about itself: metrics for Prometheus, and log lines on standard error.
//!
//! Layout:
//!
//! * [`metrics`]: the registry of metrics and the handle that counts
//! * [`logging`]: sets up log lines

pub mod logging;
pub mod metrics;
