//! Base64 text and `data:` URLs to the bytes they stand for, as browsers, cameras and scripts write
//! them: either alphabet, wrapped or not, padded or not.

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

/// How many letters of base64 tell whether a photo begins there: whole groups of four, for 24 bytes.
const ENOUGH: usize = 32;

/// Most bytes in front of the comma of a `data:` URL: a media type with its parameters is short, and a
/// comma further on would belong to something else.
const LONGEST_HEAD: usize = 1024;

/// Whether `bytes` begin like a photo of any kind, one that is not decoded here (HEIC, AVIF) included.
pub(crate) fn is_photo(bytes: &[u8]) -> bool {
    photo::sniff(bytes).is_some() || bytes.get(4..8) == Some(b"ftyp")
}

/// The photo that `value` is, or is the base64 of; `value` itself where it is neither.
///
/// # Errors
/// The bytes that were given.
pub(crate) fn photo(value: Vec<u8>) -> Result<Vec<u8>, Vec<u8>> {
    if is_photo(&value) {
        return Ok(value);
    }
    if !begins_photo(&value) {
        return Err(value);
    }
    // What begins so and then breaks off is told by `decode`, which the caller asks for the reason.
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
/// Takes the text by value and tidies it in place: a photo is held twice at most.
///
/// # Errors
/// [`Problem::BadBase64`], with the offset (white space not counted) where there is one.
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

/// A letter of either alphabet (RFC 4648, sections 4 and 5) as one of the first.
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
            format!("there is no `{}` in base64, as at offset {at}", char::from(byte))
        }
        DecodeError::InvalidByte(at, byte) => {
            format!("there is no byte {byte} in base64, as at offset {at}")
        }
        DecodeError::InvalidLength(_) | DecodeError::InvalidLastSymbol(..) => {
            "it ends in the middle of a byte, as if it were cut short".to_owned()
        }
        DecodeError::InvalidPadding => "its padding with `=` is wrong".to_owned(),
    }
}

/// Where the base64 begins: behind the comma of a `data:` URL (RFC 2397), else at once.
fn payload_start(text: &[u8]) -> Result<usize, Problem> {
    let blank = text.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
    let head = text.get(blank..text.len().min(blank + LONGEST_HEAD)).unwrap_or_default();
    let is_a = |scheme: &str| {
        head.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme.as_bytes()))
    };
    if ["http:", "https:", "blob:", "file:"].into_iter().any(is_a) {
        return Err(bad("it is an address, and nothing is fetched from addresses"));
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

/// Whether one of the parameters of a `data:` URL is the word `base64`.
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
    fn what_clients_send_is_decoded() {
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
    fn a_photo_is_told_from_its_base64() {
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
    fn the_offset_is_named() {
        let error = decode(b"AAAA*AAA".to_vec()).unwrap_err().to_string();
        assert!(error.contains("`*`") && error.contains("offset 4"), "{error}");
    }
}
