//! Reading any body, in any form and with any content coding, gives a problem or photos, and the same
//! ones for every division into chunks.
//!
//! The first byte selects the content type and the coding, the second the size of the chunks; the rest is
//! the body. For the last content type, the body's first line is the boundary.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skincell_component::body::Source;
use skincell_component::upload::{self, Content, Photos};

const TYPES: [&str; 9] = [
    "multipart/form-data; boundary=cell",
    "application/json",
    "multipart/form-data; boundary=\"a b\"",
    "multipart/form-data; boundary=x",
    "application/x-www-form-urlencoded",
    "text/plain",
    "image/jpeg",
    "",
    "multipart/form-data;",
];
const CODINGS: [&str; 4] = ["", "gzip", "deflate", "gzip, deflate"];
/// Longest body, in bytes.
const LIMIT: u64 = 64 << 10;

/// A body divided into chunks of one size.
struct Chunks {
    body: Vec<u8>,
    size: usize,
    at: usize,
}

impl Source for Chunks {
    fn next_chunk(&mut self) -> Result<Option<Vec<u8>>, String> {
        let rest = self.body.get(self.at..).unwrap_or_default();
        let chunk = rest[..rest.len().min(self.size)].to_vec();
        self.at += chunk.len();
        Ok(Some(chunk).filter(|chunk| !chunk.is_empty()))
    }
}

fuzz_target!(|data: &[u8]| {
    let [kind, size, body @ ..] = data else { return };
    let kind = usize::from(*kind);
    let mut request = http::Request::post("/predict")
        .header("content-encoding", CODINGS[kind / TYPES.len() % CODINGS.len()]);
    request = match TYPES[kind % TYPES.len()] {
        own if own.ends_with(';') => {
            let line = body.split(|byte| *byte == b'\r').next().unwrap_or_default();
            let value = [own.as_bytes(), line.get(2..).unwrap_or_default()].concat();
            request.header("content-type", value)
        }
        known => request.header("content-type", known),
    };
    let Ok(request) = request.body(()) else { return };
    let (head, ()) = request.into_parts();
    let read = |size: usize| {
        upload::read(&head, Chunks { body: body.to_vec(), size, at: 0 }, LIMIT)
    };
    let whole = read(body.len().max(1));
    let pieces = read(usize::from(*size).max(1));
    if let Ok(upload) = &whole {
        let length = match &upload.photos {
            Photos::One(photo) => {
                assert!(!photo.is_empty());
                photo.len()
            }
            Photos::Several(photos) => {
                let lengths = photos.iter().map(|sent| match &sent.content {
                    Content::Bytes(bytes) | Content::Text(bytes) => bytes.len(),
                });
                lengths.sum()
            }
        };
        assert!(length as u64 <= LIMIT);
    }
    if let (Ok(whole), Ok(pieces)) = (&whole, &pieces) {
        assert_eq!(whole.photos, pieces.photos);
        assert_eq!(whole.options, pieces.options);
    }
});
