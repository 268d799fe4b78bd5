//! Registering, and what follows from the driver's answer: configuration, graph, fingerprint, shared files.

use std::{
    fs::File,
    io::Read,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use millstream_common::{
    failure::{Failure, FailureKind, Retry},
    ids::ExecutorId,
    protocol::{Application, Hello, PROTOCOL_VERSION, RegisterReply, RegisterRequest, SharedFile},
};
use millstream_dataflow::program::Programs;
use tokio::{runtime::Handle, task};

use super::{
    Addresses, Error, Executor, ProgramsFactory, backoff::Backoff, ended_early, node::Node,
};
use crate::{
    fetch::Fetcher,
    options::{Tuning, effective_config},
    queries::Queries,
    runner::panic_text,
    services::Services,
    transport::LinkError,
};

/// A nonce is short; a longer file is another one.
const MAX_NONCE_BYTES: u64 = 4096;

/// Different reasons why no driver answers that are told; each once.
const TOLD: usize = 8;

/// One registration with a driver.
pub(super) struct Registration {
    pub(super) executor: ExecutorId,
    pub(super) programs: Arc<dyn Programs>,
    pub(super) services: Arc<Services>,
    pub(super) tuning: Tuning,
    pub(super) queries: Queries,
    fingerprint: String,
    unshared: Vec<String>,
}

impl Registration {
    /// Registers, however long it takes until a driver answers, and builds the graph.
    pub(super) async fn obtain(
        executor: &Executor,
        node: &Arc<Node>,
        addresses: &Addresses,
        build_id: &str,
        backoff: &mut Backoff,
    ) -> Result<Self, Error> {
        let request = RegisterRequest {
            protocol: PROTOCOL_VERSION,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            build_id: build_id.to_owned(),
            cores: executor.options.cores.max(1),
            block_address: addresses.blocks.clone(),
            http_address: addresses.http.clone(),
            process_id: std::process::id(),
            host: executor.options.host.clone(),
        };
        let mut told = Vec::new();
        let reply = loop {
            match executor.link.register(request.clone()).await {
                Ok(reply) => break reply,
                Err(LinkError::Refused(failure) | LinkError::Unknown(failure)) => {
                    return Err(Error::Refused(failure));
                }
                Err(LinkError::Unsafe(failure)) => return Err(Error::Unsafe(failure)),
                Err(error @ LinkError::Unreachable(_)) => {
                    let error = error.to_string();
                    if executor.options.has_parent {
                        tracing::debug!(error, "waiting for a driver");
                    } else if told.len() < TOLD && !told.contains(&error) {
                        tracing::warn!(error, "waiting for a driver");
                        told.push(error);
                    }
                    backoff.pause().await;
                }
            }
        };
        Self::accept(executor, node, reply, build_id).await
    }

    async fn accept(
        executor: &Executor,
        node: &Arc<Node>,
        reply: RegisterReply,
        build_id: &str,
    ) -> Result<Self, Error> {
        let config = effective_config(&reply.application.configuration, &executor.options.config)
            .map_err(Error::Setup)?;
        node.adopt(&config);
        let tuning = Tuning::of_config(&config);
        let factory = Arc::clone(&executor.programs);
        let application = reply.application;
        let shared_files = reply.shared_files;
        let build_id = build_id.to_owned();
        let built = task::spawn_blocking(move || {
            let programs = build(&factory, &application)?;
            programs.check()?;
            let fingerprint = programs.session_fingerprint(&build_id);
            let unshared: Vec<String> = shared_files.iter().filter_map(unshared).collect();
            Ok::<_, Failure>((programs, fingerprint, unshared))
        });
        let (programs, fingerprint, unshared) = built
            .await
            .map_err(|error| Error::Setup(ended_early(&error)))?
            .map_err(Error::Setup)?;
        let fetcher = Fetcher {
            own: reply.executor,
            store: Arc::clone(&node.store),
            peers: node.peers.clone(),
            io: Handle::current(),
            budget: Arc::clone(&node.budget),
            clock: Arc::clone(&node.clock),
            tuning: tuning.clone(),
            metrics: node.metrics.clone(),
        };
        let services = Arc::new(Services::new(
            Arc::clone(&node.store),
            Arc::clone(&node.folder),
            fetcher,
            Arc::clone(&node.states),
            tuning.clone(),
        ));
        tracing::info!(executor = %reply.executor, "registered");
        Ok(Self {
            executor: reply.executor,
            programs,
            services,
            tuning,
            queries: Queries::default(),
            fingerprint,
            unshared,
        })
    }

    pub(super) fn hello(&self) -> Hello {
        Hello {
            executor: self.executor,
            fingerprint: self.fingerprint.clone(),
            unshared: self.unshared.clone(),
        }
    }

    /// Lets connectors go, off the IO threads.
    pub(super) async fn close(&self) {
        let mut programs = self.queries.retain(|_| false);
        programs.push(Arc::clone(&self.programs));
        let closing = move || programs.iter().for_each(|programs| programs.close());
        if let Err(error) = task::spawn_blocking(closing).await {
            tracing::warn!(%error, "the application's programs did not close");
        }
    }
}

/// Calls the job function, which is user code.
fn build(
    factory: &ProgramsFactory,
    application: &Application,
) -> Result<Arc<dyn Programs>, Failure> {
    catch_unwind(AssertUnwindSafe(|| factory(application))).unwrap_or_else(|panic| {
        let failure = Failure::new(
            FailureKind::UserCode,
            format!(
                "the job function panicked while the graph was built: {}",
                panic_text(&*panic)
            ),
        );
        Err(failure
            .with_code("application.graph")
            .with_retry(Retry::Never))
    })
}

/// What is wrong with a file that the driver wrote for all to see; `None` if it reads alike.
pub(crate) fn unshared(file: &SharedFile) -> Option<String> {
    let mut content = String::new();
    let read = File::open(&file.path)
        .and_then(|opened| opened.take(MAX_NONCE_BYTES).read_to_string(&mut content));
    let problem = match read {
        Ok(_) if content.trim_end() == file.nonce.trim_end() => return None,
        Ok(_) => "its content is another".to_owned(),
        Err(error) => error.to_string(),
    };
    Some(format!("{} {}: {problem}", file.purpose, file.path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_file_must_read_alike() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("nonce");
        let file = |nonce: &str| SharedFile {
            path: path.display().to_string(),
            nonce: nonce.to_owned(),
            purpose: "checkpoint".to_owned(),
        };
        let absent = unshared(&file("a")).expect("absent");
        assert!(
            absent.starts_with("checkpoint /") && absent.contains("No such file"),
            "{absent}"
        );
        std::fs::write(&path, "a\n").expect("write");
        assert_eq!(unshared(&file("a")), None);
        assert!(unshared(&file("b")).is_some_and(|problem| problem.contains("another")));
    }
}
