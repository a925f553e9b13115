//! Listeners and gRPC servers.

use std::net::SocketAddr;
use std::{fmt, io};

use axum::Router;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use dcgan_core::protocol::message::PROTOCOL;
use tokio::net::{TcpListener, TcpSocket};
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::{Code, Status};

use super::Address;
use super::accept::Incoming;
use super::health::{self, Pulse, STUCK_MAX};
use super::places::Places;
use super::{
    BACKLOG, CONNECTION_WINDOW_BYTES, FRAME_BYTES_MAX, HEADER_BYTES_MAX, PING_INTERVAL, PING_MAX,
    RESETS_MAX, STREAM_WINDOW_BYTES, STREAMS_MAX, requests,
};
use crate::pb;
use crate::services::{Program, SERVICES, Service};

/// A port that cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub struct ListenError {
    address: SocketAddr,
    error: io::Error,
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, error } = self;
        if error.kind() != io::ErrorKind::AddrNotAvailable {
            return write!(f, "cannot listen on {address}: {error}");
        }
        write!(f, "this machine has no address {}", address.ip())?;
        match Address::way_out(*address) {
            Ok(own) => write!(f, "; it has {own}"),
            Err(_) => Ok(()),
        }
    }
}

impl ListenError {
    /// The error in words, for the person who can give another address by this flag.
    pub fn at(&self, flag: &str) -> String {
        format!("{flag}: {self}: give another as {flag} ADDR:PORT")
    }
}

/// Listens on `address`; port 0 takes any free port.
///
/// # Errors
/// If the port is in use or the address does not belong to this machine.
///
/// # Panics
/// If it is called outside of a tokio runtime.
pub fn listen(address: SocketAddr) -> Result<TcpListener, ListenError> {
    bind(address).map_err(|error| ListenError { address, error })
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Without it, a restarted program could not have its port back while old connections linger.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves `routes` until `shutdown` completes, and then until every open stream has ended.
///
/// `routes` are the services of `program`. The server also answers the gRPC health service for each
/// of them, as long as `pulse` beats, and reflection (v1 and v1alpha) that lists them. Each
/// connection needs one of the `places`.
///
/// # Errors
/// If the listener fails.
///
/// # Panics
/// Never: the descriptors that reflection decodes are compiled into the program.
pub async fn serve(
    listener: TcpListener,
    routes: Routes,
    program: Program,
    places: &Places,
    pulse: Pulse,
    shutdown: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    // Answer health checks.
    let (reporter, health_service) = tonic_health::server::health_reporter();
    let reported = health::report(reporter, program, pulse, STUCK_MAX);

    // List the services by reflection. Each of the two versions consumes a builder.
    let reflection_v1 = reflection(program).build_v1();
    let reflection_v1alpha = reflection(program).build_v1alpha();
    let all_routes = routes
        .add_service(health_service)
        .add_service(reflection_v1.expect("the descriptors are our own"))
        .add_service(reflection_v1alpha.expect("the descriptors are our own"));
    let router = all_routes
        .into_axum_router()
        .layer(from_fn(move |request, next| explain_unknown_method(program, request, next)));

    let explanation = format!(
        "This is the port of {program} of a DCGAN, which speaks gRPC (HTTP/2). A page for browsers \
         is at the address that dcgan-sampler prints, by default http://127.0.0.1:7421."
    );
    let explanation = explanation.into();
    let served = limited_server().add_routes(counted(router)).serve_with_incoming_shutdown(
        Incoming::new(listener, places.clone(), Some(explanation)),
        shutdown,
    );
    tokio::select! {
        ended = served => ended,
        never = reported => match never {},
    }
}

/// Serves web pages over HTTP/1.1, for ever. Each connection needs one of the `places`.
///
/// # Errors
/// If the listener fails.
pub async fn serve_pages(
    listener: TcpListener,
    pages: Router,
    places: &Places,
) -> Result<(), tonic::transport::Error> {
    limited_server()
        .accept_http1(true)
        .add_routes(counted(pages))
        .serve_with_incoming(Incoming::new(listener, places.clone(), None))
        .await
}

/// Makes a server with all limits of a connection. The windows are those of `Connector`: a window
/// counts only as far as both ends grant it.
fn limited_server() -> Server {
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .max_concurrent_streams(STREAMS_MAX)
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .http2_max_pending_accept_reset_streams(Some(RESETS_MAX))
        .http2_max_local_error_reset_streams(Some(RESETS_MAX))
        .http2_keepalive_interval(Some(PING_INTERVAL))
        .http2_keepalive_timeout(Some(PING_MAX))
}

/// Makes routes whose requests are counted for the place of their connection.
fn counted(router: Router) -> Routes {
    Routes::from(router.layer(from_fn(requests::count)))
}

/// Says in words that a method is not known. The client means another program, or a program of
/// another version has called it, and it would show its user an empty text.
async fn explain_unknown_method(program: Program, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let response = next.run(request).await;
    match Status::from_header_map(response.headers()) {
        Some(status) if status.code() == Code::Unimplemented && status.message().is_empty() => {
            Status::unimplemented(explanation(program, &path)).into_http()
        }
        _ => response,
    }
}

/// Why a program does not know the method of this path, in words.
fn explanation(program: Program, path: &str) -> String {
    let service = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    match SERVICES.iter().find(|one| one.name == service) {
        Some(Service { program: meant, .. }) if *meant != program => format!(
            "this is the address of {program}, and the request is for {meant}: give the address \
             that {meant} prints at its start"
        ),
        _ => format!(
            "this program speaks protocol version {PROTOCOL} and does not know this request: use \
             programs of one build"
        ),
    }
}

/// Builds a reflection service that lists the services of `program` and the health service.
fn reflection<'a>(program: Program) -> tonic_reflection::server::Builder<'a> {
    let mut builder = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(pb::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
    for name in program.services() {
        builder = builder.with_service_name(name);
    }
    builder.with_service_name("grpc.health.v1.Health")
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tonic::Request;
    use tonic::client::Grpc;
    use tonic_prost::ProstCodec;

    use super::*;
    use crate::net::{Connector, Peer, in_words};
    use crate::pb::sampler_client::SamplerClient;

    #[tokio::test]
    async fn a_port_in_use_is_reported_with_its_address() {
        let first = listen(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = first.local_addr().unwrap();
        let error = listen(address).unwrap_err().to_string();
        let expected = format!("cannot listen on {address}: Address already in use");
        assert!(error.starts_with(&expected), "{error}");
    }

    #[tokio::test]
    async fn a_browser_hears_in_words_what_the_port_is() {
        let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (places, pulse) = (Places::new(64), Pulse::default());
            serve(listener, Routes::default(), Program::Worker, &places, pulse, pending()).await
        });
        let mut browser = TcpStream::connect(address).await.unwrap();
        browser.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        browser.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
        assert!(answer.contains("the port of a worker of a DCGAN, which speaks gRPC"), "{answer}");
    }

    /// Programs of protocol version 2 called `Coordinator/Act`, and show the server's words.
    #[tokio::test]
    async fn a_request_that_is_not_known_is_refused_in_words() {
        let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = listener.local_addr().unwrap().into();
        tokio::spawn(async move {
            let (places, pulse) = (Places::new(64), Pulse::default());
            serve(listener, Routes::default(), Program::Coordinator, &places, pulse, pending())
                .await
        });
        let peer = Peer::Coordinator(None);
        let channel = Connector::new(false).connect(&address, &peer).await.unwrap();
        // A service and a method that no program has.
        for path in ["/dcgan.v1.Coordinator/Act", "/grpc.health.v1.Health/Act"] {
            let mut client = Grpc::new(channel.clone());
            client.ready().await.unwrap();
            let codec = ProstCodec::<pb::StopRequest, pb::StopProgress>::default();
            let request = Request::new(pb::StopRequest::default());
            let path = path.parse().unwrap();
            let status = client.unary(request, path, codec).await.unwrap_err();
            assert_eq!(status.code(), Code::Unimplemented);
            let expected = format!(
                "this program speaks protocol version {PROTOCOL} and does not know this request: \
                 use programs of one build"
            );
            assert_eq!(in_words(&status), expected);
        }
        let mut samples = SamplerClient::new(channel);
        let status = samples.sample(pb::SampleRequest::default()).await.unwrap_err();
        assert_eq!(
            in_words(&status),
            "this is the address of a coordinator, and the request is for a sampler: give the \
             address that a sampler prints at its start"
        );
    }
}
