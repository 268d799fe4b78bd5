//! What a driver says of the work that a stop leaves to the next start.

use millstream_driver::query::error::Stopped;

/// A log line for each kind of work that is left.
pub(crate) fn say_what_is_left(stopped: &Stopped, has_checkpoint: bool) {
    match (stopped.unfinished, has_checkpoint) {
        (Some(batch), true) => {
            tracing::error!(%batch, "stopped with a batch uncommitted; the next start runs it again");
        }
        (Some(batch), false) => {
            tracing::error!(%batch, "stopped with a batch uncommitted; there is no checkpoint, so the next start begins anew without it");
        }
        (None, _) => {}
    }
    match (stopped.unpublished, has_checkpoint) {
        (Some(batch), true) => {
            tracing::error!(%batch, "stopped with a committed batch not yet published; the next start publishes it");
        }
        (Some(batch), false) => {
            tracing::error!(%batch, "stopped with a committed batch not yet published; there is no checkpoint, so its files stay in staging");
        }
        (None, _) => {}
    }
    let batches = stopped.dropped;
    match (batches, has_checkpoint) {
        (0, _) => {}
        (_, true) => {
            tracing::error!(
                batches,
                "stopped with planned batches not begun; the next start takes their input, but for lines of a socket"
            );
        }
        (_, false) => {
            tracing::error!(
                batches,
                "stopped with planned batches not begun; there is no checkpoint, so the next start begins anew without them"
            );
        }
    }
}
