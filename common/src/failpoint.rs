//! Named points where fault tests make a process wait, so that it can be killed exactly there, or die by itself.
//!
//! Without the cargo feature `failpoints`, [`failpoint!`](crate::failpoint!) compiles to nothing. With it, the
//! variable `MILLSTREAM_FAILPOINTS` says which points act, separated by `;`:
//!
//! ```text
//! name[@key=value,...]=action
//! executor.task.before_report@batch=3,partition=1=pause;executor.fetch.serving=kill
//! ```
//!
//! | action | what happens |
//! | --- | --- |
//! | `pause` | the thread waits until the process is killed, or until the file `<name>.go` is in the folder |
//! | `kill` | the process kills itself with SIGKILL |
//! | `always-pause`, `always-kill` | the same each time, not once |
//!
//! A point that acts prints one line on standard error: `FAILPOINT <name> key=value... pid=<pid>`. `pause` and `kill` act once:
//! once in a process, and, with a folder named by `MILLSTREAM_FAILPOINT_DIR`, once among all processes that share
//! it (the first makes the file `<name>.hit` there).

/// Whether this build has failpoints.
pub const ENABLED: bool = cfg!(feature = "failpoints");

/// Names a point: `failpoint!("executor.task.start", batch = 3, partition = 1)`. Blocks the thread if the point is set to.
#[macro_export]
macro_rules! failpoint {
    ($name:literal $(, $key:ident = $value:expr)* $(,)?) => {
        if $crate::failpoint::ENABLED {
            $crate::failpoint::hit($name, &[$((stringify!($key), &$value as &dyn ::std::fmt::Display)),*]);
        }
    };
}

#[cfg(feature = "failpoints")]
pub use active::hit;

/// Acts if the point is set to. Use [`failpoint!`](crate::failpoint!).
#[cfg(not(feature = "failpoints"))]
pub fn hit(_name: &str, _values: &[(&str, &dyn std::fmt::Display)]) {}

#[cfg(feature = "failpoints")]
mod active {
    use std::{
        fmt::{Display, Write as _},
        fs::OpenOptions,
        io::Write as _,
        path::{Path, PathBuf},
        sync::{
            LazyLock,
            atomic::{AtomicBool, Ordering},
        },
        time::Duration,
    };

    static POINTS: LazyLock<Points> = LazyLock::new(Points::of_environment);

    struct Points {
        points: Vec<Point>,
        folder: Option<PathBuf>,
    }

    pub(super) struct Point {
        pub(super) name: String,
        pub(super) conditions: Vec<(String, String)>,
        pub(super) kill: bool,
        pub(super) always: bool,
        done: AtomicBool,
    }

    impl Points {
        fn of_environment() -> Self {
            let text = std::env::var("MILLSTREAM_FAILPOINTS").unwrap_or_default();
            let mut points = Vec::new();
            for entry in text.split(';').filter(|entry| !entry.trim().is_empty()) {
                match Point::parse(entry.trim()) {
                    Some(point) => points.push(point),
                    None => eprintln!("FAILPOINT malformed: {entry}"),
                }
            }
            let folder = std::env::var_os("MILLSTREAM_FAILPOINT_DIR").map(PathBuf::from);
            Self { points, folder }
        }
    }

    impl Point {
        pub(super) fn parse(entry: &str) -> Option<Self> {
            let (point, action) = entry.rsplit_once('=')?;
            let (always, action) = match action.strip_prefix("always-") {
                Some(action) => (true, action),
                None => (false, action),
            };
            let kill = match action {
                "pause" => false,
                "kill" => true,
                _ => return None,
            };
            let (name, conditions) = point.split_once('@').unwrap_or((point, ""));
            let mut parsed = Vec::new();
            for condition in conditions.split(',').filter(|text| !text.is_empty()) {
                let (key, value) = condition.split_once('=')?;
                parsed.push((key.to_owned(), value.to_owned()));
            }
            Some(Self {
                name: name.to_owned(),
                conditions: parsed,
                kill,
                always,
                done: AtomicBool::new(false),
            })
        }

        pub(super) fn matches(&self, name: &str, values: &[(&str, &dyn Display)]) -> bool {
            let holds = |(key, wanted): &(String, String)| {
                values
                    .iter()
                    .any(|(name, value)| name == key && value.to_string() == *wanted)
            };
            self.name == name && self.conditions.iter().all(holds)
        }

        /// Whether this is the one time that it acts.
        pub(super) fn claim(&self, folder: Option<&Path>) -> bool {
            if self.always {
                return true;
            }
            if self.done.swap(true, Ordering::AcqRel) {
                return false;
            }
            let Some(folder) = folder else {
                return true;
            };
            let marker = folder.join(format!("{}.hit", self.name));
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .open(marker)
                .is_ok()
        }
    }

    /// Acts if the point is set to. Use [`failpoint!`](crate::failpoint!).
    pub fn hit(name: &str, values: &[(&str, &dyn Display)]) {
        let points = &*POINTS;
        let folder = points.folder.as_deref();
        for point in &points.points {
            if point.matches(name, values) && point.claim(folder) {
                act(point, values, folder);
            }
        }
    }

    fn act(point: &Point, values: &[(&str, &dyn Display)], folder: Option<&Path>) {
        let mut line = format!("FAILPOINT {}", point.name);
        for (key, value) in values {
            let _ = write!(line, " {key}={value}");
        }
        let _ = writeln!(line, " pid={}", std::process::id());
        let _ = std::io::stderr().write_all(line.as_bytes());
        if point.kill {
            let _ = rustix::process::kill_process(
                rustix::process::getpid(),
                rustix::process::Signal::KILL,
            );
        }
        let go = folder.map(|folder| folder.join(format!("{}.go", point.name)));
        loop {
            if go.as_ref().is_some_and(|go| go.exists()) {
                return;
            }
            #[expect(
                clippy::disallowed_methods,
                reason = "the thread has to stand still, whatever clock the process has"
            )]
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[cfg(all(test, feature = "failpoints"))]
mod tests {
    use super::active::Point;

    #[test]
    fn conditions_must_all_hold() {
        let point = Point::parse("a.b@batch=3,partition=1=pause").expect("parses");
        assert!(point.matches("a.b", &[("batch", &3), ("partition", &1), ("x", &"y")]));
        assert!(!point.matches("a.b", &[("batch", &3), ("partition", &2)]));
        assert!(!point.matches("a.b", &[("batch", &3)]));
        assert!(!point.matches("a.c", &[("batch", &3), ("partition", &1)]));
    }

    #[test]
    fn bad_entries_are_refused() {
        for entry in ["a.b", "a.b=jump", "a.b@batch=pause"] {
            assert!(Point::parse(entry).is_none(), "{entry}");
        }
        assert!(Point::parse("a.b=always-kill").is_some_and(|point| point.always && point.kill));
    }

    #[test]
    fn one_process_of_a_folder_claims_a_point_once() {
        let folder = tempfile::tempdir().expect("folder");
        let first = Point::parse("a=pause").expect("parses");
        let second = Point::parse("a=pause").expect("parses");
        assert!(first.claim(Some(folder.path())));
        assert!(!first.claim(Some(folder.path())));
        assert!(!second.claim(Some(folder.path())));
        assert!(second.always || !second.claim(None));
    }
}
