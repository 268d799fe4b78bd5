//! Asks peers for blocks: a window of blocks at a time, one request per peer and window, and again where a request fails.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use millstream_common::{
    frame::{Frame, HEADER_BYTES, MAX_FRAME_BYTES},
    protocol::BlockLocation,
    time::Tick,
};
use millstream_proto::{
    limits,
    pb::{self, fetch_reply::What},
    peers::{Peers, Problem},
};
use rand::Rng;
use tokio::task::{AbortHandle, JoinSet};
use tonic::Request;

use super::{Fetcher, inflow::Inflow};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Blocks of one window, so that a request stays small whatever the blocks' sizes.
const WINDOW_BLOCKS: usize = limits::FETCH_BLOCKS;

/// What a reader asked for, shared by its requests.
#[derive(Clone)]
pub(super) struct Prefetch {
    fetcher: Fetcher,
    peers: Arc<Peers>,
    locations: Arc<[BlockLocation]>,
    inflow: Arc<Inflow>,
}

/// A running prefetch; ends with its reader.
pub(super) struct Running {
    pub(super) inflow: Arc<Inflow>,
    task: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
        self.inflow.abandon();
    }
}

/// Says that nothing more will come, however the prefetch ends.
struct EndGuard(Arc<Inflow>);

impl Drop for EndGuard {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Prefetch {
    pub(super) fn start(
        fetcher: &Fetcher,
        peers: &Arc<Peers>,
        locations: &Arc<[BlockLocation]>,
    ) -> Running {
        let inflow = Arc::new(Inflow::new(Arc::clone(&fetcher.budget)));
        let prefetch = Self {
            fetcher: fetcher.clone(),
            peers: Arc::clone(peers),
            locations: Arc::clone(locations),
            inflow: Arc::clone(&inflow),
        };
        let task = fetcher.io.spawn(prefetch.run()).abort_handle();
        Running { inflow, task }
    }

    async fn run(self) {
        let _end = EndGuard(Arc::clone(&self.inflow));
        let remote: Vec<usize> = (0..self.locations.len())
            .filter(|index| {
                let location = &self.locations[*index];
                location.executor != self.fetcher.own && location.meta.bytes > 0
            })
            .collect();
        let limit = self.fetcher.tuning.fetch_in_flight;
        let mut requests = JoinSet::new();
        let mut next = 0;
        while next < remote.len() {
            // Waiting for half of the room makes few large requests rather than many small ones. With nothing in flight the next
            // block is the one that the reader waits for: it is asked for whatever the memory.
            let may_run_ahead = self.fetcher.budget.allows_read_ahead();
            let high_mark = if may_run_ahead { limit / 2 } else { 0 };
            if !self.inflow.drained_to(high_mark).await {
                return;
            }
            let mut groups: Vec<Vec<usize>> = Vec::new();
            let mut taken = 0;
            while next < remote.len() && taken < WINDOW_BLOCKS {
                let index = remote[next];
                let location = &self.locations[index];
                let in_flight = self.inflow.in_flight();
                let fits = in_flight.saturating_add(location.meta.bytes) <= limit
                    && self.fetcher.budget.allows_read_ahead();
                if !fits && in_flight > 0 {
                    break;
                }
                self.inflow.reserve(index, location.meta.bytes);
                let group = groups.iter_mut().find(|group| {
                    let first = &self.locations[group[0]];
                    first.executor == location.executor && first.address == location.address
                });
                match group {
                    Some(group) => group.push(index),
                    None => groups.push(vec![index]),
                }
                taken += 1;
                next += 1;
            }
            if taken == 0 {
                // More is in flight than the mark allowed for; wait for all of it.
                if !self.inflow.drained_to(0).await {
                    return;
                }
            }
            for group in groups {
                requests.spawn(self.clone().fetch_group(group));
            }
            while requests.try_join_next().is_some() {}
        }
        while requests.join_next().await.is_some() {}
    }

    /// Fetches blocks of one peer, in order. The first that can't be had ends it: the reader never gets past that one.
    async fn fetch_group(self, group: Vec<usize>) {
        let clock = Arc::clone(&self.fetcher.clock);
        let tuning = &self.fetcher.tuning;
        let mut progress = Progress {
            position: 0,
            frames: 0,
            bytes: 0,
            last: clock.now(),
        };
        let mut pause = FIRST_PAUSE;
        let mut tries = 0;
        loop {
            let before = progress.last;
            let Err(problem) = self.request(&group, &mut progress).await else {
                return;
            };
            if progress.last > before {
                tries = 0;
                pause = FIRST_PAUSE;
            }
            let deadline = progress.last.after(tuning.fetch_timeout);
            let address = &self.locations[group[0]].address;
            let text = match self.peers.explained(address, problem) {
                Problem::Final(text) | Problem::OtherSecret(text) => Some(text),
                Problem::Transient(text) => {
                    tries += 1;
                    (tries > tuning.fetch_retries || clock.now().after(pause) >= deadline)
                        .then_some(text)
                }
            };
            let index = group[progress.position];
            if let Some(text) = text {
                let failure = self.locations[index].not_fetched(&text);
                self.fetcher.metrics.executor().fetch_failures.inc();
                self.inflow.finish(index, Err(failure));
                return;
            }
            let jitter = rand::rng().random_range(0.5..1.0);
            clock.until(clock.now().after(pause.mul_f64(jitter))).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// One request for what is still missing of a group.
    async fn request(&self, group: &[usize], progress: &mut Progress) -> Result<(), Problem> {
        let missing = &group[progress.position..];
        let already = progress.frames;
        let location = &self.locations[missing[0]];
        let largest = missing
            .iter()
            .map(|index| self.locations[*index].meta.bytes)
            .max()
            .unwrap_or(0);
        let frame_limit = usize::try_from(largest)
            .unwrap_or(usize::MAX)
            .min(MAX_FRAME_BYTES + HEADER_BYTES);
        let mut client = self
            .peers
            .client(
                &location.address,
                frame_limit + limits::FETCH_REPLY_OVERHEAD,
            )
            .map_err(Problem::Final)?;
        let request = pb::FetchRequest {
            blocks: missing
                .iter()
                .map(|index| self.locations[*index].block().into())
                .collect(),
        };
        let call = client.fetch(Request::new(request));
        let mut replies = self.in_time(progress.last, call).await?.into_inner();
        // The block that a request was cut in is sent again from its begin.
        let mut skip = already;
        let first = progress.position;
        while progress.position < group.len() {
            let reply = self.in_time(progress.last, replies.message()).await?;
            let Some(pb::FetchReply { block, what }) = reply else {
                return Err(Problem::Transient("the stream ended early".to_owned()));
            };
            let expected = progress.position - first;
            if usize::try_from(block).ok() != Some(expected) {
                return Err(Problem::Final("the answer is out of order".to_owned()));
            }
            match what {
                Some(What::Frame(_)) if skip > 0 => skip -= 1,
                Some(What::Frame(frame)) => self.take_frame(group, progress, frame)?,
                Some(What::End(_)) => self.take_end(group, progress)?,
                Some(What::Missing(missing)) => return Err(Problem::Final(missing.reason)),
                None => return Err(Problem::Final("the answer is empty".to_owned())),
            }
        }
        Ok(())
    }

    fn take_frame(
        &self,
        group: &[usize],
        progress: &mut Progress,
        frame: Bytes,
    ) -> Result<(), Problem> {
        let index = group[progress.position];
        let announced = self.locations[index].meta.bytes;
        let mut checked = 0;
        while checked < frame.len() {
            match Frame::check(&frame[checked..], MAX_FRAME_BYTES) {
                Ok(length) => checked += length,
                Err(error) => return Err(Problem::Transient(error.to_string())),
            }
        }
        progress.bytes += frame.len() as u64;
        if progress.bytes > announced {
            return Err(Problem::Final(format!(
                "it has more than the {announced} bytes that its writer reported"
            )));
        }
        progress.frames += 1;
        progress.last = self.fetcher.clock.now();
        self.inflow.push(index, frame);
        Ok(())
    }

    fn take_end(&self, group: &[usize], progress: &mut Progress) -> Result<(), Problem> {
        let index = group[progress.position];
        let announced = self.locations[index].meta.bytes;
        if progress.bytes != announced {
            return Err(Problem::Final(format!(
                "it has {} bytes, its writer reported {announced}",
                progress.bytes
            )));
        }
        self.inflow.finish(index, Ok(()));
        progress.position += 1;
        progress.frames = 0;
        progress.bytes = 0;
        progress.last = self.fetcher.clock.now();
        Ok(())
    }

    /// Waits for the peer, no longer than the timeout since something last arrived.
    async fn in_time<T>(
        &self,
        last: Tick,
        answer: impl Future<Output = Result<T, tonic::Status>>,
    ) -> Result<T, Problem> {
        let timeout = self.fetcher.tuning.fetch_timeout;
        tokio::select! {
            answer = answer => answer.map_err(Problem::from),
            () = self.fetcher.clock.until(last.after(timeout)) => {
                Err(Problem::Final(format!("nothing arrived for {timeout:?}")))
            }
        }
    }
}

/// How far a group has come.
struct Progress {
    /// Complete blocks of the group.
    position: usize,
    /// Frames of the next block that were taken, and their bytes.
    frames: u32,
    bytes: u64,
    /// When something last arrived.
    last: Tick,
}
