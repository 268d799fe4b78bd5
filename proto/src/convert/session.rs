//! The messages of a session: the executor's first is `Hello`, each later one a [`ToDriver`]; the driver's are [`ToExecutor`]s.

use millstream_common::{
    ids::{BatchId, Epoch},
    protocol::{Heartbeat, Hello, QueryGrant, QueryProgram, ToDriver, ToExecutor},
};

use super::{ConversionError, convert_all, ids, require, wire_all};
use crate::pb::{self, driver_message, executor_message};

impl From<Hello> for pb::ExecutorMessage {
    fn from(hello: Hello) -> Self {
        let hello = pb::Hello {
            executor: ids::wire_executor(hello.executor),
            fingerprint: hello.fingerprint,
            unshared: hello.unshared,
        };
        Self {
            message: Some(executor_message::Message::Hello(hello)),
        }
    }
}

impl TryFrom<pb::ExecutorMessage> for Hello {
    type Error = ConversionError;

    /// Takes a session's first message.
    fn try_from(message: pb::ExecutorMessage) -> Result<Self, ConversionError> {
        let message = require(message.message, "ExecutorMessage", "message")?;
        let executor_message::Message::Hello(hello) = message else {
            return Err(ConversionError::new(
                "ExecutorMessage",
                "message",
                "a session begins with hello",
            ));
        };
        Ok(Self {
            executor: ids::executor(&hello.executor, "Hello", "executor")?,
            fingerprint: hello.fingerprint,
            unshared: hello.unshared,
        })
    }
}

impl From<ToDriver> for pb::ExecutorMessage {
    fn from(message: ToDriver) -> Self {
        use executor_message::Message;
        let message = match message {
            ToDriver::Truth { running, finished } => Message::Truth(pb::Truth {
                running: wire_all(running),
                finished: wire_all(finished),
            }),
            ToDriver::Report(report) => Message::Report((*report).into()),
            ToDriver::Heartbeat(heartbeat) => Message::Heartbeat(pb::Heartbeat {
                running: heartbeat.running,
                resident_bytes: heartbeat.resident_bytes,
                block_bytes: heartbeat.block_bytes,
                spilled_bytes: heartbeat.spilled_bytes,
            }),
            ToDriver::Leaving => Message::Leaving(pb::Leaving {}),
        };
        Self {
            message: Some(message),
        }
    }
}

impl TryFrom<pb::ExecutorMessage> for ToDriver {
    type Error = ConversionError;

    /// Takes every message but a session's first.
    fn try_from(message: pb::ExecutorMessage) -> Result<Self, ConversionError> {
        use executor_message::Message;
        match require(message.message, "ExecutorMessage", "message")? {
            Message::Hello(_) => Err(ConversionError::new(
                "ExecutorMessage",
                "message",
                "hello comes once, at a session's begin",
            )),
            Message::Truth(truth) => Ok(Self::Truth {
                running: convert_all(truth.running)?,
                finished: convert_all(truth.finished)?,
            }),
            Message::Report(report) => Ok(Self::Report(Box::new(report.try_into()?))),
            Message::Heartbeat(heartbeat) => Ok(Self::Heartbeat(Heartbeat {
                running: heartbeat.running,
                resident_bytes: heartbeat.resident_bytes,
                block_bytes: heartbeat.block_bytes,
                spilled_bytes: heartbeat.spilled_bytes,
            })),
            Message::Leaving(pb::Leaving {}) => Ok(Self::Leaving),
        }
    }
}

impl From<ToExecutor> for pb::DriverMessage {
    fn from(message: ToExecutor) -> Self {
        use driver_message::Message;
        let message = match message {
            ToExecutor::Reconcile { queries, wanted } => Message::Reconcile(pb::Reconcile {
                queries: wire_all(queries),
                wanted: wire_all(wanted),
            }),
            ToExecutor::Program(program) => Message::Program((*program).into()),
            ToExecutor::Launch(launch) => Message::Launch(launch.into()),
            ToExecutor::Cancel(tasks) => Message::Cancel(pb::Cancel {
                tasks: wire_all(tasks),
            }),
            ToExecutor::DropBatches {
                query,
                epoch,
                through,
            } => Message::DropBatches(pb::DropBatches {
                query: ids::wire_query(query),
                epoch: epoch.0,
                through: through.0,
            }),
            ToExecutor::Shutdown { reason } => Message::Shutdown(pb::Shutdown { reason }),
        };
        Self {
            message: Some(message),
        }
    }
}

impl TryFrom<pb::DriverMessage> for ToExecutor {
    type Error = ConversionError;

    fn try_from(message: pb::DriverMessage) -> Result<Self, ConversionError> {
        use driver_message::Message;
        Ok(
            match require(message.message, "DriverMessage", "message")? {
                Message::Reconcile(reconcile) => Self::Reconcile {
                    queries: convert_all(reconcile.queries)?,
                    wanted: convert_all(reconcile.wanted)?,
                },
                Message::Program(program) => Self::Program(Box::new(program.try_into()?)),
                Message::Launch(launch) => Self::Launch(launch.try_into()?),
                Message::Cancel(cancel) => Self::Cancel(convert_all(cancel.tasks)?),
                Message::DropBatches(drop) => Self::DropBatches {
                    query: ids::query(&drop.query, "DropBatches", "query")?,
                    epoch: Epoch(drop.epoch),
                    through: BatchId(drop.through),
                },
                Message::Shutdown(shutdown) => Self::Shutdown {
                    reason: shutdown.reason,
                },
            },
        )
    }
}

impl From<QueryProgram> for pb::QueryProgram {
    fn from(program: QueryProgram) -> Self {
        Self {
            query: ids::wire_query(program.query),
            program: program.bytes,
            checkpoint: program.checkpoint,
            shared_files: wire_all(program.shared_files),
        }
    }
}

impl TryFrom<pb::QueryProgram> for QueryProgram {
    type Error = ConversionError;

    fn try_from(program: pb::QueryProgram) -> Result<Self, ConversionError> {
        Ok(Self {
            query: ids::query(&program.query, "QueryProgram", "query")?,
            bytes: program.program,
            checkpoint: program.checkpoint,
            shared_files: program.shared_files.into_iter().map(Into::into).collect(),
        })
    }
}

impl From<QueryGrant> for pb::QueryGrant {
    fn from(grant: QueryGrant) -> Self {
        Self {
            query: ids::wire_query(grant.query),
            epoch: grant.epoch.0,
        }
    }
}

impl TryFrom<pb::QueryGrant> for QueryGrant {
    type Error = ConversionError;

    fn try_from(grant: pb::QueryGrant) -> Result<Self, ConversionError> {
        Ok(Self {
            query: ids::query(&grant.query, "QueryGrant", "query")?,
            epoch: Epoch(grant.epoch),
        })
    }
}
