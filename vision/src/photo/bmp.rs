//! BMP decoder for files of Windows and OS/2: palettes, 16, 24 and 32 bits, bit fields, run lengths,
//! top-down and bottom-up. Large pictures are averaged down row by row. Not supported: JPEG and PNG inside
//! a BMP, and the compressions that only OS/2 had.

mod header;
mod runs;

use super::Decoded;
use super::channels::rgb_from_rgba;
use super::color::{self, Channels};
use super::error::PhotoError;
use super::format::Format;
use super::limits::Limits;
use super::orientation::Orientation;
use super::shrink::{self, Rows, Shrink};
use header::{Header, Pixels};

/// Decodes a BMP. The format has no orientation.
pub(super) fn decode(
    bytes: &[u8],
    target: (u32, u32),
    limits: &Limits,
) -> Result<Decoded, PhotoError> {
    let header = header::read(bytes)?;
    let (width, height) = (header.width, header.height);
    limits.check_size(Format::Bmp, width, height)?;
    let factor = shrink::factor((width, height), target);
    let indices = match header.pixels {
        Pixels::Runs { .. } => u64::from(width) * u64::from(height) * 2,
        _ => 0,
    };
    let profile = color::memory(header.profile.map_or(0, <[u8]>::len));
    let decoding = Shrink::memory(width, height, factor, Rows::InOrder) + u64::from(width) * 3;
    limits.check_memory(decoding + indices + profile)?;

    let mut shrink = Shrink::new(width, height, factor, Rows::InOrder);
    read_rows(&header, &mut shrink)?;
    let photo = shrink.finish();
    let photo = photo.ok_or_else(|| PhotoError::corrupt(Format::Bmp, "pixels are missing"))?;
    let color = header.profile.and_then(|profile| color::from_icc(profile, Channels::Rgb));
    Ok(Decoded { photo, orientation: Orientation::Upright, color })
}

fn read_rows(header: &Header<'_>, shrink: &mut Shrink) -> Result<(), PhotoError> {
    let (width, height) = (header.width as usize, header.height as usize);
    let runs = match header.pixels {
        Pixels::Runs { bits } => Some(runs::indices(header.data, bits, width, height)?),
        _ => None,
    };
    // Each row is padded to a multiple of four bytes.
    let stride = (width * header.bits as usize).div_ceil(32) * 4;
    let needed = (stride * (height - 1)) + (width * header.bits as usize).div_ceil(8);
    if runs.is_none() && header.data.len() < needed {
        return Err(PhotoError::Truncated { format: Format::Bmp });
    }
    // If alpha is 0 everywhere, the file is treated as opaque, as browsers do: its writer left alpha unset.
    let opaque = match &header.pixels {
        Pixels::Fields(fields) => fields.has_no_alpha(header.data, stride, width, header.bits),
        _ => true,
    };
    let mut rgb = Vec::with_capacity(width);
    for y in 0..height {
        let row = if header.from_top { y } else { height - 1 - y };
        let line = header.data.get(row * stride..).unwrap_or_default();
        rgb.clear();
        match &header.pixels {
            Pixels::Runs { .. } => {
                let indices = runs.iter().flatten().skip(row * width).take(width);
                let color = |index: &Option<u8>| index.map_or([255; 3], |i| header.color(i));
                rgb.extend(indices.map(color));
            }
            Pixels::Indices => {
                let index = |x: usize| {
                    let at = x * header.bits as usize;
                    let byte = line.get(at / 8).copied().unwrap_or_default();
                    byte << (at % 8) >> (8 - header.bits)
                };
                rgb.extend((0..width).map(|x| header.color(index(x))));
            }
            Pixels::Bytes => {
                let pixels = line.chunks_exact(header.bits as usize / 8).take(width);
                rgb.extend(pixels.map(|pixel| [pixel[2], pixel[1], pixel[0]]));
            }
            Pixels::Fields(fields) => {
                rgb.extend(header::words(line, header.bits).take(width).map(|word| {
                    let [r, g, b, a] = fields.split(word);
                    rgb_from_rgba([r, g, b, if opaque { 255 } else { a }])
                }));
            }
        }
        shrink.add(y, 0, 1, &rgb);
    }
    Ok(())
}
