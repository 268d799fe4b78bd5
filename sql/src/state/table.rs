//! Segments, what the newest version makes of them, and the changes of a batch that may not be committed.

use std::{sync::Arc, time::Duration};

use arrow::record_batch::RecordBatch;
use hashbrown::HashSet;
use millstream_common::{failure::Failure, protocol::StateFile};
use millstream_dataflow::state::{FileKind, StateFolder};

use super::{
    Layout, file,
    merging::{self, Job, LONGEST_WAIT, MERGED_AT_ONCE, MOST_JOBS, MOST_SEGMENTS, StateIo},
    segment::{self, Content, Place, Segment},
    timers::Timers,
};
use crate::{
    error::{Error, task_failure},
    keys::{self, Keys},
};

/// The groups of one state partition.
pub(crate) struct GroupTable {
    layout: Layout,
    /// What the newest version that is known to count consists of, oldest first.
    segments: Vec<Segment>,
    timers: Timers,
    pending: Option<Pending>,
    /// Merges of runs of `segments`, none of which overlap; the older run first.
    jobs: Vec<Job>,
    /// After a merge failed: with how many segments the next is tried.
    next_job_at: usize,
    /// How long a task waits for a merge.
    longest_wait: Duration,
}

/// Changes of a batch that may not be committed.
struct Pending {
    /// What there is if they count.
    segments: Vec<Segment>,
    /// What the batch changed, the last of them; none if nothing.
    delta: Option<Arc<Content>>,
}

impl GroupTable {
    /// An empty table of rows that are laid out so.
    pub(crate) fn new(layout: Layout) -> Self {
        Self {
            layout,
            segments: Vec::new(),
            timers: Timers::default(),
            pending: None,
            jobs: Vec::new(),
            next_job_at: 0,
            longest_wait: LONGEST_WAIT,
        }
    }

    /// Whether its rows are laid out so.
    pub(crate) fn has_layout(&self, layout: &Layout) -> bool {
        self.layout == *layout
    }

    /// Groups, without uncommitted changes.
    pub(crate) fn len(&self) -> usize {
        let newest = self.segments.last();
        newest.map_or(0, |segment| {
            usize::try_from(segment.file.rows).unwrap_or(usize::MAX)
        })
    }

    /// Bytes in memory, about, with the uncommitted changes and what is being merged.
    pub(crate) fn memory(&self) -> usize {
        let pending = self.pending.iter().flat_map(|pending| &pending.segments);
        let segments = self.segments.iter().chain(pending);
        let held = segments.map(|segment| &segment.content);
        let mut seen = HashSet::new();
        let held: usize = held
            .chain(self.jobs.iter().filter_map(Job::done))
            .filter(|content| seen.insert(Arc::as_ptr(content)))
            .map(|content| content.memory())
            .sum();
        let to_come: usize = self.jobs.iter().map(Job::to_come).sum();
        held + to_come + self.timers.memory()
    }

    /// Becomes the state that consists of these files: as it is, with the uncommitted changes, or with what must be read. Says whether anything was read.
    pub(crate) fn align(
        &mut self,
        files: &[StateFile],
        folder: &StateFolder,
    ) -> Result<bool, Failure> {
        let pending = self.pending.take();
        if is_of(&self.segments, files) {
            return Ok(false);
        }
        let mut has_read = false;
        match pending {
            Some(pending) if is_of(&pending.segments, files) => self.apply(pending),
            pending => {
                let more = pending.map_or_else(Vec::new, |pending| pending.segments);
                let mut segments = Vec::with_capacity(files.len());
                for listed in files {
                    let mut known = self.segments.iter().chain(&more);
                    let known = known.find(|known| known.file == *listed);
                    segments.push(match known {
                        Some(known) => known.clone(),
                        None => {
                            has_read = true;
                            self.read(listed, folder)?
                        }
                    });
                }
                self.timers = timers(&segments, &self.layout);
                self.segments = segments;
            }
        }
        let segments = &self.segments;
        self.jobs
            .retain(|job| merging::position(segments, &job.run, job.is_oldest).is_some());
        Ok(has_read)
    }

    fn read(&self, listed: &StateFile, folder: &StateFolder) -> Result<Segment, Failure> {
        let content = folder.read(listed)?;
        let (rows, removed) = file::decode(&listed.file, &content).map_err(task_failure)?;
        let rows = self.layout.laid_out(rows).map_err(|rows| {
            task_failure(Error::internal(format!(
                "state file {} has other columns than the query: {} instead of {}",
                listed.file,
                rows.schema(),
                self.layout.schema
            )))
        })?;
        let content = Content::read(rows, removed, &self.layout).map_err(task_failure)?;
        Ok(Segment {
            content: Arc::new(content),
            file: listed.clone(),
        })
    }

    fn apply(&mut self, pending: Pending) {
        if let Some(delta) = &pending.delta
            && self.layout.time.is_some()
        {
            let removed: Vec<&[u8]> = delta.removed.iter().map(|key| &key[..]).collect();
            let places = segment::places(&self.segments, &removed);
            for (key, place) in removed.into_iter().zip(places) {
                let time = place.and_then(|place| {
                    let before = &self.segments[place.segment];
                    before.content.time(place.row)
                });
                if let Some(time) = time {
                    self.timers.remove(time, key);
                }
            }
            for (row, key) in (0u32..).zip(delta.keys.iter()) {
                if let Some(time) = delta.time(row) {
                    self.timers.insert(time, key);
                }
            }
        }
        self.segments = pending.segments;
    }

    /// Committed keys that are over at this time, microseconds: by time, and by key within one.
    pub(crate) fn over(&self, time: i64) -> Vec<Box<[u8]>> {
        self.timers.over(time)
    }

    /// The committed rows of these keys, in their order; keys without one are left out.
    pub(crate) fn rows_of<'k>(
        &self,
        keys: impl Iterator<Item = &'k [u8]>,
    ) -> Result<Option<RecordBatch>, Error> {
        let keys: Vec<&[u8]> = keys.collect();
        let places = segment::places(&self.segments, &keys);
        let places: Vec<Place> = places.into_iter().flatten().collect();
        if places.is_empty() {
            return Ok(None);
        }
        segment::gather(&self.segments, &places, &self.layout.schema).map(Some)
    }

    /// Every row in the order of keys, with the uncommitted changes.
    pub(crate) fn all(&self) -> Result<RecordBatch, Error> {
        let segments = match &self.pending {
            Some(pending) => &pending.segments,
            None => &self.segments,
        };
        let mut rows = newest(segments);
        rows.sort_unstable_by_key(|(key, _)| *key);
        let places: Vec<Place> = rows.into_iter().map(|(_, place)| place).collect();
        segment::gather(segments, &places, &self.layout.schema)
    }

    /// Takes a batch's changes: new rows and keys that go, each key once. They are written, and count once a commit lists the files that this gives.
    /// Merges that are done are adopted; one that is due is begun.
    pub(crate) fn change(
        &mut self,
        rows: &RecordBatch,
        removed: Vec<Box<[u8]>>,
        io: &StateIo<'_>,
    ) -> Result<Vec<StateFile>, Failure> {
        self.pending = None;
        let columns = &rows.columns()[..self.layout.group_columns];
        let keys = keys::encode(columns, rows.num_rows()).map_err(task_failure)?;
        let fewer = self.with_fewer_segments(io)?;
        let delta = match rows.num_rows() == 0 && removed.is_empty() {
            true => None,
            false => Some(self.write_delta(rows, &keys, removed, io)?),
        };
        let has_fewer = fewer.is_some();
        if has_fewer || delta.is_some() {
            let mut segments = fewer.unwrap_or_else(|| self.segments.clone());
            let content = delta.as_ref().map(|delta| Arc::clone(&delta.content));
            segments.extend(delta);
            self.pending = Some(Pending {
                segments,
                delta: content,
            });
        }
        if !has_fewer {
            self.begin_merge(io);
        }
        let segments = match &self.pending {
            Some(pending) => &pending.segments,
            None => &self.segments,
        };
        Ok(segments
            .iter()
            .map(|segment| segment.file.clone())
            .collect())
    }

    fn write_delta(
        &self,
        rows: &RecordBatch,
        keys: &Keys,
        removed: Vec<Box<[u8]>>,
        io: &StateIo<'_>,
    ) -> Result<Segment, Failure> {
        let live = self.len_after(keys, &removed);
        let (rows, keys) = segment::by_slot(rows, keys).map_err(task_failure)?;
        let bytes = file::encode(&rows, &removed).map_err(task_failure)?;
        let mut file = io
            .folder
            .write(io.task, io.operator, FileKind::Delta, &bytes)?;
        file.rows = live as u64;
        let content = Content::new(rows, keys, removed, &self.layout).map_err(task_failure)?;
        Ok(Segment {
            content: Arc::new(content),
            file,
        })
    }

    /// Groups once these changes count.
    fn len_after(&self, keys: &Keys, removed: &[Box<[u8]>]) -> usize {
        let keys: Vec<&[u8]> = keys.iter().collect();
        let known = segment::places(&self.segments, &keys);
        let new = known.iter().filter(|place| place.is_none()).count();
        let removed: Vec<&[u8]> = removed.iter().map(|key| &key[..]).collect();
        let gone = segment::places(&self.segments, &removed);
        let gone = gone.iter().flatten().count();
        (self.len() + new).saturating_sub(gone)
    }

    /// The segments with one merge adopted that is done; none where there is none. With too many segments the task waits for the oldest merge, or
    /// merges itself where none is under way or it takes too long. A task gives at most one file of each kind, so it adopts no second one.
    fn with_fewer_segments(&mut self, io: &StateIo<'_>) -> Result<Option<Vec<Segment>>, Failure> {
        let mut number = 0;
        while number < self.jobs.len() {
            match self.jobs[number].look() {
                Ok(()) => number += 1,
                Err(failure) => self.merge_failed(number, &failure, io),
            }
        }
        let is_done = |job: &Job| job.done().is_some();
        if let Some(done) = self.jobs.iter().position(is_done)
            && let Some(adopted) = self.adopt(done, io)?
        {
            return Ok(Some(adopted));
        }
        if self.segments.len() < MOST_SEGMENTS {
            return Ok(None);
        }
        if let Some(oldest) = self.jobs.first_mut() {
            match oldest.wait(io.cancel, self.longest_wait)? {
                Ok(()) => {
                    if let Some(adopted) = self.adopt(0, io)? {
                        return Ok(Some(adopted));
                    }
                }
                Err(failure) => self.merge_failed(0, &failure, io),
            }
        }
        // What is under way still would be of segments that are gone.
        self.jobs.clear();
        let from = self.due(0).unwrap_or(0);
        let merged = merging::merge_now(&self.segments[from..], from == 0, &self.layout, io)?;
        let mut segments = self.segments[..from].to_vec();
        segments.push(merged);
        Ok(Some(segments))
    }

    /// The segments with the result of a job in place of its run; without it where its file is gone, and then the job is too.
    fn adopt(&mut self, number: usize, io: &StateIo<'_>) -> Result<Option<Vec<Segment>>, Failure> {
        let job = &self.jobs[number];
        let at = merging::position(&self.segments, &job.run, job.is_oldest);
        let adopted = match at {
            Some(at) => job.adopt(io.task)?.map(|merged| (at, merged)),
            None => None,
        };
        let Some((at, merged)) = adopted else {
            self.jobs.remove(number);
            return Ok(None);
        };
        let mut segments = self.segments.clone();
        segments.splice(at..at + job.run.len(), [merged]);
        self.next_job_at = 0;
        Ok(Some(segments))
    }

    fn merge_failed(&mut self, number: usize, failure: &Failure, io: &StateIo<'_>) {
        self.jobs.remove(number);
        self.next_job_at = self.segments.len() + MERGED_AT_ONCE;
        tracing::warn!(
            operator = io.operator,
            partition = io.task.partition,
            segments = self.segments.len(),
            error = %failure,
            "a merge of state files failed and is tried again later"
        );
    }

    /// Asks for the merge that is due, of segments that count.
    fn begin_merge(&mut self, io: &StateIo<'_>) {
        if self.jobs.len() >= MOST_JOBS || self.segments.len() < self.next_job_at {
            return;
        }
        let segments = &self.segments;
        let ends = self.jobs.iter().filter_map(|job| {
            let at = merging::position(segments, &job.run, job.is_oldest)?;
            Some(at + job.run.len())
        });
        let taken = ends.max().unwrap_or(0);
        if let Some(from) = self.due(taken) {
            let run = &self.segments[from..];
            self.jobs
                .extend(Job::start(run, from == 0, &self.layout, io));
        }
    }

    fn due(&self, taken: usize) -> Option<usize> {
        let weights = self.segments.iter();
        let weights: Vec<usize> = weights.map(|segment| segment.content.weight()).collect();
        merging::due(&weights, self.len(), taken)
    }
}

#[cfg(test)]
impl GroupTable {
    pub(super) fn waits_at_most(&mut self, longest: Duration) {
        self.longest_wait = longest;
    }

    pub(super) fn position_of(&self, run: &[StateFile], is_oldest: bool) -> Option<usize> {
        merging::position(&self.segments, run, is_oldest)
    }

    pub(super) fn rows_in_memory(&self) -> usize {
        let segments = self.segments.iter();
        segments
            .map(|segment| segment.content.rows.num_rows())
            .sum()
    }
}

fn is_of(segments: &[Segment], files: &[StateFile]) -> bool {
    segments.iter().map(|segment| &segment.file).eq(files)
}

/// The newest row of each key that isn't gone.
fn newest(segments: &[Segment]) -> Vec<(&[u8], Place)> {
    let most = segments
        .iter()
        .map(|segment| segment.content.weight())
        .sum();
    let mut seen: HashSet<&[u8]> = HashSet::with_capacity(most);
    let mut rows = Vec::new();
    for (number, segment) in segments.iter().enumerate().rev() {
        for (row, key) in (0u32..).zip(segment.content.keys.iter()) {
            if seen.insert(key) {
                let place = Place {
                    segment: number,
                    row,
                };
                rows.push((key, place));
            }
        }
        seen.extend(segment.content.removed.iter().map(|key| &key[..]));
    }
    rows
}

fn timers(segments: &[Segment], layout: &Layout) -> Timers {
    let mut timers = Timers::default();
    if layout.time.is_some() {
        for (key, place) in newest(segments) {
            if let Some(time) = segments[place.segment].content.time(place.row) {
                timers.insert(time, key);
            }
        }
    }
    timers
}
