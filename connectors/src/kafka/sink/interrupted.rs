//! Before a batch that another build began is run again: which of its sink partitions did that build write? If it wrote any, this build's rows for the others
//! would stand beside them. Only the brokers know, and the driver must ask before any task writes.

use std::sync::Arc;

use futures::future::try_join_all;
use millstream_common::{
    failure::{Failure, FailureKind},
    ids::BatchId,
    time::Clock,
};
use millstream_dataflow::program::CancelToken;

use super::{Names, Settings, failures, lines::Lines, marker::other_build, session::Session};
use crate::sink::{Interrupted, SinkStart};

/// So many sink partitions are asked about at once; each is a producer of its own.
const AT_ONCE: usize = 16;

/// Refuses to go on with a batch that another build wrote in part or whole. Fences that build's producers first, so that what is found stays true.
///
/// # Errors
/// Which sink partitions it wrote, and the two ways out; or the brokers don't answer.
pub(super) async fn refuse_mixed(
    settings: &Arc<Settings>,
    clock: &Arc<dyn Clock>,
    start: &SinkStart,
) -> Result<(), Failure> {
    let Some(Interrupted { build, partitions }) = &start.interrupted else {
        return Ok(());
    };
    if !other_build(build, settings) || settings.accept_mixed_batch == Some(start.next) {
        return Ok(());
    }
    let lines = Lines::new(clock);
    let all: Vec<u32> = (0..*partitions).collect();
    let mut written = Vec::new();
    for some in all.chunks(AT_ONCE) {
        let asked = some.iter().map(|partition| {
            let names = Names::new(start.query, &start.output, *partition);
            holds_rows_of_another(settings, clock, &lines, names, start.next)
        });
        let answers = try_join_all(asked).await?;
        let found = some.iter().zip(answers).filter(|(_, found)| *found);
        written.extend(found.map(|(partition, _)| partition.to_string()));
    }
    if written.is_empty() {
        return Ok(());
    }
    let SinkStart {
        output,
        next: BatchId(batch),
        ..
    } = start;
    let (noun, verb) = if written.len() == 1 {
        ("partition", "holds")
    } else {
        ("partitions", "hold")
    };
    let message = format!(
        "sink {noun} {} of output {output} already {verb} batch {batch} as build {build} wrote it, and this is build {}, whose rows for the rest may not fit; run the old build once, so that it finishes the batch, or go on with --accept-mixed-batch {batch}",
        written.join(", "),
        settings.build_id
    );
    Err(failures::user(
        Failure::new(FailureKind::Nondeterministic, message)
            .with_code("sink.other_build")
            .in_operator(output),
    ))
}

async fn holds_rows_of_another(
    settings: &Arc<Settings>,
    clock: &Arc<dyn Clock>,
    lines: &Arc<Lines>,
    names: Names,
    batch: BatchId,
) -> Result<bool, Failure> {
    let (settings, clock) = (Arc::clone(settings), Arc::clone(clock));
    let lines = Arc::clone(lines);
    let asking = tokio::task::spawn_blocking(move || {
        let cancel = CancelToken::new();
        let mut session = Session::open(names, &settings, &clock, &lines, 0, &cancel)?;
        let marker = session.marker.take();
        let written = marker.filter(|marker| marker.next == batch.0.saturating_add(1));
        let note = written.and_then(|marker| marker.note);
        Ok(note.is_some_and(|note| other_build(&note.build, &settings)))
    });
    asking.await.map_err(|error| failures::broke_off(&error))?
}
