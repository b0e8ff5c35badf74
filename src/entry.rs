//! The WASI 0.2 incoming handler: receives the host's request and sends the response.
//!
//! Every host of WASI 0.2 gives each request its own instance; the header `x-instance-requests` makes this
//! checkable. `respond` handles the request itself.

#![allow(
    unsafe_code,
    unreachable_pub,
    clippy::too_many_lines,
    reason = "`http_component` generates the bindings of the handler in here"
)]

use std::sync::atomic::{AtomicU32, Ordering};

use http::HeaderValue;
use spin_sdk::http::{Fields, IncomingRequest, OutgoingResponse, ResponseOutparam};
use spin_sdk::http_component;
use wasi::io::streams::{InputStream, StreamError};

use crate::body::{CHUNK, Source};
use crate::nn::Host;

/// Requests served by this instance. The counter is in linear memory, so it is always 1 if every request
/// gets a fresh memory.
static REQUESTS: AtomicU32 = AtomicU32::new(0);

#[http_component]
async fn handle(incoming: IncomingRequest, out: ResponseOutparam) {
    let requests = REQUESTS.fetch_add(1, Ordering::Relaxed).saturating_add(1);
    let mut response = match request(incoming) {
        Ok(request) => crate::respond(request, |name| std::env::var(name).ok(), &Host),
        Err(error) => refused(&error),
    };
    response.headers_mut().insert("x-instance-requests", HeaderValue::from(requests));
    send(response, out).await;
}

/// The host's request as a request of the `http` crate.
fn request(incoming: IncomingRequest) -> Result<http::Request<impl Source>, http::Error> {
    let mut request = http::Request::builder()
        .method(incoming.method().to_string().as_str())
        .uri(incoming.path_with_query().unwrap_or_else(|| "/".to_owned()));
    for (name, value) in incoming.headers().entries() {
        request = request.header(name, value);
    }
    let body = incoming.consume().ok();
    let stream = body.as_ref().and_then(|body| body.stream().ok());
    request.body(HostBody { stream, _body: body })
}

/// The response to a request line or header that the host accepted and the `http` crate rejects.
fn refused(error: &http::Error) -> http::Response<Vec<u8>> {
    let words = format!(
        "the request line or a header is not valid HTTP ({error}): send it again without it\n"
    );
    let mut response = http::Response::new(words.into_bytes());
    *response.status_mut() = http::StatusCode::BAD_REQUEST;
    response
}

async fn send(response: http::Response<Vec<u8>>, out: ResponseOutparam) {
    let (head, body) = response.into_parts();
    let headers = Fields::new();
    for (name, value) in &head.headers {
        // Headers that the host forbids are left out, so that the response itself does not fail.
        let _ = headers.append(name.as_str(), value.as_bytes());
    }
    let outgoing = OutgoingResponse::new(headers);
    let _ = outgoing.set_status_code(head.status.as_u16());
    if let Err(error) = out.set_with_body(outgoing, body).await {
        eprintln!(
            "the response could not be sent completely; the client may have disconnected: {error}"
        );
    }
}

/// The body as the host streams it. Fields drop in order, so the stream goes before the body it belongs to.
struct HostBody<B> {
    stream: Option<InputStream>,
    _body: Option<B>,
}

impl<B: Send + Unpin + 'static> Source for HostBody<B> {
    fn next_chunk(&mut self) -> Result<Option<Vec<u8>>, String> {
        let Some(stream) = &self.stream else { return Ok(None) };
        match stream.blocking_read(CHUNK as u64) {
            Ok(chunk) => Ok(Some(chunk)),
            Err(StreamError::Closed) => Ok(None),
            Err(StreamError::LastOperationFailed(error)) => Err(error.to_debug_string()),
        }
    }
}
