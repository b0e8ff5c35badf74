//! Reads `multipart/form-data` with a photo and options.
//!
//! The form is read as it arrives. Values that may be the photo are kept, and options up to [`MAX_VALUE`] and
//! one chunk. Part headers and the number of parts are limited, so a form needs no more memory than the
//! body's cap. Unknown fields are skipped, because browsers' forms contain tokens. `fields` decides which
//! part is the photo.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures_core::Stream;
use http::HeaderMap;
use http::header::{CONTENT_DISPOSITION, HeaderName};
use multer::Multipart;
use percent_encoding::percent_decode_str;
use quoted_printable::ParseMode;

use crate::body::{Body, Source};
use crate::encoded;
use crate::fields::{Field, Fields, MAX_PHOTOS, Photos};
use crate::options::{self, MAX_VALUE, Options};
use crate::parameters::{parameter, parameters};
use crate::problem::Problem;

/// Most parts of a form: the most photos, and 32 others, a number chosen for options and for the tokens of
/// browsers' forms.
pub(crate) const MAX_PARTS: u64 = MAX_PHOTOS as u64 + 32;

/// Most bytes read while searching for the end of one part's header. Chosen: far above the few hundred bytes
/// of a browser's.
pub(crate) const MAX_PART_HEADER: usize = 64 * 1024;

const TRANSFER_ENCODING: HeaderName = HeaderName::from_static("content-transfer-encoding");

/// Reads the form and returns its photos; options among its text fields are set in `options`.
///
/// # Errors
/// The [`Problem`] of the first fault found: [`Problem::BadForm`], [`Problem::PartHeaderTooLong`],
/// [`Problem::TooManyParts`], or one of [`Fields`], the body or the options.
pub(crate) fn read<S: Source>(
    body: Body<S>,
    content_type: &str,
    options: &mut Options,
) -> Result<Photos, Problem> {
    let boundary = parameter(content_type, "boundary").filter(|boundary| !boundary.is_empty());
    let capacity = body.capacity();
    let allowance = Arc::new(AtomicUsize::new(MAX_PART_HEADER));
    let mut feed =
        Feed { body, allowance: Arc::clone(&allowance), pauses_next: false, is_untouched: true };
    let Some(boundary) = boundary else {
        // If the body is empty, that is the more useful error.
        feed.next_chunk()?;
        return Err(Problem::BadForm { why: "Content-Type names no boundary" });
    };
    let mut form = Multipart::new(feed, boundary);
    let mut fields = Fields::default();
    for _ in 0..=MAX_PARTS {
        allowance.store(MAX_PART_HEADER, Ordering::Relaxed);
        let part = now(form.next_field()).map_err(problem)?;
        allowance.store(usize::MAX, Ordering::Relaxed);
        match part {
            Some(part) => take(part, capacity, &mut fields, options)?,
            None => return fields.finish(),
        }
    }
    Err(Problem::TooManyParts { limit: MAX_PARTS })
}

/// Reads a part to its end and keeps it if it is an option or may be the photo.
fn take(
    mut part: multer::Field<'_>,
    capacity: usize,
    fields: &mut Fields,
    options: &mut Options,
) -> Result<(), Problem> {
    let disposition = text(part.headers(), &CONTENT_DISPOSITION);
    let name = parameter(&disposition, "name").unwrap_or_default();
    let file = file_name(&disposition);
    let encoding = text(part.headers(), &TRANSFER_ENCODING).trim().to_ascii_lowercase();
    let field = Field { name: &name, file: file.as_deref() };
    let is_option = options::is_option(&name);
    let is_kept = !is_option && field.may_be_photo();
    // The first photo gets the whole body's capacity, so that it is not copied while it grows; it is shrunk
    // below for those after it.
    let room = if is_kept && fields.is_empty() { capacity } else { 0 };
    let mut value = Vec::with_capacity(room);
    while let Some(chunk) = now(part.chunk()).map_err(problem)? {
        if is_kept || (is_option && value.len() <= MAX_VALUE) {
            value.extend_from_slice(&chunk);
        }
    }
    if is_option {
        options.set(&name, &String::from_utf8_lossy(&value))?;
    } else if is_kept {
        // The capacity is that of the whole body, which the photos after this one need.
        value.shrink_to_fit();
        fields.add(field, transferred(value, &encoding)?)?;
    } else {
        fields.skip(&name);
    }
    Ok(())
}

/// The name of a part's file, possibly empty; `None` if it has none. A name that is not ASCII may be only in
/// `filename*`, percent-encoded after its character set and language (RFC 5987).
fn file_name(disposition: &str) -> Option<String> {
    let parameters = parameters(disposition);
    let of = |wanted: &str| {
        parameters.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str())
    };
    let extended = of("filename*").map(|value| {
        let encoded = value.rsplit('\'').next().unwrap_or_default();
        percent_decode_str(encoded).decode_utf8_lossy().into_owned()
    });
    extended.or_else(|| of("filename").map(str::to_owned))
}

/// A header of a part as text; empty if it is missing.
fn text(headers: &HeaderMap, name: &HeaderName) -> String {
    headers
        .get(name)
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        .unwrap_or_default()
}

/// A value decoded from its `Content-Transfer-Encoding`, which is deprecated (RFC 7578, 4.7) but still
/// written by mail libraries. A value that is a photo already stays as it is.
fn transferred(value: Vec<u8>, encoding: &str) -> Result<Vec<u8>, Problem> {
    match encoding {
        "base64" if !encoded::is_photo(&value) => encoded::decode(value),
        "quoted-printable" if !encoded::is_photo(&value) => {
            quoted_printable::decode(value, ParseMode::Robust).map_err(|_| Problem::BadForm {
                why: "a part is not quoted-printable, as its Content-Transfer-Encoding says",
            })
        }
        _ => Ok(value),
    }
}

/// The problem for an error of the parser: the body's problem if that is the cause.
fn problem(error: multer::Error) -> Problem {
    use multer::Error as E;
    let why = match error {
        E::StreamReadFailed(cause) => match cause.downcast::<Problem>() {
            Ok(problem) => return *problem,
            Err(_) => "it cannot be read to its end",
        },
        E::IncompleteStream | E::IncompleteFieldData { .. } => {
            "it ends before its closing boundary, or its boundary is not the one Content-Type names"
        }
        E::IncompleteHeaders
        | E::ReadHeaderFailed(_)
        | E::DecodeHeaderName { .. }
        | E::DecodeHeaderValue { .. } => "the header of a part is malformed",
        _ => "it is not a form",
    };
    Problem::BadForm { why }
}

/// The body as a stream for the parser. After each chunk it is pending once, so that the parser processes the
/// chunk instead of collecting the whole body first.
struct Feed<S> {
    body: Body<S>,
    /// Bytes that may still be read until the parser must have found the end of a header.
    allowance: Arc<AtomicUsize>,
    /// Whether the next poll is pending.
    pauses_next: bool,
    /// Whether no chunk has come yet.
    is_untouched: bool,
}

impl<S: Source> Feed<S> {
    fn next_chunk(&mut self) -> Result<Option<Vec<u8>>, Problem> {
        let chunk = self.body.next_chunk()?;
        if self.is_untouched && chunk.is_none() {
            return Err(Problem::NoBody);
        }
        self.is_untouched = false;
        let Some(chunk) = chunk else { return Ok(None) };
        let allowance = self.allowance.load(Ordering::Relaxed);
        if allowance == 0 {
            return Err(Problem::PartHeaderTooLong { limit: MAX_PART_HEADER as u64 });
        }
        self.allowance.store(allowance.saturating_sub(chunk.len()), Ordering::Relaxed);
        Ok(Some(chunk))
    }
}

impl<S: Source> Stream for Feed<S> {
    type Item = Result<Bytes, Problem>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.pauses_next = !self.pauses_next;
        if !self.pauses_next {
            return Poll::Pending;
        }
        Poll::Ready(self.next_chunk().map(|chunk| chunk.map(Bytes::from)).transpose())
    }
}

/// Polls a future of the parser until it is ready. No waker is needed: the future waits only for [`Feed`],
/// which is pending only once between two chunks.
fn now<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::tests::{Chunks, chunks};

    const TYPE: &str = "multipart/form-data; boundary=cell";
    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n and so on";
    const PNG_BASE64: &[u8] = b"iVBORw0KGgogYW5kIHNvIG9u";
    const BASE64_PART: &str = "name=\"image\"; filename=\"a\"\r\nContent-Transfer-Encoding: Base64";
    const QUOTED_PART: &str =
        "name=\"image\"; filename=\"a\"\r\nContent-Transfer-Encoding: quoted-printable";

    fn part(disposition: &str, content: &[u8]) -> Vec<u8> {
        let head = format!("--cell\r\nContent-Disposition: form-data; {disposition}\r\n\r\n");
        [head.as_bytes(), content, b"\r\n"].concat()
    }

    fn form(parts: &[Vec<u8>]) -> Vec<u8> {
        [parts.concat().as_slice(), b"--cell--\r\n"].concat()
    }

    fn read_in(body: &[u8], size: usize) -> (Result<Vec<u8>, Problem>, Options) {
        let (photos, options) = read_all_in(body, size);
        let photo = photos.map(|photos| match photos {
            Photos::One(photo) => photo,
            Photos::Several(photos) => panic!("{} photos", photos.len()),
        });
        (photo, options)
    }

    fn read_all_in(body: &[u8], size: usize) -> (Result<Photos, Problem>, Options) {
        let mut options = Options::default();
        let body = Body::open(chunks(body, size), None, 64 << 20).unwrap();
        (read(body, TYPE, &mut options), options)
    }

    #[test]
    fn photos_of_one_field_have_their_file_names() {
        let body = form(&[
            part("name=\"photos\"; filename=\"a.jpg\"", PNG),
            part("name=\"top_k\"", b"3"),
            part("name=\"photos\"; filename=\"_.jpg\"; filename*=UTF-8''%e1%ba%a3nh.jpg", PNG),
            part("name=\"photos\"", PNG_BASE64),
        ]);
        let (photos, options) = read_all_in(&body, 10);
        let Ok(Photos::Several(photos)) = photos else { panic!("{photos:?}") };
        let names: Vec<_> = photos.iter().map(|sent| sent.file.as_deref()).collect();
        assert_eq!(names, [Some("a.jpg"), Some("ảnh.jpg"), None]);
        assert!(photos.into_iter().all(|sent| sent.content.bytes().unwrap() == PNG));
        assert_eq!(options.top_k, Some(3));
    }

    #[test]
    fn the_photo_is_found_with_chunks_of_any_size() {
        let token = part("name=\"csrfmiddlewaretoken\"", b"x");
        let untouched = part("name=\"file\"; filename=\"\"", b"");
        let cases = [
            ("a file", form(&[part("name=\"image\"; filename=\"a.heic\"", PNG)])),
            ("the alias", form(&[part("name=\"file\"; filename=\"a\"", PNG)])),
            ("raw in a text field", form(&[part("name=\"image\"", PNG)])),
            ("base64", form(&[part("name=image", b"iVBORw0KGgogYW5kIHNvIG9u")])),
            (
                "data URL",
                form(&[part("name=image", b"data:image/png;base64,iVBORw0KGgogYW5kIHNvIG9u")]),
            ),
            ("among others", form(&[token, untouched, part("name=\"image\"; filename=\"\"", PNG)])),
            ("text beside it", form(&[part("name=\"image\"", PNG), part("name=\"file\"", b"*")])),
            ("a name in a name", form(&[part("filename=\"x; name=a.png\"; name=\"photo\"", PNG)])),
            ("an extended file name", form(&[part("name=up; filename*=UTF-8''%e2%82%ac", PNG)])),
            ("base64 in a file", form(&[part("name=image[]; filename=a", PNG_BASE64)])),
            ("Content-Transfer-Encoding", form(&[part(BASE64_PART, PNG_BASE64)])),
            ("quoted-printable", form(&[part(QUOTED_PART, b"=89PNG=0D=0A=1A=0A and =\r\nso on")])),
            ("said to be base64", form(&[part(BASE64_PART, PNG)])),
            (
                "8bit",
                form(&[part("name=file; filename=a\r\nContent-Transfer-Encoding: 8bit", PNG)]),
            ),
        ];
        for (name, body) in cases {
            for size in [1, 7, 100, CHUNKS_AT_ONCE] {
                let (photo, _) = read_in(&body, size);
                assert_eq!(photo.unwrap(), PNG, "{name}, chunks of {size}");
            }
        }
    }

    const CHUNKS_AT_ONCE: usize = 1 << 20;

    /// These bodies were also read with werkzeug 3.1, Django 5.2 and busboy 1.6. If at least two of them find
    /// the photo, it must be found here; otherwise it may be refused with a reason.
    #[test]
    fn forms_are_read_as_other_servers_read_them() {
        let head =
            "--cell\r\nContent-Disposition: form-data; name=\"image\"; filename=\"a.jpg\"\r\n";
        let whole = form(&[part("name=\"image\"; filename=\"a.jpg\"", PNG)]);
        let with = |from: &str, to: &str| {
            let at = whole.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
            [&whole[..at], to.as_bytes(), &whole[at + from.len()..]].concat()
        };
        let named = |disposition: &str| form(&[part(disposition, PNG)]);
        let found: [(&str, Vec<u8>); 16] = [
            ("a preamble", [&b"This is\r\na preamble\r\n"[..], &whole].concat()),
            ("an empty line first", [&b"\r\n"[..], &whole].concat()),
            ("an epilogue", [&whole[..], b"an epilogue\r\n--cell\r\nno part"].concat()),
            ("no line end at the end", whole[..whole.len() - 2].to_vec()),
            ("padding behind a boundary", with("--cell\r\n", "--cell  \t\r\n")),
            ("padding behind the last", with("--cell--", "--cell--  ")),
            ("a quote in a file name", named("name=\"image\"; filename=\"a\\\"b.jpg\"")),
            ("a name in a file name", named("filename=\"a; name=x.jpg\"; name=\"image\"")),
            ("a Windows path", named("name=\"image\"; filename=\"C:\\temp\\new.jpg\"")),
            ("a file name of UTF-8", named("name=\"image\"; filename=\"\u{1ea3}nh.jpg\"")),
            ("filename*", named("name=\"image\"; filename*=utf-8''%e1%ba%a3nh.jpg")),
            ("no quotes", named("name=image; filename=a.jpg")),
            ("no spaces", with("form-data; name=\"image\"; ", "form-data;name=\"image\";")),
            ("lower case", with("Content-Disposition", "content-disposition")),
            ("an attachment", with("form-data; name", "attachment; name")),
            ("a length", with("filename=\"a.jpg\"", "filename=\"a.jpg\"\r\nContent-Length: 19")),
        ];
        for (name, body) in found {
            assert_eq!(read_in(&body, 11).0.unwrap(), PNG, "{name}");
        }
        let refused = [
            (
                "line feeds alone",
                [head.replace("\r\n", "\n").as_bytes(), b"\n"].concat(),
                "bad-form",
            ),
            ("a folded header", with("; filename", ";\r\n filename"), "bad-form"),
            ("no closing boundary", whole[..whole.len() - 10].to_vec(), "bad-form"),
            (
                "no disposition",
                with("Content-Disposition: form-data", "X: form-data"),
                "missing-image",
            ),
        ];
        for (name, body, expect) in refused {
            assert_eq!(read_in(&body, 11).0.unwrap_err().kind().name, expect, "{name}");
        }
    }

    #[test]
    fn options_come_from_text_fields() {
        let body = form(&[
            part("name=\"top_k\"", b"3"),
            part("name=\"image\"", PNG),
            part("name=\"class\"", "Ekzem – rot".as_bytes()),
            part("name=\"gradcam\"", b""),
        ]);
        let (photo, options) = read_in(&body, 10);
        assert_eq!(photo.unwrap(), PNG);
        let class = Some("Ekzem – rot".to_owned());
        assert_eq!(options, Options { top_k: Some(3), class, ..Options::default() });
    }

    #[test]
    fn each_kind_of_bad_form_has_its_own_problem() {
        let many = vec![part("name=\"a\"", b"1"); 10_000];
        let long_name = format!("name=\"image\"; filename=\"{}\"", "n".repeat(10 << 20));
        let photo = part("name=\"image\"", PNG);
        let cut_short = |at: usize| form(std::slice::from_ref(&photo))[..at].to_vec();
        let cases = [
            ("no parts", form(&[]), "missing-image"),
            ("another field", form(&[part("name=\"notes\"", PNG)]), "missing-image"),
            (
                "an empty photo",
                form(&[part("name=\"image\"; filename=\"\"", b"")]),
                "missing-image",
            ),
            ("no name", form(&[part("filename=\"\"", b"")]), "missing-image"),
            (
                "photos in two fields",
                form(&[photo.clone(), part("name=\"file\"", PNG)]),
                "several-photos",
            ),
            (
                "base64 broken off",
                form(&[part(BASE64_PART, b"iVBORw0KGgogYW5kIHNvIG9")]),
                "bad-base64",
            ),
            ("broken base64", form(&[part("name=\"image\"", b"?")]), "bad-base64"),
            ("a bad option", form(&[part("name=\"top_k\"", b"many")]), "bad-option"),
            ("a long option", form(&[part("name=\"class\"", &[b'a'; 5000])]), "bad-option"),
            ("10,000 parts", form(&many), "too-many-parts"),
            ("a file name of 10 MB", form(&[part(&long_name, PNG)]), "part-header-too-long"),
            ("10 MB before a boundary", vec![b'x'; 10 << 20], "part-header-too-long"),
            ("another boundary", b"--other\r\n\r\n--other--".to_vec(), "bad-form"),
            ("cut in the header", cut_short(20), "bad-form"),
            ("cut in the photo", cut_short(photo.len() - 5), "bad-form"),
            ("cut before the end", cut_short(photo.len() + 6), "bad-form"),
            (
                "header without a colon",
                b"--cell\r\nrubbish\r\n\r\nx\r\n--cell--".to_vec(),
                "bad-form",
            ),
            ("nothing", Vec::new(), "no-body"),
        ];
        for (name, body, expect) in cases {
            for size in [1000, crate::body::CHUNK] {
                let (photo, _) = read_in(&body, size);
                assert_eq!(photo.unwrap_err().kind().name, expect, "{name}, chunks of {size}");
            }
        }
    }

    #[test]
    fn problems_of_the_body_are_passed_on() {
        let whole = form(&[part("name=\"image\"", &[b'x'; 1000])]);
        let capped = Body::open(chunks(&whole, 100), None, 500).unwrap();
        let error = read(capped, TYPE, &mut Options::default()).unwrap_err();
        assert_eq!(error.kind().name, "body-too-large");
        let broken = Chunks { broken: true, ..chunks(&whole[..300], 100) };
        let reset = Body::open(broken, None, 5000).unwrap();
        let error = read(reset, TYPE, &mut Options::default()).unwrap_err();
        assert_eq!(error.kind().name, "body-interrupted");
        let plain = Body::open(chunks(&whole, 100), None, 5000).unwrap();
        let error = read(plain, "multipart/form-data", &mut Options::default()).unwrap_err();
        assert_eq!(error.kind().name, "bad-form");
    }

    /// Clients write boundaries with and without quotes.
    #[test]
    fn boundaries_of_all_kinds_are_found() {
        let cases = [
            ("cell", "boundary=cell"),
            ("===============1234==", "boundary================1234=="),
            ("a/b:c=d", "boundary=a/b:c=d; charset=utf-8"),
            ("a b", "boundary=\"a b\""),
            ("a b", "boundary=a b"),
            ("----=_Part_1_2.3", "charset=UTF-8;boundary=\"----=_Part_1_2.3\""),
            ("*****", " BOUNDARY = ***** "),
            ("(x),y'+?", "boundary=(x),y'+?"),
        ];
        for (boundary, parameter) in cases {
            let head = "Content-Disposition: form-data; name=\"image\"; filename=\"a\"\r\n\r\n";
            let body = [
                format!("--{boundary}\r\n{head}").as_bytes(),
                PNG,
                format!("\r\n--{boundary}--\r\n").as_bytes(),
            ]
            .concat();
            let body = Body::open(chunks(&body, 9), None, 5000).unwrap();
            let content_type = format!("multipart/form-data; {parameter}");
            let photo = read(body, &content_type, &mut Options::default());
            assert_eq!(photo.unwrap(), Photos::One(PNG.to_vec()), "{content_type}");
        }
    }
}
