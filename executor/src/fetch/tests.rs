use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener as StdListener, TcpStream},
    time::{Duration, Instant},
};

use bytes::Bytes;
use millstream_common::{
    config::Address,
    failure::{Failure, FailureKind},
    ids::ExecutorId,
    protocol::BlockLocation,
};
use millstream_dataflow::program::{BlockFrames, CancelToken};
use millstream_proto::{auth::Secret, peers::Peers, tls::Tls};
use tokio::runtime::Runtime;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Fetcher;
use crate::{
    options::Tuning,
    server,
    testing::{DEADLINE, Shelf, block, frame, tuning},
};

struct Server {
    shelf: Shelf,
    address: String,
    _stop: DropGuard,
}

fn secret() -> Secret {
    Secret::new("open-sesame").expect("secret")
}

fn serve(io: &Runtime, block_limit: u64) -> Server {
    let shelf = Shelf::new(block_limit);
    let stop = CancellationToken::new();
    let loopback = Address::loopback(0);
    let listen = server::listen(&loopback, "executor.listen");
    let (listener, bound) = io.block_on(listen).expect("listens");
    let store = std::sync::Arc::clone(&shelf.store);
    io.spawn(server::serve_blocks(
        listener,
        store,
        Some(secret()),
        Tls::default(),
        stop.clone(),
    ));
    Server {
        shelf,
        address: bound.to_string(),
        _stop: stop.drop_guard(),
    }
}

fn fetcher(io: &Runtime, shelf: &Shelf, tuning: Tuning) -> Fetcher {
    let peers = Peers::new(Some(&secret()), Tls::default(), DEADLINE);
    shelf.fetcher(Some(peers), tuning, io.handle().clone())
}

fn read(fetcher: &Fetcher, locations: Vec<BlockLocation>) -> Result<Vec<(usize, Bytes)>, Failure> {
    let mut reader = fetcher.fetch(locations, CancelToken::new());
    let mut frames = Vec::new();
    while let Some(frame) = reader.next()? {
        frames.push(frame);
    }
    Ok(frames)
}

fn failed_block(failure: &Failure) -> Option<(u32, ExecutorId)> {
    match &failure.kind {
        FailureKind::FetchFailed { block, executor } => Some((block.partition, *executor)),
        _ => None,
    }
}

#[test]
fn blocks_of_several_executors_come_in_the_order_asked_whatever_the_bounds() {
    let io = Runtime::new().expect("runtime");
    let own = Shelf::new(1 << 20);
    // The second keeps nearly everything on disk.
    let servers = [serve(&io, 1 << 20), serve(&io, 100)];
    for in_flight in [1, 300, 1 << 20] {
        let mut locations = Vec::new();
        let mut expected = Vec::new();
        for number in 0..40u32 {
            let frames: Vec<Bytes> = (0..number % 4)
                .map(|part| frame(format!("{number}/{part}").as_bytes()))
                .collect();
            let id = block(number, in_flight);
            let location = match number % 3 {
                0 => own.put(id, &frames, "nowhere:1"),
                server => {
                    let server = &servers[server as usize - 1];
                    server.shelf.put(id, &frames, &server.address)
                }
            };
            expected.extend(frames.into_iter().map(|frame| (locations.len(), frame)));
            locations.push(location);
        }
        let tuning = Tuning {
            fetch_in_flight: u64::from(in_flight),
            ..tuning()
        };
        let fetcher = fetcher(&io, &own, tuning);
        let frames = read(&fetcher, locations).expect("fetches");
        assert_eq!(frames, expected);
    }
    assert_eq!(
        own.budget.used(),
        own.budget.block_bytes(),
        "nothing is left in flight"
    );
}

#[test]
fn a_missing_block_names_block_and_executor() {
    let io = Runtime::new().expect("runtime");
    let own = Shelf::new(1 << 20);
    let server = serve(&io, 1 << 20);
    let there = server
        .shelf
        .put(block(0, 0), &[frame(b"a")], &server.address);
    let absent = BlockLocation {
        partition: 9,
        ..there.clone()
    };
    let fetcher = fetcher(&io, &own, tuning());
    let mut reader = fetcher.fetch(vec![there.clone(), absent.clone()], CancelToken::new());
    assert!(reader.next().expect("first").is_some());
    let failure = reader.next().expect_err("missing");
    assert_eq!(failed_block(&failure), Some((9, server.shelf.executor)));
    let own_absent = BlockLocation {
        executor: own.executor,
        ..absent
    };
    let failure = read(&fetcher, vec![own_absent]).expect_err("missing");
    assert_eq!(failed_block(&failure), Some((9, own.executor)));
}

#[test]
fn a_block_that_is_not_what_its_writer_reported_is_a_fetch_failure() {
    let io = Runtime::new().expect("runtime");
    let own = Shelf::new(1 << 20);
    let server = serve(&io, 1 << 20);
    let there = server
        .shelf
        .put(block(0, 0), &[frame(b"a"), frame(b"b")], &server.address);
    let here = own.put(block(0, 0), &[frame(b"a")], "");
    let fetcher = fetcher(&io, &own, tuning());
    for location in [there, here] {
        for bytes in [location.meta.bytes - 1, location.meta.bytes + 1] {
            let mut wrong = location.clone();
            wrong.meta.bytes = bytes;
            let failure = read(&fetcher, vec![wrong]).expect_err("refused");
            assert_eq!(
                failed_block(&failure),
                Some((0, location.executor)),
                "{failure}"
            );
        }
    }
}

#[test]
fn a_corrupt_frame_is_a_fetch_failure_never_data() {
    let io = Runtime::new().expect("runtime");
    let own = Shelf::new(1 << 20);
    let in_memory = serve(&io, 1 << 20);
    let mut bytes = frame(b"some rows").to_vec();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let corrupt = in_memory
        .shelf
        .put(block(0, 3), &[Bytes::from(bytes)], &in_memory.address);
    let on_disk = serve(&io, 10);
    let altered = on_disk
        .shelf
        .put(block(0, 4), &[frame(b"some rows")], &on_disk.address);
    let file = on_disk.shelf.spill_files().pop().expect("spilled");
    let mut content = std::fs::read(&file).expect("read");
    content[30] ^= 1;
    std::fs::write(&file, content).expect("write");
    let tuning = Tuning {
        fetch_retries: 1,
        ..tuning()
    };
    let fetcher = fetcher(&io, &own, tuning);
    let failure = read(&fetcher, vec![corrupt]).expect_err("corrupt");
    assert_eq!(failed_block(&failure), Some((3, in_memory.shelf.executor)));
    let failure = read(&fetcher, vec![altered]).expect_err("corrupt");
    assert_eq!(failed_block(&failure), Some((4, on_disk.shelf.executor)));
    assert!(failure.message.contains("differ"), "{failure}");
}

fn remote_at(address: SocketAddr) -> BlockLocation {
    let shelf = Shelf::new(1 << 20);
    shelf.put(block(0, 5), &[frame(b"a")], &address.to_string())
}

#[test]
fn a_dead_or_silent_peer_is_a_fetch_failure_within_the_timeout() {
    let io = Runtime::new().expect("runtime");
    let own = Shelf::new(1 << 20);
    let silent = StdListener::bind("127.0.0.1:0").expect("binds");
    let dead = {
        let listener = StdListener::bind("127.0.0.1:0").expect("binds");
        listener.local_addr().expect("address")
    };
    let tuning = Tuning {
        fetch_timeout: Duration::from_millis(400),
        ..tuning()
    };
    let fetcher = fetcher(&io, &own, tuning);
    for address in [dead, silent.local_addr().expect("address")] {
        let location = remote_at(address);
        #[expect(clippy::disallowed_methods, reason = "the test measures real time")]
        let start = Instant::now();
        let failure = read(&fetcher, vec![location.clone()]).expect_err("nobody answers");
        assert_eq!(failed_block(&failure), Some((5, location.executor)));
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "{:?}",
            start.elapsed()
        );
    }
}

#[test]
fn a_waiting_reader_heeds_its_token() {
    let io = Runtime::new().expect("runtime");
    let own = Shelf::new(1 << 20);
    let silent = StdListener::bind("127.0.0.1:0").expect("binds");
    let fetcher = fetcher(&io, &own, tuning());
    let cancel = CancelToken::new();
    let location = remote_at(silent.local_addr().expect("address"));
    let mut reader = fetcher.fetch(vec![location], cancel.clone());
    let (accepted, _) = silent.accept().expect("the reader dials");
    cancel.cancel();
    let failure = reader.next().expect_err("cancelled");
    assert_eq!(failure.kind, FailureKind::Cancelled);
    drop(reader);
    assert_eq!(own.budget.used(), 0);
    drop(accepted);
}

#[test]
fn a_peer_without_the_secret_gets_nothing() {
    let io = Runtime::new().expect("runtime");
    let own = Shelf::new(1 << 20);
    let server = serve(&io, 1 << 20);
    let there = server
        .shelf
        .put(block(0, 0), &[frame(b"a")], &server.address);
    let wrong = Secret::new("open-barley").expect("secret");
    let peers = Peers::new(Some(&wrong), Tls::default(), DEADLINE);
    let fetcher = own.fetcher(Some(peers), tuning(), io.handle().clone());
    let failure = read(&fetcher, vec![there]).expect_err("refused");
    assert!(failure.message.contains("secret"), "{failure}");
}

#[test]
fn without_peers_a_remote_block_is_a_fetch_failure() {
    let io = Runtime::new().expect("runtime");
    let own = Shelf::new(1 << 20);
    let location = remote_at(([127, 0, 0, 1], 1).into());
    let fetcher = own.fetcher(None, tuning(), io.handle().clone());
    let failure = read(&fetcher, vec![location.clone()]).expect_err("refused");
    assert_eq!(failed_block(&failure), Some((5, location.executor)));
}

#[test]
fn random_bytes_on_the_port_do_no_harm() {
    let io = Runtime::new().expect("runtime");
    let own = Shelf::new(1 << 20);
    let server = serve(&io, 1 << 20);
    let there = server
        .shelf
        .put(block(0, 0), &[frame(b"a")], &server.address);
    for seed in 0..20u32 {
        let mut stream = TcpStream::connect(&server.address).expect("connects");
        let mut noise: Vec<u8> = (0..5_000u32)
            .map(|index| (index.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 13) as u8)
            .collect();
        if seed % 2 == 0 {
            noise.splice(..0, *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        }
        // The server may hang up in the middle; that is its right.
        let _ = stream.write_all(&noise);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        stream.set_read_timeout(Some(DEADLINE)).expect("timeout");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
    }
    let frames = read(&fetcher(&io, &own, tuning()), vec![there]).expect("still serves");
    assert_eq!(frames, [(0, frame(b"a"))]);
}
