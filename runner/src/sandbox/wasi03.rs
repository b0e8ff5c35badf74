//! Calls a component of WASI 0.3, in an instance of its own like every other.
//!
//! The pieces of such an answer come out of a stream in the instance's store, which moves only while the
//! guest is run. So they are moved into a queue that is as long as that of WASI 0.2: a client that reads
//! slowly does not keep the instance.

use super::reply::HeadSender;
use super::start::instance;
use super::state::own;
use crate::account::{BODY, CHUNKS, SMALL};
use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, SizeHint};
use skincell_hosts::HostState;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::sync::mpsc;
use wasmtime::Store;
use wasmtime::component::Accessor;
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;
use wasmtime_wasi_http::p3::bindings::{Service, ServicePre};
use wasmtime_wasi_http::{Error, WasiBody, WasiHttpView as _, p3};

/// Beginning of the name of the handler that a component exports; the patch version follows.
pub(super) const HANDLER: &str = "wasi:http/handler@0.3.";

/// Most tasks, streams, futures and their ends that one instance has, all together: wasmtime keeps them
/// outside the account. The stream of a file, which keeps it open, and the future of its outcome are six.
const MAX_CONCURRENT: usize = 1_000;
/// The same for an instance of WASI 0.2, which needs a few for each call in progress.
const MAX_CONCURRENT_02: usize = 200;
/// The part of an instance's account that is left to them, in bytes.
pub(super) const CONCURRENT_BYTES: u64 = MAX_CONCURRENT as u64 * SMALL;

/// Limits the tasks, streams and futures of an instance.
pub(super) fn limit(store: &mut Store<HostState>, is_wasi03: bool) {
    if let Some(table) = store.concurrent_resource_table() {
        table.set_max_capacity(if is_wasi03 { MAX_CONCURRENT } else { MAX_CONCURRENT_02 });
    }
}

/// Lets a new instance answer `request`.
pub(super) async fn call<B>(
    pre: &ServicePre<HostState>,
    store: &mut Store<HostState>,
    mut request: Request<B>,
    head: HeadSender,
) -> wasmtime::Result<()>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Error>,
{
    if let Some(url) = full_url(&request) {
        *request.uri_mut() = url;
    }
    // What came of the request's body is of no interest.
    let (request, _outcome) = p3::Request::from_http(store.data_mut().http().hooks, request);
    let service = instance(pre.instantiate_async(&mut *store)).await?;
    store.run_concurrent(async |guest| answer(guest, &service, request, head).await).await?
}

/// The URL of a request with scheme and host, as `spin_headers` made it.
fn full_url<B>(request: &Request<B>) -> Option<Uri> {
    Uri::try_from(request.headers().get("spin-full-url")?.as_bytes()).ok()
}

/// Calls the guest and passes its answer on, until all of its tasks have ended.
async fn answer(
    guest: &Accessor<HostState>,
    service: &Service,
    request: p3::Request,
    head: HeadSender,
) -> wasmtime::Result<()> {
    let response = match service.handle(guest, request).await? {
        Ok(response) => response,
        Err(code) => return Err(wasmtime::format_err!("the component answered {code:?}")),
    };
    let _queue_charge = guest.with(|mut access| own(access.data_mut()).account.charge(BODY))?;
    let response = guest.with(|access| response.into_http(access, async { Ok(()) }))?;
    let (parts, body) = response.into_parts();
    let (queue, pieces) = mpsc::channel(CHUNKS);
    let queued = Queued { pieces, is_ended: body.is_end_stream(), left: body.size_hint().exact() };
    // The client may be gone, which stops the guest.
    let _ = head.send(Ok(Response::from_parts(parts, queued.boxed_unsync())));
    pump(body, queue).await;
    poll_fn(|context| guest.poll_no_interesting_tasks(context)).await;
    Ok(())
}

/// A piece of an answer.
enum Piece {
    Frame(Frame<Bytes>),
    Failed(Error),
    /// The answer is whole. A queue that closes without it was left by a guest that failed.
    End,
}

/// Moves a body into a queue, as far as somebody reads it.
async fn pump(mut body: WasiBody, queue: mpsc::Sender<Piece>) {
    loop {
        let piece = match body.frame().await {
            Some(Ok(frame)) => Piece::Frame(frame),
            Some(Err(error)) => Piece::Failed(error),
            None => Piece::End,
        };
        let is_last = !matches!(piece, Piece::Frame(_));
        if queue.send(piece).await.is_err() || is_last {
            return;
        }
    }
}

/// The reader's end of the queue.
struct Queued {
    pieces: mpsc::Receiver<Piece>,
    is_ended: bool,
    /// Bytes to come, if they were announced.
    left: Option<u64>,
}

impl Body for Queued {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if self.is_ended {
            return Poll::Ready(None);
        }
        let frame = match ready!(self.pieces.poll_recv(context)) {
            Some(Piece::Frame(frame)) => {
                let length = frame.data_ref().map_or(0, |data| data.len() as u64);
                self.left = self.left.map(|left| left.saturating_sub(length));
                return Poll::Ready(Some(Ok(frame)));
            }
            Some(Piece::Failed(error)) => Some(Err(error)),
            Some(Piece::End) => None,
            None => Some(Err(ErrorCode::HttpResponseIncomplete.into())),
        };
        self.is_ended = true;
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.is_ended
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}
