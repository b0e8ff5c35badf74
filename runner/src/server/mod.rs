//! HTTP/1.1 on a socket: accepts connections, hands requests to the service, and on a signal finishes
//! what was accepted before it ends.
//!
//! `socket` is what a refused client needs of a connection, `refusal` hyper's own refusals in our words,
//! `exchange` what both sides of a connection know of the request it carries.

mod exchange;
mod refusal;
mod socket;

use crate::service::Service;
use exchange::Exchange;
use http::{HeaderValue, Request, header};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use socket::Socket;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How connections are treated.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// How long a client may take to send a request's head, and an idle connection stays open.
    pub head_timeout: Duration,
    /// How long accepted requests may go on after a signal to stop.
    pub drain_timeout: Duration,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self { head_timeout: Duration::from_secs(15), drain_timeout: Duration::from_secs(30) }
    }
}

/// Bytes of a request's head, target and fields together; longer ones are answered 431. It is also what
/// a connection may hold between socket and service, so it counts as often as there are connections.
pub(crate) const MAX_HEAD_BYTES: usize = 16 << 10;

/// How long `/readyz` says that no more requests are wanted before no more are accepted: whoever sends
/// them here must be able to see it.
const NOTICE: Duration = Duration::from_millis(500);

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
    Ok(())
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
        let connection = connection(Arc::clone(&self.service), stream, client, &self.settings);
        let watched = self.graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = watched.await {
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

fn connection(
    service: Arc<Service>,
    stream: TcpStream,
    client: SocketAddr,
    settings: &ServerSettings,
) -> impl hyper_util::server::graceful::GracefulConnection<Error = hyper::Error> + use<> {
    // Answers are written whole; waiting to fill a packet would only delay them.
    let _ = stream.set_nodelay(true);
    let exchange = Arc::new(Exchange::default());
    let socket = Socket::new(stream, Arc::clone(&exchange), service.max_body());
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(settings.head_timeout)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(
            TokioIo::new(socket),
            service_fn(move |request: Request<_>| {
                let (service, exchange) = (Arc::clone(&service), Arc::clone(&exchange));
                let request = request.map(|body| exchange.incoming(body));
                async move {
                    let mut answer = service.handle(request, Some(client)).await;
                    if exchange.has_unread_input() {
                        // hyper closes by itself then, and does not say so.
                        let close = HeaderValue::from_static("close");
                        answer.headers_mut().insert(header::CONNECTION, close);
                    }
                    Ok::<_, std::convert::Infallible>(answer.map(|body| exchange.outgoing(body)))
                }
            }),
        )
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
