//! The vocabulary of Millstream's driver and executors: values and formats that both sides must agree on. No networking, but for
//! object stores.
//!
//! Layout:
//! - [`codec`]: rows as bytes
//! - [`config`]: the registry of configuration keys, and the checked configuration
//! - [`mod@failpoint`]: named points where fault tests make a process wait or die; nothing without the feature
//! - [`failure`]: the error type that crosses the wire
//! - [`frame`]: blocks of rows in files and on their way: compression, checksums
//! - [`ids`]: queries, epochs, batches, stages, tasks, blocks, executors
//! - [`key`]: canonical bytes of keys: ordered, self-delimiting
//! - [`log_store`]: where the logs of a checkpoint lie, and the format of their entries
//! - [`open_files`]: how many files and connections a process may have open
//! - [`protocol`]: what driver and executors say to each other
//! - [`routing`]: from a key to the partition that owns it
//! - [`s3`]: object stores: locations, errors, and with the feature `s3` the client
//! - [`telemetry`]: metrics and logging
//! - [`text`]: `Text`, a cheap, owned string slice
//! - [`time`]: batch times and the clock seam
//! - [`mod@working_folder`]: where relative paths are

pub mod codec;
pub mod config;
pub mod failpoint;
pub mod failure;
pub mod frame;
pub mod ids;
pub mod key;
pub mod log_store;
pub mod open_files;
pub mod protocol;
pub mod routing;
pub mod s3;
pub mod telemetry;
pub mod text;
pub mod time;
pub mod working_folder;
