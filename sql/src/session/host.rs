//! The driver of a session, and on `local[N]` its executor.

use std::{
    collections::{BTreeMap, HashMap},
    fs::Permissions,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use millstream_common::{
    config::{self, Config, keys},
    failure::{Failure, FailureKind, Retry},
    ids::QueryId,
    log_store::{Location, parse_location},
    protocol::Application,
    telemetry::metrics::Metrics,
    time::Clock,
};
use millstream_dataflow::{plan::StagePlan, program::Programs};
use millstream_driver::{
    application::{Checkpoint, Driver, DriverOptions, QuerySetup},
    blocks::{Fetcher, GrpcFetch},
    cluster::ClusterHandle,
    query::{event::BatchRules, handle::QueryHandle},
    streaming::QueryInfo,
};
use millstream_dstreams::{InProcessFetch, Master, in_process_link};
use millstream_executor::{Executor, Options};
use millstream_proto::auth::Secret;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{NewQuery, Progress, executor_programs, wait};
use crate::{error::Error, plan::cut, program::SessionPrograms, udf::Registry};

/// Threads for IO; they don't compute.
const IO_THREADS: usize = 2;
/// They plan queries, whose expressions may be nested by the hundred.
const STACK_BYTES: usize = 16 << 20;

pub(super) struct HostOptions {
    pub(super) name: String,
    pub(super) master: Master,
    pub(super) config: Config,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) build_id: String,
    pub(super) functions: Registry,
}

pub(super) struct Host {
    options: HostOptions,
    runtime: Option<Runtime>,
    driver: Arc<tokio::sync::Mutex<Option<Driver>>>,
    cluster: ClusterHandle,
    address: Option<SocketAddr>,
    http: Option<SocketAddr>,
    fetcher: Fetcher,
    executor: Mutex<Option<InProcess>>,
    /// Checkpoints of queries without one of their own that run, or could not be deleted; at the latest deleted with the session.
    temporary: Arc<Mutex<HashMap<PathBuf, TempDir>>>,
}

/// A query that was begun.
pub(super) struct Begun {
    pub(super) id: QueryId,
    pub(super) handle: QueryHandle,
    pub(super) info: QueryInfo,
}

struct InProcess {
    task: tokio::task::JoinHandle<()>,
    shutdown: CancellationToken,
    failed: Arc<Mutex<Option<Failure>>>,
}

impl Host {
    pub(super) fn start(options: HostOptions) -> Result<Self, Error> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(IO_THREADS)
            .thread_name("io")
            .thread_stack_size(STACK_BYTES)
            .enable_all()
            .build()
            .map_err(|error| {
                Failure::caused_by(FailureKind::Io, "could not start the IO threads", &error)
            })?;
        let config = options.config.clone();
        let master = options.master;
        let metrics = if master.is_local() {
            Metrics::of_both()
        } else {
            Metrics::of_driver()
        };
        let driver_options = DriverOptions {
            name: options.name.clone(),
            config: config.clone(),
            build_id: options.build_id.clone(),
            serves_executors: !master.is_local(),
            metrics: metrics.clone(),
            clock: Arc::clone(&options.clock),
            seed: uuid::Uuid::new_v4().as_u64_pair().0,
        };
        let application = application_of(&options, 0, Value::Null);
        let fingerprint =
            SessionPrograms::new(options.functions.clone()).session_fingerprint(&options.build_id);
        let clock = Arc::clone(&options.clock);
        let id = options.build_id.clone();
        let functions = options.functions.clone();
        let starting = async move {
            let driver = Driver::start(driver_options).await?;
            let (fetcher, executor): (Fetcher, _) = match master {
                Master::Local { slots } => {
                    let build_id = id.clone();
                    let executor = Executor::new(
                        Options::in_process(slots, config.clone()),
                        executor_programs(functions),
                        Arc::new(move || Ok(build_id.clone())),
                        Arc::new(in_process_link(driver.cluster().clone())),
                    )
                    .with_clock(clock)
                    .with_metrics(metrics);
                    let fetcher = InProcessFetch(executor.handle());
                    (Arc::new(fetcher), Some(executor))
                }
                Master::LocalCluster { .. } | Master::Cluster => {
                    (Arc::new(remote_fetch(&config, &driver)?), None)
                }
            };
            driver.serve(application, fingerprint).await?;
            let executor = executor.map(run_executor);
            Ok::<_, Error>((driver, fetcher, executor))
        };
        let (driver, fetcher, executor) = wait(&runtime, starting)??;
        Ok(Self {
            cluster: driver.cluster().clone(),
            address: driver.address(),
            http: driver.http(),
            driver: Arc::new(tokio::sync::Mutex::new(Some(driver))),
            runtime: Some(runtime),
            fetcher,
            executor: Mutex::new(executor),
            temporary: Arc::default(),
            options,
        })
    }

    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    pub(super) fn http(&self) -> Option<SocketAddr> {
        self.http
    }

    pub(super) fn config(&self) -> &Config {
        &self.options.config
    }

    pub(super) fn functions(&self) -> &Registry {
        &self.options.functions
    }

    pub(super) fn build_id(&self) -> &str {
        &self.options.build_id
    }

    pub(super) fn cluster(&self) -> &ClusterHandle {
        &self.cluster
    }

    pub(super) fn clock(&self) -> &Arc<dyn Clock> {
        &self.options.clock
    }

    pub(super) fn stop_timeout(&self) -> Duration {
        self.options.config.get(keys::STOP_TIMEOUT)
    }

    pub(super) fn runtime(&self) -> Result<&Runtime, Error> {
        self.runtime.as_ref().ok_or_else(|| ended().into())
    }

    /// Opens the query's checkpoint, or one in memory, cuts its plan, and runs it. Returns once it is claimed and checked.
    pub(super) fn begin(
        &self,
        query: NewQuery,
        run: Uuid,
        location: Option<&str>,
    ) -> Result<Begun, Error> {
        let begun = self.begin_at(query, run, location);
        let temporary = self.give_up(location);
        if let (Ok(begun), Some(folder)) = (&begun, temporary) {
            self.delete_at_the_end(folder, begun.handle.clone())?;
        }
        begun
    }

    /// Lets a query's folder go, which is deleted unless somebody keeps it, if it is a temporary one.
    pub(super) fn give_up(&self, location: Option<&str>) -> Option<TempDir> {
        self.temporary.lock().remove(Path::new(location?))
    }

    fn begin_at(&self, query: NewQuery, run: Uuid, location: Option<&str>) -> Result<Begun, Error> {
        let config = self.options.config.to_builder();
        let config = config
            .set(keys::CHECKPOINT_LOCATION, location.map(str::to_owned))
            .build()?;
        let runtime = self.runtime()?;
        let opened = config.clone();
        let checkpoint = wait(runtime, async move { Checkpoint::open(&opened).await })??;
        let metadata = checkpoint.metadata.as_ref();
        if let Some(location) = location
            && metadata.is_some()
            && !query.recovers
        {
            return Err(Error::refused(
                format!(
                    "this query does not support recovering from checkpoint location: rows that it had in memory are gone, and {location} says that they were given"
                ),
                "give another checkpointLocation, or delete that one to start over",
            ));
        }
        let parallelism = metadata
            .map(|metadata| metadata.fingerprint.parallelism)
            .or_else(|| config.get(keys::PARALLELISM))
            .unwrap_or_else(|| self.options.master.default_parallelism());
        let stages = (query.cut)(parallelism)?;
        if stages.sources.is_empty() && !query.is_passing {
            return Err(cut::reads_nothing());
        }
        let keeps_state = |stage: &StagePlan| !stage.stateful.is_empty();
        if checkpoint.folder.is_none() && stages.program.plan.stages.iter().any(keeps_state) {
            return Err(Error::refused(
                match location {
                    Some(location) => format!("an aggregate's state can't be kept in {location}"),
                    None => "on a cluster an aggregate needs a place for its state".to_owned(),
                },
                "give --checkpoint a folder that every executor can write to",
            ));
        }
        let mut sources = Vec::new();
        let described = stages.sources.iter();
        let described = described.map(|source| source.spec.description()).collect();
        for source in &stages.sources {
            let clock = Arc::clone(&self.options.clock);
            let driver = source
                .spec
                .driver(clock, query.bounds, source.rows.as_ref());
            sources.push(driver?);
        }
        let info = QueryInfo {
            run_id: run,
            name: query.name.clone(),
            sources: described,
            sink: query.description.sink.clone(),
            has_event_time: !query.event_times.is_empty(),
            is_passing: query.is_passing,
        };
        let arguments = json!({ "query": query.description.logical, "name": query.name });
        let setup = QuerySetup {
            plan: Arc::new(stages.program.plan.clone()),
            sources,
            outputs: vec![query.output],
            application: application_of(&self.options, parallelism, arguments),
            fingerprint: String::new(),
            build_id: self.options.build_id.clone(),
            checkpoint,
            fetcher: Arc::clone(&self.fetcher),
            rules: BatchRules {
                trigger: query.trigger,
                waits_for_watermark: stages.waits_for_watermark && !query.event_times.is_empty(),
                event_times: query.event_times,
            },
            info: info.clone(),
            program: Some(stages.program.encode()?),
        };
        let driver = Arc::clone(&self.driver);
        let begun = async move {
            let handle = {
                let mut driver = driver.lock().await;
                let driver = driver.as_mut().ok_or_else(ended)?;
                driver.run_query(setup)?
            };
            let ready = handle.ready().await.map_err(Error::Query)?;
            Ok::<_, Error>((ready.query, handle))
        };
        let (id, handle) = wait(runtime, begun)??;
        tracing::info!(query = %id, name = query.name, checkpoint = location, "query started");
        Ok(Begun { id, handle, info })
    }

    /// Deletes a query's temporary folder when the query has ended; what can't be deleted then, when the session ends.
    fn delete_at_the_end(&self, folder: TempDir, query: QueryHandle) -> Result<(), Error> {
        let path = folder.path().to_owned();
        self.temporary.lock().insert(path.clone(), folder);
        let temporary = Arc::clone(&self.temporary);
        self.runtime()?.spawn(async move {
            // Why it ended is for whoever waits for it.
            let _ = query.await_termination().await;
            let deleted = tokio::task::spawn_blocking(move || {
                let deleted = std::fs::remove_dir_all(&path);
                if deleted.is_ok() {
                    temporary.lock().remove(&path);
                }
                deleted
            });
            if let Ok(Err(error)) = deleted.await {
                tracing::debug!(%error, "a query's temporary folder could not be deleted yet");
            }
        });
        Ok(())
    }

    /// Where a query keeps its checkpoint, if not in memory.
    pub(super) fn location(&self, query: &NewQuery) -> Result<Option<String>, Error> {
        let root = self.options.config.get(keys::CHECKPOINT_LOCATION);
        let location = match (&query.checkpoint, root, &query.name) {
            (Progress::Forgotten, _, _) => return Ok(None),
            (Progress::At(own), _, _) => own.clone(),
            (Progress::Default, Some(root), Some(name)) => {
                check_name(name)?;
                Path::new(&root).join(name).display().to_string()
            }
            (Progress::Default, Some(root), None) => root,
            (Progress::Default, None, _) => self.temporary_location()?,
        };
        Ok(Some(location))
    }

    /// A folder for a query that isn't gone on with. Executors of a cluster reach none but what is below the session's checkpoint; without that its progress is
    /// in memory, and it has no state.
    pub(super) fn scratch(&self) -> Result<Option<TempDir>, Error> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(".scratch-");
        let made = if self.options.master != Master::Cluster {
            builder.tempdir()
        } else {
            let Some(root) = self.options.config.get(keys::CHECKPOINT_LOCATION) else {
                return Ok(None);
            };
            let Location::File(root) = parse_location(&root).map_err(|error| {
                Failure::caused_by(
                    FailureKind::BadInput,
                    "the session's checkpoint is no location",
                    &error,
                )
                .with_code("config.checkpoint")
            })?
            else {
                return Ok(None);
            };
            // Executors may be other users.
            builder.permissions(Permissions::from_mode(0o777));
            std::fs::create_dir_all(&root).and_then(|()| builder.tempdir_in(&root))
        };
        made.map(Some).map_err(|error| {
            let message = "a folder for what a query over fixed data keeps could not be made";
            Failure::caused_by(FailureKind::Io, message, &error).into()
        })
    }

    fn temporary_location(&self) -> Result<String, Error> {
        if self.options.master == Master::Cluster {
            return Err(Failure::new(
                FailureKind::BadInput,
                "on a cluster a query needs a checkpoint that every executor can reach; give --checkpoint, or the option checkpointLocation",
            )
            .with_code("config.checkpoint")
            .with_retry(Retry::Never)
            .into());
        }
        let made = tempfile::Builder::new()
            .prefix("millstream-query-")
            .tempdir();
        let folder = made.map_err(|error| {
            Failure::caused_by(
                FailureKind::Io,
                "a temporary folder for a query's checkpoint could not be made",
                &error,
            )
        })?;
        let location = folder.path().display().to_string();
        tracing::warn!(
            checkpoint = location,
            "no checkpoint: progress and state are kept in a temporary folder, and the next start begins anew; give --checkpoint to go on where it was"
        );
        self.temporary
            .lock()
            .insert(folder.path().to_owned(), folder);
        Ok(location)
    }

    #[cfg(test)]
    pub(super) fn temporary_folders(&self) -> Vec<PathBuf> {
        self.temporary.lock().keys().cloned().collect()
    }

    /// Ends the driver; executors are told to shut down.
    pub(super) fn stop(&self) -> Result<(), Error> {
        let driver = Arc::clone(&self.driver);
        let executor = self.executor.lock().take();
        let failed = wait(self.runtime()?, async move {
            if let Some(driver) = driver.lock().await.take() {
                driver.stop().await;
            }
            let executor = executor?;
            executor.shutdown.cancel();
            // A panic of it has been reported by its thread.
            let _ = executor.task.await;
            executor.failed.lock().take()
        })?;
        self.temporary.lock().clear();
        match failed {
            Some(failure) => Err(failure.into()),
            None => Ok(()),
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Dropping a runtime waits, which isn't allowed on another runtime's threads.
            runtime.shutdown_background();
        }
    }
}

pub(super) fn ended() -> Failure {
    Failure::new(FailureKind::Io, "the session has ended, or is ending")
        .with_code("session.ended")
        .with_retry(Retry::Never)
}

fn check_name(name: &str) -> Result<(), Error> {
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | ' ');
    if name.is_empty() || !name.chars().all(is_part) {
        return Err(Error::option(
            "queryName",
            name,
            "it names a folder: letters, digits, `_` and `-`",
        ));
    }
    Ok(())
}

fn application_of(options: &HostOptions, parallelism: u32, arguments: Value) -> Application {
    let shown = options.config.effective().into_iter();
    let shown = shown.filter(|entry| !entry.value.is_empty() && entry.value != config::REDACTED);
    Application {
        name: options.name.clone(),
        arguments,
        configuration: shown.map(|entry| (entry.key, entry.value)).collect(),
        parallelism,
        batch_interval_millis: 0,
        build_id: options.build_id.clone(),
        recorded: BTreeMap::new(),
    }
}

fn remote_fetch(config: &Config, driver: &Driver) -> Result<GrpcFetch, Error> {
    let secret = config
        .get(keys::AUTH_SECRET)
        .map(|secret| Secret::new(secret.expose()))
        .transpose()
        .map_err(|error| {
            Failure::caused_by(FailureKind::BadInput, "auth.secret can't be used", &error)
                .with_code("config.invalid")
        })?;
    Ok(GrpcFetch::new(
        secret,
        driver.tls().clone(),
        config.get(keys::RPC_MAX_MESSAGE).as_len(),
        config.get(keys::SHUFFLE_FETCH_TIMEOUT),
    ))
}

fn run_executor(executor: Executor) -> InProcess {
    let shutdown = CancellationToken::new();
    let failed: Arc<Mutex<Option<Failure>>> = Arc::default();
    let told = shutdown.clone();
    let heard = Arc::clone(&failed);
    let task = tokio::spawn(async move {
        if let Err(error) = executor.run(told).await {
            tracing::error!(%error, "the executor of this process ended; its queries wait for another");
            *heard.lock() = Some(error.failure().clone());
        }
    });
    InProcess {
        task,
        shutdown,
        failed,
    }
}
