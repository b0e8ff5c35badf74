//! Averages a lossy picture down from its Y, U and V planes, so that its full size is never held as RGB.
//! Pictures with alpha and pictures that are not averaged are decoded in `webp` instead.

use super::typed;
use crate::photo::error::PhotoError;
use crate::photo::format::Format;
use crate::photo::picture::Photo;
use crate::photo::shrink::{Rows, Shrink};
use image_webp::vp8::Vp8Decoder;

/// Decodes the `VP8 ` chunk `coded`, with `factor` × `factor` pixels averaged to one. Each pixel takes its
/// nearest chroma sample; after averaging, interpolated chroma would make no visible difference.
pub(super) fn decode(coded: &[u8], factor: u32) -> Result<Photo, PhotoError> {
    let frame = Vp8Decoder::decode_frame(coded).map_err(typed)?;
    let (width, height) = (usize::from(frame.width), usize::from(frame.height));
    // Planes consist of whole 16×16 blocks.
    let stride = width.next_multiple_of(16);
    let mut shrink = Shrink::new(width as u32, height as u32, factor, Rows::InOrder);
    let mut rgb = Vec::with_capacity(width);
    for y in 0..height {
        let chroma = y / 2 * (stride / 2);
        let lumas = frame.ybuf.get(y * stride..y * stride + width).unwrap_or_default();
        let us = frame.ubuf.get(chroma..).unwrap_or_default();
        let vs = frame.vbuf.get(chroma..).unwrap_or_default();
        rgb.clear();
        for (lumas, (u, v)) in lumas.chunks(2).zip(us.iter().zip(vs)) {
            rgb.extend(lumas.iter().map(|&luma| rgb_from_yuv(luma, *u, *v)));
        }
        if rgb.len() < width {
            return Err(PhotoError::corrupt(Format::WebP, "pixels are missing"));
        }
        shrink.add(y, 0, 1, &rgb);
    }
    shrink.finish().ok_or_else(|| PhotoError::corrupt(Format::WebP, "pixels are missing"))
}

/// Converts BT.601 of limited range to RGB with the integers of libwebp (`src/dsp/yuv.h`, `VP8YUVToR` and its
/// neighbours).
fn rgb_from_yuv(y: u8, u: u8, v: u8) -> [u8; 3] {
    let high = |value: u8, factor: i32| (i32::from(value) * factor) >> 8;
    let clip = |value: i32| (value >> 6).clamp(0, 255) as u8;
    let luma = high(y, 19_077);
    [
        clip(luma + high(v, 26_149) - 14_234),
        clip(luma - high(u, 6_419) - high(v, 13_320) + 8_708),
        clip(luma + high(u, 33_050) - 17_685),
    ]
}
