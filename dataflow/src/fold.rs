//! Operators that need all rows of a task before they give one: count, reduce, glom.

use std::{marker::PhantomData, sync::Arc};

use millstream_common::failure::Failure;

use crate::{
    rows::{BoxRows, Opener, Rows, for_each_chunk, opener},
    task::{OperatorIndex, Task},
};

/// Folds the chunks of a task into an accumulator that starts as `A::default()`; `finish` makes the one row, or none, of it.
pub fn fold_chunks<T, A, U, Step, Finish>(
    upstream: Opener<T>,
    operator: OperatorIndex,
    step: Arc<Step>,
    finish: Arc<Finish>,
) -> Opener<U>
where
    T: 'static,
    A: Default + 'static,
    U: 'static,
    Step: Fn(&mut A, &mut Vec<T>) + Send + Sync + 'static,
    Finish: Fn(A) -> Option<U> + Send + Sync + 'static,
{
    opener(move |task| {
        Ok(Box::new(Fold {
            upstream: upstream(task)?,
            task,
            operator,
            step: step.clone(),
            finish: finish.clone(),
            accumulator: PhantomData,
        }))
    })
}

struct Fold<'t, 'a, T, A, Step, Finish> {
    upstream: BoxRows<'t, T>,
    task: &'t Task<'a>,
    operator: OperatorIndex,
    step: Arc<Step>,
    finish: Arc<Finish>,
    accumulator: PhantomData<A>,
}

impl<T, A, U, Step, Finish> Rows<U> for Fold<'_, '_, T, A, Step, Finish>
where
    A: Default,
    Step: Fn(&mut A, &mut Vec<T>),
    Finish: Fn(A) -> Option<U>,
{
    fn next(&mut self, chunk: &mut Vec<U>) -> Result<bool, Failure> {
        let mut accumulator = A::default();
        for_each_chunk(&mut *self.upstream, self.task, |rows| {
            self.operator.enter();
            (self.step)(&mut accumulator, rows);
            Ok(())
        })?;
        self.operator.enter();
        chunk.extend((self.finish)(accumulator));
        Ok(false)
    }
}

/// The number of rows of a task, as one row.
pub fn count<T: 'static>(upstream: Opener<T>, operator: OperatorIndex) -> Opener<u64> {
    let step = |count: &mut u64, rows: &mut Vec<T>| *count += rows.len() as u64;
    fold_chunks(upstream, operator, Arc::new(step), Arc::new(Some))
}

/// The sum of the rows of a task, as one row; 0 without rows.
pub fn sum(upstream: Opener<u64>, operator: OperatorIndex) -> Opener<u64> {
    let step = |sum: &mut u64, rows: &mut Vec<u64>| {
        for row in rows.drain(..) {
            *sum = sum.saturating_add(row);
        }
    };
    fold_chunks(upstream, operator, Arc::new(step), Arc::new(Some))
}

/// The rows of a task merged into one by `f`, from the first to the last; none without rows.
pub fn reduce<T, F>(upstream: Opener<T>, operator: OperatorIndex, f: Arc<F>) -> Opener<T>
where
    T: 'static,
    F: Fn(T, T) -> T + Send + Sync + 'static,
{
    let step = move |reduced: &mut Option<T>, rows: &mut Vec<T>| {
        let so_far = reduced.take();
        *reduced = so_far.into_iter().chain(rows.drain(..)).reduce(&*f);
    };
    fold_chunks(
        upstream,
        operator,
        Arc::new(step),
        Arc::new(|reduced| reduced),
    )
}

/// All rows of a task as one row.
pub fn glom<T: 'static>(upstream: Opener<T>, operator: OperatorIndex) -> Opener<Vec<T>> {
    let step = |all: &mut Vec<T>, rows: &mut Vec<T>| all.append(rows);
    fold_chunks(upstream, operator, Arc::new(step), Arc::new(Some))
}
