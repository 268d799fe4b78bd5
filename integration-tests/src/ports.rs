//! Ports for servers that are started later, or again.

use std::net::{Ipv4Addr, TcpListener};

use rand::Rng;

use crate::Error;

/// Below the range that the system gives to outgoing connections, so that none takes the port of a server that isn't up.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// How often a server is started anew when it ends at once.
const ATTEMPTS: u32 = 3;

/// Starts a server on ports that are [`free`], and again on others when it ends at once: another process may have taken one between the choice and the
/// start.
///
/// # Errors
/// What the last start said.
pub(crate) fn start_on_free<T>(start: impl Fn() -> Result<T, Error>) -> Result<T, Error> {
    let mut attempt = 1;
    loop {
        match start() {
            Err(Error::Ended { .. }) if attempt < ATTEMPTS => attempt += 1,
            result => return result,
        }
    }
}

/// Different ports of the loopback interface on which nothing listens.
///
/// # Errors
/// When so many tries found too few.
pub fn free<const N: usize>() -> Result<[u16; N], Error> {
    let mut random = rand::rng();
    let mut ports = [0; N];
    // Held sockets keep a port from being chosen twice.
    let mut held = Vec::with_capacity(N);
    for _ in 0..1_000 {
        if held.len() == N {
            return Ok(ports);
        }
        let port = random.random_range(PORTS);
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            ports[held.len()] = port;
            held.push(listener);
        }
    }
    Err(Error::Misuse(format!(
        "no {N} free ports between {} and {}",
        PORTS.start, PORTS.end
    )))
}
