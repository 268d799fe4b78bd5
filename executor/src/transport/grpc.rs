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
    config::{ByteSize, Setting, keys},
    failure::Failure,
    protocol::{Application, Hello, RegisterReply, RegisterRequest, ToExecutor},
    time::Clock,
};
use millstream_proto::{
    auth::{PresentSecret, Secret},
    limits,
    pb::{self, driver_client::DriverClient},
    refusal,
    tls::{Dial, Foreign, Tls},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Status, Streaming,
    codegen::http::Uri,
    service::interceptor::InterceptedService,
    transport::{Channel, Endpoint},
};

use super::{DriverLink, LinkError, Session};

/// How tonic begins what it says of an answer that is none of gRPC.
const NO_GRPC: &str = "grpc-status header missing";

/// A driver address that can't be dialled.
#[derive(Debug, thiserror::Error)]
pub enum InvalidAddress {
    /// No address was given.
    #[error("no driver address is given: say --driver HOST:PORT")]
    None,
    /// It asks for TLS, which isn't set up.
    #[error("{address} asks for TLS: give tls.ca, tls.cert and tls.key, or say http://")]
    NoTls {
        /// What was given.
        address: String,
    },
    /// It is no address, or lacks the port.
    #[error("{address} is no driver address: say HOST:PORT, such as driver:7077")]
    Malformed {
        /// What was given.
        address: String,
    },
}

/// Dials drivers by gRPC.
pub struct GrpcLink {
    endpoints: Vec<(String, Endpoint, Dial)>,
    last_good: AtomicUsize,
    secret: PresentSecret,
    has_secret: bool,
    timeout: Duration,
    /// This process's own bound, until a driver has said which is in force.
    max_message: AtomicUsize,
    clock: Arc<dyn Clock>,
}

type Client = DriverClient<InterceptedService<Channel, PresentSecret>>;

impl GrpcLink {
    /// A link to drivers at `addresses` (`http://host:port` or `host:port`). Connecting and each answer may take `timeout`. Messages have at most
    /// `max_message` bytes, or what the driver's configuration says from the registration on.
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
            let malformed = || InvalidAddress::Malformed {
                address: address.clone(),
            };
            let url: Uri = format!("http://{host}").parse().map_err(|_| malformed())?;
            let has_host = url.host().is_some_and(|host| !host.is_empty());
            if !has_host || url.port_u16().is_none_or(|port| port == 0) {
                return Err(malformed());
            }
            let endpoint = Endpoint::from(url);
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
            has_secret: secret.is_some(),
            timeout,
            max_message: AtomicUsize::new(max_message),
            clock,
        })
    }

    async fn connect(&self, endpoint: &Endpoint, dial: &Dial) -> Result<Client, String> {
        let channel = dial
            .open(endpoint)
            .await
            .map_err(|error| error_chain(&error))?;
        let max_message = self.max_message.load(Ordering::Relaxed);
        let client = DriverClient::with_interceptor(channel, self.secret.clone())
            .max_decoding_message_size(max_message)
            .max_encoding_message_size(max_message);
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
                Err(Ok(status)) if let Some(failure) = refusal::from_status(&status) => {
                    refused = refused.or(Some(LinkError::of_failure(failure)));
                }
                Err(problem) => {
                    let problem = match (dial.foreign(), problem) {
                        (Some(foreign), _) => foreign.to_string(),
                        (None, Ok(status)) => of_status(&status),
                        (None, Err(problem)) => problem,
                    };
                    unreachable.push(format!("{address}: {problem}"));
                }
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
            .await?
            .into_inner();
        if self.has_secret && !reply.asked_for_secret {
            return Err(LinkError::Unsafe(refusal::refusal(
                refusal::UNAUTHENTICATED,
                "this executor has an auth.secret, and the driver asks for none: give the driver and all executors the same one",
            )));
        }
        let reply = RegisterReply::try_from(reply).map_err(malformed)?;
        if let Some(bytes) = max_message_of(&reply.application) {
            self.max_message.store(bytes, Ordering::Relaxed);
        }
        Ok(reply)
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

/// The bound on messages that a driver goes by: a larger one would cut the session, again and again.
fn max_message_of(application: &Application) -> Option<usize> {
    let text = application
        .configuration
        .get(keys::RPC_MAX_MESSAGE.name())?;
    ByteSize::parse(text).map(ByteSize::as_len)
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

/// What a status says that is no refusal of ours.
fn of_status(status: &Status) -> String {
    if status.message().starts_with(NO_GRPC) {
        return Foreign::OtherProtocol.to_string();
    }
    match std::error::Error::source(status) {
        Some(source) => error_chain(source),
        None => status.message().to_owned(),
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

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, io::Write, net::TcpListener, pin::Pin};

    use bytes::Bytes;
    use futures::Stream;
    use millstream_common::{
        ids::{ExecutorId, QueryId},
        protocol::QueryProgram,
        time::SystemClock,
    };
    use millstream_proto::server;
    use tokio_util::sync::CancellationToken;
    use tonic::{Response, service::Routes};

    use super::*;

    fn link(addresses: &[&str]) -> Result<GrpcLink, InvalidAddress> {
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let clock = Arc::new(SystemClock::new());
        let timeout = Duration::from_secs(10);
        GrpcLink::new(&addresses, None, &Tls::default(), timeout, 1 << 20, clock)
    }

    /// A driver whose messages are larger than the executor's own bound.
    struct Large;

    /// More than a link of these tests takes by itself.
    const LARGE: usize = 3 << 20;

    #[tonic::async_trait]
    impl pb::driver_server::Driver for Large {
        type SessionStream = Pin<Box<dyn Stream<Item = Result<pb::DriverMessage, Status>> + Send>>;

        async fn register(
            &self,
            _: Request<pb::RegisterRequest>,
        ) -> Result<Response<pb::RegisterReply>, Status> {
            let configuration = [("rpc.max_message".to_owned(), "4MiB".to_owned())];
            let reply = RegisterReply {
                executor: ExecutorId::random(),
                application: Application {
                    name: String::new(),
                    arguments: serde_json::Value::Null,
                    configuration: BTreeMap::from(configuration),
                    parallelism: 1,
                    batch_interval_millis: 1_000,
                    build_id: String::new(),
                    recorded: BTreeMap::new(),
                },
                shared_files: Vec::new(),
            };
            Ok(Response::new(reply.into()))
        }

        async fn session(
            &self,
            _: Request<Streaming<pb::ExecutorMessage>>,
        ) -> Result<Response<Self::SessionStream>, Status> {
            let program = QueryProgram {
                query: QueryId::random(),
                bytes: Bytes::from(vec![7; LARGE]),
                checkpoint: None,
                shared_files: Vec::new(),
            };
            let message = pb::DriverMessage::from(ToExecutor::Program(Box::new(program)));
            let messages = stream::iter([Ok(message)]).chain(stream::pending());
            Ok(Response::new(Box::pin(messages)))
        }
    }

    #[tokio::test]
    async fn messages_are_as_large_as_the_driver_says() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("binds");
        let address = listener.local_addr().expect("address").to_string();
        let service = pb::driver_server::DriverServer::new(Large);
        let never = CancellationToken::new();
        let routes = Routes::new(service);
        let serving = server::serve(&Tls::default(), listener, "driver.listen", routes, never);
        tokio::spawn(serving);
        let link = link(&[&address]).expect("an address");
        let registered = link.register(request()).await.expect("registered");
        let hello = Hello {
            executor: registered.executor,
            fingerprint: String::new(),
            unshared: Vec::new(),
        };
        let mut session = link.session(hello).await.expect("a session");
        let message = session.from_driver.recv().await;
        let Some(Ok(ToExecutor::Program(program))) = message else {
            panic!("the session was cut: {message:?}");
        };
        assert_eq!(program.bytes.len(), LARGE);
    }

    fn request() -> RegisterRequest {
        RegisterRequest {
            protocol: 1,
            version: String::new(),
            build_id: String::new(),
            cores: 1,
            block_address: String::new(),
            http_address: String::new(),
            process_id: 1,
            host: String::new(),
        }
    }

    #[tokio::test]
    async fn an_address_needs_a_host_and_a_port() {
        for good in [
            "driver:7077",
            "http://driver:7077",
            "[::1]:7077",
            "10.0.0.1:1",
        ] {
            assert!(link(&[good]).is_ok(), "{good}");
        }
        for bad in [
            "driver",
            "driver:",
            "driver:0",
            ":7077",
            "driver:70777",
            "a b:1",
            "[::1]",
        ] {
            let refused = link(&["driver:7077", bad]).err().expect(bad).to_string();
            assert_eq!(
                refused,
                format!("{bad} is no driver address: say HOST:PORT, such as driver:7077")
            );
        }
    }

    #[tokio::test]
    async fn what_is_no_driver_is_named_and_asked_again() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let address = listener.local_addr().expect("address").to_string();
        let answering = move || {
            let mut open = Vec::new();
            while let Ok((mut stream, _)) = listener.accept() {
                // As a server of HTTP/1 does, whatever comes.
                let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n");
                open.push(stream);
            }
        };
        std::thread::Builder::new()
            .spawn(answering)
            .expect("a thread");
        let link = link(&[&address]).expect("an address");
        let error = link.register(request()).await.expect_err("no driver");
        let LinkError::Unreachable(told) = error else {
            panic!("{error}");
        };
        assert_eq!(
            told,
            format!("{address}: what answers there is no Millstream driver: look at the address")
        );
    }
}
