//! A project of Docker's compose: brought up, killed in part, looked at, and removed with all it has.
//!
//! A project's name holds the id of the test process. Containers are started again by Docker whatever becomes of
//! the test, so [`Compose::new`] also removes the projects of test processes that are gone.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::Error;
use crate::process::{ChildProcess, SpawnOptions};

/// How projects of tests are called, before the id of the test process.
const PREFIX: &str = "millstream-test-";
/// The repository of images of tests; the tag is the id of the test process.
pub const IMAGES: &str = "millstream-test";
/// For what Docker does in a second or less when the machine is idle.
const QUICK: Duration = Duration::from_secs(60);

/// What [`Container::parse`] reads.
const STATE: &str = "{{.Id}} {{.State.Pid}} {{.RestartCount}} {{.State.ExitCode}} {{if .State.Health}}{{.State.Health.Status}}{{end}}";

/// The volumes of a container.
const VOLUMES: &str = r#"{{range .Mounts}}{{if eq .Type "volume"}}{{.Name}} {{end}}{{end}}"#;

/// One container of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// Its main process, on this machine; 0 when it isn't running.
    pub process_id: u32,
    /// How often its restart policy started it again.
    pub restarts: u32,
    /// How its main process ended last, when it isn't running.
    pub exit_code: i32,
    /// Whether it runs, and its health check says that it is well.
    pub healthy: bool,
}

impl Container {
    fn parse(state: &str) -> Option<Self> {
        let mut fields = state.split_whitespace();
        let id = fields.next()?.to_owned();
        let process_id = fields.next()?.parse().ok()?;
        Some(Self {
            id,
            process_id,
            restarts: fields.next()?.parse().ok()?,
            exit_code: fields.next()?.parse().ok()?,
            healthy: process_id != 0 && fields.next() == Some("healthy"),
        })
    }
}

/// A compose project. Dropping it removes its containers, networks and volumes.
#[derive(Debug)]
pub struct Compose {
    project: String,
    file: PathBuf,
    image: String,
    variables: Vec<(String, String)>,
}

impl Compose {
    /// A project of this compose file, whose services get `image` and these variables. Nothing is started.
    pub fn new(file: &Path, image: &str, variables: &[(&str, &str)]) -> Result<Self, Error> {
        remove_orphans()?;
        let mut variables: Vec<(String, String)> = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        variables.push(("MILLSTREAM_IMAGE".to_owned(), image.to_owned()));
        Ok(Self {
            project: format!("{PREFIX}{}", std::process::id()),
            file: file.to_path_buf(),
            image: image.to_owned(),
            variables,
        })
    }

    /// Runs `docker compose` with these arguments, and gives its standard output.
    pub fn run(&self, within: Duration, arguments: &[&str]) -> Result<String, Error> {
        let mut command = bounded(within, "docker");
        command.args(self.arguments(arguments));
        command.envs(self.variables.clone());
        output(command)
    }

    /// Starts `docker compose` with these arguments, and a pipe to its standard input.
    pub fn spawn(&self, name: &str, arguments: &[&str]) -> Result<ChildProcess, Error> {
        let mut command = Command::new("docker");
        command.args(self.arguments(arguments));
        command.envs(self.variables.clone());
        let options = SpawnOptions {
            stdin: true,
            ..SpawnOptions::default()
        };
        ChildProcess::spawn_with(name, &command, &options)
    }

    /// The containers of a service, whether they run or not.
    pub fn containers(&self, service: &str) -> Result<Vec<Container>, Error> {
        let ids = self.run(QUICK, &["ps", "--all", "--quiet", service])?;
        let ids: Vec<&str> = ids.split_whitespace().collect();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let states = docker(QUICK, &[&["inspect", "--format", STATE], &ids[..]].concat())?;
        Ok(states.lines().filter_map(Container::parse).collect())
    }

    /// The volumes that the project's containers have and its file doesn't name: those of their images.
    pub fn unnamed_volumes(&self) -> Result<Vec<String>, Error> {
        let ids = self.run(QUICK, &["ps", "--all", "--quiet"])?;
        let ids: Vec<&str> = ids.split_whitespace().collect();
        let inspect = ["inspect", "--format", VOLUMES];
        let names = docker(QUICK, &[&inspect[..], &ids[..]].concat())?;
        let own = format!("{}_", self.project);
        let names = names.split_whitespace();
        Ok(names
            .filter(|name| !name.starts_with(&own))
            .map(str::to_owned)
            .collect())
    }

    /// Sends SIGKILL to a container's main process as the kernel would when memory runs out. `docker kill` would not do:
    /// what a user stops, no restart policy starts again.
    pub fn kill(&self, container: &Container) -> Result<(), Error> {
        if container.process_id == 0 {
            return Err(Error::Misuse(format!("{} isn't running", container.id)));
        }
        let kill = format!("kill -9 {}", container.process_id);
        let host = ["run", "--rm", "--pid=host", "--user=0", "--network=none"];
        let rest = ["--entrypoint=/bin/sh", &self.image, "-c", &kill];
        docker(QUICK, &[&host[..], &rest[..]].concat()).map(drop)
    }

    /// Runs a shell's script over the files of one of the project's volumes, and gives its standard output.
    pub fn in_volume(&self, volume: &str, script: &str) -> Result<String, Error> {
        let mount = format!("--volume={}_{volume}:/volume:ro", self.project);
        let run = ["run", "--rm", "--network=none", "--workdir=/volume", &mount];
        let rest = ["--entrypoint=/bin/sh", &self.image, "-c", script];
        docker(QUICK, &[&run[..], &rest[..]].concat())
    }

    fn arguments(&self, arguments: &[&str]) -> Vec<std::ffi::OsString> {
        let project: [&OsStr; 5] = [
            "compose".as_ref(),
            "--project-name".as_ref(),
            self.project.as_ref(),
            "--file".as_ref(),
            self.file.as_ref(),
        ];
        let own = arguments.iter().map(OsStr::new);
        project
            .into_iter()
            .chain(own)
            .map(OsStr::to_owned)
            .collect()
    }
}

impl Drop for Compose {
    fn drop(&mut self) {
        // What is left, the next test process removes.
        let _ = remove(&self.project);
        let _ = docker(QUICK, &["image", "rm", "--force", &self.image]);
    }
}

/// Runs `docker` with these arguments, and gives its standard output.
pub fn docker(within: Duration, arguments: &[&str]) -> Result<String, Error> {
    let mut command = bounded(within, "docker");
    // The builder that every Docker has, and that needs no registry.
    command.args(arguments).env("DOCKER_BUILDKIT", "0");
    output(command)
}

/// A command that is ended when it takes too long.
pub fn bounded(within: Duration, program: &str) -> Command {
    let mut command = Command::new("timeout");
    command.arg("--kill-after=10");
    command.arg(within.as_secs().to_string()).arg(program);
    command
}

/// Runs a command to its end, and gives its standard output; its standard error where it failed.
pub fn output(mut command: Command) -> Result<String, Error> {
    let name = format!("{command:?}");
    let ended = command
        .stdin(std::process::Stdio::null())
        .output()
        .map_err(Error::io(format!("run {name}")))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if ended.status.success() {
        return Ok(text(&ended.stdout));
    }
    Err(Error::Failed {
        name,
        status: ended.status.to_string(),
        output: text(&ended.stderr),
    })
}

/// Removes the projects and images of test processes that are gone.
fn remove_orphans() -> Result<(), Error> {
    let label = "label=com.docker.compose.project";
    let format = "{{.Label \"com.docker.compose.project\"}}";
    let listed = docker(
        QUICK,
        &["ps", "--all", "--filter", label, "--format", format],
    )?;
    let mut projects: Vec<&str> = listed.lines().map(str::trim).collect();
    projects.sort_unstable();
    projects.dedup();
    for project in projects {
        let Some(process) = project.strip_prefix(PREFIX) else {
            continue;
        };
        if !Path::new("/proc").join(process).exists() {
            remove(project)?;
        }
    }
    for tag in docker(QUICK, &["images", "--format", "{{.Tag}}", IMAGES])?.lines() {
        if !Path::new("/proc").join(tag).exists() {
            docker(
                QUICK,
                &["image", "rm", "--force", &format!("{IMAGES}:{tag}")],
            )?;
        }
    }
    Ok(())
}

/// Removes what carries the project's label; needs neither its file nor its variables.
fn remove(project: &str) -> Result<(), Error> {
    let label = format!("label=com.docker.compose.project={project}");
    let kinds: [(&[&str], &[&str]); 3] = [
        (&["ps", "--all", "--quiet"], &["rm", "--force", "--volumes"]),
        (&["network", "ls", "--quiet"], &["network", "rm"]),
        (&["volume", "ls", "--quiet"], &["volume", "rm"]),
    ];
    for (list, delete) in kinds {
        let found = docker(QUICK, &[list, &["--filter", &label]].concat())?;
        let ids: Vec<&str> = found.split_whitespace().collect();
        if !ids.is_empty() {
            docker(QUICK, &[delete, &ids].concat())?;
        }
    }
    Ok(())
}
