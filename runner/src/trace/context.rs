//! W3C Trace Context: the trace of a request, and its parent span. Reads and writes `traceparent`;
//! `tracestate` is passed on unread.

use http::{HeaderMap, HeaderName};
use std::fmt;

/// Read from the client, and set for the component.
pub(super) const HEADER: HeaderName = HeaderName::from_static("traceparent");

/// The content of a `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Context {
    pub(super) trace: u128,
    pub(super) span: u64,
    pub(super) is_sampled: bool,
}

impl Context {
    /// A new trace.
    pub(super) fn new() -> Self {
        let trace = u128::from(new_span_id()) << 64 | u128::from(new_span_id());
        Self { trace, span: new_span_id(), is_sampled: true }
    }

    /// A new span of the same trace.
    pub(super) fn child(self) -> Self {
        Self { span: new_span_id(), ..self }
    }

    /// The client's context; `None` if it is missing or malformed.
    pub(super) fn read(headers: &HeaderMap) -> Option<Self> {
        let mut given = headers.get_all(HEADER).iter();
        let (value, others) = (given.next()?.to_str().ok()?, given.next());
        if others.is_some() {
            return None;
        }
        let mut fields = value.split('-');
        let version = hexadecimal(fields.next()?, 2)?;
        let trace = hexadecimal(fields.next()?, 32)?;
        let span = u64::try_from(hexadecimal(fields.next()?, 16)?).ok()?;
        let flags = hexadecimal(fields.next()?, 2)?;
        // Later versions may have more fields, version 0 may not; 255 is not a version.
        let known = version != 255 && (version != 0 || fields.next().is_none());
        let valid = known && trace != 0 && span != 0;
        valid.then_some(Self { trace, span, is_sampled: flags & 1 == 1 })
    }
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = u8::from(self.is_sampled);
        write!(f, "00-{:032x}-{:016x}-{flags:02x}", self.trace, self.span)
    }
}

/// Parses exactly `digits` lower-case hexadecimal digits.
fn hexadecimal(text: &str, digits: usize) -> Option<u128> {
    let small = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let is_valid = text.len() == digits && text.bytes().all(small);
    is_valid.then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

/// 64 random bits that are not all zero, from the standard library's random hash seed.
pub(super) fn new_span_id() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    // Each `RandomState` has a key of its own.
    RandomState::new().hash_one(std::time::Instant::now()).max(1)
}

#[cfg(test)]
mod tests {
    use super::{Context, HEADER};
    use http::{HeaderMap, HeaderValue};

    fn read(value: &'static str) -> Option<Context> {
        Context::read(&HeaderMap::from_iter([(HEADER, HeaderValue::from_static(value))]))
    }

    #[test]
    fn a_traceparent_is_read_and_written_by_the_standard() {
        let given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let context = read(given).unwrap();
        assert_eq!(context.to_string(), given);
        let child = context.child();
        assert!(child.trace == context.trace && child.span != context.span);
        let later = "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00-what-comes";
        assert!(read(later).is_some_and(|context| !context.is_sampled));
    }

    #[test]
    fn a_malformed_traceparent_is_ignored() {
        for wrong in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        let new = [Context::new(), Context::new()];
        assert_ne!(new[0], new[1]);
    }
}
