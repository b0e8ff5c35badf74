//! The chunks of a PNG before its pixels are decoded: is the file whole, does it carry EXIF, and do its
//! texts and colour profile stay small when inflated? Leaves out what they say: only their size counts.

use super::super::error::PhotoError;
use super::super::format::Format;
use flate2::bufread::ZlibDecoder;
use std::io::{self, Read};

/// Bytes that all compressed texts and the colour profile of a file may inflate to. Photo editors write a
/// few hundred KiB at most; deflate makes a gigabyte of one megabyte, and nobody who means well does that.
pub(super) const MAX_INFLATED: u64 = 16 << 20;

/// Walks the chunks up to the end chunk and returns the EXIF block, wherever it stands.
///
/// # Errors
/// [`PhotoError::Truncated`] where the end chunk is missing, [`PhotoError::TooMuchMetadata`] where
/// compressed metadata inflates to more than [`MAX_INFLATED`] bytes; no more than that is inflated, and
/// nothing of it is kept.
pub(super) fn walk(bytes: &[u8]) -> Result<Option<&[u8]>, PhotoError> {
    let truncated = PhotoError::Truncated { format: Format::Png };
    let mut exif = None;
    let mut left = MAX_INFLATED;
    let mut rest = bytes.get(8..).unwrap_or_default();
    loop {
        let Some((&[l3, l2, l1, l0, name @ ..], after)) = rest.split_first_chunk::<8>() else {
            return Err(truncated);
        };
        let length = u32::from_be_bytes([l3, l2, l1, l0]) as usize;
        // Each chunk ends with a check sum of 4 bytes.
        let Some((chunk, after)) = after.split_at_checked(length) else { return Err(truncated) };
        let Some((_, after)) = after.split_at_checked(4) else { return Err(truncated) };
        match &name {
            b"IEND" => return Ok(exif),
            b"eXIf" if exif.is_none() => exif = Some(chunk),
            _ => {}
        }
        if let Some(stream) = compressed(&name, chunk) {
            left = left
                .checked_sub(inflated(stream, left))
                .ok_or(PhotoError::TooMuchMetadata { format: Format::Png, limit: MAX_INFLATED })?;
        }
        rest = after;
    }
}

/// The zlib stream of a text or colour profile (PNG specification, third edition, 11.3.2.3 and 11.3.3);
/// `None` for every other chunk and for text that is not compressed.
fn compressed<'a>(name: &[u8; 4], chunk: &'a [u8]) -> Option<&'a [u8]> {
    let after_text = |bytes: &'a [u8]| {
        let end = memchr::memchr(0, bytes)?;
        bytes.get(end + 1..)
    };
    match (name, after_text(chunk)?) {
        // Compression method, stream.
        (b"zTXt" | b"iCCP", [_, stream @ ..]) => Some(stream),
        // Compression flag and method, language, translated keyword, stream.
        (b"iTXt", [1, _, rest @ ..]) => after_text(after_text(rest)?),
        _ => None,
    }
}

/// Bytes that come of `stream` before it ends or breaks, counted up to one more than `limit`.
fn inflated(stream: &[u8], limit: u64) -> u64 {
    let mut reader = ZlibDecoder::new(stream).take(limit.saturating_add(1));
    let mut block = [0; 4096];
    let mut count = 0;
    loop {
        match reader.read(&mut block) {
            Ok(0) => return count,
            Ok(bytes) => count += bytes as u64,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // A broken stream is nobody's business here: its text is skipped anyway.
            Err(_) => return count,
        }
    }
}
