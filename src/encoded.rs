//! Decodes base64 text and `data:` URLs as browsers, cameras and scripts write them: in either alphabet,
//! with or without line breaks and padding.

use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::{DecodeError, Engine as _};
use percent_encoding::percent_decode;
use skincell_vision::photo;

use crate::problem::Problem;

const ENGINE: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Letters of base64 that are enough to recognise a photo: whole groups of four, for 24 bytes.
const ENOUGH: usize = 32;

/// Most bytes before the comma of a `data:` URL: a media type with parameters is short, and a later comma
/// would belong to something else.
const LONGEST_HEAD: usize = 1024;

/// Whether `bytes` begin like a photo, including formats that are not decoded (HEIC, AVIF).
pub(crate) fn is_photo(bytes: &[u8]) -> bool {
    photo::sniff(bytes).is_some() || bytes.get(4..8) == Some(b"ftyp")
}

/// The photo in `value`, as bytes or as base64.
///
/// # Errors
/// `value` itself, if it is not a photo.
pub(crate) fn photo(value: Vec<u8>) -> Result<Vec<u8>, Vec<u8>> {
    if is_photo(&value) {
        return Ok(value);
    }
    if !begins_photo(&value) {
        return Err(value);
    }
    // If the rest is damaged, the caller gets the reason from `decode`.
    decode(value.clone()).map_err(|_| value)
}

/// Whether the base64 in `text` begins with a photo.
fn begins_photo(text: &[u8]) -> bool {
    let Ok(start) = payload_start(text) else { return false };
    let letters = text.get(start..).unwrap_or_default().iter().copied();
    let head: Vec<u8> =
        letters.filter(|byte| !byte.is_ascii_whitespace()).take(ENOUGH).map(standard).collect();
    ENGINE.decode(&head).is_ok_and(|bytes| is_photo(&bytes))
}

/// The bytes that `text` encodes: base64, or a `data:` URL of it.
///
/// Takes the text by value and normalises it in place, so that a photo is held at most twice.
///
/// # Errors
/// [`Problem::BadBase64`], with the offset (without white space) if known.
pub(crate) fn decode(mut text: Vec<u8>) -> Result<Vec<u8>, Problem> {
    let start = payload_start(&text)?;
    text.drain(..start);
    if text.contains(&b'%') {
        text = percent_decode(&text).collect();
    }
    text.retain(|byte| !byte.is_ascii_whitespace());
    for byte in &mut text {
        *byte = standard(*byte);
    }
    ENGINE.decode(&text).map_err(|error| bad(&reason(error)))
}

/// Maps a letter of either alphabet (RFC 4648, sections 4 and 5) to the standard one.
fn standard(letter: u8) -> u8 {
    match letter {
        b'-' => b'+',
        b'_' => b'/',
        other => other,
    }
}

fn reason(error: DecodeError) -> String {
    match error {
        DecodeError::InvalidByte(at, byte) if byte.is_ascii_graphic() => {
            format!("`{}` at offset {at} is not a base64 character", char::from(byte))
        }
        DecodeError::InvalidByte(at, byte) => {
            format!("byte {byte} at offset {at} is not a base64 character")
        }
        DecodeError::InvalidLength(_) | DecodeError::InvalidLastSymbol(..) => {
            "it ends in the middle of a byte; it may be cut short".to_owned()
        }
        DecodeError::InvalidPadding => "its padding with `=` is wrong".to_owned(),
    }
}

/// The start of the base64: after the comma of a `data:` URL (RFC 2397), else 0.
fn payload_start(text: &[u8]) -> Result<usize, Problem> {
    let blank = text.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
    let head = text.get(blank..text.len().min(blank + LONGEST_HEAD)).unwrap_or_default();
    let is_a = |scheme: &str| {
        head.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme.as_bytes()))
    };
    if ["http:", "https:", "blob:", "file:"].into_iter().any(is_a) {
        return Err(bad("it is an address, and photos are not fetched from addresses"));
    }
    if !is_a("data:") {
        return Ok(blank);
    }
    let comma = head.iter().position(|byte| *byte == b',');
    match comma.and_then(|comma| head.get(..comma)) {
        Some(head) if says_base64(head) => Ok(blank + head.len() + 1),
        Some(_) => Err(bad("a data: URL without `;base64` before its comma")),
        None => Err(bad("a data: URL without a comma")),
    }
}

/// Whether a `data:` URL has the parameter `base64`.
fn says_base64(head: &[u8]) -> bool {
    let mut parameters = head.split(|byte| *byte == b';').skip(1);
    parameters.any(|parameter| parameter.trim_ascii().eq_ignore_ascii_case(b"base64"))
}

fn bad(why: &str) -> Problem {
    Problem::BadBase64 { why: why.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_common_clients_is_decoded() {
        let three: Option<&[u8]> = Some(&[0xfb, 0xff, 0]);
        let four: Option<&[u8]> = Some(&[0xfb, 0xff, 0, 1]);
        let cases: [(&str, &str, Option<&[u8]>); 24] = [
            ("plain", "+/8AAQ==", four),
            ("url-safe", "-_8AAQ==", four),
            ("no padding", "+/8AAQ", four),
            ("some padding", "+/8AAQ=", four),
            ("wrapped", "+/8A\r\n  AQ==\n", four),
            ("data URL", "data:image/jpeg;base64,+/8AAQ==", four),
            ("data URL, bare", " DATA:;BASE64,+/8AAQ==", four),
            ("data URL with a space", "data:image/jpeg; base64,+/8AAQ==", four),
            ("data URL with spaces", "data: image/jpeg ;base64 , +/8AAQ==", four),
            ("data URL with parameters", "data:image/png;name=a;base64,+/8A", three),
            ("data URL with a charset", "data:image/jpeg;charset=utf-8;base64,+/8A", three),
            ("data URL, base64 not last", "data:image/jpeg;base64;charset=utf-8,+/8A", three),
            ("data URL in percent", "data:image/jpeg;base64,%2B%2F8AAQ%3D%3D", four),
            ("data URL, url-safe and wrapped", "data:image/webp;base64,-_8A\nAQ", four),
            ("empty", "", Some(&[])),
            ("percent-encoded data URL", "data:image/png,%89PNG", None),
            ("data URL cut short", "data:image/png;base64", None),
            ("an address", "https://example.org/a.jpg", None),
            ("a stray character", "+/8A*Q==", None),
            ("one character over", "+/8AA", None),
            ("bits to spare", "+/8AAR", None),
            ("padding in the middle", "+/==8AAQ", None),
            ("a name that begins like one", "base64,+/8A", None),
            ("not text", "\u{fffd}\u{fffd}", None),
        ];
        for (name, text, expect) in cases {
            let decoded = decode(text.as_bytes().to_vec());
            match expect {
                Some(bytes) => assert_eq!(decoded.unwrap(), bytes, "{name}"),
                None => assert_eq!(decoded.unwrap_err().kind().name, "bad-base64", "{name}"),
            }
        }
    }

    #[test]
    fn photos_and_their_base64_are_recognised() {
        const PNG: &[u8] = b"\x89PNG\r\n\x1a\n and so on";
        let text = base64::engine::general_purpose::STANDARD.encode(PNG);
        let url = format!("data:image/png;base64,{text}");
        for given in [PNG, text.as_bytes(), url.as_bytes(), &[b"\n ", text.as_bytes()].concat()] {
            assert_eq!(photo(given.to_vec()).unwrap(), PNG);
        }
        let neither: [&[u8]; 5] = [b"", b"words", b"d29yZHM=", b"data:,", &url.as_bytes()[..24]];
        for given in neither {
            assert_eq!(photo(given.to_vec()).unwrap_err(), given);
        }
    }

    #[test]
    fn errors_name_the_offset() {
        let error = decode(b"AAAA*AAA".to_vec()).unwrap_err().to_string();
        assert!(error.contains("`*`") && error.contains("offset 4"), "{error}");
    }
}
