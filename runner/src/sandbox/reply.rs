//! The body of a component's answer, between the instance that writes it and the connection that sends it.

use crate::account::{CHUNK, CHUNKS};
use crate::memory::AnswerHold;
use crate::nn::Deadline;
use bytes::Bytes;
use http::Response;
use hyper::body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, ready};
use tokio::sync::oneshot;
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

/// An answer whose body may still be in progress.
pub type Reply = Response<ReplyBody>;

/// Where an instance's answer goes once it has its head.
pub(super) type HeadSender = oneshot::Sender<Result<Response<HyperOutgoingBody>, ErrorCode>>;

/// A reply's body. Dropped before its end, it stops the instance that writes it.
pub struct ReplyBody {
    pub(super) body: HyperOutgoingBody,
    pub(super) client: Option<oneshot::Sender<()>>,
    /// Whether the guest failed: then the end of `body` is not the end of the answer.
    pub(super) broken: Arc<AtomicBool>,
    /// Dropped with the body; it then prevents the guest from starting another run of a model.
    #[expect(dead_code, reason = "held for its effect when dropped")]
    pub(super) cancel_on_drop: CancelOnDrop,
    /// The answer's bytes in the ledger, until the client has read it.
    pub(super) hold: Option<AnswerHold>,
    /// Called once if the answer breaks off.
    pub(super) broke_off: Option<Box<dyn FnOnce() + Send>>,
}

/// Cancels an instance's request when dropped.
pub(super) struct CancelOnDrop(pub(super) Arc<Deadline>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = wasmtime_wasi_http::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let mut frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if frame.is_none() && self.broken.load(Ordering::Acquire) {
            frame = Some(Err(ErrorCode::HttpResponseIncomplete.into()));
        }
        match &frame {
            None => self.release_guest(),
            Some(Err(_)) => {
                if let Some(broke_off) = self.broke_off.take() {
                    broke_off();
                }
            }
            Some(Ok(_)) => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl ReplyBody {
    /// Most bytes of an answer that are queued at once.
    pub(crate) const BYTES: u64 = (CHUNKS * CHUNK) as u64;

    /// Keeps `hold` until the answer has been read.
    pub(crate) fn holding(mut self, hold: AnswerHold) -> Self {
        self.hold = Some(hold);
        self
    }

    /// Calls `then` once if the answer breaks off: after a panic, a deadline, or less than was announced.
    pub(crate) fn when_broken_off(mut self, then: Box<dyn FnOnce() + Send>) -> Self {
        self.broke_off = Some(then);
        self
    }

    fn release_guest(&mut self) {
        if let Some(client) = self.client.take() {
            // The guest may have ended already, and the receiver is gone.
            let _ = client.send(());
        }
    }
}

impl Drop for ReplyBody {
    fn drop(&mut self) {
        // hyper does not poll a body that reports its end.
        if self.body.is_end_stream() {
            self.release_guest();
        }
    }
}
