//! The watermark: what batches saw of event times, and what follows from it for the next one. Pure.

use std::collections::BTreeMap;

use millstream_common::protocol::Watermarks;

use super::super::{entries::Commit, event::EventTime};

/// Under these names the log has a batch's two watermarks.
const LATE: &str = "late";
const EVICT: &str = "evict";

/// A batch's watermarks as the log has them.
pub(super) fn logged(watermarks: Watermarks) -> BTreeMap<String, i64> {
    let late = watermarks.late.map(|time| (LATE.to_owned(), time));
    let evict = watermarks.evict.map(|time| (EVICT.to_owned(), time));
    late.into_iter().chain(evict).collect()
}

/// A batch's watermarks out of the log.
pub(super) fn of_log(logged: &BTreeMap<String, i64>) -> Watermarks {
    Watermarks {
        late: logged.get(LATE).copied(),
        evict: logged.get(EVICT).copied(),
    }
}

/// What the newest commit says of event times.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct EventTimes {
    /// The latest seen so far, by column.
    pub(super) maxima: BTreeMap<String, i64>,
    /// The next batch's.
    pub(super) next: Watermarks,
    /// A batch is due even without input.
    pub(super) is_due: bool,
}

impl EventTimes {
    pub(super) fn restored(commit: &Commit) -> Self {
        Self {
            maxima: commit.event_time_maxima.clone(),
            next: of_log(&commit.next_watermarks),
            is_due: commit.no_data_batch_due,
        }
    }

    /// After a batch that ran with `own` watermarks and saw these event times. The watermark is that of the column which is furthest behind, and never goes
    /// back; rows are late by the watermark that the batch before let state go by.
    pub(super) fn after(
        &self,
        columns: &[EventTime],
        waits: bool,
        own: Watermarks,
        seen: &BTreeMap<String, i64>,
    ) -> Self {
        let mut maxima = self.maxima.clone();
        for (column, time) in seen {
            let latest = maxima.entry(column.clone()).or_insert(*time);
            *latest = (*latest).max(*time);
        }
        let reached: Option<Vec<i64>> = columns
            .iter()
            .map(|column| {
                let latest = maxima.get(&column.id)?;
                Some(latest.saturating_sub(column.delay_millis))
            })
            .collect();
        let reached = reached.and_then(|times| times.into_iter().min());
        let evict = own.evict.max(reached);
        Self {
            maxima,
            next: Watermarks {
                late: own.evict,
                evict,
            },
            is_due: waits && evict > own.evict,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(delays: &[(&str, i64)]) -> Vec<EventTime> {
        let column = |(id, delay): &(&str, i64)| EventTime {
            id: (*id).to_owned(),
            delay_millis: *delay,
        };
        delays.iter().map(column).collect()
    }

    fn seen(times: &[(&str, i64)]) -> BTreeMap<String, i64> {
        let time = |(id, time): &(&str, i64)| ((*id).to_owned(), *time);
        times.iter().map(time).collect()
    }

    fn marks(late: Option<i64>, evict: Option<i64>) -> Watermarks {
        Watermarks { late, evict }
    }

    #[test]
    fn rows_are_late_by_the_watermark_of_the_batch_before() {
        let columns = columns(&[("a", 10)]);
        let first = EventTimes::default().after(
            &columns,
            true,
            Watermarks::default(),
            &seen(&[("a", 100)]),
        );
        assert_eq!((first.next, first.is_due), (marks(None, Some(90)), true));
        let second = first.after(&columns, true, first.next, &seen(&[]));
        assert_eq!(
            (second.next, second.is_due),
            (marks(Some(90), Some(90)), false)
        );
        // Older times move nothing.
        let third = second.after(&columns, true, second.next, &seen(&[("a", 50)]));
        assert_eq!(third, second);
        let unwaited = second.after(&columns, false, second.next, &seen(&[("a", 200)]));
        assert_eq!(
            (unwaited.next, unwaited.is_due),
            (marks(Some(90), Some(190)), false)
        );
    }

    #[test]
    fn the_column_furthest_behind_decides() {
        let columns = columns(&[("a", 0), ("b", 5)]);
        let only_one = EventTimes::default().after(
            &columns,
            true,
            Watermarks::default(),
            &seen(&[("a", 100)]),
        );
        assert_eq!(only_one.next, Watermarks::default());
        let both = only_one.after(&columns, true, only_one.next, &seen(&[("b", 60)]));
        assert_eq!(both.next, marks(None, Some(55)));
    }

    #[test]
    fn the_log_has_both() {
        for watermarks in [
            marks(None, None),
            marks(None, Some(3)),
            marks(Some(-1), Some(3)),
        ] {
            assert_eq!(of_log(&logged(watermarks)), watermarks);
        }
    }
}
