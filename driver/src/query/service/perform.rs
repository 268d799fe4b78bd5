//! What each action of the state machine does outside.

use std::{path::PathBuf, sync::Arc};

use millstream_common::{
    failure::{Failure, FailureKind, Retry},
    ids::{OutputIndex, SourceId},
    protocol::{QueryProgram, SinkCommit, TaskCounts},
};
use millstream_connectors::sink::{Interrupted, SinkStart};
use millstream_dataflow::plan::StagePlan;
use parking_lot::Mutex;

use super::{
    super::{
        error::{QueryError, Stopped},
        event::{Action, Event, Note},
        handle::Ready,
        progress::BatchProgress,
        shared_file::SharedFiles,
    },
    Running,
    sources::{Command, panic_message},
};
use crate::{
    output::{BatchInfo, BlockReader, OutputDriver, PartitionResult},
    scheduler::message,
};

type Outputs = Arc<[Arc<dyn OutputDriver>]>;

impl Running {
    /// Begins what the action asks for. The result is the query's, once it is over.
    pub(super) fn perform(
        &mut self,
        action: Action,
    ) -> Result<Option<Result<Stopped, QueryError>>, QueryError> {
        let storage = self.storage.clone();
        match action {
            Action::ReadCheckpoint { life } => {
                self.tasks.spawn(async move {
                    let raw = storage.read().await;
                    Some(Event::Checkpoint { life, raw })
                });
            }
            Action::Put { life, name, bytes } => {
                self.tasks.spawn(async move {
                    let result = storage.put(&name, bytes).await;
                    Some(Event::Put { life, name, result })
                });
            }
            Action::ListEpochs { life } => {
                self.tasks.spawn(async move {
                    let highest = storage.highest_epoch().await;
                    Some(Event::Epochs { life, highest })
                });
            }
            Action::Delete { life, names } => {
                self.tasks.spawn(async move {
                    let result = storage.delete(&names).await;
                    Some(Event::Deleted { life, result })
                });
            }
            Action::StartSource { life, source } => self.tell(source, Command::Start(life))?,
            Action::RestoreSource {
                life,
                source,
                history,
            } => self.tell(source, Command::Restore(life, history))?,
            Action::Plan {
                life,
                source,
                request,
                want_seen,
            } => self.tell(source, Command::Plan(life, request, want_seen))?,
            Action::TellCommitted { batch, inputs } => {
                for (source, input) in (0u32..).map(SourceId).zip(inputs) {
                    self.tell(source, Command::Committed(batch, input))?;
                }
            }
            Action::CheckOutputs {
                life,
                query,
                epoch,
                next,
                interrupted,
                outputs: ids,
            } => {
                let outputs = Arc::clone(&self.outputs);
                let folder = self.checkpoint_folder.clone();
                let plan = Arc::clone(&self.plan);
                let shared = Arc::clone(&self.shared_files);
                self.tasks.spawn(async move {
                    let result = async {
                        let mut folders: Vec<(OutputIndex, PathBuf, &str)> = Vec::new();
                        folders.extend(folder.map(|folder| (OutputIndex(0), folder, "checkpoint")));
                        for ((index, output), id) in indexed(&outputs).zip(ids) {
                            let start = SinkStart {
                                query,
                                output: id,
                                next,
                                interrupted: interrupted.as_ref().map(|(build, splits)| {
                                    Interrupted {
                                        build: build.clone(),
                                        partitions: plan.output_partitions(index, splits),
                                    }
                                }),
                            };
                            let found = output.check(&start).await;
                            let found = found.map_err(|failure| (index, failure))?;
                            folders.extend(found.into_iter().map(|path| (index, path, "output")));
                        }
                        write_shared(shared, folders, super::Running::grant(query, epoch)).await
                    }
                    .await;
                    Some(Event::OutputsChecked { life, result })
                });
            }
            Action::Ready { query, epoch, next } => {
                self.span.record("query", tracing::field::display(query));
                self.span.record("epoch", epoch.0);
                let grant = Self::grant(query, epoch);
                self.added = Some(grant);
                if let Some(bytes) = &self.program {
                    let folder = self.checkpoint_folder.as_ref();
                    self.outbox
                        .push_back(message::Event::Program(Box::new(QueryProgram {
                            query,
                            bytes: bytes.clone(),
                            checkpoint: folder.map(|folder| folder.display().to_string()),
                            shared_files: self.shared_files.lock().files().to_vec(),
                        })));
                }
                self.outbox.push_back(message::Event::QueryAdded(grant));
                let shared_files = self.shared_files.lock().files().to_vec();
                self.desk.ready.send_replace(Some(Ready {
                    query,
                    epoch,
                    next,
                    shared_files,
                }));
            }
            Action::Run {
                batch,
                splits,
                state,
                watermarks,
                rerun,
                spill_threshold,
            } => {
                let info = self.batch_info(batch);
                tracing::debug!(batch = %info.batch, rerun, "batch started");
                self.outbox
                    .push_back(message::Event::Run(message::BatchRun {
                        query: info.query,
                        epoch: info.epoch,
                        batch: info.batch,
                        batch_time: info.batch_time,
                        plan: Arc::clone(&self.plan),
                        splits,
                        state,
                        watermarks,
                        rerun,
                        spill_threshold,
                    }));
            }
            Action::Complete {
                life,
                batch,
                output,
                results,
            } => {
                let info = self.batch_info(batch);
                let driver = self.output(output)?;
                let blocks = (self.blocks)(info, output, &results);
                self.tasks.spawn(async move {
                    let result = complete(driver, info, results, blocks).await;
                    Some(Event::Completed {
                        life,
                        batch: info.batch,
                        output,
                        result,
                    })
                });
            }
            Action::OutputDone { batch, output } => {
                let query = self.core.query();
                self.outbox.push_back(message::Event::OutputDone {
                    query,
                    batch,
                    output,
                });
            }
            Action::OutputFetchFailed {
                batch,
                output,
                task,
                executor,
                failure,
            } => {
                let query = self.core.query();
                self.outbox.push_back(message::Event::OutputFetchFailed {
                    query,
                    batch,
                    output,
                    task,
                    executor,
                    failure,
                });
            }
            Action::Abort { batch } => {
                let query = self.core.query();
                self.outbox
                    .push_back(message::Event::Abort { query, batch });
            }
            Action::Release { batch } => {
                let query = self.core.query();
                self.outbox
                    .push_back(message::Event::BatchReleased { query, batch });
            }
            Action::Publish {
                life,
                batch,
                winners,
            } => {
                let info = self.batch_info(batch);
                let outputs = Arc::clone(&self.outputs);
                self.tasks.spawn(async move {
                    let result = publish(&outputs, info, &winners).await;
                    Some(Event::Published {
                        life,
                        batch: info.batch,
                        result,
                    })
                });
            }
            Action::Sweep { batch } => {
                let info = self.batch_info(batch);
                let outputs = Arc::clone(&self.outputs);
                self.tasks.spawn(async move {
                    for (_, output) in indexed(&outputs) {
                        if output.publishes() {
                            output.sweep(info).await;
                        }
                    }
                    None
                });
            }
            Action::SweepState {
                reached,
                through,
                epoch,
            } => {
                self.tasks.spawn(async move {
                    if let Err(failure) = storage.sweep_state(&reached, through, epoch).await {
                        tracing::warn!(%failure, "old state files could not be deleted; trying again later");
                    }
                    None
                });
            }
            Action::WakeAt(at) => self.timer = Some(self.clock.until(at)),
            Action::Progress(mut progress) => {
                self.count_state(&mut progress);
                tracing::debug!(
                    batch = %progress.batch,
                    rows = progress.input_rows(),
                    processing_ms = progress.processing_millis,
                    scheduling_delay_ms = progress.scheduling_delay_millis,
                    queued = progress.queued,
                    "batch done"
                );
                self.desk.tell(*progress);
            }
            Action::Status(status) => {
                self.desk.status.send_replace(status);
            }
            Action::Noted(note) => log(note),
            Action::End(result) => return Ok(Some(result)),
        }
        Ok(None)
    }

    /// Says of each operator what its stage's tasks came to.
    fn count_state(&mut self, progress: &mut BatchProgress) {
        for (stage, summary) in progress.summary.stages.iter().enumerate() {
            let changed = summary.state_memory.iter();
            let changed = changed.map(|(partition, bytes)| ((stage, *partition), *bytes));
            self.state_memory.extend(changed);
        }
        for state in &mut progress.state {
            let keeps = |stage: &&StagePlan| {
                let mut kept = stage.stateful.iter();
                kept.any(|operator| operator.id == state.operator)
            };
            let stages = self.plan.stages.iter().zip(&progress.summary.stages);
            let mut stages = stages.enumerate();
            if let Some((number, (_, summary))) = stages.find(|(_, (stage, _))| keeps(stage)) {
                let partitions = self.state_memory.range((number, 0)..(number + 1, 0));
                state.counts = TaskCounts {
                    state_memory_bytes: partitions.map(|(_, bytes)| bytes).sum(),
                    ..summary.counts.clone()
                };
            }
        }
    }

    fn tell(&self, source: SourceId, command: Command) -> Result<(), QueryError> {
        let known = usize::try_from(source.0)
            .ok()
            .and_then(|index| self.sources.get(index));
        match known {
            Some(task) => task.tell(command),
            None => Err(QueryError::Internal(format!("there is no source {source}"))),
        }
    }

    fn output(&self, output: OutputIndex) -> Result<Arc<dyn OutputDriver>, QueryError> {
        let known = usize::try_from(output.0)
            .ok()
            .and_then(|index| self.outputs.get(index));
        known.cloned().ok_or_else(|| {
            QueryError::Internal(format!(
                "the scheduler named output {output}, which isn't there"
            ))
        })
    }
}

fn indexed(outputs: &Outputs) -> impl Iterator<Item = (OutputIndex, &Arc<dyn OutputDriver>)> {
    (0u32..).map(OutputIndex).zip(outputs.iter())
}

async fn write_shared(
    shared: Arc<Mutex<SharedFiles>>,
    folders: Vec<(OutputIndex, PathBuf, &'static str)>,
    grant: millstream_common::protocol::QueryGrant,
) -> Result<(), (OutputIndex, Failure)> {
    if folders.is_empty() {
        return Ok(());
    }
    let written = tokio::task::spawn_blocking(move || {
        let mut shared = shared.lock();
        for (index, folder, purpose) in folders {
            shared
                .add(&folder, grant.query, grant.epoch, purpose)
                .map_err(|error| {
                    let message = format!(
                        "can't write a nonce file in {purpose} folder {}; check that it exists and may be written",
                        folder.display()
                    );
                    (index, Failure::caused_by(FailureKind::Io, message, &error))
                })?;
        }
        Ok(())
    });
    written.await.unwrap_or_else(|error| {
        let message = format!("writing nonce files died: {error}");
        Err((OutputIndex(0), Failure::new(FailureKind::Internal, message)))
    })
}

/// Runs an output's driver half where it may panic without harm to the query.
async fn complete(
    driver: Arc<dyn OutputDriver>,
    info: BatchInfo,
    results: Vec<PartitionResult>,
    blocks: Arc<dyn BlockReader>,
) -> Result<(), Failure> {
    let done = tokio::spawn(async move { driver.complete(info, &results, blocks).await });
    match done.await {
        Ok(result) => result,
        Err(error) => Err(match error.try_into_panic() {
            Ok(panic) => {
                let message = format!(
                    "the output's callback panicked: {}",
                    panic_message(panic.as_ref())
                );
                Failure::new(FailureKind::UserCode, message).with_retry(Retry::Never)
            }
            Err(error) => Failure::new(FailureKind::Cancelled, error.to_string()),
        }),
    }
}

async fn publish(
    outputs: &Outputs,
    info: BatchInfo,
    winners: &[Vec<SinkCommit>],
) -> Result<(), (OutputIndex, Failure)> {
    for ((index, output), winners) in indexed(outputs).zip(winners) {
        if output.publishes() {
            let published = output.publish(info, winners).await;
            published.map_err(|failure| (index, failure))?;
        }
    }
    Ok(())
}

fn log(note: Note) {
    match note {
        Note::Claimed { epoch, first } => {
            tracing::info!(epoch = epoch.0, first, "checkpoint claimed");
        }
        Note::Rerun { batch } => tracing::info!(%batch, "running an uncommitted batch again"),
        Note::FoundOlder { name, epoch } => {
            tracing::warn!(
                name,
                epoch = epoch.0,
                "an older driver was first; reading the logs again"
            );
        }
        Note::Strays { names } => {
            tracing::warn!(?names, "removing entries before the newest run");
        }
        Note::NotDeleted { failure } => {
            tracing::warn!(%failure, "old entries could not be deleted; trying again later");
        }
        Note::NotChecked { failure } => {
            tracing::warn!(%failure, "could not look for a newer driver; trying again");
        }
        Note::SourceWaits { source, failure } => {
            tracing::warn!(source, %failure, "source can't plan; asking again until it can");
        }
        Note::SourceBack { source, attempts } => {
            tracing::info!(source, attempts, "source is back");
        }
        Note::QueueFull { queued } => {
            tracing::warn!(queued, "as many batches wait as may; planning waits");
        }
        Note::ClockBehind {
            newest,
            wall_millis,
        } => {
            tracing::warn!(
                newest_batch_time_ms = newest.0,
                wall_ms = wall_millis,
                "the clock is behind the checkpoint's newest batch; waiting for it"
            );
        }
        Note::NoExecutor { batch } => {
            tracing::warn!(%batch, "no executor can take tasks; waiting for one");
        }
    }
}
