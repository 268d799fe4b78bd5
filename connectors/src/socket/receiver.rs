//! The connection: reads into the buffer, and connects again when it ends.

use std::{io, os::fd::AsFd, sync::Arc, time::Duration};

use millstream_common::{failure::Failure, time::Clock};
use parking_lot::Mutex;
use rustix::net::sockopt;
use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    sync::{Notify, watch},
};

use super::{Settings, buffer::LineBuffer};

/// Bytes read at once.
const READ: usize = 64 << 10;

/// A connection on which nothing comes for so long is asked whether its other end is still there...
const QUIET: Duration = Duration::from_secs(30);
/// ... so often, without an answer, before it counts as gone...
const PROBES: u32 = 3;
/// ... and in such intervals. A machine that lost its power says no goodbye.
const PROBE_EVERY: Duration = Duration::from_secs(10);

/// What receiver and driver half share.
pub(super) struct Shared {
    pub buffer: Mutex<Received>,
    /// The buffer was emptied, at least in part.
    pub drained: Notify,
}

/// What was received.
pub(super) struct Received {
    pub lines: LineBuffer,
    /// Bytes of lines that batches have which are not over.
    pub planned: u64,
    /// Why nothing more is received.
    pub failure: Option<Failure>,
}

/// Receives until it is told to stop or a line is malformed and the policy is to fail.
pub(super) struct Receiver {
    pub settings: Arc<Settings>,
    pub clock: Arc<dyn Clock>,
    pub shared: Arc<Shared>,
    /// Whether to stop.
    pub stop: watch::Receiver<bool>,
}

impl Received {
    /// Whether no more may be received for now.
    pub(super) fn is_full(&self) -> bool {
        self.lines.is_full(self.planned)
    }
}

impl Receiver {
    pub(super) async fn run(mut self) {
        let mut stop = self.stop.clone();
        tokio::select! {
            biased;
            // An error means that the driver half is gone.
            _ = stop.wait_for(|stop| *stop) => {}
            failure = self.receive() => {
                self.shared.buffer.lock().failure = Some(failure);
            }
        }
    }

    /// Connects again and again. One log line says that an episode without connection began, another that lines come again.
    async fn receive(&mut self) -> Failure {
        let mut out_of_reach = false;
        loop {
            let outcome = match self.connect().await {
                Ok(stream) => {
                    if !out_of_reach {
                        tracing::info!(address = %self.settings.address, "connected");
                    }
                    self.read(stream, &mut out_of_reach).await
                }
                Err(error) => Ok(error),
            };
            let error = match outcome {
                Ok(error) => error,
                Err(failure) => return failure,
            };
            if !std::mem::replace(&mut out_of_reach, true) {
                let restart_delay = self.settings.restart_delay;
                tracing::warn!(address = %self.settings.address, %error, ?restart_delay, "no connection; trying again and again");
            }
            let due = self.clock.now().after(self.settings.restart_delay);
            self.clock.until(due).await;
        }
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        let deadline = self.clock.now().after(self.settings.connect_timeout);
        tokio::select! {
            biased;
            connected = TcpStream::connect(&self.settings.address) => {
                let stream = connected?;
                watch_over(&stream)?;
                Ok(stream)
            }
            () = self.clock.until(deadline) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Reads until the connection ends, and says why it did.
    async fn read(
        &self,
        mut stream: TcpStream,
        out_of_reach: &mut bool,
    ) -> Result<io::Error, Failure> {
        let mut bytes = vec![0; READ];
        let ended = loop {
            self.wait_for_room().await;
            let count = match stream.read(&mut bytes).await {
                Ok(0) => break io::Error::from(io::ErrorKind::UnexpectedEof),
                Ok(count) => count,
                Err(error) => break error,
            };
            if std::mem::replace(out_of_reach, false) {
                tracing::info!(address = %self.settings.address, "connected again");
            }
            let received = bytes.get(..count).unwrap_or_default();
            let now = self.clock.now();
            self.shared.buffer.lock().lines.receive(received, now)?;
        };
        let now = self.clock.now();
        self.shared.buffer.lock().lines.end_connection(now)?;
        Ok(ended)
    }

    async fn wait_for_room(&self) {
        loop {
            let drained = self.shared.drained.notified();
            if !self.shared.buffer.lock().is_full() {
                return;
            }
            drained.await;
        }
    }
}

/// Lets the system find out when the other end is gone.
fn watch_over(stream: &TcpStream) -> io::Result<()> {
    let socket = stream.as_fd();
    sockopt::set_tcp_keepidle(socket, QUIET)?;
    sockopt::set_tcp_keepintvl(socket, PROBE_EVERY)?;
    sockopt::set_tcp_keepcnt(socket, PROBES)?;
    sockopt::set_socket_keepalive(socket, true)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_connection_is_watched_over() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let settings = Arc::new(Settings::new(address));
        let received = Received {
            lines: LineBuffer::new(&settings),
            planned: 0,
            failure: None,
        };
        let receiver = Receiver {
            settings,
            clock: Arc::new(millstream_common::time::SystemClock::new()),
            shared: Arc::new(Shared {
                buffer: Mutex::new(received),
                drained: Notify::new(),
            }),
            stop: watch::channel(false).1,
        };
        let stream = receiver.connect().await.unwrap();
        assert!(sockopt::socket_keepalive(&stream).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&stream).unwrap(), QUIET);
        assert_eq!(sockopt::tcp_keepintvl(&stream).unwrap(), PROBE_EVERY);
        assert_eq!(sockopt::tcp_keepcnt(&stream).unwrap(), PROBES);
    }
}
