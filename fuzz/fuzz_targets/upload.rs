//! Whatever bytes are posted as a form or as JSON: a problem or a photo, and the same photo however the
//! bytes were cut into chunks.
//!
//! The first byte chooses the content type, the second the size of the chunks; the rest is the body.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skincell_component::body::Source;
use skincell_component::upload;

const TYPES: [&str; 4] = [
    "multipart/form-data; boundary=cell",
    "application/json",
    "multipart/form-data; boundary=\"a b\"",
    "multipart/form-data; boundary=x",
];
/// Longest body, in bytes.
const LIMIT: u64 = 64 << 10;

/// A body cut into chunks of one size.
struct Chunks<'a>(std::slice::Chunks<'a, u8>);

impl Source for Chunks<'_> {
    fn next_chunk(&mut self) -> Result<Option<Vec<u8>>, String> {
        Ok(self.0.next().map(<[u8]>::to_vec))
    }
}

fuzz_target!(|data: &[u8]| {
    let [kind, size, body @ ..] = data else { return };
    let kind = TYPES[usize::from(*kind) % TYPES.len()];
    let request = http::Request::post("/predict").header("content-type", kind).body(());
    let Ok(request) = request else { return };
    let (head, ()) = request.into_parts();
    let read = |size: usize| upload::read(&head, Chunks(body.chunks(size)), LIMIT);
    let whole = read(body.len().max(1));
    let pieces = read(usize::from(*size).max(1));
    if let Ok(upload) = &whole {
        assert!(!upload.photo.is_empty() && upload.photo.len() <= body.len());
    }
    if let (Ok(whole), Ok(pieces)) = (&whole, &pieces) {
        assert_eq!(whole.photo, pieces.photo);
        assert_eq!(whole.options, pieces.options);
    }
});
