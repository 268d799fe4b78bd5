//! The driver's side of the cluster: executors' sessions around the scheduler's state machine.
//!
//! Layout:
//! - [`registry`]: who the executors are and whether they live, without IO
//! - [`service`]: the one task that owns registry and scheduler, and its handle
//! - [`grpc`]: the Driver service over the network

pub mod grpc;
pub mod registry;
pub mod service;

pub use grpc::DriverServer;
pub use service::{Cluster, ClusterHandle, ClusterOptions, Serving, SessionEnd};
