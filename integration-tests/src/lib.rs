//! The harness of Millstream's integration tests: real processes, a real Kafka broker, real faults.
//!
//! `integration-tests/setup.sh` installs what it needs. The tests themselves are the modules of
//! `tests/it/main.rs`.
//!
//! # Layout
//!
//! - [`certificates`]: authorities and nodes, good and bad.
//! - [`cluster`]: an application as real processes: driver, executors, failpoints, HTTP.
//! - [`compose`]: a project of Docker's compose, and kills that its restart policies heal.
//! - [`error`]: what can go wrong in the harness itself.
//! - [`http_proxy`]: an HTTP proxy that answers for the server, loses requests, or loses answers.
//! - [`installed`]: where the parts that `setup.sh` installs are.
//! - [`kafka`]: a Kafka broker's whole life, and a client that fills and reads topics.
//! - [`minio`]: an object store, and a client of it.
//! - [`ports`]: ports for servers that are started later, or again.
//! - [`process`]: child processes that can't outlive the test, with their output captured.
//! - [`proxy`]: a TCP proxy that cuts or stalls the connections through it.
//! - [`rows`]: rows made from their number alone, for jobs over gigabytes.
//! - [`wait`]: deadlines, and waiting for a condition of the outside world.

pub mod certificates;
pub mod cluster;
pub mod compose;
pub mod error;
pub mod http_proxy;
pub mod installed;
pub mod kafka;
pub mod minio;
pub mod ports;
pub mod process;
pub mod proxy;
pub mod rows;
pub mod wait;

pub use error::Error;
