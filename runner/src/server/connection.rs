//! One connection: its layers, and the requests it passes to the handler. Limits on connections are left to
//! `places`.
//!
//! ```text
//! TCP ─ paced ─ TLS, if there is a certificate ─┬─ socket ─ hyper ─ answer
//!                                               └─ http2 ─ hyper ─ answer
//! ```

use super::http2::{self, ALPN, PREFACE};
use super::paced::Paced;
use super::places::Place;
use super::refusal::Limits;
use super::serving::{LAST_WORD, Serving, last_look};
use super::socket::Socket;
use super::{Port, Stopping};
use crate::admission::Refusal;
use crate::problem::Problem;
use http::{HeaderValue, Request, header};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

impl Serving {
    /// Serves a connection until the client closes it, its place is given to another, or it is idle while the
    /// service stops.
    pub(super) async fn client(
        self,
        stream: TcpStream,
        client: SocketAddr,
        place: Place,
        stopping: Stopping,
    ) {
        // Answers are written whole; waiting to fill a packet (Nagle's algorithm) would only delay them.
        let _ = stream.set_nodelay(true);
        let timeouts = self.settings.timeouts;
        let place = Arc::new(place);
        let mut stream = Paced::new(stream, Arc::clone(&place.exchange), timeouts.answer);
        let work = async {
            match self.settings.tls.clone().filter(|_| self.port != Port::Admin) {
                None => {
                    let preface = tokio::time::timeout(timeouts.head, stream.begins_with(PREFACE));
                    let Ok(Ok(is_http2)) = preface.await else { return };
                    self.serve(stream, is_http2, client, &place, stopping).await;
                }
                Some(tls) => {
                    let handshake = tokio::time::timeout(timeouts.head, tls.accept(stream));
                    let Ok(Ok(stream)) = handshake.await else {
                        tracing::debug!("a connection ended during the TLS handshake");
                        return;
                    };
                    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(ALPN);
                    self.serve(stream, is_http2, client, &place, stopping).await;
                }
            }
        };
        let mut work = pin!(work);
        tokio::select! {
            () = &mut work => return,
            () = place.lost() => tracing::debug!("a connection was evicted for another"),
        }
        if place.refuse() {
            let _ = tokio::time::timeout(LAST_WORD, work).await;
        }
    }

    /// Serves the requests on a connection by its protocol.
    async fn serve<S>(
        &self,
        stream: S,
        is_http2: bool,
        client: SocketAddr,
        place: &Arc<Place>,
        stopping: Stopping,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        // The admin port's few probes need no second protocol.
        match is_http2 && self.port != Port::Admin {
            true => http2::serve(self, stream, client, place, stopping).await,
            false => self.requests(stream, client, place, stopping).await,
        }
    }

    async fn requests<S>(
        &self,
        stream: S,
        client: SocketAddr,
        place: &Arc<Place>,
        stopping: Stopping,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut connection = pin!(self.connection(stream, client, place));
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = last_look(stopping) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!("a connection ended: {error}");
        }
    }

    fn connection<S>(
        &self,
        stream: S,
        client: SocketAddr,
        place: &Arc<Place>,
    ) -> impl GracefulConnection<Error = hyper::Error> + use<S>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (timeouts, service) = (self.settings.timeouts, &self.handler.service);
        let limits = Limits { head: service.plan().max_head, body: service.max_body() };
        let socket = Socket::new(stream, Arc::clone(&place.exchange), limits, timeouts.linger);
        let (serving, place) = (self.clone(), Arc::clone(place));
        hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(timeouts.head)
            .max_buf_size(limits.head as usize)
            .serve_connection(
                TokioIo::new(socket),
                service_fn(move |request: Request<_>| {
                    let (serving, place) = (serving.clone(), Arc::clone(&place));
                    let request = request.map(|body| place.exchange.incoming(body));
                    async move {
                        let (mut answer, recording) = serving.answer(request, client, &place).await;
                        if place.exchange.has_unread_input() || place.for_probes || place.is_lost()
                        {
                            // hyper closes after unread input, but does not announce it.
                            let close = HeaderValue::from_static("close");
                            answer.headers_mut().insert(header::CONNECTION, close);
                        }
                        let answer = answer.map(|body| place.exchange.outgoing(body, recording));
                        Ok::<_, std::convert::Infallible>(answer)
                    }
                }),
            )
    }
}

/// Answers a client whose address has too many connections, if the answer can be written at once.
pub(super) fn turn_away(stream: &TcpStream, is_encrypted: bool) {
    if !is_encrypted {
        let problem = Problem::Busy(Refusal::Address);
        let _ = stream.try_write(&super::refusal::answer(&problem));
    }
}
