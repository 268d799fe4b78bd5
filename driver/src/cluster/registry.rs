//! Who the executors are and whether they live: plain state over ticks, without IO.

use std::time::Duration;

use indexmap::IndexMap;
use millstream_common::{
    ids::ExecutorId,
    protocol::{Heartbeat, RegisterRequest},
    time::Tick,
};
use serde::Serialize;

/// A look that is so much too late says that this process stood still.
const STOOD_STILL: Duration = Duration::from_secs(1);
/// How long executors then have to be heard: what they said meanwhile waits in the sockets.
const HEAR_AGAIN: Duration = Duration::from_secs(2);

/// When an executor counts as lost.
#[derive(Clone, Copy, Debug)]
pub struct RegistryOptions {
    /// Silent for this long.
    pub timeout: Duration,
    /// Its session ended and wasn't opened again within this.
    pub reconnect_timeout: Duration,
}

/// Registered executors.
pub struct Registry {
    options: RegistryOptions,
    executors: IndexMap<ExecutorId, Entry>,
    next_session: u64,
    /// Nobody counts as lost before, as this process stood still.
    hears_until: Option<Tick>,
}

struct Entry {
    request: RegisterRequest,
    state: State,
    last_heard: Tick,
    heartbeat: Heartbeat,
    leaving: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Registered, no session yet.
    Registered,
    Connected {
        session: u64,
    },
    Disconnected {
        since: Tick,
    },
}

/// An executor that is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Who.
    pub executor: ExecutorId,
    /// Why, for people.
    pub reason: String,
    /// It ever had a session: the scheduler knows it.
    pub was_known: bool,
    /// It had said that it leaves.
    pub left: bool,
}

/// An executor as REST shows it.
#[derive(Clone, Debug, Serialize)]
pub struct ExecutorView {
    /// Its id.
    pub id: ExecutorId,
    /// Its host.
    pub host: String,
    /// Its process.
    pub process_id: u32,
    /// Task slots.
    pub cores: u32,
    /// Where it serves blocks.
    pub block_address: String,
    /// Where its metrics are.
    pub http_address: String,
    /// `registered`, `connected`, `disconnected` or `leaving`.
    pub state: &'static str,
    /// Tasks running at its last heartbeat.
    pub running_tasks: u32,
    /// Resident memory at its last heartbeat, bytes.
    pub resident_bytes: u64,
    /// Blocks in memory at its last heartbeat, bytes.
    pub block_bytes: u64,
    /// Blocks on disk at its last heartbeat, bytes.
    pub spilled_bytes: u64,
}

impl Registry {
    /// An empty registry.
    pub fn new(options: RegistryOptions) -> Self {
        Self {
            options,
            executors: IndexMap::new(),
            next_session: 0,
            hears_until: None,
        }
    }

    /// Takes a registration under a new id. An older registration of the same process is replaced.
    pub fn register(&mut self, now: Tick, request: RegisterRequest) -> (ExecutorId, Vec<Loss>) {
        let same_process = |entry: &Entry| {
            entry.request.process_id == request.process_id
                && entry.request.host == request.host
                && entry.request.block_address == request.block_address
        };
        let replaced: Vec<ExecutorId> = self
            .executors
            .iter()
            .filter(|(_, entry)| same_process(entry))
            .map(|(id, _)| *id)
            .collect();
        let losses = replaced
            .into_iter()
            .filter_map(|id| self.remove(id, "it registered anew"))
            .collect();
        let id = ExecutorId::random();
        let entry = Entry {
            request,
            state: State::Registered,
            last_heard: now,
            heartbeat: Heartbeat::default(),
            leaving: false,
        };
        self.executors.insert(id, entry);
        (id, losses)
    }

    /// A session of the executor is open; `None` for one that isn't known (any more) and must register anew.
    pub fn connect(&mut self, now: Tick, executor: ExecutorId) -> Option<(u64, &RegisterRequest)> {
        let entry = self.executors.get_mut(&executor)?;
        self.next_session += 1;
        entry.state = State::Connected {
            session: self.next_session,
        };
        entry.last_heard = now;
        Some((self.next_session, &entry.request))
    }

    /// Something was heard on a session; `false` if that session is no longer the executor's.
    pub fn heard(&mut self, now: Tick, executor: ExecutorId, session: u64) -> bool {
        match self.executors.get_mut(&executor) {
            Some(entry) if entry.state == (State::Connected { session }) => {
                entry.last_heard = now;
                true
            }
            _ => false,
        }
    }

    /// Keeps the newest heartbeat for the views.
    pub fn heartbeat(&mut self, executor: ExecutorId, heartbeat: Heartbeat) {
        if let Some(entry) = self.executors.get_mut(&executor) {
            entry.heartbeat = heartbeat;
        }
    }

    /// The executor said that it leaves.
    pub fn leaving(&mut self, executor: ExecutorId) {
        if let Some(entry) = self.executors.get_mut(&executor) {
            entry.leaving = true;
        }
    }

    /// A session's stream ended. An executor that said it leaves is gone with it.
    pub fn closed(&mut self, now: Tick, executor: ExecutorId, session: u64) -> Option<Loss> {
        let entry = self.executors.get_mut(&executor)?;
        if entry.state != (State::Connected { session }) {
            return None;
        }
        if entry.leaving {
            return self.remove(executor, "it left");
        }
        entry.state = State::Disconnected { since: now };
        None
    }

    /// The process is known to be gone.
    pub fn process_gone(&mut self, host: &str, process_id: u32, reason: &str) -> Vec<Loss> {
        let gone: Vec<ExecutorId> = self
            .executors
            .iter()
            .filter(|(_, entry)| {
                entry.request.process_id == process_id && entry.request.host == host
            })
            .map(|(id, _)| *id)
            .collect();
        gone.into_iter()
            .filter_map(|id| self.remove(id, reason))
            .collect()
    }

    /// Removes and names every executor whose time is up. Where this comes much later than [`next_deadline`](Self::next_deadline) asked for, it was this
    /// process that was stopped: first what executors said meanwhile is heard, once.
    pub fn expire(&mut self, now: Tick) -> Vec<Loss> {
        let Some(first) = self.first_deadline() else {
            return Vec::new();
        };
        if self.hears_until.is_some_and(|until| now < until) {
            return Vec::new();
        }
        let had_its_time = self.hears_until.is_some_and(|until| first <= until);
        self.hears_until = None;
        if !had_its_time && first.after(STOOD_STILL) <= now {
            tracing::warn!(
                "this process stood still for long; executors are heard before any counts as lost"
            );
            self.hears_until = Some(now.after(HEAR_AGAIN));
            return Vec::new();
        }
        let due: Vec<(ExecutorId, String)> = self
            .executors
            .iter()
            .filter(|(_, entry)| self.deadline(entry) <= now)
            .map(|(id, entry)| {
                let reason = match entry.state {
                    State::Disconnected { .. } => {
                        format!(
                            "its session ended and was not back within {:?}",
                            self.options.reconnect_timeout
                        )
                    }
                    State::Registered | State::Connected { .. } => {
                        format!("nothing was heard from it for {:?}", self.options.timeout)
                    }
                };
                (*id, reason)
            })
            .collect();
        due.into_iter()
            .filter_map(|(id, reason)| self.remove(id, &reason))
            .collect()
    }

    /// When `expire` has something to do, if nothing else happens.
    pub fn next_deadline(&self) -> Option<Tick> {
        let first = self.first_deadline()?;
        Some(self.hears_until.map_or(first, |until| first.max(until)))
    }

    fn first_deadline(&self) -> Option<Tick> {
        self.executors
            .values()
            .map(|entry| self.deadline(entry))
            .min()
    }

    fn deadline(&self, entry: &Entry) -> Tick {
        match entry.state {
            State::Registered | State::Connected { .. } => {
                entry.last_heard.after(self.options.timeout)
            }
            State::Disconnected { since } => since.after(self.options.reconnect_timeout),
        }
    }

    fn remove(&mut self, executor: ExecutorId, reason: &str) -> Option<Loss> {
        let entry = self.executors.shift_remove(&executor)?;
        let was_known = entry.state != State::Registered;
        Some(Loss {
            executor,
            reason: reason.to_owned(),
            was_known,
            left: entry.leaving,
        })
    }

    /// Executors with an open session.
    pub fn connected(&self) -> usize {
        self.executors
            .values()
            .filter(|entry| matches!(entry.state, State::Connected { .. }))
            .count()
    }

    /// Every executor, for REST.
    pub fn views(&self) -> Vec<ExecutorView> {
        let view = |(id, entry): (&ExecutorId, &Entry)| ExecutorView {
            id: *id,
            host: entry.request.host.clone(),
            process_id: entry.request.process_id,
            cores: entry.request.cores,
            block_address: entry.request.block_address.clone(),
            http_address: entry.request.http_address.clone(),
            state: match entry.state {
                _ if entry.leaving => "leaving",
                State::Registered => "registered",
                State::Connected { .. } => "connected",
                State::Disconnected { .. } => "disconnected",
            },
            running_tasks: entry.heartbeat.running,
            resident_bytes: entry.heartbeat.resident_bytes,
            block_bytes: entry.heartbeat.block_bytes,
            spilled_bytes: entry.heartbeat.spilled_bytes,
        };
        self.executors.iter().map(view).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    fn registry() -> Registry {
        Registry::new(RegistryOptions {
            timeout: Duration::from_secs(10),
            reconnect_timeout: Duration::from_secs(1),
        })
    }

    fn request(process_id: u32) -> RegisterRequest {
        RegisterRequest {
            protocol: 1,
            version: "0".into(),
            build_id: "b".into(),
            cores: 2,
            block_address: "127.0.0.1:1".into(),
            http_address: String::new(),
            process_id,
            host: "h".into(),
        }
    }

    #[test]
    fn silence_past_the_timeout_is_a_loss() {
        let mut registry = registry();
        let (id, _) = registry.register(Tick(0), request(1));
        let (session, _) = registry.connect(Tick(SECOND), id).expect("known");
        assert!(registry.heard(Tick(5 * SECOND), id, session));
        assert!(registry.expire(Tick(15 * SECOND - 1)).is_empty());
        assert_eq!(registry.next_deadline(), Some(Tick(15 * SECOND)));
        let losses = registry.expire(Tick(15 * SECOND));
        assert_eq!(losses.len(), 1);
        assert!(
            losses[0].was_known && losses[0].reason.contains("10s"),
            "{losses:?}"
        );
        assert!(
            registry.connect(Tick(16 * SECOND), id).is_none(),
            "a lost executor must register anew"
        );
    }

    #[test]
    fn a_process_that_stood_still_hears_executors_before_it_gives_them_up() {
        let mut registry = registry();
        let (living, _) = registry.register(Tick(0), request(1));
        let (dead, _) = registry.register(Tick(0), request(2));
        let (session, _) = registry.connect(Tick(0), living).expect("known");
        registry.connect(Tick(0), dead);
        assert_eq!(registry.next_deadline(), Some(Tick(10 * SECOND)));
        // The look that was due at 10 s comes at 60 s.
        assert!(registry.expire(Tick(60 * SECOND)).is_empty());
        assert_eq!(registry.next_deadline(), Some(Tick(62 * SECOND)));
        assert!(registry.expire(Tick(61 * SECOND)).is_empty());
        assert!(registry.heard(Tick(61 * SECOND), living, session));
        let losses = registry.expire(Tick(90 * SECOND));
        let lost: Vec<ExecutorId> = losses.iter().map(|loss| loss.executor).collect();
        assert_eq!(lost, [living, dead], "once, however late the next look is");
    }

    #[test]
    fn who_is_heard_after_a_standstill_stays() {
        let mut registry = registry();
        let (living, _) = registry.register(Tick(0), request(1));
        let (dead, _) = registry.register(Tick(0), request(2));
        let (session, _) = registry.connect(Tick(0), living).expect("known");
        registry.connect(Tick(0), dead);
        assert!(registry.expire(Tick(60 * SECOND)).is_empty());
        assert!(registry.heard(Tick(60 * SECOND + 1), living, session));
        let losses = registry.expire(Tick(62 * SECOND));
        assert_eq!(losses.len(), 1);
        assert_eq!(losses[0].executor, dead);
        assert_eq!(registry.next_deadline(), Some(Tick(70 * SECOND + 1)));
        // It stands still again.
        assert!(registry.expire(Tick(200 * SECOND)).is_empty());
        assert_eq!(registry.expire(Tick(202 * SECOND)).len(), 1);
    }

    #[test]
    fn a_session_that_is_back_in_time_is_no_loss() {
        let mut registry = registry();
        let (id, _) = registry.register(Tick(0), request(1));
        let (first, _) = registry.connect(Tick(0), id).expect("known");
        assert_eq!(registry.closed(Tick(SECOND), id, first), None);
        let (second, _) = registry.connect(Tick(SECOND + 5), id).expect("known");
        assert!(
            !registry.heard(Tick(SECOND + 6), id, first),
            "an old session's messages are stale"
        );
        assert_eq!(registry.closed(Tick(SECOND + 7), id, first), None);
        assert!(registry.heard(Tick(SECOND + 8), id, second));
        assert!(registry.expire(Tick(3 * SECOND)).is_empty());
    }

    #[test]
    fn a_session_that_stays_away_is_a_loss() {
        let mut registry = registry();
        let (id, _) = registry.register(Tick(0), request(1));
        let (session, _) = registry.connect(Tick(0), id).expect("known");
        registry.closed(Tick(SECOND), id, session);
        assert!(registry.expire(Tick(2 * SECOND - 1)).is_empty());
        assert_eq!(registry.expire(Tick(2 * SECOND)).len(), 1);
    }

    #[test]
    fn a_process_that_registers_anew_replaces_its_older_self() {
        let mut registry = registry();
        let (old, _) = registry.register(Tick(0), request(1));
        registry.connect(Tick(0), old);
        let (other, none) = registry.register(Tick(0), request(2));
        assert!(none.is_empty());
        let (new, losses) = registry.register(Tick(1), request(1));
        assert_eq!(
            losses.iter().map(|loss| loss.executor).collect::<Vec<_>>(),
            [old]
        );
        assert_eq!(
            registry
                .views()
                .iter()
                .map(|view| view.id)
                .collect::<Vec<_>>(),
            [other, new]
        );
    }

    #[test]
    fn a_known_death_is_a_loss_at_once() {
        let mut registry = registry();
        let (id, _) = registry.register(Tick(0), request(7));
        registry.connect(Tick(0), id);
        assert!(registry.process_gone("elsewhere", 7, "killed").is_empty());
        assert_eq!(registry.process_gone("h", 7, "killed").len(), 1);
    }
}
