//! Both halves, with real connections.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use millstream_common::{
    failure::{Failure, FailureKind},
    ids::{BatchId, QueryId},
    text::Text,
    time::{BatchTime, Clock, SystemClock},
};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::{
    conformance::{Attempt, SourceUnderTest, check_source, read_split},
    source::{PlanRequest, PlannedInput, SourceDriver, SplitSource},
};

const DEADLINE: Duration = Duration::from_secs(20);

struct Server {
    listener: TcpListener,
    connection: Option<TcpStream>,
    settings: Settings,
}

impl Server {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut settings = Settings::new(listener.local_addr().unwrap().to_string());
        settings.restart_delay = Duration::from_millis(5);
        Self {
            listener,
            connection: None,
            settings,
        }
    }

    fn receiver(&self) -> SocketDriver {
        let clock = Arc::new(SystemClock::new());
        SocketDriver::new(Arc::new(self.settings.clone()), clock)
    }

    async fn accept(&mut self) {
        let accepted = tokio::time::timeout(DEADLINE, self.listener.accept()).await;
        self.connection = Some(accepted.unwrap().unwrap().0);
    }

    async fn send(&mut self, bytes: &[u8]) {
        let connection = self.connection.as_mut().unwrap();
        connection.write_all(bytes).await.unwrap();
    }
}

/// A moment between two looks.
async fn moment() {
    let clock = SystemClock::new();
    clock
        .until(clock.now().after(Duration::from_millis(2)))
        .await;
}

#[async_trait]
impl SourceUnderTest for Server {
    type Row = Text;
    const LOSES_UNLOGGED: bool = true;

    async fn driver(&mut self) -> Box<dyn SourceDriver> {
        self.connection = None;
        Box::new(self.receiver())
    }

    fn executor(&self) -> Box<dyn SplitSource<Vec<Text>>> {
        Box::new(SocketSplits)
    }

    async fn produce(&mut self, round: u64) -> Vec<Text> {
        if self.connection.is_none() {
            self.accept().await;
        }
        // One line: it arrives whole or not at all.
        let line = format!("round {round}");
        self.send(format!("{line}\n").as_bytes()).await;
        vec![Text::from(line)]
    }

    async fn wait(&mut self) {
        moment().await;
    }
}

#[tokio::test]
async fn conforms() {
    check_source(&mut Server::new().await).await.unwrap();
}

async fn plan(driver: &mut SocketDriver, max_rows: Option<u64>) -> Result<PlannedInput, Failure> {
    plan_batch(driver, 0, max_rows).await
}

async fn plan_batch(
    driver: &mut SocketDriver,
    batch: u64,
    max_rows: Option<u64>,
) -> Result<PlannedInput, Failure> {
    let request = PlanRequest {
        batch: BatchId(batch),
        batch_time: BatchTime(0),
        max_rows,
        interval_millis: 1_000,
    };
    driver.plan(request).await
}

fn rows_of(planned: &PlannedInput) -> Vec<Text> {
    let attempt = Attempt::first(QueryId::random(), 0, 0);
    let mut rows = Vec::new();
    for split in &planned.splits {
        let mut more = read_split(&SocketSplits, &split.split, &attempt).unwrap();
        assert_eq!(split.rows, Some(more.len() as u64));
        rows.append(&mut more);
    }
    rows
}

/// Waits until so many rows were received.
async fn received(driver: &SocketDriver, rows: u64) {
    let arrived = async {
        while driver.waiting_rows() < rows {
            moment().await;
        }
    };
    let in_time = tokio::time::timeout(DEADLINE, arrived).await;
    assert!(in_time.is_ok(), "{} of {rows} rows", driver.waiting_rows());
}

#[tokio::test]
async fn lines_come_again_after_the_connection_ended() {
    let mut server = Server::new().await;
    let mut driver = server.receiver();
    driver.start().await.unwrap();
    for round in 0..3 {
        server.accept().await;
        server
            .send(format!("{round} one\n{round} two").as_bytes())
            .await;
        server.connection = None;
    }
    received(&driver, 6).await;
    let planned = plan(&mut driver, None).await.unwrap();
    let expected = ["0 one", "0 two", "1 one", "1 two", "2 one", "2 two"];
    assert_eq!(rows_of(&planned), expected);
    assert_eq!(planned.position, serde_json::json!({ "rows": 6 }));
    driver.stop().await;
}

#[tokio::test]
async fn a_server_that_comes_late_is_found() {
    let server = Server::new().await;
    let settings = server.settings.clone();
    drop(server);
    let clock = Arc::new(SystemClock::new());
    let mut driver = SocketDriver::new(Arc::new(settings.clone()), clock);
    driver.start().await.unwrap();
    moment().await;
    let listener = TcpListener::bind(&settings.address).await.unwrap();
    let mut server = Server {
        listener,
        connection: None,
        settings,
    };
    server.accept().await;
    server.send(b"hello\n").await;
    received(&driver, 1).await;
}

#[tokio::test]
async fn a_full_buffer_slows_the_sender_down_and_loses_nothing() {
    let mut server = Server::new().await;
    server.settings.max_buffered = 100_000;
    server.settings.max_batch_bytes = 30_000;
    let mut driver = server.receiver();
    driver.start().await.unwrap();
    server.accept().await;
    let total = 400_000u64;
    let mut connection = server.connection.take().unwrap();
    let sender = tokio::spawn(async move {
        for thousand in 0..total / 1_000 {
            let mut text = String::new();
            for line in 0..1_000 {
                text.push_str(&format!("{:020}\n", thousand * 1_000 + line));
            }
            connection.write_all(text.as_bytes()).await.unwrap();
        }
        connection
    });
    let mut next = 0;
    let all = async {
        while next < total {
            assert!(driver.waiting_rows() * 21 <= 100_000 + (64 << 10));
            let planned = plan(&mut driver, Some(1_200)).await.unwrap();
            driver.committed(BatchId(0), &planned).await.unwrap();
            let rows = rows_of(&planned);
            assert!(rows.len() <= 1_200);
            for row in &rows {
                assert_eq!(*row, format!("{next:020}"));
                next += 1;
            }
            tokio::task::yield_now().await;
            if rows.is_empty() {
                moment().await;
            }
        }
    };
    tokio::time::timeout(DEADLINE, all).await.unwrap();
    sender.await.unwrap();
}

#[tokio::test]
async fn lines_of_batches_that_wait_count_as_held() {
    let mut server = Server::new().await;
    server.settings.max_buffered = 100_000;
    let mut driver = server.receiver();
    driver.start().await.unwrap();
    server.accept().await;
    let mut connection = server.connection.take().unwrap();
    let sender = tokio::spawn(async move {
        let line = format!("{:0999}\n", 0).repeat(100);
        // Until the driver hangs up.
        while connection.write_all(line.as_bytes()).await.is_ok() {}
    });
    let mut waiting: Vec<PlannedInput> = Vec::new();
    let planned = async {
        // Whatever is planned while none of it is committed, no more than the bound comes.
        while waiting
            .iter()
            .map(|input| rows_of(input).len())
            .sum::<usize>()
            < 100
        {
            let batch = waiting.len() as u64;
            waiting.push(plan_batch(&mut driver, batch, Some(30)).await.unwrap());
            moment().await;
        }
    };
    tokio::time::timeout(DEADLINE, planned).await.unwrap();
    for _ in 0..50 {
        let batch = waiting.len() as u64;
        waiting.push(plan_batch(&mut driver, batch, None).await.unwrap());
        moment().await;
    }
    let rows: usize = waiting.iter().map(|input| rows_of(input).len()).sum();
    // One read may go past the bound.
    assert!(rows <= 100 + 66, "{rows} rows");
    for (batch, input) in waiting.iter().enumerate() {
        driver
            .committed(BatchId(batch as u64), input)
            .await
            .unwrap();
    }
    received(&driver, 60).await;
    driver.stop().await;
    drop(driver);
    sender.await.unwrap();
}

#[tokio::test]
async fn a_malformed_line_fails_the_plan_after_what_came_before_it() {
    let mut server = Server::new().await;
    let mut driver = server.receiver();
    driver.start().await.unwrap();
    server.accept().await;
    server.send(b"fine\nb\xffd\n").await;
    received(&driver, 1).await;
    assert_eq!(rows_of(&plan(&mut driver, None).await.unwrap()), ["fine"]);
    let failed = async {
        loop {
            match plan(&mut driver, None).await {
                Ok(_) => moment().await,
                Err(failure) => return failure,
            }
        }
    };
    let failure = tokio::time::timeout(DEADLINE, failed).await.unwrap();
    assert_eq!(failure.kind, FailureKind::BadInput);
    assert!(failure.message.contains("line 2"), "{failure}");
}
