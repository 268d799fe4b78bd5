//! Every configuration key of the runtime.
//!
//! A key stands here once; its constant, checks, variable and line in the reference are made from it.

use std::time::Duration;

use super::address::{Address, Advertised};
use super::declare::{Flags, Key, Spec, accepts, checked, declare_keys};
use super::value::{ByteSize, Secret, Setting, ZoneName};
use super::words::{
    Compression, LogFormat, OnDataLoss, OnMalformed, OnNondeterminism, ShowProgress,
};

/// Keys that the reference shows together.
pub struct Section {
    /// The section's title.
    pub title: &'static str,
    /// The names of its keys.
    pub names: &'static [&'static str],
}

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);
/// Beyond the years that a timestamp can have.
const AGES: Duration = Duration::from_secs(86_400 * 365 * 300_000);

declare_keys! {
    section "Batches" {
        /// How long each batch of DStreams spans; batches start at multiples of it. `0s` starts a batch as soon as the last
        /// one has ended. Programs of Structured Streaming refuse it, as their queries have triggers.
        "batch.interval" BATCH_INTERVAL: Duration = SECOND, [Duration::ZERO, DAY];
        /// Batches that may wait behind the running one. At the bound the clock waits: batch times that pass meanwhile
        /// still get their batches, later. None is dropped or merged.
        "batch.max_queued" BATCH_MAX_QUEUED: u32 = 1_000, [1, 1_000_000];
        /// Partitions of shuffles and state, fixed when the application first starts and kept in its checkpoint. Without a
        /// value: the slots on `local[N]`, executors times slots on `local-cluster`, 8 on `cluster`.
        "parallelism" PARALLELISM: Option<u32> = None, [1, 4_096];
        /// How long a stop waits for queued batches to finish and commit; after that the process exits with code 4.
        "stop.timeout" STOP_TIMEOUT: Duration = Duration::from_secs(10), [Duration::ZERO, DAY];
        /// Bytes of encoded rows, decompressed, that one output of a batch may bring to the driver (collect, callbacks); more fails the batch.
        "collect.max_bytes" COLLECT_MAX_BYTES: ByteSize = ByteSize::mib(64), [ByteSize::kib(1), ByteSize::gib(64)];
        /// The time zone of times that outputs print, and in which Structured Streaming reads and casts times that name none. Without a value, the driver's own.
        "time.zone" TIME_ZONE: Option<ZoneName> = None;
    }

    section "Checkpoint" {
        /// The folder or URL where the application keeps what survives it. The same as `--checkpoint`.
        "checkpoint.location" CHECKPOINT_LOCATION: Option<String> = None;
        /// Whether each entry of a checkpoint on a local disk is forced to the disk before the batch goes on. `false` saves
        /// that time; after a power cut or a crash of the machine, batches may then be lost or written twice.
        "checkpoint.fsync" CHECKPOINT_FSYNC: bool = true;
        /// Committed batches whose entries are kept.
        "checkpoint.retained_batches" CHECKPOINT_RETAINED_BATCHES: u32 = 100, [2, 1_000_000];
        /// What to do when a task that runs again gives other rows than those already used or written.
        "determinism.check" DETERMINISM_CHECK: OnNondeterminism = OnNondeterminism::Fail;
    }

    section "Tasks and stages" {
        /// Failures of one task that stop its query. Attempts that were cancelled or superseded do not count.
        "task.max_failures" TASK_MAX_FAILURES: u32 = 4, [1, 1_000];
        /// Failures of one stage's tasks on one executor after which that executor gets no more tasks of that stage, while there
        /// is another one.
        "task.exclude_after" TASK_EXCLUDE_AFTER: u32 = 2, [1, 1_000];
        /// Attempts of one stage in a row, each ended by blocks that could not be fetched, that stop its query.
        "stage.max_attempts" STAGE_MAX_ATTEMPTS: u32 = 4, [1, 1_000];
        /// How long a task waits for a slot on the executor that holds its consumer, block or state before it runs elsewhere.
        "scheduler.locality_wait" SCHEDULER_LOCALITY_WAIT: Duration = Duration::from_millis(100), [Duration::ZERO, HOUR];
        /// Whether slow tasks are run a second time, on another executor; the first to finish counts. Stages that write
        /// to a sink are never speculated.
        "speculation.enabled" SPECULATION_ENABLED: bool = false;
        /// A task is slow when it has run so many times as long as the median of the stage's finished tasks.
        "speculation.multiplier" SPECULATION_MULTIPLIER: f64 = 3.0, [1.0, 1_000.0];
        /// The share of a stage's tasks that must have finished before any counts as slow.
        "speculation.quantile" SPECULATION_QUANTILE: f64 = 0.9, [0.0, 1.0];
        /// How often the driver looks for slow tasks.
        "speculation.interval" SPECULATION_INTERVAL: Duration = Duration::from_millis(100), [MILLISECOND, HOUR];
    }

    section "Driver" {
        /// Where the driver listens for executors. The default port, when taken, moves to the next free one; a port that was
        /// set does not.
        "driver.listen" DRIVER_LISTEN: Address = Address::loopback(7_077), process;
        /// Where the driver serves metrics and the REST API; `/` lists what there is. The port moves as that of `driver.listen`.
        "driver.http" DRIVER_HTTP: Address = Address::loopback(4_040), process;
        /// Whether driver and executors serve HTTP at all.
        "http.enabled" HTTP_ENABLED: bool = true, process;
    }

    section "Executors" {
        /// Task slots of an executor. The same as `--cores`. Without a value, the machine's cores.
        "executor.cores" EXECUTOR_CORES: Option<u32> = None, [1, 4_096], process;
        /// Where an executor listens for the driver and its peers. Port 0 takes any free port.
        "executor.listen" EXECUTOR_LISTEN: Address = Address::loopback(0), process;
        /// Under which address the driver and other executors reach an executor's blocks, where that is not what it listens on (a container,
        /// a wildcard address, a proxy). A host alone keeps the port that it listens on. Without a value, the address it listens on, or the
        /// machine's name where that is a wildcard.
        "executor.advertise" EXECUTOR_ADVERTISE: Option<Advertised> = None, process;
        /// Where an executor serves metrics. Port 0 takes any free port.
        "executor.http" EXECUTOR_HTTP: Address = Address::loopback(0), process;
        /// How often an executor tells the driver that it is alive.
        "executor.heartbeat_interval" EXECUTOR_HEARTBEAT_INTERVAL: Duration = SECOND, [Duration::from_millis(10), HOUR];
        /// How long an executor may be silent before it counts as lost; at least twice the heartbeat interval.
        "executor.timeout" EXECUTOR_TIMEOUT: Duration = Duration::from_secs(10), [Duration::from_millis(20), DAY];
        /// How long an executor whose connection ended may take to come back before it counts as lost.
        "executor.reconnect_timeout" EXECUTOR_RECONNECT_TIMEOUT: Duration = SECOND, [Duration::ZERO, HOUR];
        /// How often the driver says again that a batch waits because there is no executor.
        "executor.wait_log_interval" EXECUTOR_WAIT_LOG_INTERVAL: Duration = Duration::from_secs(10), [Duration::from_millis(100), HOUR];
        /// Largest message between driver and executors, in either direction.
        "rpc.max_message" RPC_MAX_MESSAGE: ByteSize = ByteSize::mib(64), [ByteSize::mib(1), ByteSize::gib(2)];
        /// How long one attempt to connect to the driver or to a peer may take.
        "rpc.connect_timeout" RPC_CONNECT_TIMEOUT: Duration = Duration::from_secs(5), [Duration::from_millis(10), HOUR];
    }

    section "Security" {
        /// What an executor must present to the driver, and executors to each other. Without a value, anyone who reaches the ports is let in.
        "auth.secret" AUTH_SECRET: Option<Secret> = None, process, secret;
        /// The PEM file with the certificate of the authority that signed those of all nodes. With `tls.ca`, `tls.cert` and `tls.key` every connection between
        /// driver and executors is mutual TLS; set all three, on every process, or none. `millstream certs` makes the files.
        "tls.ca" TLS_CA: Option<String> = None, process;
        /// The PEM file with this node's certificate.
        "tls.cert" TLS_CERT: Option<String> = None, process;
        /// The PEM file with the private key of `tls.cert`.
        "tls.key" TLS_KEY: Option<String> = None, process;
        /// What clients of the HTTP ports must send, as `Authorization: Bearer TOKEN`; only `/healthz` is answered without. Needed when `driver.http` or
        /// `executor.http` is an address that other machines reach.
        "http.token" HTTP_TOKEN: Option<Secret> = None, process, secret;
    }

    section "Memory and shuffle" {
        /// Memory of one executor for the tables of tasks, for blocks, also those being fetched, and for the state of structured queries. What does
        /// not fit is spilled or waits; a task whose tables alone want more fails. State stays, and leaves that much less for the rest.
        "memory.budget" MEMORY_BUDGET: ByteSize = ByteSize::mib(512), [ByteSize::mib(16), ByteSize::gib(4_096)], process;
        /// The share of `memory.budget` that blocks may fill before the oldest are moved to disk.
        "memory.block_fraction" MEMORY_BLOCK_FRACTION: f64 = 0.5, [0.05, 0.95], process;
        /// Encoded bytes of the rows in one task's table (combining, grouping, sorting) at which it spills to disk. Where it isn't
        /// set, an eighth of the driver's `memory.budget`, at most 64MiB. The place of the cut shows in the order of rows and in
        /// sums of floats.
        "memory.spill_threshold" MEMORY_SPILL_THRESHOLD: ByteSize = ByteSize::mib(64), [ByteSize::kib(4), ByteSize::gib(1_024)], affects_results;
        /// The folder for spilled tables and blocks. Without a value, the system's temporary folder.
        "shuffle.spill_dir" SHUFFLE_SPILL_DIR: Option<String> = None, process;
        /// How blocks are compressed.
        "shuffle.compression" SHUFFLE_COMPRESSION: Compression = Compression::Lz4;
        /// Bytes of blocks that one task may have asked for and not yet read.
        "shuffle.fetch_max_in_flight" SHUFFLE_FETCH_MAX_IN_FLIGHT: ByteSize = ByteSize::mib(48), [ByteSize::kib(64), ByteSize::gib(16)];
        /// How long a fetch of blocks may go without receiving anything before it has failed.
        "shuffle.fetch_timeout" SHUFFLE_FETCH_TIMEOUT: Duration = Duration::from_secs(30), [Duration::from_millis(10), HOUR];
        /// How many times a failed fetch is tried again before the map tasks that wrote the blocks run again.
        "shuffle.fetch_retries" SHUFFLE_FETCH_RETRIES: u32 = 3, [0, 1_000];
    }

    section "Input" {
        /// What to do with a record that cannot be decoded. Each one is counted, and samples are logged. With `drop` a Kafka record whose value is not UTF-8 is left out also where the job reads bytes.
        "input.on_malformed" INPUT_ON_MALFORMED: OnMalformed = OnMalformed::Fail;
        /// Largest record (a line, a Kafka message). A larger one is malformed.
        "input.max_record_bytes" INPUT_MAX_RECORD_BYTES: ByteSize = ByteSize::mib(8), [ByteSize::from_bytes(1), ByteSize::gib(1)];
        /// Whether the input rate follows what the application keeps up with.
        "backpressure.enabled" BACKPRESSURE_ENABLED: bool = false;
        /// Records per second and source until the first batch has shown a rate. Without a value, unlimited.
        "backpressure.initial_rate" BACKPRESSURE_INITIAL_RATE: Option<u64> = None, [1];
        /// The lowest rate that backpressure goes down to, in records per second and source.
        "backpressure.min_rate" BACKPRESSURE_MIN_RATE: u64 = 100, [1];
        /// Weight of the difference between the last rate and the rate of processing.
        "backpressure.proportional" BACKPRESSURE_PROPORTIONAL: f64 = 1.0, [0.0, 1_000.0];
        /// Weight of the records that wait because of scheduling delay.
        "backpressure.integral" BACKPRESSURE_INTEGRAL: f64 = 0.2, [0.0, 1_000.0];
        /// Weight of the change of that difference; smooths or, too large, swings.
        "backpressure.derived" BACKPRESSURE_DERIVED: f64 = 0.0, [0.0, 1_000.0];
    }

    section "Kafka source" {
        /// Records per second and partition that a batch takes at most. Without a value, all there are.
        "kafka.max_rate_per_partition" KAFKA_MAX_RATE_PER_PARTITION: Option<u64> = None, [1];
        /// Bytes of records that an executor holds ready for each partition; at the bound the partition is paused.
        "kafka.read_ahead" KAFKA_READ_AHEAD: ByteSize = ByteSize::mib(16), [ByteSize::kib(64), ByteSize::gib(16)];
        /// What to do when a topic has dropped records that a batch needs.
        "kafka.on_data_loss" KAFKA_ON_DATA_LOSS: OnDataLoss = OnDataLoss::Fail;
        /// How long the brokers may take to tell partitions and newest offsets, at the start and for each batch.
        "kafka.plan_timeout" KAFKA_PLAN_TIMEOUT: Duration = Duration::from_secs(10), [Duration::from_millis(100), HOUR];
        /// How long a task waits for the next record of its range before it fails.
        "kafka.range_timeout" KAFKA_RANGE_TIMEOUT: Duration = Duration::from_secs(30), [Duration::from_millis(100), DAY];
        /// Whether offsets are committed to the consumer group after each batch, for tools that show lag. They are never read back.
        "kafka.commit_offsets" KAFKA_COMMIT_OFFSETS: bool = true;
    }

    section "File source" {
        /// A file is taken only when it was last changed so long ago; for writers that do not rename a complete file into place.
        "files.min_age" FILES_MIN_AGE: Duration = Duration::ZERO, [Duration::ZERO, DAY];
        /// Bytes of a file that one task reads; larger files are split, at ends of lines.
        "files.split_size" FILES_SPLIT_SIZE: ByteSize = ByteSize::mib(128), [ByteSize::kib(1), ByteSize::gib(64)];
        /// Files that a batch takes at most, oldest first. Without a value, all there are.
        "files.max_files_per_batch" FILES_MAX_FILES_PER_BATCH: Option<u32> = None, [1];
        /// What to do when a file is gone, or has another length, once its batch reads it.
        "files.on_changed" FILES_ON_CHANGED: OnDataLoss = OnDataLoss::Fail;
    }

    section "Structured Streaming" {
        /// An event time that is further ahead of its batch's time doesn't count for the watermark; progress says so.
        "watermark.max_ahead" WATERMARK_MAX_AHEAD: Duration = HOUR, [Duration::ZERO, AGES];
    }

    section "Receivers" {
        /// Received records are cut into blocks of so much time; each block is one task of its batch.
        "receiver.block_interval" RECEIVER_BLOCK_INTERVAL: Duration = Duration::from_millis(200), [MILLISECOND, HOUR];
        /// Records per second that a receiver takes at most. Without a value, as fast as they come.
        "receiver.max_rate" RECEIVER_MAX_RATE: Option<u64> = None, [1];
        /// Bytes that a receiver holds for batches that have not run; at the bound it stops reading.
        "receiver.max_buffered" RECEIVER_MAX_BUFFERED: ByteSize = ByteSize::mib(64), [ByteSize::kib(64), ByteSize::gib(64)];
        /// Bytes of received records that one batch takes from a socket, all of which go into its checkpoint entry; the rest waits for the next batch.
        "receiver.max_batch_bytes" RECEIVER_MAX_BATCH_BYTES: ByteSize = ByteSize::mib(8), [ByteSize::kib(1), ByteSize::mib(32)];
        /// How long a receiver waits before it starts again after an error or the end of its connection.
        "receiver.restart_delay" RECEIVER_RESTART_DELAY: Duration = Duration::from_secs(2), [Duration::ZERO, HOUR];
        /// How long the socket receiver's attempt to connect may take.
        "socket.connect_timeout" SOCKET_CONNECT_TIMEOUT: Duration = Duration::from_secs(10), [Duration::from_millis(10), HOUR];
    }

    section "Sinks" {
        /// Whether output files are forced to the disk before their batch commits. `false` saves that time; after a power cut, a
        /// committed batch may lack rows.
        "file_sink.fsync" FILE_SINK_FSYNC: bool = true;
        /// Whether an empty file `_SUCCESS` is put into each complete output folder.
        "file_sink.success_file" FILE_SINK_SUCCESS_FILE: bool = true;
        /// How long the broker keeps a transaction open that its writer left.
        "kafka_sink.transaction_timeout" KAFKA_SINK_TRANSACTION_TIMEOUT: Duration = MINUTE, [SECOND, Duration::from_secs(900)];
        /// A batch whose rows are written in part by an older build of the program: the rows that are missing are written by this build. Rows of
        /// the two may not fit together: some may be lost or doubled between sink partitions.
        "kafka_sink.accept_mixed_batch" KAFKA_SINK_ACCEPT_MIXED_BATCH: Option<u64> = None, [0];
        /// Whether a batch is written again of which it can't be told any more whether it was written, because it is older than the broker
        /// keeps offsets.
        "kafka_sink.accept_duplicates" KAFKA_SINK_ACCEPT_DUPLICATES: bool = false;
        /// How many times a task is launched again, a second apart, after another attempt has fenced its producer.
        "kafka_sink.fence_retries" KAFKA_SINK_FENCE_RETRIES: u32 = 10, [0, 1_000];
    }

    section "Object stores" {
        /// The URL of the object store that `s3://` locations are in. Without a value the variable `AWS_ENDPOINT_URL`, else Amazon S3 itself.
        /// Credentials are no configuration: each process takes its own from the variables `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, or
        /// from its role.
        "s3.endpoint" S3_ENDPOINT: Option<String> = None;
        /// The region of the buckets. Without a value the variable `AWS_REGION`, else `us-east-1`.
        "s3.region" S3_REGION: Option<String> = None;
        /// Whether an endpoint may be plain HTTP.
        "s3.allow_http" S3_ALLOW_HTTP: bool = false;
        /// How long one request to an object store may take.
        "s3.request_timeout" S3_REQUEST_TIMEOUT: Duration = Duration::from_secs(30), [Duration::from_millis(100), HOUR];
        /// How long batches wait for an object store that does not answer before the query stops. At the start, a store that never answered is
        /// waited for 15 s at most.
        "s3.retry_timeout" S3_RETRY_TIMEOUT: Duration = Duration::from_secs(600), [Duration::ZERO, DAY];
    }

    section "Logs, metrics and progress" {
        /// How log lines are written to standard error. What is logged is set by the variable `MILLSTREAM_LOG`
        /// (`info`, `debug`, `warn,millstream_driver=debug`).
        "log.format" LOG_FORMAT: LogFormat = LogFormat::Text, process;
        /// Whether `/metrics` is served.
        "metrics.enabled" METRICS_ENABLED: bool = true, process;
        /// When a line on the newest batch is shown on standard error, in programs of DStreams; `auto` when that is a terminal and standard output is none.
        "progress.show" PROGRESS_SHOW: ShowProgress = ShowProgress::Auto, process;
    }
}
