//! Plain text and random bytes on the gRPC ports: driver and executors live on.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use crate::word_job::{WordJob, metric, wait_executors};

/// Says something that isn't gRPC, and waits until the other side has ended the connection or has said all it wants.
fn babble(address: &str, bytes: &[u8]) {
    let mut connection = TcpStream::connect(address).unwrap();
    connection
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    // The other side may hang up in the middle.
    let _ = connection.write_all(bytes);
    let _ = connection.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    let _ = connection.take(1 << 20).read_to_end(&mut answer);
}

#[test]
fn what_is_no_grpc_harms_neither_driver_nor_executors() {
    let job = WordJob::new("babble");
    job.send(40);
    let cluster = job.application().start(1).unwrap();
    let executors = wait_executors(&cluster, 1);
    let executor = executors[0]["block_address"].as_str().unwrap().to_owned();
    let executor = executor.trim_start_matches("http://");
    let driver = cluster.driver.wait_ready().unwrap().driver.unwrap();

    let random: Vec<u8> = (0..64 * 1024).map(|_| rand::random()).collect();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice();
    // After the preface, a frame that says it is 16 MiB long.
    let huge = [preface, &[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]].concat();
    let mixed = [preface, &random].concat();
    for address in [driver.as_str(), executor] {
        for bytes in [
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".as_slice(),
            b"hello\n",
            &random,
            &huge,
            &mixed,
        ] {
            babble(address, bytes);
        }
    }
    // One that says nothing stays open meanwhile.
    let silent = [&driver, executor].map(|address| TcpStream::connect(address).unwrap());

    // Both ports take new connections: of an executor that comes, and of one that fetches the other's blocks.
    cluster.add_executor().unwrap();
    wait_executors(&cluster, 2);
    job.send(40);
    job.wait_counted();
    let page = cluster.driver.http("/metrics").unwrap();
    assert_eq!(
        metric(&page, "millstream_driver_executors_lost_total", ""),
        0.0
    );
    assert_eq!(
        metric(&page, "millstream_driver_task_retries_total", ""),
        0.0
    );
    drop(silent);
    job.finish(cluster);
}
