//! Checks what components may call: hosts that `allowed_outbound_hosts` names, at addresses that it names
//! unless they are public, over HTTP and TLS, with bounded connections. No test leaves this machine.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use skincell_tests::client::{Request, get};
use skincell_tests::{App, Runner, wasi03};

/// An application whose components of WASI 0.2 and 0.3 may call `hosts`, at `/a` and `/b`.
fn app(hosts: &[&str]) -> App {
    let manifest = format!(
        r#"
spin_manifest_version = 2
[application]
name = "calls-others"
[variables]
port = {{ default = "1" }}
[[trigger.http]]
route = "/a/..."
component = "a"
[[trigger.http]]
route = "/b/..."
component = "b"
[[trigger.http]]
route = "/static"
static_response = {{ body = "of its own" }}
[component.a]
source = "GUEST"
allowed_outbound_hosts = {hosts:?}
[component.b]
source = {:?}
allowed_outbound_hosts = {hosts:?}
"#,
        wasi03().to_str().unwrap()
    );
    App::with_manifest(&manifest)
}

fn fetch(runner: &Runner, component: &str, url: &str) -> String {
    let answer = get(runner, &format!("/{component}/fetch?{url}"));
    assert_eq!(answer.status, 200);
    String::from_utf8_lossy(&answer.body).into_owned()
}

/// A server that answers each request after `pause` with its first line and its Host, `/to?URL` with a
/// redirect there, and counts how many it answers at once.
struct Server {
    address: SocketAddr,
    most_at_once: Arc<AtomicUsize>,
}

impl Server {
    fn start(pause: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (at_once, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let most_at_once = Arc::clone(&most);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (at_once, most) = (Arc::clone(&at_once), Arc::clone(&most));
                std::thread::spawn(move || {
                    most.fetch_max(at_once.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
                    let first = lines.next().unwrap_or_default();
                    let fields: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
                    let hosts =
                        fields.iter().filter(|l| l.to_ascii_lowercase().starts_with("host:"));
                    let body = format!("{first} with {} host", hosts.count());
                    std::thread::sleep(pause);
                    at_once.fetch_sub(1, Ordering::SeqCst);
                    let status =
                        match first.split_once("/to?").and_then(|(_, to)| to.split_once(' ')) {
                            Some((location, _)) => format!("302 Found\r\nlocation: {location}"),
                            None => "200 OK".to_owned(),
                        };
                    let head =
                        format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n", body.len());
                    let _ = (&stream).write_all((head + &body).as_bytes());
                });
            }
        });
        Self { address, most_at_once }
    }
}

#[test]
fn a_component_calls_the_hosts_it_may_call_and_no_other() {
    let server = Server::start(Duration::ZERO);
    let port = server.address.port();
    let hosts = ["http://127.0.0.1:{{ port }}", &format!("http://localhost:{port}")];
    let app = app(&hosts);
    let runner = Runner::start(&app, &["--variable", &format!("port={port}")]);
    for component in ["a", "b"] {
        for host in ["127.0.0.1", "localhost"] {
            let said = fetch(&runner, component, &format!("http://{host}:{port}/x?y=1"));
            assert_eq!(said, "200 GET /x?y=1 HTTP/1.1 with 1 host", "{component}");
        }
        for url in [
            format!("http://127.0.0.2:{port}/"),
            format!("http://[::1]:{port}/"),
            format!("http://example.com:{port}/"),
            "http://127.0.0.1/".to_owned(),
            format!("https://127.0.0.1:{port}/"),
            "http://self.alt/static".to_owned(),
        ] {
            let said = fetch(&runner, component, &url);
            assert!(said.contains("RequestDenied"), "{component} {url}: {said}");
        }
    }
}

/// `localhost.` and names under it resolve to this machine, as a hostile name might.
/// In Spin, such a request passes the check of the host and then fails to resolve the name.
#[test]
fn a_users_name_in_a_url_is_refused() {
    let server = Server::start(Duration::ZERO);
    let port = server.address.port();
    let app = app(&[&format!("http://127.0.0.1:{port}")]);
    let runner = Runner::start(&app, &[]);
    for component in ["a", "b"] {
        let said = fetch(&runner, component, &format!("http://user:pass@127.0.0.1:{port}/x"));
        assert!(said.contains("HttpRequestUriInvalid"), "{component}: {said}");
    }
    assert_eq!(server.most_at_once.load(Ordering::SeqCst), 0);
}

/// Spin has interfaces for these; here nothing would use such an entry.
#[test]
fn hosts_that_are_not_called_by_http_are_warned_about() {
    let app =
        app(&["redis://localhost", "http://localhost", "*://localhost:5432", "tcp://a.test:1"]);
    let log = Runner::start(&app, &[]).stop();
    for (scheme, expected) in [("redis", 2), ("tcp", 2), ("http", 0), ("*", 0)] {
        let warned = log.matches(&format!("a host of {scheme}://")).count();
        assert_eq!(warned, expected, "once for each component: {log}");
    }
}

#[test]
fn a_name_that_leads_to_an_address_that_is_not_public_is_refused() {
    let server = Server::start(Duration::ZERO);
    let port = server.address.port();
    let app = app(&["*://*:*"]);
    let runner = Runner::start(&app, &[]);
    for component in ["a", "b"] {
        for host in ["localhost", "127.0.0.1", "[::ffff:127.0.0.1]", "0.0.0.0", "2130706433"] {
            let said = fetch(&runner, component, &format!("http://{host}:{port}/"));
            assert!(said.contains("IpProhibited"), "{component} {host}: {said}");
        }
    }
}

#[test]
fn a_component_calls_its_own_application() {
    let app = app(&["http://self"]);
    let runner = Runner::start(&app, &[]);
    for component in ["a", "b"] {
        let said = fetch(&runner, component, "http://self.alt/static");
        assert_eq!(said, "200 of its own", "{component}");
    }
    // SDKs of WASI 0.2 let a path alone mean the application itself.
    assert_eq!(fetch(&runner, "a", "/static"), "200 of its own");
}

/// They waited for each other's permits until the queue's timeout, and got 503.
#[test]
fn components_that_call_their_own_application_do_not_wait_for_each_other() {
    let app = app(&["http://self"]);
    let runner = Runner::start(&app, &["--max-concurrency", "1", "--queue-timeout", "60s"]);
    let begun = Instant::now();
    let nested = |component: &str, depth: usize| {
        let within = format!("/{component}/fetch?http://self.alt").repeat(depth);
        get(&runner, &format!("{within}/static"))
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..12)
            .map(|number| scope.spawn(move || nested(["a", "b"][number % 2], 1 + number % 4)))
            .collect();
        for thread in threads {
            assert_eq!(thread.join().unwrap().status, 200);
        }
    });
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    let said =
        fetch(&runner, "a", &format!("http://self.alt{}", "/a/fetch?http://self.alt".repeat(3)));
    assert!(said.contains("503"), "three of three permits wait for the fourth: {said}");
}

/// The host follows no redirect; a component that does meets the same rule.
#[test]
fn a_redirect_is_the_components_own_business() {
    let server = Server::start(Duration::ZERO);
    let port = server.address.port();
    let app = app(&[&format!("http://127.0.0.1:{port}"), "http://10.0.0.0/8:*"]);
    let runner = Runner::start(&app, &[]);
    for component in ["a", "b"] {
        let to = |location: &str| format!("http://127.0.0.1:{port}/to?{location}");
        let follow = |location: &str| {
            let answer = get(&runner, &format!("/{component}/follow?{}", to(location)));
            String::from_utf8_lossy(&answer.body).into_owned()
        };
        let said = fetch(&runner, component, &to(&format!("http://127.0.0.1:{port}/x")));
        assert!(said.starts_with("302 "), "{component}: {said}");
        let said = follow(&format!("http://127.0.0.1:{port}/x"));
        assert_eq!(said, "200 GET /x HTTP/1.1 with 1 host", "{component}");
        for location in [format!("http://127.0.0.2:{port}/x"), "http://169.254.169.254/".to_owned()]
        {
            let said = follow(&location);
            assert!(said.contains("RequestDenied"), "{component} {location}: {said}");
        }
    }
}

#[test]
fn certificates_are_checked() {
    let served = app(&[]);
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (cert, key) = (served.path().join("cert.pem"), served.path().join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let flags = ["--tls-cert", cert.to_str().unwrap(), "--tls-key", key.to_str().unwrap()];
    let server = Runner::start(&served, &flags);
    let url = format!("https://localhost:{}/static", server.address().port());
    let app = app(&["https://localhost:*"]);
    let trusting = Runner::start_with(&app, &[], &[("SSL_CERT_FILE", &cert)]);
    for component in ["a", "b"] {
        assert_eq!(fetch(&trusting, component, &url), "200 of its own");
    }
    drop(trusting);
    let doubting = Runner::start(&app, &[]);
    for component in ["a", "b"] {
        let said = fetch(&doubting, component, &url);
        assert!(said.contains("Tls"), "{component}: {said}");
    }
}

/// 8 instances make 125 requests each at once. One instance has 16 connections; its other requests wait.
#[test]
fn a_thousand_requests_at_once_share_few_connections() {
    let server = Server::start(Duration::from_millis(5));
    let url = format!("http://{}/", server.address);
    let app = app(&["http://127.0.0.1:*"]);
    let runner = Runner::start(&app, &["--max-concurrency", "8"]);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let answer = get(&runner, &format!("/a/fetch-many?125,{url}"));
                assert_eq!(String::from_utf8_lossy(&answer.body), "125");
            });
        }
    });
    let most = server.most_at_once.load(Ordering::SeqCst);
    assert!((2..=8 * 16).contains(&most), "{most} at once");
}

#[test]
fn a_component_that_names_no_host_well_is_refused_at_the_start() {
    let said = Runner::refused(&app(&["example.com"]), &[]);
    assert!(said.contains("scheme://host"), "{said}");
}

/// An application whose components of WASI 0.2 and 0.3, at `/a` and `/b`, may call each other and `hidden`,
/// which has no route. `lonely` may call nothing.
fn chain() -> App {
    let wasi03 = wasi03().to_str().unwrap().to_owned();
    let manifest = format!(
        r#"
spin_manifest_version = 2
[application]
name = "call-each-other"
[[trigger.http]]
route = "/a/..."
component = "a"
[[trigger.http]]
route = "/b/..."
component = "b"
[[trigger.http]]
route = {{ private = true }}
component = "hidden"
[[trigger.http]]
route = "/lonely/..."
component = "lonely"
[component.a]
source = "GUEST"
allowed_outbound_hosts = ["http://*.spin.internal"]
[component.b]
source = {wasi03:?}
allowed_outbound_hosts = ["http://a.spin.internal", "http://hidden.spin.internal", "http://none.spin.internal"]
[component.hidden]
source = {wasi03:?}
environment = {{ WHO = "hidden" }}
[component.lonely]
source = "GUEST"
"#
    );
    App::with_manifest(&manifest)
}

#[test]
fn a_component_calls_another_whether_or_not_it_has_a_route() {
    let app = chain();
    let runner = Runner::start(&app, &["--max-concurrency", "4"]);
    for component in ["a", "b"] {
        for (url, expected) in [
            ("http://hidden.spin.internal/environment?WHO", "200 hidden"),
            ("http://a.spin.internal/x/fine", "200 fine"),
            ("http://hidden.spin.internal/url?x=1", "200 http://hidden.spin.internal/url?x=1"),
        ] {
            assert_eq!(fetch(&runner, component, url), expected, "{component} {url}");
        }
        let headers = fetch(&runner, component, "http://hidden.spin.internal/y/headers");
        for line in [
            "spin-path-info: /y/headers\n",
            "spin-matched-route: /...\n",
            "spin-client-addr: 0.0.0.0:0\n",
        ] {
            assert!(headers.contains(line), "{component}: {headers}");
        }
        let said = fetch(&runner, component, "http://none.spin.internal/");
        assert!(said.contains("DestinationNotFound"), "{component}: {said}");
        // As in Spin, a component that fails answers 500.
        assert_eq!(fetch(&runner, component, "http://hidden.spin.internal/trap").trim(), "500");
    }
    let said = fetch(&runner, "b", "http://lonely.spin.internal/fine");
    assert!(said.contains("RequestDenied"), "{said}");
    let said = fetch(&runner, "lonely", "http://a.spin.internal/fine");
    assert!(said.contains("RequestDenied"), "{said}");
    let text = "piece ".repeat(60_000);
    let answer = Request::post("/a/relay?http://hidden.spin.internal/echo", text.clone().into())
        .send(&runner);
    assert!(answer.body == format!("200 {text}").into_bytes(), "{} bytes", answer.body.len());
    // Only a component's call has such a host.
    let head = "GET /a/fine HTTP/1.1\r\nhost: a.spin.internal\r\nconnection: close\r\n\r\n";
    let mut stream = std::net::TcpStream::connect(runner.address()).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    let status = BufReader::new(stream).lines().next().unwrap().unwrap();
    assert!(status.contains(" 400 "), "{status}");
}

/// A component that calls itself ends in an error that names why, and leaves nothing behind: by depth where
/// there are permits, by permits where there are few, though many do it at once.
#[test]
fn a_component_that_calls_itself_ends_in_an_error() {
    let app = chain();
    for (concurrency, expected) in [("16", "LoopDetected"), ("1", "ConnectionLimitReached")] {
        let runner = Runner::start(&app, &["--max-concurrency", concurrency]);
        let answer = get(&runner, "/a/call-myself?a");
        let said = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(answer.status == 200 && said.contains(expected), "{concurrency}: {said}");
        std::thread::scope(|scope| {
            for _ in 0..12 {
                scope.spawn(|| {
                    assert!([200, 503].contains(&get(&runner, "/a/call-myself?a").status))
                });
            }
        });
        assert_eq!(fetch(&runner, "a", "http://hidden.spin.internal/fine"), "200 fine");
    }
}

/// The deadline of the client's request ends the called component, too.
#[test]
fn a_call_ends_with_the_deadline_of_the_request_that_began_it() {
    let app = chain();
    let runner = Runner::start(&app, &["--request-timeout", "1s", "--max-concurrency", "2"]);
    for path in
        ["/a/fetch?http://hidden.spin.internal/loop", "/b/fetch?http://hidden.spin.internal/loop"]
    {
        assert_eq!(get(&runner, path).status, 504, "{path}");
    }
    assert_eq!(fetch(&runner, "a", "http://hidden.spin.internal/fine"), "200 fine");
}
