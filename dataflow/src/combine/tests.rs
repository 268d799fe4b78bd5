use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::{memory::MemoryServices, testing::task};

fn add(a: u64, b: u64) -> u64 {
    a + b
}

/// What comes out, and how many bytes were spilled.
fn combine(
    rows: &[(String, u64)],
    threshold: u64,
    route: Option<PartitionCount>,
) -> (Vec<(u32, String, u64)>, u64) {
    let services = MemoryServices::new(threshold);
    let task = task(&services, 0);
    let options = TableOptions {
        route,
        weighing: Weighing::Again,
        detach: true,
    };
    let mut table = Table::new(&task, options);
    for chunk in rows.chunks(50) {
        table
            .push(&mut chunk.to_vec(), |_| 0, |value| value, add, &add)
            .unwrap();
    }
    let mut combined = table.finish(&add).unwrap();
    let mut out = Vec::new();
    while let Some(row) = combined.next(&add).unwrap() {
        out.push(row);
    }
    (out, task.with(|context| context.counts.spilled_bytes))
}

proptest! {
    #[test]
    fn each_key_comes_out_once(rows in proptest::collection::vec(("[a-f]{0,2}", 0u64..100), 0..200), threshold in prop_oneof![Just(0u64), Just(300), Just(2000), Just(u64::MAX)]) {
        let partitions = PartitionCount::new(3).unwrap();
        let (got, spilled) = combine(&rows, threshold, Some(partitions));
        let mut expected: HashMap<String, u64> = HashMap::new();
        let mut first_seen = Vec::new();
        for (key, value) in &rows {
            if !expected.contains_key(key) {
                first_seen.push(key.clone());
            }
            *expected.entry(key.clone()).or_default() += value;
        }
        let keys: Vec<String> = got.iter().map(|row| row.1.clone()).collect();
        if spilled == 0 {
            prop_assert_eq!(&keys, &first_seen);
        } else {
            prop_assert!(got.windows(2).all(|pair| (pair[0].0, &pair[0].1) < (pair[1].0, &pair[1].1)));
        }
        prop_assert_eq!(got.len(), expected.len());
        for (partition, key, value) in got {
            prop_assert_eq!(expected[&key], value);
            prop_assert_eq!(millstream_common::routing::Router::new(partitions).partition_of(&key).unwrap(), partition);
        }
    }
}

#[test]
fn more_runs_than_are_merged_at_once() {
    let rows: Vec<(String, u64)> = (0..1000u64).map(|i| (format!("{}", i % 300), i)).collect();
    let (all_at_once, spilled) = combine(&rows, u64::MAX, None);
    assert_eq!(spilled, 0);
    let (mut merged, spilled) = combine(&rows, 0, None);
    assert!(spilled > 0);
    let mut expected = all_at_once;
    expected.sort();
    merged.sort();
    assert_eq!(merged, expected);
}

#[test]
fn a_large_table_counts_against_memory_until_it_is_gone() {
    let rows: Vec<(String, u64)> = (0..60_000).map(|i| (format!("{i:0100}"), i)).collect();
    for threshold in [u64::MAX, 4 << 20] {
        let services = MemoryServices::new(threshold);
        let task = task(&services, 0);
        let options = TableOptions {
            route: None,
            weighing: Weighing::Again,
            detach: true,
        };
        let mut table = Table::new(&task, options);
        for chunk in rows.chunks(50) {
            table
                .push(&mut chunk.to_vec(), |_| 0, |value| value, add, &add)
                .unwrap();
        }
        let weight = table.weight;
        let most = if threshold == u64::MAX {
            weight.next_multiple_of(1 << 20)
        } else {
            threshold
        };
        assert_eq!(services.memory_taken(), most);
        let mut combined = table.finish(&add).unwrap();
        let is_spilled = matches!(combined, Combined::Spilled(_));
        assert_eq!(is_spilled, threshold != u64::MAX);
        assert_eq!(services.memory_taken(), if is_spilled { 0 } else { most });
        while combined.next(&add).unwrap().is_some() {}
        drop(combined);
        assert_eq!(services.memory_taken(), 0);
    }
}

#[test]
fn values_that_grow_are_weighed_again() {
    let services = MemoryServices::new(1 << 20);
    let task = task(&services, 0);
    let options = TableOptions {
        route: None,
        weighing: Weighing::Again,
        detach: true,
    };
    let mut table = Table::new(&task, options);
    let join = |mut a: String, b: String| {
        a.push_str(&b);
        a
    };
    for _ in 0..2_000 {
        let mut rows = vec![(1u8, "0123456789".to_owned()); 100];
        table
            .push(&mut rows, |_| 0, |text| text, join, &join)
            .unwrap();
    }
    let mut combined = table.finish(&join).unwrap();
    assert!(
        matches!(combined, Combined::Spilled(_)),
        "two megabytes in a table for one"
    );
    let (_, _, text) = combined.next(&join).unwrap().unwrap();
    assert_eq!(text.len(), 2_000_000);
}
