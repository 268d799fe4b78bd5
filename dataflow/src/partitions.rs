//! Operators over all rows of a task as an iterator: map_partitions, glom. Rows are pulled as the user's function asks for them, so a partition
//! need not fit into memory.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use millstream_common::failure::Failure;

use crate::{
    program::CancelToken,
    rows::{BoxRows, CHUNK_ROWS, Opener, Rows, opener},
    task::{OperatorIndex, Task},
};

/// The rows of a task, one by one. It ends early when reading fails; the failure then ends the task, whatever the user's function makes of it.
pub struct Partition<'t, T> {
    upstream: BoxRows<'t, T>,
    operator: OperatorIndex,
    cancel: CancelToken,
    chunk: std::vec::IntoIter<T>,
    more: bool,
    failure: FailureSlot,
}

/// Where an iterator leaves the failure that it can't return.
type FailureSlot = Rc<RefCell<Option<Failure>>>;

impl<'t, T> Partition<'t, T> {
    fn new(
        upstream: BoxRows<'t, T>,
        operator: OperatorIndex,
        task: &Task<'_>,
        failure: FailureSlot,
    ) -> Self {
        Self {
            upstream,
            operator,
            cancel: task.cancel().clone(),
            chunk: Vec::new().into_iter(),
            more: true,
            failure,
        }
    }

    fn pull(&mut self) {
        let mut chunk = Vec::with_capacity(CHUNK_ROWS);
        let pulled = match self.cancel.check() {
            Ok(()) => self.upstream.next(&mut chunk),
            Err(cancelled) => Err(cancelled),
        };
        self.operator.enter();
        match pulled {
            Ok(more) => {
                self.more = more;
                self.chunk = chunk.into_iter();
            }
            Err(failure) => {
                self.more = false;
                *self.failure.borrow_mut() = Some(failure);
            }
        }
    }
}

impl<T> Iterator for Partition<'_, T> {
    type Item = T;

    #[inline]
    fn next(&mut self) -> Option<T> {
        loop {
            if let Some(row) = self.chunk.next() {
                return Some(row);
            }
            if !self.more {
                return None;
            }
            self.pull();
        }
    }
}

/// What a function over partitions returns.
pub type BoxIterator<'p, U> = Box<dyn Iterator<Item = U> + 'p>;

/// All rows of a task through `f`, which is called once a task, also for one without rows.
pub fn map_partitions<T, U, F>(upstream: Opener<T>, operator: OperatorIndex, f: Arc<F>) -> Opener<U>
where
    T: 'static,
    U: 'static,
    F: for<'p> Fn(Partition<'p, T>) -> BoxIterator<'p, U> + Send + Sync + 'static,
{
    opener(move |task| {
        let failure = FailureSlot::default();
        let partition = Partition::new(upstream(task)?, operator, task, failure.clone());
        operator.enter();
        Ok(Box::new(MapPartitions {
            made: f(partition),
            operator,
            failure,
        }))
    })
}

struct MapPartitions<'t, U> {
    made: BoxIterator<'t, U>,
    operator: OperatorIndex,
    failure: FailureSlot,
}

impl<U> Rows<U> for MapPartitions<'_, U> {
    fn next(&mut self, chunk: &mut Vec<U>) -> Result<bool, Failure> {
        self.operator.enter();
        chunk.extend(self.made.by_ref().take(CHUNK_ROWS));
        if let Some(failure) = self.failure.borrow_mut().take() {
            return Err(failure);
        }
        Ok(chunk.len() == CHUNK_ROWS)
    }
}

/// Calls `f` with all rows of a task; what it leaves unread is read to the end, so that reading is complete and its failures are seen.
///
/// # Errors
/// Of reading.
pub fn consume<T, R>(
    rows: BoxRows<'_, T>,
    operator: OperatorIndex,
    task: &Task<'_>,
    f: impl FnOnce(&mut dyn Iterator<Item = T>) -> R,
) -> Result<R, Failure> {
    let failure = FailureSlot::default();
    let mut partition = Partition::new(rows, operator, task, failure.clone());
    operator.enter();
    let made = f(&mut partition);
    partition.by_ref().for_each(drop);
    match failure.borrow_mut().take() {
        Some(failure) => Err(failure),
        None => Ok(made),
    }
}
