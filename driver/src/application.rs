//! A driver as a whole: the cluster's service, its servers, and the queries that run on it.

use std::{collections::BTreeMap, io, net::SocketAddr, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use millstream_common::{
    config::{Address, Config, OnNondeterminism, keys},
    failure::{Failure, FailureKind},
    ids::{OutputIndex, QueryId},
    log_store::{self, FileOptions, Location, LogStore, MemoryLogStore, OpenOptions},
    protocol::Application,
    s3,
    telemetry::metrics::Metrics,
    time::Clock,
};
use millstream_connectors::source::SourceDriver;
use millstream_dataflow::plan::Plan;
use millstream_proto::{
    auth::{InvalidSecret, Secret},
    http::{self, Door},
    tls::{self, Tls},
};
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    blocks::Fetcher,
    cluster::{
        Cluster, ClusterHandle, ClusterOptions, DriverServer, Serving, grpc::ServerError,
        registry::RegistryOptions,
    },
    http::{ApplicationView, HttpServer},
    measure::MeasuredStore,
    output::{BatchInfo, BlockReader, OutputDriver, PartitionResult},
    query::{
        entries::Metadata,
        error::QueryError,
        event::BatchRules,
        handle::{QueryHandle, Ready},
        rate::RateOptions,
        service::{BlockReaders, QueryOptions, QueryParts, QueryService, read_metadata},
    },
    scheduler::options::{Nondeterminism, SchedulerOptions, Speculation},
    streaming::QueryInfo,
    view::View,
};

/// How many ports after a default one are tried when it is taken.
const PORTS_TRIED: u16 = 64;

/// A driver could not be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address is taken or not this host's.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The HTTP address is taken or not this host's.
    #[error(
        "could not serve HTTP on {address}: {source}; name another address with driver.http, or switch HTTP off with http.enabled=false"
    )]
    Http {
        /// The address.
        address: String,
        /// Why not.
        source: io::Error,
    },
    /// The shared secret can't be sent in a header.
    #[error("auth.secret can't be used: {0}")]
    Secret(#[from] InvalidSecret),
    /// The files of TLS can't be used.
    #[error(transparent)]
    Tls(#[from] tls::Error),
    /// The HTTP port can't be served as it is configured.
    #[error(transparent)]
    Door(#[from] http::Error),
    /// The checkpoint can't be opened.
    #[error("could not open the checkpoint {location}: {source}")]
    Checkpoint {
        /// Where.
        location: String,
        /// Why not.
        source: log_store::Error,
    },
    /// The query can't be begun.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// A part of the driver is gone.
    #[error("the driver is stopping")]
    Stopping,
}

/// A running driver.
pub struct Driver {
    config: Config,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    cluster: ClusterHandle,
    address: Option<SocketAddr>,
    http: Option<SocketAddr>,
    tls: Tls,
    view: Arc<View>,
    shutdown: CancellationToken,
    tasks: JoinSet<()>,
}

/// What a driver is started with.
pub struct DriverOptions {
    /// The application's name.
    pub name: String,
    /// The configuration.
    pub config: Config,
    /// The driver's build.
    pub build_id: String,
    /// Whether executors come over the network.
    pub serves_executors: bool,
    /// The metrics to serve.
    pub metrics: Metrics,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Decides ties and jitter.
    pub seed: u64,
}

/// Where a query's checkpoint is, and what it holds already.
pub struct Checkpoint {
    /// The log store.
    pub store: Arc<dyn LogStore>,
    /// What it says of its query; nothing before the first start.
    pub metadata: Option<Metadata>,
    /// Its folder, where it is one.
    pub folder: Option<std::path::PathBuf>,
}

impl Checkpoint {
    /// Opens the checkpoint that the configuration names, or one in memory.
    ///
    /// # Errors
    /// When it can't be opened or read.
    pub fn open(config: &Config) -> BoxFuture<'_, Result<Self, Error>> {
        // Boxed, as `start` and `stop` are: compiled here, not again in each crate that awaits it.
        Box::pin(Self::open_and_probe(config))
    }

    async fn open_and_probe(config: &Config) -> Result<Self, Error> {
        let Some(location) = config.get(keys::CHECKPOINT_LOCATION) else {
            return Ok(Self {
                store: Arc::new(MemoryLogStore::new()),
                metadata: None,
                folder: None,
            });
        };
        let failed = |source| Error::Checkpoint {
            location: location.clone(),
            source,
        };
        let options = OpenOptions {
            file: FileOptions {
                fsync: config.get(keys::CHECKPOINT_FSYNC),
            },
            s3: s3::Settings::of_config(config),
            ..OpenOptions::default()
        };
        let folder = match log_store::parse_location(&location).map_err(failed)? {
            Location::File(folder) => Some(folder),
            Location::S3(_) => None,
        };
        let store = log_store::open(&location, options).await.map_err(failed)?;
        log_store::probe(&*store).await.map_err(failed)?;
        let metadata = read_metadata(&*store).await?;
        Ok(Self {
            store,
            metadata,
            folder,
        })
    }
}

/// A query to run.
pub struct QuerySetup {
    /// The graph.
    pub plan: Arc<Plan>,
    /// Driver halves of its sources.
    pub sources: Vec<Box<dyn SourceDriver>>,
    /// Driver halves of its outputs.
    pub outputs: Vec<Arc<dyn OutputDriver>>,
    /// What executors get at registration.
    pub application: Application,
    /// The session fingerprint that they must have.
    pub fingerprint: String,
    /// The driver's build.
    pub build_id: String,
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// Reads kept blocks.
    pub fetcher: Fetcher,
    /// How batches follow each other.
    pub rules: BatchRules,
    /// What is told of it.
    pub info: QueryInfo,
    /// What executors need to run it, for a query of an application that is served already ([`Driver::serve`]); without it the query is the application.
    pub program: Option<Bytes>,
}

impl Driver {
    /// Starts the driver's services on the current runtime.
    ///
    /// # Errors
    /// When an address that was asked for is taken.
    pub fn start(options: DriverOptions) -> BoxFuture<'static, Result<Self, Error>> {
        Box::pin(Self::start_services(options))
    }

    async fn start_services(options: DriverOptions) -> Result<Self, Error> {
        let DriverOptions {
            name,
            config,
            build_id,
            serves_executors,
            metrics,
            clock,
            seed,
        } = options;
        let tls = Tls::of_config(&config)?;
        let door = Door::of_config(&config, &tls)?;
        let cluster_options = ClusterOptions {
            registry: RegistryOptions {
                timeout: config.get(keys::EXECUTOR_TIMEOUT),
                reconnect_timeout: config.get(keys::EXECUTOR_RECONNECT_TIMEOUT),
            },
            scheduler: scheduler_options(&config),
            max_message: config.get(keys::RPC_MAX_MESSAGE).as_len(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let cluster = Cluster::new(cluster_options, Arc::clone(&clock), metrics.clone(), seed);
        let handle = cluster.handle();
        let shutdown = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let mut address = None;
        if serves_executors {
            let server = bind_executors(&config, tls.clone(), handle.clone()).await?;
            address = server.address().ok();
            let stop = shutdown.clone();
            tasks.spawn(async move {
                if let Err(error) = server.run(stop).await {
                    tracing::error!(%error, "the driver can't be reached by executors any more");
                }
            });
        }
        let view = Arc::new(View::new(
            name,
            build_id,
            config.clone(),
            clock.wall_millis(),
        ));
        let mut http = None;
        if config.get(keys::HTTP_ENABLED) {
            let listener = bind_http(&config).await?;
            let server = HttpServer::new(
                &door,
                listener,
                metrics.clone(),
                handle.clone(),
                Arc::clone(&view) as Arc<dyn ApplicationView>,
            )?;
            http = Some(server.address());
            let stop = shutdown.clone();
            tasks.spawn(async move {
                if let Err(error) = server.run(stop).await {
                    tracing::error!(%error, "HTTP is no longer served");
                }
            });
        }
        tasks.spawn(cluster.run(shutdown.clone()));
        Ok(Self {
            config,
            clock,
            metrics,
            cluster: handle,
            address,
            http,
            tls,
            view,
            shutdown,
            tasks,
        })
    }

    /// The cluster.
    pub fn cluster(&self) -> &ClusterHandle {
        &self.cluster
    }

    /// Where executors come to.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Where HTTP is served.
    pub fn http(&self) -> Option<SocketAddr> {
        self.http
    }

    /// How it connects to executors.
    pub fn tls(&self) -> &Tls {
        &self.tls
    }

    /// Lets executors in, for an application whose queries come later.
    ///
    /// # Errors
    /// When the driver is stopping.
    pub async fn serve(&self, application: Application, fingerprint: String) -> Result<(), Error> {
        let serving = Serving {
            application,
            fingerprint,
            shared_files: Vec::new(),
        };
        let served = self.cluster.serve(serving).await;
        served.map_err(|_| Error::Stopping)
    }

    /// Begins a query; executors are let in once it is claimed and checked.
    ///
    /// # Errors
    /// When the parts don't fit together.
    pub fn run_query(&mut self, setup: QuerySetup) -> Result<QueryHandle, Error> {
        // Those of queries that ended.
        while self.tasks.try_join_next().is_some() {}
        let (scheduler, news) = self.cluster.query_port();
        let config = &self.config;
        let application = setup.application;
        let recorded: BTreeMap<String, Value> = application.recorded.clone();
        let options = QueryOptions {
            plan: Arc::clone(&setup.plan),
            parallelism: application.parallelism,
            interval_millis: application.batch_interval_millis,
            fresh_query: QueryId::random(),
            address: self
                .address
                .map(|address| address.to_string())
                .unwrap_or_default(),
            build_id: setup.build_id,
            arguments: application.arguments.clone(),
            configuration: application.configuration.clone(),
            affecting: config.affecting_results(),
            recorded,
            max_queued: config.get(keys::BATCH_MAX_QUEUED) as usize,
            retained_batches: u64::from(config.get(keys::CHECKPOINT_RETAINED_BATCHES)),
            rate: rate_options(config),
            rules: setup.rules,
            checkpoint_folder: setup.checkpoint.folder,
            program: setup.program.clone(),
        };
        let parts = QueryParts {
            store: Arc::new(MeasuredStore {
                store: setup.checkpoint.store,
                clock: Arc::clone(&self.clock),
                metrics: self.metrics.clone(),
            }),
            sources: setup.sources,
            outputs: setup.outputs,
            clock: Arc::clone(&self.clock),
            scheduler,
            news,
            blocks: block_readers(setup.fetcher),
        };
        let (service, handle) = QueryService::new(options, parts)?;
        // From the first batch on.
        let batches = handle.follow();
        let (known, forgotten) = self.view.add(&setup.plan, handle.clone(), setup.info);
        for known in &forgotten {
            crate::measure::forget(&self.metrics, known);
        }
        self.tasks.spawn(service.run(self.shutdown.clone()));
        let cluster = self.cluster.clone();
        let ready = handle.clone();
        let fingerprint = setup.fingerprint;
        let is_application = setup.program.is_none();
        self.tasks.spawn(async move {
            // Its end before that is told by the handle.
            if let Ok(Ready { shared_files, .. }) = ready.ready().await
                && is_application
            {
                let _ = cluster
                    .serve(Serving {
                        application,
                        fingerprint,
                        shared_files,
                    })
                    .await;
            }
        });
        let metrics = self.metrics.clone();
        self.tasks
            .spawn(crate::measure::follow(known, batches, metrics));
        Ok(handle)
    }

    /// Ends everything that still runs. Executors are told to shut down.
    pub fn stop(mut self) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            self.shutdown.cancel();
            while self.tasks.join_next().await.is_some() {}
        })
    }
}

async fn bind_executors(
    config: &Config,
    tls: Tls,
    cluster: ClusterHandle,
) -> Result<DriverServer, Error> {
    let secret = match config.get(keys::AUTH_SECRET) {
        Some(secret) => Some(Secret::new(secret.expose())?),
        None => None,
    };
    let address = config.get(keys::DRIVER_LISTEN);
    let max_message = config.get(keys::RPC_MAX_MESSAGE).as_len();
    let mut last = None;
    for address in candidates(&address, config.is_set(keys::DRIVER_LISTEN)) {
        match DriverServer::bind(
            &address.to_string(),
            secret.clone(),
            tls.clone(),
            max_message,
            cluster.clone(),
        )
        .await
        {
            Ok(server) => {
                said_if_moved("driver.listen", &address, last.is_some());
                if let Ok(bound) = server.address()
                    && lets_anyone_in(bound, &secret, &tls)
                {
                    tracing::warn!(
                        address = %bound,
                        "the driver's port is reached from other machines and auth.secret is not set: whoever reaches it is let in; set auth.secret on driver and executors, or listen on 127.0.0.1"
                    );
                }
                return Ok(server);
            }
            Err(error) => last = Some(error),
        }
    }
    Err(last.map_or(Error::Stopping, Error::Server))
}

/// Whether other machines reach the port, and need neither secret nor certificate.
fn lets_anyone_in(bound: SocketAddr, secret: &Option<Secret>, tls: &Tls) -> bool {
    !bound.ip().to_canonical().is_loopback() && secret.is_none() && !tls.is_on()
}

async fn bind_http(config: &Config) -> Result<TcpListener, Error> {
    let address = config.get(keys::DRIVER_HTTP);
    let mut last = None;
    for address in candidates(&address, config.is_set(keys::DRIVER_HTTP)) {
        match TcpListener::bind(address.to_string()).await {
            Ok(listener) => {
                said_if_moved("driver.http", &address, last.is_some());
                return Ok(listener);
            }
            Err(source) => {
                last = Some(Error::Http {
                    address: address.to_string(),
                    source,
                })
            }
        }
    }
    Err(last.unwrap_or(Error::Stopping))
}

/// A port that was asked for, or a default one and those after it.
fn candidates(address: &Address, asked_for: bool) -> Vec<Address> {
    let more = if asked_for || address.port() == 0 {
        0
    } else {
        PORTS_TRIED
    };
    let ports = address.port()..=address.port().saturating_add(more);
    ports.map(|port| address.with_port(port)).collect()
}

fn said_if_moved(key: &str, address: &Address, moved: bool) {
    if moved {
        tracing::warn!(%address, "the default port of {key} is taken; the next free one is used");
    }
}

fn scheduler_options(config: &Config) -> SchedulerOptions {
    let speculation = config.get(keys::SPECULATION_ENABLED).then(|| Speculation {
        quantile: config.get(keys::SPECULATION_QUANTILE),
        multiplier: config.get(keys::SPECULATION_MULTIPLIER),
        interval: config.get(keys::SPECULATION_INTERVAL),
        ..Speculation::default()
    });
    SchedulerOptions {
        max_failures: config.get(keys::TASK_MAX_FAILURES),
        stage_max_attempts: config.get(keys::STAGE_MAX_ATTEMPTS),
        exclude_after: config.get(keys::TASK_EXCLUDE_AFTER),
        locality_wait: config.get(keys::SCHEDULER_LOCALITY_WAIT),
        superseded_limit: config.get(keys::KAFKA_SINK_FENCE_RETRIES),
        wait_log_interval: config.get(keys::EXECUTOR_WAIT_LOG_INTERVAL),
        nondeterminism: match config.get(keys::DETERMINISM_CHECK) {
            OnNondeterminism::Fail => Nondeterminism::Fail,
            OnNondeterminism::Warn => Nondeterminism::Warn,
        },
        speculation,
        ..SchedulerOptions::default()
    }
}

fn rate_options(config: &Config) -> Option<RateOptions> {
    config.get(keys::BACKPRESSURE_ENABLED).then(|| RateOptions {
        proportional: config.get(keys::BACKPRESSURE_PROPORTIONAL),
        integral: config.get(keys::BACKPRESSURE_INTEGRAL),
        derived: config.get(keys::BACKPRESSURE_DERIVED),
        min_rate: config.get(keys::BACKPRESSURE_MIN_RATE),
        initial_rate: config.get(keys::BACKPRESSURE_INITIAL_RATE),
    })
}

fn block_readers(fetcher: Fetcher) -> BlockReaders {
    Arc::new(
        move |_: BatchInfo, _: OutputIndex, results: &[PartitionResult]| {
            Arc::new(KeptBlocks {
                results: results.to_vec(),
                fetcher: Arc::clone(&fetcher),
            }) as Arc<dyn BlockReader>
        },
    )
}

struct KeptBlocks {
    results: Vec<PartitionResult>,
    fetcher: Fetcher,
}

#[async_trait]
impl BlockReader for KeptBlocks {
    async fn read(&self, partition: u32, max_bytes: u64) -> Result<Vec<Bytes>, Failure> {
        let result = self
            .results
            .iter()
            .find(|result| result.partition == partition);
        let Some(result) = result else {
            return Ok(Vec::new());
        };
        match &result.kept {
            Some(location) if location.meta.rows == 0 => Ok(Vec::new()),
            Some(location) => self.fetcher.fetch(location, max_bytes).await,
            None => {
                let message = format!("partition {partition} of the output kept no block");
                Err(Failure::new(FailureKind::Internal, message))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_beyond_this_machine_without_a_secret_lets_anyone_in() {
        let lets_in = |address: &str, secret: Option<&str>| {
            let secret = secret.map(|text| Secret::new(text).expect("secret"));
            let bound = address.parse().expect("address");
            lets_anyone_in(bound, &secret, &Tls::default())
        };
        assert!(lets_in("0.0.0.0:7077", None));
        assert!(lets_in("10.0.0.1:7077", None));
        assert!(!lets_in("127.0.0.1:7077", None));
        assert!(!lets_in("[::ffff:127.0.0.1]:7077", None));
        assert!(!lets_in("0.0.0.0:7077", Some("word")));
    }
}
