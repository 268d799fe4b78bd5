//! Drivers, a checkpoint, two sources and a sink in one thread. Every action is done, and every answer told, when the test says so; what must always hold is
//! checked at each step.

mod world;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use millstream_common::{
    failure::Failure,
    ids::{BatchId, OutputIndex, QueryId, SourceId},
    protocol::SinkCommit,
    time::Tick,
};
use millstream_connectors::source::{PlannedInput, SourceHistory, Split};
use millstream_dataflow::plan::{NamedSettings, Plan};
use serde_json::{Value, json};
use uuid::Uuid;

pub(super) use self::world::World;
use self::world::content_of;
use super::{
    super::{
        checkpoint::RawCheckpoint,
        entries,
        error::{QueryError, Stopped},
        event::{Action, CoreOptions, Event, OutputInfo, QueryNews, SourcePlanned},
    },
    QueryCore,
};
use crate::{output::PartitionResult, scheduler::message::BatchSummary};

pub(super) const INTERVAL: u64 = 1_000;
const SOURCES: usize = 2;

fn source_ids() -> [String; SOURCES] {
    ["numbers-0".into(), "files-0".into()]
}

/// One driver process.
pub(super) struct Driver {
    pub(super) core: QueryCore,
    /// Actions not done yet.
    pub(super) todo: VecDeque<Todo>,
    /// What sources were told, each in order.
    pub(super) source_todo: [VecDeque<Action>; SOURCES],
    /// Answers not told yet.
    pub(super) replies: VecDeque<Event>,
    wake_at: Option<Tick>,
    next_number: u64,
    taken: BTreeSet<u64>,
    running: Option<BatchId>,
    pub(super) ended: Option<Result<Stopped, QueryError>>,
    pub(super) reruns: Vec<BatchId>,
    /// What each batch was to run with.
    pub(super) spill_thresholds: Vec<(BatchId, Option<u64>)>,
    pub(super) told: Vec<BatchId>,
}

pub(super) enum Todo {
    Action(Action),
    Read(Reading),
}

/// A read of the checkpoint in the shell's steps.
pub(super) struct Reading {
    life: super::super::event::Life,
    step: u32,
    offsets: Vec<String>,
    commits: Vec<String>,
    sources: Vec<String>,
    raw: RawCheckpoint,
}

pub(super) fn options(retained: u64) -> CoreOptions {
    let mut fingerprint = Plan::default().checkpoint_fingerprint(2, INTERVAL);
    for id in ["numbers-0", "files-0"] {
        fingerprint.sources.push(NamedSettings {
            id: id.to_owned(),
            kind: "test".to_owned(),
            settings: Value::Null,
        });
    }
    CoreOptions {
        fresh_query: QueryId::random(),
        session: Uuid::new_v4().to_string(),
        address: "here".into(),
        build_id: "build".into(),
        fingerprint,
        routing_version: 1,
        arguments: Value::Null,
        configuration: BTreeMap::new(),
        affecting: BTreeMap::new(),
        recorded: BTreeMap::new(),
        sources: source_ids().to_vec(),
        outputs: vec![OutputInfo {
            id: "sink-0".into(),
            publishes: true,
        }],
        rules: Default::default(),
        interval_millis: INTERVAL,
        max_queued: 3,
        retained_batches: retained,
        rate: None,
    }
}

impl Driver {
    pub(super) fn start(world: &World, options: CoreOptions) -> Self {
        let mut driver = Self {
            core: QueryCore::new(options),
            todo: VecDeque::new(),
            source_todo: Default::default(),
            replies: VecDeque::new(),
            wake_at: None,
            next_number: 0,
            taken: BTreeSet::new(),
            running: None,
            ended: None,
            reruns: Vec::new(),
            spill_thresholds: Vec::new(),
            told: Vec::new(),
        };
        let wall_millis = world.wall_millis;
        driver.tell(world, Event::Start { wall_millis });
        driver
    }

    /// Tells the driver an event and notes what it wants done.
    pub(super) fn tell(&mut self, world: &World, event: Event) {
        let own = self.core.epoch();
        let clear = matches!(&event, Event::Epochs { highest: Ok(highest), .. } if *highest <= own);
        let finished = matches!(&event, Event::Published { .. });
        let superseded =
            matches!(&event, Event::Epochs { highest: Ok(highest), .. } if *highest > own);
        for action in self.core.handle(world.tick, event) {
            match action {
                Action::End(result) => {
                    self.ended = Some(result);
                    self.todo.clear();
                    self.source_todo = Default::default();
                    self.replies.clear();
                    return;
                }
                Action::Publish { .. } => {
                    assert!(clear, "a publish comes after a look");
                    self.todo.push_back(Todo::Action(action));
                }
                Action::Delete { .. } | Action::TellCommitted { .. } => {
                    assert!(clear || finished, "deleting and telling come after a look");
                    assert!(!superseded);
                    match action {
                        Action::TellCommitted { batch, .. } => self.told.push(batch),
                        other => self.todo.push_back(Todo::Action(other)),
                    }
                }
                Action::ReadCheckpoint { life } => self.todo.push_back(Todo::Read(Reading {
                    life,
                    step: 0,
                    offsets: Vec::new(),
                    commits: Vec::new(),
                    sources: Vec::new(),
                    raw: RawCheckpoint::default(),
                })),
                Action::StartSource { source, .. }
                | Action::RestoreSource { source, .. }
                | Action::Plan { source, .. } => {
                    self.source_todo[source.0 as usize].push_back(action)
                }
                Action::WakeAt(at) => self.wake_at = Some(at),
                Action::Run {
                    batch,
                    rerun,
                    spill_threshold,
                    ..
                } => {
                    self.spill_thresholds.push((batch.batch, spill_threshold));
                    assert!(self.running.is_none(), "one batch at a time");
                    self.running = Some(batch.batch);
                    if rerun {
                        self.reruns.push(batch.batch);
                    }
                    self.todo.push_back(Todo::Action(action));
                }
                Action::Abort { .. } => self.running = None,
                Action::Progress(_)
                | Action::Status(_)
                | Action::Noted(_)
                | Action::Ready { .. }
                | Action::Release { .. }
                | Action::Sweep { .. } => {}
                other => self.todo.push_back(Todo::Action(other)),
            }
        }
    }

    pub(super) fn fire_timer(&mut self, world: &World) -> bool {
        let due = self.ended.is_none() && self.wake_at.is_some_and(|at| at <= world.tick);
        if due {
            self.wake_at = None;
            let wall_millis = world.wall_millis;
            self.tell(world, Event::Timer { wall_millis });
        }
        due
    }

    /// Does the source's next command.
    pub(super) fn do_source(&mut self, world: &World, source: usize) {
        let Some(action) = self.source_todo[source].pop_front() else {
            return;
        };
        let event = match action {
            Action::StartSource { life, source } => {
                if source.0 == 0 {
                    self.next_number = world.numbers;
                } else {
                    self.taken.clear();
                }
                let start = if source.0 == 0 {
                    json!(world.numbers)
                } else {
                    json!([])
                };
                Event::SourceStarted {
                    life,
                    source,
                    result: Ok(start),
                }
            }
            Action::RestoreSource {
                life,
                source,
                history,
            } => {
                self.restore(source, &history);
                Event::SourceRestored {
                    life,
                    source,
                    result: Ok(()),
                }
            }
            Action::Plan {
                life,
                source,
                request,
                want_seen,
            } => Event::Planned {
                life,
                batch: request.batch,
                source,
                result: Ok(self.plan(world, source, want_seen)),
            },
            other => panic!("not for a source: {other:?}"),
        };
        self.replies.push_back(event);
    }

    fn restore(&mut self, source: SourceId, history: &SourceHistory) {
        if source.0 == 0 {
            let newest = history.logged.last().map(|(_, input)| &input.position);
            self.next_number = newest.unwrap_or(&history.start).as_u64().expect("number");
            return;
        }
        self.taken.clear();
        if let Some((_, seen)) = &history.seen {
            let seen: BTreeSet<u64> = serde_json::from_value(seen.clone()).expect("files");
            self.taken.extend(seen);
        }
        for (_, input) in &history.logged {
            let files = input
                .splits
                .iter()
                .map(|split| split.split.as_u64().expect("file"));
            self.taken.extend(files);
        }
    }

    fn plan(&mut self, world: &World, source: SourceId, want_seen: bool) -> SourcePlanned {
        let split = |split: Value| Split {
            split,
            locality: None,
            rows: None,
        };
        if source.0 == 0 {
            let from = self.next_number;
            self.next_number = world.numbers.max(from);
            let range = split(json!([from, self.next_number]));
            let splits = if self.next_number > from {
                vec![range]
            } else {
                vec![]
            };
            let position = json!(self.next_number);
            return SourcePlanned {
                input: PlannedInput { splits, position },
                ..SourcePlanned::default()
            };
        }
        let new: Vec<u64> = (0..world.files)
            .filter(|file| !self.taken.contains(file))
            .collect();
        self.taken.extend(&new);
        SourcePlanned {
            input: PlannedInput {
                splits: new.into_iter().map(|file| split(json!(file))).collect(),
                position: Value::Null,
            },
            seen: want_seen.then(|| json!(self.taken)),
            ..SourcePlanned::default()
        }
    }

    /// Does one step of what is at `index`; some take several.
    pub(super) fn do_one(&mut self, world: &mut World, index: usize) {
        let Some(todo) = self.todo.remove(index) else {
            return;
        };
        match todo {
            Todo::Read(mut reading) => {
                if reading.go_on(world) {
                    self.replies.push_back(Event::Checkpoint {
                        life: reading.life,
                        raw: Ok(reading.raw),
                    });
                } else {
                    self.todo.push_front(Todo::Read(reading));
                }
            }
            Todo::Action(action) => self.do_action(world, action),
        }
    }

    /// Does the first action that is meant.
    pub(super) fn do_first(&mut self, world: &mut World, meant: impl Fn(&Action) -> bool) {
        let mut todo = self.todo.iter();
        let index = todo.position(|todo| matches!(todo, Todo::Action(action) if meant(action)));
        self.do_one(world, index.expect("there is such an action"));
    }

    fn do_action(&mut self, world: &mut World, action: Action) {
        let event = match action {
            Action::Put { life, name, bytes } => {
                let result = Ok(world.put(&name, &bytes));
                Event::Put { life, name, result }
            }
            Action::ListEpochs { life } => Event::Epochs {
                life,
                highest: Ok(world.highest_epoch()),
            },
            Action::Delete { life, mut names } => {
                if names.is_empty() {
                    self.replies.push_back(Event::Deleted {
                        life,
                        result: Ok(()),
                    });
                    return;
                }
                let name = names.remove(0);
                world.entries.remove(&name);
                world.is_recoverable();
                self.todo
                    .push_front(Todo::Action(Action::Delete { life, names }));
                return;
            }
            Action::CheckOutputs { life, .. } => Event::OutputsChecked {
                life,
                result: Ok(()),
            },
            Action::Run { batch, splits, .. } => {
                let sink = SinkCommit {
                    partition: 0,
                    rows: 0,
                    checksum: 0,
                    payload: json!({"epoch": self.core.epoch(), "input": content_of(&splits)}),
                };
                Event::News(QueryNews::OutputReady {
                    batch: batch.batch,
                    output: OutputIndex(0),
                    results: vec![PartitionResult {
                        partition: 0,
                        result: None,
                        kept: None,
                        sink: Some(sink),
                    }],
                })
            }
            Action::Complete {
                life,
                batch,
                output,
                ..
            } => Event::Completed {
                life,
                batch: batch.batch,
                output,
                result: Ok(()),
            },
            Action::OutputDone { batch, .. } => {
                if self.running == Some(batch) {
                    self.running = None;
                }
                Event::News(QueryNews::BatchDone {
                    batch,
                    summary: BatchSummary::default(),
                })
            }
            Action::Publish {
                life,
                batch,
                winners,
            } => {
                world.publish(batch.batch, &winners[0]);
                Event::Published {
                    life,
                    batch: batch.batch,
                    result: Ok::<(), (OutputIndex, Failure)>(()),
                }
            }
            other => panic!("nothing to do for {other:?}"),
        };
        self.replies.push_back(event);
    }

    /// Tells the oldest answer.
    pub(super) fn hear(&mut self, world: &World, index: usize) {
        if let Some(event) = self.replies.remove(index) {
            self.tell(world, event);
        }
    }

    /// Does everything there is to do without the time's passing, until `stop_before` an action.
    pub(super) fn settle_until(
        &mut self,
        world: &mut World,
        stop_before: impl Fn(&Action) -> bool,
    ) -> bool {
        loop {
            let reached = self
                .todo
                .iter()
                .any(|todo| matches!(todo, Todo::Action(action) if stop_before(action)));
            if reached {
                return true;
            }
            if self.fire_timer(world) {
                continue;
            }
            if !self.replies.is_empty() {
                self.hear(world, 0);
            } else if !self.todo.is_empty() {
                self.do_one(world, 0);
            } else if let Some(source) = self.source_todo.iter().position(|todo| !todo.is_empty()) {
                self.do_source(world, source);
            } else {
                return false;
            }
        }
    }

    pub(super) fn settle(&mut self, world: &mut World) {
        self.settle_until(world, |_| false);
    }

    /// The process dies: what is on the way to the store arrives or doesn't.
    pub(super) fn crash(self, world: &mut World, mut lands: impl FnMut() -> bool) {
        for todo in self.todo {
            let Todo::Action(action) = todo else { continue };
            match action {
                Action::Put { name, bytes, .. } if lands() => {
                    world.put(&name, &bytes);
                }
                Action::Delete { names, .. } => {
                    for name in names {
                        if !lands() {
                            break;
                        }
                        world.entries.remove(&name);
                        world.is_recoverable();
                    }
                }
                _ => {}
            }
        }
    }
}

impl Reading {
    /// One step; true when done.
    fn go_on(&mut self, world: &World) -> bool {
        self.step += 1;
        match self.step {
            1 => {
                self.raw = RawCheckpoint {
                    highest_epoch: world.highest_epoch(),
                    ..RawCheckpoint::default()
                };
                self.get(world, &[entries::METADATA.to_owned()]);
                self.offsets = world.list(entries::OFFSETS);
            }
            2 => self.commits = world.list(entries::COMMITS),
            3 => {
                if world.list(entries::OFFSETS) != self.offsets {
                    self.step = 0;
                }
            }
            4 => {
                let names = std::mem::take(&mut self.offsets);
                self.get(world, &names);
            }
            5 => {
                let names = std::mem::take(&mut self.commits);
                self.get(world, &names);
            }
            6 => self.sources = world.list(entries::SOURCES),
            _ => {
                let names = std::mem::take(&mut self.sources);
                if self.get(world, &names) {
                    return true;
                }
                self.step = 0;
            }
        }
        false
    }

    fn get(&mut self, world: &World, names: &[String]) -> bool {
        let mut all = true;
        for name in names {
            match world.entries.get(name) {
                Some(bytes) => {
                    self.raw.entries.insert(name.clone(), bytes.clone());
                }
                None => all = false,
            }
        }
        all
    }
}
