//! The Kafka source against a real broker.

mod client_facts;
mod faults;
mod fixture;
mod planning;
mod reading;
