//! WebP decoder: lossy, lossless, with alpha, and the first frame of an animation. Large lossy pictures are
//! averaged down. Only the chunks of the picture, its profile and its orientation are read.
//!
//! The decoding library does not read the file itself but a new container with only the coded picture.
//! Otherwise it would refuse files whose headers announce other chunks that are missing.

mod header;
mod partitions;
mod planes;

use super::channels::{narrowed, rgb_from_rgba};
use super::color::{self, Channels, Converter};
use super::error::PhotoError;
use super::format::Format;
use super::limits::Limits;
use super::orientation::{self, Orientation};
use super::picture::Photo;
use super::shrink::{self, Rows, Shrink};
use super::{Colors, Decoded};
use header::{Coding, Header};
use image_webp::{DecodingError, WebPDecoder};
use std::io::Cursor;

/// Bytes of the decoder's tables and buffers.
const DECODER: u64 = 64 << 10;

/// Decodes a WebP.
pub(super) fn decode(
    bytes: &[u8],
    target: (u32, u32),
    limits: &Limits,
    colors: Colors,
) -> Result<Decoded, PhotoError> {
    let header = header::read(bytes)?;
    limits.check_size(Format::WebP, header.width, header.height)?;
    limits.check_size(Format::WebP, header.frame.width, header.frame.height)?;
    let orientation = header.exif.map_or(Orientation::Upright, orientation::from_exif);
    let target = orientation::in_file(orientation, target);
    let factor = match (header.frame.coding, header.origin) {
        (Coding::Lossy, None) => shrink::factor((header.width, header.height), target),
        _ => 1,
    };
    limits.check_memory(memory(&header, orientation, factor))?;
    let color = header.profile.filter(|_| colors == Colors::Srgb);
    let color = color.and_then(|profile| color::from_icc(profile, Channels::Rgb));
    // If the frame is blended over white, or surrounded by white, its colours are converted before.
    let is_first = header.frame.has_alpha || header.origin.is_some();
    let converter = color.as_ref().filter(|_| is_first).and_then(Converter::new);
    let photo = match header.origin {
        None if factor > 1 => planes::decode(header.frame.coded, factor)?,
        None => whole(&header, limits, converter.as_ref())?,
        Some(origin) => on_white(&header, &whole(&header, limits, converter.as_ref())?, origin),
    };
    Ok(Decoded { photo, orientation, color: color.filter(|_| !is_first) })
}

/// The coded picture at full size, blended over white.
fn whole(
    header: &Header<'_>,
    limits: &Limits,
    converter: Option<&Converter>,
) -> Result<Photo, PhotoError> {
    let frame = &header.frame;
    let file = header::container(frame);
    let mut decoder = WebPDecoder::new(Cursor::new(file.as_slice())).map_err(typed)?;
    let (width, height) = decoder.dimensions();
    if (width, height) != (frame.width, frame.height) {
        return Err(PhotoError::corrupt(Format::WebP, "its headers disagree about its size"));
    }
    decoder.set_memory_limit(usize::try_from(limits.max_alloc).unwrap_or(usize::MAX));
    let length = decoder.output_buffer_size();
    let mut samples = vec![0; length.ok_or_else(|| typed(DecodingError::ImageTooLarge))?];
    decoder.read_image(&mut samples).map_err(typed)?;
    match (decoder.has_alpha(), converter) {
        (true, Some(converter)) => converter.convert_under_alpha(&mut samples, 4),
        (false, Some(converter)) => converter.convert(&mut samples),
        (_, None) => {}
    }
    if decoder.has_alpha() {
        samples = narrowed(samples, rgb_from_rgba);
    }
    let photo = Photo::from_rgb(width, height, samples);
    photo.ok_or_else(|| PhotoError::corrupt(Format::WebP, "pixels are missing"))
}

/// An animation's first frame at its place on a white canvas. `header::read` has checked that it fits.
fn on_white(header: &Header<'_>, frame: &Photo, (left, top): (u32, u32)) -> Photo {
    let stride = header.width as usize * 3;
    let mut canvas = vec![255; stride * header.height as usize];
    let rows = canvas.chunks_exact_mut(stride).skip(top as usize);
    let lines = frame.pixels().chunks_exact(frame.width() as usize * 3);
    for (row, line) in rows.zip(lines) {
        let places = row.iter_mut().skip(left as usize * 3);
        places.zip(line).for_each(|(place, sample)| *place = *sample);
    }
    Photo::from_rgb(header.width, header.height, canvas).unwrap_or_else(|| frame.clone())
}

/// Bytes held at once by a decode.
///
/// - Lossy: Y, U and V planes of whole 16×16 blocks, up to 96 bytes about each block, a copy of the coded
///   bytes (whose buffer doubles as it grows), and the picture. An alpha plane takes 5 more bytes per pixel.
/// - Lossless: 4 bytes per pixel, which are the picture itself if it has alpha, and at most 1 more for
///   transforms.
/// - Both: a copy of the coded picture in a new container, and the canvas of an animation.
fn memory(header: &Header<'_>, orientation: Orientation, factor: u32) -> u64 {
    let area = |width: u32, height: u32| u64::from(width) * u64::from(height);
    let frame = &header.frame;
    let pixels = area(frame.width, frame.height);
    let blocks = area(frame.width.div_ceil(16), frame.height.div_ceil(16));
    let coded = (frame.coded.len() + frame.alpha.map_or(0, <[u8]>::len)) as u64;
    let lossy = blocks * (384 + 96) + frame.coded.len() as u64 * 3;
    let profile = color::memory(header.profile.map_or(0, <[u8]>::len));
    if factor > 1 {
        let shrunk = Shrink::memory(frame.width, frame.height, factor, Rows::InOrder);
        let rows = u64::from(frame.width) * 3;
        let turned = orientation::memory(orientation, shrunk / 3);
        return lossy + rows + shrunk + turned + profile + DECODER;
    }
    let decoding = coded
        + match frame.coding {
            Coding::Lossy => lossy,
            Coding::LossyAlpha => lossy + pixels * 5,
            Coding::Lossless if frame.has_alpha => pixels,
            Coding::Lossless => pixels * 5,
        };
    let picture = pixels * if frame.has_alpha { 4 } else { 3 };
    let canvas = header.origin.map_or(0, |_| area(header.width, header.height) * 3);
    let turning = orientation::memory(orientation, area(header.width, header.height));
    picture + decoding.max(canvas + turning) + profile + DECODER
}

fn typed(error: DecodingError) -> PhotoError {
    match error {
        DecodingError::IoError(error) => PhotoError::from_io(Format::WebP, &error),
        DecodingError::UnsupportedFeature(feature) => {
            PhotoError::unsupported(Format::WebP, feature)
        }
        DecodingError::ChunkMissing => PhotoError::corrupt(Format::WebP, "a chunk is missing"),
        DecodingError::HuffmanError => {
            PhotoError::corrupt(Format::WebP, "a Huffman code is not in its table")
        }
        DecodingError::BitStreamError => {
            PhotoError::corrupt(Format::WebP, "its data ends early or is damaged")
        }
        error => PhotoError::corrupt(Format::WebP, error.to_string().to_lowercase()),
    }
}
