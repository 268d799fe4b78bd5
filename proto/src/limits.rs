//! Bounds on messages and streams. Both sides set them on every client and server.

use std::time::Duration;

/// The largest control message (launches, reports, truths), bytes, unless `rpc.max_message` says otherwise.
pub const CONTROL_MESSAGE: usize = 64 * 1024 * 1024;

/// The largest request for blocks, bytes.
pub const FETCH_REQUEST: usize = 4 * 1024 * 1024;

/// The most blocks that one request may name.
pub const FETCH_BLOCKS: usize = 16 * 1024;

/// Room for the fields around the frame in a fetch reply, bytes.
pub const FETCH_REPLY_OVERHEAD: usize = 1024;

/// The most calls at once on one connection.
pub const CONCURRENT_STREAMS: u32 = 256;

/// Messages that may wait in each direction of a session.
pub const SESSION_QUEUE: usize = 256;

/// How often an idle connection is probed, and how long the answer may take.
pub const KEEPALIVE: Duration = Duration::from_secs(10);
