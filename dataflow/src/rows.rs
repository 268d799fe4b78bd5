//! What operators are made of: pipelines that are pulled chunk by chunk.

use std::sync::Arc;

use millstream_common::failure::Failure;

use crate::task::Task;

/// About how many rows a chunk has.
pub const CHUNK_ROWS: usize = 512;

/// Rows that come chunk by chunk.
pub trait Rows<T> {
    /// Appends the next rows, about [`CHUNK_ROWS`], to the empty `chunk`. Says whether to call again; rows may come with the last call, and none with
    /// any call.
    ///
    /// # Errors
    /// Ends the task.
    fn next(&mut self, chunk: &mut Vec<T>) -> Result<bool, Failure>;
}

/// A task's pipeline up to some operator.
pub type BoxRows<'t, T> = Box<dyn Rows<T> + 't>;

/// Opens the pipeline up to some operator for a task.
pub type Opener<T> = Arc<
    dyn for<'t, 'a> Fn(&'t Task<'a>) -> Result<BoxRows<'t, T>, Failure> + Send + Sync + 'static,
>;

/// An opener of this function.
pub fn opener<T, F>(open: F) -> Opener<T>
where
    F: for<'t, 'a> Fn(&'t Task<'a>) -> Result<BoxRows<'t, T>, Failure> + Send + Sync + 'static,
{
    Arc::new(open)
}

/// Calls `each` with every chunk of `rows` that has rows, to the end, unless the task should stop.
///
/// # Errors
/// Of the rows, of `each`, and `Cancelled`.
pub fn for_each_chunk<T>(
    rows: &mut dyn Rows<T>,
    task: &Task<'_>,
    mut each: impl FnMut(&mut Vec<T>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut chunk = Vec::with_capacity(CHUNK_ROWS);
    loop {
        task.check()?;
        chunk.clear();
        let more = rows.next(&mut chunk)?;
        if !chunk.is_empty() {
            each(&mut chunk)?;
        }
        if !more {
            return Ok(());
        }
    }
}

/// Branches of a stage: the task's branch decides which of them is opened. `ends` has, for each opener, the first branch after those it covers.
pub fn branches<T: 'static>(covered: Vec<(u32, Opener<T>)>) -> Opener<T> {
    opener(move |task| {
        let branch = task.branch();
        let found = covered.iter().find(|(end, _)| branch < *end);
        match found {
            Some((_, open)) => open(task),
            None => Err(Failure::new(
                millstream_common::failure::FailureKind::Internal,
                format!("the task belongs to branch {branch}, which its stage doesn't have"),
            )),
        }
    })
}

/// Rows out of a vector.
pub struct VecRows<T>(std::vec::IntoIter<T>);

impl<T> VecRows<T> {
    /// These rows.
    pub fn new(rows: Vec<T>) -> Self {
        Self(rows.into_iter())
    }
}

impl<T> Rows<T> for VecRows<T> {
    fn next(&mut self, chunk: &mut Vec<T>) -> Result<bool, Failure> {
        chunk.extend(self.0.by_ref().take(CHUNK_ROWS));
        Ok(self.0.len() > 0)
    }
}
