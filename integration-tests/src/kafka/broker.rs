//! One Kafka node in KRaft mode, from the format of its data directory to its end.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use parking_lot::Mutex;
use tempfile::TempDir;

use super::KafkaClient;
use crate::process::{ChildProcess, Signal, SpawnOptions};
use crate::proxy::TcpProxy;
use crate::{Error, installed, ports};

/// Java needs seconds, and many of them while other tests use the processors.
const START_LIMIT: Duration = Duration::from_secs(120);
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// Small and quick to start rather than fast.
const JVM_FLAGS: [&str; 6] = [
    "-Xms128m",
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Xshare:auto",
    "-Djava.awt.headless=true",
];

/// What makes one broker a whole cluster, and a quick one.
const PROPERTIES: [(&str, &str); 21] = [
    ("process.roles", "broker,controller"),
    ("node.id", "1"),
    ("controller.listener.names", "CONTROLLER"),
    ("inter.broker.listener.name", "DIRECT"),
    (
        "listener.security.protocol.map",
        "DIRECT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT",
    ),
    ("auto.create.topics.enable", "false"),
    ("default.replication.factor", "1"),
    ("offsets.topic.replication.factor", "1"),
    ("offsets.topic.num.partitions", "4"),
    ("transaction.state.log.replication.factor", "1"),
    ("transaction.state.log.min.isr", "1"),
    ("transaction.state.log.num.partitions", "4"),
    ("share.coordinator.state.topic.replication.factor", "1"),
    ("share.coordinator.state.topic.min.isr", "1"),
    ("group.initial.rebalance.delay.ms", "0"),
    // A broker that was killed may register again only when its old session is over.
    ("broker.session.timeout.ms", "6000"),
    ("broker.heartbeat.interval.ms", "1000"),
    ("num.network.threads", "2"),
    ("num.io.threads", "4"),
    ("log.cleaner.dedupe.buffer.size", "8388608"),
    ("log.index.size.max.bytes", "1048576"),
];

const LOG_CONFIGURATION: &str = "\
rootLogger.level = INFO
rootLogger.appenderRef.stdout.ref = stdout
appender.stdout.type = Console
appender.stdout.name = stdout
appender.stdout.layout.type = PatternLayout
appender.stdout.layout.pattern = %d{HH:mm:ss.SSS} %p %c{1}: %m%n
";

/// How to start a [`KafkaBroker`].
#[derive(Clone, Debug, Default)]
pub struct BrokerOptions {
    /// Server properties that are added to, or replace, the harness's own. Default: none.
    pub properties: Vec<(String, String)>,
    /// Flags of the Java machine in place of the harness's own, which are for a quick start. Default: none.
    pub jvm_flags: Vec<String>,
    /// Puts a [`TcpProxy`] before a second listener, whose clients come back to the proxy for every
    /// connection; see [`KafkaBroker::proxy`]. Default: no proxy.
    pub proxied: bool,
}

/// How to stop a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// `SIGTERM`, and waiting for its orderly end.
    Graceful,
    /// `SIGKILL`.
    Kill,
}

/// A running Kafka broker with its own ports and data directory; killed when it is dropped, and when the
/// test process ends.
#[derive(Debug)]
pub struct KafkaBroker {
    // Before `folder`, which must outlive it.
    process: Mutex<Option<ChildProcess>>,
    client: KafkaClient,
    proxy: Option<TcpProxy>,
    jvm_flags: Vec<String>,
    folder: TempDir,
}

impl KafkaBroker {
    /// Starts a broker with the default options, and waits until it answers.
    pub fn start() -> Result<Self, Error> {
        Self::start_with(&BrokerOptions::default())
    }

    /// Starts a broker with the given options, and waits until it answers.
    pub fn start_with(options: &BrokerOptions) -> Result<Self, Error> {
        ports::start_on_free(|| Self::try_start(options))
    }

    /// The one broker of this test binary, started by the first call. Topics are its tests' own, see
    /// [`KafkaClient::unique_topic`]; a test that stops its broker starts one for itself.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Result<KafkaBroker, Error>> = OnceLock::new();
        match SHARED.get_or_init(Self::start) {
            Ok(broker) => broker,
            #[expect(
                clippy::panic,
                reason = "no test that asks for the shared broker can go on without it"
            )]
            Err(error) => panic!("could not start the shared Kafka broker: {error}"),
        }
    }

    /// Its address, as `bootstrap.servers` wants it.
    pub fn bootstrap(&self) -> &str {
        self.client.bootstrap()
    }

    /// A client of this broker, past any proxy.
    pub fn client(&self) -> &KafkaClient {
        &self.client
    }

    /// The proxy before it, if [`BrokerOptions::proxied`] asked for one. A client that is given the proxy's
    /// address as `bootstrap.servers` makes all its connections through it.
    pub fn proxy(&self) -> Option<&TcpProxy> {
        self.proxy.as_ref()
    }

    /// Stops it. Its data and ports stay its own.
    pub fn stop(&self, how: Stop) -> Result<(), Error> {
        let process = self.process.lock().take();
        let process = process
            .ok_or_else(|| Error::Misuse("the Kafka broker is stopped already".to_owned()))?;
        match how {
            Stop::Graceful => {
                process.signal(Signal::TERM)?;
                process.wait_exit(STOP_LIMIT)?;
            }
            Stop::Kill => {
                process.kill()?;
            }
        }
        Ok(())
    }

    /// Starts it again on the same ports and data, and waits until it answers.
    pub fn start_again(&self) -> Result<(), Error> {
        let mut process = self.process.lock();
        if process.is_some() {
            return Err(Error::Misuse("the Kafka broker runs already".to_owned()));
        }
        *process = Some(launch(self.folder.path(), &self.jvm_flags, &self.client)?);
        Ok(())
    }

    /// Stops it and starts it again.
    pub fn restart(&self, how: Stop) -> Result<(), Error> {
        self.stop(how)?;
        self.start_again()
    }

    /// Sends a signal to it, such as `STOP` and `CONT`.
    pub fn signal(&self, signal: Signal) -> Result<(), Error> {
        match &*self.process.lock() {
            Some(process) => process.signal(signal),
            None => Err(Error::Misuse("the Kafka broker is stopped".to_owned())),
        }
    }

    /// Its process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.lock().as_ref().map(ChildProcess::pid)
    }

    fn try_start(options: &BrokerOptions) -> Result<Self, Error> {
        let folder = tempfile::Builder::new()
            .prefix("millstream-kafka-")
            .tempdir()
            .map_err(Error::io("make a data directory for Kafka"))?;
        let [direct, controller, proxied] = ports::free()?;
        let proxy = if options.proxied {
            Some(TcpProxy::start(SocketAddr::from((
                Ipv4Addr::LOCALHOST,
                proxied,
            )))?)
        } else {
            None
        };

        let mut listeners =
            format!("DIRECT://127.0.0.1:{direct},CONTROLLER://127.0.0.1:{controller}");
        let mut advertised = format!("DIRECT://127.0.0.1:{direct}");
        if let Some(proxy) = &proxy {
            listeners.push_str(&format!(",PROXIED://127.0.0.1:{proxied}"));
            advertised.push_str(&format!(",PROXIED://{}", proxy.address()));
        }
        let mut properties = String::new();
        let mut property =
            |key: &str, value: &str| properties.push_str(&format!("{key}={value}\n"));
        for (key, value) in PROPERTIES {
            property(key, value);
        }
        property("listeners", &listeners);
        property("advertised.listeners", &advertised);
        property(
            "controller.quorum.voters",
            &format!("1@127.0.0.1:{controller}"),
        );
        property("log.dirs", &folder.path().join("data").to_string_lossy());
        // Of a key that is given twice, Java takes the last.
        for (key, value) in &options.properties {
            property(key, value);
        }
        write(&folder.path().join("server.properties"), &properties)?;
        write(&folder.path().join("log4j2.properties"), LOG_CONFIGURATION)?;

        format_data(folder.path())?;
        let client = KafkaClient::new(format!("127.0.0.1:{direct}"));
        let process = launch(folder.path(), &options.jvm_flags, &client)?;
        Ok(Self {
            process: Mutex::new(Some(process)),
            client,
            proxy,
            jvm_flags: options.jvm_flags.clone(),
            folder,
        })
    }
}

impl Drop for KafkaBroker {
    fn drop(&mut self) {
        // The data directory is removed after this, so the process must be gone by then.
        self.process.lock().take();
    }
}

/// Writes the metadata that a new node's data directory must have.
fn format_data(folder: &Path) -> Result<(), Error> {
    let mut command = java(folder, &[])?;
    command
        .arg("kafka.tools.StorageTool")
        .args(["format", "-t", &cluster_id(), "-c"]);
    command.arg(folder.join("server.properties"));
    ChildProcess::spawn("kafka-format", &command)?.wait_success(START_LIMIT)
}

/// Starts the broker and waits until it answers.
fn launch(
    folder: &Path,
    jvm_flags: &[String],
    client: &KafkaClient,
) -> Result<ChildProcess, Error> {
    let mut command = java(folder, jvm_flags)?;
    command
        .arg("kafka.Kafka")
        .arg(folder.join("server.properties"));
    let options = SpawnOptions {
        remove_at_end: Some(folder.to_path_buf()),
        ..SpawnOptions::default()
    };
    let process = ChildProcess::spawn_with("kafka", &command, &options)?;
    process.wait_answers(START_LIMIT, || {
        let brokers = client.broker_count(Duration::from_secs(2));
        brokers.is_ok_and(|count| count > 0)
    })?;
    Ok(process)
}

fn java(folder: &Path, flags: &[String]) -> Result<Command, Error> {
    let mut command = Command::new(installed::java()?);
    if flags.is_empty() {
        command.args(JVM_FLAGS);
    } else {
        command.args(flags);
    }
    command.arg(format!(
        "-Dlog4j2.configurationFile={}",
        folder.join("log4j2.properties").display()
    ));
    command.arg("-cp").arg(installed::kafka_jars()?.join("*"));
    // Kafka's own start scripts set it from this variable; the broker must not inherit a user's.
    command.env_remove("KAFKA_OPTS").current_dir(folder);
    Ok(command)
}

/// Sixteen random bytes in the URL-safe Base64 that Kafka uses for ids.
fn cluster_id() -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut bits: u128 = rand::random();
    let mut id = String::new();
    // The last digit holds two bits; Kafka refuses an id that begins with a dash.
    id.push('M');
    for _ in 0..20 {
        id.push(char::from(ALPHABET[(bits % 64) as usize]));
        bits /= 64;
    }
    id.push(char::from(ALPHABET[((bits % 4) * 16) as usize]));
    id
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    fs::write(path, text).map_err(Error::io(format!("write {}", path.display())))
}
