//! Sends lines to a Kafka topic: those of standard input, or generated ones at a given rate.
//!
//! ```sh
//! producer --brokers localhost:9092 --topic lines < book.txt
//! producer --brokers localhost:9092 --topic lines --rate 1000 --count 60000
//! ```

use std::{
    error::Error,
    io::{self, BufRead},
    process::ExitCode,
    thread,
    time::Duration,
};

use clap::Parser;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use rdkafka::{
    ClientConfig, ClientContext, Message,
    error::{KafkaError, RDKafkaErrorCode},
    producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer},
};

/// Sends lines to a Kafka topic.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Kafka brokers
    #[arg(long, value_name = "HOST:PORT,...")]
    brokers: String,
    /// Kafka topic
    #[arg(long, default_value = "lines")]
    topic: String,
    /// Generates lines at this rate a second instead of reading standard input
    #[arg(long, value_name = "LINES", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    rate: Option<u32>,
    /// Stops after so many generated lines
    #[arg(long, requires = "rate")]
    count: Option<u64>,
    /// Sends each line as a JSON string, in quotes
    #[arg(long)]
    json: bool,
    /// Key of every record
    #[arg(long)]
    key: Option<String>,
    /// Decides what is generated
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// How long the brokers may take to say whether the topic is there.
const LOOK: Duration = Duration::from_secs(3);

/// Says when a record did not arrive.
struct Deliveries;

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, delivered: &DeliveryResult<'_>, _: ()) {
        if let Err((error, record)) = delivered {
            eprintln!("a record for {} did not arrive: {error}", record.topic());
            // A line lost in silence would be worse than an end in mid-way.
            std::process::exit(1);
        }
    }
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(lines) => {
            eprintln!("{lines} lines sent");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<u64, Box<dyn Error>> {
    let producer: ThreadedProducer<Deliveries> = ClientConfig::new()
        .set("bootstrap.servers", &args.brokers)
        .set("linger.ms", "5")
        .set("enable.idempotence", "true")
        .set("compression.type", "lz4")
        .create_with_context(Deliveries)?;
    look_for_topic(&producer, args);
    let mut sent = 0;
    match args.rate {
        None => {
            for line in io::stdin().lock().lines() {
                send(&producer, args, &line?)?;
                sent += 1;
            }
        }
        Some(rate) => {
            let mut random = SmallRng::seed_from_u64(args.seed);
            let burst = u64::from(rate.div_ceil(100));
            let pause = Duration::from_secs_f64(burst as f64 / f64::from(rate));
            while args.count.is_none_or(|count| sent < count) {
                let left = args.count.map_or(burst, |count| burst.min(count - sent));
                for _ in 0..left {
                    send(&producer, args, &generate(&mut random))?;
                    sent += 1;
                }
                thread::park_timeout(pause);
            }
        }
    }
    producer.flush(Duration::from_secs(60))?;
    Ok(sent)
}

/// Says at once what the records will wait for; they wait themselves.
fn look_for_topic(producer: &ThreadedProducer<Deliveries>, args: &Args) {
    let Args { brokers, topic, .. } = args;
    match producer.client().fetch_metadata(Some(topic), LOOK) {
        Ok(metadata) => {
            let found = metadata.topics().iter().find(|found| found.name() == topic);
            if found.is_none_or(|found| found.partitions().is_empty()) {
                eprintln!(
                    "topic {topic} is not there; waiting for it. Make it, for example with: kafka-topics.sh --bootstrap-server {brokers} --create --topic {topic} --partitions 4"
                );
            }
        }
        Err(error) => {
            eprintln!("no answer from the Kafka brokers {brokers} yet ({error}); waiting for them")
        }
    }
}

fn send(
    producer: &ThreadedProducer<Deliveries>,
    args: &Args,
    line: &str,
) -> Result<(), Box<dyn Error>> {
    let value = if args.json {
        serde_json::to_string(line)?
    } else {
        line.to_owned()
    };
    let mut record = BaseRecord::<str, str>::to(&args.topic).payload(&value);
    if let Some(key) = &args.key {
        record = record.key(key);
    }
    loop {
        record = match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), record)) => record,
            Err((error, _)) => return Err(error.into()),
        };
        // Room comes as records arrive.
        producer.flush(Duration::from_millis(100)).ok();
    }
}

fn generate(random: &mut SmallRng) -> String {
    let words: Vec<String> = (0..10)
        .map(|_| {
            let most = random.random_range(1..=10_000u32);
            format!("word{}", random.random_range(0..most))
        })
        .collect();
    words.join(" ")
}
