//! What this executor has been asked to do and what came of it: the truth it tells a driver. Pure: no clock, no IO.
//!
//! Epochs are compared per query. The highest epoch ever shown is kept for as long as the process lives, over registrations, so a
//! superseded driver that wakes up gets nothing done here.

use std::collections::VecDeque;

use hashbrown::{HashMap, HashSet};
use millstream_common::{
    failure::{Failure, FailureKind, Retry},
    ids::{BatchId, Epoch, QueryId, TaskId},
    protocol::{QueryGrant, StageLaunch, TaskReport, ToDriver},
};
use millstream_dataflow::program::CancelToken;

/// Attempts and reports of one executor.
#[derive(Debug, Default)]
pub struct Ledger {
    highest: HashMap<QueryId, Epoch>,
    running: HashMap<TaskId, CancelToken>,
    finished: HashMap<TaskId, TaskReport>,
    outbox: VecDeque<Outgoing>,
    reconciled: bool,
}

#[derive(Debug)]
enum Outgoing {
    /// The report of a finished attempt, which stays in the ledger.
    Finished(TaskId),
    /// An answer about an attempt that the ledger doesn't hold.
    Answer(Box<TaskReport>),
}

/// What a launch comes to.
#[derive(Debug, Default)]
pub struct Launched {
    /// Attempts to run: index into the launch's tasks, id, token. Attempts that are known already are left out.
    pub start: Vec<(usize, TaskId, CancelToken)>,
    /// Attempts of lower epochs whose blocks are to be dropped.
    pub dropped: Vec<TaskId>,
}

impl Ledger {
    /// An empty ledger.
    pub fn new() -> Self {
        Self::default()
    }

    /// A session begins: nothing goes out before the driver has reconciled.
    pub fn begin_session(&mut self) {
        self.reconciled = false;
        self.outbox.clear();
    }

    /// Takes the driver's truth and gives ours: the answer, and the attempts whose blocks are to be dropped. Reports that
    /// don't fit into about `limit` bytes are said to be running and follow one by one.
    pub fn reconcile(
        &mut self,
        queries: &[QueryGrant],
        wanted: &[TaskId],
        limit: usize,
    ) -> (ToDriver, Vec<TaskId>) {
        let mut dropped = Vec::new();
        let mut granted: HashSet<(QueryId, Epoch)> = HashSet::new();
        for grant in queries {
            match self.show(grant.query, grant.epoch) {
                Shown::Stale(highest) => {
                    tracing::warn!(
                        query = %grant.query, epoch = %grant.epoch, %highest,
                        "a driver of a lower epoch is not obeyed"
                    );
                }
                Shown::Current(lower) => {
                    dropped.extend(lower);
                    granted.insert((grant.query, grant.epoch));
                }
            }
        }
        let named: HashSet<QueryId> = queries.iter().map(|grant| grant.query).collect();
        dropped.extend(self.forget(|task| !named.contains(&task.query)));
        self.outbox.clear();
        self.reconciled = true;

        let is_granted = |task: &TaskId| granted.contains(&(task.query, task.epoch));
        let mut running: Vec<TaskId> = self
            .running
            .keys()
            .filter(|task| is_granted(task))
            .copied()
            .collect();
        let mut finished = Vec::new();
        let mut size = 0usize;
        for (task, report) in self.finished.iter().filter(|(task, _)| is_granted(task)) {
            size = size.saturating_add(approximate_size(report));
            if size <= limit {
                finished.push(report.clone());
            } else {
                running.push(*task);
                self.outbox.push_back(Outgoing::Finished(*task));
            }
        }
        for task in wanted {
            let is_known = self.running.contains_key(task) || self.finished.contains_key(task);
            if !is_known {
                finished.push(self.unknown(*task));
            }
        }
        (ToDriver::Truth { running, finished }, dropped)
    }

    fn unknown(&self, task: TaskId) -> TaskReport {
        match self.highest.get(&task.query) {
            Some(highest) if *highest > task.epoch => stale_report(task, *highest),
            _ => lost_report(task),
        }
    }

    /// Takes a launch. Attempts of a stale epoch are answered as superseded and not run.
    pub fn launch(&mut self, launch: &StageLaunch) -> Launched {
        let mut launched = Launched::default();
        let stale = match self.show(launch.query, launch.epoch) {
            Shown::Stale(highest) => Some(highest),
            Shown::Current(lower) => {
                launched.dropped = lower;
                None
            }
        };
        for (index, spec) in launch.tasks.iter().enumerate() {
            let task = launch.task_id(spec);
            if let Some(highest) = stale {
                self.answer(stale_report(task, highest));
            } else if self.finished.contains_key(&task) {
                self.outbox.push_back(Outgoing::Finished(task));
            } else if !self.running.contains_key(&task) {
                let token = CancelToken::new();
                self.running.insert(task, token.clone());
                launched.start.push((index, task, token));
            }
        }
        launched
    }

    /// An attempt ended. Says whether anybody still wants it; if not, its blocks are to be dropped.
    pub fn finish(&mut self, report: TaskReport) -> bool {
        let task = report.task;
        if self.running.remove(&task).is_none() {
            return false;
        }
        self.finished.insert(task, report);
        self.outbox.push_back(Outgoing::Finished(task));
        true
    }

    /// Cancels attempts. One that isn't running is answered at once: with its report, or as cancelled.
    pub fn cancel(&mut self, tasks: &[TaskId]) {
        for task in tasks {
            if let Some(token) = self.running.get(task) {
                token.cancel();
            } else if self.finished.contains_key(task) {
                self.outbox.push_back(Outgoing::Finished(*task));
            } else {
                let failure = Failure::new(
                    FailureKind::Cancelled,
                    "the attempt was cancelled before it came here",
                );
                self.answer(failed_report(*task, failure));
            }
        }
    }

    /// Forgets batches up to `through`; gives the attempts whose blocks are to be dropped. A stale epoch changes nothing.
    pub fn drop_batches(&mut self, query: QueryId, epoch: Epoch, through: BatchId) -> Vec<TaskId> {
        match self.show(query, epoch) {
            Shown::Stale(_) => Vec::new(),
            Shown::Current(mut dropped) => {
                dropped.extend(self.forget(|task| task.query == query && task.batch <= through));
                dropped
            }
        }
    }

    /// Forgets everything but the epochs; gives the attempts whose blocks are to be dropped.
    pub fn clear(&mut self) -> Vec<TaskId> {
        self.begin_session();
        self.forget(|_| true)
    }

    /// The next message for the driver.
    pub fn next_message(&mut self) -> Option<ToDriver> {
        if !self.reconciled {
            return None;
        }
        while let Some(outgoing) = self.outbox.pop_front() {
            match outgoing {
                Outgoing::Answer(report) => return Some(ToDriver::Report(report)),
                // One that was dropped meanwhile is wanted by nobody.
                Outgoing::Finished(task) => {
                    if let Some(report) = self.finished.get(&task) {
                        return Some(ToDriver::Report(Box::new(report.clone())));
                    }
                }
            }
        }
        None
    }

    /// Whether a message waits for the driver.
    pub fn has_message(&self) -> bool {
        self.reconciled && !self.outbox.is_empty()
    }

    /// Messages that wait for the driver.
    pub fn waiting_messages(&self) -> usize {
        self.outbox.len()
    }

    fn answer(&mut self, report: TaskReport) {
        self.outbox.push_back(Outgoing::Answer(Box::new(report)));
    }

    fn show(&mut self, query: QueryId, epoch: Epoch) -> Shown {
        let highest = self.highest.entry(query).or_insert(epoch);
        if *highest > epoch {
            return Shown::Stale(*highest);
        }
        if *highest == epoch {
            return Shown::Current(Vec::new());
        }
        *highest = epoch;
        Shown::Current(self.forget(|task| task.query == query && task.epoch < epoch))
    }

    fn forget(&mut self, which: impl Fn(&TaskId) -> bool) -> Vec<TaskId> {
        let mut forgotten = Vec::new();
        self.running.retain(|task, token| {
            let goes = which(task);
            if goes {
                token.cancel();
                forgotten.push(*task);
            }
            !goes
        });
        self.finished.retain(|task, _| {
            let goes = which(task);
            if goes {
                forgotten.push(*task);
            }
            !goes
        });
        forgotten
    }
}

enum Shown {
    /// A higher epoch was shown before.
    Stale(Epoch),
    /// The highest so far; attempts of lower ones were forgotten.
    Current(Vec<TaskId>),
}

fn failed_report(task: TaskId, failure: Failure) -> TaskReport {
    TaskReport {
        task,
        outcome: Err(failure.in_task(task)),
        run_micros: 0,
    }
}

fn lost_report(task: TaskId) -> TaskReport {
    let failure = Failure::new(
        FailureKind::ExecutorLost,
        "the executor doesn't know the attempt: its launch didn't arrive, or it was dropped",
    );
    failed_report(task, failure)
}

fn stale_report(task: TaskId, highest: Epoch) -> TaskReport {
    let failure = Failure::new(
        FailureKind::Superseded,
        format!(
            "refused: the query is led under epoch {highest}, this attempt is of epoch {}",
            task.epoch
        ),
    )
    .with_code("epoch.superseded")
    .with_retry(Retry::Never);
    failed_report(task, failure)
}

fn approximate_size(report: &TaskReport) -> usize {
    const ENTRY: usize = 64;
    let content = match &report.outcome {
        Ok(output) => {
            let blocks: usize = output.exchanges.iter().map(Vec::len).sum();
            let result = output.result.as_ref().map_or(0, bytes::Bytes::len);
            let sink = output
                .sink
                .as_ref()
                .map_or(0, |sink| sink.payload.to_string().len());
            result + sink + (blocks + output.state.len() * 4) * ENTRY
        }
        Err(failure) => {
            failure.message.len() + failure.causes.iter().map(String::len).sum::<usize>()
        }
    };
    content + 4 * ENTRY
}

#[cfg(test)]
mod tests {
    use millstream_common::{
        ids::StageId,
        protocol::{TaskInput, TaskOutput, TaskSpec, Watermarks},
        time::BatchTime,
    };

    use super::*;

    fn query(number: u128) -> QueryId {
        QueryId(uuid::Uuid::from_u128(number))
    }

    fn grant(number: u128, epoch: u64) -> QueryGrant {
        QueryGrant {
            query: query(number),
            epoch: Epoch(epoch),
        }
    }

    fn launch(number: u128, epoch: u64, batch: u64, partitions: u32) -> StageLaunch {
        StageLaunch {
            query: query(number),
            epoch: Epoch(epoch),
            batch: BatchId(batch),
            batch_time: BatchTime(0),
            stage: StageId(0),
            output: None,
            rerun: false,
            watermarks: Watermarks::default(),
            spill_threshold: None,
            tasks: (0..partitions)
                .map(|partition| TaskSpec {
                    partition,
                    attempt: 0,
                    branch: 0,
                    input: TaskInput::Blocks(vec![]),
                    state: vec![],
                })
                .collect(),
        }
    }

    fn done(task: TaskId) -> TaskReport {
        TaskReport {
            task,
            outcome: Ok(TaskOutput::default()),
            run_micros: 1,
        }
    }

    fn truth(message: ToDriver) -> (Vec<TaskId>, Vec<TaskReport>) {
        match message {
            ToDriver::Truth { running, finished } => (running, finished),
            other => panic!("not a truth: {other:?}"),
        }
    }

    fn reconciled(grants: &[QueryGrant]) -> Ledger {
        let mut ledger = Ledger::new();
        ledger.reconcile(grants, &[], usize::MAX);
        ledger
    }

    fn kinds(ledger: &mut Ledger) -> Vec<Result<(), FailureKind>> {
        let mut kinds = Vec::new();
        while let Some(message) = ledger.next_message() {
            let ToDriver::Report(report) = message else {
                panic!("not a report: {message:?}");
            };
            kinds.push(report.outcome.map(|_| ()).map_err(|failure| failure.kind));
        }
        kinds
    }

    #[test]
    fn a_second_launch_of_an_attempt_runs_nothing() {
        let mut ledger = reconciled(&[grant(1, 1)]);
        let first = ledger.launch(&launch(1, 1, 0, 2));
        assert_eq!(first.start.len(), 2);
        assert!(ledger.launch(&launch(1, 1, 0, 2)).start.is_empty());
        assert!(ledger.finish(done(first.start[0].1)));
        assert_eq!(kinds(&mut ledger), [Ok(())]);
        assert!(ledger.launch(&launch(1, 1, 0, 2)).start.is_empty());
        assert_eq!(kinds(&mut ledger), [Ok(())], "the report is said again");
    }

    #[test]
    fn a_stale_launch_is_refused_as_superseded() {
        let mut ledger = reconciled(&[grant(1, 2)]);
        let launched = ledger.launch(&launch(1, 1, 0, 1));
        assert!(launched.start.is_empty());
        assert_eq!(kinds(&mut ledger), [Err(FailureKind::Superseded)]);
    }

    #[test]
    fn a_higher_epoch_drops_what_lower_ones_left_and_nothing_of_other_queries() {
        let mut ledger = reconciled(&[grant(1, 1), grant(2, 1)]);
        let lower = ledger.launch(&launch(1, 1, 0, 2));
        let other = ledger.launch(&launch(2, 1, 0, 1));
        ledger.finish(done(lower.start[0].1));
        let launched = ledger.launch(&launch(1, 2, 0, 1));
        assert_eq!(launched.dropped.len(), 2);
        assert_eq!(launched.start.len(), 1);
        assert!(lower.start[1].2.is_cancelled());
        assert!(!other.start[0].2.is_cancelled());
        assert!(!ledger.finish(done(lower.start[1].1)), "nobody wants it");
        assert!(ledger.finish(done(other.start[0].1)));
    }

    #[test]
    fn reconciling_keeps_what_is_known_and_reports_what_is_not() {
        let mut ledger = reconciled(&[grant(1, 1)]);
        let launched = ledger.launch(&launch(1, 1, 0, 2));
        let (finished_task, running_task) = (launched.start[0].1, launched.start[1].1);
        ledger.finish(done(finished_task));
        ledger.begin_session();
        assert!(ledger.next_message().is_none(), "nothing before the truth");
        let unknown = TaskId {
            partition: 9,
            ..finished_task
        };
        let wanted = [finished_task, running_task, unknown];
        let (answer, dropped) = ledger.reconcile(&[grant(1, 1)], &wanted, usize::MAX);
        let (running, finished) = truth(answer);
        assert_eq!(running, [running_task]);
        assert_eq!(finished.len(), 2);
        assert!(finished.contains(&done(finished_task)));
        let lost = finished.iter().find(|report| report.task == unknown);
        let failure = lost.and_then(|report| report.outcome.as_ref().err());
        assert_eq!(
            failure.map(|failure| &failure.kind),
            Some(&FailureKind::ExecutorLost)
        );
        assert!(dropped.is_empty());
        assert!(ledger.next_message().is_none(), "said in the truth already");
    }

    #[test]
    fn reconciling_drops_queries_that_the_driver_does_not_name() {
        let mut ledger = reconciled(&[grant(1, 1), grant(2, 1)]);
        let gone = ledger.launch(&launch(1, 1, 0, 1));
        ledger.launch(&launch(2, 1, 0, 1));
        let (_, dropped) = ledger.reconcile(&[grant(2, 1)], &[], usize::MAX);
        assert_eq!(dropped, [gone.start[0].1]);
        assert!(gone.start[0].2.is_cancelled());
        assert_eq!(ledger.running.len(), 1);
    }

    #[test]
    fn a_superseded_driver_learns_nothing_of_its_successors_tasks() {
        let mut ledger = reconciled(&[grant(1, 2)]);
        ledger.launch(&launch(1, 2, 0, 1));
        let mut zombie = launch(1, 1, 0, 1);
        zombie.tasks[0].attempt = 3;
        let wanted = TaskId {
            query: query(1),
            epoch: Epoch(1),
            batch: BatchId(0),
            stage: StageId(0),
            partition: 0,
            attempt: 3,
        };
        let (answer, dropped) = ledger.reconcile(&[grant(1, 1)], &[wanted], usize::MAX);
        let (running, finished) = truth(answer);
        assert!(running.is_empty() && dropped.is_empty());
        let kind = finished[0]
            .outcome
            .as_ref()
            .map(|_| ())
            .map_err(|failure| &failure.kind);
        assert_eq!(kind, Err(&FailureKind::Superseded));
        assert_eq!(ledger.running.len(), 1);
    }

    #[test]
    fn the_highest_epoch_outlives_a_registration() {
        let mut ledger = reconciled(&[grant(1, 2)]);
        ledger.clear();
        ledger.reconcile(&[grant(1, 1)], &[], usize::MAX);
        assert!(ledger.launch(&launch(1, 1, 0, 1)).start.is_empty());
    }

    #[test]
    fn reports_that_do_not_fit_follow_the_truth() {
        let mut ledger = reconciled(&[grant(1, 1)]);
        for (_, task, _) in ledger.launch(&launch(1, 1, 0, 10)).start {
            ledger.finish(done(task));
        }
        ledger.begin_session();
        let (answer, _) = ledger.reconcile(&[grant(1, 1)], &[], 4 * 64 * 3);
        let (running, finished) = truth(answer);
        assert_eq!((running.len(), finished.len()), (7, 3));
        assert_eq!(kinds(&mut ledger).len(), 7);
    }

    #[test]
    fn dropping_batches_forgets_them_and_no_later_one() {
        let mut ledger = reconciled(&[grant(1, 1)]);
        let old = ledger.launch(&launch(1, 1, 4, 1));
        let new = ledger.launch(&launch(1, 1, 5, 1));
        assert!(
            ledger
                .drop_batches(query(1), Epoch(0), BatchId(9))
                .is_empty()
        );
        let dropped = ledger.drop_batches(query(1), Epoch(1), BatchId(4));
        assert_eq!(dropped, [old.start[0].1]);
        assert!(old.start[0].2.is_cancelled() && !new.start[0].2.is_cancelled());
    }

    #[test]
    fn each_cancelled_attempt_is_answered() {
        let mut ledger = reconciled(&[grant(1, 1)]);
        let launched = ledger.launch(&launch(1, 1, 0, 2));
        let (finished_task, running_task) = (launched.start[0].1, launched.start[1].1);
        ledger.finish(done(finished_task));
        assert_eq!(kinds(&mut ledger), [Ok(())]);
        let unknown = TaskId {
            attempt: 7,
            ..running_task
        };
        ledger.cancel(&[finished_task, running_task, unknown]);
        assert!(launched.start[1].2.is_cancelled());
        assert_eq!(
            kinds(&mut ledger),
            [Ok(()), Err(FailureKind::Cancelled)],
            "the running one is answered when it stops"
        );
    }
}
