//! Identities: every message, block, log entry and marker carries whole ids, so that a stale one is told apart.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(formatter)
            }
        }
    };
}

number_id! {
    /// One driver's claim of a query's checkpoint; a higher epoch supersedes every lower one. Starts at 1.
    Epoch(u64)
}
number_id! {
    /// Dense counter of a query's batches, from 0.
    BatchId(u64)
}
number_id! {
    /// A stage's position in its query's [plan](https://docs.rs/millstream-dataflow): dense, from 0, the same on both sides.
    StageId(u32)
}
number_id! {
    /// A source's position in its query's plan, from 0.
    SourceId(u32)
}
number_id! {
    /// An output's position in its query's plan, in the order of definition, from 0.
    OutputIndex(u32)
}

impl BatchId {
    /// The batch that follows this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// Makes a fresh random id.
            pub fn random() -> Self {
                Self(Uuid::new_v4())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.as_hyphenated().fmt(formatter)
            }
        }
    };
}

uuid_id! {
    /// A query's identity: made with its checkpoint, fresh at each start without one; never a name.
    QueryId
}
uuid_id! {
    /// An executor's identity: new at each registration.
    ExecutorId
}

/// One attempt of one task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TaskId {
    /// The query the task belongs to.
    pub query: QueryId,
    /// The epoch of the driver that launched it.
    pub epoch: Epoch,
    /// The batch it computes a part of.
    pub batch: BatchId,
    /// Its stage.
    pub stage: StageId,
    /// Its partition within the stage, from 0.
    pub partition: u32,
    /// Which try this is, from 0; grows over stage retries too, so that no two attempts share an id.
    pub attempt: u32,
}

impl fmt::Display for TaskId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "batch {} stage {} partition {} attempt {} (query {}, epoch {})",
            self.batch, self.stage, self.partition, self.attempt, self.query, self.epoch
        )
    }
}

/// One block: what one map task wrote for one partition of one of its stage's exchanges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BlockId {
    /// The attempt that wrote it.
    pub task: TaskId,
    /// Which of the stage's exchanges, from 0.
    pub exchange: u32,
    /// Which partition of the exchange, from 0.
    pub partition: u32,
}

impl fmt::Display for BlockId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "block {}/{} of {}",
            self.exchange, self.partition, self.task
        )
    }
}
