//! Every fault at every point of two queries: minutes from Kafka to Parquet files, and running counts from Kafka to Kafka.
//!
//! A case is a query, a point at which a process of it waits, and what then strikes. The whole output is compared with what one query over all the input gives.
//! A run takes a sample: each fault with each query, and each point, at least once. `MILLSTREAM_MATRIX=all` runs every case; any other text runs those whose names contain it.
//! `MILLSTREAM_MATRIX_SEED` repeats a sample.

use std::{
    collections::BTreeSet,
    env,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::OnceLock,
    time::Duration,
};

use millstream_integration_tests::{
    cluster::{Application, Cluster, PATIENCE, Reached},
    kafka::{KafkaBroker, Stop},
    process::Signal,
    proxy::TcpProxy,
    wait::Deadline,
};
use rand::{SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};

use super::scene::{Query, Scene};
use crate::{
    driver_faults::Second,
    faults::scene::{executor_id, reruns, wait_connected, wait_lost, wait_rejoined},
    word_job::wait_says,
};

/// What strikes while a process waits at the point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stroke {
    /// The executor that is there is killed, else any; a new one comes.
    ExecutorKilled,
    /// All are killed, new ones come.
    ExecutorsKilled,
    /// It is stopped until the driver has given it up and others have done its work, then goes on.
    ExecutorStopped,
    /// The same by the network.
    ExecutorCutOff,
    /// The driver is killed and started again.
    DriverKilled,
    /// The same with another executor.
    DriverKilledAndMore,
    /// The same without one of the executors.
    DriverKilledAndFewer,
    /// Driver and executors are killed, and three executors come.
    EverythingKilled,
    /// The driver is stopped, another takes its checkpoint over, and the first goes on.
    DriverStopped,
    /// The broker is killed and started again.
    BrokerKilled,
}

impl Stroke {
    const ALL: [Self; 10] = [
        Self::ExecutorKilled,
        Self::ExecutorsKilled,
        Self::ExecutorStopped,
        Self::ExecutorCutOff,
        Self::DriverKilled,
        Self::DriverKilledAndMore,
        Self::DriverKilledAndFewer,
        Self::EverythingKilled,
        Self::DriverStopped,
        Self::BrokerKilled,
    ];
}

/// Points of tasks.
const IN_TASKS: [(Query, &str); 15] = [
    (Query::Windows, "executor.task.start@batch=2,stage=0"),
    (Query::Windows, "executor.map.writing@batch=2"),
    (Query::Windows, "executor.fetch.serving@batch=2"),
    (Query::Windows, "executor.state.written@batch=3"),
    (Query::Windows, "executor.state.durable@batch=3"),
    (Query::Windows, "sink.files.before_finish@batch=3"),
    (
        Query::Windows,
        "executor.task.before_report@batch=3,stage=1",
    ),
    (Query::Running, "executor.task.start@batch=1,stage=1"),
    (Query::Running, "executor.map.writing@batch=1"),
    (Query::Running, "executor.fetch.serving@batch=1"),
    (Query::Running, "executor.state.written@batch=1"),
    (Query::Running, "executor.state.durable@batch=1"),
    (Query::Running, "sink.kafka.before_commit@batch=1"),
    (Query::Running, "sink.kafka.after_commit@batch=1"),
    (
        Query::Running,
        "executor.task.before_report@batch=1,stage=1",
    ),
];

/// Points of the driver.
const IN_DRIVER: [(Query, &str); 10] = [
    (Query::Windows, "driver.put.after@kind=offsets,number=3"),
    (Query::Windows, "driver.put.before@kind=commits,number=3"),
    (Query::Windows, "driver.put.after@kind=commits,number=3"),
    (Query::Windows, "sink.files.publish@batch=3,done=2"),
    (Query::Windows, "sink.files.before_mark@batch=3"),
    (Query::Windows, "driver.put.before@kind=offsets,number=4"),
    (Query::Running, "driver.put.after@kind=offsets,number=1"),
    (Query::Running, "driver.put.before@kind=commits,number=1"),
    (Query::Running, "driver.put.after@kind=commits,number=1"),
    (Query::Running, "driver.put.before@kind=offsets,number=2"),
];

/// One of the matrix.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub query: Query,
    pub point: &'static str,
    pub stroke: Stroke,
}

impl Case {
    fn name(&self) -> String {
        format!("{} {} {:?}", self.query.name(), self.point, self.stroke)
    }

    /// The point without its conditions.
    fn short(&self) -> &'static str {
        self.point.split('@').next().unwrap_or_default()
    }

    /// The point without its numbers.
    fn place(&self) -> &'static str {
        let place = self.point.split("@batch").next().unwrap_or_default();
        place.split(",number").next().unwrap_or_default()
    }

    /// What of the case a sample must have: a broker takes long to start, so its end is tried with one of the queries.
    fn fault(&self) -> (Stroke, Option<Query>) {
        match self.stroke {
            Stroke::BrokerKilled => (self.stroke, None),
            stroke => (stroke, Some(self.query)),
        }
    }

    /// Runs the query, strikes at the point, and compares all that came out.
    pub fn run(&self) {
        if self.stroke == Stroke::BrokerKilled {
            let broker = KafkaBroker::start().unwrap();
            let scene = Scene::on(self.query, broker.client());
            self.run_on(scene, Some(&broker));
        } else {
            self.run_on(Scene::new(self.query), None);
        }
    }

    fn run_on(&self, scene: Scene, broker: Option<&KafkaBroker>) {
        let application = scene
            .application()
            .failpoint(&format!("{}=pause", self.point));
        scene.send();
        let running = Running::start(&application, self.stroke);
        // All that was sent is in the first batch, so none of it is late once time has passed.
        running.cluster.wait_batch(0).unwrap();
        if self.query == Query::Windows {
            // Without data, for the watermark that the first has moved; then one reads and the next finds minutes that are over.
            running.cluster.wait_batch(1).unwrap();
        }
        scene.wait_taken(&running.cluster.driver);
        scene.pass();
        scene.send();
        if self.point.starts_with("driver.put.before@kind=offsets") {
            // A batch that is to be planned needs something to read.
            scene.send();
        }
        let at = running.cluster.wait_failpoint(self.short()).unwrap();
        let cluster = self.strike(&scene, running, at, broker);
        scene.send();
        scene.finish(cluster);
    }

    fn strike(
        &self,
        scene: &Scene,
        running: Running,
        at: Reached,
        broker: Option<&KafkaBroker>,
    ) -> Cluster {
        let Running {
            mut cluster,
            proxies,
        } = running;
        let release = |cluster: &Cluster| cluster.application.release(self.short()).unwrap();
        let there = match at {
            Reached::Executor(pid) => pid,
            Reached::Driver => cluster.executors()[0],
        };
        match self.stroke {
            Stroke::ExecutorKilled => {
                scene.send();
                cluster.kill_executor(there).unwrap();
                cluster.add_executor().unwrap();
                release(&cluster);
                self.check_reruns(scene, &cluster, at);
            }
            Stroke::ExecutorsKilled => {
                scene.send();
                kill_executors(&cluster);
                add_executors(&cluster, 2);
                release(&cluster);
                self.check_reruns(scene, &cluster, at);
            }
            Stroke::ExecutorStopped => {
                let old = executor_id(&cluster, there).expect("it is connected");
                cluster.signal_executor(there, Signal::STOP).unwrap();
                wait_lost(&cluster);
                scene.send();
                self.check_reruns(scene, &cluster, at);
                release(&cluster);
                cluster.signal_executor(there, Signal::CONT).unwrap();
                wait_rejoined(&cluster, there, &old);
            }
            Stroke::ExecutorCutOff => {
                let old = executor_id(&cluster, there).expect("it is connected");
                let (_, proxy) = proxies.iter().find(|(pid, _)| *pid == there).unwrap();
                proxy.stall();
                release(&cluster);
                wait_lost(&cluster);
                scene.send();
                self.check_reruns(scene, &cluster, at);
                proxy.heal();
                wait_rejoined(&cluster, there, &old);
                // The rest goes without proxies, which end here.
                kill_executors(&cluster);
                add_executors(&cluster, 2);
            }
            Stroke::DriverKilled
            | Stroke::DriverKilledAndMore
            | Stroke::DriverKilledAndFewer
            | Stroke::EverythingKilled => {
                cluster.driver.process.kill().unwrap();
                scene.send();
                match self.stroke {
                    Stroke::DriverKilledAndMore => add_executors(&cluster, 1),
                    Stroke::DriverKilledAndFewer => cluster.kill_executor(there).unwrap(),
                    Stroke::EverythingKilled => {
                        kill_executors(&cluster);
                        add_executors(&cluster, 3);
                    }
                    _ => {}
                }
                release(&cluster);
                cluster.restart_driver().unwrap();
            }
            Stroke::DriverStopped => return self.take_over(scene, cluster),
            Stroke::BrokerKilled => {
                let broker = broker.expect("a broker of its own");
                broker.stop(Stop::Kill).unwrap();
                release(&cluster);
                broker.start_again().unwrap();
                scene.send();
            }
        }
        cluster
    }

    /// What was lost in mid-task must have run again.
    fn check_reruns(&self, scene: &Scene, cluster: &Cluster, at: Reached) {
        if let Reached::Executor(_) = at {
            scene.wait_taken(&cluster.driver);
            assert!(reruns(cluster) > 0, "nothing ran again");
        }
    }

    fn take_over(&self, scene: &Scene, first: Cluster) -> Cluster {
        first.driver.process.signal(Signal::STOP).unwrap();
        let application = first.application.clone();
        let second = Second::start(&application);
        scene.send();
        scene.wait_taken(&second.driver);
        application.release(self.short()).unwrap();
        first.driver.process.signal(Signal::CONT).unwrap();
        let status = first.driver.process.wait_exit(PATIENCE).unwrap();
        let tail = first.driver.process.output().tail();
        assert_eq!(status.code(), Some(3), "{tail}");
        wait_says(&first.driver.process, &["another driver took over"]);
        second.stop();
        drop(first);
        application.start(2).unwrap()
    }
}

fn kill_executors(cluster: &Cluster) {
    for executor in cluster.executors() {
        cluster.kill_executor(executor).unwrap();
    }
}

fn add_executors(cluster: &Cluster, executors: usize) {
    for _ in 0..executors {
        cluster.add_executor().unwrap();
    }
}

/// The application with two executors, each behind a proxy of its own where the network is to be cut.
struct Running {
    cluster: Cluster,
    proxies: Vec<(u32, TcpProxy)>,
}

impl Running {
    fn start(application: &Application, stroke: Stroke) -> Self {
        let running = if stroke == Stroke::ExecutorCutOff {
            let cluster = application.start(0).unwrap();
            let driver = cluster.driver.wait_ready().unwrap().driver.unwrap();
            let behind_proxy = |_| {
                let proxy = TcpProxy::start(driver.parse().unwrap()).unwrap();
                let address = proxy.address().to_string();
                (cluster.add_executor_for(&address).unwrap(), proxy)
            };
            let proxies = (0..2).map(behind_proxy).collect();
            Self { cluster, proxies }
        } else {
            Self {
                cluster: application.start(2).unwrap(),
                proxies: Vec::new(),
            }
        };
        wait_connected(&running.cluster, &running.cluster.executors());
        running
    }
}

fn all_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let tasks = IN_TASKS.iter().map(|point| (point, true));
    let driver = IN_DRIVER.iter().map(|point| (point, false));
    for ((query, point), in_task) in tasks.chain(driver) {
        for stroke in Stroke::ALL {
            // Which executor a waiting driver would see stopped is no matter; nor are more or fewer executors while one of them waits.
            let fits = match stroke {
                Stroke::ExecutorStopped | Stroke::ExecutorCutOff => in_task,
                Stroke::DriverKilledAndMore
                | Stroke::DriverKilledAndFewer
                | Stroke::EverythingKilled => !in_task,
                _ => true,
            };
            if fits {
                cases.push(Case {
                    query: *query,
                    point,
                    stroke,
                });
            }
        }
    }
    cases
}

/// Cases in which each fault meets each query and each point occurs.
fn sample(seed: u64) -> Vec<Case> {
    let mut left = all_cases();
    left.shuffle(&mut StdRng::seed_from_u64(seed));
    let mut strokes = BTreeSet::new();
    let mut points = BTreeSet::new();
    let mut chosen = Vec::new();
    loop {
        let gain = |case: &Case| {
            let stroke = !strokes.contains(&case.fault());
            let point = !points.contains(case.place());
            usize::from(stroke) + usize::from(point)
        };
        let gains: Vec<usize> = left.iter().map(gain).collect();
        let most = gains.iter().max().copied().unwrap_or(0);
        if most == 0 {
            return chosen;
        }
        let best = gains.iter().position(|gain| *gain == most).unwrap_or(0);
        let case = left.remove(best);
        strokes.insert(case.fault());
        points.insert(case.place());
        chosen.push(case);
    }
}

fn seed() -> u64 {
    static SEED: OnceLock<u64> = OnceLock::new();
    *SEED.get_or_init(|| match env::var("MILLSTREAM_MATRIX_SEED") {
        Ok(text) => text.parse().expect("a number"),
        Err(_) => rand::random(),
    })
}

/// Runs what was asked for of a query, all of it even if some fail.
fn run_cases(query: Query) {
    let wanted = env::var("MILLSTREAM_MATRIX").unwrap_or_default();
    let mut cases = match wanted.as_str() {
        "" => sample(seed()),
        "all" => all_cases(),
        name => {
            let mut cases = all_cases();
            cases.retain(|case| case.name().contains(name));
            cases
        }
    };
    cases.retain(|case| case.query == query);
    println!(
        "matrix: {} cases of {}, seed {}",
        cases.len(),
        query.name(),
        seed()
    );
    let mut failed = Vec::new();
    for case in &cases {
        let clock = Deadline::after(Duration::MAX);
        let outcome = catch_unwind(AssertUnwindSafe(|| case.run()));
        let word = if outcome.is_ok() {
            "survived"
        } else {
            "FAILED"
        };
        println!(
            "matrix: {word} in {:.1} s: {}",
            clock.elapsed().as_secs_f64(),
            case.name()
        );
        if outcome.is_err() {
            failed.push(case.name());
        }
    }
    assert!(
        failed.is_empty(),
        "{} of {} cases failed; repeat one with MILLSTREAM_MATRIX='{}': {failed:#?}",
        failed.len(),
        cases.len(),
        failed[0]
    );
}

#[test]
fn minutes_outlive_faults() {
    run_cases(Query::Windows);
}

#[test]
fn counts_outlive_faults() {
    run_cases(Query::Running);
}

#[test]
fn a_sample_has_each_fault_with_each_query_and_each_point() {
    let all = all_cases();
    for seed in 0..100 {
        let chosen = sample(seed);
        for case in &all {
            assert!(chosen.iter().any(|other| other.fault() == case.fault()));
            assert!(chosen.iter().any(|other| other.place() == case.place()));
        }
        assert!(chosen.len() <= 24, "{} cases", chosen.len());
    }
}
