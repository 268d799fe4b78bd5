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
/// A partition that no task has read for so long is let go of: its tasks run elsewhere.
const IDLE: Duration = Duration::from_secs(60);
/// How often idle partitions are looked for.
const IDLE_CHECK: Duration = Duration::from_secs(1);

/// Polls until the fetcher is closed.
pub(super) fn run(fetcher: &Fetcher) {
    let mut poller = Poller {
        fetcher,
        pending: HashMap::new(),
        drained: false,
        next_idle_check: fetcher.clock.now(),
    };
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

impl Poller<'_> {
    /// Polls some records; stops when a chunk was handed over, as there may be no room for a next one.
    fn poll(&mut self) {
        for _ in 0..POLLED_AT_ONCE {
            let wait = if self.drained { POLL } else { Duration::ZERO };
            match self.fetcher.consumer.poll(wait) {
                Some(Ok(message)) => {
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
                Some(Err(KafkaError::PartitionEOF(partition))) => self.end_reached(partition),
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
        if let Err(error) = assigning {
            tracing::warn!(topic, partition, offset, %error, "could not position the Kafka consumer");
        }
        self.pending.insert(partition, pending);
        if let Some(slot) = self.fetcher.state.lock().partitions.get_mut(&partition) {
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
        tracing::warn!(topic = self.fetcher.topic, %error, "Kafka consumer reports");
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
