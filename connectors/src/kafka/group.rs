//! Group offsets for lag tools, committed beside everything else: no batch waits for a coordinator that is away.

use std::{sync::Arc, time::Duration};

use millstream_common::failure::Failure;
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::driver::Offsets;

/// Commits the newest positions, one commit at a time; positions that newer ones overtake while they wait are never committed.
#[derive(Default)]
pub(super) struct GroupCommits {
    state: Arc<Mutex<State>>,
    worker: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    /// What is to be committed next.
    waiting: Option<Offsets>,
    /// A worker looks at `waiting` once more before it ends.
    is_working: bool,
    /// The last commit failed, which was said.
    is_troubled: bool,
}

impl GroupCommits {
    /// Commits these positions soon, by `commit`, which may wait for long. Never waits itself.
    pub(super) fn note(
        &mut self,
        positions: Offsets,
        commit: impl FnMut(&Offsets) -> Result<(), Failure> + Send + 'static,
    ) {
        let mut state = self.state.lock();
        state.waiting = Some(positions);
        let has_worker = self
            .worker
            .as_ref()
            .is_some_and(|worker| !worker.is_finished());
        if state.is_working && has_worker {
            return;
        }
        state.is_working = true;
        let shared = Arc::clone(&self.state);
        self.worker = Some(tokio::task::spawn_blocking(move || work(&shared, commit)));
    }

    /// Waits for what was noted, no longer than this; what isn't committed by then stays so. Says whether all was tried.
    pub(super) async fn finish(&mut self, within: Duration) -> bool {
        let Some(worker) = self.worker.take() else {
            return true;
        };
        let is_done = tokio::time::timeout(within, worker).await.is_ok();
        self.state.lock().waiting = None;
        is_done
    }
}

fn work(shared: &Mutex<State>, mut commit: impl FnMut(&Offsets) -> Result<(), Failure>) {
    loop {
        let positions = {
            let mut state = shared.lock();
            match state.waiting.take() {
                Some(positions) => positions,
                None => {
                    state.is_working = false;
                    return;
                }
            }
        };
        let outcome = commit(&positions);
        let was_troubled = std::mem::replace(&mut shared.lock().is_troubled, outcome.is_err());
        match outcome {
            Err(failure) if was_troubled => {
                tracing::debug!(%failure, "group offsets were not committed again");
            }
            Err(failure) => {
                tracing::warn!(%failure, "group offsets were not committed; batches go on, and newer offsets are tried");
            }
            Ok(()) if was_troubled => tracing::info!("group offsets are committed again"),
            Ok(()) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use millstream_common::{
        failure::FailureKind,
        ids::BatchId,
        time::{BatchTime, SystemClock},
    };
    use rdkafka::{
        ClientConfig, Offset, TopicPartitionList,
        consumer::{BaseConsumer, Consumer as _},
        mocking::{MockCluster, MockCoordinator},
    };

    use super::*;
    use crate::{
        kafka::{KafkaDriver, Settings, Subscription},
        source::{PlanRequest, SourceDriver},
    };

    const DEADLINE: Duration = Duration::from_secs(20);

    fn at(offset: i64) -> Offsets {
        Offsets::from([(("topic".to_owned(), 0), offset)])
    }

    fn offset_of(positions: &Offsets) -> i64 {
        positions.values().copied().next().expect("a partition")
    }

    /// Commits that say when they begin and wait until they may end.
    fn slow() -> (
        impl FnMut(&Offsets) -> Result<(), Failure> + Send + 'static,
        mpsc::Receiver<i64>,
        mpsc::Sender<()>,
    ) {
        let (began, has_begun) = mpsc::channel();
        let (go_on, may_go_on) = mpsc::channel();
        let commit = move |positions: &Offsets| {
            began.send(offset_of(positions)).expect("the test listens");
            let told = may_go_on.recv_timeout(DEADLINE);
            told.map_err(|_| Failure::new(FailureKind::Io, "never told"))
        };
        (commit, has_begun, go_on)
    }

    #[tokio::test]
    async fn of_what_waits_only_the_newest_is_committed_and_the_end_waits_for_it() {
        let mut commits = GroupCommits::default();
        let (commit, has_begun, go_on) = slow();
        commits.note(at(1), commit);
        assert_eq!(has_begun.recv_timeout(DEADLINE), Ok(1));
        for newer in [2, 3, 4] {
            commits.note(at(newer), |_| panic!("one worker is enough"));
        }
        for _ in 0..2 {
            go_on.send(()).expect("the worker waits");
        }
        assert!(commits.finish(DEADLINE).await);
        assert_eq!(has_begun.try_iter().collect::<Vec<_>>(), [4]);
    }

    #[tokio::test]
    async fn the_end_waits_no_longer_than_it_may() {
        let mut commits = GroupCommits::default();
        let (commit, has_begun, go_on) = slow();
        commits.note(at(1), commit);
        assert_eq!(has_begun.recv_timeout(DEADLINE), Ok(1));
        commits.note(at(2), |_| panic!("one worker is enough"));
        assert!(!commits.finish(Duration::ZERO).await);
        go_on.send(()).expect("the worker waits");
        let after = has_begun.recv_timeout(DEADLINE);
        assert_eq!(after, Err(mpsc::RecvTimeoutError::Disconnected), "it ends");
    }

    fn committed(brokers: &str, group: &str) -> Option<i64> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("group.id", group)
            .create()
            .expect("a consumer");
        let mut asked = TopicPartitionList::new();
        asked.add_partition("topic", 0);
        let answered = consumer
            .committed_offsets(asked, DEADLINE)
            .expect("a coordinator");
        match answered.elements()[0].offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        }
    }

    #[tokio::test]
    async fn a_coordinator_that_is_away_holds_no_batch_up() {
        let kafka = MockCluster::new(2).expect("a mock cluster");
        let group = "lag-tools";
        let setup = || -> rdkafka::error::KafkaResult<()> {
            kafka.create_topic("topic", 1, 1)?;
            kafka.partition_leader("topic", 0, Some(1))?;
            kafka.coordinator(MockCoordinator::Group(group.to_owned()), 2)?;
            kafka.broker_down(2)
        };
        setup().expect("a cluster whose coordinator is down");
        let brokers = kafka.bootstrap_servers();
        let mut settings = Settings::new(&brokers, Subscription::Topics(vec!["topic".to_owned()]));
        settings.group = group.to_owned();
        let clock = Arc::new(SystemClock::new());
        let mut driver = KafkaDriver::new(Arc::new(settings), clock).expect("a driver");
        driver
            .start()
            .await
            .expect("the partition's broker is there");
        let request = PlanRequest {
            batch: BatchId(0),
            batch_time: BatchTime(0),
            max_rows: None,
            interval_millis: 1_000,
        };
        for _ in 0..3 {
            let planned = driver.plan(request).await.expect("planned");
            // librdkafka waits for a coordinator for 45 s.
            let noted = driver.committed(BatchId(0), &planned);
            let noted = tokio::time::timeout(DEADLINE, noted).await;
            noted.expect("it doesn't wait").expect("noted");
        }
        kafka.broker_up(2).expect("the coordinator is back");
        assert!(driver.group_commits().finish(2 * DEADLINE).await);
        assert_eq!(committed(&brokers, group), Some(0));
        driver.stop().await;
    }
}
