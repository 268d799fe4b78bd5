//! Streams and their operators. An operator's function runs on executors, for every batch; the graph only remembers it.

use std::{hash::Hash, marker::PhantomData, sync::Arc};

use millstream_dataflow::{
    combine::Data,
    exchange::{CombineFunctions, Gather, HashCombined, RoundRobin, merge_combined},
    fold, narrow,
    partitions::{BoxIterator, Partition, map_partitions},
    plan::Exchange,
    read::{self, Texts},
    rows::{Opener, branches},
    task::OperatorIndex,
};
use parking_lot::Mutex;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    batch::{Batch, Plan},
    error::Error,
    graph::{Build, Graph, Keeping, Node, NodeId, Shape, erase},
};

/// A stream: for every batch, rows of type `T` in partitions. Cheap to clone; clones are the same stream.
pub struct DStream<T> {
    pub(crate) graph: Arc<Mutex<Graph>>,
    pub(crate) node: NodeId,
    pub(crate) parallelism: u32,
    row: PhantomData<fn() -> T>,
}

impl<T> Clone for DStream<T> {
    fn clone(&self) -> Self {
        Self::new(self.graph.clone(), self.node, self.parallelism)
    }
}

impl<T> DStream<T> {
    pub(crate) fn new(graph: Arc<Mutex<Graph>>, node: NodeId, parallelism: u32) -> Self {
        Self {
            graph,
            node,
            parallelism,
            row: PhantomData,
        }
    }

    /// Gives the operator that makes this stream, or the source that it is, a stable id of the user's choice; else that is its kind and its ordinal
    /// among the operators of this kind, such as `map-0`.
    pub fn named(self, name: &str) -> Self {
        if let Some(node) = self.graph.lock().nodes.get_mut(self.node.0) {
            node.name = Some(name.to_owned());
        }
        self
    }
}

impl<T: Data> DStream<T> {
    /// An operator on this stream alone that keeps rows in their task.
    pub(crate) fn narrow<U: Data>(
        &self,
        kind: &str,
        empty_to_empty: bool,
        build: impl Fn(Opener<T>, OperatorIndex) -> Opener<U> + Send + Sync + 'static,
    ) -> DStream<U> {
        let node = Node {
            kind: kind.to_owned(),
            name: None,
            inputs: vec![self.node],
            shape: Shape::Narrow {
                build: Box::new(move |with: &Build, upstream| {
                    let upstream = with.typed::<T>(upstream)?;
                    Ok(erase(build(upstream, with.node.operator())))
                }),
                empty_to_empty,
            },
            keeping: Some(Keeping::of::<U>()),
        };
        self.add(node)
    }

    pub(crate) fn add<U>(&self, node: Node) -> DStream<U> {
        let id = self.graph.lock().add(node);
        DStream::new(self.graph.clone(), id, self.parallelism)
    }

    /// Each row through `f`.
    pub fn map<U, F>(&self, f: F) -> DStream<U>
    where
        U: Data,
        F: Fn(T) -> U + Send + Sync + 'static,
    {
        let f = Arc::new(f);
        self.narrow("map", true, move |upstream, operator| {
            narrow::map(upstream, operator, f.clone())
        })
    }

    /// All that `f` gives for each row, one after the other.
    pub fn flat_map<I, F>(&self, f: F) -> DStream<I::Item>
    where
        I: IntoIterator + 'static,
        I::Item: Data,
        F: Fn(T) -> I + Send + Sync + 'static,
    {
        let f = Arc::new(f);
        self.narrow("flat_map", true, move |upstream, operator| {
            narrow::flat_map(upstream, operator, f.clone())
        })
    }

    /// The rows for which `keep` holds.
    pub fn filter<F>(&self, keep: F) -> DStream<T>
    where
        F: Fn(&T) -> bool + Send + Sync + 'static,
    {
        let keep = Arc::new(keep);
        self.narrow("filter", true, move |upstream, operator| {
            narrow::filter(upstream, operator, keep.clone())
        })
    }

    /// All rows of a partition through `f`, which is called once for each partition, also for one without rows. Rows are read as `f`'s iterator asks
    /// for them.
    ///
    /// ```ignore
    /// numbers.map_partitions(|rows| Box::new(rows.scan(0, |sum, n| { *sum += n; Some(*sum) })))
    /// ```
    pub fn map_partitions<U, F>(&self, f: F) -> DStream<U>
    where
        U: Data,
        F: for<'p> Fn(Partition<'p, T>) -> BoxIterator<'p, U> + Send + Sync + 'static,
    {
        let f = Arc::new(f);
        self.narrow("map_partitions", false, move |upstream, operator| {
            map_partitions(upstream, operator, f.clone())
        })
    }

    /// The rows of each partition as one row.
    pub fn glom(&self) -> DStream<Vec<T>> {
        self.narrow("glom", false, fold::glom)
    }

    /// Each row with the key that `f` gives for it.
    pub fn key_by<K, F>(&self, f: F) -> DStream<(K, T)>
    where
        K: Data,
        F: Fn(&T) -> K + Send + Sync + 'static,
    {
        let keyed = Arc::new(move |row: T| (f(&row), row));
        self.narrow("key_by", true, move |upstream, operator| {
            narrow::map(upstream, operator, keyed.clone())
        })
    }

    /// The rows of this stream and of the other: its partitions after this one's.
    pub fn union(&self, other: &DStream<T>) -> DStream<T> {
        self.union_all(std::slice::from_ref(other))
    }

    pub(crate) fn union_all(&self, others: &[DStream<T>]) -> DStream<T> {
        let mut inputs = vec![self.node];
        for other in others {
            if Arc::ptr_eq(&self.graph, &other.graph) {
                inputs.push(other.node);
            } else {
                self.graph.lock().problems.push(Error::OtherContext {
                    operator: "union".to_owned(),
                });
            }
        }
        self.add(Node {
            kind: "union".to_owned(),
            name: None,
            inputs,
            shape: Shape::Union {
                build: Box::new(|with, covered| {
                    let mut typed = Vec::with_capacity(covered.len());
                    for (end, upstream) in covered {
                        typed.push((end, with.typed::<T>(upstream)?));
                    }
                    Ok(erase(branches(typed)))
                }),
            },
            keeping: Some(Keeping::of::<T>()),
        })
    }

    /// The rows spread over `partitions` partitions, by turns.
    pub fn repartition(&self, partitions: u32) -> DStream<T> {
        let kind = "repartition";
        let count = self.graph.lock().partitions(kind, partitions);
        self.add(Node {
            kind: kind.to_owned(),
            name: None,
            inputs: vec![self.node],
            shape: Shape::Shuffle {
                exchange: Exchange::RoundRobin(count.get()),
                writes: vec![Box::new(move |with, upstream| {
                    Ok(with.program(with.typed::<T>(upstream)?, RoundRobin(count)))
                })],
                read: Box::new(|_| erase(read::read::<T>(0, Texts::Shared))),
                empty_to_empty: true,
            },
            keeping: Some(Keeping::of::<T>()),
        })
    }

    /// An operator that makes one row, or none, of all rows: of each task's, then of theirs in one partition.
    fn gather<P, U>(
        &self,
        kind: &str,
        empty_to_empty: bool,
        partial: impl Fn(Opener<T>, OperatorIndex) -> Opener<P> + Send + Sync + 'static,
        finish: impl Fn(Opener<P>, OperatorIndex) -> Opener<U> + Send + Sync + 'static,
    ) -> DStream<U>
    where
        P: Data,
        U: Data,
    {
        self.add(Node {
            kind: kind.to_owned(),
            name: None,
            inputs: vec![self.node],
            shape: Shape::Shuffle {
                exchange: Exchange::Gather,
                writes: vec![Box::new(move |with, upstream| {
                    let upstream = with.typed::<T>(upstream)?;
                    Ok(with.program(partial(upstream, with.node.operator()), Gather))
                })],
                read: Box::new(move |with| {
                    let partials = read::read::<P>(0, Texts::Owned);
                    erase(finish(partials, with.node.operator()))
                }),
                empty_to_empty,
            },
            keeping: Some(Keeping::of::<U>()),
        })
    }

    /// The number of rows of each batch, as one row; 0 for a batch without rows.
    pub fn count(&self) -> DStream<u64> {
        self.gather("count", false, fold::count, fold::sum)
    }

    /// All rows of each batch merged into one by `f`, which must be associative; none for a batch without rows.
    pub fn reduce<F>(&self, f: F) -> DStream<T>
    where
        F: Fn(T, T) -> T + Send + Sync + 'static,
    {
        let partial = Arc::new(f);
        let finish = partial.clone();
        self.gather(
            "reduce",
            true,
            move |upstream, operator| fold::reduce(upstream, operator, partial.clone()),
            move |upstream, operator| fold::reduce(upstream, operator, finish.clone()),
        )
    }

    /// Each distinct row with how often it comes in its batch.
    pub fn count_by_value(&self) -> DStream<(T, u64)>
    where
        T: Hash + Eq,
        (T, u64): Serialize + DeserializeOwned,
    {
        self.count_by_value_with(self.parallelism)
    }

    /// As [`count_by_value`](Self::count_by_value), in so many partitions.
    pub fn count_by_value_with(&self, partitions: u32) -> DStream<(T, u64)>
    where
        T: Hash + Eq,
    {
        let kind = "count_by_value";
        let count = self.graph.lock().partitions(kind, partitions);
        let add = |a: u64, b: u64| a.saturating_add(b);
        let functions = Arc::new(CombineFunctions {
            create: |count: u64| count,
            merge_value: add,
            merge_combined: add,
        });
        let add = Arc::new(add);
        self.add(Node {
            kind: kind.to_owned(),
            name: None,
            inputs: vec![self.node],
            shape: Shape::Shuffle {
                exchange: Exchange::Hash(count.get()),
                writes: vec![Box::new(move |with, upstream| {
                    let operator = with.node.operator();
                    let upstream = with.typed::<T>(upstream)?;
                    let counted = narrow::map(upstream, operator, Arc::new(|row: T| (row, 1u64)));
                    let exit = HashCombined::new(count, operator, functions.clone());
                    Ok(with.program(counted, exit))
                })],
                read: Box::new(move |with| {
                    erase(merge_combined::<T, u64, _>(
                        0,
                        with.node.operator(),
                        add.clone(),
                    ))
                }),
                empty_to_empty: true,
            },
            keeping: Some(Keeping::of::<(T, u64)>()),
        })
    }

    /// Each key that `f` gives with the rows that it was given for.
    pub fn group_by<K, F>(&self, f: F) -> DStream<(K, Vec<T>)>
    where
        K: Data + Hash + Eq,
        F: Fn(&T) -> K + Send + Sync + 'static,
    {
        self.key_by(f).group_by_key()
    }

    /// What `f` makes of the plan of a batch. It is called once, while the graph is built, not once a batch.
    pub fn transform<P: Plan>(&self, f: impl FnOnce(Batch<T>) -> P) -> DStream<P::Row> {
        f(Batch::of(self.clone())).into_stream()
    }

    /// Accepted as in Spark. Work is shared between all users of a stream anyway: its rows are kept as blocks where they were made until the batch
    /// is committed.
    pub fn persist(&self) -> DStream<T> {
        self.clone()
    }

    /// As [`persist`](Self::persist).
    pub fn cache(&self) -> DStream<T> {
        self.persist()
    }
}
