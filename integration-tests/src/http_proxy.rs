//! A proxy that sees each HTTP request, and can answer it itself, lose it, or lose what is answered.
//!
//! Each request goes over a connection of its own, to the server and from the client, so that cutting one harms no other. It may touch
//! nothing but its sockets.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::net::sockopt::set_socket_linger;

use crate::Error;

/// Nothing that a test sends takes longer.
const IO_LIMIT: Duration = Duration::from_secs(60);
const MAX_HEAD: usize = 64 * 1024;

/// A request, without its content.
#[derive(Clone, Debug)]
pub struct Request {
    /// Such as `PUT`.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// The number of the request, from 0.
    pub number: u64,
    head: String,
}

impl Request {
    /// Whether it has a header, whose name is given in lower case.
    pub fn has_header(&self, name: &str) -> bool {
        self.head
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(':'))
            .any(|(header, _)| header.eq_ignore_ascii_case(name))
    }
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes to the server, and the answer to the client.
    Pass,
    /// The same, so much later.
    Delay(Duration),
    /// The server never sees it; the connection is reset.
    Cut,
    /// The server does it; the connection is reset before the answer.
    LoseAnswer,
    /// The proxy answers with this status and content.
    Answer(u16, String),
}

type Rule = Arc<dyn Fn(&Request) -> Fate + Send + Sync>;

struct Shared {
    upstream: SocketAddr,
    rule: Mutex<Rule>,
    seen: AtomicU64,
    closed: AtomicBool,
}

/// A proxy in front of one HTTP server. It begins by passing everything, and closes when it is dropped.
pub struct HttpProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for HttpProxy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("HttpProxy")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl HttpProxy {
    /// Starts a proxy on a free port of the loopback interface.
    pub fn start(upstream: SocketAddr) -> Result<Self, Error> {
        let listener =
            TcpListener::bind("127.0.0.1:0").map_err(Error::io("bind a port for an HTTP proxy"))?;
        let address = listener
            .local_addr()
            .map_err(Error::io("read the address of an HTTP proxy"))?;
        let shared = Arc::new(Shared {
            upstream,
            rule: Mutex::new(Arc::new(|_| Fate::Pass)),
            seen: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        });
        let serving = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("http-proxy".to_owned())
            .spawn(move || serve(&listener, &serving))
            .map_err(Error::io("start the thread of an HTTP proxy"))?;
        Ok(Self {
            address,
            shared,
            thread: Some(thread),
        })
    }

    /// The address to send requests to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What becomes of each request from now on.
    pub fn set(&self, rule: impl Fn(&Request) -> Fate + Send + Sync + 'static) {
        *self.shared.rule.lock() = Arc::new(rule);
    }

    /// How many requests came.
    pub fn seen(&self) -> u64 {
        self.shared.seen.load(Ordering::Acquire)
    }
}

impl Drop for HttpProxy {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Release);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(listener: &TcpListener, shared: &Arc<Shared>) {
    for client in listener.incoming() {
        if shared.closed.load(Ordering::Acquire) {
            return;
        }
        let Ok(client) = client else { continue };
        let shared = Arc::clone(shared);
        let connection = move || {
            // An error is of one connection, whose client sees it too.
            let _ = serve_one(client, &shared);
        };
        let _ = thread::Builder::new()
            .name("http-proxy-connection".to_owned())
            .spawn(connection);
    }
}

fn serve_one(mut client: TcpStream, shared: &Shared) -> io::Result<()> {
    client.set_read_timeout(Some(IO_LIMIT))?;
    client.set_write_timeout(Some(IO_LIMIT))?;
    let (head, mut body) = read_head(&mut client)?;
    let length = content_length(&head);
    let mut rest = vec![0; length.saturating_sub(body.len())];
    client.read_exact(&mut rest)?;
    body.append(&mut rest);
    let mut words = head.split(' ');
    let request = Request {
        method: words.next().unwrap_or_default().to_owned(),
        target: words.next().unwrap_or_default().to_owned(),
        number: shared.seen.fetch_add(1, Ordering::AcqRel),
        head: head.clone(),
    };
    let rule = Arc::clone(&shared.rule.lock());
    match rule(&request) {
        Fate::Pass => pass(&mut client, shared, &head, &body),
        Fate::Delay(delay) => {
            pause(delay);
            pass(&mut client, shared, &head, &body)
        }
        Fate::Cut => {
            reset(&client);
            Ok(())
        }
        Fate::LoseAnswer => {
            ask(shared.upstream, &head, &body)?;
            reset(&client);
            Ok(())
        }
        Fate::Answer(status, content) => {
            let answer = format!(
                "HTTP/1.1 {status} Of-The-Proxy\r\nContent-Length: {}\r\nContent-Type: application/xml\r\n\
                 ETag: \"0\"\r\nConnection: close\r\n\r\n{content}",
                content.len()
            );
            client.write_all(answer.as_bytes())
        }
    }
}

fn pass(client: &mut TcpStream, shared: &Shared, head: &str, body: &[u8]) -> io::Result<()> {
    let answer = ask(shared.upstream, head, body)?;
    client.write_all(&answer)?;
    client.shutdown(Shutdown::Write)
}

/// Sends a request over a connection of its own and reads the whole answer.
fn ask(upstream: SocketAddr, head: &str, body: &[u8]) -> io::Result<Vec<u8>> {
    let mut server = TcpStream::connect(upstream)?;
    server.set_read_timeout(Some(IO_LIMIT))?;
    server.set_write_timeout(Some(IO_LIMIT))?;
    server.write_all(closing(head).as_bytes())?;
    server.write_all(body)?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    let end = find(&answer, b"\r\n\r\n").unwrap_or(answer.len());
    let answer_head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let mut out = closing(&format!("{answer_head}\r\n\r\n")).into_bytes();
    out.extend_from_slice(answer.get(end + 4..).unwrap_or_default());
    Ok(out)
}

/// The same head with a connection that ends after it.
fn closing(head: &str) -> String {
    let mut lines: Vec<&str> = head.trim_end_matches("\r\n").split("\r\n").collect();
    lines.retain(|line| !line.to_ascii_lowercase().starts_with("connection:"));
    format!("{}\r\nConnection: close\r\n\r\n", lines.join("\r\n"))
}

/// The head with its empty line, and what came of the content with it.
fn read_head(client: &mut TcpStream) -> io::Result<(String, Vec<u8>)> {
    let mut read = Vec::new();
    let mut piece = [0; 4096];
    loop {
        if let Some(end) = find(&read, b"\r\n\r\n") {
            let body = read.split_off(end + 4);
            let head = String::from_utf8(read).map_err(|_| io::ErrorKind::InvalidData)?;
            return Ok((head, body));
        }
        let length = client.read(&mut piece)?;
        if length == 0 || read.len() > MAX_HEAD {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        read.extend_from_slice(&piece[..length]);
    }
}

fn content_length(head: &str) -> usize {
    head.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok())
        .unwrap_or(0)
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes
        .windows(wanted.len())
        .position(|window| window == wanted)
}

/// Makes the socket's end a reset, as that of a lost connection is.
fn reset(client: &TcpStream) {
    let _ = set_socket_linger(client, Some(Duration::ZERO));
}

#[expect(
    clippy::disallowed_methods,
    reason = "slowness is the fault that is asked for"
)]
fn pause(delay: Duration) {
    thread::sleep(delay);
}
