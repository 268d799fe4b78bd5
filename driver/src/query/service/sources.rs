//! Each source's driver half in a task of its own, so that a slow one holds up neither the others nor the query.

use std::{any::Any, future::Future, panic::AssertUnwindSafe, time::Duration};

use futures::FutureExt;
use millstream_common::{
    failure::{Failure, FailureKind, Retry},
    ids::{BatchId, SourceId},
};
use millstream_connectors::source::{PlanRequest, PlannedInput, SourceDriver, SourceHistory};
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinHandle},
};

use super::super::{
    error::QueryError,
    event::{Event, Life, SourcePlanned},
};

/// How long a source may take to stop.
const STOP_WITHIN: Duration = Duration::from_secs(5);
/// Commands beyond one for each queued batch.
const SPARE_COMMANDS: usize = 64;

pub(super) enum Command {
    Start(Life),
    Restore(Life, SourceHistory),
    Plan(Life, PlanRequest, bool),
    Committed(BatchId, PlannedInput),
}

/// A source's task.
pub(super) struct SourceTask {
    commands: mpsc::Sender<Command>,
    task: JoinHandle<()>,
}

impl SourceTask {
    pub(super) fn spawn(
        source: SourceId,
        id: String,
        driver: Box<dyn SourceDriver>,
        max_queued: usize,
        events: mpsc::Sender<Event>,
    ) -> Self {
        let (commands, inbox) = mpsc::channel(max_queued.saturating_add(SPARE_COMMANDS));
        let task = tokio::spawn(serve(source, id, driver, inbox, events));
        Self { commands, task }
    }

    /// Never waits: the inbox holds more than can be asked for.
    pub(super) fn tell(&self, command: Command) -> Result<(), QueryError> {
        self.commands.try_send(command).map_err(|error| {
            QueryError::Internal(format!("a source's task takes no commands: {error}"))
        })
    }

    /// Lets the source finish what it was told and stop.
    pub(super) async fn stop(self) {
        drop(self.commands);
        let abort: AbortHandle = self.task.abort_handle();
        if tokio::time::timeout(STOP_WITHIN, self.task).await.is_err() {
            tracing::warn!("a source took too long to stop");
            abort.abort();
        }
    }
}

async fn serve(
    source: SourceId,
    id: String,
    mut driver: Box<dyn SourceDriver>,
    mut inbox: mpsc::Receiver<Command>,
    events: mpsc::Sender<Event>,
) {
    while let Some(command) = inbox.recv().await {
        let event = match command {
            Command::Start(life) => Event::SourceStarted {
                life,
                source,
                result: caught(driver.start()).await,
            },
            Command::Restore(life, history) => Event::SourceRestored {
                life,
                source,
                result: caught(driver.restore(history)).await,
            },
            Command::Plan(life, request, want_seen) => {
                let planned = caught(driver.plan(request)).await;
                let result = planned.map(|input| SourcePlanned {
                    input,
                    seen: if want_seen { driver.seen() } else { None },
                    lag: driver.lag(),
                    latest: driver.latest(),
                });
                Event::Planned {
                    life,
                    batch: request.batch,
                    source,
                    result,
                }
            }
            Command::Committed(batch, input) => {
                if let Err(failure) = caught(driver.committed(batch, &input)).await {
                    tracing::warn!(source = %id, %batch, %failure, "the source could not note a committed batch");
                }
                continue;
            }
        };
        if events.send(event).await.is_err() {
            break;
        }
    }
    driver.stop().await;
}

/// A panic of a connector is a failure of its own.
async fn caught<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    match AssertUnwindSafe(work).catch_unwind().await {
        Ok(result) => result,
        Err(panic) => {
            let message = format!("the source panicked: {}", panic_message(panic.as_ref()));
            Err(Failure::new(FailureKind::Internal, message).with_retry(Retry::Never))
        }
    }
}

pub(super) fn panic_message(panic: &(dyn Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "no message".to_owned()
    }
}
