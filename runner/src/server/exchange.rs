//! What a connection knows of the request it carries: whether one is being answered, whether the client may
//! still be sending what nobody will read, and how long the client has been waited for.
//!
//! Shared between the socket, which sees bytes, the service, which sees requests and answers, and `places`,
//! which asks who has been waited for the longest.

use crate::timeouts::{SLOWEST, Timeouts};
use crate::trace::Recording;
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;

/// One connection's state.
#[derive(Debug)]
pub(super) struct Exchange {
    unread: AtomicBool,
    /// Whether no more of the request is to be read.
    is_whole: AtomicBool,
    client: Mutex<Waiting>,
}

/// How long the client has been waited for since the last turn: its head, its body, its reading the answer.
#[derive(Debug)]
struct Waiting {
    turn: Turn,
    since: Option<Instant>,
    before: Duration,
    bytes: u64,
}

/// What is going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// No request, or no whole head of one.
    Head,
    Body,
    Answer,
}

impl Default for Exchange {
    fn default() -> Self {
        let client = Waiting {
            turn: Turn::Head,
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
    /// Whether a request was taken and its answer has not ended.
    pub(super) fn at_work(&self) -> bool {
        self.client().turn != Turn::Head
    }

    /// Whether no more of the request is to be read.
    pub(super) fn is_whole(&self) -> bool {
        self.is_whole.load(Ordering::Acquire)
    }

    /// Whether more of the request's body is waited for.
    pub(super) fn wants_body(&self) -> bool {
        let client = self.client();
        client.turn == Turn::Body && client.since.is_some()
    }

    /// Whether some of a request was not read.
    pub(super) fn has_unread_input(&self) -> bool {
        self.unread.load(Ordering::Acquire)
    }

    /// Notes that the rest of a request will not be read.
    pub(super) fn leave_unread(&self) {
        self.unread.store(true, Ordering::Release);
    }

    /// A request's body; what is left of it when it is dropped is noted as unread.
    pub(super) fn incoming<B: Body>(self: &Arc<Self>, body: B) -> Incoming<B> {
        let ended = body.is_end_stream();
        self.is_whole.store(ended, Ordering::Release);
        self.client().begin(Turn::Body, None);
        Incoming { body, exchange: Arc::clone(self), ended }
    }

    /// An answer's body; the request is at work, and recorded, until it is dropped.
    pub(super) fn outgoing<B>(
        self: &Arc<Self>,
        body: B,
        recording: Option<Recording>,
    ) -> Outgoing<B> {
        self.client().begin(Turn::Answer, None);
        Outgoing { body, exchange: Arc::clone(self), recording }
    }

    /// The client does not take what it is sent.
    pub(super) fn client_is_full(&self) {
        self.client().wait();
    }

    /// The client took so many bytes after it had been full.
    pub(super) fn client_took(&self, bytes: u64) {
        self.client().moved(bytes);
    }

    /// How long the client has been waited for.
    pub(super) fn waited(&self, now: Instant) -> Waited {
        let client = self.client();
        let waits =
            client.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let time = client.before + waits;
        let is_now = client.since.is_some();
        let is_idle = is_now && client.turn == Turn::Head;
        Waited { time, is_now, is_idle, bytes: client.bytes }
    }

    /// Whether a request is at work whose answer has not begun.
    pub(super) fn can_be_refused(&self) -> bool {
        self.client().turn == Turn::Body
    }

    fn client(&self) -> MutexGuard<'_, Waiting> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`Exchange::waited`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Waited {
    /// For how long, all of the turn together.
    pub(super) time: Duration,
    /// Whether it is waited for now; else it waits for us.
    is_now: bool,
    /// Whether it has no request at work.
    pub(super) is_idle: bool,
    /// What it moved meanwhile.
    bytes: u64,
}

impl Waited {
    /// Whether others should not have to wait for it; `has_many` is whether its address has more connections
    /// than theirs.
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
    fn begin(&mut self, turn: Turn, since: Option<Instant>) {
        *self = Self { turn, since, before: Duration::ZERO, bytes: 0 };
    }

    fn wait(&mut self) {
        self.since.get_or_insert_with(Instant::now);
    }

    fn moved(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.turn != Turn::Head
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
        // From here on the client waits for us.
        self.exchange.client().moved(0);
    }
}

/// See [`Exchange::outgoing`].
pub(super) struct Outgoing<B> {
    body: B,
    exchange: Arc<Exchange>,
    #[expect(dead_code, reason = "it is there to be dropped")]
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
        self.exchange.client().begin(Turn::Head, Some(Instant::now()));
    }
}
