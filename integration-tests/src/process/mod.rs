//! Child processes that can't outlive the test, with their output captured.
//!
//! A child leads a process group of its own. Beside it, in the same group, waits a watchdog: a shell that
//! reads a pipe whose other end only the test process holds. When the test process ends, however it ends,
//! the pipe closes and the watchdog kills the group. So nothing is left after a test binary that was killed,
//! and a child in a `static`, which is never dropped, ends too.
//!
//! - [`output`]: the captured lines.
//! - [`table`]: the machine's processes.

pub mod output;
pub mod table;

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use std::os::unix::process::CommandExt;

use parking_lot::Mutex;
use rustix::process::{Pid, kill_process, kill_process_group};

pub use output::{Line, Output, Stream};
pub use rustix::process::Signal;
pub use table::{ProcessInfo, assert_no_process_left, descendants, processes, processes_with};

use crate::wait::{Deadline, wait_for};
use crate::{Error, installed};

/// The environment variable by which the processes of one [`ChildProcess`] are known, its own children too.
pub const MARKER: &str = "MILLSTREAM_TEST_MARKER";

/// Marks the watchdog's command line, so that no list of processes shows it.
const WATCHDOG: &str = "millstream-test-watchdog";

/// `$1` is a folder to remove at the end, or empty; the rest is the command. The watchdog is detached twice,
/// so that it is no child of the command, which takes the place of this shell.
const SCRIPT: &str = r#"
exec 3<&0 </dev/null
( ( read -r line <&3
    kill -s KILL "$$"
    if [ -n "$1" ]; then rm -rf -- "$1"; fi
    kill -s KILL -- "-$$"
  ) >/dev/null 2>&1 & )
shift
exec 3<&-
exec "$@"
"#;

/// How to start a [`ChildProcess`].
#[derive(Clone, Debug, Default)]
pub struct SpawnOptions {
    /// Gives the child a pipe as its standard input, see [`ChildProcess::take_stdin`]. It then has no
    /// watchdog: if the test process is killed, the child must end by itself. Default: no pipe; the child
    /// reads an empty input.
    pub stdin: bool,
    /// A folder that the watchdog removes when the test process ends. Default: none.
    pub remove_at_end: Option<PathBuf>,
}

/// A running child process. Dropping it kills its process group, and every process that carries its marker.
#[derive(Debug)]
pub struct ChildProcess {
    name: String,
    pid: Pid,
    marker: String,
    child: Mutex<Child>,
    stdin: Mutex<Option<ChildStdin>>,
    /// The watchdog's pipe, held open for as long as the child may live.
    _watchdog: Option<ChildStdin>,
    output: Output,
    log: PathBuf,
}

impl ChildProcess {
    /// Starts `command` with the default options. `name` is for messages and the log file's name. Of the
    /// command, its program, arguments, working directory and environment are taken (but not a call of
    /// `env_clear`). If it sets [`MARKER`], it keeps that marker, else it gets one of its own.
    pub fn spawn(name: &str, command: &Command) -> Result<Self, Error> {
        Self::spawn_with(name, command, &SpawnOptions::default())
    }

    /// Starts `command` with the given options, otherwise like [`spawn`](Self::spawn).
    pub fn spawn_with(
        name: &str,
        command: &Command,
        options: &SpawnOptions,
    ) -> Result<Self, Error> {
        let unique = unique_marker();
        let log = installed::logs()?.join(format!("{name}-{unique}.log"));
        let marker = marker_of(command).unwrap_or(unique);
        let file = File::create(&log).map_err(Error::io(format!("create {}", log.display())))?;

        let mut guarded = if options.stdin {
            let mut plain = Command::new(command.get_program());
            plain.args(command.get_args());
            plain
        } else {
            let remove = options.remove_at_end.as_deref().unwrap_or(Path::new(""));
            let mut shell = Command::new("/bin/sh");
            shell.arg("-c").arg(SCRIPT).arg(WATCHDOG).arg(remove);
            shell.arg(command.get_program()).args(command.get_args());
            shell
        };
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => guarded.env(key, value),
                None => guarded.env_remove(key),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            guarded.current_dir(folder);
        }
        guarded.env(MARKER, &marker);
        guarded.process_group(0);
        guarded
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());

        let program = command.get_program().to_string_lossy().into_owned();
        let mut child = guarded
            .spawn()
            .map_err(Error::io(format!("start {name} ({program})")))?;
        let output = Output::new(file);
        let (pipe, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (stdin, watchdog) = if options.stdin {
            (pipe, None)
        } else {
            (None, pipe)
        };
        let pid = Pid::from_child(&child);
        let started = Self {
            name: name.to_owned(),
            pid,
            marker,
            child: Mutex::new(child),
            stdin: Mutex::new(stdin),
            _watchdog: watchdog,
            output,
            log,
        };
        if let (Some(stdout), Some(stderr)) = (stdout, stderr) {
            started.output.capture(Stream::Out, stdout)?;
            started.output.capture(Stream::Err, stderr)?;
        }
        Ok(started)
    }

    /// The name given at the start.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process id, which is also the group's.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// The value of [`MARKER`] in the environment of this process and, inherited, of its own children.
    pub fn marker(&self) -> &str {
        &self.marker
    }

    /// What it has written so far.
    pub fn output(&self) -> &Output {
        &self.output
    }

    /// The file that holds all it wrote.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The pipe to its standard input, once, if [`SpawnOptions::stdin`] asked for it.
    pub fn take_stdin(&self) -> Option<ChildStdin> {
        self.stdin.lock().take()
    }

    /// The first line it wrote, or will write within `within`, that `wanted` accepts.
    pub fn wait_for_line(
        &self,
        what: &str,
        within: Duration,
        wanted: impl FnMut(&Line) -> bool,
    ) -> Result<Line, Error> {
        self.wait_for_line_from(0, what, within, wanted)
    }

    /// Like [`wait_for_line`](Self::wait_for_line), but looks only at lines from number `from` on; see
    /// [`Output::next`].
    pub fn wait_for_line_from(
        &self,
        from: u64,
        what: &str,
        within: Duration,
        wanted: impl FnMut(&Line) -> bool,
    ) -> Result<Line, Error> {
        let awaited = format!("{}: {what}", self.name);
        let found = self
            .output
            .wait_for(from, Deadline::after(within), &awaited, wanted)?;
        found.ok_or_else(|| self.ended(what))
    }

    /// Sends a signal to this process alone, not to its children. `Ok` also if it has ended meanwhile.
    pub fn signal(&self, signal: Signal) -> Result<(), Error> {
        // Its id may belong to another once it is waited for, so the lock is held over the look and the signal.
        let mut child = self.child.lock();
        if self.try_wait(&mut child)?.is_some() {
            return Ok(());
        }
        kill_process(self.pid, signal)
            .map_err(|errno| Error::io(format!("send {signal:?} to {}", self.name))(errno.into()))
    }

    /// Kills this process alone, not its children, and waits until it has ended.
    pub fn kill(&self) -> Result<ExitStatus, Error> {
        self.signal(Signal::KILL)?;
        self.wait_exit(Duration::from_secs(30))
    }

    /// Its exit status if it has ended.
    pub fn exit_status(&self) -> Result<Option<ExitStatus>, Error> {
        self.try_wait(&mut self.child.lock())
    }

    /// Waits until it has ended.
    pub fn wait_exit(&self, within: Duration) -> Result<ExitStatus, Error> {
        let what = format!("{} to end", self.name);
        wait_for(within, &what, || self.exit_status().transpose())?
    }

    /// Waits until a server answers; fails as soon as it ends instead.
    pub(crate) fn wait_answers(
        &self,
        within: Duration,
        mut answers: impl FnMut() -> bool,
    ) -> Result<(), Error> {
        let what = format!("{} to answer", self.name);
        wait_for(within, &what, || {
            if answers() {
                return Some(Ok(()));
            }
            match self.exit_status() {
                Ok(None) => None,
                Ok(Some(_)) => Some(Err(self.ended("it answered"))),
                Err(error) => Some(Err(error)),
            }
        })?
    }

    /// Waits until it has ended, and fails unless its exit status is zero.
    pub fn wait_success(&self, within: Duration) -> Result<(), Error> {
        let status = self.wait_exit(within)?;
        if status.success() {
            return Ok(());
        }
        Err(Error::Failed {
            name: self.name.clone(),
            status: status.to_string(),
            output: self.output.tail(),
        })
    }

    /// Fails unless this process, and all that it started, are gone after `within` at the latest.
    pub fn assert_nothing_left(&self, within: Duration) -> Result<(), Error> {
        assert_no_process_left(&self.marker, within)
    }

    /// The error of a process that ended before `what`.
    pub(crate) fn ended(&self, what: &str) -> Error {
        Error::Ended {
            name: self.name.clone(),
            what: what.to_owned(),
            output: self.output.tail(),
        }
    }

    fn try_wait(&self, child: &mut Child) -> Result<Option<ExitStatus>, Error> {
        child
            .try_wait()
            .map_err(Error::io(format!("look whether {} has ended", self.name)))
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        // Every failure here means that the process is gone already. The watchdog keeps the group, and so its
        // id, in being until this kill.
        let _ = kill_process_group(self.pid, Signal::KILL);
        for process in processes_with(&self.marker) {
            if let Some(pid) = i32::try_from(process.pid).ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        let _ = self.child.lock().wait();
    }
}

/// A marker that no other process carries.
pub fn unique_marker() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!(
        "{}-{number}-{:08x}",
        std::process::id(),
        rand::random::<u32>()
    )
}

fn marker_of(command: &Command) -> Option<String> {
    let (_, value) = command
        .get_envs()
        .find(|(key, _)| *key == OsStr::new(MARKER))?;
    value.and_then(OsStr::to_str).map(str::to_owned)
}
