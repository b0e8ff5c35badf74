//! HTTP/1.1 and HTTP/2 on sockets: accepts connections, passes their requests to the handler, and on a signal
//! to stop finishes the requests that have arrived.
//!
//! `places` limits the number of connections; `connection` serves one, through these layers: `paced` ends
//! connections whose clients do not read, `tls` encrypts, and `http2` serves streams. For HTTP/1.1 `socket`
//! delivers early refusals, `half_close` handles clients that end their sending half early, and `refusal`
//! replaces hyper's own refusals by problem details. `exchange` is the state they share. Answering requests
//! is left to `handler`.

mod connection;
mod exchange;
mod half_close;
mod http2;
mod paced;
mod places;
mod refusal;
mod serving;
mod signals;
mod socket;
mod tls;

pub use signals::{HangUps, stop_signal};
pub use tls::Tls;

use crate::handler::Handler;
use crate::service::Service;
use crate::shortage;
use crate::timeouts::Timeouts;
use connection::turn_away;
use places::{Limits, Places, Refused};
use serving::{LAST_LOOK, Serving};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

/// Settings of the server.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// The longest waits for a client.
    pub timeouts: Timeouts,
    /// How long requests may continue after a signal to stop.
    pub drain_timeout: Duration,
    /// Most connections of one address; `None` allows all of them to one address until another needs some.
    pub connections_per_address: Option<usize>,
    /// The certificate; `None` serves plain HTTP.
    pub tls: Option<Arc<Tls>>,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            timeouts: Timeouts::default(),
            drain_timeout: Duration::from_secs(30),
            connections_per_address: None,
            tls: None,
        }
    }
}

/// What a port is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Port {
    /// For the application.
    Main,
    /// For the runner's own endpoints.
    Admin,
}

/// Becomes true when the service stops.
type Stopping = watch::Receiver<bool>;

/// Most connections to the admin port.
pub(crate) const ADMIN_CONNECTIONS: usize = 8;

/// For how long `/readyz` fails before the server stops accepting, so that load balancers can notice.
const NOTICE: Duration = Duration::from_millis(500);

/// How often the files of tokens and certificates are checked for changes.
const REFRESH_EVERY: Duration = Duration::from_secs(2);

/// How often slow connections that delay other clients are looked for.
const SLOW_CHECK_EVERY: Duration = Duration::from_millis(250);

/// Timeout for sending the last traces.
const TRACES_TIMEOUT: Duration = Duration::from_secs(2);

/// Listens on `address`. `buffer` limits the kernel's buffer of each connection in each direction, in bytes,
/// as the kernel counts. By default such buffers grow to megabytes, which count in the control group.
///
/// # Errors
/// When the address cannot be bound.
pub fn listen(address: SocketAddr, buffer: u32) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    // The kernel doubles these numbers to include its bookkeeping (socket(7)).
    socket.set_recv_buffer_size(buffer / 2)?;
    socket.set_send_buffer_size(buffer / 2)?;
    socket.bind(address)?;
    socket.listen(1024)
}

/// Passes requests on `listener` to `handler`, and those on `admin`, if given, to the runner's own endpoints.
/// When `stop` resolves, it first makes `/readyz` fail, accepts for another moment, and then finishes the
/// requests that have arrived. At each of `hang_ups` it checks the files of tokens and certificates.
///
/// # Errors
/// When the last traces cannot be sent; never because of a client.
pub async fn serve(
    handler: Arc<Handler>,
    listener: TcpListener,
    admin: Option<TcpListener>,
    settings: &ServerSettings,
    stop: impl Future<Output = ()>,
    hang_ups: HangUps,
) -> anyhow::Result<()> {
    let (stops, stopping) = watch::channel(false);
    let service = Arc::clone(&handler.service);
    let all = service.plan().connections;
    let address = settings.connections_per_address.unwrap_or(usize::MAX);
    let listening = |listener, port, limits| Listening {
        listener,
        places: Places::new(limits, settings.timeouts),
        serving: Serving { handler: Arc::clone(&handler), settings: settings.clone(), port },
        stopping: stopping.clone(),
    };
    let main = listening(listener, Port::Main, Limits { all, address });
    let limits = Limits { all: ADMIN_CONNECTIONS, address: usize::MAX };
    let admin = admin.map(|listener| listening(listener, Port::Admin, limits));
    let tidied = Arc::clone(&service);
    let tidying = tokio::spawn(async move { tidied.tidy().await });
    let refreshing = tokio::spawn(refresh(Arc::clone(&handler), settings.tls.clone(), hang_ups));
    let evicting = tokio::spawn(end_slow(Arc::clone(&service), Arc::clone(&main.places)));
    // The admin port stays open until the end, so that probes can observe the shutdown.
    let admin = tokio::spawn(async move {
        if let Some(admin) = admin {
            admin.accept_until(std::future::pending()).await;
        }
    });
    let stopped = async {
        stop.await;
        service.drain();
        tracing::info!(
            "stopping: /readyz fails from now on; requests that have arrived are finished"
        );
        sleep(NOTICE).await;
    };
    main.accept_until(stopped).await;
    main.drain(stops).await;
    for task in [tidying, refreshing, evicting, admin] {
        task.abort();
    }
    service.remove_files();
    if let Some(tracer) = handler.tracer.clone() {
        tokio::task::spawn_blocking(move || tracer.finish(TRACES_TIMEOUT)).await?;
    }
    Ok(())
}

/// Reads tokens and certificates again if their files have changed: every few seconds, and on SIGHUP. Never
/// returns.
async fn refresh(handler: Arc<Handler>, tls: Option<Arc<Tls>>, mut hang_ups: HangUps) {
    loop {
        tokio::select! {
            () = sleep(REFRESH_EVERY) => {}
            () = hang_ups.next() => tracing::info!("SIGHUP: checking tokens and certificates"),
        }
        let (refreshed, tls) = (Arc::clone(&handler), tls.clone());
        let check = move || {
            refreshed.access.refresh();
            if let Some(tls) = tls {
                tls.refresh();
            }
        };
        if handler.service.keeper.run(check).await.is_err() {
            tracing::error!("checking tokens and certificates failed; it is tried again");
        }
    }
}

/// Ends slow connections while other requests wait for the memory they hold. Never returns.
async fn end_slow(service: Arc<Service>, places: Arc<Places>) {
    loop {
        sleep(SLOW_CHECK_EVERY).await;
        if service.is_held_up() {
            places.end_slow();
        }
    }
}

/// A port on which the server listens.
struct Listening {
    listener: TcpListener,
    places: Arc<Places>,
    serving: Serving,
    stopping: Stopping,
}

impl Listening {
    /// Accepts until `stopped` resolves. A connection already accepted is still served.
    async fn accept_until(&self, stopped: impl Future<Output = ()>) {
        let mut stopped = pin!(stopped);
        loop {
            let accept = async {
                shortage::accept()?;
                self.listener.accept().await
            };
            let accepted = tokio::select! {
                () = &mut stopped => return,
                accepted = accept => accepted,
            };
            match accepted {
                Ok((stream, client)) => {
                    let mut served = pin!(self.serve_client(stream, client));
                    tokio::select! {
                        () = &mut served => {}
                        () = &mut stopped => return served.await,
                    }
                }
                Err(error) => {
                    // For example too many open files: another connection may close in a moment.
                    tracing::warn!("cannot accept a connection: {error}");
                    sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    /// Serves a connection as soon as there is a place for it. Meanwhile no other is accepted: those behind
    /// it stay in the kernel's backlog and take no memory here.
    async fn serve_client(&self, stream: TcpStream, client: SocketAddr) {
        let Serving { handler, settings, .. } = &self.serving;
        match self.places.wait(handler.access.counted_address(client.ip())).await {
            Ok(place) => {
                let serving = self.serving.clone();
                tokio::spawn(serving.client(stream, client, place, self.stopping.clone()));
            }
            Err(Refused::Address | Refused::Full) => {
                handler.service.turned_away();
                turn_away(&stream, settings.tls.is_some());
            }
        }
    }

    /// Finishes the requests that have arrived, those in the kernel's backlog included. Slow clients are cut
    /// off.
    async fn drain(self, stops: watch::Sender<bool>) {
        let timeout = self.serving.settings.drain_timeout;
        let end = Instant::now() + timeout;
        let backlog = async {
            while let Some(Ok((stream, client))) = self.waiting().await {
                self.serve_client(stream, client).await;
            }
        };
        let _ = timeout_at(end, backlog).await;
        let _ = stops.send(true);
        let Self { listener, places, .. } = self;
        drop(listener);
        let last_request = Instant::now() + LAST_LOOK;
        while places.taken() > 0 {
            let now = Instant::now();
            if now >= end {
                tracing::warn!("requests still at work after {timeout:?} are cut off");
                return;
            }
            // Idle connections may still deliver a request until then.
            if now >= last_request {
                places.end_overdue();
            }
            places.change().await;
        }
    }

    /// The next connection in the kernel's backlog, if there is one now.
    async fn waiting(&self) -> Option<std::io::Result<(TcpStream, SocketAddr)>> {
        let accepted = poll_fn(|context| {
            Poll::Ready(match self.listener.poll_accept(context) {
                Poll::Ready(accepted) => Some(accepted),
                Poll::Pending => None,
            })
        });
        // Outside of tokio's cooperative budget, which could make a full backlog look empty.
        tokio::task::unconstrained(accepted).await
    }
}
