//! Kept blocks read on the driver, for outputs that compute there.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use millstream_common::{
    failure::{Failure, FailureKind},
    protocol::BlockLocation,
};
use millstream_proto::{
    auth::Secret,
    limits,
    pb::{self, fetch_reply::What},
    peers::{Peers, Problem},
    refusal::UNAUTHENTICATED,
    tls::Tls,
};
use tonic::Status;

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
        fetched.map_err(|attempt| match attempt {
            Attempt::Failed(problem) => {
                Attempt::Failed(self.peers.explained(&location.address, problem))
            }
            Attempt::TooLarge => Attempt::TooLarge,
        })
    }

    async fn fetch_once(
        &self,
        location: &BlockLocation,
        max_bytes: u64,
    ) -> Result<Vec<Bytes>, Attempt> {
        let reply_limit = self.max_message + limits::FETCH_REPLY_OVERHEAD;
        let client = self.peers.client(&location.address, reply_limit);
        let mut client = client.map_err(Problem::Final)?;
        let request = pb::FetchRequest {
            blocks: vec![location.block().into()],
        };
        let mut replies = self.in_time(client.fetch(request)).await?.into_inner();
        let mut frames = Vec::new();
        let mut bytes = 0;
        loop {
            let Some(reply) = self.in_time(replies.message()).await? else {
                let problem = "the stream ended within the block";
                return Err(Problem::Transient(problem.to_owned()).into());
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
                Some(What::Missing(missing)) => return Err(Problem::Final(missing.reason).into()),
                None => return Err(Problem::Final("the answer is empty".to_owned()).into()),
            }
        }
    }

    /// Waits for the executor; asking one again that says nothing would wait as long.
    async fn in_time<T>(
        &self,
        answer: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Problem> {
        match tokio::time::timeout(self.timeout, answer).await {
            Ok(answer) => answer.map_err(Problem::from),
            Err(_) => Err(Problem::Final(format!(
                "nothing arrived for {:?}",
                self.timeout
            ))),
        }
    }
}

enum Attempt {
    TooLarge,
    Failed(Problem),
}

impl From<Problem> for Attempt {
    fn from(problem: Problem) -> Self {
        Self::Failed(problem)
    }
}

#[async_trait]
impl FetchBlock for GrpcFetch {
    async fn fetch(&self, location: &BlockLocation, max_bytes: u64) -> Result<Vec<Bytes>, Failure> {
        let mut fetched = self.try_fetch(location, max_bytes).await;
        if matches!(fetched, Err(Attempt::Failed(Problem::Transient(_)))) {
            // The connection may have been one that broke while nobody used it.
            fetched = self.try_fetch(location, max_bytes).await;
        }
        fetched.map_err(|attempt| match attempt {
            Attempt::TooLarge => too_large(max_bytes),
            Attempt::Failed(Problem::OtherSecret(_)) => {
                let reason = "it asks for a shared secret that is not this driver's: give the driver and all executors the same auth.secret";
                location.not_fetched(reason).with_code(UNAUTHENTICATED)
            }
            Attempt::Failed(Problem::Transient(reason) | Problem::Final(reason)) => {
                location.not_fetched(&reason)
            }
        })
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
    use millstream_proto::{auth::RequireSecret, server};
    use tokio_stream::Stream;
    use tokio_util::sync::CancellationToken;
    use tonic::{
        Request, Response,
        service::{Routes, interceptor::InterceptedService},
    };

    use super::*;

    /// How a played executor answers.
    #[derive(Clone, Copy)]
    enum Answer {
        Silence,
        Missing,
        Broken,
    }

    /// Takes calls, counts them, and has no block.
    struct Played {
        answer: Answer,
        calls: Arc<AtomicUsize>,
    }

    #[tonic::async_trait]
    impl pb::executor_server::Executor for Played {
        type FetchStream = Pin<Box<dyn Stream<Item = Result<pb::FetchReply, Status>> + Send>>;

        async fn fetch(
            &self,
            _: Request<pb::FetchRequest>,
        ) -> Result<Response<Self::FetchStream>, Status> {
            self.calls.fetch_add(1, Ordering::Relaxed);
            let what = match self.answer {
                Answer::Silence => std::future::pending().await,
                Answer::Broken => return Err(Status::unavailable("cut")),
                Answer::Missing => What::Missing(pb::BlockMissing {
                    reason: "it was dropped".to_owned(),
                }),
            };
            let reply = pb::FetchReply {
                block: 0,
                what: Some(what),
            };
            Ok(Response::new(Box::pin(tokio_stream::once(Ok(reply)))))
        }
    }

    /// An executor that asks for `secret`, where it is, and how often it was called.
    async fn play(answer: Answer, secret: Option<&str>) -> (BlockLocation, Arc<AtomicUsize>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("binds");
        let location = location_at(listener.local_addr().expect("address").to_string());
        let calls = Arc::new(AtomicUsize::new(0));
        let played = Played {
            answer,
            calls: Arc::clone(&calls),
        };
        let service = pb::executor_server::ExecutorServer::new(played);
        let required = RequireSecret::new(secret.map(|it| Secret::new(it).expect("secret")));
        let routes = Routes::new(InterceptedService::new(service, required));
        let never = CancellationToken::new();
        let serving = server::serve(&Tls::default(), listener, "executor.listen", routes, never);
        tokio::spawn(serving);
        (location, calls)
    }

    async fn refused(location: &BlockLocation, secret: Option<&str>, timeout: Duration) -> Failure {
        let secret = secret.map(|it| Secret::new(it).expect("secret"));
        let fetch = GrpcFetch::new(secret, Tls::default(), 1 << 20, timeout);
        let failure = fetch.fetch(location, 1 << 20).await.expect_err("refused");
        assert!(matches!(failure.kind, FailureKind::FetchFailed { .. }));
        failure
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn an_executor_that_says_nothing_is_waited_for_once() {
        let (location, calls) = play(Answer::Silence, None).await;
        let failure = refused(&location, None, Duration::from_secs(1)).await;
        let told = failure.message.contains("nothing arrived for 1s");
        assert!(told, "{failure}");
        assert!(calls.load(Ordering::Relaxed) <= 1, "it is asked once");
    }

    #[tokio::test]
    async fn only_a_broken_connection_is_tried_again() {
        for (answer, reason, asked) in [
            (Answer::Missing, "it was dropped", 1),
            (Answer::Broken, "cut", 2),
        ] {
            let (location, calls) = play(answer, None).await;
            let failure = refused(&location, None, MINUTE).await;
            assert!(failure.message.contains(reason), "{failure}");
            assert_eq!(calls.load(Ordering::Relaxed), asked, "{reason}");
        }
    }

    #[tokio::test]
    async fn a_secret_that_an_executor_does_not_take_is_named() {
        let (location, calls) = play(Answer::Missing, Some("right")).await;
        for secret in [None, Some("wrong")] {
            let failure = refused(&location, secret, MINUTE).await;
            assert_eq!(failure.code, UNAUTHENTICATED);
            assert!(failure.message.contains("auth.secret"), "{failure}");
        }
        assert_eq!(calls.load(Ordering::Relaxed), 0, "refused at the door");
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
}
