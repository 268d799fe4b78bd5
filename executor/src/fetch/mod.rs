//! Reading blocks: this executor's own without a copy, others' over gRPC, prefetched within a bound and given in the order asked.
//!
//! A reader knows every block's size before it asks. So bytes in flight are reserved in the order of reading, before a request is
//! made; whatever arrives is taken from the connection at once. Readers that share a connection can't block each other.
//!
//! Layout:
//! - `inflow`: what has arrived and not been read; the meeting point of the slot's thread and the IO runtime
//! - `prefetch`: asks for blocks, a window at a time, and tries again
//! - `reader`: [`BlockFrames`](millstream_dataflow::program::BlockFrames) on the slot's thread

mod inflow;
mod prefetch;
mod reader;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use millstream_common::{
    ids::ExecutorId, protocol::BlockLocation, telemetry::metrics::Metrics, time::Clock,
};
use millstream_dataflow::program::CancelToken;
use millstream_proto::peers::Peers;
use tokio::runtime::Handle;

pub use reader::BlockReader;

use crate::{blocks::BlockStore, memory::MemoryBudget, options::Tuning};
use prefetch::Prefetch;

/// Makes readers of blocks for one registration.
#[derive(Clone)]
pub struct Fetcher {
    /// This executor.
    pub own: ExecutorId,
    /// Its blocks.
    pub store: Arc<BlockStore>,
    /// Connections to others; `None` where there are none (`local[N]`).
    pub peers: Option<Arc<Peers>>,
    /// Where requests run.
    pub io: Handle,
    /// Counts what is in flight.
    pub budget: Arc<MemoryBudget>,
    /// Timeouts and pauses.
    pub clock: Arc<dyn Clock>,
    /// Bounds.
    pub tuning: Tuning,
    /// Counts what was read.
    pub metrics: Metrics,
}

impl Fetcher {
    /// A reader of `locations`, in that order. Requests for remote ones start at once.
    pub fn fetch(&self, locations: Vec<BlockLocation>, cancel: CancelToken) -> BlockReader {
        let locations: Arc<[BlockLocation]> = locations.into();
        let has_remote = locations
            .iter()
            .any(|location| location.executor != self.own && location.meta.bytes > 0);
        let inflow = match &self.peers {
            Some(peers) if has_remote => Some(Prefetch::start(self, peers, &locations)),
            _ => None,
        };
        BlockReader::new(self, locations, inflow, cancel)
    }
}
