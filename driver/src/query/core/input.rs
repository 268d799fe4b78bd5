//! Planning: what each batch reads is fixed at its batch time, while earlier batches may still run.

use std::{collections::VecDeque, time::Duration};

use millstream_common::{
    failure::{Failure, Retry},
    ids::{BatchId, SourceId},
    time::{BatchTime, Tick},
};
use millstream_connectors::source::PlanRequest;

use super::{
    super::{
        clock::BatchClock,
        error::QueryError,
        event::{Action, CoreOptions, Note, SourcePlanned, Trigger},
        rate::RateController,
    },
    QueryCore,
    batch::Batch,
    start::source_error,
};

/// The first pause before a source that can't plan is asked again; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Back to back, a plan without input isn't run; so long until the next.
const POLL_EVERY: Duration = Duration::from_millis(10);

/// Clock, planning and the queue.
#[derive(Debug)]
pub(super) struct Input {
    clock: Option<BatchClock>,
    /// The batch that is planned next.
    next: BatchId,
    planning: Option<Planning>,
    queue: VecDeque<PlannedBatch>,
    poll_at: Option<Tick>,
    full_noted: bool,
    stopping: bool,
    empty_looks: u64,
    /// Batches planned or run again since the start.
    taken: u64,
    pub(super) rates: Vec<Option<RateController>>,
}

/// A batch whose splits are fixed.
#[derive(Debug)]
pub(super) struct PlannedBatch {
    pub(super) batch: BatchId,
    pub(super) batch_time: BatchTime,
    pub(super) sources: Vec<SourcePlanned>,
    /// Everything taken was asked for.
    pub(super) has_seen: bool,
    /// How long the sources took.
    pub(super) took: Duration,
}

#[derive(Debug)]
struct Planning {
    begun: Tick,
    batch: BatchId,
    batch_time: BatchTime,
    want_seen: bool,
    answers: Vec<Option<SourcePlanned>>,
    episodes: Vec<Episode>,
}

/// A source's attempts in vain.
#[derive(Clone, Debug, Default)]
struct Episode {
    attempts: u32,
    again_at: Option<Tick>,
}

impl Input {
    pub(super) fn new(options: &CoreOptions) -> Self {
        let controller = |rate| RateController::new(rate, options.interval_millis);
        let rates = options.sources.iter().map(|_| options.rate.map(controller));
        Self {
            clock: None,
            next: BatchId(0),
            planning: None,
            queue: VecDeque::new(),
            poll_at: None,
            full_noted: false,
            stopping: false,
            empty_looks: 0,
            taken: 0,
            rates: rates.collect(),
        }
    }

    pub(super) fn begin(
        &mut self,
        interval_millis: u64,
        wall_millis: i64,
        newest: Option<BatchTime>,
        next: BatchId,
    ) {
        self.clock = Some(BatchClock::new(interval_millis, wall_millis, newest));
        self.next = next;
    }

    pub(super) fn clear(&mut self) {
        self.clock = None;
        self.planning = None;
        self.queue.clear();
        self.poll_at = None;
        self.full_noted = false;
    }

    pub(super) fn empty_looks(&self) -> u64 {
        self.empty_looks
    }

    /// A batch that was begun before runs again.
    pub(super) fn took_one(&mut self) {
        self.taken += 1;
    }

    pub(super) fn queued(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.planning.is_none() && self.queue.is_empty()
    }

    /// No batch is planned any more. One that is being planned is waited for, unless a source is away.
    pub(super) fn stop(&mut self) {
        self.stopping = true;
        if self.failing_source().is_some() {
            self.planning = None;
        }
    }

    pub(super) fn pop(&mut self) -> Option<PlannedBatch> {
        self.queue.pop_front()
    }

    pub(super) fn failing_source(&self) -> Option<usize> {
        let planning = self.planning.as_ref()?;
        planning
            .episodes
            .iter()
            .position(|episode| episode.attempts > 0)
    }

    pub(super) fn ask_again_at(&self) -> Option<Tick> {
        let planning = self.planning.as_ref()?;
        let times = planning.episodes.iter();
        times.filter_map(|episode| episode.again_at).min()
    }
}

impl QueryCore {
    pub(super) fn plan_if_due(&mut self, now: Tick) {
        let waits = self.input.stopping || self.input.planning.is_some();
        if waits || self.is_queue_full() {
            return;
        }
        let wall_millis = self.anchor.wall_millis(now);
        let is_idle = self.current.is_none() && self.input.queue.is_empty();
        let too_early = self.input.poll_at.is_some_and(|at| at > now);
        let Some(clock) = &mut self.input.clock else {
            return;
        };
        if clock.is_back_to_back() && (!is_idle || too_early) {
            return;
        }
        let Some(batch_time) = clock.take(wall_millis) else {
            return;
        };
        if let Trigger::ProcessingTime(every) = self.options.rules.trigger {
            let every = i64::try_from(every.max(1)).unwrap_or(i64::MAX);
            let next = wall_millis
                .div_euclid(every)
                .saturating_add(1)
                .saturating_mul(every);
            self.input.poll_at = Some(self.anchor.tick(next));
        }
        let sources = self.options.sources.len();
        let batch = self.input.next;
        self.input.planning = Some(Planning {
            begun: now,
            batch,
            batch_time,
            want_seen: self.purge.is_due(batch),
            answers: vec![None; sources],
            episodes: vec![Episode::default(); sources],
        });
        for (source, _) in (0u32..).map(SourceId).zip(0..sources) {
            self.ask(source);
        }
        if sources == 0 {
            self.plan_is_whole(now);
        }
    }

    fn is_queue_full(&mut self) -> bool {
        let queued = self.input.queue.len();
        let is_full = queued >= self.options.max_queued.max(1);
        if is_full && !self.input.full_noted {
            self.actions.push(Action::Noted(Note::QueueFull { queued }));
        }
        self.input.full_noted = is_full;
        is_full
    }

    /// When `plan_if_due` may have something to do.
    pub(super) fn plan_due_at(&self) -> Option<Tick> {
        let input = &self.input;
        let is_full = input.queue.len() >= self.options.max_queued.max(1);
        if input.stopping || input.planning.is_some() || is_full {
            return None;
        }
        let clock = input.clock.as_ref()?;
        if clock.is_back_to_back() {
            return input.poll_at;
        }
        Some(self.anchor.tick(clock.due_at()))
    }

    fn ask(&mut self, source: SourceId) {
        let Some(planning) = &self.input.planning else {
            return;
        };
        let max_rows = index(source)
            .and_then(|index| self.input.rates.get(index))
            .and_then(|rate| rate.as_ref()?.max_rows());
        self.actions.push(Action::Plan {
            life: self.life,
            source,
            request: PlanRequest {
                batch: planning.batch,
                batch_time: planning.batch_time,
                max_rows,
                interval_millis: self.options.interval_millis,
            },
            want_seen: planning.want_seen,
        });
    }

    pub(super) fn ask_sources_again(&mut self, now: Tick) {
        let Some(planning) = &mut self.input.planning else {
            return;
        };
        let mut due = Vec::new();
        for (source, episode) in (0u32..).map(SourceId).zip(&mut planning.episodes) {
            if episode.again_at.is_some_and(|at| at <= now) {
                episode.again_at = None;
                due.push(source);
            }
        }
        for source in due {
            self.ask(source);
        }
    }

    pub(super) fn planned(
        &mut self,
        now: Tick,
        batch: BatchId,
        source: SourceId,
        result: Result<SourcePlanned, Failure>,
    ) -> Result<(), QueryError> {
        let id = self.source_name(source);
        let stopping = self.input.stopping;
        let planning = self.input.planning.as_mut();
        let Some(planning) = planning.filter(|planning| planning.batch == batch) else {
            return Ok(());
        };
        let Some(position) = index(source).filter(|index| *index < planning.answers.len()) else {
            return Ok(());
        };
        let episode = &mut planning.episodes[position];
        match result {
            Ok(answer) => {
                if episode.attempts > 0 {
                    self.actions.push(Action::Noted(Note::SourceBack {
                        source: id,
                        attempts: episode.attempts,
                    }));
                }
                *episode = Episode::default();
                planning.answers[position] = Some(answer);
                if planning.answers.iter().all(Option::is_some) {
                    self.plan_is_whole(now);
                }
                Ok(())
            }
            Err(failure) if failure.retry == Retry::Never => Err(source_error(&id, failure)),
            Err(_) if stopping => {
                self.input.planning = None;
                Ok(())
            }
            Err(failure) => {
                let pause = FIRST_PAUSE.saturating_mul(1 << episode.attempts.min(10));
                episode.attempts += 1;
                episode.again_at = Some(now.after(pause.min(LONGEST_PAUSE)));
                if episode.attempts == 1 {
                    self.actions.push(Action::Noted(Note::SourceWaits {
                        source: id,
                        failure: Box::new(failure),
                    }));
                }
                Ok(())
            }
        }
    }

    fn plan_is_whole(&mut self, now: Tick) {
        let Some(planning) = self.input.planning.take() else {
            return;
        };
        let sources: Vec<SourcePlanned> = planning.answers.into_iter().flatten().collect();
        let is_empty = sources.iter().all(|source| source.input.splits.is_empty());
        let back_to_back = self.options.interval_millis == 0;
        if back_to_back && is_empty && !self.event_times.is_due {
            let soon = now.after(POLL_EVERY);
            self.input.poll_at = match self.options.rules.trigger {
                Trigger::ProcessingTime(_) => self.input.poll_at.max(Some(soon)),
                _ => Some(soon),
            };
            self.input.empty_looks += 1;
            return;
        }
        self.input.taken += 1;
        self.input.next = planning.batch.next();
        self.input.queue.push_back(PlannedBatch {
            batch: planning.batch,
            batch_time: planning.batch_time,
            sources,
            has_seen: planning.want_seen,
            took: now.since(planning.begun),
        });
    }

    /// Whether a query that ends by itself has done what it was started for.
    pub(super) fn is_complete(&self) -> bool {
        match self.options.rules.trigger {
            Trigger::Interval | Trigger::ProcessingTime(_) => false,
            Trigger::Once => self.input.taken > 0 || self.input.empty_looks > 0,
            Trigger::AvailableNow => self.input.empty_looks > 0,
        }
    }

    /// Starts the oldest queued batch when nothing else runs.
    pub(super) fn start_next(&mut self, now: Tick) -> Result<(), QueryError> {
        if self.current.is_some() || self.guard.is_full() {
            return Ok(());
        }
        let Some(planned) = self.input.pop() else {
            return Ok(());
        };
        let author = self.author();
        let wall_millis = self.anchor.wall_millis(now);
        let watermarks = self.event_times.next;
        let batch = Batch::planned(planned, author, &self.options, watermarks, now, wall_millis);
        self.log(batch)
    }
}

fn index(source: SourceId) -> Option<usize> {
    usize::try_from(source.0).ok()
}
