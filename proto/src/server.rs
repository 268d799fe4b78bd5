//! Serving gRPC on a port of a node. The HTTP/2 server is compiled here, not in each crate that has a service.

use futures::future::BoxFuture;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{
    service::Routes,
    transport::{Error, Server},
};

use crate::{limits, tls::Tls};

/// Serves `routes` on the listener, as `tls` says, until `shutdown`. `key` is the configuration key that gave the address.
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
    Box::pin(
        Server::builder()
            .max_concurrent_streams(Some(limits::CONCURRENT_STREAMS))
            .http2_keepalive_interval(Some(limits::KEEPALIVE))
            .http2_keepalive_timeout(Some(limits::KEEPALIVE))
            .add_routes(routes)
            .serve_with_incoming_shutdown(incoming, shutdown.cancelled_owned()),
    )
}
