//! What a connection knows of the request it carries: whether one is being answered, whether the client may
//! still be sending what nobody will read, and how long the client has been waited for.
//!
//! Shared between the socket, which sees bytes, the service, which sees requests and answers, and `places`,
//! which asks who has been waited for the longest.

use crate::timeouts::{SLOWEST, Timeouts};
use crate::trace::Recording;
use bytes::Bytes;
use http::Version;
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
    at_work: AtomicBool,
    unread: AtomicBool,
    /// Whether all of the request has been read.
    is_whole: AtomicBool,
    /// Whether the client understands an answer of the status 100 before its own.
    knows_continue: AtomicBool,
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
            at_work: AtomicBool::default(),
            unread: AtomicBool::default(),
            is_whole: AtomicBool::default(),
            knows_continue: AtomicBool::default(),
            client: Mutex::new(client),
        }
    }
}

impl Exchange {
    /// Whether a request was taken and its answer has not ended.
    pub(super) fn at_work(&self) -> bool {
        self.at_work.load(Ordering::Acquire)
    }

    /// Whether a request is being answered and nothing more of it can come.
    pub(super) fn has_whole_request(&self) -> bool {
        self.at_work() && self.is_whole.load(Ordering::Acquire)
    }

    /// Whether the client may be sent `100 Continue` (not one of HTTP/1.0).
    pub(super) fn knows_continue(&self) -> bool {
        self.knows_continue.load(Ordering::Acquire)
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
    pub(super) fn incoming<B: Body>(self: &Arc<Self>, version: Version, body: B) -> Incoming<B> {
        self.knows_continue.store(version >= Version::HTTP_11, Ordering::Release);
        self.at_work.store(true, Ordering::Release);
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

    /// How long the client has been waited for, if that is long enough to give its place to another.
    pub(super) fn overdue(&self, now: Instant, timeouts: &Timeouts) -> Option<Overdue> {
        let client = self.client();
        let waited = client.before + client.since.map_or(Duration::ZERO, |since| now - since);
        let owed = waited.as_millis() * u128::from(SLOWEST) / 1000;
        let (idle, limit) = match client.turn {
            Turn::Head => (true, timeouts.head_when_full),
            Turn::Body | Turn::Answer => (false, timeouts.slow_when_full),
        };
        let slow = idle || u128::from(client.bytes) < owed;
        (client.since.is_some() && waited >= limit && slow).then_some(Overdue { idle, waited })
    }

    fn client(&self) -> MutexGuard<'_, Waiting> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client that others should not have to wait for; the greater goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Overdue {
    /// It has no request at work.
    idle: bool,
    waited: Duration,
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
        self.exchange.at_work.store(false, Ordering::Release);
        self.exchange.client().begin(Turn::Head, Some(Instant::now()));
    }
}
