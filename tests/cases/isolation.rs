//! One request, one memory: nothing of a request is there for the next.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::atomic::{AtomicUsize, Ordering};

use skincell_tests::client::{Request, get};
use skincell_tests::{App, Runner, photos};

const REQUESTS: usize = 1000;
const CLIENTS: usize = 8;

/// Runs `request` 1,000 times from 8 threads, each with its own number.
fn a_thousand_times(request: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= REQUESTS {
                        break;
                    }
                    request(number);
                }
            });
        }
    });
}

#[test]
fn every_instance_serves_one_request() {
    let app = App::with_colours();
    let runner = Runner::start(&app, &[]);
    let photo = |number: usize| {
        let level = (number % 256) as u8;
        photos::png(16, 16, move |x, _| if x < 8 { [level, 0, 255] } else { [0, level, 0] })
    };
    let alone: Vec<String> = (0..256)
        .map(|number| Request::predict("", "image/png", photo(number)).send(&runner).results())
        .collect();
    a_thousand_times(|number| {
        let answer = Request::predict("", "image/png", photo(number)).send(&runner);
        assert_eq!(answer.header("x-instance-requests"), "1");
        assert_eq!(answer.results(), alone[number % 256], "photo {number} gets its own answer");
    });
}

#[test]
fn a_marker_in_a_static_is_never_seen_again() {
    let app = App::with_colours();
    let runner = Runner::start(&app, &[]);
    a_thousand_times(|number| {
        let answer = get(&runner, &format!("/guest/marker?{number}"));
        assert_eq!(String::from_utf8_lossy(&answer.body), "nothing");
    });
}

/// Not only statics: no byte of a request is anywhere in the memory of a later one, although slots of the
/// pool are used again.
#[test]
fn a_marker_left_in_memory_is_never_found_again() {
    let app = App::with_colours();
    let runner = Runner::start(&app, &[]);
    let scan = |query: &str| {
        let answer = get(&runner, &format!("/guest/scan{query}"));
        assert_eq!(answer.status, 200);
        String::from_utf8_lossy(&answer.body).into_owned()
    };
    assert!(scan("?control").starts_with("found"), "the guest finds what it left itself");
    a_thousand_times(|_| assert_eq!(scan(""), "nothing"));
}
