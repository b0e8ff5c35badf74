//! The body of an answer, with a time limit between two of its pieces.

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep};
use wasmtime_wasi_http::Error;

/// A body that fails if a piece takes too long.
pub(super) struct Timed<B, H> {
    body: B,
    limit: Duration,
    /// When the next piece is late, while one is waited for.
    late: Pin<Box<Sleep>>,
    is_waiting: bool,
    /// Dropped with the body.
    _held: H,
}

impl<B, H> Timed<B, H> {
    pub(super) fn new(body: B, limit: Duration, held: H) -> Self {
        Self { body, limit, late: Box::pin(sleep(limit)), is_waiting: false, _held: held }
    }
}

impl<B, H> Body for Timed<B, H>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Error>,
    H: Unpin,
{
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            self.is_waiting = false;
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        if !self.is_waiting {
            let end = Instant::now() + self.limit;
            self.late.as_mut().reset(end);
            self.is_waiting = true;
        }
        self.late.as_mut().poll(context).map(|()| Some(Err(Error::ConnectionReadTimeout)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
