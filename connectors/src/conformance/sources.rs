//! What is asked of sources.

use std::fmt::Debug;

use async_trait::async_trait;
use millstream_common::{
    failure::Failure,
    ids::{BatchId, QueryId},
};
use serde_json::Value;

use super::{Attempt, NoServices, Violation, batch_time, during, must};
use crate::source::{More, PlanRequest, PlannedInput, SourceDriver, SourceHistory, SplitSource};

/// Calls to a plan that may give nothing before what was produced must be there.
const MAX_EMPTY_PLANS: usize = 1_000;
/// Calls to a reader that may give nothing.
const MAX_EMPTY_READS: usize = 1_000_000;

/// A source in a test: each call of `driver` or `executor` is a new process.
#[async_trait]
pub trait SourceUnderTest: Send {
    /// A row.
    type Row: Clone + Debug + PartialEq + Ord + Send + 'static;

    /// What was planned and not logged is gone when the driver dies. Only for sources that can't be asked again.
    const LOSES_UNLOGGED: bool = false;

    /// A fresh driver half.
    async fn driver(&mut self) -> Box<dyn SourceDriver>;

    /// A fresh executor half.
    fn executor(&self) -> Box<dyn SplitSource<Vec<Self::Row>>>;

    /// Makes some input appear, and says which rows it has; with the round's number, so that no two rounds have equal rows. The driver half has
    /// started.
    async fn produce(&mut self, round: u64) -> Vec<Self::Row>;

    /// Lets time pass for sources that plan nothing at first.
    async fn wait(&mut self) {
        tokio::task::yield_now().await;
    }
}

/// The rows of one split.
///
/// # Errors
/// As the source.
pub fn read_split<T>(
    source: &dyn SplitSource<Vec<T>>,
    split: &Value,
    attempt: &Attempt,
) -> Result<Vec<T>, Failure> {
    let services = NoServices;
    let mut task = attempt.task(&services);
    let mut reader = source.open(split, &task)?;
    let mut rows = Vec::new();
    let mut chunk = Vec::new();
    let mut empty = 0;
    while empty < MAX_EMPTY_READS {
        let more = reader.next(&mut chunk, &mut task)?;
        empty = if chunk.is_empty() { empty + 1 } else { 0 };
        rows.append(&mut chunk);
        if more == More::No {
            return Ok(rows);
        }
    }
    Err(Failure::new(
        millstream_common::failure::FailureKind::Internal,
        "the reader gives neither rows nor its end",
    ))
}

/// Where the driver dies in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Death {
    None,
    AfterPlan,
    AfterLog,
    AfterCommit,
    AfterPurge,
}

const DEATHS: [Death; 7] = [
    Death::None,
    Death::AfterPlan,
    Death::AfterLog,
    Death::None,
    Death::AfterCommit,
    Death::AfterPurge,
    Death::AfterPlan,
];

/// The driver's log of one source.
struct Log {
    start: Value,
    seen: Option<(BatchId, Value)>,
    entries: Vec<(BatchId, PlannedInput)>,
}

impl Log {
    fn history(&self) -> SourceHistory {
        let after = self.seen.as_ref().map(|(batch, _)| *batch);
        let newest = self.entries.last().map(|(batch, _)| *batch);
        let wanted = |batch: &BatchId| Some(*batch) > after || Some(*batch) == newest;
        let logged = self.entries.iter().filter(|(batch, _)| wanted(batch));
        SourceHistory {
            start: self.start.clone(),
            seen: self.seen.clone(),
            logged: logged.cloned().collect(),
        }
    }
}

/// Runs a source over some rounds of input with drivers that die at every point, and checks that
/// * what is logged is all that was produced, each row once;
/// * a split gives the same rows each time it is read, by any executor;
/// * a plan without input is empty.
///
/// # Errors
/// The first rule that doesn't hold.
pub async fn check_source<S: SourceUnderTest>(source: &mut S) -> Result<(), Violation> {
    let query = QueryId::random();
    let mut driver = source.driver().await;
    let mut log = Log {
        start: during("start", driver.start().await)?,
        seen: None,
        entries: Vec::new(),
    };
    let mut batch = BatchId(0);
    let mut produced: Vec<S::Row> = Vec::new();
    let mut read: Vec<S::Row> = Vec::new();
    for round in 0..3 * DEATHS.len() as u64 {
        let death = DEATHS
            .get(usize::try_from(round).unwrap_or(0) % DEATHS.len())
            .copied()
            .unwrap_or(Death::None);
        let mut lost = false;
        let expected = source.produce(round).await;
        let mut rows = Vec::new();
        let mut plans = 0;
        while rows.len() < expected.len() && !lost {
            plans += 1;
            must(
                plans < MAX_EMPTY_PLANS,
                "what was produced is planned",
                || format!("{} of {} rows in round {round}", rows.len(), expected.len()),
            )?;
            let planned = plan(driver.as_mut(), batch).await?;
            if planned.splits.is_empty() {
                source.wait().await;
                continue;
            }
            if death == Death::AfterPlan && plans == 1 {
                driver = restarted(source, &log).await?;
                lost = S::LOSES_UNLOGGED;
                continue;
            }
            for split in &planned.splits {
                rows.append(&mut read_alike(source, &split.split, query, batch)?);
            }
            log.entries.push((batch, planned.clone()));
            if death == Death::AfterLog {
                driver = restarted(source, &log).await?;
            }
            during("committed", driver.committed(batch, &planned).await)?;
            during("committed again", driver.committed(batch, &planned).await)?;
            if death == Death::AfterPurge {
                if let Some(seen) = driver.seen() {
                    log.seen = Some((batch, seen));
                }
                let purged = log.entries.len().saturating_sub(1);
                log.entries.drain(..purged);
            }
            if matches!(death, Death::AfterCommit | Death::AfterPurge) {
                driver = restarted(source, &log).await?;
            }
            batch = batch.next();
        }
        if !lost {
            produced.extend(expected);
        }
        read.append(&mut rows);
    }
    let nothing = plan(driver.as_mut(), batch).await?;
    must(
        nothing.splits.is_empty(),
        "nothing is planned without new input",
        || format!("{:?}", nothing.splits),
    )?;
    driver.stop().await;
    produced.sort();
    read.sort();
    must(produced == read, "every row is read once", || {
        format!("{} rows produced, {} read", produced.len(), read.len())
    })
}

async fn plan(driver: &mut dyn SourceDriver, batch: BatchId) -> Result<PlannedInput, Violation> {
    let request = PlanRequest {
        batch,
        batch_time: batch_time(batch),
        max_rows: None,
        interval_millis: 1_000,
    };
    during("plan", driver.plan(request).await)
}

async fn restarted<S: SourceUnderTest>(
    source: &mut S,
    log: &Log,
) -> Result<Box<dyn SourceDriver>, Violation> {
    let mut driver = source.driver().await;
    let history = log.history();
    during("restore", driver.restore(history.clone()).await)?;
    during("restore again", driver.restore(history).await)?;
    if let Some((batch, newest)) = log.entries.last() {
        let told = driver.committed(*batch, newest).await;
        during("committed, told after a restart", told)?;
    }
    Ok(driver)
}

/// Reads a split twice with one executor and once with another.
fn read_alike<S: SourceUnderTest>(
    source: &S,
    split: &Value,
    query: QueryId,
    batch: BatchId,
) -> Result<Vec<S::Row>, Violation> {
    let mut attempt = Attempt::first(query, batch.0, 0);
    let executor = source.executor();
    let first = during("reading", read_split(executor.as_ref(), split, &attempt))?;
    attempt.attempt = 1;
    let again = during(
        "reading again",
        read_split(executor.as_ref(), split, &attempt),
    )?;
    let other = source.executor();
    attempt.attempt = 2;
    let elsewhere = during(
        "reading elsewhere",
        read_split(other.as_ref(), split, &attempt),
    )?;
    executor.close();
    other.close();
    must(
        first == again && first == elsewhere,
        "a split gives the same rows each time",
        || {
            format!(
                "{} rows, then {}, then {}",
                first.len(),
                again.len(),
                elsewhere.len()
            )
        },
    )?;
    Ok(first)
}
