//! Serving gRPC on a port of a node. The HTTP/2 server is compiled here, not in each crate that has a service.

use std::time::Duration;

use futures::future::BoxFuture;
use millstream_common::time::{Clock, SystemClock};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{
    service::Routes,
    transport::{Error, Server},
};

use crate::{limits, tls::Tls};

/// How long connections have to end after the shutdown. A peer that is stopped or cut off doesn't answer, and must not hold up the end.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Serves `routes` on the listener, as `tls` says, until `shutdown`; what is under way then may end within two seconds.
/// `key` is the configuration key that gave the address.
///
/// # Errors
/// When the server breaks off.
pub fn serve(
    tls: &Tls,
    listener: TcpListener,
    key: &'static str,
    routes: Routes,
    shutdown: CancellationToken,
) -> BoxFuture<'static, Result<(), Error>> {
    let incoming = tls.accept(listener, key);
    let over = shutdown.clone();
    let serving = Server::builder()
        .max_concurrent_streams(Some(limits::CONCURRENT_STREAMS))
        .http2_keepalive_interval(Some(limits::KEEPALIVE))
        .http2_keepalive_timeout(Some(limits::KEEPALIVE))
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, shutdown.cancelled_owned());
    Box::pin(async move {
        let late = async {
            over.cancelled().await;
            let clock = SystemClock::new();
            clock.until(clock.now().after(LAST_WORDS)).await;
        };
        tokio::select! {
            served = serving => served,
            () = late => Ok(()),
        }
    })
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::*;

    /// The preface of HTTP/2 and empty settings.
    const BEGIN: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";

    #[tokio::test]
    async fn a_peer_that_answers_nothing_does_not_hold_up_the_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("address");
        let shutdown = CancellationToken::new();
        let serving = serve(
            &Tls::default(),
            listener,
            "driver.listen",
            Routes::default(),
            shutdown.clone(),
        );
        let serving = tokio::spawn(serving);
        let mut peer = TcpStream::connect(address).await.expect("connects");
        peer.write_all(BEGIN).await.expect("sent");
        // It is a connection of HTTP/2 once the server's own settings come.
        let mut first = [0; 9];
        peer.read_exact(&mut first).await.expect("settings");
        shutdown.cancel();
        // Keepalive would end it too, after twenty seconds.
        let ended = tokio::time::timeout(Duration::from_secs(12), serving).await;
        ended
            .expect("in time")
            .expect("no panic")
            .expect("served to the end");
        drop(peer);
    }
}
