//! Lines of UTF-8 text from a TCP connection that the driver opens.
//!
//! The driver process receives. It holds lines in memory, those of batches that are not over included, up to a bound at which it stops reading and so
//! slows down the sender, and at each batch cuts what has arrived into splits that carry the lines themselves. From the moment a batch's input is in
//! the offset log its lines are safe and a re-run sees the same ones. Lines that the driver has received and not yet logged are lost when
//! it dies: the sender is told nothing, and can't be asked again. Where that matters, put Kafka in between.
//!
//! When the connection ends or fails the receiver connects again, after a pause, for as long as the query runs.
//!
//! Layout:
//! - `buffer`: received lines in blocks, without IO
//! - `driver`: the driver half
//! - `receiver`: the connection
//! - `source`: the executor half

mod buffer;
mod driver;
mod receiver;
mod source;
#[cfg(test)]
mod tests;

use std::time::Duration;

use millstream_common::config::{Config, keys};
use serde::{Deserialize, Serialize};

pub use self::{driver::SocketDriver, source::SocketSplits};
use crate::malformed::OnMalformed;

/// Everything that a socket source needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to connect to, `host:port`.
    pub address: String,
    /// How long one attempt to connect may take.
    pub connect_timeout: Duration,
    /// The pause before connecting again.
    pub restart_delay: Duration,
    /// Bytes of lines held, by batches that are not over too; at the bound nothing is read from the connection.
    pub max_buffered: u64,
    /// Bytes of lines in one batch, which all go into the offset log; the rest stays for the next one.
    pub max_batch_bytes: u64,
    /// Lines received within this time make one block, of at most 1 MiB; each block is one task.
    pub block_interval: Duration,
    /// Rows a second that batches take at most. Has no effect where batches run back to back.
    pub max_rate: Option<u64>,
    /// Lines that are not UTF-8 or too long. `Replace` can't mend a line that is too long: it fails.
    pub on_malformed: OnMalformed,
    /// Longest line in bytes, without its end.
    pub max_record_bytes: usize,
}

impl Settings {
    /// Settings with every default.
    pub fn new(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            connect_timeout: Duration::from_secs(10),
            restart_delay: Duration::from_secs(2),
            max_buffered: 64 << 20,
            max_batch_bytes: 8 << 20,
            block_interval: Duration::from_millis(200),
            max_rate: None,
            on_malformed: OnMalformed::default(),
            max_record_bytes: 8 << 20,
        }
    }

    /// Settings as the configuration says.
    pub fn of_config(address: impl Into<String>, config: &Config) -> Self {
        Self {
            address: address.into(),
            connect_timeout: config.get(keys::SOCKET_CONNECT_TIMEOUT),
            restart_delay: config.get(keys::RECEIVER_RESTART_DELAY),
            max_buffered: config.get(keys::RECEIVER_MAX_BUFFERED).bytes(),
            max_batch_bytes: config.get(keys::RECEIVER_MAX_BATCH_BYTES).bytes(),
            block_interval: config.get(keys::RECEIVER_BLOCK_INTERVAL),
            max_rate: config.get(keys::RECEIVER_MAX_RATE),
            on_malformed: config.get(keys::INPUT_ON_MALFORMED).into(),
            max_record_bytes: config.get(keys::INPUT_MAX_RECORD_BYTES).as_len(),
        }
    }

    /// What a checkpoint depends on.
    pub fn fingerprint(&self) -> serde_json::Value {
        serde_json::json!({ "address": self.address })
    }
}

/// Lines that were received; what a split is in the offset log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Block {
    /// Each line followed by `\n`.
    text: String,
    /// How many.
    rows: u64,
    /// Lines that were left out or mended.
    #[serde(default, skip_serializing_if = "is_zero")]
    malformed: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}
