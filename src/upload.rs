//! Reads posted photos and their options, in any of the forms that clients send.
//!
//! `Content-Type` distinguishes multipart, JSON and forms. Whether a body is the photo itself or its base64
//! is decided by the bytes (`skincell_vision::photo`), because clients declare types of all kinds. Photos are
//! not decoded here.

use http::header::CONTENT_TYPE;
use http::request::Parts;

use crate::body::{Body, Source};
pub use crate::fields::{Content, Photos, Sent};
use crate::options::Options;
use crate::problem::{Problem, excerpt};
use crate::{encoded, json_form, multipart, url_form};

/// What was posted.
#[derive(Debug)]
pub struct Upload {
    /// The photo, or several.
    pub photos: Photos,
    /// The options in the query and the body.
    pub options: Options,
}

/// Reads the photos and the options of a request.
///
/// # Errors
/// The [`Problem`] of the first fault found, in the query before the body.
pub fn read<S: Source>(head: &Parts, source: S, max_body: u64) -> Result<Upload, Problem> {
    let mut options = Options::from_query(head.uri.query().unwrap_or_default())?;
    let body = Body::of(head, source, max_body)?;
    let declared = head.headers.get(CONTENT_TYPE).map(http::HeaderValue::as_bytes);
    let declared = String::from_utf8_lossy(declared.unwrap_or_default());
    let essence = declared.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let photos = match essence.as_str() {
        "multipart/form-data" => multipart::read(body, &declared, &mut options)?,
        _ => whole(body.read_all()?, &essence, &declared, &mut options)?,
    };
    Ok(Upload { photos, options })
}

/// The photos in a body that is not multipart.
fn whole(
    body: Vec<u8>,
    essence: &str,
    declared: &str,
    options: &mut Options,
) -> Result<Photos, Problem> {
    let body = match encoded::photo(body) {
        Ok(photo) => return Ok(Photos::One(photo)),
        Err(body) => body,
    };
    // Without an explicit type, `fetch` sends an object as text, and `curl -d` as a form.
    let start = json_form::without_bom(&body).trim_ascii_start();
    let is_json = start.starts_with(b"{") || start.starts_with(b"[");
    match essence {
        "application/json" | "text/json" => json_form::read(body, options),
        "" | "text/plain" | "application/x-www-form-urlencoded" if is_json => {
            json_form::read(body, options)
        }
        "application/x-www-form-urlencoded" => url_form::read(&body, options),
        "application/octet-stream" | "binary/octet-stream" => Ok(Photos::One(body)),
        image if image.starts_with("image/") => Ok(Photos::One(body)),
        _ => Err(Problem::UnsupportedContentType {
            found: match declared {
                "" => "missing".to_owned(),
                other => format!("{:?}", excerpt(other)),
            },
        }),
    }
}

#[cfg(test)]
mod tests {
    use http::header::CONTENT_LENGTH;

    use super::*;
    use crate::body::tests::chunks;

    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n and so on";
    const PNG_BASE64: &[u8] = b"iVBORw0KGgogYW5kIHNvIG9u";

    fn read_as(content_type: &str, query: &str, body: &[u8]) -> Result<Upload, Problem> {
        let mut request = http::Request::post(format!("/predict{query}"));
        if !content_type.is_empty() {
            request = request.header(CONTENT_TYPE, content_type);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        read(&head, chunks(body, 5), 10_000)
    }

    #[test]
    fn the_content_type_decides_the_form() {
        let multipart: &[u8] =
            b"--b\r\nContent-Disposition: form-data; name=\"image\"; filename=\"a\"\r\n\r\nabc\r\n--b--";
        type Case<'a> = (&'a str, &'a [u8], Result<&'a [u8], &'a str>);
        let cases: [Case<'_>; 25] = [
            ("multipart/form-data; boundary=b", multipart, Ok(b"abc")),
            ("Multipart/Form-Data; boundary=\"b\"", multipart, Ok(b"abc")),
            ("application/json", br#"{"image": "YWJj"}"#, Ok(b"abc")),
            ("application/json; charset=utf-8", br#"{"image": "YWJj"}"#, Ok(b"abc")),
            ("image/jpeg", b"abc", Ok(b"abc")),
            ("IMAGE/anything", b"abc", Ok(b"abc")),
            ("application/octet-stream", b"abc", Ok(b"abc")),
            ("binary/octet-stream", b"abc", Ok(b"abc")),
            ("", PNG, Ok(PNG)),
            ("application/x-www-form-urlencoded", PNG, Ok(PNG)),
            ("application/pdf", PNG, Ok(PNG)),
            ("multipart/mixed; boundary=b", PNG, Ok(PNG)),
            ("application/json", PNG, Ok(PNG)),
            ("\u{e9}", PNG, Ok(PNG)),
            ("image/png", PNG_BASE64, Ok(PNG)),
            (
                "text/plain;charset=UTF-8",
                b"data:image/png;base64,iVBORw0KGgogYW5kIHNvIG9u",
                Ok(PNG),
            ),
            ("text/plain;charset=UTF-8", br#"{"image": "YWJj"}"#, Ok(b"abc")),
            ("application/x-www-form-urlencoded", br#"{"image": "YWJj"}"#, Ok(b"abc")),
            ("application/x-www-form-urlencoded", b"image=iVBORw0KGgogYW5kIHNvIG9u", Ok(PNG)),
            ("application/json", b"\xef\xbb\xbf{\"image\": \"YWJj\"}", Ok(b"abc")),
            ("text/plain", b"abc", Err("unsupported-content-type")),
            ("application/x-www-form-urlencoded", b"image=a?c", Err("bad-base64")),
            ("application/x-www-form-urlencoded", b"abc", Err("missing-image")),
            ("", b"abc", Err("unsupported-content-type")),
            ("text/plain", b"", Err("no-body")),
        ];
        for (content_type, body, expect) in cases {
            let read = read_as(content_type, "", body).map(|upload| upload.photos);
            let read = read.map_err(|problem| problem.kind().name);
            let expect = expect.map(|photo| Photos::One(photo.to_vec()));
            assert_eq!(read, expect, "{content_type:?}");
        }
    }

    #[test]
    fn a_list_of_any_json_type_is_several_photos() {
        let list = b" [\"iVBORw0KGgogYW5kIHNvIG9u\"]";
        for content_type in ["application/json", "text/plain;charset=UTF-8", ""] {
            let photos = read_as(content_type, "?top_k=2", list).unwrap().photos;
            assert!(matches!(photos, Photos::Several(ref one) if one.len() == 1), "{photos:?}");
        }
    }

    #[test]
    fn an_empty_body_is_refused_with_any_type() {
        for content_type in
            ["", "image/png", "application/json", "multipart/form-data; boundary=b", "text/html"]
        {
            let problem = read_as(content_type, "", b"").unwrap_err();
            assert_eq!(problem.kind().name, "no-body", "{content_type:?}");
        }
    }

    #[test]
    fn a_body_overrides_the_query() {
        let body = br#"{"image": "YWJj", "model": "imagenet"}"#;
        let upload = read_as("application/json", "?model=skin&top_k=2", body).unwrap();
        assert_eq!(upload.options.model.as_deref(), Some("imagenet"));
        assert_eq!(upload.options.top_k, Some(2));
    }

    #[test]
    fn a_declared_length_over_the_cap_is_refused_unread() {
        let request = http::Request::post("/predict").header(CONTENT_LENGTH, "10001");
        let (head, ()) = request.body(()).unwrap().into_parts();
        let problem = read(&head, chunks(b"", 1), 10_000).unwrap_err();
        assert_eq!(problem.numbers(), (Some(10_000), Some(10_001)));
    }
}
