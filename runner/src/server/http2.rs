//! HTTP/2 on one connection, with prior knowledge or chosen by TLS (ALPN). A stream is treated as a
//! connection of HTTP/1.1 is: it has a place of its own, which is counted with its address, lost to others by
//! the same rules, and kept until the client has taken the answer's last byte.
//!
//! A connection ends when it is idle, when its client stops reading, or when the client resets one stream
//! after another. Frames, windows and header compression are left to the library h2, within the limits set
//! here.

use super::Stopping;
use super::exchange::Exchange;
use super::places::{Place, Places};
use super::serving::{LAST_WORD, Serving, last_look};
use crate::handler::{Answer, AnswerBody};
use crate::timeouts::Portion;
use crate::trace::Recording;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::{Body, Frame, SizeHint};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep, timeout};

/// The first bytes of a client with prior knowledge (RFC 9113, section 3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The protocol's name in TLS.
pub(super) const ALPN: &[u8] = b"h2";

/// Streams that a connection may have at once.
const MAX_STREAMS: u32 = 32;
/// Bytes that a client may send ahead of what is read, on one stream and on the whole connection: the
/// smallest that the protocol allows for a connection.
const WINDOW: u32 = (64 << 10) - 1;
/// Bytes of an answer that wait for the client, besides the piece that was written last.
const SEND_BUFFER: usize = 32 << 10;
/// Streams that a client may reset before they were seen here.
const MAX_RESETS_UNSEEN: usize = 20;
/// Streams that a client may leave before their end. A whole answer makes up for one that was left.
const MAX_LEFT: u32 = 100;
/// How often a connection is checked for being idle.
const CHECK_EVERY: Duration = Duration::from_secs(1);

tokio::task_local! {
    /// The stream whose request the task answers.
    static STREAM: Arc<Stream>;
}

/// What the streams of a connection share.
struct Streams {
    places: Arc<Places>,
    /// The client's address, if its connections are counted.
    counted: Option<IpAddr>,
    /// The connection's own.
    exchange: Arc<Exchange>,
    state: Mutex<State>,
    /// Notified when the connection must end.
    end: Notify,
    /// How fast an answer must be taken.
    pace: Portion,
}

struct State {
    open: usize,
    /// Streams that may still be left before their end.
    may_leave: u32,
}

/// One stream, until its last byte was taken.
struct Stream {
    streams: Arc<Streams>,
    /// `None` if there was none; the request is then refused.
    place: Option<Arc<Place>>,
    /// Whether its answer ended by itself.
    is_finished: AtomicBool,
    /// Dropped with the stream.
    _ended: oneshot::Sender<Infallible>,
}

/// Serves `io` until the client closes it, it is idle, or the service stops.
pub(super) async fn serve<S>(
    serving: &Serving,
    io: S,
    client: SocketAddr,
    place: &Arc<Place>,
    stopping: Stopping,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let timeouts = serving.settings.timeouts;
    let streams = Arc::new(Streams {
        places: Arc::clone(place.places()),
        counted: serving.handler.access.counted_address(client.ip()),
        exchange: Arc::clone(&place.exchange),
        state: Mutex::new(State { open: 0, may_leave: MAX_LEFT }),
        end: Notify::new(),
        pace: timeouts.answer,
    });
    let answers = serving.clone();
    let service = service_fn(move |request: Request<_>| {
        let serving = answers.clone();
        async move {
            let stream = STREAM.try_with(Arc::clone).map_err(std::io::Error::other)?;
            Ok::<_, std::io::Error>(stream.answer(&serving, request, client).await)
        }
    });
    let mut connection = pin!(
        http2::Builder::new(Executor(Arc::clone(&streams)))
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .max_header_list_size(serving.handler.service.plan().max_head)
            .max_pending_accept_reset_streams(MAX_RESETS_UNSEEN)
            .serve_connection(TokioIo::new(io), service)
    );
    tokio::select! {
        ended = &mut connection => return log(ended),
        () = streams.end.notified() => return log_end(),
        () = streams.idle(timeouts.head) => {}
        () = last_look(stopping) => {}
    }
    connection.as_mut().graceful_shutdown();
    loop {
        tokio::select! {
            ended = &mut connection => return log(ended),
            () = streams.end.notified() => return log_end(),
            () = sleep(LAST_WORD) => if streams.are_none() { return },
        }
    }
}

fn log(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!("a connection of HTTP/2 ended: {error}");
    }
}

fn log_end() {
    tracing::debug!(
        "a connection of HTTP/2 was ended: its client does not read, or resets its streams"
    );
}

/// Runs streams, each in a task of its own.
#[derive(Clone)]
struct Executor(Arc<Streams>);

impl<F> hyper::rt::Executor<F> for Executor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, work: F) {
        tokio::spawn(Arc::clone(&self.0).run(work));
    }
}

impl Streams {
    /// Runs a stream to its end.
    async fn run(self: Arc<Self>, work: impl Future<Output = ()>) {
        let (ended, end) = oneshot::channel();
        let stream = Arc::new(Stream::new(&self, ended));
        let place = stream.place.clone();
        self.work(place, STREAM.scope(stream, work)).await;
        // The answer's last bytes may still wait for the client; only the end of the connection drops them.
        if timeout(self.pace.within, end).await.is_err() {
            self.end.notify_one();
        }
    }

    /// Works on a stream until its answer ended or its place was lost. Dropping `work` resets the stream.
    async fn work(&self, place: Option<Arc<Place>>, work: impl Future<Output = ()>) {
        let mut work = pin!(work);
        let Some(place) = place else { return work.await };
        tokio::select! {
            () = &mut work => return,
            () = stalled(&place.exchange, self.pace) => {
                return tracing::debug!("a stream was ended: its client does not take the answer");
            }
            () = place.lost() => tracing::debug!("a stream was evicted for another client"),
        }
        if place.refuse() {
            let _ = timeout(LAST_WORD, work).await;
        }
    }

    /// Resolves when there was no stream for `time`.
    async fn idle(&self, time: Duration) {
        loop {
            let waited = self.exchange.waited(Instant::now());
            if waited.is_idle && waited.time >= time {
                return;
            }
            sleep(CHECK_EVERY.min(time)).await;
        }
    }

    fn are_none(&self) -> bool {
        self.state().open == 0
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Resolves when the client takes its answer too slowly.
async fn stalled(exchange: &Exchange, pace: Portion) {
    while !exchange.is_stalled(Instant::now(), pace) {
        sleep(CHECK_EVERY).await;
    }
}

impl Stream {
    fn new(streams: &Arc<Streams>, ended: oneshot::Sender<Infallible>) -> Self {
        let place = streams.places.take(streams.counted, Instant::now()).ok().map(Arc::new);
        let mut state = streams.state();
        state.open += 1;
        streams.exchange.works();
        drop(state);
        let streams = Arc::clone(streams);
        Self { streams, place, is_finished: AtomicBool::new(false), _ended: ended }
    }

    async fn answer<B>(
        self: Arc<Self>,
        serving: &Serving,
        request: Request<B>,
        client: SocketAddr,
    ) -> Response<StreamBody>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let method = request.method().clone();
        let (answer, recording) = match &self.place {
            Some(place) => {
                let request = request.map(|body| place.exchange.incoming(body));
                let answered = serving.answer(request, client, place).await;
                place.exchange.answers();
                answered
            }
            None => (serving.handler.refuse(&request), None),
        };
        self.respond(&method, answer, recording)
    }

    /// The answer as HTTP/2 sends it: without a body where HTTP has none, which hyper sees to only in HTTP/1.
    fn respond(
        self: Arc<Self>,
        method: &Method,
        answer: Answer,
        recording: Option<Recording>,
    ) -> Response<StreamBody> {
        let (mut head, body) = answer.into_parts();
        let is_empty = matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let has_body = *method != Method::HEAD && !is_empty;
        if let Some(length) = body.size_hint().exact().filter(|_| !is_empty) {
            head.headers.entry(header::CONTENT_LENGTH).or_insert(HeaderValue::from(length));
        }
        if !has_body || body.is_end_stream() {
            self.is_finished.store(true, Ordering::Relaxed);
        }
        let body = has_body.then_some(body);
        Response::from_parts(
            head,
            StreamBody { body, given: 0, stream: self, _recording: recording },
        )
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut state = self.streams.state();
        state.open -= 1;
        if state.open == 0 {
            self.streams.exchange.rests();
        }
        if self.is_finished.load(Ordering::Relaxed) {
            state.may_leave = (state.may_leave + 1).min(MAX_LEFT);
        } else {
            state.may_leave = state.may_leave.saturating_sub(1);
        }
        if state.may_leave == 0 {
            self.streams.end.notify_one();
        }
    }
}

/// The body of an answer. hyper asks for a piece once the client has begun to take the one before.
struct StreamBody {
    /// `None` for an answer without a body.
    body: Option<AnswerBody>,
    /// Bytes of the last piece.
    given: u64,
    stream: Arc<Stream>,
    /// Held for its effect when dropped.
    _recording: Option<Recording>,
}

impl Body for StreamBody {
    type Data = Bytes;
    type Error = <AnswerBody as Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        let exchange = this.stream.place.as_ref().map(|place| &place.exchange);
        if let Some(exchange) = exchange {
            exchange.client_took(std::mem::take(&mut this.given));
        }
        let frame = ready!(Pin::new(&mut *body).poll_frame(context));
        let frame = frame.map(|frame| frame.map(Frame::into_data));
        if body.is_end_stream() || !matches!(frame, Some(Ok(Ok(_)))) {
            this.stream.is_finished.store(true, Ordering::Relaxed);
        }
        Poll::Ready(match frame {
            Some(Ok(Ok(bytes))) => {
                this.given = bytes.len() as u64;
                if let Some(exchange) = exchange {
                    exchange.client_is_full();
                }
                let piece = Piece { bytes, _stream: Arc::clone(&this.stream) };
                Some(Ok(Frame::data(Bytes::from_owner(piece))))
            }
            Some(Ok(Err(trailers))) => Some(Ok(trailers)),
            Some(Err(error)) => Some(Err(error)),
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

/// A piece of an answer with its stream, which ends with the last piece.
struct Piece {
    bytes: Bytes,
    _stream: Arc<Stream>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::{Exchange, Instant, Portion};
    use std::time::Duration;
    use tokio::time::advance;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_too_little_of_its_answer_is_stalled() {
        let pace = Portion { bytes: 1000, within: Duration::from_secs(30) };
        let exchange = Exchange::default();
        let is_stalled = || exchange.is_stalled(Instant::now(), pace);
        advance(Duration::from_secs(60)).await;
        assert!(!is_stalled(), "there is no answer yet");
        exchange.answers();
        advance(Duration::from_secs(60)).await;
        assert!(!is_stalled(), "the client waits for the server");
        exchange.client_is_full();
        advance(Duration::from_secs(29)).await;
        assert!(!is_stalled());
        advance(Duration::from_secs(1)).await;
        assert!(is_stalled());
        exchange.client_took(1000);
        assert!(!is_stalled(), "it has caught up");
        exchange.client_is_full();
        advance(Duration::from_secs(30)).await;
        assert!(is_stalled(), "in 60 s it owes twice as much");
    }
}
