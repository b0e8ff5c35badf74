//! WebP: lossy, lossless, with alpha, of an animation the first frame. Leaves out colour profiles
//! and XMP, which are never read.

mod header;
mod partitions;

use super::channels::{narrowed, rgb_from_rgba};
use super::error::PhotoError;
use super::format::Format;
use super::limits::Limits;
use super::orientation;
use super::picture::Photo;
use header::{Coding, Header};
use image::metadata::Orientation;
use image_webp::{DecodingError, WebPDecoder};
use std::io::Cursor;

/// The decoder's tables and buffers.
const DECODER: u64 = 64 << 10;

/// A WebP's pixels as the file has them, and how to turn them upright.
pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<(Photo, Orientation), PhotoError> {
    let header = header::read(bytes)?;
    limits.check_size(Format::WebP, header.width, header.height)?;
    limits.check_size(Format::WebP, header.frame_width, header.frame_height)?;
    let orientation = header.exif.map_or(Orientation::NoTransforms, orientation::from_exif);
    limits.check_memory(memory(&header, orientation))?;

    let mut decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(typed)?;
    let (width, height) = decoder.dimensions();
    if (width, height) != (header.width, header.height) {
        return Err(PhotoError::corrupt(Format::WebP, "its headers disagree about its size"));
    }
    decoder.set_memory_limit(usize::try_from(limits.max_alloc).unwrap_or(usize::MAX));
    if decoder.is_animated() {
        decoder.set_background_color([255; 4]).map_err(typed)?;
    }
    let length = decoder.output_buffer_size();
    let mut samples = vec![0; length.ok_or_else(|| typed(DecodingError::ImageTooLarge))?];
    decoder.read_image(&mut samples).map_err(typed)?;
    if decoder.has_alpha() {
        samples = narrowed(samples, rgb_from_rgba);
    }
    let photo = Photo::from_rgb(width, height, samples);
    let photo = photo.ok_or_else(|| PhotoError::corrupt(Format::WebP, "pixels are missing"))?;
    Ok((photo, orientation))
}

/// Bytes a decode holds at once.
///
/// Lossy: Y, U and V planes of whole 16×16 blocks and up to 96 bytes about each block, a copy of the
/// coded bytes (doubling as it grows), then the picture; an alpha plane is decoded beside them,
/// losslessly as 4 bytes a pixel and 1. Lossless: 4 bytes a pixel, which are the picture itself if
/// it has alpha, and transforms of at most 1 more. An animation's frame is decoded beside the
/// picture, and once that is done laid on a canvas of 4 bytes a pixel.
fn memory(header: &Header, orientation: Orientation) -> u64 {
    let area = |width: u32, height: u32| u64::from(width) * u64::from(height);
    let pixels = area(header.width, header.height);
    let frame = area(header.frame_width, header.frame_height);
    let blocks = area(header.frame_width.div_ceil(16), header.frame_height.div_ceil(16));
    let lossy = blocks * (384 + 96) + header.coded * 3;
    let (decoding, decoded) = match (header.coding, header.animated) {
        (Coding::Lossy, false) => (lossy, 0),
        (Coding::Lossy, true) => (lossy + frame * 3, frame * 3),
        (Coding::LossyAlpha, _) => (lossy + frame * 5, frame * 4),
        (Coding::Lossless, false) if header.alpha => (frame, 0),
        (Coding::Lossless, _) => (frame * 5, frame * 4),
    };
    let composing = if header.animated { decoded + pixels * 4 } else { 0 };
    let picture = pixels * if header.alpha { 4 } else { 3 };
    let turning = orientation::memory(orientation, pixels);
    picture + decoding.max(composing).max(turning) + DECODER
}

fn typed(error: DecodingError) -> PhotoError {
    match error {
        DecodingError::IoError(error) => PhotoError::from_io(Format::WebP, &error),
        DecodingError::UnsupportedFeature(feature) => {
            PhotoError::unsupported(Format::WebP, feature)
        }
        error => PhotoError::corrupt(Format::WebP, error),
    }
}
