//! Checks the key-value store: what components of WASI 0.2 and 0.3 get is what Spin's interfaces say, access
//! is as the manifest grants it, the store is limited, and a killed process loses nothing that was
//! acknowledged.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use skincell_tests::client::get;
use skincell_tests::{App, Runner, wasi03, wasi03_candidate};

/// An application whose components may open the default store: `/a` of WASI 0.2, `/b` of 0.3 and `/c` of its
/// candidate; `/none` may open no store.
fn app() -> App {
    let manifest = format!(
        r#"
        spin_manifest_version = 2
        application = {{ name = "keeps-values" }}
        [[trigger.http]]
        route = "/a/..."
        component = {{ source = "GUEST", key_value_stores = ["default"] }}
        [[trigger.http]]
        route = "/b/..."
        component = {{ source = {:?}, key_value_stores = ["default"] }}
        [[trigger.http]]
        route = "/c/..."
        component = {{ source = {:?}, key_value_stores = ["default"] }}
        [[trigger.http]]
        route = "/none/..."
        component = {{ source = "GUEST" }}
        "#,
        wasi03().to_str().unwrap(),
        wasi03_candidate().to_str().unwrap(),
    );
    App::with_manifest(&manifest)
}

fn call(runner: &Runner, component: &str, query: &str) -> String {
    let answer = get(runner, &format!("/{component}/key-value?default,{query}"));
    assert_eq!(answer.status, 200, "{query}");
    String::from_utf8_lossy(&answer.body).into_owned()
}

#[test]
fn all_components_share_the_store_that_spins_interfaces_describe() {
    let app = app();
    let runner = Runner::start(&app, &[]);
    for (writer, reader) in [("a", "b"), ("b", "c"), ("c", "a")] {
        assert_eq!(call(&runner, reader, &format!("get,{writer}")), "none");
        assert_eq!(call(&runner, writer, &format!("set,{writer},one")), "set");
        assert_eq!(call(&runner, writer, &format!("set,{writer},two")), "set");
        assert_eq!(call(&runner, reader, &format!("get,{writer}")), "two");
        assert_eq!(call(&runner, reader, &format!("exists,{writer}")), "true");
    }
    for component in ["a", "b", "c"] {
        assert_eq!(call(&runner, component, "keys"), "a b c");
        assert_eq!(call(&runner, component, "exists,none"), "false");
        assert_eq!(call(&runner, component, "delete,none"), "deleted");
    }
    assert_eq!(call(&runner, "b", "delete,a"), "deleted");
    assert_eq!(call(&runner, "a", "keys"), "b c");
    assert!(app.path().join(".spin").is_dir(), "the store is where Spin keeps its own");
}

#[test]
fn wasi_keyvalue_does_what_it_does_in_spin() {
    let app = app();
    let runner = Runner::start(&app, &[]);
    let answer = get(&runner, "/a/wasi-keyvalue?default");
    let expected = [
        "Some([49])",
        "true false",
        "[(\"c\", Some([51])), (\"a\", None)]",
        "b c",
        "true",
        "40 42",
        "Some([99, 104, 97, 110, 103, 101, 100]) true",
        "Some([52])",
    ];
    assert_eq!(String::from_utf8_lossy(&answer.body), expected.join("\n"));
}

#[test]
fn a_store_that_the_manifest_does_not_grant_is_denied() {
    let app = app();
    let runner = Runner::start(&app, &[]);
    for (path, expected) in [
        ("/none/key-value?default,get,a", "Error::AccessDenied"),
        ("/none/wasi-keyvalue?default", "Error::AccessDenied"),
        ("/a/key-value?other,get,a", "Error::AccessDenied"),
        ("/b/key-value?other,get,a", "Error::AccessDenied"),
    ] {
        assert_eq!(String::from_utf8_lossy(&get(&runner, path).body), expected, "{path}");
    }
}

#[test]
fn the_store_and_its_values_are_limited() {
    let app = app();
    let state = app.path().join("state");
    let flags = ["--key-value-limit", "1MiB", "--state-dir", state.to_str().unwrap()];
    let runner = Runner::start(&app, &flags);
    assert_eq!(call(&runner, "a", "fill,half,600000"), "set");
    let full = call(&runner, "a", "fill,more,600000");
    assert!(full.contains("its limit is 1048576"), "{full}");
    assert_eq!(call(&runner, "a", "fill,half,100"), "set", "what shrinks is not refused");
    assert_eq!(call(&runner, "a", "fill,more,600000"), "set");
    drop(runner);
    assert!(state.is_dir() && !app.path().join(".spin").exists());
    let runner = Runner::start(&app, &["--max-instance-memory", "32MiB"]);
    let large = call(&runner, "a", "fill,large,4000000");
    assert!(large.contains("the value has 4000000 bytes"), "{large}");
    let refused = Runner::refused(&app, &["--state-dir", ""]);
    assert!(refused.contains("--state-dir"), "{refused}");
    let refused = Runner::refused(&app, &[]);
    assert!(refused.contains("in use by another process"), "{refused}");
}

/// The body of the answer to a GET, in one chunk, if it came whole.
fn try_get(address: SocketAddr, path: &str) -> Option<String> {
    let mut socket = TcpStream::connect(address).ok()?;
    socket.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    let head = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    socket.write_all(head.as_bytes()).ok()?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let (_, chunk) = body.split_once("\r\n")?;
    let chunk = chunk.strip_suffix("\r\n0\r\n\r\n")?;
    head.starts_with("HTTP/1.1 200").then(|| chunk.to_owned())
}

/// Kills the process while four clients write, and compares what was acknowledged with what the next process
/// finds. `SKINCELL_KILLS=200` kills it so many times instead of 10.
#[test]
fn a_killed_process_loses_nothing_that_was_acknowledged() {
    let kills = std::env::var("SKINCELL_KILLS").map_or(10, |number| number.parse().unwrap());
    let app = app();
    let (next, acknowledged) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    for kill in 0..kills {
        let runner = Runner::start(&app, &["--max-concurrency", "4"]);
        let address = runner.address();
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let (next, acknowledged) = (&next, &acknowledged);
                scope.spawn(move || {
                    loop {
                        let key = next.fetch_add(1, Ordering::Relaxed);
                        let component = ["a", "b"][writer % 2];
                        let path = format!("/{component}/key-value?default,set,k{key},v{key}");
                        match try_get(address, &path).as_deref() {
                            Some("set") => acknowledged.lock().unwrap().push(key),
                            Some(other) => panic!("{other}"),
                            None => return,
                        }
                    }
                });
            }
            std::thread::sleep(Duration::from_millis(20 + kill * 37 % 90));
            // Dropping the runner kills its process.
            drop(runner);
        });
    }
    let runner = Runner::start(&app, &[]);
    let kept = call(&runner, "a", "keys");
    let kept: std::collections::HashSet<&str> = kept.split(' ').collect();
    let acknowledged = acknowledged.into_inner().unwrap();
    println!("{} acknowledged, {} kept, after {kills} kills", acknowledged.len(), kept.len());
    assert!(acknowledged.len() >= kills as usize);
    for key in &acknowledged {
        assert!(kept.contains(&format!("k{key}")[..]), "k{key} was acknowledged");
    }
    for key in acknowledged.iter().rev().take(20) {
        assert_eq!(call(&runner, "b", &format!("get,k{key}")), format!("v{key}"));
    }
}
