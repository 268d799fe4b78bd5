//! What a table of a task holds of its executor's memory budget.

use millstream_common::failure::Failure;

use crate::task::Task;

/// Memory is taken in steps of this many bytes. A table that is smaller isn't counted.
const STEP: u64 = 1 << 20;

/// Memory taken for one table; given back when dropped.
pub struct Held<'t, 'a> {
    task: &'t Task<'a>,
    bytes: u64,
}

impl<'t, 'a> Held<'t, 'a> {
    /// Nothing yet.
    pub fn new(task: &'t Task<'a>) -> Self {
        Self { task, bytes: 0 }
    }

    /// Up to which weight a table needs no more than is taken.
    pub fn room(&self) -> u64 {
        self.bytes.max(STEP)
    }

    /// Takes what a table of this weight needs. May wait for other tasks.
    ///
    /// # Errors
    /// See [`TaskServices::take_memory`](crate::program::TaskServices::take_memory).
    pub fn grow_to(&mut self, weight: u64) -> Result<(), Failure> {
        let wanted = weight.div_ceil(STEP).saturating_mul(STEP);
        let Some(more) = wanted.checked_sub(self.bytes) else {
            return Ok(());
        };
        let task = self.task;
        task.services()
            .take_memory(task.id(), more, task.cancel())?;
        self.bytes = wanted;
        Ok(())
    }
}

impl Drop for Held<'_, '_> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.task
                .services()
                .give_back_memory(self.task.id(), self.bytes);
        }
    }
}
