//! The state of a connection's current request, or of a stream of HTTP/2: whether it is being answered,
//! whether some of it will stay unread, and how long the server has waited for the client.
//!
//! Shared by the socket, which sees bytes, the service, which sees requests and answers, and `places`, which
//! evicts the client that has been waited for the longest.

use crate::timeouts::{Portion, SLOWEST, Timeouts};
use crate::trace::Recording;
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;

/// The state of one connection.
#[derive(Debug)]
pub(super) struct Exchange {
    unread: AtomicBool,
    /// Whether reading the request has ended: it is complete, or its rest will not be read.
    is_whole: AtomicBool,
    client: Mutex<Waiting>,
}

/// How long the server has waited for the client in this phase.
#[derive(Debug)]
struct Waiting {
    phase: Phase,
    since: Option<Instant>,
    before: Duration,
    bytes: u64,
}

/// The phase of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No complete head of a request yet.
    Head,
    Body,
    Answer,
}

impl Default for Exchange {
    fn default() -> Self {
        let client = Waiting {
            phase: Phase::Head,
            since: Some(Instant::now()),
            before: Duration::ZERO,
            bytes: 0,
        };
        Self {
            unread: AtomicBool::default(),
            is_whole: AtomicBool::default(),
            client: Mutex::new(client),
        }
    }
}

impl Exchange {
    /// Whether a request has begun whose answer has not ended.
    pub(super) fn at_work(&self) -> bool {
        self.client().phase != Phase::Head
    }

    /// Whether reading the request has ended: it is complete, or its rest will not be read.
    pub(super) fn is_whole(&self) -> bool {
        self.is_whole.load(Ordering::Acquire)
    }

    /// Whether the server waits for more of the request's body.
    pub(super) fn wants_body(&self) -> bool {
        let client = self.client();
        client.phase == Phase::Body && client.since.is_some()
    }

    /// Whether some of a request will stay unread.
    pub(super) fn has_unread_input(&self) -> bool {
        self.unread.load(Ordering::Acquire)
    }

    /// Notes that the rest of a request will not be read.
    pub(super) fn leave_unread(&self) {
        self.unread.store(true, Ordering::Release);
    }

    /// A request's body; the rest of it is noted as unread when it is dropped.
    pub(super) fn incoming<B: Body>(self: &Arc<Self>, body: B) -> Incoming<B> {
        let ended = body.is_end_stream();
        self.is_whole.store(ended, Ordering::Release);
        self.client().begin(Phase::Body, None);
        Incoming { body, exchange: Arc::clone(self), ended }
    }

    /// An answer's body; until it is dropped the request is at work, and its trace open.
    pub(super) fn outgoing<B>(
        self: &Arc<Self>,
        body: B,
        recording: Option<Recording>,
    ) -> Outgoing<B> {
        self.answers();
        Outgoing { body, exchange: Arc::clone(self), recording }
    }

    /// Notes that a connection of several streams has some.
    pub(super) fn works(&self) {
        let mut client = self.client();
        if client.phase == Phase::Head {
            client.begin(Phase::Answer, None);
        }
    }

    /// Notes that a connection of several streams has none.
    pub(super) fn rests(&self) {
        self.client().begin(Phase::Head, Some(Instant::now()));
    }

    /// Notes that an answer begins.
    pub(super) fn answers(&self) {
        self.client().begin(Phase::Answer, None);
    }

    /// Whether the client has taken less of its answer than `pace` allows, while the server waited for it.
    pub(super) fn is_stalled(&self, now: Instant, pace: Portion) -> bool {
        let answers = self.client().phase == Phase::Answer;
        let Waited { time, bytes, .. } = self.waited(now);
        let portions = time.as_millis() / pace.within.as_millis().max(1);
        answers && u128::from(bytes) < portions * u128::from(pace.bytes)
    }

    /// Notes that the client takes no more bytes for now.
    pub(super) fn client_is_full(&self) {
        self.client().wait();
    }

    /// Notes that the client took `bytes` of the answer.
    pub(super) fn client_took(&self, bytes: u64) {
        self.client().moved(bytes);
    }

    /// How long the server has waited for the client in this phase.
    pub(super) fn waited(&self, now: Instant) -> Waited {
        let client = self.client();
        let waits =
            client.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let time = client.before + waits;
        let is_now = client.since.is_some();
        let is_idle = is_now && client.phase == Phase::Head;
        Waited { time, is_now, is_idle, bytes: client.bytes }
    }

    /// Whether there is a request whose answer has not begun.
    pub(super) fn can_be_refused(&self) -> bool {
        self.client().phase == Phase::Body
    }

    fn client(&self) -> MutexGuard<'_, Waiting> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`Exchange::waited`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Waited {
    /// For how long, over the whole phase.
    pub(super) time: Duration,
    /// Whether the server waits for the client now, rather than the client for the server.
    is_now: bool,
    /// Whether it has no request.
    pub(super) is_idle: bool,
    /// Bytes it sent or took in this phase.
    bytes: u64,
}

impl Waited {
    /// Whether the client may be evicted for another; `has_many` is whether its address has more connections
    /// than the other's.
    pub(super) fn is_overdue(&self, has_many: bool, timeouts: &Timeouts) -> bool {
        if self.is_idle {
            let many = has_many.then_some(timeouts.head_of_many_when_full);
            return self.time >= many.unwrap_or(timeouts.head_when_full);
        }
        let owed = self.time.as_millis() * u128::from(SLOWEST) / 1000;
        self.is_now && self.time >= timeouts.slow_when_full && u128::from(self.bytes) < owed
    }
}

impl Waiting {
    fn begin(&mut self, phase: Phase, since: Option<Instant>) {
        *self = Self { phase, since, before: Duration::ZERO, bytes: 0 };
    }

    fn wait(&mut self) {
        self.since.get_or_insert_with(Instant::now);
    }

    fn moved(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.phase != Phase::Head
            && let Some(since) = self.since.take()
        {
            self.before += since.elapsed();
        }
    }
}

/// See [`Exchange::incoming`].
pub(super) struct Incoming<B: Body> {
    body: B,
    exchange: Arc<Exchange>,
    ended: bool,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Incoming<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
            self.exchange.client().wait();
            return Poll::Pending;
        };
        let bytes = match &frame {
            Some(Ok(frame)) => frame.data_ref().map_or(0, |data| data.len() as u64),
            _ => 0,
        };
        self.exchange.client().moved(bytes);
        self.ended = frame.is_none();
        self.exchange.is_whole.store(self.ended || self.body.is_end_stream(), Ordering::Release);
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B: Body> Drop for Incoming<B> {
    fn drop(&mut self) {
        if !self.ended && !self.body.is_end_stream() {
            self.exchange.leave_unread();
        }
        self.exchange.is_whole.store(true, Ordering::Release);
        // From here on the client waits for the server.
        self.exchange.client().moved(0);
    }
}

/// See [`Exchange::outgoing`].
pub(super) struct Outgoing<B> {
    body: B,
    exchange: Arc<Exchange>,
    #[expect(dead_code, reason = "held for its effect when dropped")]
    recording: Option<Recording>,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Outgoing<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> Drop for Outgoing<B> {
    fn drop(&mut self) {
        self.exchange.rests();
    }
}
