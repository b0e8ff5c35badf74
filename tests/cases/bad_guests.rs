//! Components that trap, spin, take memory without end or say nothing, under the real runner: a
//! problem for who asked, and nothing for anybody else.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::process::Command;
use std::time::{Duration, Instant};

use skincell_runner::admission::LIGHT_SLOTS;
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

/// What wasi-nn gives a request has an end, which the guest is told by the standard's own error kinds.
#[test]
fn a_guest_without_measure_is_told_so() {
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

/// Models of a guest's own: only where the operator says how large they may be.
#[test]
fn a_guest_brings_a_model_only_where_it_may() {
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
    // Numbers without an end, which rten's reader would go on reading.
    let endless = [&[8, 8, 0x3a, 11][..], &[0xff; 11]].concat();
    assert_eq!(send(&runner, endless), "ErrorCode::InvalidArgument");
    assert_eq!(send(&runner, vec![0; 65 << 10]), "ErrorCode::TooLarge");
    assert_eq!(good().send(&runner).status, 200);
}

/// Scripts of random calls, as the fuzzer runs them (`fuzz/`): whatever they are, the guest is told or
/// ended, and the service is well.
#[test]
fn any_calls_of_wasi_nn_in_any_order_are_survived() {
    let app = App::with_colours();
    let runner = Runner::start(&app, &["--request-timeout", "5s"]);
    let expected = good().send(&runner).results();
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = move || {
        // xorshift64: enough to be different each time, and the same on every run.
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

/// All slots taken by guests that never end: the deadline gives each of them back.
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

/// Says that the runner itself is well, `times` times, each at once.
fn answers_for_itself(runner: &Runner, times: u32) {
    for _ in 0..times {
        let start = Instant::now();
        assert_eq!(get(runner, "/healthz").status, 200);
        assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Requests without a body begin on the threads that read requests, and may not stay there.
#[test]
fn a_guest_that_computes_holds_up_nobody() {
    let app = App::with_colours();
    let runner = Runner::start(&app, &["--request-timeout", "2s"]);
    std::thread::scope(|scope| {
        for _ in 0..LIGHT_SLOTS {
            scope.spawn(|| assert_eq!(get(&runner, "/guest/loop").status, 504));
        }
        answers_for_itself(&runner, 40);
    });
}

/// Nor may one whose output nobody reads.
#[test]
fn a_guest_that_prints_into_a_full_pipe_holds_up_nobody() {
    let app = App::with_colours();
    let folder = app.path().join("output");
    std::fs::create_dir(&folder).unwrap();
    let path = folder.join("guest_stdout.txt");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    let mut pipe = File::options().read(true).write(true).open(&path).unwrap();
    let flags = ["--log-dir", folder.to_str().unwrap(), "--request-timeout", "2s"];
    let runner = Runner::start(&app, &flags);
    assert_eq!(get(&runner, "/guest/print?hello").body, b"printed");
    // As much as a pipe holds.
    pipe.write_all(&[b'.'; (64 << 10) - "hello\n".len()]).unwrap();
    assert_eq!(get(&runner, "/guest/print-at-once").status, 500, "never asked whether it may");
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

/// An answer that breaks off is seen to break off: never a whole one with less in it.
#[test]
fn a_trap_within_an_answer_is_not_a_whole_answer() {
    let app = App::with_colours();
    let runner = Runner::start(&app, &[]);
    let mut socket = client::connect(&runner);
    let head = b"GET /guest/break-off HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
    socket.write_all(head).unwrap();
    let mut answer = Vec::new();
    // A reset is as good as an end.
    let _ = socket.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).to_ascii_lowercase();
    let is_whole = answer.ends_with("\r\n0\r\n\r\n") || answer.contains("content-length");
    assert!(!is_whole, "{answer}");
    assert_eq!(good().send(&runner).status, 200);
}

/// A client that sends half a photo and then nothing is told so at the deadline.
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
