//! One line on a terminal that shows how the newest batch went.

use std::io::{IsTerminal, Write};

use millstream_common::config::ShowProgress;
use millstream_driver::{
    cluster::ClusterHandle,
    query::{handle::QueryHandle, progress::BatchProgress},
};

/// Whether the line is shown: where standard error is a terminal and standard output isn't the same one with results of its own.
pub(crate) fn is_shown(wish: ShowProgress) -> bool {
    match wish {
        ShowProgress::Always => true,
        ShowProgress::Never => false,
        ShowProgress::Auto => std::io::stderr().is_terminal() && !std::io::stdout().is_terminal(),
    }
}

/// Shows the line until the query is over.
pub(crate) async fn show(query: QueryHandle, cluster: ClusterHandle) {
    let mut newest = query.progress();
    let connected = cluster.connected();
    while newest.changed().await.is_ok() {
        let batch = newest.borrow_and_update().clone();
        let executors = *connected.borrow();
        if let Some(batch) = batch {
            // A terminal that is gone shows nothing.
            let _ = write!(std::io::stderr(), "\r\x1b[2K{}", line(&batch, executors));
        }
    }
    let _ = writeln!(std::io::stderr());
}

fn line(batch: &BatchProgress, executors: usize) -> String {
    let rows = batch.input_rows();
    let seconds = (batch.processing_millis / 1e3).max(1e-6);
    format!(
        "batch {} · {rows} rows · {:.0} rows/s · {:.0} ms processing · {:.0} ms delay · {} queued · {executors} executors",
        batch.batch,
        rows as f64 / seconds,
        batch.processing_millis,
        batch.scheduling_delay_millis,
        batch.queued,
    )
}
