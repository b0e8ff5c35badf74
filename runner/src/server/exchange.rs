//! What a connection knows of the request it carries: whether one is being answered, and whether the
//! client may still be sending what nobody will read.
//!
//! Shared between the socket, which sees bytes, and the service, which sees requests and answers.

use crate::trace::Recording;
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

/// One connection's state.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    at_work: AtomicBool,
    unread: AtomicBool,
}

impl Exchange {
    /// Whether a request was taken and its answer has not ended.
    pub(super) fn at_work(&self) -> bool {
        self.at_work.load(Ordering::Acquire)
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
        self.at_work.store(true, Ordering::Release);
        Incoming { body, exchange: Arc::clone(self), ended: false }
    }

    /// An answer's body; the request is at work, and recorded, until it is dropped.
    pub(super) fn outgoing<B>(
        self: &Arc<Self>,
        body: B,
        recording: Option<Recording>,
    ) -> Outgoing<B> {
        Outgoing { body, exchange: Arc::clone(self), recording }
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
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        self.ended = frame.is_none();
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
    }
}
