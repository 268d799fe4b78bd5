//! Tests over real processes and services; one binary, so that its tests share one Kafka broker.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by a panic, its helping functions too"
)]

mod architecture;
mod bad_input;
mod compose;
mod coverage;
mod docs;
mod driver_faults;
mod faults;
mod harness;
mod kafka_sink;
mod kafka_source;
mod launching;
mod object_stores;
mod own_job;
mod packaging;
mod runtime;
mod security;
mod seeing;
mod structured;
mod word_job;
