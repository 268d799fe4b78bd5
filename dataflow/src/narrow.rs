//! Operators that work row by row: map, filter, flat_map.

use std::{marker::PhantomData, sync::Arc};

use millstream_common::failure::Failure;

use crate::{
    rows::{BoxRows, CHUNK_ROWS, Opener, Rows, opener},
    task::OperatorIndex,
};

/// Each row through `f`.
pub fn map<A, B, F>(upstream: Opener<A>, operator: OperatorIndex, f: Arc<F>) -> Opener<B>
where
    A: 'static,
    B: 'static,
    F: Fn(A) -> B + Send + Sync + 'static,
{
    opener(move |task| {
        Ok(Box::new(Map {
            upstream: upstream(task)?,
            operator,
            f: f.clone(),
            taken: PhantomData,
        }))
    })
}

struct Map<'t, A, F> {
    upstream: BoxRows<'t, A>,
    operator: OperatorIndex,
    f: Arc<F>,
    taken: PhantomData<fn(A)>,
}

impl<A, B, F: Fn(A) -> B> Rows<B> for Map<'_, A, F> {
    fn next(&mut self, chunk: &mut Vec<B>) -> Result<bool, Failure> {
        let mut input = Vec::with_capacity(CHUNK_ROWS);
        let more = self.upstream.next(&mut input)?;
        self.operator.enter();
        let f = &*self.f;
        // Consumed rather than drained: `IntoIter` goes through its rows without making an `Option` of each. Around a `Text` an option costs a stall, as
        // the processor can't forward the stores of its parts to the load of the whole.
        chunk.extend(input.into_iter().map(f));
        Ok(more)
    }
}

/// The rows for which `keep` holds.
pub fn filter<T, F>(upstream: Opener<T>, operator: OperatorIndex, keep: Arc<F>) -> Opener<T>
where
    T: 'static,
    F: Fn(&T) -> bool + Send + Sync + 'static,
{
    opener(move |task| {
        Ok(Box::new(Filter {
            upstream: upstream(task)?,
            operator,
            keep: keep.clone(),
        }))
    })
}

struct Filter<'t, T, F> {
    upstream: BoxRows<'t, T>,
    operator: OperatorIndex,
    keep: Arc<F>,
}

impl<T, F: Fn(&T) -> bool> Rows<T> for Filter<'_, T, F> {
    fn next(&mut self, chunk: &mut Vec<T>) -> Result<bool, Failure> {
        let more = self.upstream.next(chunk)?;
        self.operator.enter();
        let keep = &*self.keep;
        chunk.retain(|row| keep(row));
        Ok(more)
    }
}

/// All that `f` gives for each row.
pub fn flat_map<A, I, F>(upstream: Opener<A>, operator: OperatorIndex, f: Arc<F>) -> Opener<I::Item>
where
    A: 'static,
    I: IntoIterator + 'static,
    I::Item: 'static,
    F: Fn(A) -> I + Send + Sync + 'static,
{
    opener(move |task| {
        Ok(Box::new(FlatMap {
            upstream: upstream(task)?,
            operator,
            f: f.clone(),
            input: Vec::new().into_iter(),
            unfinished: None,
            more: true,
            made: PhantomData,
        }))
    })
}

struct FlatMap<'t, A, I: IntoIterator, F> {
    upstream: BoxRows<'t, A>,
    operator: OperatorIndex,
    f: Arc<F>,
    input: std::vec::IntoIter<A>,
    /// What the last row gave, where the chunk was full before its end.
    unfinished: Option<I::IntoIter>,
    more: bool,
    made: PhantomData<fn() -> I>,
}

/// As many rows go into a chunk that may be full without looking whether it is.
const FEW_ROWS: usize = 4 * CHUNK_ROWS;

impl<A, I: IntoIterator, F: Fn(A) -> I> FlatMap<'_, A, I, F> {
    /// Moves rows of `made` into the chunk; gives it back if the chunk is full before the end.
    #[inline]
    fn fill(mut made: I::IntoIter, chunk: &mut Vec<I::Item>) -> Option<I::IntoIter> {
        if made.size_hint().1.is_some_and(|most| most <= FEW_ROWS) {
            // Without an `Option` around each row, as in `Map`.
            made.for_each(|row| chunk.push(row));
            return None;
        }
        while chunk.len() < CHUNK_ROWS {
            chunk.push(made.next()?);
        }
        Some(made)
    }
}

impl<A, I: IntoIterator, F: Fn(A) -> I> Rows<I::Item> for FlatMap<'_, A, I, F> {
    fn next(&mut self, chunk: &mut Vec<I::Item>) -> Result<bool, Failure> {
        if self.input.len() == 0 && self.unfinished.is_none() && self.more {
            let mut input = Vec::with_capacity(CHUNK_ROWS);
            self.more = self.upstream.next(&mut input)?;
            self.input = input.into_iter();
        }
        self.operator.enter();
        if let Some(made) = self.unfinished.take() {
            self.unfinished = Self::fill(made, chunk);
        }
        let f = &*self.f;
        while self.unfinished.is_none() && chunk.len() < CHUNK_ROWS {
            let Some(row) = self.input.next() else {
                return Ok(self.more);
            };
            self.unfinished = Self::fill(f(row).into_iter(), chunk);
        }
        Ok(true)
    }
}
