//! Decodes bodies with `Content-Encoding` gzip or deflate (RFC 9110, 8.4.1).
//!
//! A body is decoded as it is read, so that `Body` counts decoded bytes before they are kept. Codings that
//! few clients use (br, zstd) are not supported.

use std::io::{self, Read};

use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use http::HeaderMap;
use http::header::CONTENT_ENCODING;

use crate::problem::{Problem, excerpt};

/// The `Accept-Encoding` of a refusal (RFC 9110, 12.5.3).
pub(crate) const ACCEPTED: &str = "gzip, deflate, identity";

/// Most codings of one body. Each needs a window of 32 KiB.
const MOST: usize = 4;

/// A supported coding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coding {
    Gzip,
    Deflate,
}

/// The codings declared for a request's body, in the order they were applied.
///
/// # Errors
/// [`Problem::UnsupportedEncoding`] for another coding, or for too many.
pub(crate) fn codings(headers: &HeaderMap) -> Result<Vec<Coding>, Problem> {
    let mut found = Vec::new();
    for line in headers.get_all(CONTENT_ENCODING) {
        let line = String::from_utf8_lossy(line.as_bytes());
        for name in line.split(',').map(str::trim) {
            match name.to_ascii_lowercase().as_str() {
                "" | "identity" => {}
                "gzip" | "x-gzip" => found.push(Coding::Gzip),
                "deflate" => found.push(Coding::Deflate),
                _ => return Err(Problem::UnsupportedEncoding { found: excerpt(name) }),
            }
        }
        if found.len() > MOST {
            return Err(Problem::UnsupportedEncoding { found: excerpt(&line) });
        }
    }
    Ok(found)
}

/// Decodes the bytes of `reader` by undoing `codings`.
///
/// # Errors
/// An error of reading the first bytes; see [`problem`].
pub(crate) fn decode(
    reader: Box<dyn Read + Send>,
    codings: &[Coding],
) -> io::Result<Box<dyn Read + Send>> {
    codings.iter().rev().try_fold(reader, |reader, coding| match coding {
        Coding::Gzip => Ok(Box::new(MultiGzDecoder::new(reader)) as Box<dyn Read + Send>),
        Coding::Deflate => deflate(reader),
    })
}

/// RFC 9110's deflate is the zlib format (RFC 1950), but some clients send the raw stream (RFC 1951), as
/// some servers do. In a zlib header the method is 8 and the two bytes are a multiple of 31.
fn deflate(mut reader: Box<dyn Read + Send>) -> io::Result<Box<dyn Read + Send>> {
    let mut start = Vec::with_capacity(2);
    reader.by_ref().take(2).read_to_end(&mut start)?;
    let is_zlib = matches!(start.as_slice(), [first, second]
        if first & 0x0F == 8 && u16::from_be_bytes([*first, *second]) % 31 == 0);
    let whole = io::Cursor::new(start).chain(reader);
    Ok(if is_zlib {
        Box::new(ZlibDecoder::new(whole))
    } else {
        Box::new(DeflateDecoder::new(whole))
    })
}

/// The problem for a read error: the body's own problem if that is the cause.
pub(crate) fn problem(error: io::Error) -> Problem {
    let why = match error.kind() {
        io::ErrorKind::UnexpectedEof => "it ends too early",
        _ => "it is damaged, or not compressed at all",
    };
    match error.into_inner().map(|cause| cause.downcast::<Problem>()) {
        Some(Ok(problem)) => *problem,
        _ => Problem::BadEncoding { why },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn content_encoding_is_a_list() {
        use Coding::{Deflate, Gzip};
        type Case<'a> = (&'a [&'static str], Result<Vec<Coding>, &'a str>);
        let cases: [Case<'_>; 12] = [
            (&[], Ok(vec![])),
            (&[""], Ok(vec![])),
            (&["identity"], Ok(vec![])),
            (&["gzip"], Ok(vec![Gzip])),
            (&["X-GZIP"], Ok(vec![Gzip])),
            (&["deflate"], Ok(vec![Deflate])),
            (&["deflate, gzip"], Ok(vec![Deflate, Gzip])),
            (&["deflate", " identity ,gzip"], Ok(vec![Deflate, Gzip])),
            (&["br"], Err("br")),
            (&["gzip, zstd"], Err("zstd")),
            (&["gzip, gzip, gzip, gzip"], Ok(vec![Gzip; 4])),
            (&["gzip,gzip,gzip,gzip,gzip"], Err("gzip,gzip,gzip,gzip,gzip")),
        ];
        for (lines, expect) in cases {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(CONTENT_ENCODING, HeaderValue::from_static(line));
            }
            match (codings(&headers), expect) {
                (Ok(found), Ok(expect)) => assert_eq!(found, expect, "{lines:?}"),
                (Err(Problem::UnsupportedEncoding { found }), Err(expect)) => {
                    assert_eq!(found, expect)
                }
                (found, _) => panic!("{lines:?}: {found:?}"),
            }
        }
    }
}
