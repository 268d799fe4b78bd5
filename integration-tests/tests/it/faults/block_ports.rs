//! Executors that can't reach each other while both reach the driver. Each advertises a proxy in front of its block port.

use std::{
    net::{Ipv4Addr, SocketAddr},
    process,
    sync::atomic::{AtomicU16, Ordering},
};

use millstream_integration_tests::{
    cluster::{Cluster, PATIENCE},
    proxy::TcpProxy,
    wait::wait_until,
};

use super::scene::{Output, Scene, counter, executor_at, lost_executors, wait_connected};

const SERVING: &str = "executor.fetch.serving";

/// An address that nothing else on this machine listens on: of the loopback network, by this process's id.
fn own_address() -> SocketAddr {
    static PORTS: AtomicU16 = AtomicU16::new(7_100);
    let [_, high, middle, low] = process::id().to_be_bytes();
    let port = PORTS.fetch_add(1, Ordering::Relaxed);
    SocketAddr::from((Ipv4Addr::new(127, 64 + high % 64, middle, low), port))
}

/// A driver with two executors that fetch from each other through proxies; the first to be asked for a block waits.
fn proxied(scene: &Scene, output: &Output) -> (Cluster, Vec<(u32, TcpProxy)>) {
    let application = scene
        .application("wordcount", output)
        // Only the blocks' way is at stake, however slow the machine is.
        .conf("executor.timeout", "120s")
        .conf("shuffle.fetch_timeout", "120s")
        .conf("stage.max_attempts", 1_000)
        .conf("task.max_failures", 1_000)
        .failpoint(&format!("{SERVING}=pause"));
    let cluster = application.start(0).unwrap();
    let executors: Vec<_> = (0..2)
        .map(|_| {
            let listen = own_address();
            let proxy = TcpProxy::start(listen).unwrap();
            let configuration = [
                ("executor.listen", listen.to_string()),
                ("executor.advertise", proxy.address().to_string()),
            ];
            (cluster.add_executor_with(&configuration).unwrap(), proxy)
        })
        .collect();
    wait_connected(&cluster, &cluster.executors());
    (cluster, executors)
}

/// The proxy of the executor that is asked for a block.
fn proxy_of_server<'p>(cluster: &Cluster, executors: &'p [(u32, TcpProxy)]) -> &'p TcpProxy {
    let server = executor_at(cluster, SERVING);
    let found = executors.iter().find(|(pid, _)| *pid == server);
    &found.expect("one of the two").1
}

#[test]
fn block_port_cut_off_makes_its_blocks_again() {
    let scene = Scene::new("blocks-cut-off");
    let output = scene.files();
    let (cluster, executors) = proxied(&scene, &output);
    scene.send(2_000);

    let proxy = proxy_of_server(&cluster, &executors);
    proxy.cut();
    cluster.application.release(SERVING).unwrap();
    wait_until(PATIENCE, "map tasks to run again", || {
        counter(&cluster, "millstream_driver_stage_reruns_total") > 0
    })
    .unwrap();
    proxy.heal();

    scene.send(200);
    scene.wait_whole(&cluster, &output, 1);
    assert_eq!(lost_executors(&cluster), 0);
    scene.finish(cluster, &output, 1);
}

#[test]
fn block_port_reset_is_dialled_again() {
    let scene = Scene::new("blocks-reset");
    let output = scene.files();
    let (cluster, executors) = proxied(&scene, &output);
    scene.send(2_000);

    let proxy = proxy_of_server(&cluster, &executors);
    let before = proxy.accepted();
    assert!(before > 0, "the block is asked for through the proxy");
    proxy.cut();
    proxy.heal();
    cluster.application.release(SERVING).unwrap();
    wait_until(PATIENCE, "the reader to dial again", || {
        proxy.accepted() > before
    })
    .unwrap();

    scene.send(200);
    scene.wait_whole(&cluster, &output, 1);
    let maps_again = counter(&cluster, "millstream_driver_stage_reruns_total");
    assert_eq!(maps_again, 0, "blocks that were there were made again");
    assert_eq!(lost_executors(&cluster), 0);
    scene.finish(cluster, &output, 1);
}
