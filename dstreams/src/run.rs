//! Running an application: its driver, and on `local[N]` its executor, on IO threads of its own.
//!
//! Layout:
//! - `builder`: how an application is run
//! - `error`: why it could not be run, or ended
//! - `in_process`: the transport of `local[N]`
//! - `running`: a running application

mod builder;
mod error;
mod in_process;
mod running;

use std::{
    collections::BTreeMap,
    sync::{Arc, mpsc},
};

use jiff::tz::TimeZone;
use millstream_common::{
    config::{Config, keys},
    protocol::Application,
    telemetry::metrics::Metrics,
    time::Clock,
};
use millstream_driver::{
    application::{self, Checkpoint, Driver, DriverOptions, QuerySetup},
    blocks::{FetchBlock, GrpcFetch},
};
use millstream_executor::{self as executor, Executor, Options, ProgramsFactory};
use millstream_proto::auth::Secret;
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::{
    compile::{CompileOptions, CompiledJob},
    master::Master,
    outputs::Console,
};

pub use builder::{BuildId, Builder};
pub use error::RunError;
pub use in_process::{InProcessFetch, in_process_link};
pub use millstream_driver::query::handle::QueryState as State;
pub use running::Running;

/// An application that is prepared: its checkpoint is open and its partition counts are known.
pub(crate) struct Prepared {
    runtime: Runtime,
    master: Master,
    config: Config,
    application: Application,
    checkpoint: Checkpoint,
    console: Console,
    time_zone: TimeZone,
    clock: Arc<dyn Clock>,
    build_id: String,
}

/// Runs a future on the runtime and waits for it on this thread, whatever that thread is.
fn wait<T: Send + 'static>(
    runtime: &Runtime,
    future: impl Future<Output = T> + Send + 'static,
) -> Result<T, RunError> {
    let (sender, receiver) = mpsc::sync_channel(1);
    runtime.spawn(async move {
        // Nobody waits any more when the receiver is gone.
        let _ = sender.send(future.await);
    });
    receiver
        .recv()
        .map_err(|_| RunError::State("the application's IO threads ended early"))
}

impl Prepared {
    pub(crate) fn compile_options(&self) -> CompileOptions {
        CompileOptions {
            console: self.console.clone(),
            time_zone: self.time_zone.clone(),
            collect_max_bytes: self.config.get(keys::COLLECT_MAX_BYTES).bytes(),
        }
    }

    pub(crate) fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock)
    }

    pub(crate) fn start(
        self,
        recorded: BTreeMap<String, Value>,
        job: CompiledJob,
    ) -> Result<Running, RunError> {
        let Self {
            runtime,
            master,
            config,
            mut application,
            checkpoint,
            clock,
            build_id,
            ..
        } = self;
        application.recorded = recorded;
        if config.get(keys::CHECKPOINT_LOCATION).is_none() {
            tracing::warn!(
                "no checkpoint: progress is kept in this process alone, and after a crash the next start begins anew; give --checkpoint to go on where it was"
            );
        }
        let sources = job
            .sources
            .iter()
            .map(|factory| factory())
            .collect::<Result<Vec<_>, _>>()?;
        let stop_timeout = config.get(keys::STOP_TIMEOUT);
        let metrics = if master.is_local() {
            Metrics::of_both()
        } else {
            Metrics::of_driver()
        };
        let fingerprint = job.plan.session_fingerprint(&build_id);
        let options = DriverOptions {
            name: application.name.clone(),
            config: config.clone(),
            build_id: build_id.clone(),
            serves_executors: !master.is_local(),
            metrics: metrics.clone(),
            clock: Arc::clone(&clock),
            seed: rand_seed(),
        };
        let programs = Arc::clone(&job.programs);
        let starting_clock = Arc::clone(&clock);
        let starting = async move {
            let mut driver = Driver::start(options).await?;
            let executor_failed: Arc<parking_lot::Mutex<Option<executor::Error>>> = Arc::default();
            let (fetcher, executor): (Arc<dyn FetchBlock>, _) = match master {
                Master::Local { slots } => {
                    let options = Options::in_process(slots, config.clone());
                    let factory: ProgramsFactory =
                        Arc::new(move |_: &Application| Ok(Arc::clone(&programs)));
                    let id = build_id.clone();
                    let link = in_process_link(driver.cluster().clone());
                    let executor = Executor::new(
                        options,
                        factory,
                        Arc::new(move || Ok(id.clone())),
                        Arc::new(link),
                    )
                    .with_clock(starting_clock)
                    .with_metrics(metrics);
                    let fetcher = InProcessFetch(executor.handle());
                    (Arc::new(fetcher), Some(executor))
                }
                Master::LocalCluster { .. } | Master::Cluster => {
                    let secret = config
                        .get(keys::AUTH_SECRET)
                        .map(|secret| Secret::new(secret.expose()));
                    let secret = secret.transpose().map_err(application::Error::Secret)?;
                    let max_message = config.get(keys::RPC_MAX_MESSAGE).as_len();
                    (
                        Arc::new(GrpcFetch::new(
                            secret,
                            driver.tls().clone(),
                            max_message,
                            config.get(keys::SHUFFLE_FETCH_TIMEOUT),
                        )),
                        None,
                    )
                }
            };
            let setup = QuerySetup {
                plan: Arc::new(job.plan),
                sources,
                outputs: job.outputs,
                application,
                fingerprint,
                build_id,
                checkpoint,
                fetcher,
                rules: Default::default(),
                program: None,
            };
            let query = driver.run_query(setup)?;
            let executor = executor.map(|executor| {
                let query = query.clone();
                let failed = Arc::clone(&executor_failed);
                let shutdown = CancellationToken::new();
                let told = shutdown.clone();
                let task = tokio::spawn(async move {
                    if let Err(error) = executor.run(told).await {
                        *failed.lock() = Some(error);
                        query.stop(false);
                    }
                });
                (task, shutdown)
            });
            Ok::<_, RunError>((driver, query, executor, executor_failed))
        };
        let (driver, query, executor, executor_failed) = wait(&runtime, starting)??;
        Ok(Running {
            address: driver.address(),
            http: driver.http(),
            cluster: driver.cluster().clone(),
            runtime: Some(runtime),
            driver: parking_lot::Mutex::new(Some(driver)),
            query,
            clock,
            stop_timeout,
            executor_failed,
            executor: parking_lot::Mutex::new(executor),
        })
    }
}

fn rand_seed() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().0
}
