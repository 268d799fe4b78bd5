//! The task slots: threads that run stage programs, one task at a time each.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use crossbeam_channel::{Receiver, Sender, TrySendError};
use millstream_common::{
    failpoint,
    failure::{Failure, FailureKind, Retry},
    ids::TaskId,
    protocol::{StateFile, TaskCounts, TaskInput, TaskOutput, TaskReport, Watermarks},
    telemetry::metrics::{Metrics, RangeState, TaskOutcome},
    time::{BatchTime, Clock},
};
use millstream_connectors::malformed;
use millstream_dataflow::program::{CancelToken, StageProgram, TaskContext};

use crate::services::Services;

/// Tasks that may wait for a slot. A driver that knows the slots stays far below.
const QUEUE: usize = 4_096;

/// A task for a slot.
pub struct Job {
    /// The attempt.
    pub task: TaskId,
    /// The batch's time.
    pub batch_time: BatchTime,
    /// The stage's branch.
    pub branch: u32,
    /// What it reads.
    pub input: TaskInput,
    /// The state that it goes on from.
    pub state: Vec<StateFile>,
    /// The batch's event-time watermarks.
    pub watermarks: Watermarks,
    /// The batch is a re-run after a restart.
    pub rerun: bool,
    /// Set when it should stop.
    pub cancel: CancelToken,
    /// The longest that it may wait for input that should be there.
    pub input_deadline: Duration,
    /// The largest result that fits a message, bytes.
    pub result_limit: usize,
    /// The stage's code.
    pub program: Arc<dyn StageProgram>,
    /// What the executor provides.
    pub services: Arc<Services>,
    /// Takes the report, on the slot's thread; the attempt's folder is gone by then, its blocks too if it failed.
    pub done: Arc<dyn Fn(TaskReport) + Send + Sync>,
}

/// A fixed number of slot threads behind one queue. Threads end once the runner is dropped and their task is done.
pub struct Runner {
    // Boxed: the queue has room for all of them from the start.
    queue: Sender<Box<Job>>,
    threads: Vec<thread::JoinHandle<()>>,
    busy: Arc<AtomicUsize>,
}

impl Runner {
    /// Starts `slots` threads.
    ///
    /// # Errors
    /// `Io` when the system refuses a thread.
    pub fn start(slots: u32, clock: &Arc<dyn Clock>, metrics: &Metrics) -> Result<Self, Failure> {
        let (queue, jobs) = crossbeam_channel::bounded(QUEUE);
        let busy = Arc::new(AtomicUsize::new(0));
        let mut threads = Vec::new();
        for slot in 0..slots {
            let worker = Slot {
                jobs: jobs.clone(),
                clock: Arc::clone(clock),
                metrics: metrics.clone(),
                busy: Arc::clone(&busy),
            };
            let thread = thread::Builder::new()
                .name(format!("slot-{slot}"))
                .spawn(move || worker.run())
                .map_err(|error| {
                    Failure::caused_by(
                        FailureKind::Io,
                        format!("could not start the thread of task slot {slot} of {slots}: lower executor.cores"),
                        &error,
                    )
                })?;
            threads.push(thread);
        }
        Ok(Self {
            queue,
            threads,
            busy,
        })
    }

    /// Queues a task; one that finds the queue full is reported as failed.
    pub fn submit(&self, job: Job) {
        let refused = match self.queue.try_send(Box::new(job)) {
            Ok(()) => return,
            Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => job,
        };
        let failure = Failure::new(
            FailureKind::Internal,
            format!("the executor's queue of {QUEUE} tasks is full"),
        )
        .with_retry(Retry::Backoff)
        .in_task(refused.task);
        (refused.done)(TaskReport {
            task: refused.task,
            outcome: Err(failure),
            run_micros: 0,
        });
    }

    /// Tasks that run now.
    pub fn busy(&self) -> usize {
        self.busy.load(Ordering::Relaxed)
    }

    /// Closes the queue and waits for the threads. A task that doesn't heed its cancellation is waited for.
    pub fn join(self) {
        drop(self.queue);
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a slot thread ended by a panic outside of user code");
            }
        }
    }
}

struct Slot {
    jobs: Receiver<Box<Job>>,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    busy: Arc<AtomicUsize>,
}

impl Slot {
    fn run(self) {
        while let Ok(job) = self.jobs.recv() {
            self.busy.fetch_add(1, Ordering::Relaxed);
            self.metrics.executor().tasks_running.inc();
            let report = self.run_job(&job);
            self.metrics.executor().tasks_running.dec();
            self.busy.fetch_sub(1, Ordering::Relaxed);
            (job.done)(report);
        }
    }

    fn run_job(&self, job: &Job) -> TaskReport {
        let task = job.task;
        let start = self.clock.now();
        let outcome = match job.cancel.check() {
            Ok(()) => run_program(job),
            Err(cancelled) => Err(cancelled),
        };
        let run_time = self.clock.now().since(start);
        job.services.end_task(task, outcome.is_ok());
        let outcome = outcome.map_err(|failure| failure.in_task(task));
        self.count(&outcome, run_time);
        failpoint!(
            "executor.task.before_report",
            batch = task.batch,
            stage = task.stage,
            partition = task.partition,
            attempt = task.attempt
        );
        TaskReport {
            task,
            outcome,
            run_micros: u64::try_from(run_time.as_micros()).unwrap_or(u64::MAX),
        }
    }

    fn count(&self, outcome: &Result<TaskOutput, Failure>, run_time: Duration) {
        let metrics = self.metrics.executor();
        metrics.task_duration.observe(run_time);
        let label = match outcome {
            Ok(output) => {
                metrics
                    .shuffle_written_records
                    .inc_by(output.counts.shuffle_rows_written);
                if let Some(sink) = &output.sink {
                    metrics.sink_rows.inc_by(sink.rows);
                }
                let counts = &output.counts;
                metrics.spilled_bytes.inc_by(counts.spilled_bytes);
                metrics.malformed_records.inc_by(counts.malformed);
                metrics.kafka_records.inc_by(counts.kafka_records);
                let ranges = &metrics.kafka_ranges;
                let buffered = ranges.with(&RangeState::Buffered);
                buffered.inc_by(counts.kafka_ranges_buffered);
                let awaited = ranges.with(&RangeState::Awaited);
                awaited.inc_by(counts.kafka_ranges_awaited);
                TaskOutcome::Succeeded
            }
            Err(failure) => match failure.kind {
                FailureKind::Cancelled => TaskOutcome::Cancelled,
                FailureKind::Superseded => TaskOutcome::Superseded,
                _ => TaskOutcome::Failed,
            },
        };
        metrics.tasks.with(&label).inc();
    }
}

fn run_program(job: &Job) -> Result<TaskOutput, Failure> {
    let task = job.task;
    failpoint!(
        "executor.task.start",
        batch = task.batch,
        stage = task.stage,
        partition = task.partition,
        attempt = task.attempt
    );
    let mut context = TaskContext {
        id: task,
        batch_time: job.batch_time,
        branch: job.branch,
        input: job.input.clone(),
        state: job.state.clone(),
        watermarks: job.watermarks,
        rerun: job.rerun,
        cancel: job.cancel.clone(),
        input_deadline: job.input_deadline,
        counts: TaskCounts::default(),
        services: &*job.services,
    };
    // Also where it reads no source: records come through a shuffle and are decoded behind it.
    malformed::begin(job.services.on_malformed());
    // What a panic may leave half changed is the context and the task's blocks, and both are thrown away.
    let outcome = catch_unwind(AssertUnwindSafe(|| job.program.run(&mut context)));
    let mut output = match outcome {
        Ok(outcome) => outcome?,
        Err(panic) => {
            return Err(Failure::new(
                FailureKind::UserCode,
                format!(
                    "a function of the application panicked: {}",
                    panic_text(&*panic)
                ),
            ));
        }
    };
    context.counts.malformed += malformed::take_count();
    output.counts = context.counts;
    let result_bytes = output.result.as_ref().map_or(0, bytes::Bytes::len);
    if result_bytes > job.result_limit {
        return Err(Failure::new(
            FailureKind::OutOfMemory,
            format!(
                "the task's result for the driver has {result_bytes} bytes, a message takes {}: bring less to the driver, or raise rpc.max_message",
                job.result_limit
            ),
        )
        .with_retry(Retry::Never));
    }
    Ok(output)
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    if let Some(text) = panic.downcast_ref::<&str>() {
        return text;
    }
    match panic.downcast_ref::<String>() {
        Some(text) => text,
        None => "no message",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use bytes::Bytes;
    use millstream_common::{text::Blob, time::SystemClock};
    use millstream_connectors::malformed::OnMalformed;
    use tokio::runtime::Runtime;

    use super::*;
    use crate::{
        options::Tuning,
        testing::{DEADLINE, Function, Shelf, block, frame, task, tuning},
    };

    struct Fixture {
        shelf: Shelf,
        services: Arc<Services>,
        runner: Runner,
        reports: mpsc::Receiver<TaskReport>,
        done: Arc<dyn Fn(TaskReport) + Send + Sync>,
        _io: Runtime,
    }

    fn fixture(slots: u32) -> Fixture {
        fixture_with(slots, |_| {})
    }

    fn fixture_with(slots: u32, change: impl FnOnce(&mut Tuning)) -> Fixture {
        let mut tuning = tuning();
        change(&mut tuning);
        let io = Runtime::new().expect("runtime");
        let shelf = Shelf::new(1 << 20);
        let fetcher = shelf.fetcher(None, tuning.clone(), io.handle().clone());
        let services = Services::new(
            Arc::clone(&shelf.store),
            Arc::clone(&shelf.folder),
            fetcher,
            Arc::new(crate::queries::States::new(
                &Default::default(),
                Arc::clone(&shelf.budget),
                crate::background::Background::for_tests(),
            )),
            tuning,
        );
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let runner = Runner::start(slots, &clock, &shelf.metrics).expect("runner");
        let (sender, reports) = mpsc::channel();
        Fixture {
            shelf,
            services: Arc::new(services),
            runner,
            reports,
            done: Arc::new(move |report| sender.send(report).expect("test")),
            _io: io,
        }
    }

    impl Fixture {
        fn submit<F>(&self, partition: u32, function: F) -> CancelToken
        where
            F: Fn(&mut TaskContext<'_>) -> Result<TaskOutput, Failure> + Send + Sync + 'static,
        {
            let cancel = CancelToken::new();
            self.submit_with(partition, cancel.clone(), function);
            cancel
        }

        fn submit_with<F>(&self, partition: u32, cancel: CancelToken, function: F)
        where
            F: Fn(&mut TaskContext<'_>) -> Result<TaskOutput, Failure> + Send + Sync + 'static,
        {
            self.runner.submit(Job {
                task: task(partition),
                batch_time: BatchTime(0),
                branch: 0,
                input: TaskInput::Blocks(vec![]),
                state: vec![],
                watermarks: Watermarks::default(),
                rerun: false,
                cancel,
                input_deadline: DEADLINE,
                result_limit: 100,
                program: Arc::new(Function(function)),
                services: Arc::clone(&self.services),
                done: Arc::clone(&self.done),
            });
        }

        fn report(&self) -> TaskReport {
            self.reports.recv_timeout(DEADLINE).expect("report")
        }

        fn failure(&self) -> Failure {
            self.report().outcome.expect_err("failure")
        }
    }

    #[test]
    fn a_success_carries_the_counts_of_its_context() {
        let fixture = fixture(1);
        fixture.submit(3, |context| {
            context.counts.output_rows = 5;
            Ok(TaskOutput::default())
        });
        let report = fixture.report();
        assert_eq!(report.task, task(3));
        assert_eq!(report.outcome.expect("success").counts.output_rows, 5);
    }

    #[test]
    fn a_panic_is_the_users_failure_and_the_slot_lives_on() {
        let fixture = fixture(1);
        for text in ["first", "second"] {
            fixture.submit(0, move |_| panic!("the {text} went wrong"));
            let failure = fixture.failure();
            assert_eq!(failure.kind, FailureKind::UserCode);
            assert!(failure.message.contains(&format!("the {text} went wrong")));
            assert_eq!(failure.task, Some(task(0)));
        }
        fixture.submit(1, |_| Ok(TaskOutput::default()));
        assert!(fixture.report().outcome.is_ok());
    }

    #[test]
    fn what_a_failed_attempt_wrote_is_gone_and_a_successful_ones_blocks_stay() {
        let fixture = fixture(1);
        let writes = |fails: bool| {
            move |context: &mut TaskContext<'_>| {
                let id = millstream_common::ids::BlockId {
                    task: context.id,
                    exchange: 0,
                    partition: 0,
                };
                context.services.append_block(id, frame(b"row"))?;
                let folder = context.services.spill_folder(context.id)?;
                std::fs::write(folder.join("table"), "x").expect("write");
                if fails {
                    return Err(Failure::new(FailureKind::Io, "no"));
                }
                Ok(TaskOutput::default())
            }
        };
        fixture.submit(0, writes(true));
        assert_eq!(fixture.failure().kind, FailureKind::Io);
        assert!(fixture.shelf.store.frames(block(0, 0)).is_none());
        fixture.submit(1, writes(false));
        assert!(fixture.report().outcome.is_ok());
        assert!(fixture.shelf.store.frames(block(1, 0)).is_some());
        let mut entries = std::fs::read_dir(fixture.shelf.folder.path()).expect("folder");
        let is_task = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with("task-");
        assert!(!entries.any(|entry| is_task(&entry.expect("entry").file_name())));
    }

    #[test]
    fn a_running_task_heeds_its_token_and_a_queued_one_never_starts() {
        let fixture = fixture(1);
        let (started, is_started) = mpsc::channel();
        let first = fixture.submit(0, move |context| {
            started.send(()).expect("test");
            loop {
                context.cancel.check()?;
                std::thread::yield_now();
            }
        });
        let second = CancelToken::new();
        second.cancel();
        fixture.submit_with(1, second, |_| panic!("must not run"));
        is_started.recv_timeout(DEADLINE).expect("started");
        assert_eq!(fixture.runner.busy(), 1);
        first.cancel();
        assert_eq!(fixture.failure().kind, FailureKind::Cancelled);
        assert_eq!(fixture.failure().kind, FailureKind::Cancelled);
    }

    #[test]
    fn what_is_no_text_is_treated_as_configured_also_behind_a_shuffle() {
        let decodes = |_: &mut TaskContext<'_>| {
            let bytes = Blob::from_vec(b"caf\xe9".to_vec());
            let text = malformed::text(bytes, || "the value".to_owned());
            Ok(TaskOutput {
                result: Some(Bytes::copy_from_slice(text.as_bytes())),
                ..TaskOutput::default()
            })
        };
        let replacing = fixture_with(1, |tuning| tuning.on_malformed = OnMalformed::Replace);
        replacing.submit(0, decodes);
        let output = replacing.report().outcome.expect("it is replaced");
        assert_eq!(output.result.as_deref(), Some("caf\u{fffd}".as_bytes()));
        assert_eq!(output.counts.malformed, 1);
        replacing.submit(1, |_| Ok(TaskOutput::default()));
        let output = replacing.report().outcome.expect("nothing to replace");
        assert_eq!(output.counts.malformed, 0);
    }

    #[test]
    fn a_result_that_fits_no_message_is_refused() {
        let fixture = fixture(1);
        fixture.submit(0, |_| {
            Ok(TaskOutput {
                result: Some(Bytes::from(vec![0; 101])),
                ..TaskOutput::default()
            })
        });
        let failure = fixture.failure();
        assert_eq!(failure.retry, Retry::Never);
        assert!(failure.message.contains("rpc.max_message"), "{failure}");
    }

    #[test]
    fn slots_run_side_by_side() {
        let fixture = fixture(2);
        let barrier = Arc::new(std::sync::Barrier::new(2));
        for partition in 0..2 {
            let barrier = Arc::clone(&barrier);
            fixture.submit(partition, move |_| {
                barrier.wait();
                Ok(TaskOutput::default())
            });
        }
        assert!(fixture.report().outcome.is_ok() && fixture.report().outcome.is_ok());
    }
}
