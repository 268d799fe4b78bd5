//! One session with the driver: obeys what it says, tells it what came of it, and that the executor lives.
//!
//! The loop never waits for the driver to take a message while the driver waits for the loop: sending is one of the things it
//! selects over, and everything that can wait stays in the ledger.

use std::{collections::VecDeque, sync::Arc};

use millstream_common::{
    failure::{Failure, FailureKind},
    protocol::{QueryGrant, StageLaunch, TaskReport, ToDriver, ToExecutor},
};

use super::{ExitReason, backoff::Backoff, life::Life, node::Node, registration::Registration};
use crate::{
    runner::Job,
    transport::{LinkError, Session},
};

/// While this many messages wait for the driver, nothing more is taken from it.
const WAITING_MESSAGES: usize = 16_384;

/// How a session ended.
#[derive(Debug)]
pub(super) enum SessionEnd {
    /// The line was cut: open it again.
    Cut,
    /// The driver doesn't know this executor: register anew.
    Unknown,
    /// The driver refused it for good.
    Refused(Failure),
    /// The two sides' TLS doesn't fit.
    Unsafe(Failure),
    /// The executor ends.
    Exit(ExitReason),
}

impl SessionEnd {
    pub(super) fn of_error(error: &LinkError) -> Self {
        match error {
            LinkError::Unreachable(_) => Self::Cut,
            LinkError::Unknown(_) => Self::Unknown,
            LinkError::Refused(failure) => Self::Refused(failure.clone()),
            LinkError::Unsafe(failure) => Self::Unsafe(failure.clone()),
        }
    }
}

/// Runs a session to its end.
pub(super) async fn run(
    node: &Arc<Node>,
    life: &Life,
    registration: &Registration,
    session: Session,
    backoff: &mut Backoff,
) -> SessionEnd {
    node.ledger.lock().begin_session();
    let mut state = SessionState {
        node,
        registration,
        first: VecDeque::new(),
        is_heartbeat_due: false,
    };
    let Session {
        to_driver,
        mut from_driver,
    } = session;
    let clock = &node.clock;
    let interval = registration.tuning.heartbeat_interval;
    let mut heartbeat = clock.until(clock.now());
    let mut has_said_leaving = false;
    let ended = life.ended(registration.tuning.stop_timeout);
    tokio::pin!(ended);
    loop {
        let (has_message, may_take) = state.readiness();
        tokio::select! {
            biased;
            reason = &mut ended => return SessionEnd::Exit(reason),
            () = &mut heartbeat => {
                state.is_heartbeat_due = true;
                heartbeat = clock.until(clock.now().after(interval));
            }
            permit = to_driver.reserve(), if has_message => {
                let Ok(permit) = permit else {
                    return closed(&mut from_driver, life);
                };
                if let Some(message) = state.next_message() {
                    permit.send(message);
                }
            }
            message = from_driver.recv(), if may_take => {
                match message {
                    None => return SessionEnd::Cut,
                    Some(Err(failure)) => return SessionEnd::of_error(&LinkError::of_failure(failure)),
                    Some(Ok(message)) => {
                        if matches!(message, ToExecutor::Reconcile { .. }) {
                            backoff.reset();
                        }
                        if let Some(reason) = state.obey(message) {
                            return SessionEnd::Exit(exit_reason(reason, life));
                        }
                    }
                }
            }
            () = node.wake.notified() => {}
            () = life.leaving(), if !has_said_leaving => {
                has_said_leaving = true;
                state.first.push_back(ToDriver::Leaving);
            }
        }
    }
}

/// The driver takes no more messages; it may have said why.
fn closed(
    from_driver: &mut tokio::sync::mpsc::Receiver<Result<ToExecutor, Failure>>,
    life: &Life,
) -> SessionEnd {
    while let Ok(message) = from_driver.try_recv() {
        match message {
            Ok(ToExecutor::Shutdown { reason }) => {
                return SessionEnd::Exit(exit_reason(reason, life));
            }
            Ok(_) => {}
            Err(failure) => return SessionEnd::of_error(&LinkError::of_failure(failure)),
        }
    }
    SessionEnd::Cut
}

fn exit_reason(reason: String, life: &Life) -> ExitReason {
    if life.is_leaving() {
        ExitReason::Left
    } else {
        ExitReason::Shutdown { reason }
    }
}

struct SessionState<'a> {
    node: &'a Arc<Node>,
    registration: &'a Registration,
    /// What goes before reports: the truth, leaving.
    first: VecDeque<ToDriver>,
    is_heartbeat_due: bool,
}

impl SessionState<'_> {
    /// Whether there is something to send, and whether there is room to take something.
    fn readiness(&self) -> (bool, bool) {
        let ledger = self.node.ledger.lock();
        let has_message = self.is_heartbeat_due || !self.first.is_empty() || ledger.has_message();
        (has_message, ledger.waiting_messages() < WAITING_MESSAGES)
    }

    fn next_message(&mut self) -> Option<ToDriver> {
        if self.is_heartbeat_due {
            self.is_heartbeat_due = false;
            return Some(ToDriver::Heartbeat(self.node.heartbeat()));
        }
        if let Some(message) = self.first.pop_front() {
            return Some(message);
        }
        self.node.ledger.lock().next_message()
    }

    /// Does what the driver says; gives the reason when that is to end.
    fn obey(&mut self, message: ToExecutor) -> Option<String> {
        match message {
            ToExecutor::Reconcile { queries, wanted } => {
                let limit = self.registration.tuning.max_message / 4;
                let (truth, dropped) = self.node.ledger.lock().reconcile(&queries, &wanted, limit);
                self.node.drop_blocks(dropped);
                self.forget_queries(&queries);
                // What was to be said before is part of the truth.
                self.first
                    .retain(|message| matches!(message, ToDriver::Leaving));
                self.first.push_front(truth);
            }
            ToExecutor::Program(program) => {
                self.node.states.add(&program);
                let application = &self.registration.programs;
                self.registration.queries.add(*program, application);
            }
            ToExecutor::Launch(launch) => self.launch(launch),
            ToExecutor::Cancel(tasks) => self.node.ledger.lock().cancel(&tasks),
            ToExecutor::DropBatches {
                query,
                epoch,
                through,
            } => {
                self.node.states.batch_is_over(query, through);
                let dropped = self.node.ledger.lock().drop_batches(query, epoch, through);
                self.node.drop_blocks(dropped);
            }
            ToExecutor::Shutdown { reason } => return Some(reason),
        }
        None
    }

    /// Of queries that the driver doesn't name nothing is kept.
    fn forget_queries(&self, queries: &[QueryGrant]) {
        let is_named = |query| queries.iter().any(|grant| grant.query == query);
        self.node.states.retain(is_named);
        let gone = self.registration.queries.retain(is_named);
        if !gone.is_empty() {
            tokio::task::spawn_blocking(move || gone.iter().for_each(|programs| programs.close()));
        }
    }

    fn launch(&self, launch: StageLaunch) {
        let launched = self.node.ledger.lock().launch(&launch);
        self.node.drop_blocks(launched.dropped);
        if launched.start.is_empty() {
            return;
        }
        let own = &self.registration.programs;
        let queries = &self.registration.queries;
        let program = queries
            .program(launch.query, launch.stage)
            .or_else(|| own.program(launch.stage));
        let services = match launch.spill_threshold {
            Some(bytes) => Arc::new(self.registration.services.spilling_at(bytes)),
            None => Arc::clone(&self.registration.services),
        };
        let mut specs: Vec<_> = launch.tasks.into_iter().map(Some).collect();
        for (index, task, cancel) in launched.start {
            let spec = specs.get_mut(index).and_then(Option::take);
            let (Some(program), Some(spec)) = (&program, spec) else {
                let failure = Failure::new(
                    FailureKind::Internal,
                    format!("this executor's graph has no stage {}", launch.stage),
                );
                self.node.finish(TaskReport {
                    task,
                    outcome: Err(failure.in_task(task)),
                    run_micros: 0,
                });
                continue;
            };
            let node = Arc::clone(self.node);
            self.node.submit(Job {
                task,
                batch_time: launch.batch_time,
                branch: spec.branch,
                input: spec.input,
                state: spec.state,
                watermarks: launch.watermarks,
                rerun: launch.rerun,
                cancel,
                input_deadline: self.registration.tuning.input_deadline,
                result_limit: self.registration.tuning.max_message / 4 * 3,
                program: Arc::clone(program),
                services: Arc::clone(&services),
                done: Arc::new(move |report| node.finish(report)),
            });
        }
    }
}
