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
            input: Vec::with_capacity(CHUNK_ROWS),
        }))
    })
}

struct Map<'t, A, F> {
    upstream: BoxRows<'t, A>,
    operator: OperatorIndex,
    f: Arc<F>,
    input: Vec<A>,
}

impl<A, B, F: Fn(A) -> B> Rows<B> for Map<'_, A, F> {
    fn next(&mut self, chunk: &mut Vec<B>) -> Result<bool, Failure> {
        self.input.clear();
        let more = self.upstream.next(&mut self.input)?;
        self.operator.enter();
        let f = &*self.f;
        chunk.extend(self.input.drain(..).map(f));
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

impl<A, I: IntoIterator, F: Fn(A) -> I> FlatMap<'_, A, I, F> {
    /// Moves rows of `made` into the chunk; false if the chunk is full before the end.
    #[inline]
    fn fill(made: &mut I::IntoIter, chunk: &mut Vec<I::Item>) -> bool {
        for row in made {
            chunk.push(row);
            if chunk.len() >= CHUNK_ROWS {
                return false;
            }
        }
        true
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
        if let Some(made) = &mut self.unfinished {
            if !Self::fill(made, chunk) {
                return Ok(true);
            }
            self.unfinished = None;
        }
        let f = &*self.f;
        for row in self.input.by_ref() {
            let mut made = f(row).into_iter();
            if !Self::fill(&mut made, chunk) {
                self.unfinished = Some(made);
                return Ok(true);
            }
        }
        Ok(self.more)
    }
}
