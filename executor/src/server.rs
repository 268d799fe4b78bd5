//! What the executor serves: blocks to its peers by gRPC, metrics and health by HTTP.

use std::{net::SocketAddr, sync::Arc};

use axum::{Router, extract::State, http::header, routing::get};
use bytes::Bytes;
use millstream_common::{
    config::Address,
    failpoint,
    failure::{Failure, FailureKind},
    frame::MAX_FRAME_BYTES,
    ids::BlockId,
    telemetry::metrics::{CONTENT_TYPE, Metrics},
};
use millstream_proto::{
    auth::{RequireSecret, Secret},
    http::{Door, HttpServing},
    limits,
    pb::{
        self,
        executor_server::{Executor, ExecutorServer},
        fetch_reply::What,
    },
    server,
    tls::Tls,
};
use tokio::{net::TcpListener, sync::mpsc, task};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Response, Status,
    service::{Routes, interceptor::InterceptedService},
};

use crate::{
    blocks::{BlockStore, StoredFrame},
    memory::MemoryBudget,
};

/// Replies that wait for a slow reader.
const REPLIES: usize = 4;
/// Spilled frames are read in runs of about this many bytes.
const READ_BYTES: usize = 1 << 20;

/// Listens on `address`; port 0 takes a free one. `key` is the configuration key that gave the address.
///
/// # Errors
/// `Io`, naming address and key.
pub async fn listen(address: &Address, key: &str) -> Result<(TcpListener, SocketAddr), Failure> {
    let failed = |error: std::io::Error| {
        Failure::caused_by(
            FailureKind::Io,
            format!("could not listen on {address}: give {key} a free address of this machine"),
            &error,
        )
        .with_code("executor.listen")
    };
    let listener = TcpListener::bind((address.host(), address.port()))
        .await
        .map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// Serves blocks until `shutdown`.
///
/// # Errors
/// `Io` when the listener fails.
pub async fn serve_blocks(
    listener: TcpListener,
    store: Arc<BlockStore>,
    secret: Option<Secret>,
    tls: Tls,
    shutdown: CancellationToken,
) -> Result<(), Failure> {
    let service = ExecutorServer::new(BlockService { store })
        .max_decoding_message_size(limits::FETCH_REQUEST)
        .max_encoding_message_size(MAX_FRAME_BYTES + limits::FETCH_REPLY_OVERHEAD);
    let routes = Routes::new(InterceptedService::new(service, RequireSecret::new(secret)));
    server::serve(&tls, listener, "executor.listen", routes, shutdown)
        .await
        .map_err(|error| {
            Failure::caused_by(FailureKind::Io, "the block server ended", &error)
                .with_code("executor.block_server")
        })
}

struct BlockService {
    store: Arc<BlockStore>,
}

#[tonic::async_trait]
impl Executor for BlockService {
    type FetchStream = ReceiverStream<Result<pb::FetchReply, Status>>;

    async fn fetch(
        &self,
        request: Request<pb::FetchRequest>,
    ) -> Result<Response<Self::FetchStream>, Status> {
        let wanted = request.into_inner().blocks;
        if wanted.len() > limits::FETCH_BLOCKS {
            return Err(Status::invalid_argument(format!(
                "a request may name {} blocks, this one names {}",
                limits::FETCH_BLOCKS,
                wanted.len()
            )));
        }
        let mut blocks = Vec::with_capacity(wanted.len());
        for block in wanted {
            blocks.push(BlockId::try_from(block)?);
        }
        let (replies, stream) = mpsc::channel(REPLIES);
        task::spawn(send_blocks(Arc::clone(&self.store), blocks, replies));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

type Replies = mpsc::Sender<Result<pb::FetchReply, Status>>;

/// The reader is gone.
struct Gone;

async fn send_blocks(store: Arc<BlockStore>, blocks: Vec<BlockId>, replies: Replies) {
    for (index, block) in (0u32..).zip(blocks) {
        if failpoint::ENABLED {
            // The point may hold its thread; the IO runtime has to go on.
            let hit = task::spawn_blocking(move || {
                failpoint!(
                    "executor.fetch.serving",
                    batch = block.task.batch,
                    stage = block.task.stage,
                    partition = block.partition
                );
            });
            if hit.await.is_err() {
                return;
            }
        }
        let sent = match store.frames(block) {
            Some(frames) => send_frames(index, frames, &replies).await,
            None => send_missing(index, "this executor doesn't have it", &replies).await,
        };
        if sent.is_err() {
            return;
        }
    }
}

async fn send_frames(index: u32, frames: Vec<StoredFrame>, replies: &Replies) -> Result<(), Gone> {
    let count = u32::try_from(frames.len()).unwrap_or(u32::MAX);
    let mut frames = frames.into_iter().peekable();
    while let Some(frame) = frames.next() {
        if let Some(bytes) = frame.in_memory() {
            send(index, What::Frame(bytes), replies).await?;
            continue;
        }
        let mut run = vec![frame];
        let mut length = run[0].length();
        while length < READ_BYTES
            && let Some(next) = frames.next_if(|next| next.in_memory().is_none())
        {
            length += next.length();
            run.push(next);
        }
        let read = task::spawn_blocking(move || {
            run.iter()
                .map(StoredFrame::read)
                .collect::<Result<Vec<Bytes>, _>>()
        });
        match read.await {
            Ok(Ok(read)) => {
                for bytes in read {
                    send(index, What::Frame(bytes), replies).await?;
                }
            }
            Ok(Err(error)) => {
                tracing::error!(%error, "a spilled block is lost");
                return send_missing(index, &error.to_string(), replies).await;
            }
            Err(_ended) => return Err(Gone),
        }
    }
    send(index, What::End(pb::BlockEnd { frames: count }), replies).await
}

async fn send_missing(index: u32, reason: &str, replies: &Replies) -> Result<(), Gone> {
    let reason = reason.to_owned();
    send(index, What::Missing(pb::BlockMissing { reason }), replies).await
}

async fn send(block: u32, what: What, replies: &Replies) -> Result<(), Gone> {
    let reply = pb::FetchReply {
        block,
        what: Some(what),
    };
    replies.send(Ok(reply)).await.map_err(|_| Gone)
}

#[derive(Clone)]
struct Observed {
    metrics: Metrics,
    budget: Arc<MemoryBudget>,
}

/// Opens the port of `/metrics` and `/healthz`, behind `door`.
///
/// # Errors
/// `BadInput` when anyone could read it.
pub fn open_http(
    door: &Door,
    listener: TcpListener,
    metrics: Metrics,
    budget: Arc<MemoryBudget>,
) -> Result<HttpServing, Failure> {
    let router = Router::new()
        .route("/metrics", get(show_metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .with_state(Observed { metrics, budget });
    door.open(listener, "executor.http", router)
        .map_err(|error| {
            Failure::new(FailureKind::BadInput, error.to_string()).with_code("http.exposed")
        })
}

/// Serves `/metrics` and `/healthz` until `shutdown`.
///
/// # Errors
/// `Io` when the listener fails.
pub async fn serve_http(serving: HttpServing, shutdown: CancellationToken) -> Result<(), Failure> {
    serving.run(shutdown).await.map_err(|error| {
        Failure::caused_by(FailureKind::Io, "the HTTP server ended", &error)
            .with_code("executor.http_server")
    })
}

async fn show_metrics(
    State(observed): State<Observed>,
) -> ([(header::HeaderName, &'static str); 1], String) {
    observe_memory(&observed.metrics, &observed.budget);
    (
        [(header::CONTENT_TYPE, CONTENT_TYPE)],
        observed.metrics.encode(),
    )
}

fn observe_memory(metrics: &Metrics, budget: &MemoryBudget) {
    let gauge = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let metrics = metrics.executor();
    metrics.blocks_memory.set(gauge(budget.block_bytes()));
    metrics.memory_used.set(gauge(budget.used()));
    metrics.state_memory.set(gauge(budget.state_bytes()));
}
