//! Each request gets an instance of its own; later requests must not see any of its memory.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::atomic::{AtomicUsize, Ordering};

use skincell_tests::client::{Request, get};
use skincell_tests::{App, Runner, photos};

const REQUESTS: usize = 1000;
const CLIENTS: usize = 8;

/// Calls `request` with each number from 0 to 999, from 8 threads.
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

/// The guest searches its whole linear memory for the marker of an earlier request. The pool reuses its
/// slots, so leftovers would be found.
#[test]
fn a_marker_left_in_memory_is_never_found_again() {
    let app = App::with_colours();
    let runner = Runner::start(&app, &[]);
    let scan = |query: &str| {
        let answer = get(&runner, &format!("/guest/scan{query}"));
        assert_eq!(answer.status, 200);
        String::from_utf8_lossy(&answer.body).into_owned()
    };
    assert!(scan("?control").starts_with("found"), "the guest finds its own marker");
    a_thousand_times(|_| assert_eq!(scan(""), "nothing"));
}
