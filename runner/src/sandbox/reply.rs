//! The body of a component's answer, between the instance that writes it and the connection that sends it.

use crate::account::{CHUNK, CHUNKS};
use crate::memory::AnswerHold;
use crate::nn::Deadline;
use bytes::Bytes;
use http::Response;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, ready};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use wasmtime_wasi_http::Error;
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

/// An answer whose body may still be in progress.
pub type Reply = Response<ReplyBody>;

/// Where an instance's answer goes once it has its head.
pub(super) type HeadSender = oneshot::Sender<Result<Response<HyperOutgoingBody>, ErrorCode>>;

/// A reply's body. Dropped before its end, it stops the instance that writes it.
pub struct ReplyBody {
    body: HyperOutgoingBody,
    client: Option<oneshot::Sender<()>>,
    /// Whether the guest failed: then the end of `body` is not the end of the answer.
    broken: Arc<AtomicBool>,
    /// Dropped with the body; it then prevents the guest from starting another run of a model.
    cancel_on_drop: Option<CancelOnDrop>,
    /// The answer's bytes in the ledger, until the client has read it.
    hold: Option<AnswerHold>,
    /// The `content-length` of the head, and the bytes of it that were passed on.
    announced: Option<u64>,
    passed: u64,
    /// Whether no client reads it, as the answer to HEAD: the guest's work goes on as with GET.
    is_unread: bool,
    /// Called once if the answer breaks off or goes on beyond its announced length.
    broke_off: Option<BrokeOff>,
}

/// Hears why an answer is broken.
pub(super) type BrokeOff = Box<dyn FnOnce(&'static str) + Send>;

/// Why an answer is broken, after "the component's answer".
const TOO_LONG: &str = "has more bytes than its content-length announced";

/// Cancels an instance's request when dropped.
pub(super) struct CancelOnDrop(pub(super) Arc<Deadline>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let mut frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if frame.is_none() && self.broken.load(Ordering::Acquire) {
            frame = Some(Err(ErrorCode::HttpResponseIncomplete.into()));
        }
        self.passed += frame.as_ref().map_or(0, data_bytes);
        let has_ended = frame.is_none();
        let is_wrong = self.announced.is_some_and(|announced| {
            // hyper would cut longer ones off, and the answer would look whole. Of shorter ones, wasmtime
            // loses its own error of WASI 0.3 if a piece is still in its channel.
            announced < self.passed || has_ended && (1..announced).contains(&self.passed)
        });
        if is_wrong {
            frame = Some(Err(Error::HttpResponseBodySize(Some(self.passed))));
        }
        match &frame {
            None => self.release_guest(),
            Some(Err(Error::HttpResponseBodySize(Some(length))))
                if self.announced.is_some_and(|announced| announced < *length) =>
            {
                self.tell(TOO_LONG);
            }
            Some(Err(_)) => self.tell("broke off after its head"),
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

    /// The body of an answer. At its end `broken` says whether the guest failed; `client` stops the guest.
    pub(super) fn new(
        body: HyperOutgoingBody,
        client: oneshot::Sender<()>,
        broken: Arc<AtomicBool>,
        cancel_on_drop: CancelOnDrop,
    ) -> Self {
        Self {
            body,
            client: Some(client),
            broken,
            cancel_on_drop: Some(cancel_on_drop),
            hold: None,
            announced: None,
            passed: 0,
            is_unread: false,
            broke_off: None,
        }
    }

    /// Lets the guest write a body that nobody reads.
    pub(super) fn unread(mut self) -> Self {
        self.is_unread = true;
        self
    }

    /// Keeps `hold` until the answer has been read.
    pub(crate) fn holding(mut self, hold: AnswerHold) -> Self {
        self.hold = Some(hold);
        self
    }

    /// Counts the body's bytes against the `content-length` of its head.
    pub(crate) fn announced(mut self, length: Option<u64>) -> Self {
        self.announced = length;
        self
    }

    /// Calls `then` once, with the reason, if the answer breaks off (after a panic, a deadline, or less than
    /// was announced) or has more than was announced.
    pub(crate) fn when_broken_off(mut self, then: BrokeOff) -> Self {
        self.broke_off = Some(then);
        self
    }

    fn tell(&mut self, reason: &'static str) {
        if let Some(broke_off) = self.broke_off.take() {
            broke_off(reason);
        }
    }

    /// Lets the guest end after an answer whose whole length was sent, or that nobody reads. Of the former,
    /// what it still writes is told.
    fn watch_the_rest(&mut self) {
        let Ok(runtime) = Handle::try_current() else { return };
        self.release_guest();
        let mut body = std::mem::take(&mut self.body);
        let held = (self.cancel_on_drop.take(), self.hold.take());
        let (broke_off, is_unread) = (self.broke_off.take(), self.is_unread);
        runtime.spawn(async move {
            let is_too_long = loop {
                match body.frame().await {
                    Some(Err(error)) => break matches!(error, Error::HttpResponseBodySize(_)),
                    Some(frame) if data_bytes(&frame) > 0 && !is_unread => break true,
                    Some(_) => {}
                    None => break false,
                }
            };
            if let Some(broke_off) = broke_off.filter(|_| is_too_long && !is_unread) {
                broke_off(TOO_LONG);
            }
            drop(held);
        });
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
        } else if self.is_unread || self.announced == Some(self.passed) {
            self.watch_the_rest();
        }
    }
}

fn data_bytes(frame: &Result<Frame<Bytes>, Error>) -> u64 {
    let data = frame.as_ref().ok().and_then(Frame::data_ref);
    data.map_or(0, |data| data.len() as u64)
}
