//! HTTP/1.1 on a socket: accepts connections, hands requests to the service, and on a signal finishes
//! what was accepted before it ends.
//!
//! `socket` is what a refused client needs of a connection, `refusal` hyper's own refusals in our words,
//! `exchange` what both sides of a connection know of the request it carries.

mod exchange;
mod refusal;
mod socket;

use crate::service::Service;
use anyhow::Context;
use exchange::Exchange;
use http::{HeaderValue, Request, header};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use socket::Socket;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// How connections are treated.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// Connections open at the same time; further ones wait in the kernel's line.
    pub max_connections: usize,
    /// How long a client may take to send a request's head, and an idle connection stays open.
    pub head_timeout: Duration,
    /// How long accepted requests may go on after a signal to stop.
    pub drain_timeout: Duration,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            head_timeout: Duration::from_secs(15),
            drain_timeout: Duration::from_secs(30),
        }
    }
}

/// Bytes of a request's head, target and fields together; longer ones are answered 431. It is also what
/// a connection may hold between socket and service, so it counts as often as there are connections.
pub(crate) const MAX_HEAD_BYTES: usize = 16 << 10;

/// Serves `service` on `listener` until `stop` resolves, then drains.
///
/// # Errors
/// Never for what a client does; only when the drain timeout passes with requests still at work.
pub async fn serve(
    service: Arc<Service>,
    listener: TcpListener,
    settings: &ServerSettings,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let graceful = GracefulShutdown::new();
    let connections = Arc::new(Semaphore::new(settings.max_connections));
    tokio::pin!(stop);
    loop {
        // The permit comes first: beyond the cap nobody is accepted, so nothing is held for them.
        let permit = tokio::select! {
            permit = Arc::clone(&connections).acquire_owned() => permit?,
            () = &mut stop => break,
        };
        let (stream, client) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Such as too many open files: others may close theirs in a moment.
                    tracing::warn!("cannot accept a connection: {error}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = &mut stop => break,
        };
        let connection = connection(Arc::clone(&service), stream, client, settings);
        let watched = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = watched.await {
                tracing::debug!("a connection ended: {error}");
            }
            drop(permit);
        });
    }
    service.drain();
    drop(listener);
    tracing::info!("stopping: no new connections, finishing what was accepted");
    tokio::time::timeout(settings.drain_timeout, graceful.shutdown())
        .await
        .with_context(|| format!("requests were still at work after {:?}", settings.drain_timeout))
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
