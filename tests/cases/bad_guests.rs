//! Components that trap, loop, exhaust memory or do not answer. The runner must answer their client with a
//! problem, and other clients must not be affected.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::process::Command;
use std::time::{Duration, Instant};

use http::Method;
use skincell_runner::admission::HIGH_PRIORITY_PERMITS;
use skincell_tests::client::{self, Request, get};
use skincell_tests::{App, Runner, colours, photos};

fn good() -> Request {
    Request::predict("", "image/png", photos::red_and_blue())
}

#[test]
fn a_guest_that_fails_is_a_problem_and_the_next_is_served() {
    let app = App::with_colours();
    let runner = Runner::start(&app, &["--request-timeout", "2s"]);
    let expected = good().send(&runner).results();
    let cases = [
        ("trap", 500, "component-failed"),
        ("panic", 500, "component-failed"),
        ("exit", 500, "component-failed"),
        ("recurse", 500, "component-failed"),
        ("silent", 500, "component-failed"),
        ("loop", 504, "deadline"),
        ("allocate", 413, "needs-too-much-memory"),
        ("tensors", 500, "component-failed"),
        ("handles", 500, "component-failed"),
    ];
    for (path, status, problem) in cases {
        let start = Instant::now();
        let answer = get(&runner, &format!("/guest/{path}"));
        let took = start.elapsed();
        assert_eq!((answer.problem().as_str(), answer.status), (problem, status), "{path}");
        assert!(took < Duration::from_secs(4), "{path}: {took:?}");
        assert_eq!(get(&runner, "/guest/fine").body, b"fine", "after {path}");
        assert_eq!(good().send(&runner).results(), expected, "after {path}");
    }
}

/// wasi-nn limits what one request may use, and reports it by the standard's error codes.
#[test]
fn excessive_use_of_wasi_nn_is_an_error() {
    let app = App::with_colours();
    let runner = Runner::start(&app, &[]);
    let cases = [
        ("contexts?colours", "100 ErrorCode::TooLarge"),
        ("computes?colours", "100 ErrorCode::TooLarge"),
        ("contexts?broken", "0 ErrorCode::RuntimeError"),
        ("load-name?colours", "loaded"),
        ("load-name?private", "ErrorCode::NotFound"),
        ("load-name?../models/colours", "ErrorCode::NotFound"),
        ("load-name?/etc/passwd", "ErrorCode::NotFound"),
        ("load-name?", "ErrorCode::NotFound"),
    ];
    for (path, expected) in cases {
        let answer = get(&runner, &format!("/guest/{path}"));
        assert_eq!(String::from_utf8_lossy(&answer.body), expected, "{path}");
    }
    assert_eq!(good().send(&runner).status, 200);
}

/// A guest may load a model from bytes only if the operator allows it and sets a largest size.
#[test]
fn a_guest_loads_its_own_model_only_if_allowed() {
    let app = App::with_colours();
    let send = |runner: &Runner, model: Vec<u8>| {
        let request = Request::post("/guest/load-bytes", model);
        String::from_utf8_lossy(&request.send(runner).body).into_owned()
    };
    let runner = Runner::start(&app, &[]);
    assert_eq!(send(&runner, colours::exported()), "ErrorCode::UnsupportedOperation");
    drop(runner);
    let runner = Runner::start(&app, &["--allow-guest-models", "64KiB"]);
    assert_eq!(send(&runner, colours::exported()), "loaded");
    assert_eq!(send(&runner, b"not ONNX".to_vec()), "ErrorCode::InvalidArgument");
    // An endless number, which rten's reader would never stop reading.
    let endless = [&[8, 8, 0x3a, 11][..], &[0xff; 11]].concat();
    assert_eq!(send(&runner, endless), "ErrorCode::InvalidArgument");
    assert_eq!(send(&runner, vec![0; 65 << 10]), "ErrorCode::TooLarge");
    assert_eq!(good().send(&runner).status, 200);
}

/// Scripts of random calls, as the fuzzer runs them (`fuzz/`). The guest gets errors or is ended, and the
/// service must keep working.
#[test]
fn any_calls_of_wasi_nn_in_any_order_are_survived() {
    let app = App::with_colours();
    let runner = Runner::start(&app, &["--request-timeout", "5s"]);
    let expected = good().send(&runner).results();
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = move || {
        // xorshift64 with a fixed seed, so that every run is the same.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    let right = [0, 1, 200, 4, 0, 5, 0, 6, 0, 1, 1, 0].to_vec();
    let answer = Request::post("/guest/script", right.clone()).send(&runner);
    assert_eq!(String::from_utf8_lossy(&answer.body), "0 errors, 1 runs");
    for round in 0..200_usize {
        let mut script: Vec<u8> = (0..round * 4).map(|_| random()).collect();
        script.extend(&right);
        let status = Request::post("/guest/script", script).send(&runner).status;
        assert!([200, 413, 500].contains(&status), "round {round}: {status}");
    }
    assert_eq!(good().send(&runner).results(), expected);
}

/// Guests that never end take all slots; the deadline frees each of them.
#[test]
fn slots_come_back_after_the_deadline() {
    let app = App::with_colours();
    let runner = Runner::start(&app, &["--request-timeout", "1s", "--max-concurrency", "2"]);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| assert_eq!(get(&runner, "/guest/loop").status, 504));
        }
    });
    assert_eq!(good().send(&runner).status, 200);
}

/// Checks `times` times that `/healthz` answers at once.
fn answers_for_itself(runner: &Runner, times: u32) {
    for _ in 0..times {
        let start = Instant::now();
        assert_eq!(get(runner, "/healthz").status, 200);
        assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Requests without a body begin on the threads that serve connections; a guest that computes for long must
/// be moved away from them.
#[test]
fn a_guest_that_computes_delays_no_other_request() {
    let app = App::with_colours();
    let runner = Runner::start(&app, &["--request-timeout", "2s"]);
    std::thread::scope(|scope| {
        for _ in 0..HIGH_PRIORITY_PERMITS {
            scope.spawn(|| assert_eq!(get(&runner, "/guest/loop").status, 504));
        }
        answers_for_itself(&runner, 40);
    });
}

/// A guest that prints into a full pipe must not block other requests either.
#[test]
fn a_guest_that_prints_into_a_full_pipe_delays_no_other_request() {
    let app = App::with_colours();
    let folder = app.path().join("output");
    std::fs::create_dir(&folder).unwrap();
    let path = folder.join("guest_stdout.txt");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    let mut pipe = File::options().read(true).write(true).open(&path).unwrap();
    let flags = ["--log-dir", folder.to_str().unwrap(), "--request-timeout", "2s"];
    let runner = Runner::start(&app, &flags);
    assert_eq!(get(&runner, "/guest/print?hello").body, b"printed");
    // Fills the pipe, which holds 64 KiB.
    pipe.write_all(&[b'.'; (64 << 10) - "hello\n".len()]).unwrap();
    assert_eq!(get(&runner, "/guest/print-at-once").status, 500, "a write without a check traps");
    std::thread::scope(|scope| {
        for path in ["print?again", "print-when-ready"] {
            let runner = &runner;
            scope.spawn(move || assert_eq!(get(runner, &format!("/guest/{path}")).status, 504));
        }
        answers_for_itself(&runner, 40);
    });
    pipe.read_exact(&mut [0; 64 << 10]).unwrap();
    assert_eq!(get(&runner, "/guest/print?read").body, b"printed");
    assert_eq!(get(&runner, "/guest/print-when-ready").body, b"written");
}

/// A client must be able to recognise that an answer broke off.
#[test]
fn an_answer_broken_off_by_a_trap_is_recognisable() {
    let app = App::with_colours();
    let runner = Runner::start(&app, &[]);
    let mut socket = client::connect(&runner);
    let head = b"GET /guest/break-off HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
    socket.write_all(head).unwrap();
    let mut answer = Vec::new();
    // The connection may end or be reset.
    let _ = socket.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).to_ascii_lowercase();
    let is_whole = answer.ends_with("\r\n0\r\n\r\n") || answer.contains("content-length");
    assert!(!is_whole, "{answer}");
    // The request counts as failed, although its status was 200.
    runner.wait_for_metric("skincell_requests_failed_total{reason=\"broke-off\"} 1");
    assert_eq!(good().send(&runner).status, 200);
}

/// hyper cuts off what a component writes beyond the length that it announced. The answer looks whole only if
/// all of that had been sent before; it counts as failed either way.
#[test]
fn more_than_an_answer_announced_is_told() {
    let app = App::with_colours();
    let runner = Runner::start(&app, &[]);
    for (number, query) in (1..).zip(["", "pieces"]) {
        let mut socket = client::connect(&runner);
        let path = format!("/guest/overrun?{query}");
        let head = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        socket.write_all(head.as_bytes()).unwrap();
        let mut answer = Vec::new();
        // The connection may end or be reset.
        let _ = socket.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        assert_eq!(body, if query == "pieces" { "whole" } else { "" }, "{answer}");
        let counted = format!("skincell_requests_failed_total{{reason=\"broke-off\"}} {number}");
        runner.wait_for_metric(&counted);
    }
    let log = runner.stop();
    assert_eq!(log.matches("has more bytes than its content-length announced").count(), 2, "{log}");
}

/// hyper does not read the body of an answer to HEAD, which looked as if the client had left.
#[test]
fn work_after_the_answer_to_head_is_done_as_with_get() {
    let app = App::with_colours();
    let folder = app.path().join("output");
    let runner = Runner::start(&app, &["--log-dir", folder.to_str().unwrap()]);
    for (number, method) in (1..).zip([Method::GET, Method::HEAD]) {
        assert_eq!(Request::new(method, "/guest/work-on").send(&runner).status, 200);
        let printed =
            || std::fs::read_to_string(folder.join("guest_stdout.txt")).unwrap_or_default();
        let done = || printed().matches("worked on").count() == number;
        let until = Instant::now() + Duration::from_secs(20);
        while !done() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(done(), "{}", printed());
    }
}

#[test]
fn a_trap_after_a_whole_answer_is_logged() {
    let app = App::with_colours();
    let runner = Runner::start(&app, &[]);
    assert_eq!(get(&runner, "/guest/work-on?trap").body, b"whole");
    runner.wait_for_metric("skincell_instances_dropped_total 1");
    let log = runner.stop();
    assert!(log.contains("component error after response started"), "{log}");
}

/// hyper answers such a status with an empty 500 that nobody hears of.
#[test]
fn a_status_that_is_no_answer_is_a_failure_that_is_told() {
    let app = App::with_colours();
    let runner = Runner::start(&app, &[]);
    for status in [100, 101, 103, 199] {
        let answer = get(&runner, &format!("/guest/status?{status}"));
        assert_eq!(answer.status, 500, "{status}");
        let problem = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(problem.contains("the component failed"), "{status}: {problem}");
    }
    assert_eq!(get(&runner, "/guest/status?204").status, 204);
    let metrics = String::from_utf8_lossy(&get(&runner, "/metrics").body).into_owned();
    assert!(metrics.contains("skincell_requests_failed_total{reason=\"trap\"} 4"), "{metrics}");
}

#[test]
fn a_guest_has_no_network() {
    let app = App::with_colours();
    let runner = Runner::start(&app, &[]);
    let somebody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let datagrams = std::net::UdpSocket::bind(somebody.local_addr().unwrap()).unwrap();
    let answer = get(&runner, &format!("/guest/call?{}", somebody.local_addr().unwrap()));
    let said = String::from_utf8(answer.body).unwrap();
    let lines: Vec<_> = said.lines().collect();
    assert!(lines.len() == 3 && lines[0].contains("HttpRequestDenied"), "{said}");
    assert!(lines[1..].iter().all(|line| line.starts_with("Err(")), "{said}");
    somebody.set_nonblocking(true).unwrap();
    datagrams.set_nonblocking(true).unwrap();
    assert!(somebody.accept().is_err(), "a connection came");
    assert!(datagrams.recv_from(&mut [0; 8]).is_err(), "a datagram came");
}

/// A client that stops in the middle of its photo gets 408 at the deadline.
#[test]
fn a_client_that_stalls_is_cut_off() {
    let app = App::with_colours();
    let runner = Runner::start(&app, &["--request-timeout", "1s", "--max-concurrency", "1"]);
    let start = Instant::now();
    let head = client::predict_head("Content-Type: image/png\r\nContent-Length: 5000\r\n");
    let mut socket = client::connect(&runner);
    socket.write_all(head.as_bytes()).unwrap();
    socket.write_all(&photos::red_and_blue()[..100]).unwrap();
    let mut answer = [0; 64];
    let length = socket.read(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer[..length]);
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(good().send(&runner).status, 200);
}

/// An application whose guest has a few files.
const WITH_FILES: &str = r#"
spin_manifest_version = 2
[application]
name = "resources"
[[trigger.http]]
route = "/..."
component = "guest"
[component.guest]
source = "GUEST"
files = ["data/*"]
"#;

/// Memory limit of an instance.
const INSTANCE: &str = "16MiB";
/// Host memory that an instance's account allows; one call may hand over as much again.
const ACCOUNT: u64 = 2 << 20;
/// Linear memory that the guest itself touches.
const GUEST: u64 = 3 << 20;
/// Tolerance for other memory of the host.
const SLACK: u64 = 1 << 20;

fn app_with_files() -> App {
    let app = App::with_manifest(WITH_FILES);
    let data = app.path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("large"), vec![7; 1 << 20]).unwrap();
    for number in 0..200 {
        std::fs::write(data.join(format!("a file with a rather long name, number {number}")), "")
            .unwrap();
    }
    app
}

/// Runs a script of `guests/src/resources.rs`; returns the status and the largest growth of private memory.
fn resources(runner: &Runner, script: &[u8]) -> (u16, u64) {
    let before = runner.private_bytes();
    let (answer, peak) =
        runner.private_peak(|| Request::post("/resources", script.to_vec()).send(runner));
    (answer.status, peak.saturating_sub(before))
}

/// A guest makes as many resources of one kind as it can; the host must not hold more than the account
/// allows.
#[test]
fn no_kind_of_resource_outgrows_the_account() {
    let app = app_with_files();
    let runner = Runner::start(&app, &["--max-instance-memory", INSTANCE]);
    assert_eq!(resources(&runner, &[]).0, 200);
    let attacks: [(&str, &[u8], u16); 12] = [
        (
            "ordinary use",
            &[0, 1, 0, 1, 2, 6, 4, 0, 0, 6, 2, 0, 7, 1, 0, 8, 1, 0, 9, 2, 0, 10, 1, 14],
            200,
        ),
        ("300 responses with full bodies", &[4, 75, 0], 500),
        (
            "responses let go, their bodies kept",
            &[4, 1, 0, 11, 1, 7, 4, 1, 0, 11, 1, 7, 4, 250, 0],
            500,
        ),
        ("requests with full bodies and long texts", &[5, 250, 16], 500),
        ("990 header maps of 50 KB", &[3, 247, 15], 500),
        ("many fields in one map", &[0, 1, 0, 1, 255, 0, 1, 255, 0, 1, 255, 8], 500),
        ("990 open files", &[6, 247, 0], 500),
        ("streams that have read ahead", &[6, 1, 0, 7, 247, 0], 500),
        ("listings of a folder", &[8, 247, 0], 500),
        ("900 small handles", &[9, 56, 0], 500),
        ("tensors of 64 KiB", &[10, 247, 16], 500),
        ("tensors of 1 byte", &[10, 255, 0], 500),
    ];
    for (name, script, status) in attacks {
        let (answered, grown) = resources(&runner, script);
        println!("{name}: {answered}, {} KiB", grown >> 10);
        assert_eq!(answered, status, "{name}");
        assert!(grown <= GUEST + 2 * ACCOUNT + SLACK, "{name}: {grown}");
        assert_eq!(get(&runner, "/fine").body, b"fine", "after {name}");
    }
}

/// Seeded scripts make random resources in random order: 60 of them, or as many as fit in
/// `SKINCELL_FUZZ_SECONDS`.
#[test]
fn any_resources_in_any_order_stay_within_the_account() {
    let app = app_with_files();
    let runner =
        Runner::start(&app, &["--max-instance-memory", INSTANCE, "--request-timeout", "20s"]);
    let seconds = std::env::var("SKINCELL_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok());
    let until = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let (mut state, mut largest, mut seen) = (0x2545_F491_4F6C_DD1D_u64, 0, [0_u32; 3]);
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    for round in 0_u32.. {
        if until.map_or(round == 60, |until| Instant::now() >= until) {
            break;
        }
        let steps = usize::from(random() % 40);
        let mut step = || {
            let (kind, count) = (random(), random());
            // Mostly a few of each kind, so that several kinds exist before the account is full.
            [kind, if count < 16 { count * 16 } else { count % 3 }, random()]
        };
        let script: Vec<u8> = (0..steps).flat_map(|_| step()).collect();
        let (status, grown) = resources(&runner, &script);
        let place = [200, 500, 413].iter().position(|known| *known == status);
        seen[place.unwrap_or_else(|| panic!("round {round}: {status} for {script:?}"))] += 1;
        assert!(grown <= GUEST + 2 * ACCOUNT + SLACK, "round {round}: {grown} for {script:?}");
        largest = grown.max(largest);
    }
    println!(
        "{} fine, {} ended, {} out of memory; at most {} KiB",
        seen[0],
        seen[1],
        seen[2],
        largest >> 10
    );
    assert!(seen[0] > 0 && seen[1] > 0, "some scripts succeed and some are ended");
    assert_eq!(get(&runner, "/fine").body, b"fine");
}
