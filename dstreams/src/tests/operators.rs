//! Every operator against a naive model, over random rows, splits, chunks, partition counts and spill thresholds.

use std::collections::{BTreeMap, BTreeSet};

use millstream_common::text::Text;
use proptest::prelude::*;

use crate::{
    DStream, Data,
    testing::{BlockChecksum, Runner, collected, context, given_in_chunks},
};

type Row = (Text, i64);

#[derive(Clone, Debug)]
struct Case {
    splits: Vec<Vec<Row>>,
    chunk_rows: usize,
    parallelism: u32,
    threshold: u64,
}

/// Keys that lie inline in a `Text` and keys that don't.
fn key() -> impl Strategy<Value = Text> {
    (0u32..12).prop_map(|number| {
        let padding = if number % 3 == 0 { 30 } else { 0 };
        Text::from(format!("{number}{}", "x".repeat(padding)))
    })
}

fn case() -> impl Strategy<Value = Case> {
    let split = proptest::collection::vec((key(), -100i64..100), 0..40);
    let splits = proptest::collection::vec(split, 0..4);
    let threshold = prop_oneof![Just(1u64), Just(500), Just(u64::MAX)];
    (splits, 1usize..50, 1u32..5, threshold).prop_map(
        |(splits, chunk_rows, parallelism, threshold)| Case {
            splits,
            chunk_rows,
            parallelism,
            threshold,
        },
    )
}

impl Case {
    /// The rows that an operator makes of the case, in the order of partitions.
    fn run<U: Data>(&self, operator: impl FnOnce(&DStream<Row>) -> DStream<U>) -> Vec<U> {
        self.run_with_checksums(operator).0
    }

    fn run_with_checksums<U: Data>(
        &self,
        operator: impl FnOnce(&DStream<Row>) -> DStream<U>,
    ) -> (Vec<U>, Vec<BlockChecksum>) {
        let ssc = context(self.parallelism);
        let stream = given_in_chunks(&ssc, vec![self.splits.clone()], self.chunk_rows);
        let rows = collected(&operator(&stream));
        let mut runner = Runner::spilling_at(&ssc, self.threshold).unwrap();
        runner.run(0, &[self.splits.len()]).unwrap();
        let checksums = std::mem::take(&mut runner.checksums);
        let made = rows.lock().pop().unwrap();
        (made, checksums)
    }

    fn rows(&self) -> Vec<Row> {
        self.splits.concat()
    }

    fn groups(&self) -> BTreeMap<Text, Vec<i64>> {
        let mut groups: BTreeMap<Text, Vec<i64>> = BTreeMap::new();
        for (key, value) in self.rows() {
            groups.entry(key).or_default().push(value);
        }
        groups
    }
}

fn sorted<T: Ord>(mut rows: Vec<T>) -> Vec<T> {
    rows.sort();
    rows
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn row_by_row(case in case()) {
        let rows = case.rows();
        prop_assert_eq!(case.run(|rows| rows.map(|(_, value)| value * 2)), rows.iter().map(|row| row.1 * 2).collect::<Vec<_>>());
        prop_assert_eq!(case.run(|rows| rows.filter(|row| row.1 > 0)), rows.iter().filter(|row| row.1 > 0).cloned().collect::<Vec<_>>());
        let repeat = |row: Row| (0..row.1.max(0)).map(move |i| (row.0.clone(), i));
        prop_assert_eq!(case.run(|rows| rows.flat_map(repeat)), rows.iter().cloned().flat_map(repeat).collect::<Vec<_>>());
        prop_assert_eq!(case.run(|rows| rows.map_values(|value| value + 1)), rows.iter().map(|row| (row.0.clone(), row.1 + 1)).collect::<Vec<_>>());
        prop_assert_eq!(case.run(|rows| rows.flat_map_values(|value| [value, -value])), rows.iter().flat_map(|row| [(row.0.clone(), row.1), (row.0.clone(), -row.1)]).collect::<Vec<_>>());
        prop_assert_eq!(case.run(|rows| rows.keys()), rows.iter().map(|row| row.0.clone()).collect::<Vec<_>>());
        prop_assert_eq!(case.run(|rows| rows.values()), rows.iter().map(|row| row.1).collect::<Vec<_>>());
        prop_assert_eq!(case.run(|rows| rows.key_by(|row| row.1 % 3)), rows.iter().map(|row| (row.1 % 3, row.clone())).collect::<Vec<_>>());
        prop_assert_eq!(case.run(|rows| rows.persist().transform(|batch| batch.values())), rows.iter().map(|row| row.1).collect::<Vec<_>>());
    }

    #[test]
    fn partition_by_partition(case in case()) {
        prop_assert_eq!(case.run(DStream::glom), case.splits.clone());
        let mut sums = Vec::new();
        for split in &case.splits {
            let mut sum = 0;
            sums.extend(split.iter().map(|row| { sum += row.1; sum }));
        }
        let running = case.run(|rows| rows.map_partitions(|rows| Box::new(rows.scan(0, |sum, row| { *sum += row.1; Some(*sum) }))));
        prop_assert_eq!(running, sums);
        // A function that doesn't look at its rows, and gives more than a chunk.
        let constant = case.run(|rows| rows.map_partitions(|_| Box::new(0u32..3000)));
        prop_assert_eq!(constant.len(), 3000 * case.splits.len());
    }

    #[test]
    fn spread_over_partitions(case in case(), partitions in 1u32..6) {
        let mut expected = vec![Vec::new(); partitions as usize];
        for (task, split) in case.splits.iter().enumerate() {
            for (i, row) in split.iter().enumerate() {
                expected[(task + i) % partitions as usize].push(row.clone());
            }
        }
        let got = case.run(|rows| rows.repartition(partitions).glom());
        prop_assert_eq!(got, expected);
    }

    #[test]
    fn united(case in case()) {
        let both = case.run(|rows| rows.filter(|row| row.1 < 0).union(&rows.map_values(|value| value * 3)));
        let mut expected: Vec<Row> = case.rows().into_iter().filter(|row| row.1 < 0).collect();
        expected.extend(case.rows().into_iter().map(|(key, value)| (key, value * 3)));
        prop_assert_eq!(both, expected);
        prop_assert_eq!(case.run(|rows| rows.union(rows)), [case.rows(), case.rows()].concat());
        let nested = case.run(|rows| rows.values().union(&rows.count_by_value().values().map(|n| n as i64).union(&rows.values())));
        prop_assert_eq!(nested.iter().sum::<i64>(), case.rows().iter().map(|row| row.1 * 2 + 1).sum::<i64>());
    }

    #[test]
    fn of_all_rows(case in case()) {
        let rows = case.rows();
        prop_assert_eq!(case.run(DStream::count), [rows.len() as u64]);
        let reduced = case.run(|rows| rows.values().reduce(i64::max));
        prop_assert_eq!(reduced.first().copied(), rows.iter().map(|row| row.1).max());
        // Not commutative: rows come in their order.
        let joined = case.run(|rows| rows.map(|row| format!("{} ", row.1)).reduce(|a, b| a + &b));
        prop_assert_eq!(joined.concat(), rows.iter().map(|row| format!("{} ", row.1)).collect::<String>());
    }

    #[test]
    fn by_key(case in case(), partitions in 1u32..6) {
        let groups = case.groups();
        let counts: Vec<(Text, u64)> = groups.iter().map(|(key, values)| (key.clone(), values.len() as u64)).collect();
        prop_assert_eq!(sorted(case.run(|rows| rows.keys().count_by_value())), counts);
        let sums: Vec<Row> = groups.iter().map(|(key, values)| (key.clone(), values.iter().sum())).collect();
        prop_assert_eq!(sorted(case.run(|rows| rows.reduce_by_key(|a, b| a + b))), sums.clone());
        prop_assert_eq!(sorted(case.run(|rows| rows.reduce_by_key_with(partitions, |a, b| a + b))), sums);
        // Values in the order of splits and rows, spilled or not.
        let all: Vec<(Text, Vec<i64>)> = groups.into_iter().collect();
        prop_assert_eq!(sorted(case.run(|rows| rows.group_by_key_with(partitions))), all.clone());
        let combined = case.run(|rows| rows.combine_by_key(|value| vec![value], |mut all, value| { all.push(value); all }, |mut a, b| { a.extend(b); a }));
        prop_assert_eq!(sorted(combined), all);
        let parities = sorted(case.run(|rows| rows.values().group_by(|value| value.rem_euclid(2))));
        for (parity, values) in parities {
            let expected: Vec<i64> = case.rows().into_iter().map(|row| row.1).filter(|value| value.rem_euclid(2) == parity).collect();
            prop_assert_eq!(values, expected);
        }
    }

    #[test]
    fn a_key_comes_out_once_in_its_partition(case in case()) {
        let partitions = case.run(|rows| rows.reduce_by_key(|a, b| a + b).keys().glom());
        let mut seen = BTreeSet::new();
        for key in partitions.iter().flatten() {
            prop_assert!(seen.insert(key.clone()), "{} twice", key);
        }
        let same_place = case.run(|rows| rows.group_by_key().keys().glom());
        let sets = |partitions: Vec<Vec<Text>>| partitions.into_iter().map(|keys| keys.into_iter().collect::<BTreeSet<_>>()).collect::<Vec<_>>();
        prop_assert_eq!(sets(partitions), sets(same_place));
    }

    #[test]
    fn same_input_same_bytes(case in case(), other_chunks in 1usize..50) {
        let other = Case { chunk_rows: other_chunks, ..case.clone() };
        let job = |rows: &DStream<Row>| rows.repartition(3).reduce_by_key(|a, b| a + b).map(|(key, sum)| (sum, key)).group_by_key();
        prop_assert_eq!(case.run_with_checksums(job).1, other.run_with_checksums(job).1);
    }
}

#[test]
fn texts_longer_than_inline_leave_their_line() {
    // A line of one megabyte, of which a table keeps short pieces.
    let word = "a word that is too long to lie inline";
    let line = Text::from(format!("{word} of a line{}", " ".repeat(1 << 20)));
    let ssc = context(1);
    let words = crate::testing::given(&ssc, vec![vec![vec![line]]])
        .map(|line| (line.slice(..word_length()), 1u64));
    let sizes = collected(
        &words
            .reduce_by_key(|a, b| a + b)
            .map(|(word, count)| (word.heap_size() as u64, word, count)),
    );
    let mut runner = Runner::new(&ssc).unwrap();
    runner.run(0, &[1]).unwrap();
    let rows = sizes.lock().pop().unwrap();
    assert_eq!((rows[0].1.as_str(), rows[0].2), (word, 1));
    assert!(rows[0].0 < 200, "{} bytes kept alive", rows[0].0);
}

fn word_length() -> usize {
    "a word that is too long to lie inline".len()
}
