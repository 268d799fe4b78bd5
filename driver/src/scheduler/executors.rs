//! The executors that are there, their slots, and which of them have slots free. Every step costs the same however many there are.

use std::collections::{BTreeSet, VecDeque};

use hashbrown::HashMap;
use millstream_common::ids::{ExecutorId, TaskId};

use super::message::ExecutorInfo;

/// An executor's place in the pool; used again once its executor is lost and nothing names it any more.
pub(super) type ExecutorIndex = u32;
/// No executor.
pub(super) const NOWHERE: ExecutorIndex = ExecutorIndex::MAX;

/// Executors with more free slots than this count as equally free.
const MOST_FREE: usize = 64;
/// More slots than this one executor doesn't get.
const MOST_CORES: u32 = 4_096;

/// An attempt in a slot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Occupant {
    pub query: usize,
    pub task: TaskId,
}

/// An executor that is registered and not lost.
#[derive(Debug)]
pub(super) struct Executor {
    pub info: ExecutorInfo,
    /// Attempts that run here; a slot stays taken until its attempt is known to have ended.
    pub slots: Vec<Option<Occupant>>,
    vacant: Vec<u32>,
    pub cores: u32,
    pub busy: u32,
    /// Attempts told to stop that have not yet said that they did, with their slots.
    pub cancelled: HashMap<TaskId, u32>,
    /// It takes nothing of batches with this sequence number or a later one.
    pub leaving: Option<u64>,
    pub released: bool,
    /// Attempts named in each `Reconcile` that is not yet answered, oldest first.
    pub asked: VecDeque<Vec<TaskId>>,
    /// Locality keys whose tasks are at home here.
    keys: u32,
    touched: bool,
    listed: Option<(usize, usize)>,
}

/// All executors.
#[derive(Debug)]
pub(super) struct Pool {
    list: Vec<Option<Executor>>,
    unused: Vec<ExecutorIndex>,
    by_id: HashMap<ExecutorId, ExecutorIndex>,
    /// Executors by free slots.
    buckets: Vec<Vec<ExecutorIndex>>,
    top: usize,
    listed: usize,
    staying: usize,
    leaving: usize,
    /// Staying executors by how many locality keys are at home there.
    key_load: BTreeSet<(u32, ExecutorIndex)>,
    touched: VecDeque<ExecutorIndex>,
}

impl Pool {
    pub(super) fn new() -> Self {
        Self {
            list: Vec::new(),
            unused: Vec::new(),
            by_id: HashMap::new(),
            buckets: vec![Vec::new(); MOST_FREE + 1],
            top: 0,
            listed: 0,
            staying: 0,
            leaving: 0,
            key_load: BTreeSet::new(),
            touched: VecDeque::new(),
        }
    }

    pub(super) fn find(&self, id: ExecutorId) -> Option<ExecutorIndex> {
        self.by_id.get(&id).copied()
    }

    pub(super) fn get(&self, index: ExecutorIndex) -> Option<&Executor> {
        self.list.get(index as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, index: ExecutorIndex) -> Option<&mut Executor> {
        self.list.get_mut(index as usize)?.as_mut()
    }

    /// Every executor, in a fixed order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (ExecutorIndex, &Executor)> {
        (0u32..)
            .zip(&self.list)
            .filter_map(|(index, executor)| Some((index, executor.as_ref()?)))
    }

    /// How many executors aren't leaving.
    pub(super) fn staying(&self) -> usize {
        self.staying
    }

    /// Whether any executor is leaving.
    pub(super) fn any_leaving(&self) -> bool {
        self.leaving > 0
    }

    /// How many executors have a free slot that may be used.
    pub(super) fn listed(&self) -> usize {
        self.listed
    }

    pub(super) fn add(&mut self, info: ExecutorInfo) -> ExecutorIndex {
        let index = self.unused.pop().unwrap_or_else(|| {
            self.list.push(None);
            // An index is 4 bytes: as many executors never register at once.
            u32::try_from(self.list.len() - 1).unwrap_or(NOWHERE)
        });
        self.by_id.insert(info.id, index);
        let cores = info.cores.clamp(1, MOST_CORES);
        self.list[index as usize] = Some(Executor {
            info,
            slots: Vec::new(),
            vacant: Vec::new(),
            cores,
            busy: 0,
            cancelled: HashMap::new(),
            leaving: None,
            released: false,
            asked: VecDeque::new(),
            keys: 0,
            touched: false,
            listed: None,
        });
        self.staying += 1;
        self.key_load.insert((0, index));
        if self.staying == 1 {
            self.relist_leaving();
        }
        self.relist(index);
        index
    }

    /// Takes a lost executor out; its place may be used again from now on.
    pub(super) fn remove(&mut self, index: ExecutorIndex) -> Option<Executor> {
        self.unlist(index);
        let executor = self.list.get_mut(index as usize)?.take()?;
        self.by_id.remove(&executor.info.id);
        self.touched.retain(|touched| *touched != index);
        self.unused.push(index);
        if executor.leaving.is_some() {
            self.leaving -= 1;
        } else {
            self.key_load.remove(&(executor.keys, index));
            self.staying -= 1;
            if self.staying == 0 {
                self.relist_leaving();
            }
        }
        Some(executor)
    }

    /// Marks an executor as leaving; false if it already was.
    pub(super) fn leave(&mut self, index: ExecutorIndex, since: u64) -> bool {
        let Some(executor) = self.get_mut(index) else {
            return false;
        };
        if executor.leaving.is_some() {
            return false;
        }
        executor.leaving = Some(since);
        let keys = executor.keys;
        self.key_load.remove(&(keys, index));
        self.staying -= 1;
        self.leaving += 1;
        if self.staying == 0 {
            self.relist_leaving();
        } else {
            self.relist(index);
        }
        true
    }

    /// Whether tasks may be bound for this executor at all: it is there, and staying or one of the last.
    pub(super) fn usable(&self, index: ExecutorIndex) -> bool {
        self.get(index)
            .is_some_and(|executor| executor.leaving.is_none() || self.staying == 0)
    }

    /// Whether a batch may have tasks here, stages aside.
    pub(super) fn admits(&self, index: ExecutorIndex, batch_sequence: u64) -> bool {
        self.get(index)
            .is_some_and(|executor| match executor.leaving {
                None => true,
                Some(since) => self.staying == 0 && batch_sequence < since,
            })
    }

    /// Takes a free slot; `None` if there is none.
    pub(super) fn occupy(&mut self, index: ExecutorIndex, occupant: Occupant) -> Option<u32> {
        let executor = self.get_mut(index)?;
        if executor.busy >= executor.cores {
            return None;
        }
        let slot = match executor.vacant.pop() {
            Some(slot) => slot,
            None => {
                let slot = u32::try_from(executor.slots.len()).ok()?;
                executor.slots.push(None);
                slot
            }
        };
        executor.slots[slot as usize] = Some(occupant);
        executor.busy += 1;
        self.relist(index);
        Some(slot)
    }

    /// Gives a slot back.
    pub(super) fn vacate(&mut self, index: ExecutorIndex, slot: u32) {
        let Some(executor) = self.get_mut(index) else {
            return;
        };
        let Some(place) = executor.slots.get_mut(slot as usize) else {
            return;
        };
        if place.take().is_some() {
            executor.vacant.push(slot);
            executor.busy -= 1;
            self.relist(index);
            self.touch(index);
        }
    }

    /// Notes that an executor has a new free slot or a new task that prefers it.
    pub(super) fn touch(&mut self, index: ExecutorIndex) {
        if let Some(executor) = self.get_mut(index)
            && !executor.touched
        {
            executor.touched = true;
            self.touched.push_back(index);
        }
    }

    pub(super) fn next_touched(&mut self) -> Option<ExecutorIndex> {
        let index = self.touched.pop_front()?;
        if let Some(executor) = self.get_mut(index) {
            executor.touched = false;
        }
        Some(index)
    }

    /// Whether it has a free slot that may be used.
    pub(super) fn has_slot(&self, index: ExecutorIndex) -> bool {
        self.get(index)
            .is_some_and(|executor| executor.listed.is_some())
    }

    /// The executor with most free slots among those that `fits` takes.
    pub(super) fn most_free(&self, fits: impl Fn(ExecutorIndex) -> bool) -> Option<ExecutorIndex> {
        for bucket in self.buckets[..=self.top].iter().rev() {
            for index in bucket {
                if fits(*index) {
                    return Some(*index);
                }
            }
        }
        None
    }

    /// The next usable executor after this one, in a ring.
    pub(super) fn after(
        &self,
        index: ExecutorIndex,
        fits: impl Fn(ExecutorIndex) -> bool,
    ) -> Option<ExecutorIndex> {
        let count = u32::try_from(self.list.len()).ok()?;
        (1..count)
            .map(|step| (index.wrapping_add(step)) % count)
            .find(|candidate| self.usable(*candidate) && fits(*candidate))
    }

    /// The staying executor with fewest locality keys.
    pub(super) fn fewest_keys(&self) -> Option<ExecutorIndex> {
        self.key_load.first().map(|(_, index)| *index)
    }

    /// How many locality keys are at home on an executor.
    pub(super) fn keys(&self, index: ExecutorIndex) -> u32 {
        self.get(index).map_or(0, |executor| executor.keys)
    }

    /// A locality key moved in (`true`) or out.
    pub(super) fn count_key(&mut self, index: ExecutorIndex, moved_in: bool) {
        let Some(executor) = self.get_mut(index) else {
            return;
        };
        let before = executor.keys;
        executor.keys = if moved_in {
            before.saturating_add(1)
        } else {
            before.saturating_sub(1)
        };
        let now = executor.keys;
        if executor.leaving.is_none() {
            self.key_load.remove(&(before, index));
            self.key_load.insert((now, index));
        }
    }

    fn relist_leaving(&mut self) {
        for index in 0..self.list.len() {
            let leaving = self.list[index]
                .as_ref()
                .is_some_and(|executor| executor.leaving.is_some());
            if leaving && let Ok(index) = u32::try_from(index) {
                self.relist(index);
            }
        }
    }

    fn relist(&mut self, index: ExecutorIndex) {
        let Some(executor) = self.get(index) else {
            return;
        };
        let free = executor.cores.saturating_sub(executor.busy) as usize;
        let bucket = free.min(MOST_FREE);
        let wanted = (free > 0 && self.usable(index)).then_some(bucket);
        if executor.listed.map(|(bucket, _)| bucket) == wanted {
            return;
        }
        self.unlist(index);
        if let Some(bucket) = wanted {
            let position = self.buckets[bucket].len();
            self.buckets[bucket].push(index);
            self.top = self.top.max(bucket);
            self.listed += 1;
            if let Some(executor) = self.get_mut(index) {
                executor.listed = Some((bucket, position));
            }
        }
    }

    fn unlist(&mut self, index: ExecutorIndex) {
        let Some((bucket, position)) = self
            .get_mut(index)
            .and_then(|executor| executor.listed.take())
        else {
            return;
        };
        self.buckets[bucket].swap_remove(position);
        if let Some(moved) = self.buckets[bucket].get(position).copied()
            && let Some(executor) = self.get_mut(moved)
        {
            executor.listed = Some((bucket, position));
        }
        self.listed -= 1;
        while self.top > 0 && self.buckets[self.top].is_empty() {
            self.top -= 1;
        }
    }
}
