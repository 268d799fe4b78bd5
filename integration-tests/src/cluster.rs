//! An application as real processes: a driver and executors that come to it, their failpoints, and what they serve over HTTP.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use rustix::process::Signal;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    Error,
    certificates::Files,
    ports,
    process::{self, ChildProcess},
    wait,
};

/// How long a process may take to start, or to get to a failpoint.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What the driver writes once it serves.
#[derive(Clone, Debug, Deserialize)]
pub struct Ready {
    /// Where executors come to.
    pub driver: Option<String>,
    /// Where its HTTP is.
    pub http: Option<String>,
    /// Process ids of executors that it started itself.
    pub executors: Vec<u32>,
}

/// How an application is started.
#[derive(Clone, Debug)]
pub struct Application {
    program: PathBuf,
    master: String,
    arguments: Vec<String>,
    configuration: BTreeMap<String, String>,
    failpoints: Vec<String>,
    variables: Vec<(String, String)>,
    folder: PathBuf,
    working_folder: Option<PathBuf>,
    port: u16,
    cores: u32,
    markers: Arc<Mutex<Vec<String>>>,
}

impl Application {
    /// An application of `program` that keeps its logs and failpoints in `folder`. Its driver runs as `--master cluster` on a port of its own, so that
    /// a restarted one is found again.
    pub fn new(program: impl Into<PathBuf>, folder: &Path) -> Result<Self, Error> {
        let [port] = ports::free()?;
        let failpoints = folder.join("failpoints");
        fs::create_dir_all(&failpoints)
            .map_err(Error::io(format!("create {}", failpoints.display())))?;
        Ok(Self {
            program: program.into(),
            master: "cluster".to_owned(),
            arguments: Vec::new(),
            configuration: BTreeMap::new(),
            failpoints: Vec::new(),
            variables: vec![(
                "MILLSTREAM_AUTH__SECRET".to_owned(),
                "of-the-tests".to_owned(),
            )],
            folder: folder.to_owned(),
            working_folder: None,
            port,
            cores: 2,
            markers: Arc::default(),
        })
    }

    /// Another master.
    pub fn master(mut self, master: &str) -> Self {
        master.clone_into(&mut self.master);
        self
    }

    /// Arguments of the driver.
    pub fn args<S: Into<String>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// The same with another argument in the place of this one.
    pub fn replace_arg(mut self, argument: &str, by: &str) -> Self {
        for known in self.arguments.iter_mut().filter(|known| *known == argument) {
            by.clone_into(known);
        }
        self
    }

    /// A configuration key, on both sides.
    pub fn conf(mut self, key: &str, value: impl ToString) -> Self {
        self.configuration.insert(key.to_owned(), value.to_string());
        self
    }

    /// TLS with these files, on both sides.
    pub fn tls(self, files: &Files) -> Self {
        self.conf("tls.ca", files.ca.display())
            .conf("tls.cert", files.cert.display())
            .conf("tls.key", files.key.display())
    }

    /// The same without TLS.
    pub fn without_tls(mut self) -> Self {
        self.configuration.retain(|key, _| !key.starts_with("tls."));
        self
    }

    /// Slots of each executor; 2 unless said.
    pub fn cores(mut self, cores: u32) -> Self {
        self.cores = cores;
        self
    }

    /// A failpoint such as `executor.task.start@batch=2=pause`, the same for every process; it acts once among all of them.
    pub fn failpoint(mut self, point: &str) -> Self {
        self.failpoints.push(point.to_owned());
        self
    }

    /// A variable of the environment, on both sides; wins over the harness's own.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same without a variable that was set before.
    pub fn without_env(mut self, name: &str) -> Self {
        self.variables.retain(|(known, _)| known != name);
        self
    }

    /// The same application as another file, such as another build. Its driver and executors use the same port.
    pub fn with_program(mut self, program: impl Into<PathBuf>) -> Self {
        self.program = program.into();
        self
    }

    /// The same with processes whose working folder is this one; else they have that of the tests.
    pub fn in_folder(mut self, folder: &Path) -> Self {
        self.working_folder = Some(folder.to_owned());
        self
    }

    /// The same with its driver on the port of another application, whose executors come to it then.
    pub fn on_port_of(mut self, other: &Self) -> Self {
        self.port = other.port;
        self
    }

    /// The port of its driver on `cluster`.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder of its files.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.env("MILLSTREAM_FAILPOINTS", self.failpoints.join(";"));
        command.env("MILLSTREAM_FAILPOINT_DIR", self.folder.join("failpoints"));
        for (name, value) in &self.variables {
            command.env(name, value);
        }
        if let Some(folder) = &self.working_folder {
            command.current_dir(folder);
        }
        command
    }

    fn add_configuration(&self, command: &mut Command) {
        for (key, value) in &self.configuration {
            command.arg("--conf").arg(format!("{key}={value}"));
        }
    }

    /// Starts the driver; doesn't wait until it serves.
    pub fn start_driver(&self) -> Result<Driver, Error> {
        self.start_driver_on(self.port)
    }

    /// Starts another driver, on another port.
    pub fn start_driver_on(&self, port: u16) -> Result<Driver, Error> {
        let ready_file = self
            .folder
            .join(format!("ready-{}.json", process::unique_marker()));
        let mut command = self.command();
        command
            .args(&self.arguments)
            .args(["--master", &self.master]);
        if self.master == "cluster" {
            command.args(["--listen", &format!("127.0.0.1:{port}")]);
        }
        command.arg("--ready-file").arg(&ready_file);
        command.args(["--conf", "driver.http=127.0.0.1:0"]);
        self.add_configuration(&mut command);
        let process = self.spawn("driver", &command)?;
        Ok(Driver {
            process,
            ready_file,
        })
    }

    /// Starts an executor; it waits for its driver.
    pub fn start_executor(&self) -> Result<ChildProcess, Error> {
        self.start_executor_for(&format!("127.0.0.1:{}", self.port))
    }

    /// Starts an executor for a driver at this address.
    pub fn start_executor_for(&self, driver: &str) -> Result<ChildProcess, Error> {
        let mut command = self.command();
        command.args([
            "executor",
            "--driver",
            driver,
            "--cores",
            &self.cores.to_string(),
        ]);
        self.add_configuration(&mut command);
        self.spawn("executor", &command)
    }

    fn spawn(&self, name: &str, command: &Command) -> Result<ChildProcess, Error> {
        let process = ChildProcess::spawn(name, command)?;
        self.markers.lock().push(process.marker().to_owned());
        Ok(process)
    }

    /// Starts the driver and `executors` executors, and waits until the driver serves.
    pub fn start(&self, executors: usize) -> Result<Cluster, Error> {
        let driver = self.start_driver()?;
        let executors = (0..executors)
            .map(|_| self.start_executor())
            .collect::<Result<Vec<_>, _>>()?;
        driver.wait_ready()?;
        Ok(Cluster {
            application: self.clone(),
            driver,
            executors: Mutex::new(executors),
        })
    }

    /// Lets a process that waits at a failpoint go on.
    pub fn release(&self, point: &str) -> Result<(), Error> {
        let file = self.folder.join("failpoints").join(format!("{point}.go"));
        fs::write(&file, []).map_err(Error::io(format!("write {}", file.display())))
    }

    /// Asserts that nothing of the application is left.
    pub fn assert_nothing_left(&self) -> Result<(), Error> {
        for marker in self.markers.lock().iter() {
            process::assert_no_process_left(marker, PATIENCE)?;
        }
        Ok(())
    }
}

/// A driver's process.
#[derive(Debug)]
pub struct Driver {
    /// The process.
    pub process: ChildProcess,
    ready_file: PathBuf,
}

impl Driver {
    /// Waits until it serves.
    pub fn wait_ready(&self) -> Result<Ready, Error> {
        wait::wait_for(PATIENCE, "the driver to serve", || {
            if matches!(self.process.exit_status(), Ok(Some(_)) | Err(_)) {
                return Some(Err(Error::Ended {
                    name: "driver".to_owned(),
                    what: "it served".to_owned(),
                    output: self.process.output().tail(),
                }));
            }
            let text = fs::read_to_string(&self.ready_file).ok()?;
            serde_json::from_str(&text).ok().map(Ok)
        })?
    }

    /// What a path of its HTTP server gives.
    pub fn http(&self, path: &str) -> Result<String, Error> {
        let address = self.wait_ready()?.http.unwrap_or_default();
        get(&format!("http://{address}{path}"))
    }

    /// A part of the REST API.
    pub fn rest(&self, part: &str) -> Result<Value, Error> {
        let text = self.http(&format!("/api/v1/{part}"))?;
        Ok(serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    /// Asks for an orderly stop and waits for its exit code.
    pub fn stop(&self) -> Result<Option<i32>, Error> {
        self.process.signal(Signal::TERM)?;
        Ok(self.process.wait_exit(PATIENCE)?.code())
    }
}

/// What a URL of this machine gives.
pub fn get(url: &str) -> Result<String, Error> {
    let failed = |error: ureq::Error| Error::Io {
        action: format!("get {url}"),
        source: std::io::Error::other(error),
    };
    ureq::get(url)
        .call()
        .map_err(failed)?
        .body_mut()
        .read_to_string()
        .map_err(failed)
}

/// A driver with executors.
#[derive(Debug)]
pub struct Cluster {
    /// How it was started.
    pub application: Application,
    /// Its driver.
    pub driver: Driver,
    executors: Mutex<Vec<ChildProcess>>,
}

/// Where a process reported a failpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// In the driver.
    Driver,
    /// In the executor with this process id.
    Executor(u32),
}

impl Cluster {
    /// Waits until one of the processes is at the failpoint.
    pub fn wait_failpoint(&self, point: &str) -> Result<Reached, Error> {
        let line = format!("FAILPOINT {point} ");
        let says = |process: &ChildProcess| {
            process
                .output()
                .lines()
                .iter()
                .any(|said| said.text.starts_with(&line))
        };
        wait::wait_for(PATIENCE, &format!("failpoint {point}"), || {
            if says(&self.driver.process) {
                return Some(Reached::Driver);
            }
            let executors = self.executors.lock();
            executors
                .iter()
                .find(|executor| says(executor))
                .map(|executor| Reached::Executor(executor.pid()))
        })
    }

    /// Process ids of the executors.
    pub fn executors(&self) -> Vec<u32> {
        self.executors
            .lock()
            .iter()
            .map(ChildProcess::pid)
            .collect()
    }

    /// Sends a signal to one executor.
    pub fn signal_executor(&self, pid: u32, signal: Signal) -> Result<(), Error> {
        let executors = self.executors.lock();
        match executors.iter().find(|executor| executor.pid() == pid) {
            Some(executor) => executor.signal(signal),
            None => Ok(()),
        }
    }

    /// SIGKILLs an executor and waits until it is gone. Other processes of the application live on.
    pub fn kill_executor(&self, pid: u32) -> Result<(), Error> {
        let executors = self.executors.lock();
        if let Some(executor) = executors.iter().find(|executor| executor.pid() == pid) {
            executor.kill()?;
        }
        Ok(())
    }

    /// Adds an executor.
    pub fn add_executor(&self) -> Result<u32, Error> {
        let executor = self.application.start_executor()?;
        let pid = executor.pid();
        self.executors.lock().push(executor);
        Ok(pid)
    }

    /// Adds an executor that comes to the driver at this address, such as a proxy's.
    pub fn add_executor_for(&self, driver: &str) -> Result<u32, Error> {
        let executor = self.application.start_executor_for(driver)?;
        let pid = executor.pid();
        self.executors.lock().push(executor);
        Ok(pid)
    }

    /// Adds an executor with configuration of its own.
    pub fn add_executor_with(&self, configuration: &[(&str, String)]) -> Result<u32, Error> {
        let mut application = self.application.clone();
        for (key, value) in configuration {
            application = application.conf(key, value);
        }
        let executor = application.start_executor()?;
        let pid = executor.pid();
        self.executors.lock().push(executor);
        Ok(pid)
    }

    /// Calls `look` with an executor's process.
    pub fn with_executor<R>(&self, pid: u32, look: impl FnOnce(&ChildProcess) -> R) -> Option<R> {
        self.executors
            .lock()
            .iter()
            .find(|executor| executor.pid() == pid)
            .map(look)
    }

    /// SIGKILLs the driver and starts it anew with the same command.
    pub fn restart_driver(&mut self) -> Result<(), Error> {
        self.driver.process.kill()?;
        self.driver = self.application.start_driver()?;
        self.driver.wait_ready()?;
        Ok(())
    }

    /// Waits until the newest committed batch is at least `batch`.
    pub fn wait_batch(&self, batch: u64) -> Result<(), Error> {
        wait::wait_until(PATIENCE, &format!("batch {batch} to be committed"), || {
            self.newest_batch() >= Some(batch)
        })
    }

    /// The newest committed batch.
    pub fn newest_batch(&self) -> Option<u64> {
        let batches = self.driver.rest("batches").ok()?;
        let ids = batches
            .as_array()?
            .iter()
            .filter_map(|batch| batch["batch"].as_u64());
        ids.max()
    }

    /// Stops the driver in an orderly way, then asserts that no process is left.
    pub fn stop(self) -> Result<Option<i32>, Error> {
        let code = self.driver.stop()?;
        for executor in self.executors.lock().iter() {
            // Executors of `cluster` outlive their driver: they wait for it to come back.
            let _ = executor.signal(Signal::TERM);
        }
        for executor in self.executors.lock().drain(..) {
            executor.wait_exit(PATIENCE)?;
        }
        self.application.assert_nothing_left()?;
        Ok(code)
    }
}
