//! One connection, plain or TLS.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::TlsStream;
use tonic::transport::server::Connected;

use super::{
    stay::{Guest, Stay},
    trouble::{Foreign, Trouble},
};

/// The first byte of a TLS handshake, and of the alert with which a TLS server answers plain text.
pub(super) const HANDSHAKE_RECORD: u8 = 0x16;
const ALERT_RECORD: u8 = 0x15;
/// What a server of HTTP/2 says first is a short frame, whose length begins with this.
const HTTP2_SETTINGS: u8 = 0;

/// Where a line leaves word of what is wrong with the other side.
pub(super) type Slot = Arc<Mutex<Learnt>>;

/// What was learnt of the other side.
#[derive(Default)]
pub(super) struct Learnt {
    pub(super) trouble: Option<Trouble>,
    pub(super) foreign: Option<Foreign>,
}

/// One connection, plain or TLS. With TLS 1.3 a client hears only after the handshake that its certificate is refused; so trouble is looked for as long as
/// the line lives.
pub struct Line {
    io: Io,
    /// Nothing has been received.
    is_first: bool,
    slot: Option<Slot>,
    /// Of one that was accepted.
    stay: Option<Stay>,
}

enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Line {
    pub(super) fn accepted_plain(stream: TcpStream, stay: Stay) -> Self {
        Self::new(Io::Plain(stream), None, Some(stay))
    }

    pub(super) fn accepted(stream: TlsStream<TcpStream>, stay: Stay) -> Self {
        Self::new(Io::Tls(Box::new(stream)), None, Some(stay))
    }

    pub(super) fn dialled_plain(stream: TcpStream, slot: Slot) -> Self {
        Self::new(Io::Plain(stream), Some(slot), None)
    }

    pub(super) fn dialled(stream: TlsStream<TcpStream>, slot: Slot) -> Self {
        Self::new(Io::Tls(Box::new(stream)), Some(slot), None)
    }

    fn new(io: Io, slot: Option<Slot>, stay: Option<Stay>) -> Self {
        Self {
            io,
            is_first: true,
            slot,
            stay,
        }
    }

    /// An accepted connection that is owed no answer, or a stranger's, ends.
    fn keep_terms<T>(
        &mut self,
        polled: Poll<io::Result<T>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        let Some(stay) = &mut self.stay else {
            return polled;
        };
        if polled.is_ready() {
            return polled;
        }
        stay.poll_over(context)
            .map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    fn answered<T>(&mut self, polled: &Poll<io::Result<T>>) {
        if let (Some(stay), Poll::Ready(Ok(_))) = (&mut self.stay, polled) {
            stay.answered();
        }
    }

    fn note<T>(&self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(error)) = &polled
            && let Some(slot) = &self.slot
            && let Some(trouble) = Trouble::of_io(error)
        {
            slot.lock().trouble = Some(trouble);
        }
        polled
    }
}

impl AsyncRead for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Io::Tls(stream) => Pin::new(stream.as_mut()).poll_read(context, buffer),
        };
        if self.is_first && matches!(polled, Poll::Ready(Ok(()))) && buffer.capacity() > before {
            self.is_first = false;
            let first = buffer.filled().get(before).copied();
            if let (Io::Plain(_), Some(slot)) = (&self.io, &self.slot) {
                if first == Some(ALERT_RECORD) {
                    slot.lock().trouble = Some(Trouble::TlsSpoken);
                    return Poll::Ready(Err(io::Error::other(Trouble::TlsSpoken)));
                }
                slot.lock().foreign = match first {
                    Some(HTTP2_SETTINGS) => None,
                    Some(_) => Some(Foreign::OtherProtocol),
                    None => Some(Foreign::HungUp),
                };
            }
        }
        let polled = self.keep_terms(polled, context);
        self.note(polled)
    }
}

impl AsyncWrite for Line {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Io::Tls(stream) => Pin::new(stream.as_mut()).poll_write(context, bytes),
        };
        self.answered(&polled);
        self.note(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_write_vectored(context, bytes),
            Io::Tls(stream) => Pin::new(stream.as_mut()).poll_write_vectored(context, bytes),
        };
        self.answered(&polled);
        self.note(polled)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Plain(stream) => stream.is_write_vectored(),
            Io::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_flush(context),
            Io::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(context),
        };
        self.note(polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Io::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(context),
        }
    }
}

impl Connected for Line {
    type ConnectInfo = Guest;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stay.as_ref().map(Stay::guest).unwrap_or_default()
    }
}
