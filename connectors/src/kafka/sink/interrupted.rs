//! Before a batch that another build began is run again: which of its sink partitions did that build write? If it wrote any, this build's rows for the others
//! would stand beside them. Only the brokers know, and the driver must ask before any task writes.

use std::sync::Arc;

use millstream_common::{
    failure::{Failure, FailureKind},
    ids::BatchId,
};
use rdkafka::consumer::{BaseConsumer, Consumer as _};

use super::{
    Names, Settings, failures,
    marker::{Note, other_build, read},
};
use crate::sink::SinkStart;

/// Refuses to go on with a batch that another build wrote in part or whole.
///
/// # Errors
/// Which sink partitions it wrote, and the two ways out; or the brokers don't answer.
pub(super) fn refuse_mixed(settings: &Arc<Settings>, start: &SinkStart) -> Result<(), Failure> {
    let Some(build) = &start.interrupted_build else {
        return Ok(());
    };
    if !other_build(build, settings) || settings.accept_mixed_batch == Some(start.next) {
        return Ok(());
    }
    let mut written = Vec::new();
    for (partition, names) in partitions(settings, start)? {
        if let Some(note) = note_of(settings, &names, start.next)?
            && other_build(&note.build, settings)
        {
            written.push(partition);
        }
    }
    written.sort_unstable();
    if written.is_empty() {
        return Ok(());
    }
    let SinkStart {
        output,
        next: BatchId(batch),
        ..
    } = start;
    let partitions: Vec<String> = written.iter().map(u32::to_string).collect();
    let (noun, verb) = if written.len() == 1 {
        ("partition", "holds")
    } else {
        ("partitions", "hold")
    };
    let message = format!(
        "sink {noun} {} of output {output} already {verb} batch {batch} as build {build} wrote it, and this is build {}, whose rows for the rest may not fit; run the old build once, so that it finishes the batch, or go on with --accept-mixed-batch {batch}",
        partitions.join(", "),
        settings.build_id
    );
    Err(failures::user(
        Failure::new(FailureKind::Nondeterministic, message)
            .with_code("sink.other_build")
            .in_operator(output),
    ))
}

/// The output's sink partitions that the brokers know.
fn partitions(settings: &Settings, start: &SinkStart) -> Result<Vec<(u32, Names)>, Failure> {
    let any = Names::new(start.query, &start.output, 0);
    let reader = reader(settings, &any)?;
    let groups = reader
        .fetch_group_list(None, settings.request_timeout)
        .map_err(|error| {
            let what = "list the consumer groups, to see what another build wrote";
            failures::call(what, &any.transactional_id, &settings.brokers, &error)
        })?;
    let prefix = any.marker_group.trim_end_matches('0');
    let known = groups.groups().iter().filter_map(|group| {
        let partition = group.name().strip_prefix(prefix)?.parse().ok()?;
        Some((partition, Names::new(start.query, &start.output, partition)))
    });
    Ok(known.collect())
}

/// The note of the marker that says that the batch is written.
fn note_of(settings: &Settings, names: &Names, batch: BatchId) -> Result<Option<Note>, Failure> {
    let reader = reader(settings, names)?;
    let marker = read(&reader, settings.marker_topic()?, settings.request_timeout);
    let marker = marker.map_err(|error| {
        let what = format!("read the marker of group {}", names.marker_group);
        failures::call(&what, &names.transactional_id, &settings.brokers, &error)
    })?;
    let written = marker.filter(|marker| marker.next == batch.0.saturating_add(1));
    Ok(written.and_then(|marker| marker.note))
}

fn reader(settings: &Settings, names: &Names) -> Result<BaseConsumer, Failure> {
    settings
        .reader(names)
        .create()
        .map_err(|error| failures::properties(&error))
}
