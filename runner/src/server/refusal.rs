//! Replaces hyper's own answer to an unreadable head, a bare status, by problem details.
//!
//! hyper has no hook for this, so its answers are recognised as they are written: the runner's carry a
//! request id, hyper's never do. Writing them is left to `socket`.

use crate::problem::{HeadError, Problem};
use crate::request_id;
use crate::upload::UploadError;
use std::fmt::Write as _;

/// Limits that a refusal states, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Longest head of a request.
    pub(super) head: u32,
    /// Longest body.
    pub(super) body: u64,
}

/// The answer to send instead of `bytes`, if those are hyper's own. `is_beyond_u64` says that the head
/// announces a length that does not fit 64 bits.
pub(super) fn in_place_of(bytes: &[u8], limits: Limits, is_beyond_u64: bool) -> Option<Vec<u8>> {
    let head = std::str::from_utf8(bytes).ok()?;
    let status = head.strip_prefix("HTTP/1.")?.get(2..5)?;
    if !head.ends_with("\r\n\r\n") || head.contains(request_id::HEADER.as_str()) {
        return None;
    }
    let problem = match (status, is_beyond_u64) {
        ("400" | "431", true) => {
            Problem::Upload(UploadError::TooLarge { limit: limits.body, announced: None })
        }
        ("400", false) => Problem::Head(HeadError::Malformed),
        ("431", false) => Problem::Head(HeadError::TooLong { limit: limits.head }),
        _ => return None,
    };
    Some(answer(&problem))
}

/// A whole answer, as sent.
pub(super) fn answer(problem: &Problem) -> Vec<u8> {
    let id = request_id::new();
    let (head, _) = problem.response(&id).into_parts();
    let body = problem.body(&id).to_string();
    let mut text = format!("HTTP/1.1 {}\r\n", head.status);
    for (name, value) in &head.headers {
        // Writing to a string does not fail, and every value here is ASCII text of the runner's own.
        let _ = write!(text, "{name}: {}\r\n", value.to_str().unwrap_or_default());
    }
    let _ = write!(
        text,
        "{}: {id}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        request_id::HEADER,
        body.len()
    );
    text.into_bytes()
}
