//! HTTP/1.1 on a socket: accepts connections, hands requests to the service, and on a signal finishes
//! what was accepted before it ends.
//!
//! `socket` is what a refused client needs of a connection, `tls` what keeps others from reading it,
//! `refusal` hyper's own refusals in our words, `exchange` what both sides of a connection know of the
//! request it carries. Who may come in is the `door`'s to say.

mod exchange;
mod refusal;
mod socket;
mod tls;

pub use tls::Tls;

use crate::door::{self, Door, Refusal};
use crate::service::{Answer, Service};
use crate::spin_headers::Encrypted;
use crate::trace::{Recording, Tracer};
use bytes::Bytes;
use exchange::{Exchange, Incoming};
use http::{HeaderValue, Request, header};
use http_body_util::Either;
use hyper::body::Body;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use socket::Socket;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How connections are treated.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// How long a client may take to send a request's head, and an idle connection stays open.
    pub head_timeout: Duration,
    /// How long accepted requests may go on after a signal to stop.
    pub drain_timeout: Duration,
    /// Who may come in.
    pub door: Arc<Door>,
    /// The certificate; `None` speaks plain HTTP.
    pub tls: Option<Arc<Tls>>,
    /// Where traces go; `None` records none.
    pub tracer: Option<Tracer>,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            head_timeout: Duration::from_secs(15),
            drain_timeout: Duration::from_secs(30),
            door: Arc::default(),
            tls: None,
            tracer: None,
        }
    }
}

/// Bytes of a request's head, target and fields together; longer ones are answered 431. It is also what
/// a connection may hold between socket and service, so it counts as often as there are connections.
pub(crate) const MAX_HEAD_BYTES: usize = 16 << 10;

/// How long `/readyz` says that no more requests are wanted before no more are accepted: whoever sends
/// them here must be able to see it.
const NOTICE: Duration = Duration::from_millis(500);

/// How often files that an operator may have replaced are looked at.
const REFRESH_EVERY: Duration = Duration::from_secs(2);

/// How long the last traces may take to be sent.
const TRACES_TIMEOUT: Duration = Duration::from_secs(2);

/// Socket buffers for what clients send, in bytes: the kernel's own default grows to megabytes for each,
/// and they count in our control group.
const RECEIVE_BUFFER: u32 = 128 << 10;

/// Listens on `address`.
///
/// # Errors
/// When the address cannot be had.
pub fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    socket.bind(address)?;
    socket.listen(1024)
}

/// Serves `service` on `listener` until `stop` resolves; then says so on `/readyz`, accepts for another
/// moment, and finishes what was accepted.
///
/// # Errors
/// Never for what a client does.
pub async fn serve(
    service: Arc<Service>,
    listener: TcpListener,
    settings: &ServerSettings,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let connections = Connections {
        service: Arc::clone(&service),
        listener,
        graceful: GracefulShutdown::new(),
        permits: Arc::new(Semaphore::new(service.plan().connections)),
        settings: settings.clone(),
    };
    let keeper = Arc::clone(&service);
    let keeper = tokio::spawn(async move { keeper.tidy().await });
    let reader = tokio::spawn(refresh(Arc::clone(&service), settings.clone()));
    tokio::select! {
        never = connections.accept() => never?,
        () = stop => {}
    }
    service.drain();
    tracing::info!("stopping: /readyz says so, and what was accepted is finished");
    tokio::select! {
        never = connections.accept() => never?,
        () = tokio::time::sleep(NOTICE) => {}
    }
    connections.drain().await;
    keeper.abort();
    reader.abort();
    service.remove_files();
    if let Some(tracer) = settings.tracer.clone() {
        tokio::task::spawn_blocking(move || tracer.finish(TRACES_TIMEOUT)).await?;
    }
    Ok(())
}

/// Reads tokens and certificates again when they have changed, for ever.
async fn refresh(service: Arc<Service>, settings: ServerSettings) {
    loop {
        tokio::time::sleep(REFRESH_EVERY).await;
        let (door, tls) = (Arc::clone(&settings.door), settings.tls.clone());
        let look = move || {
            door.refresh();
            if let Some(tls) = tls {
                tls.refresh();
            }
        };
        if service.keeper.run(look).await.is_err() {
            tracing::error!("looking at tokens and certificates failed; it is tried again");
        }
    }
}

struct Connections {
    service: Arc<Service>,
    listener: TcpListener,
    graceful: GracefulShutdown,
    permits: Arc<Semaphore>,
    settings: ServerSettings,
}

impl Connections {
    /// Accepts for ever.
    async fn accept(&self) -> anyhow::Result<()> {
        loop {
            // The permit comes first: beyond the cap nobody is accepted, so nothing is held for them.
            let permit = Arc::clone(&self.permits).acquire_owned().await?;
            match self.listener.accept().await {
                Ok((stream, client)) => self.serve(stream, client, permit),
                Err(error) => {
                    // Such as too many open files: others may close theirs in a moment.
                    tracing::warn!("cannot accept a connection: {error}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    fn serve(&self, stream: TcpStream, client: SocketAddr, permit: OwnedSemaphorePermit) {
        // Answers are written whole; waiting to fill a packet would only delay them.
        let _ = stream.set_nodelay(true);
        let (service, settings) = (Arc::clone(&self.service), self.settings.clone());
        let watcher = self.graceful.watcher();
        tokio::spawn(async move {
            let ended = match settings.tls.clone() {
                None => watcher.watch(connection(service, stream, client, settings)).await,
                Some(tls) => {
                    let greeted = tokio::time::timeout(settings.head_timeout, tls.accept(stream));
                    let Ok(Ok(stream)) = greeted.await else {
                        tracing::debug!("a connection ended before it was encrypted");
                        return;
                    };
                    watcher.watch(connection(service, stream, client, settings)).await
                }
            };
            if let Err(error) = ended {
                tracing::debug!("a connection ended: {error}");
            }
            drop(permit);
        });
    }

    /// Finishes what was accepted, those whom only the kernel has accepted so far among them.
    async fn drain(self) {
        let waiting = async {
            while let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
                let now = tokio::time::timeout(Duration::ZERO, self.listener.accept()).await;
                let Ok(Ok((stream, client))) = now else { break };
                self.serve(stream, client, permit);
            }
        };
        waiting.await;
        drop(self.listener);
        let patience = self.settings.drain_timeout;
        if tokio::time::timeout(patience, self.graceful.shutdown()).await.is_err() {
            tracing::warn!("requests were still at work after {patience:?}, and are cut off");
        }
    }
}

fn connection<S>(
    service: Arc<Service>,
    stream: S,
    client: SocketAddr,
    settings: ServerSettings,
) -> impl hyper_util::server::graceful::GracefulConnection<Error = hyper::Error> + use<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let exchange = Arc::new(Exchange::default());
    let socket = Socket::new(stream, Arc::clone(&exchange), service.max_body());
    let head_timeout = settings.head_timeout;
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_timeout)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(
            TokioIo::new(socket),
            service_fn(move |request: Request<_>| {
                let (service, exchange) = (Arc::clone(&service), Arc::clone(&exchange));
                let settings = settings.clone();
                let request = request.map(|body| exchange.incoming(body));
                async move {
                    let (mut answer, recording) =
                        answer(&service, &settings, request, client).await;
                    if exchange.has_unread_input() {
                        // hyper closes by itself then, and does not say so.
                        let close = HeaderValue::from_static("close");
                        answer.headers_mut().insert(header::CONNECTION, close);
                    }
                    let answer = answer.map(|body| exchange.outgoing(body, recording));
                    Ok::<_, std::convert::Infallible>(answer)
                }
            }),
        )
}

/// One request from the door to its answer, and what is recorded of it.
async fn answer<B>(
    service: &Service,
    settings: &ServerSettings,
    request: Request<Incoming<B>>,
    client: SocketAddr,
) -> (Answer, Option<Recording>)
where
    B: Body<Data = Bytes> + Unpin,
{
    let (mut head, body) = request.into_parts();
    if settings.tls.is_some() {
        head.extensions.insert(Encrypted);
    }
    let origin = head.headers.get(header::ORIGIN).cloned();
    let admitted = settings.door.admit(&head, client);
    let wanted = admitted.is_ok() && !door::is_probe(head.uri.path());
    let tracer = settings.tracer.as_ref().filter(|_| wanted);
    let recording = tracer.and_then(|tracer| {
        let route = service.route(head.uri.path());
        tracer.begin(&mut head, route)
    });
    let mut answer = match admitted {
        Err(Refusal::Preflight(answer)) => (*answer).map(Either::Left),
        Err(Refusal::Problem(problem)) => service.refuse(&head, &problem),
        Ok(()) => {
            let work = service.handle(Request::from_parts(head, body), Some(client));
            match &recording {
                Some(recording) => recording.scope(work).await,
                None => work.await,
            }
        }
    };
    if let Some(recording) = &recording {
        recording.answered(answer.status(), answer.headers());
    }
    settings.door.dress(origin.as_ref(), &mut answer);
    (answer, recording)
}

/// Resolves when the process is asked to stop: SIGINT (Ctrl-C) or SIGTERM.
///
/// # Errors
/// When the signal handlers cannot be set up.
pub fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
