//! The link over the network. Several driver addresses are tried in turn, the one that answered last first.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures::{StreamExt, stream};
use millstream_common::{
    failure::Failure,
    protocol::{Hello, RegisterReply, RegisterRequest, ToExecutor},
    time::Clock,
};
use millstream_proto::{
    auth::{PresentSecret, Secret},
    limits,
    pb::{self, driver_client::DriverClient},
    refusal,
    tls::{Dial, Tls},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Status, Streaming,
    service::interceptor::InterceptedService,
    transport::{Channel, Endpoint},
};

use super::{DriverLink, LinkError, Session};

/// A driver address that can't be dialled.
#[derive(Debug, thiserror::Error)]
pub enum InvalidAddress {
    /// No address was given.
    #[error("no driver address is given: say --driver http://HOST:PORT")]
    None,
    /// It asks for TLS, which isn't set up.
    #[error("{address} asks for TLS: give tls.ca, tls.cert and tls.key, or say http://")]
    NoTls {
        /// What was given.
        address: String,
    },
    /// It is no address.
    #[error("{address} is no driver address: say http://HOST:PORT")]
    Malformed {
        /// What was given.
        address: String,
        /// What is wrong.
        #[source]
        source: tonic::transport::Error,
    },
}

/// Dials drivers by gRPC.
pub struct GrpcLink {
    endpoints: Vec<(String, Endpoint, Dial)>,
    last_good: AtomicUsize,
    secret: PresentSecret,
    timeout: Duration,
    max_message: usize,
    clock: Arc<dyn Clock>,
}

type Client = DriverClient<InterceptedService<Channel, PresentSecret>>;

impl GrpcLink {
    /// A link to drivers at `addresses` (`http://host:port` or `host:port`). Connecting and each answer may take `timeout`.
    ///
    /// # Errors
    /// [`InvalidAddress`].
    pub fn new(
        addresses: &[String],
        secret: Option<&Secret>,
        tls: &Tls,
        timeout: Duration,
        max_message: usize,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, InvalidAddress> {
        let mut endpoints = Vec::new();
        for address in addresses {
            if address.starts_with("https://") && !tls.is_on() {
                return Err(InvalidAddress::NoTls {
                    address: address.clone(),
                });
            }
            // Whether it is encrypted the configuration says, not the address.
            let host = address
                .split_once("://")
                .map_or(&**address, |(_, host)| host);
            let url = format!("http://{host}");
            let endpoint =
                Endpoint::from_shared(url).map_err(|source| InvalidAddress::Malformed {
                    address: address.clone(),
                    source,
                })?;
            let endpoint = endpoint
                .connect_timeout(timeout)
                .http2_keep_alive_interval(limits::KEEPALIVE)
                .keep_alive_timeout(limits::KEEPALIVE)
                .keep_alive_while_idle(true);
            endpoints.push((address.clone(), endpoint, tls.dial()));
        }
        if endpoints.is_empty() {
            return Err(InvalidAddress::None);
        }
        Ok(Self {
            endpoints,
            last_good: AtomicUsize::new(0),
            secret: PresentSecret::new(secret),
            timeout,
            max_message,
            clock,
        })
    }

    async fn connect(&self, endpoint: &Endpoint, dial: &Dial) -> Result<Client, String> {
        let channel = endpoint
            .connect_with_connector(dial.clone())
            .await
            .map_err(|error| error_chain(&error))?;
        let client = DriverClient::with_interceptor(channel, self.secret.clone())
            .max_decoding_message_size(self.max_message)
            .max_encoding_message_size(self.max_message);
        Ok(client)
    }

    /// Tries each address once. The first refusal ends it, unless another address takes the executor.
    async fn try_each<T, Call, Answer>(&self, call: Call) -> Result<T, LinkError>
    where
        Call: Fn(Client) -> Answer,
        Answer: Future<Output = Result<T, Status>>,
    {
        let count = self.endpoints.len();
        let first = self.last_good.load(Ordering::Relaxed);
        let mut unreachable = Vec::new();
        let mut refused: Option<LinkError> = None;
        for step in 0..count {
            let index = (first + step) % count;
            let (address, endpoint, dial) = &self.endpoints[index];
            let attempt = async {
                let client = self.connect(endpoint, dial).await.map_err(Err)?;
                call(client).await.map_err(Ok)
            };
            let deadline = self.clock.until(self.clock.now().after(self.timeout * 2));
            let outcome = tokio::select! {
                outcome = attempt => outcome,
                () = deadline => Err(Err("no answer in time".to_owned())),
            };
            match outcome {
                Ok(value) => {
                    self.last_good.store(index, Ordering::Relaxed);
                    return Ok(value);
                }
                Err(_) if let Some(trouble) = dial.trouble() => {
                    let failure = trouble.to_failure(address);
                    refused = refused.or(Some(LinkError::Unsafe(failure)));
                }
                Err(Ok(status)) => match refusal::from_status(&status) {
                    Some(failure) => {
                        refused = refused.or(Some(LinkError::of_failure(failure)));
                    }
                    None => unreachable.push(format!("{address}: {}", status.message())),
                },
                Err(Err(problem)) => unreachable.push(format!("{address}: {problem}")),
            }
        }
        Err(refused.unwrap_or_else(|| LinkError::Unreachable(unreachable.join("; "))))
    }
}

#[async_trait]
impl DriverLink for GrpcLink {
    async fn register(&self, request: RegisterRequest) -> Result<RegisterReply, LinkError> {
        let request = pb::RegisterRequest::from(request);
        let reply = self
            .try_each(|mut client| {
                let request = request.clone();
                async move { client.register(Request::new(request)).await }
            })
            .await?;
        RegisterReply::try_from(reply.into_inner()).map_err(malformed)
    }

    async fn session(&self, hello: Hello) -> Result<Session, LinkError> {
        let (to_driver, inbound) = self
            .try_each(|mut client| {
                let (to_driver, outgoing) = mpsc::channel(limits::SESSION_QUEUE);
                let first = pb::ExecutorMessage::from(hello.clone());
                let messages = stream::iter([first])
                    .chain(ReceiverStream::new(outgoing).map(pb::ExecutorMessage::from));
                async move {
                    let inbound = client.session(Request::new(messages)).await?.into_inner();
                    Ok((to_driver, inbound))
                }
            })
            .await?;
        let (sender, from_driver) = mpsc::channel(limits::SESSION_QUEUE);
        tokio::spawn(pump(inbound, sender));
        Ok(Session {
            to_driver,
            from_driver,
        })
    }
}

fn malformed(error: millstream_proto::ConversionError) -> LinkError {
    LinkError::Refused(
        Failure::caused_by(
            millstream_common::failure::FailureKind::Internal,
            "the driver's answer can't be read: run one release on both sides",
            &error,
        )
        .with_code(refusal::MALFORMED_MESSAGE),
    )
}

/// Passes the driver's messages on until either side ends.
async fn pump(
    mut inbound: Streaming<pb::DriverMessage>,
    sender: mpsc::Sender<Result<ToExecutor, Failure>>,
) {
    loop {
        let message = tokio::select! {
            message = inbound.message() => message,
            () = sender.closed() => return,
        };
        let message = match message {
            Ok(Some(message)) => match ToExecutor::try_from(message) {
                Ok(message) => Ok(message),
                // The line is cut and the reconciliation that follows says what was meant.
                Err(error) => {
                    tracing::error!(%error, "a message of the driver can't be read");
                    return;
                }
            },
            Ok(None) => return,
            Err(status) => match refusal::from_status(&status) {
                Some(failure) => Err(failure),
                None => {
                    tracing::debug!(code = ?status.code(), message = status.message(), "the session was cut");
                    return;
                }
            },
        };
        let is_last = message.is_err();
        if sender.send(message).await.is_err() || is_last {
            return;
        }
    }
}

fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
