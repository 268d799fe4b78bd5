//! How executors join: they register, then open a session; and why they are refused.

use millstream_common::{
    failure::Failure,
    ids::ExecutorId,
    protocol::{
        Application, Hello, PROTOCOL_VERSION, RegisterReply, RegisterRequest, SharedFile,
        ToExecutor,
    },
};
use millstream_proto::refusal::{BUILD_MISMATCH, PROTOCOL_MISMATCH, UNSHARED_FILES, refusal};
use tokio::sync::{mpsc, oneshot};

use super::Cluster;
use crate::scheduler::message::{Event, ExecutorInfo};

/// Messages that may wait for one executor; past that its session is ended, and it reconciles when it is back.
const SESSION_OUTBOX: usize = 4_096;
/// Registrations that may wait for the application to be ready.
const WAITING_REGISTRATIONS: usize = 4_096;

/// What executors are told at registration, once the driver knows it.
#[derive(Clone, Debug)]
pub struct Serving {
    /// The application.
    pub application: Application,
    /// The session fingerprint that executors must have.
    pub fingerprint: String,
    /// Files that they must be able to read.
    pub shared_files: Vec<SharedFile>,
}

/// A session as the transport gets it.
pub struct Session {
    /// Its number; goes with everything that is heard on it.
    pub number: u64,
    /// What to send to the executor; its end means that the driver ended the session.
    pub outbox: mpsc::Receiver<ToExecutor>,
}

/// Why a session was not opened.
#[derive(Debug, thiserror::Error)]
pub enum SessionEnd {
    /// The executor isn't known (any more); it must register anew.
    #[error(
        "executor {0} is not known to this driver (it was taken for lost, or the driver is a new one); it must register anew"
    )]
    Unknown(ExecutorId),
    /// The executor can't serve this driver.
    #[error("{0}")]
    Refused(Failure),
    /// The driver is stopping.
    #[error("the driver is stopping")]
    Stopping,
}

impl Cluster {
    pub(super) async fn register(
        &mut self,
        request: RegisterRequest,
        reply: oneshot::Sender<Result<RegisterReply, Failure>>,
    ) {
        if let Err(refusal) = self.compatible(&request) {
            tracing::warn!(host = request.host, process = request.process_id, reason = %refusal, "executor refused");
            let _ = reply.send(Err(refusal));
            return;
        }
        let Some(serving) = self.serving.clone() else {
            if self.waiting.len() < WAITING_REGISTRATIONS {
                self.waiting.push((request, reply));
            }
            return;
        };
        if reply.is_closed() {
            return;
        }
        tracing::info!(
            host = request.host,
            process = request.process_id,
            cores = request.cores,
            "executor registers"
        );
        let (executor, losses) = self.registry.register(self.clock.now(), request);
        let accepted = RegisterReply {
            executor,
            application: serving.application,
            shared_files: serving.shared_files,
        };
        let _ = reply.send(Ok(accepted));
        for loss in losses {
            self.lost(loss).await;
        }
    }

    fn compatible(&self, request: &RegisterRequest) -> Result<(), Failure> {
        if request.protocol != PROTOCOL_VERSION {
            return Err(refusal(
                PROTOCOL_MISMATCH,
                format!(
                    "the executor of Millstream {} speaks protocol {}, this driver of Millstream {} speaks {PROTOCOL_VERSION}; run the same release on both",
                    request.version, request.protocol, self.options.version
                ),
            ));
        }
        Ok(())
    }

    pub(super) async fn open(&mut self, hello: Hello) -> Result<Session, SessionEnd> {
        let Some(serving) = &self.serving else {
            return Err(SessionEnd::Unknown(hello.executor));
        };
        if hello.fingerprint != serving.fingerprint {
            let failure = refusal(
                BUILD_MISMATCH,
                other_build(&serving.fingerprint, &hello.fingerprint),
            );
            tracing::warn!(executor = %hello.executor, reason = %failure, "executor refused");
            return Err(SessionEnd::Refused(failure));
        }
        if !hello.unshared.is_empty() {
            let failure = refusal(
                UNSHARED_FILES,
                format!(
                    "a file:// checkpoint or output must be one file system for the driver and every executor, but the executor could not read what the driver wrote: {}; mount the same folder on all hosts",
                    hello.unshared.join("; ")
                ),
            );
            tracing::warn!(executor = %hello.executor, reason = %failure, "executor refused");
            return Err(SessionEnd::Refused(failure));
        }
        let now = self.clock.now();
        let Some((number, request)) = self.registry.connect(now, hello.executor) else {
            return Err(SessionEnd::Unknown(hello.executor));
        };
        let info = ExecutorInfo {
            id: hello.executor,
            cores: request.cores,
            host: request.host.clone(),
            block_address: request.block_address.clone(),
        };
        tracing::info!(executor = %info.id, host = info.host, cores = info.cores, "executor connected");
        let (sender, outbox) = mpsc::channel(SESSION_OUTBOX);
        self.sessions.insert(hello.executor, sender);
        self.programmed
            .retain(|(executor, _)| *executor != hello.executor);
        self.schedule(Event::Connected(info)).await;
        Ok(Session { number, outbox })
    }
}

/// What the fingerprint of a session of Structured queries begins with; that of an application is its build and graph.
const RELEASE: &str = "millstream ";

fn other_build(driver: &str, executor: &str) -> String {
    match (driver.starts_with(RELEASE), executor.starts_with(RELEASE)) {
        (false, false) => other_application(driver, executor),
        (true, true) => format!(
            "the executor is of {executor}, the driver of {driver}; run the same release on both, and where the program has functions of its own, its executable"
        ),
        (true, false) => format!(
            "the executor is that of another program, build {}; the driver runs Structured queries with {driver}: run the driver's executable, or `millstream executor` where the program has no functions of its own",
            build_of(executor)
        ),
        (false, true) => format!(
            "the executor runs Structured queries alone, with {executor}; the driver's program is build {}: run its executable on both",
            build_of(driver)
        ),
    }
}

fn build_of(fingerprint: &str) -> &str {
    let build = fingerprint.split_once('/');
    build.map_or(fingerprint, |(build, _)| build)
}

fn other_application(driver: &str, executor: &str) -> String {
    let (driver_build, driver_graph) = driver.split_once('/').unwrap_or((driver, ""));
    let (executor_build, executor_graph) = executor.split_once('/').unwrap_or((executor, ""));
    if driver_build == executor_build {
        return format!(
            "the executor built another graph ({executor_graph}) than the driver ({driver_graph}) from the same build {driver_build}; the job function must give the same graph for the same arguments: it may read the clock, files or the environment only through the context"
        );
    }
    format!(
        "the executor is build {executor_build}, the driver is build {driver_build}; run the same executable on both"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_what_to_run() {
        let program = "8d2f/graph";
        let plain = "millstream 0.1.0, protocol 1, engine 2";
        let functions = "millstream 0.1.0, protocol 1, engine 2, functions of build 8d2f: f Exact([Timestamp(us, \"Europe/Berlin\")])";
        let says = |driver: &str, executor: &str, words: &[&str]| {
            let message = other_build(driver, executor);
            for word in words {
                assert!(message.contains(word), "{word}: {message}");
            }
        };
        says("11/a", "22/a", &["build 22", "build 11"]);
        says("11/a", "11/b", &["another graph (b)"]);
        says(program, plain, &["Structured queries alone", "build 8d2f:"]);
        says(plain, program, &["build 8d2f;", "`millstream executor`"]);
        says(functions, plain, &[functions, plain, "its executable"]);
    }
}
