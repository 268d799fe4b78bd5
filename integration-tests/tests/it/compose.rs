//! `deploy/compose.yaml` as it stands: a whole cluster in containers, killed in part and made larger, counts each word once.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{ChildStdin, Command, Stdio},
    time::Duration,
};

use millstream_common::config::Spec;
use millstream_integration_tests::{
    compose::{Compose, Container, IMAGES, bounded, docker, output},
    process::{ChildProcess, Signal},
    wait::{wait_for, wait_until},
};

use tempfile::TempDir;

use crate::{
    own_job::tool,
    runtime::python::example,
    word_job::{Counts, SOON, Turn},
};

/// For what pulls, builds and starts several processes at once.
const UP: Duration = Duration::from_secs(240);
const SECRET: &str = "a-secret-of-this-test";
const TOKEN: &str = "a-token-of-this-test";

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

/// Builds the image of the word count from the programs of this build.
fn build_image() -> String {
    let programs = tempfile::tempdir().unwrap();
    for program in [
        example("wordcount"),
        example("producer"),
        tool().to_path_buf(),
    ] {
        // Debug information is most of them, and all goes to the daemon.
        let stripped = programs.path().join(program.file_name().unwrap());
        let mut strip = Command::new("strip");
        strip.arg("-o").arg(stripped).arg(&program);
        output(strip).unwrap();
    }
    let tag = format!("{IMAGES}:{}", std::process::id());
    let file = deploy().join("Dockerfile");
    let arguments = [
        "build",
        "--quiet",
        "--target=prebuilt",
        "--build-arg=APP=wordcount",
        "--tag",
        &tag,
        "--file",
        file.to_str().unwrap(),
        programs.path().to_str().unwrap(),
    ];
    docker(UP, &arguments).unwrap();
    tag
}

/// The cluster, a producer whose input the test writes, and what was sent.
struct Scene {
    compose: Compose,
    folder: TempDir,
    producer: ChildProcess,
    stdin: Option<ChildStdin>,
    sent: Counts,
    lines: usize,
}

impl Scene {
    fn start() -> Self {
        let image = build_image();
        let variables = [
            ("MILLSTREAM_SECRET", SECRET),
            ("MILLSTREAM_HTTP_TOKEN", TOKEN),
            ("MILLSTREAM_HTTP_PORT", "0"),
            ("KAFKA_HEAP_OPTS", "-Xms128m -Xmx256m"),
        ];
        let compose = Compose::new(&deploy().join("compose.yaml"), &image, &variables).unwrap();
        compose.run(UP, &["up", "--detach", "--no-build"]).unwrap();
        let run = ["run", "--rm", "--no-TTY", "--no-deps", "producer"];
        let own = ["--brokers=kafka:9092", "--topic=lines"];
        let producer = compose
            .spawn("compose-producer", &[&run[..], &own[..]].concat())
            .unwrap();
        let stdin = producer.take_stdin();
        let folder = tempfile::tempdir().unwrap();
        let copied = folder.path().to_str().unwrap();
        compose
            .run(SOON, &["cp", "driver:/certs/ca.pem", copied])
            .unwrap();
        Self {
            compose,
            folder,
            producer,
            stdin,
            sent: Counts::new(),
            lines: 0,
        }
    }

    /// Sends so many lines, and remembers their words.
    fn send(&mut self, lines: usize) {
        let mut text = String::new();
        for _ in 0..lines {
            let line = format!("every w{} v{}", self.lines % 101, self.lines % 977);
            for word in line.split(' ') {
                *self.sent.entry(word.to_owned()).or_default() += 1;
            }
            text.push_str(&line);
            text.push('\n');
            self.lines += 1;
        }
        let stdin = self.stdin.as_mut().unwrap();
        stdin.write_all(text.as_bytes()).unwrap();
        stdin.flush().unwrap();
    }

    /// The counts in each folder of the output that is marked whole; a word that stands in one twice is an error.
    fn batches(&self) -> BTreeMap<String, Counts> {
        let script = "cd counts 2>/dev/null || exit 0; find . -name _SUCCESS; grep -r '' . || true";
        let found = self.compose.in_volume("data", script).unwrap();
        let whole: Vec<&str> = found
            .lines()
            .filter_map(|line| line.strip_prefix("./")?.strip_suffix("/_SUCCESS"))
            .collect();
        let mut batches = BTreeMap::<String, Counts>::new();
        for line in found.lines() {
            let row = line
                .strip_prefix("./words-")
                .and_then(|rest| rest.split_once("/part-"));
            let Some((time, rest)) = row else { continue };
            let folder = format!("words-{time}");
            if !whole.contains(&folder.as_str()) {
                continue;
            }
            let (_, row) = rest.split_once(":(").unwrap();
            let (word, count) = row.strip_suffix(')').unwrap().rsplit_once(',').unwrap();
            let counts = batches.entry(folder).or_default();
            let before = counts.insert(word.to_owned(), count.parse().unwrap());
            assert_eq!(before, None, "{word} stands twice in one batch");
        }
        batches
    }

    fn counted(&self) -> Counts {
        let mut total = Counts::new();
        for (word, count) in self.batches().into_values().flatten() {
            *total.entry(word).or_default() += count;
        }
        total
    }

    /// Waits until as many words stand in the output as were sent, and asserts that they are the same.
    fn wait_counted(&self) {
        let wanted: u64 = self.sent.values().sum();
        let counted = wait_for(SOON, "all words in the output", || {
            let counted = self.counted();
            (counted.values().sum::<u64>() >= wanted).then_some(counted)
        });
        match counted {
            Ok(counted) => assert_eq!(counted, self.sent),
            Err(error) => {
                let logs = self.compose.run(SOON, &["logs", "--tail=40"]);
                panic!("{error}\n{}", logs.unwrap_or_default());
            }
        }
    }

    /// What the driver's REST API gives to who has the token, by way of the port that is published on this machine.
    fn rest(&self, path: &str) -> Option<serde_json::Value> {
        let header = format!("Authorization: Bearer {TOKEN}");
        let page = self.get(path, &["--header", &header])?;
        serde_json::from_str(&page).ok()
    }

    fn get(&self, path: &str, arguments: &[&str]) -> Option<String> {
        let address = self.compose.run(SOON, &["port", "driver", "4040"]).ok()?;
        assert!(
            address.starts_with("127.0.0.1:"),
            "published on {address}, which others reach"
        );
        let mut curl = bounded(SOON, "curl");
        curl.args(["--silent", "--show-error", "--fail", "--cacert"]);
        curl.arg(self.folder.path().join("ca.pem")).args(arguments);
        curl.arg(format!("https://{}/api/v1/{path}", address.trim()));
        output(curl).ok()
    }

    fn wait_connected(&self, executors: usize) {
        let what = format!("{executors} executors at the driver");
        wait_until(SOON, &what, || {
            let Some(listed) = self.rest("executors") else {
                return false;
            };
            let listed = listed.as_array().unwrap();
            let connected = listed.iter().filter(|one| one["state"] == "connected");
            connected.count() == executors
        })
        .unwrap();
    }

    fn wait_healthy(&self) {
        wait_until(SOON, "all health checks to pass", || {
            let services = ["kafka", "driver", "executor"];
            let mut containers = services
                .iter()
                .flat_map(|service| self.compose.containers(service).unwrap());
            containers.all(|container| container.healthy)
        })
        .unwrap();
    }

    /// The same container each time, of those of a service.
    fn container(&self, service: &str) -> Container {
        let mut containers = self.compose.containers(service).unwrap();
        containers.sort_by(|one, other| one.id.cmp(&other.id));
        containers.swap_remove(0)
    }

    /// Kills a container's main process, and waits until the restart policy has brought it back.
    fn kill_and_wait_back(&self, service: &str) {
        let before = self.container(service);
        self.compose.kill(&before).unwrap();
        let what = format!("the {service} to come back");
        let after = wait_for(SOON, &what, || {
            let now = self.container(service);
            (now.restarts > before.restarts && now.process_id != 0).then_some(now)
        })
        .unwrap();
        assert_eq!(after.id, before.id);
        assert_ne!(after.process_id, before.process_id);
    }
}

#[test]
fn a_cluster_of_containers_outlives_kills_and_grows() {
    let _turn = Turn::take();
    let mut scene = Scene::start();
    scene.wait_connected(3);
    assert_eq!(scene.get("executors", &[]), None, "REST without a token");
    let unnamed = scene.compose.unnamed_volumes().unwrap();
    assert_eq!(unnamed, Vec::<String>::new(), "each would be left behind");
    scene.send(3_000);
    scene.wait_counted();

    scene.send(3_000);
    scene.kill_and_wait_back("executor");
    scene.send(3_000);
    scene.wait_connected(3);
    scene.wait_counted();

    scene.send(3_000);
    scene.kill_and_wait_back("driver");
    scene.send(3_000);
    scene.wait_connected(3);
    scene.wait_counted();

    let up = ["up", "--detach", "--no-build", "--scale", "executor=5"];
    scene.compose.run(UP, &up).unwrap();
    scene.wait_connected(5);
    scene.send(3_000);
    drop(scene.stdin.take());
    scene.producer.wait_success(SOON).unwrap();
    scene.wait_counted();
    scene.wait_healthy();

    // Both are told of the stop and end in order; killed, they would leave 137.
    let executor = scene.container("executor");
    docker(UP, &["stop", &executor.id]).unwrap();
    assert_eq!(scene.container("executor").exit_code, 0);
    scene.compose.run(UP, &["stop", "driver"]).unwrap();
    assert_eq!(scene.container("driver").exit_code, 0);
    assert_eq!(scene.counted(), scene.sent);
}

#[test]
fn without_a_secret_compose_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("compose.yaml");
    // Elsewhere, where no `.env` of this checkout is found.
    fs::copy(deploy().join("compose.yaml"), &file).unwrap();
    let needed = ["MILLSTREAM_SECRET", "MILLSTREAM_HTTP_TOKEN"];
    for missing in needed {
        for value in [None, Some("")] {
            let mut compose = Command::new("docker");
            compose.args(["compose", "--file"]).arg(&file).arg("config");
            compose.envs(needed.map(|name| (name, "a-word")));
            match value {
                None => compose.env_remove(missing),
                Some(value) => compose.env(missing, value),
            };
            let ended = compose.stdin(Stdio::null()).output().unwrap();
            assert!(!ended.status.success(), "accepted without {missing}");
            let said = String::from_utf8_lossy(&ended.stderr);
            for part in [missing, "deploy/.env.example"] {
                assert!(said.contains(part), "{part} is not in: {said}");
            }
        }
    }
    let example = fs::read_to_string(deploy().join(".env.example")).unwrap();
    let has = |name: &&str| example.contains(&format!("\n{name}="));
    assert!(needed.iter().all(has), "{example}");
}

/// What the driver's container runs: a script for `sh -c`, in which `$` stands twice.
fn script_of_driver() -> String {
    let file = fs::read_to_string(deploy().join("compose.yaml")).unwrap();
    let driver = file.split("\n  driver:\n").nth(1).unwrap();
    let script = driver.split("      - |\n").nth(1).unwrap();
    let lines = script
        .lines()
        .map_while(|line| line.strip_prefix("        "));
    lines.collect::<Vec<_>>().join("\n").replace("$$", "$")
}

/// The driver's container without Docker, where the program is a script.
fn container_of(program: &str) -> (TempDir, ChildProcess) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("program");
    fs::write(
        &path,
        format!("#!/bin/sh\ncd {}\n{program}\n", folder.path().display()),
    )
    .unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new("/bin/sh");
    command
        .arg("-c")
        .arg(script_of_driver())
        .args(["sh", "one", "two words"]);
    command.env("APP", &path);
    let process = ChildProcess::spawn("container", &command).unwrap();
    (folder, process)
}

#[test]
fn a_superseded_driver_of_compose_stays_down() {
    let (_folder, container) = container_of("exit 3");
    let runs = format!("/proc/{}/comm", container.pid());
    wait_until(SOON, "the container to sleep", || {
        fs::read_to_string(&runs).unwrap() == "sleep\n"
    })
    .unwrap();
    assert_eq!(container.exit_status().unwrap(), None);
    container.signal(Signal::TERM).unwrap();
    container.wait_exit(SOON).unwrap();
}

#[test]
fn a_driver_of_compose_gets_arguments_and_signals_and_its_exit_code_is_kept() {
    let (_folder, container) =
        container_of("[ \"$1\" = one ] && [ \"$2\" = 'two words' ] && exit 4");
    assert_eq!(container.wait_exit(SOON).unwrap().code(), Some(4));

    // It takes a while to stop, in which it is waited for.
    let stops = "trap 'touch told; while [ ! -e go ]; do sleep 0.01; done; exit 0' TERM; touch ready; while :; do sleep 0.01; done";
    let (folder, container) = container_of(stops);
    let there = |name: &str| {
        let path = folder.path().join(name);
        wait_until(SOON, name, || path.exists()).unwrap();
    };
    there("ready");
    container.signal(Signal::TERM).unwrap();
    there("told");
    assert_eq!(container.exit_status().unwrap(), None);
    fs::write(folder.path().join("go"), "").unwrap();
    assert_eq!(container.wait_exit(SOON).unwrap().code(), Some(0));
}

/// The configuration keys that a compose file gives to programs: `--conf=key=..`.
fn conf_keys(text: &str) -> Vec<&str> {
    let rest = text.split("--conf=").skip(1);
    rest.filter_map(|rest| rest.split_once('=').map(|(key, _)| key))
        .collect()
}

/// The names of the variables that a compose file asks for: `${NAME..}`.
fn asked_for(text: &str) -> BTreeSet<&str> {
    let rest = text.split("${").skip(1);
    rest.map(|rest| rest.split([':', '}']).next().unwrap())
        .collect()
}

#[test]
fn the_compose_file_and_its_page_agree_with_the_programs() {
    let file = fs::read_to_string(deploy().join("compose.yaml")).unwrap();
    let page = fs::read_to_string(deploy().join("../docs/deploying.md")).unwrap();

    let keys = conf_keys(&file);
    assert!(keys.len() > 2, "only {keys:?} were found");
    for key in keys {
        assert!(Spec::find(key).is_some(), "compose.yaml sets {key}");
    }
    let variables = file.split_whitespace().filter_map(|word| {
        let name = word.strip_prefix("MILLSTREAM_")?.strip_suffix(':')?;
        name.contains("__").then_some(name)
    });
    let mut checked = 0;
    for variable in variables {
        let key = variable.to_lowercase().replacen("__", ".", 1);
        assert!(Spec::find(&key).is_some(), "compose.yaml sets {variable}");
        checked += 1;
    }
    assert!(checked > 3, "only {checked} variables were found");

    let documented: BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(name, _)| name)
        .filter(|name| {
            let is_ours = name.starts_with("MILLSTREAM_") || name.starts_with("KAFKA_");
            is_ours || name.ends_with("_IMAGE")
        })
        .collect();
    assert_eq!(documented, asked_for(&file));

    let services: BTreeSet<&str> = file
        .lines()
        .skip_while(|line| *line != "services:")
        .take_while(|line| *line != "networks:")
        .filter_map(|line| line.strip_prefix("  ")?.strip_suffix(':'))
        .filter(|name| name.chars().all(char::is_alphanumeric))
        .collect();
    let rows: BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` |"))
        .map(|(name, _)| name)
        .filter(|name| services.contains(name))
        .collect();
    assert_eq!(rows, services);
    assert_eq!(services.len(), 6, "{services:?}");
}
