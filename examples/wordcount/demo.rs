//! The embedded Kafka of `--demo`: librdkafka's mock cluster, and a producer that keeps sending lines.

use std::{
    io::{self, Write},
    sync::mpsc,
    thread,
    time::Duration,
};

use millstream::{
    launch::{Ready, Settings},
    prelude::*,
};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use rdkafka::{
    ClientConfig,
    error::KafkaResult,
    mocking::MockCluster,
    producer::{BaseProducer, BaseRecord},
};

use crate::Args;

const PARTITIONS: i32 = 4;

/// A few words; the first come most often.
const WORDS: &[&str] = &[
    "Hello", "World", "stream", "the", "of", "a", "batch", "word", "count", "driver", "executor",
    "Kafka", "topic", "shuffle", "task", "stage", "offset", "commit", "Rust", "window",
];

/// Starts the embedded Kafka where `--demo` asks for it, in the driver alone.
pub fn prepare(args: &mut Args, settings: &mut Settings) -> Result<()> {
    if !args.demo {
        return Ok(());
    }
    let (topic, rate) = (args.topic.clone(), args.rate);
    let (started, brokers) = mpsc::channel();
    // It ends with the process, and the cluster with it.
    thread::Builder::new()
        .name("demo-kafka".into())
        .spawn(move || {
            if let Err(error) = serve(&topic, rate, &started) {
                let _ = started.send(Err(error));
            }
        })?;
    let brokers = brokers
        .recv()
        .map_err(|_| Error::usage("the embedded Kafka broke off"))?;
    args.brokers = Some(
        brokers
            .map_err(|error| Error::usage(format!("the embedded Kafka did not start: {error}")))?,
    );
    settings.default_master(Master::LocalCluster {
        executors: 2,
        cores: 1,
    });
    Ok(())
}

/// Says what can be tried.
pub fn invite(args: &Args, ready: &Ready) {
    if !args.demo {
        return;
    }
    let processes: Vec<String> = ready.executors.iter().map(u32::to_string).collect();
    let mut text = format!(
        "An embedded Kafka receives {} lines a second; a driver and two executor processes count their words.\nExecutors: processes {}\n",
        args.rate,
        processes.join(" and ")
    );
    if let Some(http) = &ready.http {
        text += &format!("Metrics:   http://{http}/metrics   REST: http://{http}/api/v1/batches\n");
    }
    if let Some(process) = processes.first() {
        text += &format!(
            "Try:       kill -9 {process}   (counting goes on, nothing is lost, nothing is counted twice)\n"
        );
    }
    text += "Stop:      Ctrl-C\n";
    // Nobody is invited where standard error is closed.
    let _ = io::stderr().write_all(text.as_bytes());
}

fn serve(topic: &str, rate: u32, started: &mpsc::Sender<KafkaResult<String>>) -> KafkaResult<()> {
    let cluster = MockCluster::new(1)?;
    cluster.create_topic(topic, PARTITIONS, 1)?;
    let brokers = cluster.bootstrap_servers();
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &brokers)
        .set("linger.ms", "5")
        .create()?;
    let _ = started.send(Ok(brokers));
    let mut random = SmallRng::seed_from_u64(1);
    let burst = rate.div_ceil(100);
    let pause = Duration::from_secs(1) * burst / rate;
    let mut partition = 0;
    loop {
        for _ in 0..burst {
            let text = random_line(&mut random);
            // A full queue drops the line: this producer only makes noise.
            let _ = producer.send(
                BaseRecord::<(), str>::to(topic)
                    .partition(partition)
                    .payload(&text),
            );
            partition = (partition + 1) % PARTITIONS;
        }
        producer.poll(Duration::ZERO);
        thread::park_timeout(pause);
    }
}

fn random_line(random: &mut SmallRng) -> String {
    let word = |random: &mut SmallRng| {
        let most = random.random_range(1..=WORDS.len());
        WORDS[random.random_range(0..most)]
    };
    let words: Vec<&str> = (0..10).map(|_| word(random)).collect();
    words.join(" ")
}
