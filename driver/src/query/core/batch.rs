//! One batch: log, run, commit, publish.

use std::{collections::BTreeMap, time::Duration};

use millstream_common::{
    config::{self, ByteSize},
    failure::{Failure, FailureKind},
    ids::{BatchId, OutputIndex},
    protocol::{SinkCommit, StateFile, Watermarks},
    time::Tick,
};
use serde_json::Value;

use super::{
    super::{
        entries::{Author, Commit, Name, Offsets, OutputCommit},
        error::QueryError,
        event::{Action, CoreOptions, Note},
        progress::{BatchProgress, PartTimes, SourceProgress},
        rate::RateSample,
    },
    QueryCore,
    event_time::{self, EventTimes},
    guard::Guarded,
    input::PlannedBatch,
    start::{FILES, Phase, reference, shown_position},
};
use crate::{output::PartitionResult, scheduler::message::BatchSummary};

/// How far a batch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// `offsets/b` is being put.
    Logging,
    /// The scheduler has it.
    Running,
    /// `commits/b` is being put.
    Committing,
    /// Committed; being published.
    Publishing,
}

/// The batch that was started.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) step: Step,
    pub(super) offsets: Offsets,
    rerun: bool,
    /// Everything taken up to this batch, by source, where it was asked for.
    seen: Option<Vec<Option<Value>>>,
    lag: Vec<Vec<(String, u64)>>,
    /// The newest positions that the sources saw.
    latest: Vec<Value>,
    parts: PartTimes,
    /// When the part began that is under way.
    part_begun: Tick,
    started: Tick,
    delay_millis: f64,
    winners: Vec<Vec<SinkCommit>>,
    summary: BatchSummary,
    /// The whole state after it.
    state: Vec<StateFile>,
    /// Event times after it.
    event_times: EventTimes,
}

impl Batch {
    pub(super) fn id(&self) -> BatchId {
        self.offsets.batch
    }

    /// A part is over: how long it took. The next one begins.
    fn next_part(&mut self, now: Tick) -> Duration {
        let took = now.since(self.part_begun);
        self.part_begun = now;
        took
    }

    pub(super) fn planned(
        planned: PlannedBatch,
        author: Author,
        options: &CoreOptions,
        watermarks: Watermarks,
        now: Tick,
        wall_millis: i64,
    ) -> Self {
        let mut inputs = Vec::new();
        let mut seen = Vec::new();
        let mut lag = Vec::new();
        let mut latest = Vec::new();
        for source in planned.sources {
            inputs.push(source.input);
            seen.push(source.seen);
            lag.push(source.lag);
            latest.push(source.latest.unwrap_or_default());
        }
        let offsets = Offsets {
            author,
            batch: planned.batch,
            batch_time: planned.batch_time,
            build_id: options.build_id.clone(),
            sources: inputs,
            watermarks: event_time::logged(watermarks),
            broadcasts: Default::default(),
            tables: Default::default(),
            configuration: options.affecting.clone(),
        };
        let mut batch = Self::of(offsets, now, wall_millis, options.outputs.len());
        batch.seen = planned.has_seen.then_some(seen);
        batch.lag = lag;
        batch.latest = latest;
        batch.parts.planning = planned.took;
        batch
    }

    pub(super) fn rerun(offsets: Offsets, now: Tick, wall_millis: i64, outputs: usize) -> Self {
        let mut batch = Self::of(offsets, now, wall_millis, outputs);
        batch.rerun = true;
        batch
    }

    fn of(offsets: Offsets, now: Tick, wall_millis: i64, outputs: usize) -> Self {
        let delay = wall_millis.saturating_sub(offsets.batch_time.0).max(0);
        Self {
            step: Step::Logging,
            rerun: false,
            seen: None,
            lag: Vec::new(),
            latest: Vec::new(),
            parts: PartTimes::default(),
            part_begun: now,
            started: now,
            delay_millis: delay as f64,
            winners: vec![Vec::new(); outputs],
            summary: BatchSummary::default(),
            state: Vec::new(),
            event_times: EventTimes::default(),
            offsets,
        }
    }
}

impl QueryCore {
    pub(super) fn log(&mut self, batch: Batch) -> Result<(), QueryError> {
        self.put(Name::Offsets(batch.id()), &batch.offsets)?;
        self.current = Some(batch);
        Ok(())
    }

    pub(super) fn logged(&mut self, now: Tick, batch: BatchId) {
        if self.batch_is(batch, Step::Logging)
            && let Some(mut batch) = self.current.take()
        {
            batch.parts.logging = batch.next_part(now);
            self.run(now, batch);
        }
    }

    pub(super) fn run(&mut self, now: Tick, mut batch: Batch) {
        batch.part_begun = now;
        let inputs = batch.offsets.sources.iter();
        let spill_threshold = if batch.rerun {
            config::logged_spill_threshold(&batch.offsets.configuration)
        } else {
            None
        };
        self.actions.push(Action::Run {
            batch: reference(&batch.offsets),
            splits: inputs.map(|input| input.splits.clone()).collect(),
            state: self.state.current(),
            watermarks: event_time::of_log(&batch.offsets.watermarks),
            rerun: batch.rerun,
            spill_threshold: spill_threshold.map(ByteSize::bytes),
        });
        batch.step = Step::Running;
        self.current = Some(batch);
    }

    pub(super) fn output_ready(
        &mut self,
        batch: BatchId,
        output: OutputIndex,
        results: Vec<PartitionResult>,
    ) {
        if !self.batch_is(batch, Step::Running) {
            return;
        }
        self.waits_for_executor = false;
        let Some(current) = &mut self.current else {
            return;
        };
        let winners = usize::try_from(output.0)
            .ok()
            .and_then(|index| current.winners.get_mut(index));
        if let Some(winners) = winners {
            let sinks = results.iter().filter_map(|result| result.sink.clone());
            *winners = sinks.collect();
        }
        self.actions.push(Action::Complete {
            life: self.life,
            batch: reference(&current.offsets),
            output,
            results,
        });
    }

    pub(super) fn completed(
        &mut self,
        batch: BatchId,
        output: OutputIndex,
        result: Result<(), Failure>,
    ) -> Result<(), QueryError> {
        if !self.batch_is(batch, Step::Running) {
            return Ok(());
        }
        match result {
            Ok(()) => {
                self.actions.push(Action::OutputDone { batch, output });
                Ok(())
            }
            Err(failure) => {
                if let FailureKind::FetchFailed { block, executor } = failure.kind {
                    self.actions.push(Action::OutputFetchFailed {
                        batch,
                        output,
                        task: block.task,
                        executor,
                        failure: Box::new(failure),
                    });
                    return Ok(());
                }
                self.batch_failed(batch, failure)
            }
        }
    }

    pub(super) fn batch_failed(
        &mut self,
        batch: BatchId,
        failure: Failure,
    ) -> Result<(), QueryError> {
        if !self.batch_is(batch, Step::Running) {
            return Ok(());
        }
        Err(QueryError::Batch {
            batch,
            failure: Box::new(failure),
        })
    }

    pub(super) fn no_executor(&mut self, batch: BatchId) {
        if self.batch_is(batch, Step::Running) {
            self.waits_for_executor = true;
            self.actions.push(Action::Noted(Note::NoExecutor { batch }));
        }
    }

    pub(super) fn batch_done(
        &mut self,
        now: Tick,
        batch: BatchId,
        summary: BatchSummary,
    ) -> Result<(), QueryError> {
        if !self.batch_is(batch, Step::Running) {
            return Ok(());
        }
        self.waits_for_executor = false;
        let author = self.author();
        let ids = self.options.outputs.iter().map(|output| output.id.clone());
        let Some(current) = &mut self.current else {
            return Ok(());
        };
        current.parts.running = current.next_part(now);
        let outputs = ids.zip(&current.winners).map(|(id, winners)| OutputCommit {
            id,
            winners: winners.clone(),
        });
        let rules = &self.options.rules;
        let own = event_time::of_log(&current.offsets.watermarks);
        let event_times = self.event_times.after(
            &rules.event_times,
            rules.waits_for_watermark,
            own,
            &latest_seen(&summary),
        );
        let commit = Commit {
            author,
            batch,
            outputs: outputs.collect(),
            state: self.state.after(&summary.state),
            event_time_maxima: event_times.maxima.clone(),
            next_watermarks: event_time::logged(event_times.next),
            no_data_batch_due: event_times.is_due,
        };
        current.event_times = event_times;
        current.state = commit.state.clone();
        current.summary = summary;
        current.step = Step::Committing;
        self.put(Name::Commit(batch), &commit)
    }

    pub(super) fn committed(&mut self, now: Tick, batch: BatchId) -> Result<(), QueryError> {
        if !self.batch_is(batch, Step::Committing) {
            return Ok(());
        }
        self.actions.push(Action::Release { batch });
        if let Some(current) = &mut self.current {
            let state = std::mem::take(&mut current.state);
            self.state.committed(batch, &state);
            self.event_times = std::mem::take(&mut current.event_times);
        }
        if self.publishes() {
            if let Some(current) = &mut self.current {
                current.step = Step::Publishing;
            }
            self.guarded(now, Guarded::Publish);
            return Ok(());
        }
        self.batch_is_over(now)
    }

    /// No higher epoch is claimed: the committed batch may be seen.
    pub(super) fn publish(&mut self) {
        let Some(current) = &mut self.current else {
            return;
        };
        self.actions.push(Action::Publish {
            life: self.life,
            batch: reference(&current.offsets),
            winners: std::mem::take(&mut current.winners),
        });
    }

    pub(super) fn published(
        &mut self,
        now: Tick,
        batch: BatchId,
        result: Result<(), (OutputIndex, Failure)>,
    ) -> Result<(), QueryError> {
        if let Err((output, failure)) = result {
            let what = format!("publish batch {batch}");
            return Err(self.output_error(output, &what, failure));
        }
        if matches!(self.phase, Phase::Finishing(_)) {
            self.activate(now);
            return Ok(());
        }
        if !self.batch_is(batch, Step::Publishing) {
            return Ok(());
        }
        self.batch_is_over(now)
    }

    /// Committed and published: the next batch may be logged.
    fn batch_is_over(&mut self, now: Tick) -> Result<(), QueryError> {
        let Some(mut batch) = self.current.take() else {
            return Ok(());
        };
        batch.parts.committing = batch.next_part(now);
        if batch.step == Step::Publishing {
            self.actions.push(Action::Sweep {
                batch: reference(&batch.offsets),
            });
        }
        let processing = now.since(batch.started);
        let processing_millis = processing.as_micros() as f64 / 1_000.0;
        if !batch.rerun {
            self.learn_rates(now, &batch, processing_millis);
        }
        let sources = self.source_progress(&mut batch);
        self.actions.push(Action::Progress(Box::new(BatchProgress {
            query: self.query,
            epoch: self.epoch,
            batch: batch.offsets.batch,
            batch_time: batch.offsets.batch_time,
            rerun: batch.rerun,
            scheduling_delay_millis: batch.delay_millis,
            processing_millis,
            queued: self.input.queued(),
            parts: batch.parts,
            watermarks: event_time::of_log(&batch.offsets.watermarks),
            sources,
            summary: batch.summary,
            state: self.state.progress(),
        })));
        let id = batch.offsets.batch;
        self.guarded(now, Guarded::Tell(id, batch.offsets.sources));
        if let Some(seen) = batch.seen {
            self.purge_after(now, id, seen)?;
        }
        Ok(())
    }

    fn source_progress(&mut self, batch: &mut Batch) -> Vec<SourceProgress> {
        let number = batch.offsets.batch;
        let mut lags = std::mem::take(&mut batch.lag).into_iter();
        let mut latest = std::mem::take(&mut batch.latest).into_iter();
        let mut read = batch.summary.source_rows.iter().copied();
        self.shown.resize(batch.offsets.sources.len(), Value::Null);
        let ids = self.options.sources.iter().zip(&mut self.shown);
        let sources = ids.zip(&batch.offsets.sources);
        let progress = sources.map(|((id, shown), input)| {
            let position = shown_position(number, input, shown);
            let has_none = input.position.is_null() && shown.get(FILES).is_none();
            let before = std::mem::replace(shown, position.clone());
            SourceProgress {
                id: id.clone(),
                splits: input.splits.len(),
                before: if has_none { Value::Null } else { before },
                position,
                latest: latest.next().unwrap_or_default(),
                rows: input.splits.iter().map(|split| split.rows).sum(),
                read: read.next().unwrap_or(0),
                lag: lags.next().unwrap_or_default(),
            }
        });
        progress.collect()
    }

    fn learn_rates(&mut self, now: Tick, batch: &Batch, processing_millis: f64) {
        let end_millis = self.anchor.wall_millis(now);
        for (rate, input) in self.input.rates.iter_mut().zip(&batch.offsets.sources) {
            let rows: Option<u64> = input.splits.iter().map(|split| split.rows).sum();
            if let (Some(rate), Some(rows)) = (rate, rows) {
                rate.learn(RateSample {
                    end_millis,
                    rows,
                    processing_millis,
                    scheduling_delay_millis: batch.delay_millis,
                });
            }
        }
    }
}

/// The latest event times of a batch that count for the watermark, by column.
fn latest_seen(summary: &BatchSummary) -> BTreeMap<String, i64> {
    let seen = summary.event_times.iter();
    seen.filter_map(|(column, seen)| Some((column.clone(), seen.counted?)))
        .collect()
}
