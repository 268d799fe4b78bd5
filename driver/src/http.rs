//! What the driver serves over HTTP: Prometheus metrics and the REST API, read-only.
//!
//! `GET /` lists them: `/metrics`, `/healthz`, `/api/v1/application`, `/api/v1/queries`,
//! `/api/v1/queries/{query}/progress`, `/api/v1/batches`, `/api/v1/stages`, `/api/v1/executors`.

use std::{io, net::SocketAddr, sync::Arc};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use millstream_common::telemetry::metrics::{CONTENT_TYPE, Metrics};
use millstream_proto::http::{Door, Error, HttpServing};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::cluster::ClusterHandle;

/// What `/` says.
const ENDPOINTS: &str = "\
A Millstream driver. What it serves, read-only:
/metrics              metrics, for Prometheus
/healthz              whether it lives
/api/v1/application   the application, its configuration, and its queries with their plans
/api/v1/queries       its queries: those that run, and the newest that ended
/api/v1/queries/QUERY/progress
                      the newest batches of one of them, by its name, id or run id
/api/v1/batches       the newest batches of all
/api/v1/stages        the stages of the plan, with the newest batch
/api/v1/executors     the executors
";

const NO_SUCH_QUERY: &str =
    "there is no such query; /api/v1/queries shows the names and ids of those there are\n";

/// What the REST API shows of a running application; each call gives JSON.
pub trait ApplicationView: Send + Sync {
    /// Name, id, start time, configuration, queries with their plans.
    fn application(&self) -> Value;
    /// Each query with its newest progress, under Spark's names.
    fn queries(&self) -> Value;
    /// The recent progress of a query, by its name, id or run id; nothing when there is none.
    fn progress(&self, query: &str) -> Option<Value>;
    /// Recent batches, newest first.
    fn batches(&self) -> Value;
    /// Stages of the plan with what they came to in the newest batch.
    fn stages(&self) -> Value;
}

/// The server, bound.
pub struct HttpServer {
    serving: HttpServing,
}

struct Shared {
    metrics: Metrics,
    cluster: ClusterHandle,
    view: Arc<dyn ApplicationView>,
}

impl HttpServer {
    /// Serves on a bound listener, behind `door`.
    ///
    /// # Errors
    /// When anyone could read it.
    pub fn new(
        door: &Door,
        listener: TcpListener,
        metrics: Metrics,
        cluster: ClusterHandle,
        view: Arc<dyn ApplicationView>,
    ) -> Result<Self, Error> {
        let shared = Arc::new(Shared {
            metrics,
            cluster,
            view,
        });
        let router = Router::new()
            .route("/", get(|| async { ENDPOINTS }))
            .route("/metrics", get(encode_metrics))
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/api/v1/application", get(|State(shared): State<Arc<Shared>>| async move { Json(shared.view.application()) }))
            .route("/api/v1/queries", get(|State(shared): State<Arc<Shared>>| async move { Json(shared.view.queries()) }))
            .route("/api/v1/queries/{query}/progress", get(progress))
            .route("/api/v1/batches", get(|State(shared): State<Arc<Shared>>| async move { Json(shared.view.batches()) }))
            .route("/api/v1/stages", get(|State(shared): State<Arc<Shared>>| async move { Json(shared.view.stages()) }))
            .route("/api/v1/executors", get(executors))
            .with_state(shared);
        let serving = door.open(listener, "driver.http", router)?;
        Ok(Self { serving })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.serving.address()
    }

    /// Serves until `shutdown`.
    ///
    /// # Errors
    /// When the server breaks off.
    pub async fn run(self, shutdown: CancellationToken) -> io::Result<()> {
        self.serving.run(shutdown).await
    }
}

async fn encode_metrics(State(shared): State<Arc<Shared>>) -> Response {
    (
        [(header::CONTENT_TYPE, CONTENT_TYPE)],
        shared.metrics.encode(),
    )
        .into_response()
}

async fn progress(State(shared): State<Arc<Shared>>, Path(query): Path<String>) -> Response {
    match shared.view.progress(&query) {
        Some(recent) => Json(recent).into_response(),
        None => (StatusCode::NOT_FOUND, NO_SUCH_QUERY).into_response(),
    }
}

async fn executors(State(shared): State<Arc<Shared>>) -> Response {
    match shared.cluster.executors().await {
        Ok(views) => Json(views).into_response(),
        Err(ended) => (StatusCode::SERVICE_UNAVAILABLE, ended.to_string()).into_response(),
    }
}
