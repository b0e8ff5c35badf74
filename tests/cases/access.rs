//! Access control over HTTP: tokens (checked before a body is read or a model loaded), rate limits per
//! client, half-closed connections, the address of the runner's own endpoints, CORS, and TLS.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    reason = "failures fail the test with their message"
)]

use http::Method;
use serde_json::Value;
use skincell_tests::client::{Request, connect, get, predict_head};
use skincell_tests::photos::red_and_blue;
use skincell_tests::{Answer, App, Runner};
use std::fs;
use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, Stream};

const TOKEN: &str = "a-token-of-this-test-0001";
const OTHER: &str = "a-token-of-this-test-0002";

fn guarded(app: &App, flags: &[&str]) -> (Runner, std::path::PathBuf) {
    let file = app.path().join("tokens");
    fs::write(&file, format!("# for the website\n{TOKEN}\n")).unwrap();
    let path = file.to_str().unwrap().to_owned();
    (Runner::start(app, &[&["--tokens-file", &path], flags].concat()), file)
}

fn bearer(request: Request, token: &str) -> Request {
    request.header("authorization", &format!("Bearer {token}"))
}

fn photo() -> Request {
    Request::predict("", "image/png", red_and_blue())
}

fn refused(answer: &Answer, challenge: &str) {
    assert_eq!((answer.status, answer.problem().as_str()), (401, "unauthorized"));
    assert_eq!(answer.header("www-authenticate"), challenge);
}

#[test]
fn without_a_valid_token_no_instance_is_made_and_no_model_loaded() {
    let app = App::with_colours();
    let (runner, _) = guarded(&app, &[]);
    refused(&photo().send(&runner), "Bearer realm=\"skincell\"");
    let unknown = "Bearer realm=\"skincell\", error=\"invalid_token\"";
    for wrong in [OTHER, &TOKEN[..TOKEN.len() - 1], &format!("{TOKEN}1"), "x"] {
        refused(&bearer(photo(), wrong).send(&runner), unknown);
    }
    for path in ["/memory", "/metrics", "/v2/models/colours", "/predict", "//memory"] {
        assert_eq!(get(&runner, path).status, 401, "{path}");
    }
    let memory = bearer(Request::new(Method::GET, "/memory"), TOKEN).send(&runner).json();
    assert_eq!(memory["requests"]["instances"], 0, "no instance was made: {memory}");
    assert_eq!(memory["model_loaded"], Value::Bool(false));
    assert_eq!(bearer(photo(), TOKEN).send(&runner).status, 200);
    // Paths that reveal nothing about photos may be read without a token.
    for path in ["/", "/page/main.js", "/models", "/health", "/openapi.json", "/healthz", "/readyz"]
    {
        assert_eq!(get(&runner, path).status, 200, "{path}");
    }
    assert_eq!(Request::new(Method::POST, "/").send(&runner).status, 401);
}

#[test]
fn a_refusal_does_not_wait_for_the_body() {
    let app = App::with_colours();
    let (runner, _) = guarded(&app, &[]);
    let mut socket = connect(&runner);
    let start = Instant::now();
    let head = predict_head("Content-Type: image/png\r\nContent-Length: 9000000\r\n");
    socket.write_all(head.as_bytes()).unwrap();
    let mut answer = [0; 12];
    socket.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 401");
    // No byte of the body was sent, so a server that waits for it would not have answered.
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn tokens_are_replaced_while_it_runs() {
    let app = App::with_colours();
    let (runner, file) = guarded(&app, &[]);
    let status = |token| bearer(Request::new(Method::GET, "/memory"), token).send(&runner).status;
    assert_eq!((status(TOKEN), status(OTHER)), (200, 401));
    fs::write(&file, format!("{TOKEN}\n{OTHER}\n")).unwrap();
    await_status(&|| status(OTHER), 200);
    assert_eq!(status(TOKEN), 200, "both tokens are valid during the change");
    fs::write(&file, format!("{OTHER}\n")).unwrap();
    await_status(&|| status(TOKEN), 401);
    assert_eq!(status(OTHER), 200);
}

/// SIGHUP ends a process that does not handle it; the runner reads its files again.
#[test]
fn sighup_reads_the_files_again() {
    let app = App::with_colours();
    let (runner, file) = guarded(&app, &[]);
    let status = |token| bearer(Request::new(Method::GET, "/memory"), token).send(&runner).status;
    // The new file has the same length and time as the old one, so only the signal can reveal the change.
    let old = fs::metadata(&file).unwrap().modified().unwrap();
    fs::write(&file, format!("# for the website\n{OTHER}\n")).unwrap();
    let times = fs::FileTimes::new().set_modified(old);
    fs::File::options().write(true).open(&file).unwrap().set_times(times).unwrap();
    let kill = std::process::Command::new("kill").args(["-HUP", &runner.id().to_string()]).status();
    assert!(kill.unwrap().success());
    await_status(&|| status(OTHER), 200);
    assert_eq!(status(TOKEN), 401, "a removed token is refused");
}

/// Open paths take no body without a token, because bodies take memory from clients that have one.
#[test]
fn open_paths_take_no_body() {
    let app = App::with_colours();
    let (runner, _) = guarded(&app, &[]);
    let mut socket = connect(&runner);
    socket
        .write_all(b"GET /health HTTP/1.1\r\nHost: t\r\nContent-Length: 7000000\r\n\r\n")
        .unwrap();
    let mut answer = [0; 12];
    socket.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 401");
}

/// A client that shuts down its sending half still gets its answer, and nothing before the answer's status.
#[test]
fn a_half_closed_client_is_answered() {
    let app = App::with_colours();
    let runner = Runner::start(&app, &["--request-timeout", "1s"]);
    let photo = red_and_blue();
    let lines = format!("Content-Type: image/png\r\nContent-Length: {}\r\n", photo.len());
    let whole = [predict_head(&lines).as_bytes(), &photo].concat();
    let lines = "Content-Type: image/png\r\nTransfer-Encoding: chunked\r\n";
    let mut chunks = predict_head(lines).into_bytes();
    for piece in photo.chunks(40) {
        write!(chunks, "{:x}\r\n", piece.len()).unwrap();
        chunks.extend([piece, b"\r\n"].concat());
    }
    chunks.extend(b"0\r\n\r\n");
    let requests: [(Vec<u8>, &str); 6] = [
        (b"GET /health HTTP/1.1\r\nHost: t\r\n\r\n".to_vec(), "HTTP/1.1 200"),
        (whole, "HTTP/1.1 200"),
        (chunks, "HTTP/1.1 200"),
        (b"GET /guest/loop HTTP/1.1\r\nHost: t\r\n\r\n".to_vec(), "HTTP/1.1 504"),
        (b"GET /guest/loop HTTP/1.0\r\nHost: t\r\n\r\n".to_vec(), "HTTP/1.0 504"),
        (
            b"POST /guest/loop HTTP/1.1\r\nHost: t\r\nContent-Length: 1\r\n\r\nx".to_vec(),
            "HTTP/1.1 504",
        ),
    ];
    for (request, expected) in requests {
        for pause in [0, 300] {
            let mut socket = connect(&runner);
            socket.write_all(&request).unwrap();
            std::thread::sleep(Duration::from_millis(pause));
            socket.shutdown(std::net::Shutdown::Write).unwrap();
            let mut answer = Vec::new();
            socket.read_to_end(&mut answer).unwrap();
            let answer = String::from_utf8_lossy(&answer);
            assert!(answer.starts_with(expected), "{expected} after {pause} ms: {answer:.300}");
            assert_eq!(answer.matches("HTTP/1.").count(), 1, "one answer: {answer:.300}");
        }
    }
    // A client that ends in the middle of its body gets no answer; its connection is closed.
    let mut socket = connect(&runner);
    socket.write_all(predict_head("Content-Length: 100\r\n").as_bytes()).unwrap();
    socket.shutdown(std::net::Shutdown::Write).unwrap();
    let (mut answer, start) = (Vec::new(), Instant::now());
    socket.read_to_end(&mut answer).unwrap();
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}

/// With `--admin-listen` the runner's own endpoints are available at that address only.
#[test]
fn the_runners_own_endpoints_have_an_address_of_their_own() {
    let app = App::with_colours();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (runner, _) = guarded(&app, &["--admin-listen", &free.to_string()]);
    for (path, status) in [
        ("/healthz", "200"),
        ("/readyz", "200"),
        ("/metrics", "200"),
        ("/memory", "200"),
        ("/", "404"),
    ] {
        let mut socket = std::net::TcpStream::connect(free).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        write!(socket, "GET {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer:.200}");
        assert_eq!(
            get(&runner, "/healthz").status,
            401,
            "here the path belongs to the application"
        );
    }
}

fn await_status(status: &dyn Fn() -> u16, wanted: u16) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while status() != wanted {
        assert!(Instant::now() < deadline, "the file was not read again");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn unusable_tokens_and_certificates_are_refused_at_the_start() {
    let app = App::with_colours();
    let file = app.path().join("tokens");
    fs::write(&file, "short\n").unwrap();
    let said = Runner::refused(&app, &["--tokens-file", file.to_str().unwrap()]);
    assert!(said.contains("--tokens-file") && said.contains("line 1"), "{said}");
    let said = Runner::refused(&app, &["--tls-cert", "nosuch.pem", "--tls-key", "nosuch.pem"]);
    assert!(said.contains("nosuch.pem"), "{said}");
}

#[test]
fn each_client_has_its_own_rate() {
    let app = App::with_colours();
    let runner = Runner::start(&app, &["--rate-limit", "2/h", "--trusted-proxy", "127.0.0.1"]);
    let from = |address: &str| {
        Request::new(Method::GET, "/health").header("x-forwarded-for", address).send(&runner)
    };
    assert_eq!([(); 2].map(|()| from("198.51.100.7").status), [200; 2]);
    let late = from("198.51.100.7");
    assert_eq!((late.status, late.problem().as_str()), (429, "too-often"));
    let wait: u64 = late.header("retry-after").parse().unwrap();
    assert!((1700..=1800).contains(&wait), "half an hour, not {wait} s");
    assert_eq!(from("198.51.100.8").status, 200, "other clients are not limited");
    assert_eq!(
        from("198.51.100.7, 198.51.100.9").status,
        200,
        "only the trusted proxy's own entry counts"
    );
    assert_eq!(get(&runner, "/healthz").status, 200, "probes are never limited");
}

#[test]
fn listed_origins_may_call_and_others_may_not() {
    let app = App::with_colours();
    let (runner, _) = guarded(&app, &["--cors-origin", "https://clinic.example"]);
    let ask = |origin: &str| {
        Request::new(Method::OPTIONS, "/predict")
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization")
            .send(&runner)
    };
    let listed = ask("https://clinic.example");
    assert_eq!(listed.status, 204, "a preflight carries no token");
    assert_eq!(listed.header("access-control-allow-origin"), "https://clinic.example");
    assert!(listed.header("access-control-allow-headers").contains("authorization"));
    assert_eq!(ask("https://evil.example").header("access-control-allow-origin"), "");
    let answer = bearer(photo(), TOKEN).header("origin", "https://clinic.example").send(&runner);
    assert_eq!(answer.header("access-control-allow-origin"), "https://clinic.example");
    assert_eq!(answer.header("vary"), "origin");
    for name in ["x-content-type-options", "referrer-policy"] {
        assert!(!answer.header(name).is_empty(), "{name}");
    }
}

#[test]
fn photos_are_answered_over_tls() {
    let app = App::with_colours();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (cert, key) = (app.path().join("cert.pem"), app.path().join("key.pem"));
    fs::write(&cert, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let flags = ["--tls-cert", cert.to_str().unwrap(), "--tls-key", key.to_str().unwrap()];
    let runner = Runner::start(&app, &flags);
    let photo = red_and_blue();
    let head = format!(
        "Content-Type: image/png\r\nContent-Length: {}\r\nConnection: close\r\n",
        photo.len()
    );
    let request = [predict_head(&head).as_bytes(), &photo].concat();
    let client = tls_client(made.cert.der());
    for handshake in [HandshakeKind::Full, HandshakeKind::Resumed] {
        let (answer, kind) = over_tls(&runner, &client, &request);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer:.200}");
        assert!(answer.contains("strict-transport-security: max-age="), "{answer:.600}");
        assert!(answer.contains("\"results\""), "{answer:.600}");
        assert_eq!(
            kind,
            Some(handshake),
            "the ticket of the first connection serves for the second"
        );
    }
}

/// A client that trusts this certificate, and keeps its sessions from one connection to the next.
fn tls_client(trusted: &[u8]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.to_vec().into()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

/// Sends a request, and reads the answer to its end.
fn over_tls(
    runner: &Runner,
    client: &Arc<ClientConfig>,
    request: &[u8],
) -> (String, Option<HandshakeKind>) {
    let name = "localhost".try_into().unwrap();
    let mut connection = ClientConnection::new(Arc::clone(client), name).unwrap();
    let mut socket = connect(runner);
    let mut stream = Stream::new(&mut connection, &mut socket);
    stream.write_all(request).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("the connection ends with a TLS close, not a reset");
    (String::from_utf8_lossy(&answer).into_owned(), connection.handshake_kind())
}
