//! Requests that components send, to the hosts that `allowed_outbound_hosts` grants them: `wasi:http` of WASI
//! 0.2 and 0.3, over HTTP/1.1, with TLS by rustls.
//!
//! Every request has a connection of its own, which ends with the answer. Their number is limited for the
//! process, and each counts in the account of the instance that made it. The addresses of a name are checked
//! after it was resolved, and one of those that were checked is connected to. Redirects are the guest's own
//! business. HTTP/2 and proxies are left out. A request to another component of the application needs no
//! connection: `chaining` answers it.

mod address;
mod body;
mod fetch;
mod hosts;
mod own;
mod tls;

use crate::account::{Charge, Tally};
use crate::admission::Calls;
use crate::shortage;
use body::Timed;
use hosts::{Destination, SELF, default_port, peer};
use http::uri::Scheme;
use http::{HeaderValue, Request, Response, Uri, header};
use http_body_util::BodyExt as _;
use hyper::client::conn::http1;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tls::Roots;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use url::Host;
use wasmtime_wasi_http::io::TokioIo;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody};

pub(crate) use fetch::fetch;
pub(crate) use hosts::{AllowedHosts, is_peer, unused_schemes};
pub(crate) use own::{OwnCall, OwnCalls};

/// Most connections of all instances together, and of one. Further requests wait.
const MAX_CONNECTIONS: usize = 256;
const MAX_OF_ONE: usize = 16;
/// Most calls of components that may be within each other.
const MAX_DEPTH: usize = 8;
/// Most bytes that hyper reads ahead of the guest.
const READ_AHEAD: usize = 32 << 10;
/// Bytes that a connection counts for: what was read ahead, what waits to be written, and TLS records.
const CONNECTION: u64 = 128 << 10;
/// Time limit of each step without one of the guest's own; the instance's deadline is usually earlier.
const PATIENCE: Duration = Duration::from_secs(600);

/// What the requests of all components share.
pub(crate) struct Outbound {
    connections: Arc<Semaphore>,
    roots: Roots,
    /// Where this service listens, once it does, if it does so without TLS.
    own: OnceLock<SocketAddr>,
    /// The requests on their way there.
    pub(crate) own_calls: OwnCalls,
    /// The components of the application, once it has started.
    peers: OnceLock<Box<dyn Peers>>,
}

/// The components of one application, which may call each other.
pub(crate) trait Peers: Send + Sync {
    /// The answer of the component `name` to `request`, of an instance that stands at `place` and has made
    /// `calls`.
    fn call(&self, name: &str, request: Request<WasiBody>, place: Place, calls: &Calls) -> Called;
}

/// The answer of a component that was called.
pub(crate) type Called =
    Pin<Box<dyn Future<Output = Result<Response<WasiBody>, Error>> + Send + 'static>>;

/// Where an instance stands among those that call each other.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Place {
    /// Calls from the client's request to it.
    pub(crate) depth: usize,
    /// When the client's request has to be answered, if another instance waits for this one.
    pub(crate) deadline: Option<Instant>,
}

/// Sends the requests of one instance.
#[derive(Clone)]
pub(crate) struct Caller {
    hosts: Arc<AllowedHosts>,
    outbound: Arc<Outbound>,
    tally: Tally,
    connections: Arc<Semaphore>,
    place: Place,
    calls: Calls,
}

/// What a connection holds until it ends.
type Held = ([OwnedSemaphorePermit; 2], Charge);

/// The connection behind an answer; it has to be polled while the body is read.
pub(crate) type Connection = Box<dyn Future<Output = Result<(), Error>> + Send>;

impl Outbound {
    pub(crate) fn new() -> Self {
        Self {
            connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            roots: Roots::default(),
            own: OnceLock::new(),
            own_calls: OwnCalls::default(),
            peers: OnceLock::new(),
        }
    }

    /// Makes requests from one component to another go to `peers`.
    pub(crate) fn connect(&self, peers: Box<dyn Peers>) {
        // An application is started once.
        let _ = self.peers.set(peers);
    }

    /// Makes requests to `http://self` go to `address`, where this service listens.
    pub(crate) fn listens_at(&self, address: SocketAddr) {
        let ip = match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
            IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
            ip => ip,
        };
        // It listens at one address, and the first that is told counts.
        let _ = self.own.set(SocketAddr::new(ip, address.port()));
    }
}

impl Caller {
    /// For an instance at `place` that may call `hosts` and whose account `tally` belongs to.
    pub(crate) fn new(
        hosts: Arc<AllowedHosts>,
        outbound: Arc<Outbound>,
        tally: Tally,
        place: Place,
    ) -> Self {
        let connections = Arc::new(Semaphore::new(MAX_OF_ONE));
        Self { hosts, outbound, tally, connections, place, calls: Calls::default() }
    }

    /// Sends `request`, and returns the head of its answer.
    pub(crate) async fn send(
        self,
        mut request: Request<WasiBody>,
        options: RequestOptions,
    ) -> Result<(Response<WasiBody>, Connection), Error> {
        let target = self.target(request.uri())?;
        if let Target::Peer(name) = &target {
            let answer = self.call_peer(name, request, options).await?;
            return Ok((answer, Box::new(std::future::ready(Ok(())))));
        }
        prepare(&mut request, &target)?;
        let _sent = match target {
            Target::Own(_) => {
                let call = OwnCall { place: self.next_place()?, calls: self.calls.clone() };
                self.outbound.own_calls.send(request.headers_mut(), call)
            }
            _ => None,
        };
        let connect = options.connect_timeout.unwrap_or(PATIENCE);
        let connected = timeout(connect, self.connect(&target)).await;
        let (stream, held) = connected.map_err(|_| Error::ConnectionTimeout)??;
        let mut http = http1::Builder::new();
        http.max_buf_size(READ_AHEAD);
        let (mut sender, connection) = http.handshake(TokioIo::new(stream)).await?;
        let mut connection = Box::pin(connection);
        let mut ended = None;
        let first_byte = options.first_byte_timeout.unwrap_or(PATIENCE);
        let answer = timeout(first_byte, async {
            let answer = sender.send_request(request);
            tokio::pin!(answer);
            tokio::select! {
                biased;
                answer = &mut answer => answer,
                end = &mut connection => {
                    ended = Some(end);
                    answer.await
                }
            }
        });
        let answer = answer.await.map_err(|_| Error::ConnectionReadTimeout)??;
        let between = options.between_bytes_timeout.unwrap_or(PATIENCE);
        let answer = answer.map(|body| Timed::new(body, between, ()).boxed_unsync());
        // Without a sender the connection ends with the answer.
        drop(sender);
        let rest = async move {
            let ended = match ended {
                Some(ended) => ended,
                None => connection.await,
            };
            drop(held);
            ended.map_err(Error::from)
        };
        Ok((answer, Box::new(rest)))
    }

    /// Lets the component `name` answer. Its answer counts as one of the instance's connections.
    async fn call_peer(
        &self,
        name: &str,
        request: Request<WasiBody>,
        options: RequestOptions,
    ) -> Result<Response<WasiBody>, Error> {
        let peers = self.outbound.peers.get().ok_or(Error::DestinationUnavailable)?;
        let held = (permit(&self.connections).await?, self.tally.charge(CONNECTION));
        let place = self.next_place()?;
        let first_byte = options.first_byte_timeout.unwrap_or(PATIENCE);
        let answer = timeout(first_byte, peers.call(name, request, place, &self.calls)).await;
        let answer = answer.map_err(|_| Error::ConnectionReadTimeout)??;
        let between = options.between_bytes_timeout.unwrap_or(PATIENCE);
        Ok(answer.map(|body| Timed::new(body, between, held).boxed_unsync()))
    }

    /// The place of an instance that this one calls.
    fn next_place(&self) -> Result<Place, Error> {
        let Place { depth, deadline } = self.place;
        if depth >= MAX_DEPTH {
            tracing::warn!("{MAX_DEPTH} calls of components are within each other");
            return Err(Error::LoopDetected);
        }
        Ok(Place { depth: depth + 1, deadline })
    }

    /// Where a request may go.
    fn target(&self, uri: &Uri) -> Result<Target, Error> {
        let host = uri.host().ok_or(Error::HttpRequestUriInvalid)?;
        // SDKs of WASI 0.2 send a path alone as a request to `:80` or `:443`.
        if host == SELF || host.is_empty() {
            let own = self.outbound.own.get().filter(|_| self.hosts.allows_own());
            return own.copied().map(Target::Own).ok_or(Error::HttpRequestDenied);
        }
        let scheme = uri.scheme_str().unwrap_or("https").to_owned();
        let host = Host::parse(host).map_err(|_| Error::HttpRequestUriInvalid)?;
        let port = uri.port_u16().or_else(|| default_port(&scheme));
        let port = port.ok_or(Error::HttpRequestUriInvalid)?;
        let destination = Destination { scheme, host, port };
        if !self.hosts.allows(&destination) {
            let Destination { scheme, host, port } = destination;
            tracing::warn!(
                "a component may not call {scheme}://{host}:{port}; add \"{scheme}://{host}:{port}\" to its \
                 allowed_outbound_hosts if it should"
            );
            return Err(Error::HttpRequestDenied);
        }
        if let Some(name) = uri.host().and_then(peer) {
            return Ok(Target::Peer(name.to_owned()));
        }
        Ok(Target::Other(destination))
    }

    async fn connect(&self, target: &Target) -> Result<(tls::Stream, Held), Error> {
        let permits = [permit(&self.connections).await?, permit(&self.outbound.connections).await?];
        let held = (permits, self.tally.charge(CONNECTION));
        let addresses = match target {
            Target::Own(address) => vec![*address],
            Target::Other(destination) => self.addresses(destination).await?,
            Target::Peer(_) => return Err(Error::DestinationUnavailable),
        };
        shortage::descriptor().map_err(Error::Connect)?;
        let stream = TcpStream::connect(&*addresses).await.map_err(Error::Connect)?;
        let stream = match target {
            Target::Other(destination) if destination.scheme == "https" => {
                self.outbound.roots.connect(&destination.host, stream).await.map_err(Error::Tls)?
            }
            _ => tls::Stream::Plain(stream),
        };
        Ok((stream, held))
    }

    /// The addresses of a host that may be connected to.
    async fn addresses(&self, destination: &Destination) -> Result<Vec<SocketAddr>, Error> {
        let resolved: Vec<SocketAddr> = match &destination.host {
            Host::Ipv4(ip) => vec![(*ip, destination.port).into()],
            Host::Ipv6(ip) => vec![(*ip, destination.port).into()],
            Host::Domain(name) => {
                let found = tokio::net::lookup_host((name.as_str(), destination.port)).await;
                found.map_err(|error| dns(&error))?.collect()
            }
        };
        let may = |address: &SocketAddr| self.hosts.may_connect(destination, address.ip());
        let allowed: Vec<SocketAddr> = resolved.iter().copied().filter(may).collect();
        if allowed.is_empty() {
            tracing::warn!(
                "a component may not call {}: its address is not public, and allowed_outbound_hosts \
                 names neither it nor its network",
                destination.host
            );
            return Err(Error::DestinationIpProhibited);
        }
        Ok(allowed)
    }
}

enum Target {
    /// This service itself.
    Own(SocketAddr),
    Other(Destination),
    /// Another component of the application, by name.
    Peer(String),
}

async fn permit(limit: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Error> {
    let permit = Arc::clone(limit).acquire_owned().await;
    permit.map_err(|_| Error::ConnectionLimitReached)
}

fn dns(error: &io::Error) -> Error {
    Error::DnsError { rcode: Some(error.kind().to_string()), info_code: None }
}

/// Gives a request the form that a server expects: a path as its target, and one Host field. To the service
/// itself that is the address where it listens, as in Spin.
fn prepare<B>(request: &mut Request<B>, target: &Target) -> Result<(), Error> {
    let uri = request.uri();
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        tracing::warn!(
            "a component may not call a URL with a user's name before the host; use a header field"
        );
        return Err(Error::HttpRequestUriInvalid);
    }
    let is_http = uri.scheme().is_none_or(|s| *s == Scheme::HTTP || *s == Scheme::HTTPS);
    let host = match (target, uri.authority()) {
        (Target::Own(address), _) => HeaderValue::from_str(&address.to_string()).ok(),
        (_, Some(authority)) => HeaderValue::from_str(authority.as_str()).ok(),
        _ => None,
    };
    let host = host.filter(|_| is_http).ok_or(Error::HttpRequestUriInvalid)?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let path = Uri::try_from(path).map_err(|_| Error::HttpRequestUriInvalid)?;
    *request.uri_mut() = path;
    request.headers_mut().insert(header::HOST, host);
    Ok(())
}
