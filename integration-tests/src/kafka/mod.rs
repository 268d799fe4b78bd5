//! A real Kafka broker's whole life, and a client that fills and reads topics.
//!
//! - [`broker`]: [`KafkaBroker`], one node in KRaft mode.
//! - [`client`]: [`KafkaClient`], topics, offsets and reading whole topics, on any broker.
//! - [`produce`]: writing, plain and in transactions.

pub mod broker;
pub mod client;
pub mod produce;

pub use broker::{BrokerOptions, KafkaBroker, Stop};
pub use client::{Isolation, KafkaClient, Record};
pub use produce::{NewRecord, OpenTransaction, Outcome};
