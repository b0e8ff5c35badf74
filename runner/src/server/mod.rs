//! HTTP/1.1 on sockets: accepts connections, hands requests to the service, and on a signal finishes
//! what arrived before it ends.
//!
//! `places` says who may have a connection, `connection` what happens on it, layer by layer: `paced` ends
//! clients that do not read, `tls` keeps others from reading, `socket` is what a refused client needs of a
//! connection, `half_close` what one needs that stops sending early, `refusal` hyper's own refusals in our
//! words, `exchange` what all of them know of the request. `handler` answers the requests.

mod connection;
mod exchange;
mod half_close;
mod paced;
mod places;
mod refusal;
mod signals;
mod socket;
mod tls;

pub use signals::{HangUps, stop_signal};
pub use tls::Tls;

use crate::handler::Handler;
use crate::service::Service;
use crate::shortage;
use crate::timeouts::Timeouts;
use connection::{LAST_LOOK, Serving, turn_away};
use places::{Limits, Places, Refused};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

/// How connections are treated.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// How long clients are waited for.
    pub timeouts: Timeouts,
    /// How long accepted requests may go on after a signal to stop.
    pub drain_timeout: Duration,
    /// Connections of one address; `None` is as many as there are places, while nobody else wants any.
    pub connections_per_address: Option<usize>,
    /// The certificate; `None` speaks plain HTTP.
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
    /// The application's.
    Main,
    /// The runner's own endpoints.
    Admin,
}

/// Turns to true when the service stops.
type Stopping = watch::Receiver<bool>;

/// Bytes of a request's head, target and fields together; longer ones are answered 431. It is also what
/// a connection may hold between socket and service, so it counts as often as there are connections.
pub(crate) const MAX_HEAD_BYTES: usize = 16 << 10;

/// Connections to the admin port.
pub(crate) const ADMIN_CONNECTIONS: usize = 8;

/// How long `/readyz` says that no more requests are wanted before no more are accepted: whoever sends
/// them here must be able to see it.
const NOTICE: Duration = Duration::from_millis(500);

/// How often files that an operator may have replaced are looked at.
const REFRESH_EVERY: Duration = Duration::from_secs(2);

/// How often it is seen whether slow clients are in others' way.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How long the last traces may take to be sent.
const TRACES_TIMEOUT: Duration = Duration::from_secs(2);

/// Listens on `address`. `buffer` is what the kernel may hold for each connection each way, in bytes, as the
/// kernel counts: its own defaults grow to megabytes, and they count in our control group.
///
/// # Errors
/// When the address cannot be had.
pub fn listen(address: SocketAddr, buffer: u32) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    // The kernel doubles what it is asked for, to have room for its own books (socket(7)).
    socket.set_recv_buffer_size(buffer / 2)?;
    socket.set_send_buffer_size(buffer / 2)?;
    socket.bind(address)?;
    socket.listen(1024)
}

/// Brings requests on `listener` to `handler`, and those for the runner's own endpoints on `admin` if that is
/// given, until `stop` resolves; then says so on `/readyz`, accepts for another moment, and finishes the requests
/// that arrived. At each of `hang_ups` tokens and certificates are read again.
///
/// # Errors
/// When the last traces cannot be sent. Never for what a client does.
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
    let keeper = Arc::clone(&service);
    let keeper = tokio::spawn(async move { keeper.tidy().await });
    let reader = tokio::spawn(refresh(Arc::clone(&handler), settings.tls.clone(), hang_ups));
    let slow = tokio::spawn(end_slow(Arc::clone(&service), Arc::clone(&main.places)));
    // Until the very end: probes must see how the rest is getting on.
    let admin = tokio::spawn(async move {
        if let Some(admin) = admin {
            admin.accept_until(std::future::pending()).await;
        }
    });
    let told = async {
        stop.await;
        service.drain();
        tracing::info!("stopping: /readyz says so, and what arrived is finished");
        sleep(NOTICE).await;
    };
    main.accept_until(told).await;
    main.drain(stops).await;
    for task in [keeper, reader, slow, admin] {
        task.abort();
    }
    service.remove_files();
    if let Some(tracer) = handler.tracer.clone() {
        tokio::task::spawn_blocking(move || tracer.finish(TRACES_TIMEOUT)).await?;
    }
    Ok(())
}

/// Reads tokens and certificates again when they have changed, for ever: every few seconds, and on SIGHUP.
async fn refresh(handler: Arc<Handler>, tls: Option<Arc<Tls>>, mut hang_ups: HangUps) {
    loop {
        tokio::select! {
            () = sleep(REFRESH_EVERY) => {}
            () = hang_ups.next() => tracing::info!("SIGHUP: tokens and certificates are looked at"),
        }
        let (refreshed, tls) = (Arc::clone(&handler), tls.clone());
        let look = move || {
            refreshed.access.refresh();
            if let Some(tls) = tls {
                tls.refresh();
            }
        };
        if handler.service.keeper.run(look).await.is_err() {
            tracing::error!("looking at tokens and certificates failed; it is tried again");
        }
    }
}

/// Ends clients that are slow while others wait for the memory they hold, for ever.
async fn end_slow(service: Arc<Service>, places: Arc<Places>) {
    loop {
        sleep(LOOK_EVERY).await;
        if service.is_held_up() {
            places.end_slow();
        }
    }
}

/// A port that is listened on.
struct Listening {
    listener: TcpListener,
    places: Arc<Places>,
    serving: Serving,
    stopping: Stopping,
}

impl Listening {
    /// Accepts until `told` resolves. A client that was accepted is never dropped for it.
    async fn accept_until(&self, told: impl Future<Output = ()>) {
        let mut told = pin!(told);
        loop {
            let accept = async {
                shortage::accept()?;
                self.listener.accept().await
            };
            let accepted = tokio::select! {
                () = &mut told => return,
                accepted = accept => accepted,
            };
            match accepted {
                Ok((stream, client)) => {
                    let mut seated = pin!(self.seat(stream, client));
                    tokio::select! {
                        () = &mut seated => {}
                        () = &mut told => return seated.await,
                    }
                }
                Err(error) => {
                    // Such as too many open files: others may close theirs in a moment.
                    tracing::warn!("cannot accept a connection: {error}");
                    sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    /// Serves a client once there is a place for it. Beyond this one nobody is accepted meanwhile, so nothing
    /// is held for those who wait.
    async fn seat(&self, stream: TcpStream, client: SocketAddr) {
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

    /// Finishes what arrived, those whom only the kernel has accepted so far among them. Clients that are
    /// slow are not waited for.
    async fn drain(self, stops: watch::Sender<bool>) {
        let timeout = self.serving.settings.drain_timeout;
        let end = Instant::now() + timeout;
        let backlog = async {
            while let Some(Ok((stream, client))) = self.waiting().await {
                self.seat(stream, client).await;
            }
        };
        let _ = timeout_at(end, backlog).await;
        let _ = stops.send(true);
        let Self { listener, places, .. } = self;
        drop(listener);
        let looked = Instant::now() + LAST_LOOK;
        while places.taken() > 0 {
            let now = Instant::now();
            if now >= end {
                tracing::warn!("requests were still at work after {timeout:?}, and are cut off");
                return;
            }
            // Until then idle connections are read from.
            if now >= looked {
                places.end_overdue();
            }
            places.change().await;
        }
    }

    /// A connection that the kernel has accepted, if there is one now.
    async fn waiting(&self) -> Option<std::io::Result<(TcpStream, SocketAddr)>> {
        let accepted = poll_fn(|context| {
            Poll::Ready(match self.listener.poll_accept(context) {
                Poll::Ready(accepted) => Some(accepted),
                Poll::Pending => None,
            })
        });
        // Not stopped by the runtime's own sharing of time, which would look like an end.
        tokio::task::unconstrained(accepted).await
    }
}
