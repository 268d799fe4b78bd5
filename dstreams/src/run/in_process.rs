//! The transport of `local[N]`: the executor of this process speaks to the driver over channels, and its blocks are read without a copy.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use millstream_common::{
    failure::{Failure, FailureKind},
    protocol::BlockLocation,
};
use millstream_driver::{
    blocks::{FetchBlock, too_large},
    cluster::{ClusterHandle, SessionEnd},
};
use millstream_executor::{
    self as executor,
    transport::{InProcessLink, SessionChannels},
};
use millstream_proto::refusal::unknown_executor;

/// Messages that may wait in a session within the process.
const SESSION: usize = 1_024;

/// The link of an executor in the driver's own process.
pub fn in_process_link(cluster: ClusterHandle) -> InProcessLink {
    let registering = cluster.clone();
    let register = move |request| {
        let cluster = registering.clone();
        async move { cluster.register(request).await }.boxed()
    };
    let session = move |hello: millstream_common::protocol::Hello| {
        let cluster = cluster.clone();
        async move {
            let executor = hello.executor;
            let session = cluster.open(hello).await.map_err(|end| match end {
                SessionEnd::Unknown(_) => unknown_executor(end.to_string()),
                SessionEnd::Refused(failure) => failure,
                SessionEnd::Stopping => {
                    Failure::new(FailureKind::Io, end.to_string()).with_code("driver.stopping")
                }
            })?;
            Ok(connect(cluster, executor, session))
        }
        .boxed()
    };
    InProcessLink {
        register: Arc::new(register),
        session: Arc::new(session),
    }
}

fn connect(
    cluster: ClusterHandle,
    executor: millstream_common::ids::ExecutorId,
    mut session: millstream_driver::cluster::service::Session,
) -> SessionChannels {
    let (to_driver, mut from_executor) = tokio::sync::mpsc::channel(SESSION);
    let (to_executor, from_driver) = tokio::sync::mpsc::channel(SESSION);
    let number = session.number;
    tokio::spawn(async move {
        while let Some(message) = from_executor.recv().await {
            if cluster.heard(executor, number, message).await.is_err() {
                return;
            }
        }
        // The service may have ended first.
        let _ = cluster.closed(executor, number).await;
    });
    tokio::spawn(async move {
        while let Some(message) = session.outbox.recv().await {
            if to_executor.send(Ok(message)).await.is_err() {
                return;
            }
        }
    });
    (to_driver, from_driver)
}

/// Reads blocks of the executor in this process.
pub struct InProcessFetch(pub executor::Handle);

#[async_trait]
impl FetchBlock for InProcessFetch {
    async fn fetch(&self, location: &BlockLocation, max_bytes: u64) -> Result<Vec<Bytes>, Failure> {
        if location.meta.bytes > max_bytes {
            return Err(too_large(max_bytes));
        }
        let handle = self.0.clone();
        let block = location.block();
        let read = tokio::task::spawn_blocking(move || handle.block(block)).await;
        match read {
            Ok(Some(frames)) => Ok(frames),
            Ok(None) => Err(location.not_fetched("the executor doesn't hold it whole")),
            Err(error) => Err(location.not_fetched(&error.to_string())),
        }
    }
}
