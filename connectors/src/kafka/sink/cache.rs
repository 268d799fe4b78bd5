//! What is kept from batch to batch, a sink partition: at most so many, and none that nobody uses.

use std::{collections::HashMap, time::Duration};

use millstream_common::time::Tick;

/// Kept things by name. Whoever takes one has it alone.
pub(super) struct Cache<T> {
    kept: HashMap<String, Kept<T>>,
    capacity: usize,
    idle: Duration,
    closed: bool,
}

struct Kept<T> {
    thing: T,
    /// Of two with one name the one made later counts: it has fenced the other.
    serial: u64,
    put_at: Tick,
}

impl<T> Cache<T> {
    pub fn new(capacity: usize, idle: Duration) -> Self {
        Self {
            kept: HashMap::new(),
            capacity,
            idle,
            closed: false,
        }
    }

    pub fn take(&mut self, name: &str) -> Option<T> {
        self.kept.remove(name).map(|kept| kept.thing)
    }

    /// Keeps a thing; gives back those that are not kept any more, for the caller to close without holding a lock.
    #[must_use]
    pub fn put(&mut self, name: String, thing: T, serial: u64, now: Tick) -> Vec<T> {
        if self.closed || self.capacity == 0 {
            return vec![thing];
        }
        if self
            .kept
            .get(&name)
            .is_some_and(|kept| kept.serial > serial)
        {
            return vec![thing];
        }
        let put = Kept {
            thing,
            serial,
            put_at: now,
        };
        let mut gone: Vec<T> = self
            .kept
            .insert(name, put)
            .map(|old| old.thing)
            .into_iter()
            .collect();
        let idle = self.idle;
        let unused = self
            .kept
            .extract_if(|_, kept| now.since(kept.put_at) > idle);
        gone.extend(unused.map(|(_, kept)| kept.thing));
        if self.kept.len() > self.capacity {
            let oldest = self
                .kept
                .iter()
                .min_by_key(|(_, kept)| (kept.put_at, kept.serial));
            let oldest = oldest.map(|(name, _)| name.clone());
            gone.extend(oldest.and_then(|name| self.take(&name)));
        }
        gone
    }

    /// Keeps nothing from now on.
    #[must_use]
    pub fn close(&mut self) -> Vec<T> {
        self.closed = true;
        self.kept.drain().map(|(_, kept)| kept.thing).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tick(seconds: u64) -> Tick {
        Tick(seconds * 1_000_000)
    }

    fn put(cache: &mut Cache<u64>, name: &str, serial: u64, at: u64) -> Vec<u64> {
        cache.put(name.to_owned(), serial, serial, tick(at))
    }

    #[test]
    fn one_is_had_by_one() {
        let mut cache = Cache::new(2, Duration::from_secs(10));
        assert!(put(&mut cache, "a", 1, 1).is_empty());
        assert_eq!(cache.take("a"), Some(1));
        assert_eq!(cache.take("a"), None);
    }

    #[test]
    fn the_one_made_later_stays() {
        let mut cache = Cache::new(2, Duration::from_secs(10));
        assert!(put(&mut cache, "a", 2, 1).is_empty());
        assert_eq!(put(&mut cache, "a", 1, 2), [1]);
        assert_eq!(put(&mut cache, "a", 3, 3), [2]);
        assert_eq!(cache.take("a"), Some(3));
    }

    #[test]
    fn idle_ones_and_too_many_are_given_back() {
        let mut cache = Cache::new(2, Duration::from_secs(10));
        assert!(put(&mut cache, "a", 1, 1).is_empty());
        assert!(put(&mut cache, "b", 2, 5).is_empty());
        assert_eq!(put(&mut cache, "c", 3, 6), [1]);
        assert_eq!(put(&mut cache, "d", 4, 16), [2]);
        let mut rest = cache.close();
        rest.sort_unstable();
        assert_eq!(rest, [3, 4]);
        assert_eq!(put(&mut cache, "e", 5, 17), [5]);
    }
}
