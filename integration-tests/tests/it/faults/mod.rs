//! Applications as real processes over real Kafka, broken at chosen points and at random. Each test compares the whole output with the whole
//! expectation, word by word.
//!
//! - `block_ports`: the network between executors cut
//! - `executors`: executors that are killed
//! - `kafka_outputs`: faults around the Kafka sink's commit, and of the broker
//! - `nondeterminism`: rows that a second run doesn't give again
//! - `scene`: an application, its input and what must come of it
//! - `soak`: random kills for a while
//! - `zombies`: executors that sleep or are cut off, and come back
//!
//! Records that arrive between the read-ahead's end and the planned range are in `kafka_source::reading`, where the range can be chosen.

mod block_ports;
pub(crate) mod executors;
mod kafka_outputs;
mod nondeterminism;
pub(crate) mod scene;
mod soak;
mod zombies;
