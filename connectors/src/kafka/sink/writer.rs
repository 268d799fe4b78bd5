//! The executor half of the Kafka sink.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use millstream_common::{
    failpoint,
    failure::{Failure, FailureKind, Retry},
    frame::{ContentChecksum, ContentHash},
    protocol::SinkCommit,
    time::Clock,
};
use millstream_dataflow::program::{CancelToken, TaskContext};
use parking_lot::Mutex;
use serde_json::Value;

use super::{
    Names, ProducerRecord, Settings,
    cache::Cache,
    lines::Lines,
    marker::{self, Marker, Note, Verdict},
    session::{Committed, Session},
};
use crate::sink::{Sink, SinkWriter, WriteId};

/// After so many records the broker's answers are taken in.
const LOOK_EVERY: usize = 256;

/// One executor's producers of a Kafka output.
pub struct KafkaSink {
    shared: Arc<Shared>,
}

struct Shared {
    settings: Arc<Settings>,
    clock: Arc<dyn Clock>,
    idle: Mutex<Cache<Session>>,
    lines: Arc<Lines>,
    serial: AtomicU64,
}

impl KafkaSink {
    /// A sink that asks nothing of the brokers before there is something to write.
    pub fn new(settings: Arc<Settings>, clock: Arc<dyn Clock>) -> Self {
        let idle = Cache::new(settings.max_idle_producers, settings.idle_timeout);
        Self {
            shared: Arc::new(Shared {
                settings,
                lines: Lines::new(&clock),
                clock,
                idle: Mutex::new(idle),
                serial: AtomicU64::new(0),
            }),
        }
    }
}

impl Sink<Vec<ProducerRecord>> for KafkaSink {
    fn writer(
        &self,
        id: WriteId,
        _task: &TaskContext<'_>,
    ) -> Result<Box<dyn SinkWriter<Vec<ProducerRecord>>>, Failure> {
        self.shared.settings.marker_topic()?;
        Ok(Box::new(Writer {
            shared: Arc::clone(&self.shared),
            id,
            mode: Mode::Untouched,
            hash: ContentHash::new(),
            scratch: Vec::new(),
        }))
    }

    fn close(&self) {
        let sessions = self.shared.idle.lock().close();
        drop(sessions);
    }
}

impl Drop for KafkaSink {
    fn drop(&mut self) {
        self.close();
    }
}

/// What a write does with its rows.
enum Mode {
    /// There were none yet.
    Untouched,
    /// They go into an open transaction.
    Writing(Session),
    /// They are there already; these are only compared.
    Written(Note),
    /// It failed or is finished.
    Ended,
}

impl Shared {
    /// Finds out whether the write's rows are there, and begins a transaction if not.
    fn begin(&self, id: &WriteId, task: &TaskContext<'_>) -> Result<Mode, Failure> {
        if let Some(mode) = self.reuse(id, task)? {
            return Ok(mode);
        }
        let (mut session, verdict) = self.open(id, task)?;
        match verdict {
            Verdict::Written(note) => {
                self.keep(session);
                Ok(Mode::Written(note))
            }
            Verdict::Write => {
                session.begin()?;
                Ok(Mode::Writing(session))
            }
        }
    }

    /// Goes on with a producer from an earlier batch: what it knows of the marker holds until another one takes over, which fences it.
    fn reuse(&self, id: &WriteId, task: &TaskContext<'_>) -> Result<Option<Mode>, Failure> {
        let names = Names::of(id);
        let Some(mut session) = self.idle.lock().take(&names.transactional_id) else {
            return Ok(None);
        };
        if let Verdict::Written(note) =
            marker::judge(session.marker.as_ref(), id, &names.marker_group)?
        {
            self.keep(session);
            return Ok(Some(Mode::Written(note)));
        }
        // After a restart of the driver another executor may have written the batch.
        if task.rerun {
            return Ok(None);
        }
        let last_used = session.batch;
        session.batch = id.batch.0;
        let begun = session.begin();
        if last_used.saturating_add(1) >= id.batch.0 {
            return begun.map(|()| Some(Mode::Writing(session)));
        }
        // The sink partition may have been written elsewhere since, without anyone being at fault. That is learnt before there are rows to lose.
        let note = Note::new(ContentHash::new().finish(), &self.settings.build_id, id);
        match begun.and_then(|()| session.mark(id.batch.0.saturating_add(1), &note, &task.cancel)) {
            Ok(()) => Ok(Some(Mode::Writing(session))),
            Err(failure) if failure.kind == FailureKind::Superseded => Ok(None),
            Err(failure) => {
                self.give_up(session);
                Err(failure)
            }
        }
    }

    fn open(&self, id: &WriteId, task: &TaskContext<'_>) -> Result<(Session, Verdict), Failure> {
        let (session, verdict) = self.open_for(id, &task.cancel)?;
        self.check_age(session.marker.as_ref(), id, task)?;
        Ok((session, verdict))
    }

    fn open_for(&self, id: &WriteId, cancel: &CancelToken) -> Result<(Session, Verdict), Failure> {
        let names = Names::of(id);
        let group = names.marker_group.clone();
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let (settings, clock, lines) = (&self.settings, &self.clock, &self.lines);
        let mut session = Session::open(names, settings, clock, lines, serial, cancel)?;
        session.batch = id.batch.0;
        let verdict = marker::judge(session.marker.as_ref(), id, &group)?;
        if let Verdict::Written(note) = &verdict {
            tracing::info!(output = id.output, partition = id.partition, batch = %id.batch, checksum = %note.checksum, "the rows of this batch are in Kafka already");
        }
        Ok((session, verdict))
    }

    /// Brokers drop markers that are old. A missing one then says nothing of a batch that may have been written that long ago.
    fn check_age(
        &self,
        marker: Option<&Marker>,
        id: &WriteId,
        task: &TaskContext<'_>,
    ) -> Result<(), Failure> {
        if marker.is_some() || !task.rerun || self.settings.accept_duplicates {
            return Ok(());
        }
        let age = self.clock.wall_millis().saturating_sub(task.batch_time.0);
        let kept = i64::try_from(self.settings.marker_retention.as_millis()).unwrap_or(i64::MAX);
        if age < kept {
            return Ok(());
        }
        let message = format!(
            "batch {} was begun {} days ago and may have been written to sink partition {} of output {}, but brokers keep markers for {} days (offsets.retention.minutes): it can't be told any more; go on with --accept-duplicates, which may double its rows",
            id.batch,
            age / 86_400_000,
            id.partition,
            id.output,
            kept / 86_400_000
        );
        Err(Failure::new(FailureKind::Io, message)
            .with_retry(Retry::Never)
            .with_code("sink.marker_expired"))
    }

    fn keep(&self, session: Session) {
        let name = session.transactional_id().to_owned();
        let serial = session.serial;
        let gone = self
            .idle
            .lock()
            .put(name, session, serial, self.clock.now());
        drop(gone);
    }

    /// Takes an open transaction back.
    fn give_up(&self, session: Session) {
        if session.abort() {
            self.keep(session);
        }
    }
}

/// One attempt's write.
struct Writer {
    shared: Arc<Shared>,
    id: WriteId,
    mode: Mode,
    hash: ContentHash,
    scratch: Vec<u8>,
}

impl SinkWriter<Vec<ProducerRecord>> for Writer {
    fn write(
        &mut self,
        chunk: Vec<ProducerRecord>,
        task: &mut TaskContext<'_>,
    ) -> Result<(), Failure> {
        self.take_in(&chunk, task)
            .map_err(|failure| failure.in_operator(&self.id.output))
    }

    fn finish(mut self: Box<Self>, task: &mut TaskContext<'_>) -> Result<SinkCommit, Failure> {
        let output = self.id.output.clone();
        self.end(task)
            .map_err(|failure| failure.in_operator(&output))
    }
}

impl Writer {
    fn take_in(&mut self, chunk: &[ProducerRecord], task: &TaskContext<'_>) -> Result<(), Failure> {
        task.cancel.check()?;
        if chunk.is_empty() {
            return Ok(());
        }
        if matches!(self.mode, Mode::Untouched) {
            self.mode = self.shared.begin(&self.id, task)?;
        }
        for (index, record) in chunk.iter().enumerate() {
            record.sum_up(&mut self.hash, &mut self.scratch);
            let Mode::Writing(session) = &self.mode else {
                continue;
            };
            session.send(record, &task.cancel)?;
            if index % LOOK_EVERY == LOOK_EVERY - 1 {
                session.look()?;
                task.cancel.check()?;
            }
        }
        if let Mode::Writing(session) = &self.mode {
            session.look()?;
        }
        Ok(())
    }

    fn end(&mut self, task: &TaskContext<'_>) -> Result<SinkCommit, Failure> {
        let computed = self.hash.finish();
        match std::mem::replace(&mut self.mode, Mode::Ended) {
            Mode::Writing(session) => self.commit(session, computed, &task.cancel),
            Mode::Written(note) => self.compare(&note, computed),
            Mode::Untouched => {
                // No rows are nothing to write, but an earlier attempt may have had some.
                if task.rerun || self.id.attempt > 0 {
                    let (session, verdict) = self.shared.open(&self.id, task)?;
                    self.shared.keep(session);
                    if let Verdict::Written(note) = verdict {
                        return self.compare(&note, computed);
                    }
                }
                Ok(self.sink_commit(computed))
            }
            Mode::Ended => Err(Failure::new(
                FailureKind::Internal,
                "a write was finished that had ended",
            )),
        }
    }

    fn compare(&self, note: &Note, computed: ContentChecksum) -> Result<SinkCommit, Failure> {
        marker::compare(note, computed, &self.id, &self.shared.settings)?;
        Ok(self.sink_commit(note.checksum))
    }

    fn commit(
        &mut self,
        mut session: Session,
        computed: ContentChecksum,
        cancel: &CancelToken,
    ) -> Result<SinkCommit, Failure> {
        let note = Note::new(computed, &self.shared.settings.build_id, &self.id);
        let next = self.id.batch.0.saturating_add(1);
        // The marker's round trip goes on beside the last rows' way to the broker.
        let ready = session
            .mark(next, &note, cancel)
            .and_then(|()| session.flush(cancel))
            .and_then(|()| {
                failpoint!(
                    "sink.kafka.before_commit",
                    batch = self.id.batch,
                    partition = self.id.partition,
                    attempt = self.id.attempt
                );
                session.commit()
            });
        match ready {
            Ok(Committed::Yes) => {
                failpoint!(
                    "sink.kafka.after_commit",
                    batch = self.id.batch,
                    partition = self.id.partition,
                    attempt = self.id.attempt
                );
                session.marker = Some(Marker {
                    next,
                    note: Some(note),
                });
                self.shared.keep(session);
                Ok(self.sink_commit(computed))
            }
            Ok(Committed::Unknown(failure)) => {
                drop(session);
                self.look_up(&failure, computed, cancel)
            }
            Err(failure) => {
                self.shared.give_up(session);
                Err(failure)
            }
        }
    }

    /// A new producer ends what the old one left, this way or that; then the marker tells which.
    fn look_up(
        &self,
        unknown: &Failure,
        computed: ContentChecksum,
        cancel: &CancelToken,
    ) -> Result<SinkCommit, Failure> {
        tracing::warn!(failure = %unknown, output = self.id.output, partition = self.id.partition, batch = %self.id.batch, "a commit's outcome is unknown; looking at the marker");
        let (session, verdict) = self.shared.open_for(&self.id, cancel)?;
        self.shared.keep(session);
        match verdict {
            Verdict::Written(note) => self.compare(&note, computed),
            Verdict::Write => {
                let message = format!(
                    "the commit of sink partition {} of output {} did not reach the broker; nothing of it is seen, it can be tried again",
                    self.id.partition, self.id.output
                );
                let mut failure = Failure::new(FailureKind::Io, message);
                failure.causes.push(unknown.to_string());
                Err(failure)
            }
        }
    }

    fn sink_commit(&self, checksum: ContentChecksum) -> SinkCommit {
        SinkCommit {
            partition: self.id.partition,
            rows: checksum.rows,
            checksum: checksum.hash,
            payload: Value::Null,
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Mode::Writing(session) = std::mem::replace(&mut self.mode, Mode::Ended) {
            self.shared.give_up(session);
        }
    }
}
