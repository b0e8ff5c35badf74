//! Checks HTTP/2: the same answers as over HTTP/1.1, with prior knowledge and over TLS, and bounds for
//! clients that reset their streams, open thousands, send headers without end, or do not read.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::io::{Read as _, Write as _};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Method, Request, StatusCode};
use skincell_tests::client::{self, get};
use skincell_tests::{App, Runner};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// The client's first bytes and its settings, which are the defaults.
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// Types of frames.
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;

/// Both guests, which can send much, and a static answer.
fn app() -> App {
    App::with_both_guests(
        r#"
        [[trigger.http]]
        route = "/static"
        static_response = { body = "from the manifest" }
        "#,
    )
}

/// A client with prior knowledge, whose windows have `window` bytes.
async fn connect(runner: &Runner, window: u32) -> SendRequest<Bytes> {
    let socket = TcpStream::connect(runner.address()).await.unwrap();
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(window).max_concurrent_reset_streams(100_000);
    let (client, connection) = builder.handshake(socket).await.unwrap();
    tokio::spawn(connection);
    client
}

fn request(runner: &Runner, method: Method, path: &str) -> Request<()> {
    let url = format!("http://{}{path}", runner.address());
    Request::builder().method(method).uri(url).body(()).unwrap()
}

/// Sends a request with a body and trailers, if there are any, and reads the whole answer.
async fn send(
    client: &mut SendRequest<Bytes>,
    request: Request<()>,
    body: Bytes,
    trailers: Option<HeaderMap>,
) -> Result<(StatusCode, HeaderMap, Vec<u8>), h2::Error> {
    let mut ready = client.clone().ready().await?;
    let is_whole = body.is_empty() && trailers.is_none();
    let (answer, mut stream) = ready.send_request(request, is_whole)?;
    if !is_whole {
        stream.send_data(body, trailers.is_none())?;
        if let Some(trailers) = trailers {
            stream.send_trailers(trailers)?;
        }
    }
    let (head, mut body) = answer.await?.into_parts();
    let mut bytes = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        bytes.extend_from_slice(&piece);
    }
    Ok((head.status, head.headers, bytes))
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_those_of_http_1() {
    let app = app();
    let runner = Runner::start(&app, &[]);
    let mut client = connect(&runner, 65_535).await;
    for path in
        ["/static", "/a/fine", "/a/headers?x=1", "/b/fine", "/b/zeros?20", "/none", "/healthz"]
    {
        let expected = get(&runner, path);
        let get = request(&runner, Method::GET, path);
        let (status, headers, body) = send(&mut client, get, Bytes::new(), None).await.unwrap();
        assert_eq!(status.as_u16(), expected.status, "{path}");
        assert_eq!(headers.get("content-type"), expected.headers.get("content-type"), "{path}");
        let plain = |text: &[u8]| match path {
            "/none" => text.len().min(1),
            _ => text.len(),
        };
        assert_eq!(plain(&body), plain(&expected.body), "{path}");
        let head = request(&runner, Method::HEAD, path);
        let (status, _, body) = send(&mut client, head, Bytes::new(), None).await.unwrap();
        assert!(body.is_empty() && status.as_u16() == expected.status, "{path}");
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("x-t", "v".parse().unwrap());
    for component in ["a", "b"] {
        let post = request(&runner, Method::POST, &format!("/{component}/trailers-in"));
        let body = Bytes::from_static(b"abc");
        let answer = send(&mut client, post, body, Some(trailers.clone())).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&answer.2), "abc\nx-t: v\n");
    }
    let photo: Bytes = (0..700_000_u32).map(|number| (number % 251) as u8).collect();
    let post = request(&runner, Method::POST, "/b/copy");
    let (status, _, body) = send(&mut client, post, photo.clone(), None).await.unwrap();
    assert!(status == 200 && body == photo, "{status}, {} bytes", body.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_one_connection_are_answered_side_by_side() {
    let app = app();
    let runner = Runner::start(&app, &["--max-concurrency", "16"]);
    let client = connect(&runner, 65_535).await;
    let start = Instant::now();
    let requests: Vec<_> = (0..16)
        .map(|_| {
            let (mut client, get) = (client.clone(), request(&runner, Method::GET, "/a/sleep?500"));
            tokio::spawn(async move { send(&mut client, get, Bytes::new(), None).await })
        })
        .collect();
    for request in requests {
        assert_eq!(request.await.unwrap().unwrap().2, b"slept 500 ms");
    }
    let elapsed = start.elapsed();
    assert!(elapsed < Duration::from_secs(4), "{elapsed:?} for 16 answers of 0.5 s");
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_offers_http_2_and_http_1() {
    use tokio_rustls::rustls::crypto::ring;
    use tokio_rustls::rustls::pki_types::pem::PemObject as _;
    use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
    use tokio_rustls::rustls::{ClientConfig, RootCertStore};
    let app = app();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (cert, key) = (app.path().join("cert.pem"), app.path().join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let flags = ["--tls-cert", cert.to_str().unwrap(), "--tls-key", key.to_str().unwrap()];
    let runner = Runner::start(&app, &flags);
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&cert).unwrap()).unwrap();
    let configuration = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    for (offered, chosen) in
        [(vec!["h2", "http/1.1"], Some("h2")), (vec!["http/1.1"], Some("http/1.1")), (vec![], None)]
    {
        let mut configuration = configuration.clone();
        configuration.alpn_protocols =
            offered.iter().map(|name| name.as_bytes().to_vec()).collect();
        let socket = TcpStream::connect(runner.address()).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(configuration));
        let name = ServerName::try_from("localhost").unwrap();
        let socket = connector.connect(name, socket).await.unwrap();
        let protocol = socket.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        assert_eq!(protocol.as_deref(), chosen.map(str::as_bytes));
        if chosen == Some("h2") {
            let (mut client, connection) = h2::client::handshake(socket).await.unwrap();
            tokio::spawn(connection);
            let get = Request::get("https://localhost/static").body(()).unwrap();
            let answer = send(&mut client, get, Bytes::new(), None).await.unwrap();
            assert_eq!(answer.2, b"from the manifest");
        }
    }
}

/// curl checks what a library of ours would not. Skipped if there is none with HTTP/2.
#[test]
fn curl_speaks_http_2() {
    let version = Command::new("curl").arg("--version").output();
    let has_http2 = version.is_ok_and(|v| String::from_utf8_lossy(&v.stdout).contains("HTTP2"));
    if !has_http2 {
        println!("skipped: there is no curl with HTTP/2");
        return;
    }
    let app = app();
    let runner = Runner::start(&app, &[]);
    let curl = |arguments: &[&str], path: &str| {
        let mut curl = Command::new("curl");
        curl.args([
            "--http2-prior-knowledge",
            "-s",
            "-S",
            "-m",
            "20",
            "-w",
            "|%{http_version} %{http_code}",
        ]);
        let output = curl.args(arguments).arg(format!("http://{}{path}", runner.address()));
        let output = output.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_eq!(curl(&[], "/static"), "from the manifest|2 200");
    assert_eq!(curl(&["-d", "abc"], "/b/copy"), "abc|2 200");
    assert!(curl(&["-I"], "/static").ends_with("|2 200"));
    assert!(curl(&[], "/none").ends_with("|2 404"));
}

/// A client that opens streams and resets them at once is cut off, and others are served meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_resets_its_streams_is_cut_off() {
    let app = app();
    let runner = Runner::start(&app, &["--max-concurrency", "2"]);
    let mut client = connect(&runner, 65_535).await;
    let mut opened = 0;
    while opened < 10_000 {
        let Ok(Ok(ready)) = timeout(Duration::from_secs(5), client.ready()).await else { break };
        client = ready;
        let get = request(&runner, Method::GET, "/a/sleep?1000");
        let Ok((_, mut stream)) = client.send_request(get, true) else { break };
        // Some streams are seen before they are reset.
        if opened % 2 == 0 {
            sleep(Duration::from_millis(1)).await;
        }
        stream.send_reset(h2::Reason::CANCEL);
        opened += 1;
    }
    assert!(opened < 1_000, "{opened} streams were reset");
    let mut other = connect(&runner, 65_535).await;
    let get = request(&runner, Method::GET, "/static");
    assert_eq!(send(&mut other, get, Bytes::new(), None).await.unwrap().0, 200);
}

/// A frame: its type, flags, stream and payload.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The header block of `GET /b/zeros?…` in HPACK, without compression.
fn block(path: &str) -> Vec<u8> {
    let mut block = vec![0x82, 0x86, 0x04, u8::try_from(path.len()).unwrap()];
    block.extend(path.bytes());
    block.extend([0x01, 4]);
    block.extend(b"test");
    block
}

/// The types of the frames that arrive within `time`, with their number.
fn frames(
    socket: &mut std::net::TcpStream,
    time: Duration,
) -> std::collections::BTreeMap<u8, usize> {
    let (mut bytes, start) = (Vec::new(), Instant::now());
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut piece = [0; 64 << 10];
    while start.elapsed() < time {
        match socket.read(&mut piece) {
            Ok(0) => break,
            Ok(length) => bytes.extend_from_slice(&piece[..length]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
    }
    let (mut found, mut rest) = (std::collections::BTreeMap::new(), &bytes[..]);
    while let [a, b, c, kind, ..] = *rest {
        *found.entry(kind).or_default() += 1;
        rest = rest.get(9 + u32::from_be_bytes([0, a, b, c]) as usize..).unwrap_or_default();
    }
    found
}

/// 10,000 streams are opened on one connection, whose client takes no answers: as many as are allowed at once
/// are answered, the others are refused, and the process holds a bounded number of bytes.
#[test]
fn ten_thousand_streams_are_bounded() {
    let app = app();
    let runner = Runner::start(&app, &[]);
    assert_eq!(get(&runner, "/b/zeros?1").status, 200);
    let before = runner.private_bytes();
    let (refused, peak) = runner.private_peak(|| {
        let mut socket = client::connect(&runner);
        // No window for answers.
        let mut hello = HELLO[..24].to_vec();
        hello.extend(frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]));
        socket.write_all(&hello).unwrap();
        let mut writer = socket.try_clone().unwrap();
        let streams = std::thread::spawn(move || {
            for stream in 0..10_000 {
                let headers = frame(1, 5, stream * 2 + 1, &block("/b/zeros?100"));
                if writer.write_all(&headers).is_err() {
                    return;
                }
            }
        });
        let frames = frames(&mut socket, Duration::from_secs(4));
        streams.join().unwrap();
        frames
    });
    let cut_off = refused.contains_key(&GOAWAY);
    let count = refused.get(&RST_STREAM).copied().unwrap_or(0);
    assert!(count > 9_000 || cut_off, "{refused:?}");
    let grown = peak.saturating_sub(before);
    assert!(grown < 48 << 20, "the process grew by {grown} bytes");
    assert_eq!(get(&runner, "/static").status, 200);
}

/// Headers of more than the limit are refused, whether in one block or in endless pieces.
#[test]
fn header_lists_are_bounded() {
    let app = app();
    let runner = Runner::start(&app, &[]);
    let field = |length: usize| {
        // A literal field without indexing, with a length in HPACK's form.
        let mut field = vec![0, 1, b'x', 0x7f];
        let mut left = length - 127;
        while left >= 128 {
            field.push((left % 128) as u8 | 128);
            left /= 128;
        }
        field.push(left as u8);
        field.extend(vec![b'y'; length]);
        field
    };
    let before = runner.private_bytes();
    let mut socket = client::connect(&runner);
    let long = [block("/static"), field(12_000), field(12_000)].concat();
    let (first, rest) = long.split_at(16_000);
    socket.write_all(&[HELLO, &frame(1, 1, 1, first), &frame(9, 4, 1, rest)].concat()).unwrap();
    let answered = frames(&mut socket, Duration::from_secs(2));
    assert!(answered.contains_key(&1) || answered.contains_key(&RST_STREAM), "{answered:?}");
    let mut socket = client::connect(&runner);
    socket.write_all(&[HELLO, &frame(1, 1, 1, &block("/static"))].concat()).unwrap();
    let piece = frame(9, 0, 1, &field(15_000));
    let mut sent = 0;
    while sent < 64 << 20 && socket.write_all(&piece).is_ok() {
        sent += piece.len();
    }
    assert!(sent < 64 << 20, "{sent} bytes of a header were taken");
    let grown = runner.private_bytes().saturating_sub(before);
    assert!(grown < 16 << 20, "the process grew by {grown} bytes");
    assert_eq!(get(&runner, "/static").status, 200);
}

/// Clients that open all their streams and take nothing of the answers hold a bounded number of bytes, and
/// keep nobody else from being answered.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_do_not_read_are_bounded() {
    let app = app();
    let runner = Runner::start(&app, &["--max-concurrency", "2"]);
    assert_eq!(get(&runner, "/b/zeros?1").status, 200);
    let before = runner.private_bytes();
    let mut held = Vec::new();
    for _ in 0..8 {
        let client = connect(&runner, 0).await;
        for _ in 0..32 {
            let get = request(&runner, Method::GET, "/b/zeros?8");
            let Ok(Ok(mut client)) = timeout(Duration::from_secs(5), client.clone().ready()).await
            else {
                break;
            };
            held.push(client.send_request(get, true).unwrap());
        }
    }
    sleep(Duration::from_secs(2)).await;
    let grown = runner.private_bytes().saturating_sub(before);
    // 256 streams, a queue of 512 KiB each.
    assert!(grown < 192 << 20, "{} streams grew the process by {grown} bytes", held.len());
    let mut other = connect(&runner, 65_535).await;
    let get = request(&runner, Method::GET, "/static");
    let answer = timeout(Duration::from_secs(10), send(&mut other, get, Bytes::new(), None)).await;
    assert_eq!(answer.unwrap().unwrap().0, 200);
}

/// A connection without streams ends, as one of HTTP/1.1 does; so does one whose client stops in the middle
/// of its first bytes.
#[test]
fn a_clean_stop_ends_connections_without_streams() {
    let app = app();
    let mut runner = Runner::start(&app, &[]);
    let mut idle = client::connect(&runner);
    idle.write_all(HELLO).unwrap();
    let mut half = client::connect(&runner);
    half.write_all(&HELLO[..5]).unwrap();
    assert_eq!(get(&runner, "/static").status, 200);
    let start = Instant::now();
    runner.terminate();
    assert_eq!(runner.wait(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}
