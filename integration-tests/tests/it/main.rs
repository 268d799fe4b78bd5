//! Tests over real processes and services; one binary, so that its tests share one Kafka broker.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by a panic, its helping functions too"
)]

mod architecture;
mod docs;
mod faults;
mod harness;
mod kafka_sink;
mod kafka_source;
