//! Request ids: the name of a request in its answer and in the log, taken from the client or made here. Trace
//! ids are left to `trace`.

use http::{HeaderMap, HeaderName};
use std::time::Instant;

/// The header, of requests and answers.
pub(crate) const HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// Longest id accepted from a client, in characters.
const LONGEST: usize = 128;

/// The client's own id if it is short and has visible ASCII characters only, or else a new one.
pub(crate) fn of(headers: &HeaderMap) -> String {
    let plain =
        |id: &&str| (1..=LONGEST).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic());
    let given = headers.get(HEADER).and_then(|value| value.to_str().ok()).filter(plain);
    given.map_or_else(new, str::to_owned)
}

/// 64 random bits in hexadecimal, from the standard library's random hash seed.
pub(crate) fn new() -> String {
    use std::hash::{BuildHasher, RandomState};
    format!("{:016x}", RandomState::new().hash_one(Instant::now()))
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    #[test]
    fn a_clients_request_id_is_kept_only_if_it_is_plain() {
        let id = |value: &'static str| {
            super::of(&HeaderMap::from_iter([(super::HEADER, HeaderValue::from_static(value))]))
        };
        assert_eq!(id("abc-1"), "abc-1");
        assert_eq!(id("with blanks").len(), 16);
        assert_ne!(super::of(&HeaderMap::new()), super::of(&HeaderMap::new()));
    }
}
