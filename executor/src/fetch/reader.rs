//! The reader on the slot's thread.

use std::{sync::Arc, vec};

use bytes::Bytes;
use millstream_common::{
    failure::Failure,
    ids::ExecutorId,
    protocol::BlockLocation,
    telemetry::metrics::{Metrics, ReadOrigin},
};
use millstream_dataflow::program::{BlockFrames, CancelToken};

use super::{Fetcher, inflow::Next, prefetch::Running};
use crate::blocks::{BlockStore, StoredFrame};

/// Gives frames of blocks in the order asked. Every wait ends: remote blocks arrive or fail within the fetch timeout.
pub struct BlockReader {
    own: ExecutorId,
    store: Arc<BlockStore>,
    locations: Arc<[BlockLocation]>,
    position: usize,
    own_frames: Option<OwnFrames>,
    prefetch: Option<Running>,
    cancel: CancelToken,
    metrics: Metrics,
}

struct OwnFrames {
    frames: vec::IntoIter<StoredFrame>,
    bytes: u64,
}

impl BlockReader {
    pub(super) fn new(
        fetcher: &Fetcher,
        locations: Arc<[BlockLocation]>,
        prefetch: Option<Running>,
        cancel: CancelToken,
    ) -> Self {
        Self {
            own: fetcher.own,
            store: Arc::clone(&fetcher.store),
            locations,
            position: 0,
            own_frames: None,
            prefetch,
            cancel,
            metrics: fetcher.metrics.clone(),
        }
    }

    /// The next frame of an own block; `None` at its end.
    fn next_own(&mut self) -> Result<Option<Bytes>, Failure> {
        let location = &self.locations[self.position];
        let reading = match &mut self.own_frames {
            Some(reading) => reading,
            empty @ None => {
                let Some(frames) = self.store.frames(location.block()) else {
                    return Err(location.not_fetched("this executor doesn't have it"));
                };
                empty.insert(OwnFrames {
                    frames: frames.into_iter(),
                    bytes: 0,
                })
            }
        };
        if let Some(frame) = reading.frames.next() {
            reading.bytes += frame.length() as u64;
            let bytes = frame
                .read()
                .map_err(|error| location.not_fetched(&error.to_string()))?;
            return Ok(Some(bytes));
        }
        if reading.bytes != location.meta.bytes {
            let problem = format!(
                "it has {} bytes, its writer reported {}",
                reading.bytes, location.meta.bytes
            );
            return Err(location.not_fetched(&problem));
        }
        self.own_frames = None;
        Ok(None)
    }

    /// The next frame of a remote block; `None` at its end.
    fn next_remote(&mut self) -> Result<Option<Bytes>, Failure> {
        let location = &self.locations[self.position];
        let Some(prefetch) = &self.prefetch else {
            return Err(location.not_fetched("this process reaches no other executors"));
        };
        loop {
            self.cancel.check()?;
            match prefetch.inflow.next(self.position) {
                Next::Frame(frame) => return Ok(Some(frame)),
                Next::End => return Ok(None),
                Next::Failed(failure) => return Err(failure),
                Next::Wait => {}
                Next::Ended => {
                    return Err(location.not_fetched("the fetch ended before it arrived"));
                }
            }
        }
    }
}

impl BlockFrames for BlockReader {
    fn next(&mut self) -> Result<Option<(usize, Bytes)>, Failure> {
        while let Some(location) = self.locations.get(self.position) {
            self.cancel.check()?;
            if location.meta.bytes == 0 {
                self.position += 1;
                continue;
            }
            let is_own = location.executor == self.own;
            let (frame, origin) = if is_own {
                (self.next_own()?, ReadOrigin::Local)
            } else {
                (self.next_remote()?, ReadOrigin::Remote)
            };
            if let Some(frame) = frame {
                let read = &self.metrics.executor().shuffle_read_bytes;
                read.with(&origin).inc_by(frame.len() as u64);
                return Ok(Some((self.position, frame)));
            }
            self.position += 1;
        }
        Ok(None)
    }
}
