//! What is measured, a module a group of rows. Contenders of a group run by turns, all in one go.
//!
//! - [`batch_cost`]: what a batch of two stages costs that has next to no rows
//! - [`employees`]: a structured query over small files
//! - [`kill`]: an executor killed in mid-batch
//! - [`launch`]: from the start to the first batch's end
//! - [`memory`]: resident memory
//! - [`scheduler`]: the scheduler's core alone
//! - [`sql_launch`]: from the start of a structured query to its first result
//! - [`sql_memory`]: resident memory of structured queries
//! - [`state`]: aggregates of few and of many groups
//! - [`words`]: word count from Kafka and from files, by both APIs

mod batch_cost;
mod employees;
mod kill;
mod launch;
mod memory;
mod scheduler;
mod sql_launch;
mod sql_memory;
mod state;
mod words;

use clap::ValueEnum;

use crate::{Error, Setting, table::Row};

/// A group of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Group {
    /// Word count from Kafka.
    Kafka,
    /// Word count from files.
    Files,
    /// Fixed cost of a batch of two stages.
    BatchCost,
    /// Start to first result.
    Launch,
    /// Resident memory.
    Memory,
    /// An executor killed in mid-batch.
    Kill,
    /// The scheduler alone.
    Scheduler,
    /// Word count from Kafka as a structured query.
    SqlKafka,
    /// Word count from files as a structured query.
    SqlFiles,
    /// A structured query over small files.
    Employees,
    /// Aggregates of few and of many groups.
    State,
    /// Start of a structured query to its first result.
    SqlLaunch,
    /// Resident memory of structured queries.
    SqlMemory,
}

impl Group {
    /// All of them, in the order of the table.
    pub fn all() -> Vec<Self> {
        Self::value_variants().to_vec()
    }

    /// As the command line calls it.
    pub fn name(self) -> String {
        self.to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }

    /// Measures its rows.
    pub fn measure(self, setting: &Setting) -> Result<Vec<Row>, Error> {
        match self {
            Self::Kafka => words::from_kafka(setting),
            Self::Files => words::from_files(setting),
            Self::BatchCost => batch_cost::measure(setting),
            Self::Launch => launch::measure(setting),
            Self::Memory => memory::measure(setting),
            Self::Kill => kill::measure(setting),
            Self::Scheduler => scheduler::measure(setting),
            Self::SqlKafka => words::sql_from_kafka(setting),
            Self::SqlFiles => words::sql_from_files(setting),
            Self::Employees => employees::measure(setting),
            Self::State => state::measure(setting),
            Self::SqlLaunch => sql_launch::measure(setting),
            Self::SqlMemory => sql_memory::measure(setting),
        }
    }
}
