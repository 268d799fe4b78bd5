//! A fetcher's thread: polls the consumer, carries out the tasks' commands, and keeps the buffers within their bounds.

use std::time::Duration;

use hashbrown::HashMap;
use millstream_common::time::Tick;
use parking_lot::MutexGuard;
use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::Consumer as _,
    error::{KafkaError, RDKafkaErrorCode},
};

use super::{
    fetcher::{ASK, Fetcher, LOOK, Seek, Slot, State},
    pending::Pending,
};

/// The longest that a command waits for this thread.
const POLL: Duration = Duration::from_millis(10);
/// Records that are polled between two looks at the tasks' wishes.
const POLLED_AT_ONCE: usize = 256;
/// A partition that no task has read for so long is let go of: its tasks run elsewhere. So is the consumer, when none has been read for so long.
const IDLE: Duration = Duration::from_secs(60);
/// How often idle partitions are looked for.
const IDLE_CHECK: Duration = Duration::from_secs(1);

/// Polls until the fetcher is closed, or was idle for long.
pub(super) fn run(fetcher: &Fetcher) {
    let mut poller = Poller::new(fetcher);
    while poller.obey() {
        poller.poll();
    }
}

struct Poller<'a> {
    fetcher: &'a Fetcher,
    pending: HashMap<i32, Pending>,
    /// The client had nothing at the last poll.
    drained: bool,
    next_idle_check: Tick,
}

impl<'a> Poller<'a> {
    fn new(fetcher: &'a Fetcher) -> Self {
        Self {
            fetcher,
            pending: HashMap::new(),
            drained: false,
            next_idle_check: fetcher.clock.now(),
        }
    }

    /// Polls some records; stops when a chunk was handed over, as there may be no room for a next one.
    fn poll(&mut self) {
        for _ in 0..POLLED_AT_ONCE {
            let wait = if self.drained { POLL } else { Duration::ZERO };
            match self.fetcher.consumer.poll(wait) {
                Some(Ok(message)) => {
                    self.fetcher.consumer.context().answered();
                    self.drained = false;
                    let partition = message.partition();
                    let Some(pending) = self.pending.get_mut(&partition) else {
                        continue;
                    };
                    pending.add(&message);
                    if pending.is_full() {
                        hand_over(self.fetcher, partition, pending);
                        return;
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    self.fetcher.consumer.context().answered();
                    self.end_reached(partition);
                }
                Some(Err(error)) => {
                    self.trouble(&error);
                    return;
                }
                None => {
                    self.drained = true;
                    self.hand_over_all();
                    return;
                }
            }
        }
    }

    fn hand_over_all(&mut self) {
        for (partition, pending) in &mut self.pending {
            hand_over(self.fetcher, *partition, pending);
        }
        let starving = |slot: &Slot| slot.is_starving();
        let anyone_starves = {
            let state = self.fetcher.state.lock();
            state.partitions.values().any(starving)
        };
        if anyone_starves {
            // The client's position moves over transaction markers, of which there is no event.
            self.follow_positions();
        }
    }

    fn end_reached(&mut self, partition: i32) {
        if let Some(pending) = self.pending.get_mut(&partition) {
            hand_over(self.fetcher, partition, pending);
        }
        self.follow_positions();
        let Some(pending) = self.pending.get(&partition) else {
            return;
        };
        let mut state = self.fetcher.state.lock();
        if let Some(slot) = state.partitions.get_mut(&partition) {
            slot.buffer.end_reached(pending.generation);
            slot.filled.notify_all();
        }
    }

    /// Takes over how far the client got. All that it gave must have been handed over.
    fn follow_positions(&mut self) {
        let Ok(positions) = self.fetcher.consumer.position() else {
            return;
        };
        let mut state = self.fetcher.state.lock();
        for element in positions.elements() {
            let partition = element.partition();
            let Some(pending) = self.pending.get_mut(&partition) else {
                continue;
            };
            let Offset::Offset(position) = element.offset() else {
                // Forgotten by a repositioning: what it is next belongs to this generation.
                pending.position_known = true;
                continue;
            };
            if !pending.position_known || !pending.is_empty() {
                continue;
            }
            if let Some(slot) = state.partitions.get_mut(&partition)
                && slot.buffer.skip_to(pending.generation, position)
            {
                slot.filled.notify_all();
            }
        }
    }

    /// Carries out commands and waits for room; `false` once closed.
    fn obey(&mut self) -> bool {
        let fetcher = self.fetcher;
        let mut state = fetcher.state.lock();
        loop {
            if state.closed {
                return false;
            }
            let commands = std::mem::take(&mut state.commands);
            if !commands.is_empty() {
                // Seeking waits for the client's own thread: not under the lock.
                MutexGuard::unlocked(&mut state, || {
                    for command in commands {
                        self.carry_out(command);
                    }
                });
                continue;
            }
            let limit = fetcher.options.read_ahead_bytes;
            let full = |slot: &Slot| slot.buffer.bytes() >= limit && !slot.paused;
            let anyone_full = state.partitions.values().any(full);
            let anyone_starves = state.partitions.values().any(Slot::is_starving);
            if anyone_full && !anyone_starves {
                // Nobody waits for anything that a poll could bring: let the readers catch up.
                fetcher.wanted.wait_for(&mut state, LOOK);
                continue;
            }
            let unsuitable = |slot: &Slot| slot.paused != should_pause(slot, limit);
            if state.partitions.values().any(unsuitable) {
                self.pause_and_resume(&mut state);
                continue;
            }
            let now = fetcher.clock.now();
            if now >= self.next_idle_check {
                self.next_idle_check = now.after(IDLE_CHECK);
                self.let_go_of_idle(&mut state, now);
                if state.partitions.is_empty() && now.since(state.last_opened) > IDLE {
                    tracing::debug!(topic = fetcher.topic, "closing an idle Kafka consumer");
                    state.closed = true;
                    return false;
                }
            }
            return true;
        }
    }

    /// A full partition is paused only while another one's reader starves; pausing throws away what the client has prefetched.
    fn pause_and_resume(&mut self, state: &mut MutexGuard<'_, State>) {
        let fetcher = self.fetcher;
        let limit = fetcher.options.read_ahead_bytes;
        let mut paused = TopicPartitionList::new();
        let mut resumed = TopicPartitionList::new();
        for (partition, slot) in &mut state.partitions {
            let pause = should_pause(slot, limit);
            if pause == slot.paused {
                continue;
            }
            slot.paused = pause;
            let list = if pause { &mut paused } else { &mut resumed };
            list.add_partition(&fetcher.topic, *partition);
        }
        let outcomes = MutexGuard::unlocked(state, || {
            let mut outcomes = [Ok(()), Ok(())];
            if paused.count() > 0 {
                outcomes[0] = fetcher.consumer.pause(&paused);
            }
            if resumed.count() > 0 {
                outcomes[1] = fetcher.consumer.resume(&resumed);
            }
            outcomes
        });
        for error in outcomes.into_iter().filter_map(Result::err) {
            tracing::debug!(topic = fetcher.topic, %error, "could not pause or resume");
        }
    }

    fn let_go_of_idle(&mut self, state: &mut State, now: Tick) {
        let idle = |slot: &Slot| slot.reader.is_none() && now.since(slot.last_used) > IDLE;
        let partitions: Vec<i32> = state
            .partitions
            .iter()
            .filter(|(_, slot)| idle(slot))
            .map(|(partition, _)| *partition)
            .collect();
        for partition in partitions {
            let mut list = TopicPartitionList::new();
            list.add_partition(&self.fetcher.topic, partition);
            if let Err(error) = self.fetcher.consumer.incremental_unassign(&list) {
                tracing::debug!(topic = self.fetcher.topic, partition, %error, "could not unassign an idle partition");
            }
            self.pending.remove(&partition);
            state.partitions.remove(&partition);
        }
    }

    fn carry_out(&mut self, seek: Seek) {
        let Seek {
            partition,
            offset,
            generation,
        } = seek;
        let consumer = &self.fetcher.consumer;
        let topic = self.fetcher.topic.as_str();
        let mut pending = Pending::new(generation);
        let assigned = self.pending.contains_key(&partition);
        if assigned
            && consumer
                .seek(topic, partition, Offset::Offset(offset), ASK)
                .is_ok()
        {
            // A seek forgets the old position before it returns.
            pending.position_known = true;
            self.pending.insert(partition, pending);
            return;
        }
        let mut list = TopicPartitionList::new();
        list.add_partition(topic, partition);
        if assigned && let Err(error) = consumer.incremental_unassign(&list) {
            tracing::debug!(topic, partition, %error, "could not unassign before a seek");
        }
        let mut list = TopicPartitionList::new();
        let assigning = list
            .add_partition_offset(topic, partition, Offset::Offset(offset))
            .and_then(|()| consumer.incremental_assign(&list));
        self.pending.insert(partition, pending);
        let mut state = self.fetcher.state.lock();
        let slot = state.partitions.get_mut(&partition);
        let slot = slot.filter(|slot| slot.buffer.generation() == generation);
        if let Err(error) = assigning {
            tracing::warn!(topic, partition, offset, %error, "could not position the Kafka consumer");
            if let Some(slot) = slot {
                // Nothing will come: its reader looks into it, and positions it again.
                slot.suspect = true;
                slot.filled.notify_all();
            }
        } else if let Some(slot) = slot {
            slot.paused = false;
        }
    }

    fn trouble(&mut self, error: &KafkaError) {
        let code = error.rdkafka_error_code();
        if matches!(
            code,
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange)
        ) {
            for (partition, pending) in &mut self.pending {
                hand_over(self.fetcher, *partition, pending);
            }
            // The event doesn't say which partition: each one's reader looks for itself.
            let mut state = self.fetcher.state.lock();
            for slot in state.partitions.values_mut() {
                slot.suspect = true;
                slot.filled.notify_all();
            }
        }
        if self.fetcher.consumer.context().is_news(code) {
            tracing::warn!(topic = self.fetcher.topic, %error, "Kafka consumer reports");
        } else {
            tracing::debug!(topic = self.fetcher.topic, %error, "Kafka consumer reports again");
        }
    }
}

/// A paused partition is resumed when half of what it may hold was read.
fn should_pause(slot: &Slot, limit: usize) -> bool {
    let bytes = slot.buffer.bytes();
    if slot.paused {
        bytes > limit / 2
    } else {
        bytes >= limit
    }
}

fn hand_over(fetcher: &Fetcher, partition: i32, pending: &mut Pending) {
    let Some(chunk) = pending.take() else {
        return;
    };
    let mut state = fetcher.state.lock();
    if let Some(slot) = state.partitions.get_mut(&partition) {
        slot.buffer.push(pending.generation, chunk);
        if slot.waiting {
            slot.filled.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use millstream_common::time::{Clock, ManualClock};
    use rdkafka::ClientConfig;

    use super::{
        super::fetcher::{FetcherOptions, Opened, Step},
        *,
    };

    /// Without its thread, and without a broker.
    fn fetcher(clock: &ManualClock) -> Fetcher {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", "127.0.0.1:1");
        config.set("group.id", "test");
        let options = FetcherOptions {
            read_ahead_bytes: 1 << 20,
        };
        let clock: Arc<dyn Clock> = Arc::new(clock.clone());
        Fetcher::new(&config, "lines", options, clock).expect("a consumer")
    }

    #[test]
    fn a_consumer_that_is_not_used_for_long_is_closed() {
        let clock = ManualClock::new(0);
        let fetcher = fetcher(&clock);
        let mut poller = Poller::new(&fetcher);
        assert!(poller.obey());
        let (opened, ticket) = fetcher.open(0, 5, 9).expect("open");
        assert_eq!(opened, Opened::Repositioned);
        assert!(poller.obey());

        clock.advance(IDLE * 3);
        assert!(poller.obey(), "it is being read");
        fetcher.finish(0, ticket);
        clock.advance(IDLE / 2);
        assert!(poller.obey());
        assert!(fetcher.open(0, 9, 9).is_some(), "it is used again");

        let (_, ticket) = fetcher.open(0, 9, 9).expect("open");
        fetcher.finish(0, ticket);
        clock.advance(IDLE * 2);
        assert!(!poller.obey());
        assert!(fetcher.open(0, 9, 12).is_none(), "a new one is to be made");
    }

    #[test]
    fn a_partition_that_could_not_be_positioned_is_looked_into() {
        let clock = ManualClock::new(0);
        let fetcher = fetcher(&clock);
        let mut poller = Poller::new(&fetcher);
        // No such offset can be asked for.
        let (_, ticket) = fetcher.open(0, -5, 9).expect("open");
        assert!(poller.obey());
        let step = fetcher.step(0, ticket, 9);
        assert!(
            matches!(step, Step::OutOfRange { position: -5 }),
            "{step:?}"
        );
        fetcher.skip_to(0, ticket, 5);
        assert!(poller.obey());
        let step = fetcher.step(0, ticket, 9);
        assert!(matches!(step, Step::Timeout { position: 5 }), "{step:?}");
    }
}
