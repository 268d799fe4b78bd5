//! Millstream's driver: cuts a stream into batches, schedules their tasks on executors, commits.
//!
//! Layout:
//! - [`application`]: a driver as a whole: its services, servers and queries
//! - [`blocks`]: kept blocks read on the driver
//! - [`cluster`]: executors' sessions around the scheduler
//! - [`http`]: metrics and REST
//! - `measure`: a query's progress as metrics
//! - [`output`]: the contract of the driver half of outputs
//! - [`query`]: the life of a query: claim, plan, log, run, commit, publish, purge, recover
//! - [`scheduler`]: which task runs where: a state machine without IO
//! - [`streaming`]: what a query tells of itself, under Spark's names
//! - `view`: what REST shows of an application and its queries

pub mod application;
pub mod blocks;
pub mod cluster;
pub mod http;
mod measure;
pub mod output;
pub mod query;
pub mod scheduler;
pub mod streaming;
mod view;
