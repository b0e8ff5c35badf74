//! The memory budget and the queue, tested over HTTP: settings and requests that do not fit are refused,
//! models are unloaded and reloaded, and accepted requests are finished before the service ends.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use skincell_tests::client::{self, Request, get};
use skincell_tests::{App, Runner, photos};

fn good() -> Request {
    Request::predict("", "image/png", photos::red_and_blue())
}

fn metrics(runner: &Runner) -> String {
    let answer = get(runner, "/metrics");
    assert!(answer.header("content-type").starts_with("text/plain; version=0.0.4"));
    String::from_utf8(answer.body).unwrap()
}

/// The value of the metric whose line begins with `name`.
fn metric(runner: &Runner, name: &str) -> Option<f64> {
    let text = metrics(runner);
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.rsplit(' ').next()?.parse().ok()
}

/// Waits until `done`, with a time limit.
fn until(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(10), "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_budget_without_room_for_one_request_is_refused_at_the_start() {
    let app = App::with_colours();
    let said =
        Runner::refused(&app, &["--memory-limit", "32MiB", "--max-instance-memory", "24MiB"]);
    for part in ["memory limit of 32.0 MiB", "one instance", "24.0 MiB", "together"] {
        assert!(said.contains(part), "{said}");
    }
}

#[test]
fn a_small_budget_serves_and_reports_its_use() {
    let app = App::with_colours();
    let runner = Runner::start(&app, &["--memory-limit", "64MiB"]);
    let expected = good().send(&runner).results();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(good().send(&runner).results(), expected));
        }
    });
    let memory = get(&runner, "/memory").json()["memory"].clone();
    assert_eq!(memory["budget_mb"], 64.0);
    let reserved = memory["reserved_mb"].as_f64().unwrap();
    assert!(reserved > 1.0 && reserved < 64.0, "{memory}");
    let text = metrics(&runner);
    let served = text.lines().filter(|line| {
        line.starts_with("http_requests_total{") && line.contains("route=\"/predict\"")
    });
    let served: Vec<&str> = served.collect();
    assert!(served[0].contains("status=\"200\"") && served[0].ends_with(" 9"), "{served:?}");
    until("every instance is gone", || {
        metric(&runner, "skincell_instances_created_total")
            == metric(&runner, "skincell_instances_dropped_total")
    });
}

/// With a full queue a request is refused at once, before its body is read.
/// The guest waits on the clock, so twenty can wait at once on any machine.
#[test]
fn requests_without_a_body_run_beside_each_other() {
    let app = App::with_colours();
    let runner = Runner::start(&app, &["--max-concurrency", "64"]);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| assert_eq!(get(&runner, "/guest/sleep?1000").body, b"slept 1000 ms"));
        }
    });
    let took = start.elapsed();
    println!("20 requests of 1 s with --max-concurrency 64: {took:?}");
    assert!(took < Duration::from_secs(5), "two at a time take 10 s; these took {took:?}");
}

#[test]
fn a_full_queue_gives_503_at_once_without_reading_the_body() {
    let app = App::with_colours();
    let flags = ["--max-concurrency", "1", "--queue", "1", "--request-timeout", "3s"];
    let runner = Runner::start(&app, &flags);
    let post = || {
        let mut socket = client::connect(&runner);
        let head = "POST /guest/loop HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\n\r\nx";
        socket.write_all(head.as_bytes()).unwrap();
        socket
    };
    let _at_work = post();
    until("one is in flight", || metric(&runner, "skincell_requests_in_flight") == Some(1.0));
    let waits = post();
    until("one waits", || metric(&runner, "skincell_requests_waiting") == Some(1.0));
    let start = Instant::now();
    let lines = "Content-Type: image/png\r\nContent-Length: 5000\r\n";
    let mut refused = client::connect(&runner);
    refused.write_all(client::predict_head(lines).as_bytes()).unwrap();
    let mut answer = [0; 2048];
    let length = refused.read(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer[..length]).to_lowercase();
    assert!(answer.starts_with("http/1.1 503") && answer.contains("retry-after: "), "{answer}");
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    // A client that disconnects leaves the queue. A request without a body is not queued.
    drop(waits);
    until("the queue is empty", || metric(&runner, "skincell_requests_waiting") == Some(0.0));
    let start = Instant::now();
    assert_eq!(get(&runner, "/health").status, 200);
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}

/// The instance of a client that disconnects is dropped.
#[test]
fn a_client_that_disconnects_frees_its_slot() {
    let app = App::with_colours();
    let runner = Runner::start(&app, &["--max-concurrency", "1", "--request-timeout", "60s"]);
    let mut socket = client::connect(&runner);
    let head = "POST /guest/loop HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\n\r\nx";
    socket.write_all(head.as_bytes()).unwrap();
    until("it is at work", || metric(&runner, "skincell_requests_in_flight") == Some(1.0));
    drop(socket);
    let start = Instant::now();
    until("its slot is free", || metric(&runner, "skincell_requests_in_flight") == Some(0.0));
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(good().send(&runner).status, 200);
}

#[test]
fn an_idle_model_is_unloaded_and_loaded_again() {
    let app = App::with_colours();
    let runner = Runner::start(&app, &["--unload-after", "300ms"]);
    let expected = good().send(&runner).results();
    let unloads = "skincell_model_unloads_total{model=\"colours\",reason=\"idle\"}";
    until("it is unloaded", || metric(&runner, unloads) == Some(1.0));
    assert_eq!(get(&runner, "/memory").json()["model_loaded"], false);
    assert_eq!(good().send(&runner).results(), expected);
    assert_eq!(metric(&runner, "skincell_model_loads_total{model=\"colours\"}"), Some(2.0));
}

#[test]
fn preloaded_models_are_there_before_the_first_request() {
    let app = App::with_colours();
    let said = Runner::refused(&app, &["--preload"]);
    assert!(said.contains("--preload") && said.contains("broken"), "{said}");
    fs::remove_dir_all(app.path().join("models/broken")).unwrap();
    fs::rename(app.path().join("models/private"), app.path().join("models/broken")).unwrap();
    let runner = Runner::start(&app, &["--preload"]);
    assert_eq!(metric(&runner, "skincell_model_loads_total{model=\"colours\"}"), Some(1.0));
    assert_eq!(get(&runner, "/memory").json()["model_loaded"], true);
}

/// A model's files are deleted, restored, replaced and truncated. Other models keep working, and this one
/// works again once its files are restored. (The runner's own tests, and `bench/faults.py` under load, check
/// that truncating a mapped file does not end the process.)
#[test]
fn damaged_files_affect_only_their_own_model() {
    let app = App::with_colours();
    let runner = Runner::start(&app, &[]);
    let (red, plain) = (good().send(&runner).results(), plain().send(&runner).results());
    let file = app.path().join("models/colours/model.onnx");
    let weights = app.path().join("models/colours/model.onnx.data");
    let (graph, data) = (fs::read(&file).unwrap(), fs::read(&weights).unwrap());

    fs::remove_file(&file).unwrap();
    let answer = good().send(&runner);
    assert_eq!((answer.problem().as_str(), answer.status), ("model-unavailable", 503));
    replace(&file, &graph);
    assert_eq!(good().send(&runner).results(), red, "restored after deletion");
    replace(&weights, &data);
    assert_eq!(good().send(&runner).results(), red, "replaced by an equal file");

    for _ in 0..3 {
        let cut = fs::File::options().write(true).open(&file).unwrap();
        cut.set_len(10).unwrap();
        let answer = good().send(&runner);
        assert_eq!((answer.problem().as_str(), answer.status), ("model-unavailable", 503));
        assert_eq!(self::plain().send(&runner).results(), plain, "the other model works");
        replace(&file, &graph);
        assert_eq!(good().send(&runner).results(), red, "restored");
    }
}

fn plain() -> Request {
    Request::predict("?model=plain", "image/png", photos::red_and_blue())
}

/// Replaces a file atomically: a new file is renamed over the old one.
fn replace(path: &std::path::Path, bytes: &[u8]) {
    let new = path.with_extension("new");
    fs::write(&new, bytes).unwrap();
    fs::rename(new, path).unwrap();
}

/// After a failed load `/readyz` answers 503 with the reason, until the model can be loaded again.
#[test]
fn a_model_that_cannot_be_loaded_makes_the_service_not_ready() {
    let app = App::with_colours();
    let runner = Runner::start(&app, &[]);
    assert_eq!(
        get(&runner, "/readyz").status,
        200,
        "a model that was not requested is not reported"
    );
    let graph = fs::read(app.path().join("models/colours/model.onnx")).unwrap();
    let broken = Request::predict("?model=broken", "image/png", photos::red_and_blue());
    assert_eq!(broken.send(&runner).problem(), "model-unavailable");
    let answer = get(&runner, "/readyz");
    assert_eq!(answer.status, 503);
    let reason = answer.json()["models"]["broken"].as_str().unwrap_or_default().to_owned();
    assert!(reason.contains("cannot load") && !reason.contains('/'), "{reason}");
    assert_eq!(get(&runner, "/healthz").status, 200, "the service is alive");
    replace(&app.path().join("models/broken/model.onnx"), &graph);
    until("it is ready again without a request", || get(&runner, "/readyz").status == 200);
    fs::remove_file(app.path().join("models/plain/model.onnx")).unwrap();
    assert_eq!(get(&runner, "/readyz").json()["models"]["plain"], "there is no model file");
}

/// After SIGTERM `/readyz` answers 503, accepted requests are answered, and the exit code is 0.
#[test]
fn accepted_requests_are_finished_after_sigterm() {
    let app = App::with_colours();
    let mut runner = Runner::start(&app, &["--max-concurrency", "1", "--request-timeout", "2s"]);
    assert_eq!(get(&runner, "/readyz").status, 200);
    let mut accepted = client::connect(&runner);
    let head = "POST /guest/loop HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\n\r\nx";
    accepted.write_all(head.as_bytes()).unwrap();
    until("it is at work", || metric(&runner, "skincell_requests_in_flight") == Some(1.0));
    runner.terminate();
    until("not ready", || get(&runner, "/readyz").status == 503);
    let mut answer = Vec::new();
    accepted.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 504"), "{answer}");
    assert_eq!(runner.wait(), Some(0));
}
