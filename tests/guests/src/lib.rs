//! A component that misbehaves, in one way for each path; the runner must survive all of them. A few paths
//! show what the component was given: variables, environment, files, headers, wasi-nn. The tests in
//! `tests/cases/` check the results.

#![cfg(target_family = "wasm")]
#![allow(
    unsafe_code,
    unreachable_pub,
    clippy::too_many_lines,
    reason = "`http_component` generates the bindings of the handler in here"
)]

mod conformance;
mod key_value;
mod nn;
mod printing;
mod resources;
mod scan;
mod script;

use std::hint::black_box;
use std::sync::Mutex;

use spin_sdk::http::{Fields, IncomingRequest, OutgoingResponse, ResponseOutparam};
use spin_sdk::http_component;

/// A marker left by an earlier request in the same memory; empty if memories are not shared.
static MARKER: Mutex<Option<String>> = Mutex::new(None);

#[http_component]
async fn handle(request: IncomingRequest, out: ResponseOutparam) {
    let target = request.path_with_query().unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    match path.rsplit('/').next().unwrap_or_default() {
        "fine" => answer("fine", out).await,
        "variable" => answer(&variable(query), out).await,
        "environment" => answer(&std::env::var(query).unwrap_or_default(), out).await,
        "file" => answer(&std::fs::read_to_string(query).unwrap_or_default(), out).await,
        "print" => answer(print(query), out).await,
        "print-at-once" => answer(printing::at_once(), out).await,
        "print-when-ready" => answer(printing::when_ready(), out).await,
        "headers" => answer(&spin_headers(&request), out).await,
        "trailers-in" => answer(&trailers(&request), out).await,
        "marker" => answer(&swap_marker(query), out).await,
        "key-value" => answer(&key_value::call(query), out).await,
        "wasi-keyvalue" => answer(&key_value::wasi(query), out).await,
        "scan" => answer(&scan::look_and_leave(query), out).await,
        "context" => answer(&nn::context(query), out).await,
        "contexts" => answer(&nn::contexts(query), out).await,
        "computes" => answer(&nn::computes(query), out).await,
        "load-bytes" => answer(&nn::load_bytes(body(request).await), out).await,
        "script" => answer(&script::run(&body(request).await), out).await,
        "resources" => answer(&resources::run(&body(request).await), out).await,
        "conformance" => answer(&conformance::all(), out).await,
        "load-name" => answer(&nn::load_name(query), out).await,
        "move-tensors" => answer(&move_tensors(query), out).await,
        "tensors" => nn::leak_tensors(1 << 20),
        "handles" => nn::leak_tensors(1),
        "trap" => std::process::abort(),
        "panic" => panic!("as asked"),
        "exit" => std::process::exit(0),
        "loop" => spin(),
        "sleep" => answer(&sleep(query), out).await,
        "allocate" => allocate(),
        "recurse" => answer(&recurse(1).to_string(), out).await,
        "silent" => drop(out),
        "status" => answer_status(query, out),
        "break-off" => break_off(out),
        "overrun" => overrun(query, out),
        "work-on" => work_on(query, out).await,
        "trailers-out" => send_trailers(out),
        "call" => answer(&call(query), out).await,
        "fetch" => answer(&fetch(query).await, out).await,
        "relay" => answer(&relay(query, body(request).await).await, out).await,
        "call-myself" => {
            answer(&fetch(&format!("http://{query}.spin.internal{target}")).await, out).await
        }
        "follow" => answer(&follow(query).await, out).await,
        "fetch-many" => answer(&fetch_many(query).await, out).await,
        other => answer(&format!("there is no {other:?} here"), out).await,
    }
}

async fn answer(text: &str, out: ResponseOutparam) {
    let response = OutgoingResponse::new(Fields::new());
    // A disconnected client is ignored.
    let _ = out.set_with_body(response, text.as_bytes().to_vec()).await;
}

/// Work after a whole answer, which is whole by its announced length: a line of output, or a trap.
async fn work_on(query: &str, out: ResponseOutparam) {
    let fields = Fields::new();
    let _ = fields.set("content-length", &[b"5".to_vec()]);
    let _ = out.set_with_body(OutgoingResponse::new(fields), b"whole".to_vec()).await;
    if query == "trap" {
        std::process::abort();
    }
    println!("worked on");
}

/// An answer without a body, of any status.
fn answer_status(status: &str, out: ResponseOutparam) {
    let response = OutgoingResponse::new(Fields::new());
    let _ = response.set_status_code(status.parse().unwrap_or(500));
    out.set(response);
}

/// The request's body, or the part of it that can be read.
async fn body(request: IncomingRequest) -> Vec<u8> {
    request.into_body().await.unwrap_or_default()
}

/// Begins a response and never ends it.
fn break_off(out: ResponseOutparam) -> ! {
    let response = OutgoingResponse::new(Fields::new());
    let body = response.body();
    out.set(response);
    if let Ok(Ok(stream)) = body.as_ref().map(|body| body.write()) {
        let _ = stream.blocking_write_and_flush(b"half");
    }
    std::process::abort()
}

/// A body with a field after it.
fn send_trailers(out: ResponseOutparam) {
    use spin_sdk::wit::wasi::http0_2_0::types::OutgoingBody;
    let fields = Fields::new();
    let _ = fields.set("trailer", &[b"x-sum".to_vec()]);
    let response = OutgoingResponse::new(fields);
    let body = response.body();
    out.set(response);
    let Ok(body) = body else { return };
    if let Ok(stream) = body.write() {
        let _ = stream.blocking_write_and_flush(b"summed");
    }
    let fields = Fields::new();
    let _ = fields.set("x-sum", &[b"7".to_vec()]);
    let _ = OutgoingBody::finish(body, Some(fields));
}

/// Announces five bytes and writes nine, at once or in two pieces.
fn overrun(query: &str, out: ResponseOutparam) {
    let fields = Fields::new();
    let _ = fields.set("content-length", &[b"5".to_vec()]);
    let response = OutgoingResponse::new(fields);
    let body = response.body();
    out.set(response);
    let pieces = if query == "pieces" { &["whole", "more"][..] } else { &["wholemore"] };
    if let Ok(Ok(stream)) = body.as_ref().map(|body| body.write()) {
        for piece in pieces {
            let _ = stream.blocking_write_and_flush(piece.as_bytes());
        }
    }
}

/// Tries to reach `address` by a request, a stream and a datagram: what came of each, a line each.
fn call(address: &str) -> String {
    use wasi::http::outgoing_handler;
    use wasi::http::types::{Fields, OutgoingRequest, Scheme};
    let request = OutgoingRequest::new(Fields::new());
    let _ = request.set_scheme(Some(&Scheme::Http));
    let _ = request.set_authority(Some(address));
    let _ = request.set_path_with_query(Some("/"));
    let answer = outgoing_handler::handle(request, None).map(|answer| {
        answer.subscribe().block();
        answer.get()
    });
    let stream = std::net::TcpStream::connect(address).map(drop);
    let datagram = std::net::UdpSocket::bind("127.0.0.1:0").and_then(|s| s.send_to(b"x", address));
    format!("{answer:?}\n{stream:?}\n{datagram:?}")
}

/// What a GET of `url` gives: the status and the body, or the error.
async fn fetch(url: &str) -> String {
    use spin_sdk::http::{Request, Response, send};
    match send::<_, Response>(Request::get(url)).await {
        Ok(answer) => format!("{} {}", answer.status(), String::from_utf8_lossy(answer.body())),
        Err(error) => format!("{error:?}"),
    }
}

/// What a POST of `body` to `url` gives: the status and the body, or the error.
async fn relay(url: &str, body: Vec<u8>) -> String {
    use spin_sdk::http::{Request, Response, send};
    match send::<_, Response>(Request::post(url, body)).await {
        Ok(answer) => format!("{} {}", answer.status(), String::from_utf8_lossy(answer.body())),
        Err(error) => format!("{error:?}"),
    }
}

/// What a GET of the address gives that a GET of `url` redirects to.
async fn follow(url: &str) -> String {
    use spin_sdk::http::{Request, Response, send};
    match send::<_, Response>(Request::get(url)).await {
        Ok(answer) => match answer.header("location").and_then(|value| value.as_str()) {
            Some(location) => fetch(location).await,
            None => "no redirect".to_owned(),
        },
        Err(error) => format!("{error:?}"),
    }
}

/// How many of `count` requests at once succeed; the query is `count,url`.
async fn fetch_many(query: &str) -> String {
    use spin_sdk::http::{Request, Response, send};
    let Some((count, url)) = query.split_once(',') else { return "count,url".to_owned() };
    let count = count.parse().unwrap_or(0);
    let mut waiting: Vec<_> =
        (0..count).map(|_| Box::pin(send::<_, Response>(Request::get(url)))).collect();
    let mut answered = 0;
    std::future::poll_fn(|context| {
        waiting.retain_mut(|request| match request.as_mut().poll(context) {
            std::task::Poll::Ready(answer) => {
                answered += u32::from(answer.is_ok_and(|answer| *answer.status() == 200));
                false
            }
            std::task::Poll::Pending => true,
        });
        if waiting.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    answered.to_string()
}

/// The value of a variable, or the error of Spin's interface.
fn variable(name: &str) -> String {
    spin_sdk::variables::get(name).unwrap_or_else(|error| format!("{error:?}"))
}

/// Prints `text` to standard output and standard error.
fn print(text: &str) -> &'static str {
    println!("{text}");
    eprintln!("{text}");
    "printed"
}

/// The `spin-*` header fields of the request, one per line.
fn spin_headers(request: &IncomingRequest) -> String {
    let fields = request.headers().entries();
    let spins = fields.into_iter().filter(|(name, _)| name.starts_with("spin-"));
    spins.map(|(name, value)| format!("{name}: {}\n", String::from_utf8_lossy(&value))).collect()
}

/// The body of the request and the fields that follow it, one per line.
fn trailers(request: &IncomingRequest) -> String {
    use spin_sdk::wit::wasi::http0_2_0::types::IncomingBody;
    let Ok(body) = request.consume() else { return "no body".to_owned() };
    let mut text = Vec::new();
    if let Ok(stream) = body.stream() {
        while let Ok(piece) = stream.blocking_read(1 << 16) {
            text.extend(piece);
        }
    }
    let mut text = String::from_utf8_lossy(&text).into_owned() + "\n";
    let trailers = IncomingBody::finish(body);
    trailers.subscribe().block();
    if let Some(Ok(Ok(Some(fields)))) = trailers.get() {
        for (name, value) in fields.entries() {
            text += &format!("{name}: {}\n", String::from_utf8_lossy(&value));
        }
    }
    text
}

/// Waits for so many milliseconds.
fn sleep(query: &str) -> String {
    let millis = query.parse().unwrap_or(0);
    std::thread::sleep(std::time::Duration::from_millis(millis));
    format!("slept {millis} ms")
}

/// Sends tensors to the host and back; the query is `bytes,count`.
fn move_tensors(query: &str) -> String {
    let numbers = query.split_once(',').map(|(bytes, count)| (bytes.parse(), count.parse()));
    match numbers {
        Some((Ok(bytes), Ok(count))) => nn::move_tensors(bytes, count),
        _ => "bytes,count".to_owned(),
    }
}

/// Stores `mark` in a static and returns the previous value, or "nothing".
fn swap_marker(mark: &str) -> String {
    let Ok(mut marker) = MARKER.lock() else { return "poisoned".to_owned() };
    marker.replace(mark.to_owned()).unwrap_or_else(|| "nothing".to_owned())
}

fn spin() -> ! {
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

/// Recurses until the stack overflows.
fn recurse(depth: u64) -> u64 {
    let frame = black_box([depth; 64]);
    if depth == 0 { 0 } else { recurse(depth + 1).wrapping_add(frame[black_box(0)]) }
}
