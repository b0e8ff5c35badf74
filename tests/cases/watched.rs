//! Observability: a collector receives a request's spans under the client's trace, Prometheus gets metrics in
//! both of its formats, and the dashboard's queries name metrics that exist.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    reason = "failures fail the test with their message"
)]

use http::Method;
use serde_json::Value;
use skincell_tests::client::{Request, get};
use skincell_tests::photos::red_and_blue;
use skincell_tests::{App, Runner, repository};
use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::sync::mpsc;
use std::time::Duration;

/// An OTLP collector: its address, and a channel of the heads and bodies posted to it.
fn collector() -> (String, mpsc::Receiver<(String, Value)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (send, bodies) = mpsc::channel();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let mut reader = BufReader::new(socket.unwrap());
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                assert!(reader.read_line(&mut head).unwrap() > 0, "the head ends early: {head}");
            }
            let head = head.to_lowercase();
            let length =
                head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            let mut body = vec![0; length.parse().unwrap()];
            reader.read_exact(&mut body).unwrap();
            reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").unwrap();
            if send.send((head, serde_json::from_slice(&body).unwrap())).is_err() {
                return;
            }
        }
    });
    (address, bodies)
}

fn number(span: &Value, name: &str) -> u64 {
    span[name].as_str().unwrap().parse().unwrap()
}

#[test]
fn a_collector_receives_the_request_with_its_stages() {
    let (address, bodies) = collector();
    let app = App::with_colours();
    let environment = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", address.as_str()),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=k"),
        ("OTEL_SERVICE_NAME", "clinic"),
    ];
    let runner = Runner::start_with(&app, &[], &environment);
    // Probes are not traced.
    assert_eq!(get(&runner, "/healthz").status, 200);
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let answer = Request::predict("", "image/png", red_and_blue())
        .header("traceparent", traceparent)
        .header("x-request-id", "r-1")
        .send(&runner);
    assert_eq!(answer.status, 200);
    let (head, body) = bodies.recv_timeout(Duration::from_secs(20)).expect("a trace is sent");
    assert!(head.starts_with("post /v1/traces http/1.1") && head.contains("api-key: k"), "{head}");
    let sent = &body["resourceSpans"][0];
    assert!(sent["resource"].to_string().contains("clinic"), "{sent}");
    let spans = sent["scopeSpans"][0]["spans"].as_array().unwrap();
    let names: Vec<&str> = spans.iter().map(|span| span["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["POST /predict", "read", "wait", "decode", "inference", "heatmap", "write"]);
    let root = &spans[0];
    assert_eq!(root["parentSpanId"], "00f067aa0ba902b7");
    assert!(root["attributes"].to_string().contains("r-1"), "{root}");
    let (start, end) = (number(root, "startTimeUnixNano"), number(root, "endTimeUnixNano"));
    let mut before = start;
    for stage in &spans[1..] {
        assert_eq!(stage["traceId"], "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(stage["parentSpanId"], root["spanId"]);
        let (from, to) = (number(stage, "startTimeUnixNano"), number(stage, "endTimeUnixNano"));
        assert!(before <= from && from <= to && to <= end, "{stage} in {root}");
        before = from;
    }
    for span in spans {
        let took = number(span, "endTimeUnixNano") - number(span, "startTimeUnixNano");
        println!("{:>12.3} ms  {}", took as f64 / 1e6, span["name"].as_str().unwrap());
    }
}

#[test]
fn unsampled_requests_are_not_traced_and_the_last_spans_are_sent_at_the_end() {
    let (address, bodies) = collector();
    let app = App::with_colours();
    let environment = [("OTEL_EXPORTER_OTLP_ENDPOINT", address.as_str())];
    let mut runner = Runner::start_with(&app, &[], &environment);
    let unsampled = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
    let quiet = Request::new(Method::GET, "/health").header("traceparent", unsampled).send(&runner);
    assert_eq!((quiet.status, get(&runner, "/models").status), (200, 200));
    // The next batch is not yet due; the end of the service sends it.
    runner.terminate();
    assert_eq!(runner.wait(), Some(0));
    let (_, body) = bodies.recv_timeout(Duration::from_secs(10)).expect("a trace is sent");
    let text = body.to_string();
    assert!(text.contains("/models") && !text.contains("/health"), "{text}");
}

#[test]
fn an_unreachable_collector_does_not_stop_the_service() {
    let app = App::with_colours();
    let runner =
        Runner::start_with(&app, &[], &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")]);
    assert_eq!(get(&runner, "/health").status, 200, "requests do not wait for the collector");
}

/// The names of all metrics that were scraped.
fn scraped(text: &str) -> BTreeSet<&str> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples.filter_map(|line| line.split(['{', ' ']).next()).collect()
}

/// The words of a PromQL expression that are names of metrics, recognised by their prefix.
fn metrics_of(expression: &str) -> BTreeSet<&str> {
    let is_word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let words = expression.split(|letter: char| !is_word(letter));
    let ours = ["skincell_", "http_", "process_"];
    words.filter(|word| ours.iter().any(|start| word.starts_with(start))).collect()
}

#[test]
fn every_query_of_the_dashboard_names_a_metric_that_exists() {
    let app = App::with_colours();
    let runner = Runner::start(&app, &[]);
    // A metric has no sample before its first event, so this causes a success and a failure.
    assert_eq!(Request::predict("", "image/png", red_and_blue()).send(&runner).status, 200);
    assert_eq!(
        Request::predict("?model=broken", "image/png", red_and_blue()).send(&runner).status,
        503
    );
    let answer = get(&runner, "/metrics");
    let text = String::from_utf8(answer.body).unwrap();
    let registered: BTreeSet<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let file = std::fs::read(repository().join("deploy/grafana/skincell.json")).unwrap();
    let dashboard: Value = serde_json::from_slice(&file).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let queries: Vec<&str> = targets.map(|target| target["expr"].as_str().unwrap()).collect();
    assert!(queries.len() >= 10, "{queries:?}");
    for query in &queries {
        let named = metrics_of(query);
        assert!(!named.is_empty(), "{query} names no metric of the service");
        for name in named {
            let family =
                ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            let known = registered.contains(name) || family.is_some_and(|f| registered.contains(f));
            assert!(known, "{query} names {name}, which is not among {registered:?}");
        }
    }
    println!("{} queries, every metric exists", queries.len());
}

#[test]
fn both_formats_of_the_metrics_hold_the_same_names() {
    let app = App::with_colours();
    let runner = Runner::start(&app, &[]);
    assert_eq!(Request::predict("", "image/png", red_and_blue()).send(&runner).status, 200);
    let plain = get(&runner, "/metrics");
    assert!(plain.header("content-type").starts_with("text/plain; version=0.0.4"));
    let open = Request::new(Method::GET, "/metrics")
        .header("accept", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
        .send(&runner);
    assert!(open.header("content-type").starts_with("application/openmetrics-text"));
    let (plain, open) =
        (String::from_utf8(plain.body).unwrap(), String::from_utf8(open.body).unwrap());
    assert!(open.ends_with("# EOF\n") && !plain.contains("# EOF"));
    assert_eq!(scraped(&plain), scraped(&open));
    let one = "http_requests_total{method=\"POST\",route=\"/predict\",status=\"200\"} 1";
    assert!(plain.lines().any(|line| line == one), "{plain}");
    assert!(plain.contains("# TYPE http_requests_total counter"), "{plain}");
}
