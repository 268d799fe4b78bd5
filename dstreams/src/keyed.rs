//! Operators on streams of pairs: a key and a value.

use std::sync::Arc;

use millstream_dataflow::{
    combine::{Data, Key},
    exchange::{CombineFunctions, HashCombined, HashRows, group, merge_combined},
    narrow,
    plan::Exchange,
    rows::Opener,
    task::OperatorIndex,
};

use crate::{
    graph::{Build, Erased, Keeping, Node, ProgramFn, Shape, erase},
    stream::DStream,
};

impl<K: Data, V: Data> DStream<(K, V)> {
    /// Each value through `f`.
    pub fn map_values<U, F>(&self, f: F) -> DStream<(K, U)>
    where
        U: Data,
        F: Fn(V) -> U + Send + Sync + 'static,
    {
        let f = Arc::new(move |(key, value): (K, V)| (key, f(value)));
        self.narrow("map_values", true, move |upstream, operator| {
            narrow::map(upstream, operator, f.clone())
        })
    }

    /// All that `f` gives for each value, with the value's key.
    pub fn flat_map_values<I, F>(&self, f: F) -> DStream<(K, I::Item)>
    where
        K: Clone,
        I: IntoIterator + 'static,
        I::Item: Data,
        F: Fn(V) -> I + Send + Sync + 'static,
    {
        let f = Arc::new(move |(key, value): (K, V)| {
            f(value).into_iter().map(move |made| (key.clone(), made))
        });
        self.narrow("flat_map_values", true, move |upstream, operator| {
            narrow::flat_map(upstream, operator, f.clone())
        })
    }

    /// The keys.
    pub fn keys(&self) -> DStream<K> {
        let key = Arc::new(|(key, _): (K, V)| key);
        self.narrow("keys", true, move |upstream, operator| {
            narrow::map(upstream, operator, key.clone())
        })
    }

    /// The values.
    pub fn values(&self) -> DStream<V> {
        let value = Arc::new(|(_, value): (K, V)| value);
        self.narrow("values", true, move |upstream, operator| {
            narrow::map(upstream, operator, value.clone())
        })
    }
}

impl<K: Key, V: Data> DStream<(K, V)> {
    /// The values of each key in a batch merged into one by `f`, which must be associative. Values are merged before they travel.
    pub fn reduce_by_key<F>(&self, f: F) -> DStream<(K, V)>
    where
        F: Fn(V, V) -> V + Send + Sync + 'static,
    {
        self.reduce_by_key_with(self.parallelism, f)
    }

    /// As [`reduce_by_key`](Self::reduce_by_key), in so many partitions.
    pub fn reduce_by_key_with<F>(&self, partitions: u32, f: F) -> DStream<(K, V)>
    where
        F: Fn(V, V) -> V + Send + Sync + 'static,
    {
        let f = Arc::new(f);
        let merge = f.clone();
        self.combine(
            "reduce_by_key",
            partitions,
            |value| value,
            move |a, b| merge(a, b),
            move |a, b| f(a, b),
        )
    }

    /// The values of each key in a batch combined: `create` begins with a value, `merge_value` adds one, and `merge_combined` merges what was
    /// combined at different places, the earlier first.
    pub fn combine_by_key<C, Create, MergeValue, MergeCombined>(
        &self,
        create: Create,
        merge_value: MergeValue,
        merge_combined: MergeCombined,
    ) -> DStream<(K, C)>
    where
        C: Data,
        Create: Fn(V) -> C + Send + Sync + 'static,
        MergeValue: Fn(C, V) -> C + Send + Sync + 'static,
        MergeCombined: Fn(C, C) -> C + Send + Sync + 'static,
    {
        self.combine_by_key_with(self.parallelism, create, merge_value, merge_combined)
    }

    /// As [`combine_by_key`](Self::combine_by_key), in so many partitions.
    pub fn combine_by_key_with<C, Create, MergeValue, MergeCombined>(
        &self,
        partitions: u32,
        create: Create,
        merge_value: MergeValue,
        merge_combined: MergeCombined,
    ) -> DStream<(K, C)>
    where
        C: Data,
        Create: Fn(V) -> C + Send + Sync + 'static,
        MergeValue: Fn(C, V) -> C + Send + Sync + 'static,
        MergeCombined: Fn(C, C) -> C + Send + Sync + 'static,
    {
        self.combine(
            "combine_by_key",
            partitions,
            create,
            merge_value,
            merge_combined,
        )
    }

    fn combine<C, Create, MergeValue, MergeCombined>(
        &self,
        kind: &str,
        partitions: u32,
        create: Create,
        merge_value: MergeValue,
        merge: MergeCombined,
    ) -> DStream<(K, C)>
    where
        C: Data,
        Create: Fn(V) -> C + Send + Sync + 'static,
        MergeValue: Fn(C, V) -> C + Send + Sync + 'static,
        MergeCombined: Fn(C, C) -> C + Send + Sync + 'static,
    {
        let count = self.graph.lock().partitions(kind, partitions);
        let merge = Arc::new(merge);
        let merge_at_map = merge.clone();
        let functions = Arc::new(CombineFunctions {
            create,
            merge_value,
            merge_combined: move |a: C, b: C| merge_at_map(a, b),
        });
        self.shuffle(
            kind,
            count.get(),
            Box::new(move |with, upstream| {
                let upstream = with.typed::<(K, V)>(upstream)?;
                let exit = HashCombined::new(count, with.node.operator(), functions.clone());
                Ok(with.program(upstream, exit))
            }),
            move |operator| merge_combined::<K, C, _>(0, operator, merge.clone()),
        )
    }

    /// Each key with its values in the batch. A key's values must fit into memory together; all keys need not.
    pub fn group_by_key(&self) -> DStream<(K, Vec<V>)> {
        self.group_by_key_with(self.parallelism)
    }

    /// As [`group_by_key`](Self::group_by_key), in so many partitions.
    pub fn group_by_key_with(&self, partitions: u32) -> DStream<(K, Vec<V>)> {
        let kind = "group_by_key";
        let count = self.graph.lock().partitions(kind, partitions);
        self.shuffle(
            kind,
            count.get(),
            Box::new(move |with, upstream| {
                let exit = HashRows {
                    partitions: count,
                    operator: with.node.operator(),
                };
                Ok(with.program(with.typed::<(K, V)>(upstream)?, exit))
            }),
            |operator| group::<K, V>(0, operator),
        )
    }

    fn shuffle<U: Data>(
        &self,
        kind: &str,
        partitions: u32,
        write: ProgramFn,
        read: impl Fn(OperatorIndex) -> Opener<U> + Send + Sync + 'static,
    ) -> DStream<U> {
        let read = move |with: &Build| -> Erased { erase(read(with.node.operator())) };
        self.add(Node {
            kind: kind.to_owned(),
            name: None,
            inputs: vec![self.node],
            shape: Shape::Shuffle {
                exchange: Exchange::Hash(partitions),
                writes: vec![write],
                read: Box::new(read),
                empty_to_empty: true,
            },
            keeping: Some(Keeping::of::<U>()),
        })
    }
}
