//! Bad requests over HTTP: each must be answered with a problem of the right type, and the next request must
//! be served.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use skincell_tests::client::{self, Answer, Request, get, part};
use skincell_tests::{App, Runner, photos};

/// A request and its expected answer.
struct Row {
    name: &'static str,
    request: Request,
    status: u16,
    problem: &'static str,
}

fn row(name: &'static str, request: Request, status: u16, problem: &'static str) -> Row {
    Row { name, request, status, problem }
}

/// A raw body, always declared as JPEG.
fn raw(body: Vec<u8>) -> Request {
    Request::predict("", "image/jpeg", body)
}

fn json(body: &str) -> Request {
    Request::predict("", "application/json", body)
}

fn good() -> Request {
    Request::predict("", "image/png", photos::red_and_blue())
}

fn with_query(query: &str) -> Request {
    Request::predict(query, "image/png", photos::red_and_blue())
}

/// Bodies that have none of the three forms, or do not match their declared type.
fn bad_bodies() -> Vec<Row> {
    let mut rows = vec![
        row("no body", raw(Vec::new()), 400, "no-body"),
        row("words, no type", Request::predict("", "", "photo"), 415, "unsupported-content-type"),
        row("text", Request::predict("", "text/plain", "photo"), 415, "unsupported-content-type"),
        row(
            "an unsupported coding",
            good().header("content-encoding", "br"),
            415,
            "unsupported-content-encoding",
        ),
        row("invalid gzip", good().header("content-encoding", "gzip"), 400, "bad-content-encoding"),
        row(
            "a gzip bomb",
            raw(photos::gzip_bomb()).header("content-encoding", "gzip"),
            413,
            "body-too-large",
        ),
        row("broken base64", json(r#"{"image": "iVBORw0K*"}"#), 400, "bad-base64"),
        row(
            "a data URL without base64",
            json(r#"{"image": "data:image/png,x"}"#),
            400,
            "bad-base64",
        ),
        row("broken JSON", json("{\"image\": "), 400, "bad-json"),
        row("JSON of another shape", json("[1, 2]"), 400, "bad-json"),
        row("JSON without image", json("{}"), 400, "missing-image"),
    ];
    rows.extend(bad_forms());
    rows
}

/// Forms without a photo, with too much of something, or cut short.
fn bad_forms() -> Vec<Row> {
    let photo = photos::red_and_blue();
    let long_name = format!("name=\"image\"; filename=\"{}\"", "n".repeat(10 << 20));
    let parts = vec![part("name=\"a\"", b"1"); 10_000];
    let text = |value: &[u8]| Request::form(&[part("name=\"image\"", value)]);
    let no_boundary = Request::predict("", "multipart/form-data", "--cell--");
    vec![
        row(
            "an empty form",
            Request::predict("", "multipart/form-data; boundary=cell", ""),
            400,
            "no-body",
        ),
        row(
            "a form of another kind",
            Request::predict("", "application/x-www-form-urlencoded", "image=a.jpg"),
            400,
            "bad-base64",
        ),
        row(
            "a form without image",
            Request::form(&[part("name=\"notes\"", &photo)]),
            400,
            "missing-image",
        ),
        row("a form without a file", text(b""), 400, "missing-image"),
        row("a form without a boundary", no_boundary, 400, "bad-form"),
        row(
            "a file name of 10 MB",
            Request::form(&[part(&long_name, &photo)]),
            400,
            "part-header-too-long",
        ),
        row("10,000 parts", Request::form(&parts), 400, "too-many-parts"),
        row(
            "two photos",
            Request::form(&[part("name=\"image\"", &photo), part("name=\"file\"", &photo)]),
            400,
            "several-photos",
        ),
        row("broken base64 in a form", text(b"iVBORw0K*"), 400, "bad-base64"),
    ]
}

/// Bytes that are not a photo, and photos with false headers, decompression bombs or early ends.
fn bad_photos() -> Vec<Row> {
    let encoded = format!(r#"{{"image": "{}"}}"#, STANDARD.encode("no photo at all"));
    let mut rows = vec![
        row("not an image", raw(b"<svg/>".to_vec()), 415, "not-an-image"),
        row(
            "not an image, in a form",
            Request::form(&[part("name=\"image\"; filename=\"a.png\"", b"text")]),
            415,
            "not-an-image",
        ),
        row("not an image, in JSON", json(&encoded), 415, "not-an-image"),
        row("HEIC", raw(photos::heic()), 415, "heic"),
        row(
            "a PNG of 60000×60000",
            raw(photos::hollow_png(60_000, 60_000)),
            422,
            "too-many-pixels",
        ),
        row("an animated WebP of 16384×16384", raw(photos::vast_webp()), 422, "too-many-pixels"),
        // The PNG specification excludes sides of 0 (11.2.1), so such a file is broken. A GIF may have a
        // screen of 0×0; its first frame then determines the size.
        row("a PNG of 0×0", raw(photos::hollow_png(0, 0)), 422, "broken-image"),
        row(
            "a JPEG of too many scans",
            raw(photos::many_scans()),
            415,
            "unsupported-image-feature",
        ),
        row("texts of 1 GiB", raw(photos::with_bomb(b"zTXt")), 422, "too-much-metadata"),
        row("a colour profile of 1 GiB", raw(photos::with_bomb(b"iCCP")), 422, "too-much-metadata"),
        row("XMP of 1 GiB", raw(photos::with_bomb(b"iTXt")), 422, "too-much-metadata"),
        row("a PNG without pixels", raw(photos::hollow_png(64, 48)), 422, "broken-image"),
    ];
    for name in [
        "orientation_1.jpg",
        "progressive.jpg",
        "rgb8.png",
        "lossy.webp",
        "lossless.webp",
        "rgb24.bmp",
        "plain.gif",
    ] {
        rows.push(row(name, raw(photos::half(name)), 422, "truncated-image"));
    }
    rows
}

/// Good photos in requests with another error.
fn bad_wishes() -> Vec<Row> {
    let to = |method, path| Request::new(method, path);
    vec![
        row("an unknown model", with_query("?model=none"), 404, "unknown-model"),
        row("a model as a path", with_query("?model=../colours"), 404, "unknown-model"),
        row("a model not granted", with_query("?model=private"), 404, "model-not-granted"),
        row("a model that cannot be loaded", with_query("?model=broken"), 503, "model-unavailable"),
        row("a model unlike its card", with_query("?model=misfit"), 500, "model-mismatch"),
        row("an unknown class", with_query("?class=violet"), 400, "unknown-class"),
        row("a class out of range", with_query("?class=3"), 400, "unknown-class"),
        row("top_k of 0", with_query("?top_k=0"), 400, "bad-option"),
        row("top_k of words", with_query("?top_k=few"), 400, "bad-option"),
        row("gradcam maybe", with_query("?gradcam=maybe"), 400, "bad-option"),
        row("an unknown option", with_query("?topk=3"), 400, "unknown-option"),
        row(
            "an unknown member",
            json(r#"{"image": "iVBORw0K", "topk": 3}"#),
            400,
            "unknown-option",
        ),
        row("no form of answer", good().header("accept", "text/plain"), 406, "not-acceptable"),
        row(
            "an overlay without a heatmap",
            with_query("?model=plain").header("accept", "image/png"),
            409,
            "no-heatmap",
        ),
        row("an unknown path", to(Method::GET, "/elsewhere"), 404, "unknown-path"),
        row("GET /predict", to(Method::GET, "/predict"), 405, "method-not-allowed"),
        row("DELETE /predict", to(Method::DELETE, "/predict"), 405, "method-not-allowed"),
        row("OPTIONS /predict", to(Method::OPTIONS, "/predict"), 405, "method-not-allowed"),
        row("POST /health", to(Method::POST, "/health"), 405, "method-not-allowed"),
        row("PUT /", to(Method::PUT, "/"), 405, "method-not-allowed"),
    ]
}

#[test]
fn every_bad_request_gets_its_own_problem_and_the_next_is_served() {
    let app = App::with_colours();
    let runner = Runner::start(&app, &[]);
    let expected = good().send(&runner).results();
    for row in bad_bodies().into_iter().chain(bad_photos()).chain(bad_wishes()) {
        println!("{}", row.name);
        let start = Instant::now();
        let answer = row.request.send(&runner);
        let took = start.elapsed();
        assert_eq!((answer.problem().as_str(), answer.status), (row.problem, row.status));
        assert_eq!(answer.header("x-instance-requests"), "1", "{}", row.name);
        assert_eq!(answer.header("cache-control"), "no-store", "{}", row.name);
        assert!(answer.body.len() < 2000, "{}: {} bytes", row.name, answer.body.len());
        assert!(took < Duration::from_secs(10), "{}: {took:?}", row.name);
        assert_eq!(good().send(&runner).results(), expected, "after {}", row.name);
    }
    let peak = runner.peak_bytes();
    assert!(peak < 256 << 20, "the runner held {peak} bytes: something was inflated");
}

#[test]
fn a_refusal_says_what_to_do() {
    let app = App::with_colours();
    let runner = Runner::start(&app, &[]);
    let detail = |request: Request| request.send(&runner).json()["detail"].to_string();
    let cases = [
        (raw(photos::heic()), "JPEG"),
        (raw(Vec::new()), "multipart field `image`"),
        (with_query("?model=none"), "colours"),
        (with_query("?class=violet"), "red"),
        (with_query("?gradcam=maybe"), "true, 1, yes or on"),
        (with_query("?model=broken"), "skincell model check"),
        (Request::new(Method::GET, "/elsewhere"), "/predict"),
    ];
    for (request, part) in cases {
        let detail = detail(request);
        assert!(detail.contains(part), "{detail}");
    }
    assert_eq!(get(&runner, "/predict").header("allow"), "POST");
    assert_eq!(Request::new(Method::PUT, "/models").send(&runner).header("allow"), "GET, HEAD");
    let vast = raw(photos::hollow_png(60_000, 60_000)).send(&runner).json();
    assert_eq!((&vast["limit"], &vast["actual"]), (&51_000_000.into(), &3_600_000_000_u64.into()));
}

/// If a GIF's screen is 0×0, its first frame determines the size, as in browsers.
#[test]
fn a_gif_without_a_screen_is_its_first_frame() {
    let app = App::with_colours();
    let runner = Runner::start(&app, &[]);
    assert!(!raw(photos::gif_without_screen()).send(&runner).results().is_empty());
}

/// The first frame of an animation is the photo; the number of later frames does not matter.
#[test]
fn thousands_of_later_frames_are_ignored() {
    let app = App::with_colours();
    let runner = Runner::start(&app, &["--max-instance-memory", "24MiB"]);
    let results = |body: Vec<u8>| raw(body).send(&runner).results();
    assert_eq!(results(photos::many_frames()), results(photos::fixture("animated.webp")));
}

/// Formats are recognised by their bytes, not by a file name or declared type.
#[test]
fn names_and_types_do_not_decide_the_format() {
    let app = App::with_colours();
    let runner = Runner::start(&app, &[]);
    let photo = photos::red_and_blue();
    let expected = good().send(&runner).results();
    for content_type in ["image/jpeg", "image/webp", "image/svg+xml", "application/octet-stream"] {
        let answer = Request::predict("", content_type, &photo[..]).send(&runner);
        assert_eq!(answer.results(), expected, "{content_type}");
    }
    for name in ["photo.heic", "photo.exe", "../../photo.png", ""] {
        let file = part(&format!("name=\"image\"; filename=\"{name}\""), &photo);
        assert_eq!(Request::form(&[file]).send(&runner).results(), expected, "{name:?}");
    }
}

#[test]
fn a_body_over_the_limit_is_refused_before_it_is_read_whole() {
    let app = App::with_colours();
    let runner = Runner::start(&app, &["--max-body", "1MiB"]);
    let declared = "Content-Type: image/jpeg\r\nContent-Length: 1048577\r\n";
    let (status, _) = client::send_until_answered(&runner, &client::predict_head(declared), &[]);
    assert!(status.contains("413"), "{status}: no body was sent");

    let endless = "Content-Type: image/jpeg\r\nTransfer-Encoding: chunked\r\n";
    let chunk = [&b"10000\r\n"[..], &[b'x'; 0x1_0000], b"\r\n"].concat();
    let (status, sent) =
        client::send_until_answered(&runner, &client::predict_head(endless), &chunk);
    assert!(status.contains("413"), "{status}");
    // The limit, and the buffers of the sockets on both sides.
    assert!(sent < 16 << 20, "{sent} bytes were taken");
    assert_served(&good().send(&runner));
}

#[test]
fn the_default_limit_of_a_body_is_16_mib() {
    let app = App::with_colours();
    let runner = Runner::start(&app, &[]);
    for length in [16_777_217_u64, 1 << 40] {
        let lines = format!("Content-Type: image/jpeg\r\nContent-Length: {length}\r\n");
        let (status, _) = client::send_until_answered(&runner, &client::predict_head(&lines), &[]);
        assert!(status.contains("413"), "{length}: {status}");
    }
    assert_served(&good().send(&runner));
}

/// A client that sends its whole photo before it reads must get the refusal every time; the connection must
/// not be reset before.
#[test]
fn a_client_that_sends_first_and_reads_later_gets_the_refusal() {
    let app = App::with_colours();
    let runner = Runner::start(&app, &["--max-body", "64KiB"]);
    let body = vec![b'x'; 2 << 20];
    for number in 0..200 {
        let lines = format!("Content-Type: image/jpeg\r\nContent-Length: {}\r\n", body.len());
        let answer = client::send_all_then_read(&runner, &client::predict_head(&lines), &body);
        let answer = answer.unwrap_or_else(|error| panic!("post {number}: {error}"));
        assert_eq!((answer.problem().as_str(), answer.status), ("body-too-large", 413));
        assert_eq!(answer.header("connection"), "close");
    }
    assert_served(&good().send(&runner));
}

#[test]
fn longer_heads_are_accepted_if_the_service_says_so() {
    let app = App::with_colours();
    let runner = Runner::start(&app, &["--http1-max-buf-size", "65536"]);
    for (length, status) in [(60 << 10, 200), (80 << 10, 431)] {
        let field = format!("X-Field: {}", "x".repeat(length));
        let head = format!("GET /health HTTP/1.1\r\nHost: test\r\n{field}\r\n\r\n");
        let answer = client::send_all_then_read(&runner, &head, &[]).unwrap();
        assert_eq!(answer.status, status, "{length}");
    }
}

/// Heads that the HTTP library itself refuses also get problems of their own types.
#[test]
fn invalid_heads_get_their_own_problems() {
    let app = App::with_colours();
    let runner = Runner::start(&app, &[]);
    let length = |value: &str| client::predict_head(&format!("Content-Length: {value}\r\n"));
    let many = "X-Field: 1\r\n".repeat(101);
    let long = format!("X-Field: {}\r\n", "x".repeat(32 << 10));
    let get = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n");
    let cases = [
        (length("18446744073709551615"), 413, "body-too-large"),
        (length("18446744073709551614"), 413, "body-too-large"),
        (length("18446744073709551613"), 413, "body-too-large"),
        (length("99999999999999999999999999"), 413, "body-too-large"),
        (length("-1"), 400, "bad-request"),
        (length("many"), 400, "bad-request"),
        (client::predict_head(&many), 431, "head-too-large"),
        (client::predict_head(&long), 431, "head-too-large"),
        (get(&format!("/{}", "x".repeat(32 << 10))), 431, "head-too-large"),
        ("PHOTO\r\n\r\n".to_owned(), 400, "bad-request"),
        (get("/ HTTP/9.9"), 400, "bad-request"),
    ];
    for (head, status, problem) in cases {
        let shown = head.get(..80).unwrap_or(&head);
        let answer = client::send_all_then_read(&runner, &head, &[]);
        let answer = answer.unwrap_or_else(|error| panic!("{shown:?}: {error}"));
        assert_eq!((answer.problem().as_str(), answer.status), (problem, status), "{shown:?}");
        assert_served(&good().send(&runner));
    }
}

/// The component limits bodies itself, for hosts that do not.
#[test]
fn the_component_limits_bodies_itself() {
    let app = App::with_colours();
    let runner = Runner::start(&app, &["--env", "SKINCELL_MAX_BODY=1KiB"]);
    let large = vec![b'x'; 1025];
    let form = Request::form(&[part("name=\"image\"", &large)]);
    for request in [raw(large.clone()), form] {
        let answer = request.send(&runner);
        assert_eq!((answer.problem().as_str(), answer.status), ("body-too-large", 413));
        assert_eq!(answer.header("x-instance-requests"), "1");
        assert_eq!(answer.json()["limit"], 1024);
        assert!(answer.json()["actual"].as_u64() > Some(1024));
    }
}

/// A client that disconnects in the middle of its photo does not affect other clients.
#[test]
fn interrupted_uploads_do_not_affect_others() {
    use std::io::Write as _;
    let app = App::with_colours();
    let runner = Runner::start(&app, &["--max-concurrency", "2"]);
    let photo = photos::red_and_blue();
    for cut in [0, 1, photo.len() / 2, photo.len() - 1] {
        let mut socket = client::connect(&runner);
        let lines = format!("Content-Type: image/png\r\nContent-Length: {}\r\n", photo.len());
        socket.write_all(client::predict_head(&lines).as_bytes()).unwrap();
        socket.write_all(&photo[..cut]).unwrap();
        drop(socket);
        assert_served(&good().send(&runner));
    }
}

fn assert_served(answer: &Answer) {
    assert!(answer.results().contains("\"class\":\"red\""), "{answer:?}");
}
