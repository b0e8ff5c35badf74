//! A component of WASI 0.3, in the shape of Spin's template for Rust: one path for each thing that the runner
//! must give it, bound or survive. The tests in `tests/cases/wasi03.rs` check the results.

#![cfg(target_family = "wasm")]
#![allow(unsafe_code, reason = "`http_service` generates the bindings of the handler in here")]

use std::hint::black_box;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use spin_sdk::http::{IntoResponse, Request, Response};
use spin_sdk::http_service;
use spin_sdk::wasip3::http::types::ErrorCode;

/// A marker left by an earlier request in the same memory; empty if memories are not shared.
static MARKER: Mutex<Option<String>> = Mutex::new(None);

type Body = UnsyncBoxBody<Bytes, ErrorCode>;

#[http_service]
async fn handle(request: Request) -> impl IntoResponse {
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let body = match path.rsplit('/').next().unwrap_or_default() {
        "fine" => text("fine"),
        "url" => text(request.uri().to_string()),
        "headers" => text(spin_headers(&request)),
        "variable" => text(variable(&query).await),
        "environment" => text(std::env::var(&query).unwrap_or_default()),
        "file" => text(std::fs::read_to_string(&query).unwrap_or_default()),
        "print" => text(print(&query)),
        "marker" => text(swap_marker(query)),
        "leak" => text(leak()),
        "echo" => request.into_body().boxed_unsync(),
        "copy" => text(
            request
                .into_body()
                .collect()
                .await
                .map(http_body_util::Collected::to_bytes)
                .unwrap_or_default(),
        ),
        "key-value" => text(key_value(&query).await),
        "trailers-in" => text(trailers(request).await),
        "zeros" => Pieces { left: query.parse().unwrap_or(0), fails: false }.boxed_unsync(),
        "break-off" => Pieces { left: 1, fails: true }.boxed_unsync(),
        "overrun" => return overrun(query),
        "trailers-out" => return send_trailers(),
        "sleep" => text(sleep(&query)),
        "streams" => text(make_streams()),
        "fetch" => text(fetch(&query).await),
        "follow" => text(follow(&query).await),
        "trap" => std::process::abort(),
        "loop" => forever(),
        "allocate" => allocate(),
        other => text(format!("there is no {other:?} here")),
    };
    Response::new(body)
}

fn text(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body with a field after it.
fn send_trailers() -> Response<Body> {
    let mut fields = Response::new(()).into_parts().0.headers;
    if let Ok(value) = "7".try_into() {
        fields.insert("x-sum", value);
    }
    let body = Full::new(Bytes::from("summed")).map_err(|never| match never {});
    let body = body.with_trailers(std::future::ready(Some(Ok(fields))));
    let mut response = Response::new(body.boxed_unsync());
    if let Ok(value) = "x-sum".try_into() {
        response.headers_mut().insert("trailer", value);
    }
    response
}

/// Two pieces of 64 KiB, of which `announced` bytes are announced.
fn overrun(announced: String) -> Response<Body> {
    let mut response = Response::new(Pieces { left: 2, fails: false }.boxed_unsync());
    if let Ok(announced) = announced.try_into() {
        response.headers_mut().insert("content-length", announced);
    }
    response
}

/// Pieces of 64 KiB of zeros; then the end, or a trap.
struct Pieces {
    left: usize,
    fails: bool,
}

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = ErrorCode;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, ErrorCode>>> {
        if self.left > 0 {
            self.left -= 1;
            return Poll::Ready(Some(Ok(http_body::Frame::data(Bytes::from(vec![0; 64 << 10])))));
        }
        if self.fails {
            std::process::abort();
        }
        Poll::Ready(None)
    }
}

/// The value of a variable, or the error of Spin's interface.
async fn variable(name: &str) -> String {
    spin_sdk::variables::get(name).await.unwrap_or_else(|error| format!("{error:?}"))
}

/// The `spin-*` header fields of the request, one per line.
fn spin_headers(request: &Request) -> String {
    let fields = request.headers().iter();
    let spins = fields.filter(|(name, _)| name.as_str().starts_with("spin-"));
    spins
        .map(|(name, value)| format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())))
        .collect()
}

/// Prints `text` to standard output and standard error.
fn print(text: &str) -> &'static str {
    println!("{text}");
    eprintln!("{text}");
    "printed"
}

/// Stores `mark` in a static and returns the previous value, or "nothing".
fn swap_marker(mark: String) -> String {
    let Ok(mut marker) = MARKER.lock() else { return "poisoned".to_owned() };
    marker.replace(mark).unwrap_or_else(|| "nothing".to_owned())
}

/// Keeps 1 MiB for ever.
fn leak() -> &'static str {
    black_box(vec![1_u8; 1 << 20].leak());
    "leaked"
}

/// What a call of a key-value store gives; the query is `label,call,key,value`.
async fn key_value(query: &str) -> String {
    let mut parts = query.splitn(4, ',');
    let [label, call, key, value] = [(); 4].map(|()| parts.next().unwrap_or_default());
    let store = match spin_sdk::key_value::Store::open(label).await {
        Ok(store) => store,
        Err(error) => return format!("{error:?}"),
    };
    let outcome = match call {
        "get" => store.get(key).await.map(|value| match value {
            Some(value) => String::from_utf8_lossy(&value).into_owned(),
            None => "none".to_owned(),
        }),
        "set" => store.set(key, value.as_bytes()).await.map(|()| "set".to_owned()),
        "delete" => store.delete(key).await.map(|()| "deleted".to_owned()),
        "exists" => store.exists(key).await.map(|exists| exists.to_string()),
        "keys" => store.get_keys().await.collect().await.map(|keys| keys.join(" ")),
        other => Ok(format!("there is no {other:?} here")),
    };
    outcome.unwrap_or_else(|error| format!("{error:?}"))
}

/// The body of the request and the fields that follow it, one per line.
async fn trailers(request: Request) -> String {
    let Ok(body) = request.into_body().collect().await else { return "no body".to_owned() };
    let fields = body.trailers().cloned().unwrap_or_default();
    let mut text = String::from_utf8_lossy(&body.to_bytes()).into_owned() + "\n";
    for (name, value) in &fields {
        text += &format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes()));
    }
    text
}

/// Waits for so many milliseconds.
fn sleep(query: &str) -> String {
    let millis = query.parse().unwrap_or(0);
    std::thread::sleep(std::time::Duration::from_millis(millis));
    format!("slept {millis} ms")
}

/// Makes streams until the host makes no more.
fn make_streams() -> &'static str {
    let mut held = Vec::new();
    for _ in 0..100_000 {
        held.push(spin_sdk::wasip3::wit_stream::new::<u8>());
    }
    black_box(held);
    "as many as it liked"
}

/// What a GET of `url` gives: the status and the body, or the error.
async fn fetch(url: &str) -> String {
    match spin_sdk::http::get(url).await {
        Ok(answer) => {
            let status = answer.status().as_u16();
            let body = answer.into_body().collect().await;
            let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            format!("{status} {}", String::from_utf8_lossy(&body))
        }
        Err(error) => format!("{error:?}"),
    }
}

/// What a GET of the address gives that a GET of `url` redirects to.
async fn follow(url: &str) -> String {
    let location = match spin_sdk::http::get(url).await {
        Ok(answer) => answer.headers().get("location").cloned(),
        Err(error) => return format!("{error:?}"),
    };
    match location.as_ref().and_then(|location| location.to_str().ok()) {
        Some(location) => fetch(location).await,
        None => "no redirect".to_owned(),
    }
}

fn forever() -> ! {
    loop {
        black_box(0);
    }
}

/// Allocates and touches memory until there is none left.
fn allocate() -> ! {
    let mut held = Vec::new();
    loop {
        held.push(black_box(vec![1_u8; 1 << 20]));
    }
}
