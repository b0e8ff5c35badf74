//! Reads a request body in chunks up to a cap; a longer body is refused before the rest is read.
//!
//! A body with a `Content-Encoding` is decoded while it is read (`coding`), and the cap applies to the
//! decoded bytes too. Interpreting the bytes is left to `upload`, and the host's stream to `entry`.

use std::io::{self, Read};

use http::header::CONTENT_LENGTH;
use http::request::Parts;

use crate::coding::{self, Coding};
use crate::problem::Problem;

/// A source of chunks: the host's stream in the component, a list in tests.
pub trait Source: Send + Unpin + 'static {
    /// The next bytes, at most [`CHUNK`], or `None` at the end.
    ///
    /// # Errors
    /// The host's message, if the client or the connection stopped early.
    fn next_chunk(&mut self) -> Result<Option<Vec<u8>>, String>;
}

/// Largest chunk that a [`Source`] returns, in bytes.
pub const CHUNK: usize = 64 * 1024;

/// A body that cannot be longer than its cap.
pub struct Body<S> {
    bytes: Bytes<S>,
    declared: Option<u64>,
    limit: u64,
    received: u64,
}

/// The bytes of a body, as they arrive or decoded.
enum Bytes<S> {
    Plain(S),
    Decoded(Box<dyn Read + Send>),
}

impl<S: Source> Body<S> {
    /// The body of a request, decoded from the codings named in its head.
    ///
    /// # Errors
    /// As [`Body::open`] and [`Body::next_chunk`]; [`Problem::UnsupportedEncoding`].
    pub fn of(head: &Parts, source: S, limit: u64) -> Result<Self, Problem> {
        let length = head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
        let codings = coding::codings(&head.headers)?;
        let body = Self::open(source, length.and_then(|length| length.parse().ok()), limit)?;
        if codings.is_empty() { Ok(body) } else { body.decoded(&codings) }
    }

    /// A body of which `declared` is the `Content-Length`, if there was one.
    ///
    /// # Errors
    /// [`Problem::BodyTooLarge`] when it declares more than `limit` bytes.
    pub fn open(source: S, declared: Option<u64>, limit: u64) -> Result<Self, Problem> {
        match declared {
            Some(actual) if actual > limit => {
                Err(Problem::BodyTooLarge { limit, actual: Some(actual) })
            }
            _ => Ok(Self { bytes: Bytes::Plain(source), declared, limit, received: 0 }),
        }
    }

    /// The body with `codings` removed. An empty body stays as it is, because no decoder accepts it.
    fn decoded(mut self, codings: &[Coding]) -> Result<Self, Problem> {
        let limit = self.limit;
        let Some(first) = self.next_chunk()? else { return Ok(self) };
        let wire = Box::new(Wire { body: self, chunk: io::Cursor::new(first) });
        let reader = coding::decode(wire, codings).map_err(coding::problem)?;
        Ok(Self { bytes: Bytes::Decoded(reader), declared: None, limit, received: 0 })
    }

    /// The next chunk, never empty, or `None` at the end.
    ///
    /// # Errors
    /// [`Problem::BodyTooLarge`] once more than the cap has arrived or been decoded,
    /// [`Problem::BodyInterrupted`], [`Problem::BadEncoding`].
    pub fn next_chunk(&mut self) -> Result<Option<Vec<u8>>, Problem> {
        loop {
            let chunk = match &mut self.bytes {
                Bytes::Plain(source) => source
                    .next_chunk()
                    .map_err(|why| Problem::BodyInterrupted { received: self.received, why })?,
                Bytes::Decoded(reader) => decoded_chunk(reader)?,
            };
            let Some(chunk) = chunk else { return Ok(None) };
            self.received = self.received.saturating_add(chunk.len() as u64);
            if self.received > self.limit {
                return Err(Problem::BodyTooLarge { limit: self.limit, actual: None });
            }
            if !chunk.is_empty() {
                return Ok(Some(chunk));
            }
        }
    }

    /// Reads the whole body.
    ///
    /// # Errors
    /// As [`Body::next_chunk`]; [`Problem::NoBody`] if it is empty.
    pub fn read_all(mut self) -> Result<Vec<u8>, Problem> {
        let mut whole = Vec::with_capacity(self.capacity());
        while let Some(chunk) = self.next_chunk()? {
            whole.extend_from_slice(&chunk);
        }
        if whole.is_empty() { Err(Problem::NoBody) } else { Ok(whole) }
    }

    /// Capacity to reserve for the bytes, so that a growing buffer is not copied: the declared length, or 0.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.declared.and_then(|length| usize::try_from(length).ok()).unwrap_or(0)
    }
}

/// The next bytes of a decoder, or `None` at its end.
fn decoded_chunk(reader: &mut impl Read) -> Result<Option<Vec<u8>>, Problem> {
    let mut chunk = Vec::with_capacity(CHUNK);
    reader.by_ref().take(CHUNK as u64).read_to_end(&mut chunk).map_err(coding::problem)?;
    Ok(Some(chunk).filter(|chunk| !chunk.is_empty()))
}

/// A body as [`Read`], for decoders. They pass on a [`Problem`] of the body as the cause of their error.
struct Wire<S> {
    body: Body<S>,
    chunk: io::Cursor<Vec<u8>>,
}

impl<S: Source> Read for Wire<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.chunk.read(buffer)? {
                0 if !buffer.is_empty() => {}
                read => return Ok(read),
            }
            match self.body.next_chunk().map_err(io::Error::other)? {
                Some(chunk) => self.chunk = io::Cursor::new(chunk),
                None => return Ok(0),
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

    use super::*;

    /// A body given as a list of chunks, which ends normally or with an error.
    pub(crate) struct Chunks {
        pub(crate) left: std::collections::VecDeque<Vec<u8>>,
        pub(crate) broken: bool,
    }

    impl Source for Chunks {
        fn next_chunk(&mut self) -> Result<Option<Vec<u8>>, String> {
            match self.left.pop_front() {
                Some(chunk) => Ok(Some(chunk)),
                None if self.broken => Err("reset".to_owned()),
                None => Ok(None),
            }
        }
    }

    /// `bytes` in chunks of `size`.
    pub(crate) fn chunks(bytes: &[u8], size: usize) -> Chunks {
        Chunks { left: bytes.chunks(size).map(<[u8]>::to_vec).collect(), broken: false }
    }

    #[test]
    fn the_cap_holds_with_and_without_a_declared_length() {
        struct Case {
            name: &'static str,
            length: usize,
            declared: Option<u64>,
            broken: bool,
            expect: &'static str,
        }
        let case =
            |name, length, declared, expect| Case { name, length, declared, broken: false, expect };
        let cases = [
            case("declared and under", 10, Some(10), "ok"),
            case("chunked and under", 10, None, "ok"),
            case("exactly the cap", 100, None, "ok"),
            case("declared over", 0, Some(101), "body-too-large"),
            case("chunked over", 101, None, "body-too-large"),
            case("declares less than it sends", 101, Some(5), "body-too-large"),
            case("empty", 0, Some(0), "no-body"),
            Case {
                name: "reset",
                length: 7,
                declared: None,
                broken: true,
                expect: "body-interrupted",
            },
        ];
        for Case { name, length, declared, broken, expect } in cases {
            let bytes: Vec<u8> = (0..length).map(|i| i as u8).collect();
            let source = Chunks { broken, ..chunks(&bytes, 3) };
            let read = Body::open(source, declared, 100).and_then(Body::read_all);
            match read {
                Ok(whole) => assert_eq!((expect, whole), ("ok", bytes), "{name}"),
                Err(problem) => assert_eq!(problem.kind().name, expect, "{name}"),
            }
        }
    }

    #[test]
    fn reading_stops_at_the_cap() {
        let mut body = Body::open(chunks(&[0; 1000], 60), None, 100).unwrap();
        assert!(body.next_chunk().unwrap().is_some());
        assert_eq!(body.next_chunk().unwrap_err().kind().name, "body-too-large");
        let Bytes::Plain(source) = &body.bytes else { panic!("no coding was named") };
        assert_eq!(source.left.len(), 15, "the rest stays with the host");
    }

    /// `bytes` under a coding: `gzip`, `zlib` or `raw` (deflate without zlib's header).
    pub(crate) fn compressed(coding: &str, bytes: &[u8]) -> Vec<u8> {
        let level = Compression::fast();
        match coding {
            "gzip" => {
                let mut encoder = GzEncoder::new(Vec::new(), level);
                encoder.write_all(bytes).and_then(|()| encoder.finish()).unwrap()
            }
            "zlib" => {
                let mut encoder = ZlibEncoder::new(Vec::new(), level);
                encoder.write_all(bytes).and_then(|()| encoder.finish()).unwrap()
            }
            _ => {
                let mut encoder = DeflateEncoder::new(Vec::new(), level);
                encoder.write_all(bytes).and_then(|()| encoder.finish()).unwrap()
            }
        }
    }

    fn read_under(codings: &'static str, body: &[u8], limit: u64) -> Result<Vec<u8>, &'static str> {
        let request = http::Request::post("/predict").header("content-encoding", codings);
        let (head, ()) = request.body(()).unwrap().into_parts();
        Body::of(&head, chunks(body, 7), limit)
            .and_then(Body::read_all)
            .map_err(|problem| problem.kind().name)
    }

    #[test]
    fn coded_bodies_are_decoded_or_refused() {
        let text: Vec<u8> = (0..9000_u32).map(|i| (i % 251) as u8).collect();
        let gzip = compressed("gzip", &text);
        let twice = compressed("gzip", &compressed("zlib", &text));
        let halves =
            [compressed("gzip", &text[..4000]), compressed("gzip", &text[4000..])].concat();
        let cases = [
            ("gzip", gzip.clone(), Ok(())),
            ("x-gzip", gzip.clone(), Ok(())),
            ("GZip, identity", gzip.clone(), Ok(())),
            ("gzip", halves, Ok(())),
            ("deflate", compressed("zlib", &text), Ok(())),
            ("deflate", compressed("raw", &text), Ok(())),
            ("deflate, gzip", twice.clone(), Ok(())),
            ("gzip, deflate", twice, Err("bad-content-encoding")),
            ("gzip", gzip[..gzip.len() / 2].to_vec(), Err("bad-content-encoding")),
            ("gzip", gzip[..5].to_vec(), Err("bad-content-encoding")),
            ("gzip", text.clone(), Err("bad-content-encoding")),
            ("deflate", b"plain text".to_vec(), Err("bad-content-encoding")),
            ("deflate", vec![0x78], Err("bad-content-encoding")),
            ("gzip", Vec::new(), Err("no-body")),
            ("gzip", compressed("gzip", b""), Err("no-body")),
            ("br", gzip.clone(), Err("unsupported-content-encoding")),
        ];
        for (codings, body, expect) in cases {
            let read = read_under(codings, &body, 10_000);
            assert_eq!(read, expect.map(|()| text.clone()), "{codings}, {} bytes", body.len());
        }
    }

    #[test]
    fn the_cap_applies_to_decoded_bytes() {
        let bomb = compressed("gzip", &vec![0; 4 << 20]);
        let of_bombs = compressed("gzip", &bomb);
        for (codings, body) in [("gzip", &bomb), ("gzip, gzip", &of_bombs)] {
            assert!(body.len() < 20_000, "{} bytes pass the cap as they are", body.len());
            assert_eq!(read_under(codings, body, 20_000), Err("body-too-large"), "{codings}");
        }
    }
}
