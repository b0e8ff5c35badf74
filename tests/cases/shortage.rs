//! Shortage of threads, descriptors or memory, for one call or for a while. Each request must get the correct
//! answer or 503, and the service must recover.
//!
//! The runner that cargo builds for tests has the feature `shortage`: a file of orders lists the calls that
//! fail (`runner/src/shortage.rs`). One test lowers the limit of descriptors instead.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use skincell_tests::client::{self, Request, get};
use skincell_tests::{App, Runner, photos};

const KINDS: [&str; 3] = ["thread", "descriptor", "memory"];
/// More calls of each kind than one request makes, including the load of its model.
const CALLS: usize = 8;

fn good() -> Request {
    Request::predict("", "image/png", photos::red_and_blue())
}

/// The file of orders, and a runner that follows it.
fn started(app: &App, flags: &[&str]) -> (PathBuf, Runner) {
    let orders = app.path().join("shortage");
    std::fs::write(&orders, "").unwrap();
    let variable = ("SKINCELL_SHORTAGE", orders.to_str().unwrap());
    let runner = Runner::start_with(app, flags, &[variable]);
    (orders, runner)
}

/// Replaces the model's graph, so that the next request loads it.
fn replace_model(app: &App) {
    let graph = app.path().join("models/colours/model.onnx");
    let new = graph.with_extension("new");
    std::fs::copy(&graph, &new).unwrap();
    std::fs::rename(new, graph).unwrap();
}

/// Replaces the file of orders atomically, because the runner may read it at any time.
fn order(orders: &Path, text: &str) {
    let new = orders.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, orders).unwrap();
}

#[test]
fn each_single_failed_call_is_answered_and_recovered_from() {
    let app = App::with_colours();
    let (orders, runner) = started(&app, &[]);
    let expected = good().send(&runner).results();
    let mut refused = 0;
    for kind in KINDS {
        for call in 1..=CALLS {
            replace_model(&app);
            order(&orders, &format!("{kind} {call} 1"));
            let answer = good().send(&runner);
            assert!([200, 503].contains(&answer.status), "{kind} {call}: {}", answer.status);
            refused += usize::from(answer.status == 503);
            order(&orders, "");
            assert_eq!(good().send(&runner).results(), expected, "after {kind} {call}");
        }
    }
    assert!(refused >= 3, "{refused}: at least one call of each kind should matter");
}

/// During a lasting shortage `/healthz` answers; afterwards changed tokens and a changed model are read.
#[test]
fn the_service_recovers_from_a_lasting_shortage() {
    let app = App::with_colours();
    let tokens = app.path().join("tokens");
    let keep = |token: &str| {
        let new = tokens.with_extension("new");
        std::fs::write(&new, format!("{token}\n")).unwrap();
        std::fs::rename(new, &tokens).unwrap();
    };
    let with = |token: &str| good().header("Authorization", &format!("Bearer {token}"));
    let (old, new) = ("a-token-of-32-letters-or-more-old", "a-token-of-32-letters-or-more-new");
    for kind in KINDS {
        keep(old);
        let (orders, runner) = started(&app, &["--tokens-file", tokens.to_str().unwrap()]);
        let expected = with(old).send(&runner).results();
        order(&orders, &format!("{kind} 1 1000000"));
        replace_model(&app);
        keep(new);
        let until = Instant::now() + Duration::from_secs(3);
        while Instant::now() < until {
            assert_eq!(get(&runner, "/healthz").status, 200, "{kind}");
            let status = with(new).send(&runner).status;
            assert!([200, 401, 503].contains(&status), "{kind}: {status}");
        }
        order(&orders, "");
        let until = Instant::now() + Duration::from_secs(10);
        while with(new).send(&runner).status != 200 {
            assert!(
                Instant::now() < until,
                "{kind}: the new token was not read, or the model not loaded"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(with(new).send(&runner).results(), expected, "{kind}");
        assert_eq!(with(old).send(&runner).status, 401, "{kind}: the old token is still accepted");
    }
}

/// While no connection can be accepted, clients wait in the kernel's queue, and all are served later.
#[test]
fn connections_wait_while_accept_fails() {
    let app = App::with_colours();
    let (orders, runner) = started(&app, &[]);
    let expected = good().send(&runner).results();
    // The next connection is accepted by a call that began before the orders.
    order(&orders, "accept 1 1000000");
    assert_eq!(get(&runner, "/healthz").status, 200);
    let lifts = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(1));
        order(&orders, "accept 3 5");
    });
    let start = Instant::now();
    for _ in 0..20 {
        assert_eq!(good().send(&runner).results(), expected);
    }
    assert!(start.elapsed() >= Duration::from_millis(900), "{:?}", start.elapsed());
    lifts.join().unwrap();
}

/// Lowers the process's limit of descriptors: to fewer than are open, or to a few more.
#[test]
fn a_request_is_answered_without_free_descriptors() {
    let app = App::with_colours();
    let runner = Runner::start(&app, &[]);
    let expected = good().send(&runner).results();
    let limit = |count: usize| {
        let arguments = ["--pid", &runner.id().to_string(), &format!("--nofile={count}:")];
        assert!(Command::new("prlimit").args(arguments).status().unwrap().success());
    };
    let cases =
        [(None, &[503][..]), (Some(0), &[200, 503]), (Some(2), &[200, 503]), (Some(20), &[200])];
    for (spare, may_be) in cases {
        replace_model(&app);
        let mut socket = client::connect(&runner);
        // The connection is accepted before the limit is lowered; the photo follows on it afterwards.
        socket.write_all(b"GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
        assert!(socket.read(&mut [0; 4096]).unwrap() > 0);
        let open = std::fs::read_dir(format!("/proc/{}/fd", runner.id())).unwrap().count();
        limit(spare.map_or(3, |spare| open + spare));
        let photo = photos::red_and_blue();
        let fields = format!("Content-Type: image/png\r\nContent-Length: {}\r\n", photo.len());
        socket.write_all(client::predict_head(&fields).as_bytes()).unwrap();
        socket.write_all(&photo).unwrap();
        let mut answer = [0; 64];
        let length = socket.read(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer[..length]);
        let status = answer.get(9..12).and_then(|text| text.parse().ok()).unwrap_or(0);
        assert!(may_be.contains(&status), "{spare:?} to spare: {answer}");
        limit(1024);
        assert_eq!(good().send(&runner).results(), expected, "after {spare:?} to spare");
    }
}
