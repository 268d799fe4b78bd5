//! Doing what the scheduler asks: telling executors, informing queries, noting in logs and metrics.

use millstream_common::{
    failure::FailureKind,
    ids::{ExecutorId, QueryId},
    protocol::ToExecutor,
    telemetry::metrics::{LocalityLevel, TaskOutcome},
};
use millstream_proto::launches::messages;

use super::Cluster;
use crate::{
    query::event::QueryNews,
    scheduler::message::{Action, Note},
};

impl Cluster {
    pub(super) async fn act(&mut self, action: Action) {
        match action {
            Action::Reconcile {
                executor,
                queries,
                wanted,
            } => {
                self.tell(executor, ToExecutor::Reconcile { queries, wanted });
            }
            Action::Launch { executor, launch } => {
                self.send_program(executor, launch.query);
                let (parts, too_large) = messages(launch, self.options.max_message);
                for part in parts {
                    self.tell(executor, ToExecutor::Launch(part));
                }
                let unsent = too_large.into_iter().map(|report| (executor, report));
                self.unsent.extend(unsent);
            }
            Action::Cancel { executor, tasks } => self.tell(executor, ToExecutor::Cancel(tasks)),
            Action::DropBatches {
                executor,
                grant,
                through,
            } => {
                self.tell(
                    executor,
                    ToExecutor::DropBatches {
                        query: grant.query,
                        epoch: grant.epoch,
                        through,
                    },
                );
            }
            Action::Release { executor } => {
                self.tell(
                    executor,
                    ToExecutor::Shutdown {
                        reason: "it was told to stop and is needed no more".to_owned(),
                    },
                );
            }
            Action::OutputReady {
                query,
                batch,
                output,
                results,
            } => {
                self.inform(
                    query,
                    QueryNews::OutputReady {
                        batch,
                        output,
                        results,
                    },
                )
                .await;
            }
            Action::BatchDone {
                query,
                batch,
                summary,
            } => {
                self.inform(query, QueryNews::BatchDone { batch, summary })
                    .await;
            }
            Action::BatchFailed {
                query,
                batch,
                failure,
            } => {
                self.inform(query, QueryNews::BatchFailed { batch, failure })
                    .await;
            }
            Action::NoExecutor { query, batch } => {
                self.inform(query, QueryNews::NoExecutor { batch }).await;
            }
            Action::WakeAt(at) => self.wake_at = Some(at),
            Action::Noted(note) => self.note(note),
        }
    }

    /// A query's program goes to an executor once a session, before its first tasks.
    fn send_program(&mut self, executor: ExecutorId, query: QueryId) {
        let Some(program) = self.programs.get(&query) else {
            return;
        };
        if self.programmed.insert((executor, query)) {
            let message = ToExecutor::Program(program.clone());
            self.tell(executor, message);
        }
    }

    fn tell(&mut self, executor: ExecutorId, message: ToExecutor) {
        let Some(outbox) = self.sessions.get(&executor) else {
            return;
        };
        if outbox.try_send(message).is_err() {
            // Nothing is assumed to have arrived: the executor reconciles on its next session.
            tracing::warn!(%executor, "executor does not take its messages; its session is ended");
            self.sessions.remove(&executor);
        }
    }

    async fn inform(&mut self, query: QueryId, news: QueryNews) {
        if let Some(inbox) = self.queries.get(&query) {
            // A query that is gone has no use for news.
            let _ = inbox.send(news).await;
        }
    }

    fn note(&self, note: Note) {
        match note {
            Note::Retried {
                task,
                executor,
                failure,
            } => {
                let driver = self.metrics.driver();
                driver.task_retries.inc();
                if failure.kind == FailureKind::ExecutorLost {
                    driver.tasks.with(&TaskOutcome::Lost).inc();
                }
                tracing::warn!(%task, %executor, %failure, "task failed and is tried again");
            }
            Note::Excluded { executor, task } => {
                tracing::warn!(%executor, batch = %task.batch, stage = %task.stage, "executor gets no more tasks of this stage");
            }
            Note::OutputMissed {
                task,
                executor,
                failure,
            } => {
                tracing::warn!(%task, %executor, %failure, "kept rows could not be read by the driver; their task runs again");
            }
            Note::MapOutputsLost { tasks, executor } => {
                self.metrics.driver().stage_reruns.inc();
                tracing::warn!(%executor, tasks = tasks.len(), "map outputs are gone; their tasks run again");
            }
            Note::Differed {
                task,
                earlier,
                operators,
                exchange,
                partition,
            } => {
                tracing::warn!(%task, %earlier, ?operators, exchange, partition, "nondeterministic operator: a task that ran again wrote other rows");
            }
            Note::Placed {
                preferred,
                elsewhere,
            } => {
                let locality = &self.metrics.driver().task_locality;
                let there = locality.with(&LocalityLevel::Preferred);
                there.inc_by(u64::from(preferred));
                let other = locality.with(&LocalityLevel::Other);
                other.inc_by(u64::from(elsewhere));
                tracing::debug!(preferred, elsewhere, "tasks placed");
            }
        }
    }
}
