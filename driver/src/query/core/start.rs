//! From nothing, or from a checkpoint, to the first batch.

use std::collections::BTreeSet;

use millstream_common::{
    failure::Failure,
    ids::{Epoch, OutputIndex, SourceId},
    protocol::SinkCommit,
    time::Tick,
};
use serde_json::Value;

use super::{
    super::{
        checkpoint::{self, CheckpointError, Expectation, RawCheckpoint, Recovered},
        entries::{CHECKPOINT_VERSION, Claim, Metadata, Name, Offsets, SourceStart},
        error::{QueryError, StoreFailure},
        event::{Action, BatchRef, Life, Note},
    },
    QueryCore,
    batch::{Batch, Step},
    event_time::EventTimes,
    guard::{Guard, Guarded},
};

/// How often a checkpoint that lacks entries is read again before it is refused.
pub(super) const READS: u32 = 5;

/// Where the query is between its start and its end.
#[derive(Debug)]
pub(super) enum Phase {
    New,
    /// Reading, before anything is changed.
    Inspecting,
    /// Putting a claim.
    Claiming,
    /// Reading what counts: under our claim.
    Reading,
    /// Putting the metadata.
    Founding(Box<Recovered>),
    /// Sources find where to begin, or go on from the log.
    Preparing {
        recovered: Box<Recovered>,
        left: BTreeSet<SourceId>,
    },
    /// Outputs are asked whether everything is there.
    Checking(Box<Recovered>),
    /// The newest commit is published again.
    Finishing(Box<Recovered>),
    Active,
    Ended,
}

impl Phase {
    pub(super) fn recovered(&self) -> Option<&Recovered> {
        match self {
            Self::Founding(recovered)
            | Self::Preparing { recovered, .. }
            | Self::Checking(recovered)
            | Self::Finishing(recovered) => Some(recovered),
            _ => None,
        }
    }
}

impl QueryCore {
    pub(super) fn begin(&mut self) {
        self.phase = Phase::Inspecting;
        self.actions
            .push(Action::ReadCheckpoint { life: self.life });
    }

    /// Drops what is in flight and goes on from what the logs say now.
    pub(super) fn read_again(&mut self) {
        if let Some(batch) = self.current.take()
            && batch.step != Step::Logging
        {
            let batch = batch.id();
            self.actions.push(Action::Abort { batch });
            self.actions.push(Action::Release { batch });
        }
        self.life = Life(self.life.0 + 1);
        self.puts.clear();
        self.input.clear();
        self.guard = Guard::default();
        self.purge.clear();
        self.phase = Phase::Reading;
        self.actions
            .push(Action::ReadCheckpoint { life: self.life });
    }

    pub(super) fn checkpoint_read(
        &mut self,
        raw: Result<RawCheckpoint, StoreFailure>,
    ) -> Result<(), QueryError> {
        let raw = raw?;
        // First, since entries of another application may well look incomplete.
        let metadata = checkpoint::metadata(&raw)?;
        if let Some(metadata) = &metadata {
            let now = Expectation {
                fingerprint: &self.options.fingerprint,
                routing_version: self.options.routing_version,
            };
            checkpoint::agree(metadata, &now)?;
        }
        let recovered = match checkpoint::recover(&raw, metadata, &self.options.sources) {
            // A driver that still runs may have purged what was about to be read.
            Err(CheckpointError::Incomplete { .. }) if self.reads_left > 0 => {
                self.reads_left -= 1;
                self.actions
                    .push(Action::ReadCheckpoint { life: self.life });
                return Ok(());
            }
            recovered => recovered?,
        };
        self.reads_left = READS;
        match self.phase {
            Phase::Inspecting => self.claim(Epoch(recovered.highest_epoch.0 + 1)),
            Phase::Reading => {
                self.not_superseded(recovered.highest_epoch)?;
                self.found_or_prepare(recovered)
            }
            _ => Ok(()),
        }
    }

    fn claim(&mut self, epoch: Epoch) -> Result<(), QueryError> {
        self.phase = Phase::Claiming;
        self.epoch = epoch;
        let claim = Claim {
            author: self.author(),
            address: self.options.address.clone(),
            time_millis: self.anchor.wall_millis,
            build_id: self.options.build_id.clone(),
        };
        self.put(Name::Epoch(epoch), &claim)
    }

    pub(super) fn claimed(&mut self, epoch: Epoch, won: bool) -> Result<(), QueryError> {
        if !won {
            return self.claim(Epoch(epoch.0 + 1));
        }
        self.phase = Phase::Reading;
        self.actions
            .push(Action::ReadCheckpoint { life: self.life });
        Ok(())
    }

    fn found_or_prepare(&mut self, recovered: Recovered) -> Result<(), QueryError> {
        if let Some(metadata) = &recovered.metadata {
            self.query = metadata.query;
            self.prepare(recovered, false);
            return Ok(());
        }
        let metadata = Metadata {
            author: self.author(),
            query: self.options.fresh_query,
            version: CHECKPOINT_VERSION,
            release: env!("CARGO_PKG_VERSION").to_owned(),
            fingerprint: self.options.fingerprint.clone(),
            routing_version: self.options.routing_version,
            arguments: self.options.arguments.clone(),
            configuration: self.options.configuration.clone(),
            recorded: self.options.recorded.clone(),
        };
        self.query = metadata.query;
        self.phase = Phase::Founding(Box::new(recovered));
        self.put(Name::Metadata, &metadata)
    }

    pub(super) fn founded(&mut self) -> Result<(), QueryError> {
        if let Phase::Founding(recovered) = std::mem::replace(&mut self.phase, Phase::New) {
            self.prepare(*recovered, true);
        }
        Ok(())
    }

    fn prepare(&mut self, recovered: Recovered, first: bool) {
        if !self.ready_said {
            self.actions.push(Action::Noted(Note::Claimed {
                epoch: self.epoch,
                first,
            }));
        }
        let mut left = BTreeSet::new();
        for (source, history) in (0u32..).map(SourceId).zip(&recovered.histories) {
            left.insert(source);
            let action = match history {
                None => Action::StartSource {
                    life: self.life,
                    source,
                },
                Some(history) => Action::RestoreSource {
                    life: self.life,
                    source,
                    history: history.clone(),
                },
            };
            self.actions.push(action);
        }
        self.phase = Phase::Preparing {
            recovered: Box::new(recovered),
            left,
        };
        self.check_outputs_if_prepared();
    }

    pub(super) fn source_started(
        &mut self,
        source: SourceId,
        result: Result<Value, Failure>,
    ) -> Result<(), QueryError> {
        let id = self.source_name(source);
        let start = result.map_err(|failure| source_error(&id, failure))?;
        let entry = SourceStart {
            author: self.author(),
            id,
            start,
        };
        self.put(Name::Start(source), &entry)
    }

    pub(super) fn source_restored(
        &mut self,
        source: SourceId,
        result: Result<(), Failure>,
    ) -> Result<(), QueryError> {
        let id = self.source_name(source);
        result.map_err(|failure| source_error(&id, failure))?;
        self.source_is_ready(source);
        Ok(())
    }

    pub(super) fn source_is_ready(&mut self, source: SourceId) {
        if let Phase::Preparing { left, .. } = &mut self.phase {
            left.remove(&source);
        }
        self.check_outputs_if_prepared();
    }

    fn check_outputs_if_prepared(&mut self) {
        let prepared = matches!(&self.phase, Phase::Preparing { left, .. } if left.is_empty());
        if !prepared {
            return;
        }
        if let Phase::Preparing { recovered, .. } = std::mem::replace(&mut self.phase, Phase::New) {
            let next = next_to_run(&recovered);
            let uncommitted = recovered.uncommitted.as_ref();
            self.actions.push(Action::CheckOutputs {
                life: self.life,
                query: self.query,
                epoch: self.epoch,
                next,
                interrupted: uncommitted.map(|entry| {
                    let splits = entry.sources.iter().map(|input| input.splits.len());
                    (entry.build_id.clone(), splits.collect())
                }),
                outputs: self
                    .options
                    .outputs
                    .iter()
                    .map(|output| output.id.clone())
                    .collect(),
            });
            self.phase = Phase::Checking(recovered);
        }
    }

    pub(super) fn outputs_checked(
        &mut self,
        now: Tick,
        result: Result<(), (OutputIndex, Failure)>,
    ) -> Result<(), QueryError> {
        if let Err((output, failure)) = result {
            return Err(self.output_error(output, "be written to", failure));
        }
        let Phase::Checking(recovered) = std::mem::replace(&mut self.phase, Phase::New) else {
            return Ok(());
        };
        if !self.ready_said {
            self.ready_said = true;
            self.actions.push(Action::Ready {
                query: self.query,
                epoch: self.epoch,
                next: next_to_run(&recovered),
            });
        }
        let nothing_to_finish = recovered.newest_commit.is_none() && recovered.strays.is_empty();
        self.phase = Phase::Finishing(recovered);
        self.watch(now);
        if nothing_to_finish {
            self.activate(now);
        } else {
            self.guarded(now, Guarded::Finish);
        }
        Ok(())
    }

    /// No higher epoch is claimed: the newest commit's files may be published, which they may be already.
    pub(super) fn finish_newest(&mut self, now: Tick) -> Result<(), QueryError> {
        let Phase::Finishing(recovered) = &self.phase else {
            return Ok(());
        };
        let publish = recovered
            .newest_commit
            .as_ref()
            .filter(|_| self.publishes());
        if let Some(newest) = publish {
            let winners = self.winners_by_output(&newest.commit.outputs);
            let batch = reference(&newest.offsets);
            self.actions.push(Action::Publish {
                life: self.life,
                batch,
                winners,
            });
        } else {
            self.activate(now);
        }
        Ok(())
    }

    /// Commits name outputs by their stable ids, which may have been put into another order since.
    fn winners_by_output(
        &self,
        committed: &[super::super::entries::OutputCommit],
    ) -> Vec<Vec<SinkCommit>> {
        let winners_of = |id: &str| {
            committed
                .iter()
                .find(|output| output.id == id)
                .map(|output| output.winners.clone())
                .unwrap_or_default()
        };
        self.options
            .outputs
            .iter()
            .map(|output| winners_of(&output.id))
            .collect()
    }

    /// Tells the sources of the newest commit again, removes strays, and begins with batches.
    pub(super) fn activate(&mut self, now: Tick) {
        let Phase::Finishing(recovered) = std::mem::replace(&mut self.phase, Phase::Active) else {
            return;
        };
        let recovered = *recovered;
        let newest_time = recovered
            .uncommitted
            .as_ref()
            .or(recovered
                .newest_commit
                .as_ref()
                .map(|newest| &newest.offsets))
            .map(|entry| entry.batch_time);
        self.event_times = EventTimes::default();
        if let Some(newest) = recovered.newest_commit {
            self.event_times = EventTimes::restored(&newest.commit);
            let batch = reference(&newest.offsets);
            self.actions.push(Action::TellCommitted {
                batch: batch.batch,
                inputs: newest.offsets.sources,
            });
            if self.publishes() {
                self.actions.push(Action::Sweep { batch });
            }
        }
        self.purge.begin(recovered.oldest, recovered.seen);
        self.state = recovered.state;
        self.sweep_state();
        if !recovered.strays.is_empty() {
            self.actions.push(Action::Noted(Note::Strays {
                names: recovered.strays.clone(),
            }));
            self.purge.remove_strays();
            self.actions.push(Action::Delete {
                life: self.life,
                names: recovered.strays,
            });
        }
        let wall_millis = self.anchor.wall_millis(now);
        if let Some(newest) = newest_time
            && newest.0 > wall_millis
        {
            self.actions.push(Action::Noted(Note::ClockBehind {
                newest,
                wall_millis,
            }));
        }
        self.input.begin(
            self.options.interval_millis,
            wall_millis,
            newest_time,
            recovered.next,
        );
        if let Some(offsets) = recovered.uncommitted {
            self.actions.push(Action::Noted(Note::Rerun {
                batch: offsets.batch,
            }));
            let batch = Batch::rerun(offsets, now, wall_millis, self.options.outputs.len());
            self.input.took_one();
            self.run(batch);
        }
    }

    pub(super) fn source_name(&self, source: SourceId) -> String {
        usize::try_from(source.0)
            .ok()
            .and_then(|index| self.options.sources.get(index).cloned())
            .unwrap_or_else(|| source.to_string())
    }

    pub(super) fn output_error(
        &self,
        output: OutputIndex,
        what: &str,
        failure: Failure,
    ) -> QueryError {
        let known = usize::try_from(output.0)
            .ok()
            .and_then(|index| self.options.outputs.get(index));
        QueryError::Output {
            output: known.map_or_else(|| output.to_string(), |info| info.id.clone()),
            what: what.to_owned(),
            failure: Box::new(failure),
        }
    }

    pub(super) fn publishes(&self) -> bool {
        self.options.outputs.iter().any(|output| output.publishes)
    }
}

fn next_to_run(recovered: &Recovered) -> millstream_common::ids::BatchId {
    recovered
        .uncommitted
        .as_ref()
        .map_or(recovered.next, |entry| entry.batch)
}

pub(super) fn source_error(id: &str, failure: Failure) -> QueryError {
    QueryError::Source {
        source_id: id.to_owned(),
        failure: Box::new(failure),
    }
}

pub(super) fn reference(offsets: &Offsets) -> BatchRef {
    BatchRef {
        batch: offsets.batch,
        batch_time: offsets.batch_time,
    }
}
