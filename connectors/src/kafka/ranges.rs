//! Which offset ranges a batch takes: plain functions over positions, end offsets and limits.

use super::{driver::Offsets, source::OffsetRange};

/// How much a batch may take.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Limits {
    /// Records of each partition.
    pub per_partition: Option<u64>,
    /// Records of all of them together (the rate controller's).
    pub total: Option<u64>,
}

/// Records in an interval at a rate a second; at least one, so that a slow rate still moves. An interval of 0 counts as a second.
pub(super) fn rows_in(rate: u64, interval_millis: u64) -> u64 {
    let interval = if interval_millis == 0 {
        1_000
    } else {
        interval_millis
    };
    (u128::from(rate) * u128::from(interval) / 1_000).clamp(1, u128::from(u64::MAX)) as u64
}

/// The ranges of a batch in order of topic and partition; partitions with nothing new have none. A total is shared out by how far each partition lags.
pub(super) fn plan(positions: &Offsets, ends: &Offsets, limits: Limits) -> Vec<OffsetRange> {
    let new_in = |place, position: &i64| {
        let end = ends.get(place).copied().unwrap_or(*position);
        u64::try_from(end - position).unwrap_or(0)
    };
    let total_new: u128 = positions
        .iter()
        .map(|(place, position)| u128::from(new_in(place, position)))
        .sum();
    let mut ranges = Vec::new();
    for (place, from) in positions {
        let mut rows = new_in(place, from);
        if rows == 0 {
            continue;
        }
        if let Some(total) = limits.total.filter(|total| u128::from(*total) < total_new) {
            let share = u128::from(total) * u128::from(rows) / total_new;
            rows = rows.min(u64::try_from(share).unwrap_or(u64::MAX).max(1));
        }
        if let Some(most) = limits.per_partition {
            rows = rows.min(most);
        }
        let until = from.saturating_add(i64::try_from(rows).unwrap_or(i64::MAX));
        ranges.push(OffsetRange {
            topic: place.0.clone(),
            partition: place.1,
            from: *from,
            until,
        });
    }
    ranges
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn offsets(given: &[(i32, i64)]) -> Offsets {
        given
            .iter()
            .map(|(partition, offset)| (("t".to_owned(), *partition), *offset))
            .collect()
    }

    fn lengths(ranges: &[OffsetRange]) -> Vec<(i32, i64)> {
        ranges
            .iter()
            .map(|range| (range.partition, range.until - range.from))
            .collect()
    }

    #[test]
    fn without_limits_everything_new_is_taken() {
        let ranges = plan(
            &offsets(&[(0, 5), (1, 7), (2, 0)]),
            &offsets(&[(0, 9), (1, 7), (2, 3)]),
            Limits::default(),
        );
        assert_eq!(lengths(&ranges), [(0, 4), (2, 3)]);
        assert_eq!((ranges[0].from, ranges[0].until), (5, 9));
    }

    #[test]
    fn limits_hold_a_partition_and_in_total() {
        let positions = offsets(&[(0, 0), (1, 0)]);
        let ends = offsets(&[(0, 900), (1, 100)]);
        let per_partition = Limits {
            per_partition: Some(50),
            total: None,
        };
        assert_eq!(
            lengths(&plan(&positions, &ends, per_partition)),
            [(0, 50), (1, 50)]
        );
        let total = Limits {
            per_partition: None,
            total: Some(100),
        };
        assert_eq!(lengths(&plan(&positions, &ends, total)), [(0, 90), (1, 10)]);
    }

    #[test]
    fn a_slow_rate_still_moves() {
        assert_eq!(rows_in(1_000, 500), 500);
        assert_eq!(rows_in(1, 10), 1);
        assert_eq!(rows_in(7, 0), 7);
    }

    proptest! {
        #[test]
        fn batches_cover_the_input_without_gap_or_overlap(
            ends in prop::collection::vec(0i64..500, 1..6),
            total in prop::option::of(1u64..200),
            per_partition in prop::option::of(1u64..200),
        ) {
            let places: Vec<(i32, i64)> = (0..).zip(ends).collect();
            let ends = offsets(&places);
            let mut positions: Offsets = ends.keys().map(|place| (place.clone(), 0)).collect();
            loop {
                let ranges = plan(&positions, &ends, Limits { per_partition, total });
                if ranges.is_empty() {
                    break;
                }
                for range in ranges {
                    let position = positions.get_mut(&(range.topic.clone(), range.partition)).unwrap();
                    prop_assert_eq!(*position, range.from);
                    prop_assert!(range.until > range.from);
                    *position = range.until;
                }
            }
            prop_assert_eq!(positions, ends);
        }
    }
}
