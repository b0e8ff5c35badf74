//! Checks that components of WASI 0.3, made with spin-sdk 7 and 6, get what those of WASI 0.2 get, and are
//! bound as they are: one request an instance, the same limits, no answer that only looks whole.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::io::{Read as _, Write as _};
use std::sync::atomic::{AtomicUsize, Ordering};

use skincell_tests::client::{self, Answer, Request, get};
use skincell_tests::{App, Runner, wasi03, wasi03_candidate};

const MANIFEST: &str = r#"
spin_manifest_version = 2

[application]
name = "of-wasi-0-3"

[[trigger.http]]
route = "/release/:id/..."
component = "release"

[[trigger.http]]
route = "/candidate/:id/..."
component = "candidate"

[component.release]
source = "RELEASE"
variables = { url = "https://eu.test" }
environment = { LEVEL = "info" }
files = ["data/*.txt"]

[component.candidate]
source = "CANDIDATE"
variables = { url = "https://eu.test" }
environment = { LEVEL = "info" }
files = ["data/*.txt"]
"#;

/// Routes to the two components, which are built from one source.
const ROUTES: [&str; 2] = ["/release/7", "/candidate/7"];

fn app() -> App {
    let named = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let manifest = MANIFEST
        .replace("RELEASE", &named(wasi03()))
        .replace("CANDIDATE", &named(wasi03_candidate()));
    let app = App::with_manifest(&manifest);
    let data = app.path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("a.txt"), "this is a.txt").unwrap();
    app
}

fn text(answer: &Answer) -> String {
    String::from_utf8_lossy(&answer.body).into_owned()
}

/// Calls `request` a thousand times, from 8 threads.
fn a_thousand_times(request: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while let Some(number) =
                    Some(next.fetch_add(1, Ordering::Relaxed)).filter(|n| *n < 1000)
                {
                    request(number);
                }
            });
        }
    });
}

#[test]
fn a_component_of_wasi_0_3_gets_what_those_of_0_2_get() {
    let app = app();
    let runner = Runner::start(&app, &[]);
    let address = runner.address();
    for route in ROUTES {
        let url = format!("http://{address}{route}/url?x=1");
        let cases = [
            ("fine", "fine"),
            ("url?x=1", &url),
            ("variable?url", "https://eu.test"),
            ("variable?none", "Error::Undefined"),
            ("variable?No", "Error::InvalidName"),
            ("environment?LEVEL", "info"),
            ("file?/data/a.txt", "this is a.txt"),
            ("print?printed-here", "printed"),
            ("sleep?20", "slept 20 ms"),
        ];
        for (path, expected) in cases {
            let answer = get(&runner, &format!("{route}/{path}"));
            let found = text(&answer);
            assert_eq!(answer.status, 200, "{route}/{path}: {found}");
            assert!(found.starts_with(expected), "{route}/{path}: {found}");
        }
        let headers = text(&get(&runner, &format!("{route}/headers")));
        for line in ["spin-path-info: /headers\n", "spin-path-match-id: 7\n"] {
            assert!(headers.contains(line), "{headers}");
        }
    }
}

#[test]
fn bodies_pass_in_both_directions() {
    let app = app();
    let runner = Runner::start(&app, &[]);
    let photo: Vec<u8> = (0..700_000_u32).map(|number| (number % 251) as u8).collect();
    for route in ROUTES {
        for path in ["echo", "copy"] {
            let path = format!("{route}/{path}");
            let answer = Request::post(&path, photo.clone()).send(&runner);
            assert_eq!(answer.status, 200);
            assert!(answer.body == photo, "{path} returned {} bytes", answer.body.len());
        }
        // More than the queue between guest and client holds.
        let zeros = get(&runner, &format!("{route}/zeros?100"));
        assert!(zeros.body == vec![0; 100 * (64 << 10)], "{} bytes", zeros.body.len());
    }
}

#[test]
fn a_marker_in_a_static_of_wasi_0_3_is_never_seen_again() {
    let app = app();
    let runner = Runner::start(&app, &[]);
    a_thousand_times(|number| {
        let answer = get(&runner, &format!("{}/marker?{number}", ROUTES[number % 2]));
        assert_eq!(text(&answer), "nothing");
    });
}

/// 1,000 leaks of 1 MiB are 1,000 MiB if an instance serves a second request.
#[test]
fn a_leak_of_a_mebibyte_a_request_does_not_grow_the_process() {
    let app = app();
    let runner = Runner::start(&app, &[]);
    let leak = |number: usize| {
        let answer = get(&runner, &format!("{}/leak", ROUTES[number % 2]));
        assert_eq!(text(&answer), "leaked");
    };
    for number in 0..50 {
        leak(number);
    }
    let before = runner.private_bytes();
    a_thousand_times(leak);
    let grown = runner.private_bytes().saturating_sub(before);
    assert!(grown < 32 << 20, "the process grew by {grown} bytes");
}

#[test]
fn a_component_of_wasi_0_3_is_stopped_at_its_limits() {
    let app = app();
    let runner =
        Runner::start(&app, &["--request-timeout", "2s", "--max-instance-memory", "64MiB"]);
    for (path, status) in
        [("trap", 500), ("loop", 504), ("sleep?5000", 504), ("allocate", 413), ("streams", 500)]
    {
        let answer = get(&runner, &format!("{}/{path}", ROUTES[0]));
        assert_eq!(answer.status, status, "{path}: {}", text(&answer));
    }
    assert_eq!(text(&get(&runner, &format!("{}/fine", ROUTES[0]))), "fine");
}

/// The guest traps after the first piece of its answer.
#[test]
fn an_answer_of_wasi_0_3_that_breaks_off_does_not_look_whole() {
    let app = app();
    let runner = Runner::start(&app, &[]);
    for route in ROUTES {
        let mut socket = client::connect(&runner);
        let head =
            format!("GET {route}/break-off HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        socket.write_all(head.as_bytes()).unwrap();
        let mut answer = Vec::new();
        // The connection may end or be reset.
        let _ = socket.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).to_ascii_lowercase();
        let is_whole = answer.ends_with("\r\n0\r\n\r\n") || answer.contains("content-length");
        assert!(
            !is_whole && answer.starts_with("http/1.1 200"),
            "{} bytes: {:.200}",
            answer.len(),
            answer
        );
    }
}

/// The guest announces the first of its two pieces, or a bit more. wasmtime says nothing of what it cuts off
/// behind a whole answer; an answer that it cuts off before is not whole, and counts as failed.
#[test]
fn an_answer_of_wasi_0_3_of_another_length_than_announced_is_told() {
    let app = app();
    let runner = Runner::start(&app, &[]);
    for announced in [64 << 10, 70_000] {
        let mut socket = client::connect(&runner);
        let path = format!("{}/overrun?{announced}", ROUTES[0]);
        let head = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        socket.write_all(head.as_bytes()).unwrap();
        let mut answer = Vec::new();
        // The connection may end or be reset.
        let _ = socket.read_to_end(&mut answer);
        let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n");
        let length = answer.len() - end.map_or(0, |end| end + 4);
        assert_eq!(length == announced, announced == 64 << 10, "{length} bytes");
    }
    runner.wait_for_metric("skincell_requests_failed_total{reason=\"broke-off\"}");
    assert!(runner.stop().contains("the component's answer"));
}

/// A client that reads nothing until after the deadline gets an answer that fits the queue, and can recognise
/// that a longer one broke off.
#[test]
fn a_slow_client_gets_what_was_queued_before_the_deadline() {
    let app = app();
    let runner = Runner::start(&app, &["--request-timeout", "2s"]);
    for (pieces, is_whole) in [(6, true), (400, false)] {
        let mut socket = client::connect(&runner);
        let path = format!("{}/zeros?{pieces}", ROUTES[0]);
        let head = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        socket.write_all(head.as_bytes()).unwrap();
        std::thread::sleep(std::time::Duration::from_secs(3));
        let mut answer = Vec::new();
        // The connection may end or be reset.
        let _ = socket.read_to_end(&mut answer);
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{pieces} pieces");
        assert_eq!(answer.ends_with(b"\r\n0\r\n\r\n"), is_whole, "{pieces} pieces");
    }
    runner.wait_for_metric("skincell_requests_failed_total{reason=\"broke-off\"} 1");
}
