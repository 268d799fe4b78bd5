//! Kept blocks read on the driver, for outputs that compute there.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use millstream_common::{
    failure::{Failure, FailureKind},
    ids::BlockId,
    protocol::BlockLocation,
};
use millstream_proto::{
    auth::Secret,
    limits,
    pb::{self, fetch_reply::What},
    peers::Peers,
    refusal::UNAUTHENTICATED,
    tls::Tls,
};
use tonic::{Code, Status};

/// Fetches a whole block from the executor that has it.
#[async_trait]
pub trait FetchBlock: Send + Sync {
    /// The block's frames in order; at most `max_bytes` of them.
    ///
    /// # Errors
    /// `FetchFailed` when the executor doesn't give it; `OutOfMemory` past `max_bytes`.
    async fn fetch(&self, location: &BlockLocation, max_bytes: u64) -> Result<Vec<Bytes>, Failure>;
}

/// Fetches over the network; connections stay.
pub struct GrpcFetch {
    peers: Peers,
    max_message: usize,
    timeout: Duration,
}

impl GrpcFetch {
    /// `timeout` is how long a fetch may go without receiving anything.
    pub fn new(secret: Option<Secret>, tls: Tls, max_message: usize, timeout: Duration) -> Self {
        Self {
            peers: Peers::new(secret.as_ref(), tls, timeout),
            max_message,
            timeout,
        }
    }

    async fn try_fetch(
        &self,
        location: &BlockLocation,
        max_bytes: u64,
    ) -> Result<Vec<Bytes>, Attempt> {
        let fetched = self.fetch_once(location, max_bytes).await;
        // What is wrong with the other side says more than that a connection broke off.
        match (fetched, self.peers.trouble(&location.address)) {
            (Err(Attempt::Failed(_) | Attempt::Silent), Some(trouble)) => {
                Err(Attempt::failed(trouble))
            }
            (fetched, _) => fetched,
        }
    }

    async fn fetch_once(
        &self,
        location: &BlockLocation,
        max_bytes: u64,
    ) -> Result<Vec<Bytes>, Attempt> {
        let reply_limit = self.max_message + limits::FETCH_REPLY_OVERHEAD;
        let client = self.peers.client(&location.address, reply_limit);
        let mut client = client.map_err(Attempt::Failed)?;
        let request = pb::FetchRequest {
            blocks: vec![block_of(location).into()],
        };
        let answered = tokio::time::timeout(self.timeout, client.fetch(request)).await;
        let mut replies = answered
            .map_err(|_| Attempt::Silent)?
            .map_err(Attempt::refused)?
            .into_inner();
        let mut frames = Vec::new();
        let mut bytes = 0;
        loop {
            let received = tokio::time::timeout(self.timeout, replies.message())
                .await
                .map_err(|_| Attempt::Silent)?;
            let Some(reply) = received.map_err(Attempt::failed)? else {
                return Err(Attempt::Failed(
                    "the stream ended within the block".to_owned(),
                ));
            };
            match reply.what {
                Some(What::Frame(frame)) => {
                    bytes += frame.len() as u64;
                    if bytes > max_bytes {
                        return Err(Attempt::TooLarge);
                    }
                    frames.push(frame);
                }
                Some(What::End(_)) => return Ok(frames),
                Some(What::Missing(_)) | None => {
                    return Err(Attempt::Failed("the executor doesn't have it".to_owned()));
                }
            }
        }
    }
}

enum Attempt {
    TooLarge,
    OtherSecret,
    /// Nothing came for as long as that may last; asking again would wait as long.
    Silent,
    Failed(String),
}

impl Attempt {
    fn failed(error: impl std::fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }

    fn refused(status: Status) -> Self {
        match status.code() {
            Code::Unauthenticated => Self::OtherSecret,
            _ => Self::failed(status),
        }
    }
}

#[async_trait]
impl FetchBlock for GrpcFetch {
    async fn fetch(&self, location: &BlockLocation, max_bytes: u64) -> Result<Vec<Bytes>, Failure> {
        let mut fetched = self.try_fetch(location, max_bytes).await;
        if matches!(fetched, Err(Attempt::Failed(_))) {
            // The connection may have been one that broke while nobody used it.
            fetched = self.try_fetch(location, max_bytes).await;
        }
        match fetched {
            Ok(frames) => Ok(frames),
            Err(Attempt::TooLarge) => Err(too_large(max_bytes)),
            Err(Attempt::OtherSecret) => {
                let reason = "it asks for a shared secret that is not this driver's: give the driver and all executors the same auth.secret";
                Err(fetch_failed(location, reason).with_code(UNAUTHENTICATED))
            }
            Err(Attempt::Silent) => {
                let reason = format!("nothing arrived for {:?}", self.timeout);
                Err(fetch_failed(location, &reason))
            }
            Err(Attempt::Failed(reason)) => Err(fetch_failed(location, &reason)),
        }
    }
}

/// The block at a location.
pub fn block_of(location: &BlockLocation) -> BlockId {
    BlockId {
        task: location.task,
        exchange: location.exchange,
        partition: location.partition,
    }
}

/// What an output may bring to the driver is limited.
pub fn too_large(max_bytes: u64) -> Failure {
    Failure::new(
        FailureKind::OutOfMemory,
        format!("an output brought more than {max_bytes} bytes to the driver; take fewer rows, save them from the executors, or raise collect.max_bytes"),
    )
    .with_code("output.too_large")
    .with_retry(millstream_common::failure::Retry::Never)
}

/// The block could not be had.
pub fn fetch_failed(location: &BlockLocation, reason: &str) -> Failure {
    let block = block_of(location);
    let message = format!(
        "{block} could not be fetched from executor {} at {}: {reason}",
        location.executor, location.address
    );
    Failure::new(
        FailureKind::FetchFailed {
            block,
            executor: location.executor,
        },
        message,
    )
}

/// A shared fetcher.
pub type Fetcher = Arc<dyn FetchBlock>;

#[cfg(test)]
mod tests {
    use std::{
        pin::Pin,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
    };

    use millstream_common::{
        ids::{BatchId, Epoch, ExecutorId, QueryId, StageId, TaskId},
        protocol::BlockMeta,
    };
    use millstream_proto::auth::RequireSecret;
    use tokio_stream::{Stream, wrappers::TcpListenerStream};
    use tonic::{Request, Response, service::interceptor::InterceptedService, transport::Server};

    use super::*;

    struct Silent;

    #[tonic::async_trait]
    impl pb::executor_server::Executor for Silent {
        type FetchStream = Pin<Box<dyn Stream<Item = Result<pb::FetchReply, Status>> + Send>>;

        async fn fetch(
            &self,
            _: Request<pb::FetchRequest>,
        ) -> Result<Response<Self::FetchStream>, Status> {
            Err(Status::unavailable("never reached"))
        }
    }

    /// Takes calls and never answers.
    struct Mute(Arc<AtomicUsize>);

    #[tonic::async_trait]
    impl pb::executor_server::Executor for Mute {
        type FetchStream = Pin<Box<dyn Stream<Item = Result<pb::FetchReply, Status>> + Send>>;

        async fn fetch(
            &self,
            _: Request<pb::FetchRequest>,
        ) -> Result<Response<Self::FetchStream>, Status> {
            self.0.fetch_add(1, Ordering::Relaxed);
            std::future::pending().await
        }
    }

    #[tokio::test]
    async fn an_executor_that_says_nothing_is_waited_for_once() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("binds");
        let location = location_at(listener.local_addr().expect("address").to_string());
        let calls = Arc::new(AtomicUsize::new(0));
        let service = pb::executor_server::ExecutorServer::new(Mute(Arc::clone(&calls)));
        let serving = Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener));
        let _serving = tokio::spawn(serving);
        let timeout = Duration::from_secs(1);
        let fetch = GrpcFetch::new(None, Tls::default(), 1 << 20, timeout);
        let failure = fetch.fetch(&location, 1 << 20).await.expect_err("silence");
        assert!(matches!(failure.kind, FailureKind::FetchFailed { .. }));
        assert!(
            failure.message.contains("nothing arrived for 1s"),
            "{failure}"
        );
        assert!(calls.load(Ordering::Relaxed) <= 1, "it is asked once");
    }

    fn location_at(address: String) -> BlockLocation {
        BlockLocation {
            task: TaskId {
                query: QueryId::random(),
                epoch: Epoch(1),
                batch: BatchId(0),
                stage: StageId(0),
                partition: 0,
                attempt: 0,
            },
            exchange: 0,
            partition: 0,
            executor: ExecutorId::random(),
            address,
            meta: BlockMeta::default(),
        }
    }

    #[tokio::test]
    async fn a_secret_that_an_executor_does_not_take_is_named() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("binds");
        let address = listener.local_addr().expect("address").to_string();
        let required = RequireSecret::new(Some(Secret::new("right").expect("secret")));
        let service = pb::executor_server::ExecutorServer::new(Silent);
        let serving = Server::builder()
            .add_service(InterceptedService::new(service, required))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let _serving = tokio::spawn(serving);
        let location = location_at(address);
        for secret in [None, Some(Secret::new("wrong").expect("secret"))] {
            let fetch = GrpcFetch::new(secret, Tls::default(), 1 << 20, Duration::from_secs(60));
            let failure = fetch.fetch(&location, 1 << 20).await.expect_err("refused");
            assert_eq!(failure.code, UNAUTHENTICATED);
            assert!(matches!(failure.kind, FailureKind::FetchFailed { .. }));
            assert!(failure.message.contains("auth.secret"), "{failure}");
        }
    }
}
