//! Reads a BMP's headers, masks and palette. The header's length tells its version: OS/2 (12 bytes, and 16
//! to 64), Windows (40) and later versions (52, 56, 108, 124). Resolution is not read.

use crate::photo::error::PhotoError;
use crate::photo::format::Format;

/// The contents of the headers.
#[derive(Debug)]
pub(super) struct Header<'a> {
    pub(super) width: u32,
    pub(super) height: u32,
    /// Whether the first row of the file is the picture's top.
    pub(super) from_top: bool,
    /// Bits per pixel.
    pub(super) bits: u32,
    pub(super) pixels: Pixels,
    /// Bytes per palette entry, and the entries, blue first.
    palette: (usize, &'a [u8]),
    pub(super) data: &'a [u8],
    /// The embedded ICC profile.
    pub(super) profile: Option<&'a [u8]>,
}

/// How the pixels are stored.
#[derive(Debug)]
pub(super) enum Pixels {
    /// Palette indices of 1, 2, 4 or 8 bits.
    Indices,
    /// Palette indices of 4 or 8 bits, run-length coded.
    Runs { bits: u32 },
    /// Blue, green, red, and an unused byte if there are 32 bits.
    Bytes,
    /// Bit fields in a word of 16 or 32 bits.
    Fields(Fields),
}

/// For red, green, blue and alpha: the shift and the largest value; both 0 if the channel is missing.
#[derive(Debug)]
pub(super) struct Fields([(u32, u32); 4]);

impl Fields {
    fn new(masks: [u32; 4]) -> Result<Self, PhotoError> {
        let mut fields = [(0, 0); 4];
        for (field, mask) in fields.iter_mut().zip(masks).filter(|(_, mask)| *mask > 0) {
            let shift = mask.trailing_zeros();
            let most = mask >> shift;
            if most & most.wrapping_add(1) != 0 {
                return Err(corrupt("a bit field has gaps"));
            }
            *field = (shift, most);
        }
        Ok(Self(fields))
    }

    /// Red, green, blue and alpha of a pixel, widened to 8 bits.
    pub(super) fn split(&self, word: u32) -> [u8; 4] {
        self.0.map(|(shift, most)| {
            let value = u64::from(word >> shift & most);
            let most = u64::from(most);
            // At most 255, because `value` is at most `most`.
            (value * 255 + most / 2).checked_div(most).unwrap_or(0) as u8
        })
    }

    /// Whether the file has no alpha channel, or alpha is 0 in the whole picture.
    pub(super) fn has_no_alpha(&self, data: &[u8], stride: usize, width: usize, bits: u32) -> bool {
        let (shift, most) = self.0[3];
        let is_clear = |word: u32| word >> shift & most == 0;
        most == 0 || data.chunks(stride).all(|line| words(line, bits).take(width).all(is_clear))
    }
}

/// The words of a row, of 16 or 32 bits.
pub(super) fn words(line: &[u8], bits: u32) -> impl Iterator<Item = u32> {
    let word = |bytes: &[u8]| bytes.iter().rev().fold(0, |sum, &byte| sum << 8 | u32::from(byte));
    line.chunks_exact(bits as usize / 8).map(word)
}

impl Header<'_> {
    /// Red, green and blue of a palette entry; black for an index beyond the palette.
    pub(super) fn color(&self, index: u8) -> [u8; 3] {
        let (size, entries) = self.palette;
        match entries.get(usize::from(index) * size..) {
            Some([blue, green, red, ..]) => [*red, *green, *blue],
            _ => [0; 3],
        }
    }
}

/// Reads the headers of a file.
pub(super) fn read(bytes: &[u8]) -> Result<Header<'_>, PhotoError> {
    let word = |at: usize| -> Result<u32, PhotoError> {
        let bytes = bytes.get(at..).and_then(|rest| rest.first_chunk().copied());
        bytes.map(u32::from_le_bytes).ok_or_else(truncated)
    };
    let half = |at: usize| Ok::<u32, PhotoError>(word(at)? & 0xFFFF);
    let (start, size) = (word(10)? as usize, word(14)?);
    let is_core = size == 12;
    if !is_core && !(16..=124).contains(&size) {
        return Err(PhotoError::unsupported(Format::Bmp, format!("a header of {size} bytes")));
    }
    // Fields beyond the end of a shorter header count as 0.
    let field = |at: u32| if at + 4 <= size { word(14 + at as usize) } else { Ok(0) };
    let (width, height, bits) = match is_core {
        true => (half(18)?, half(20)? as i32, half(24)?),
        false => (field(4)?, field(8)? as i32, half(28)?),
    };
    if width > i32::MAX as u32 {
        return Err(corrupt("its width is negative"));
    }
    let compression = if is_core { 0 } else { field(16)? };
    let end = 14 + size as usize;
    let masks = match (size, compression) {
        (40, 3) => 12,
        (40, 6) => 16,
        _ => 0,
    };
    let mask = |at: usize| if masks > 0 || size >= 52 { word(54 + at * 4) } else { Ok(0) };
    let alpha = || if masks == 16 || size >= 56 { word(66) } else { Ok(0) };
    let is_os2 = !matches!(size, 40 | 52 | 56 | 108 | 124);
    let pixels = match (compression, bits) {
        (0, 1 | 2 | 4 | 8) => Pixels::Indices,
        (0, 24 | 32) => Pixels::Bytes,
        (0, 16) => Pixels::Fields(Fields::new([0x7C00, 0x3E0, 0x1F, 0])?),
        (1, 8) | (2, 4) => Pixels::Runs { bits },
        (3 | 6, 16 | 32) if !is_os2 => {
            Pixels::Fields(Fields::new([mask(0)?, mask(1)?, mask(2)?, alpha()?])?)
        }
        (4, _) if !is_os2 => return Err(unsupported("a JPEG inside")),
        (5, _) if !is_os2 => return Err(unsupported("a PNG inside")),
        _ => {
            let feature = format!("{bits} bits per pixel with compression {compression}");
            return Err(unsupported(&feature));
        }
    };
    let entry = if is_core { 3 } else { 4 };
    let used = if is_core || size < 36 { 0 } else { field(32)? as usize };
    let count = if used == 0 || used > 256 { 256 } else { used };
    let indexed = matches!(pixels, Pixels::Indices | Pixels::Runs { .. }).then_some(bits);
    let (palette, start) = palette(bytes, (end + masks, start), (entry, count), indexed);
    Ok(Header {
        width,
        height: height.unsigned_abs(),
        from_top: height < 0 && !is_core,
        bits,
        pixels,
        palette: (entry, palette),
        data: bytes.get(start..).ok_or_else(truncated)?,
        profile: if size == 124 { profile(bytes) } else { None },
    })
}

/// The palette, and the offset of the pixels.
///
/// The palette begins at `end`, the end of the headers, and has at most `count` entries of `entry` bytes.
/// `start` is the file's own offset of the pixels; some programs do not count the palette in it. `indexed`
/// is the number of bits per pixel if the picture needs a palette.
fn palette(
    bytes: &[u8],
    (end, start): (usize, usize),
    (entry, count): (usize, usize),
    indexed: Option<u32>,
) -> (&[u8], usize) {
    let start = match indexed {
        Some(bits) if start <= end => end + entry * count.min(1 << bits),
        _ => start,
    };
    let palette = bytes.get(end..start.max(end)).unwrap_or_default();
    (palette.get(..count * entry).unwrap_or(palette), start)
}

/// The embedded profile of a version 5 header.
fn profile(bytes: &[u8]) -> Option<&[u8]> {
    let header = bytes.get(14..)?;
    let word = |at: usize| Some(u32::from_le_bytes(*header.get(at..)?.first_chunk()?));
    let (start, length) = (word(112)? as usize, word(116)? as usize);
    let is_embedded = word(56)? == u32::from_be_bytes(*b"MBED");
    if is_embedded { header.get(start..)?.get(..length) } else { None }
}

fn truncated() -> PhotoError {
    PhotoError::Truncated { format: Format::Bmp }
}

fn corrupt(detail: &str) -> PhotoError {
    PhotoError::corrupt(Format::Bmp, detail)
}

fn unsupported(feature: &str) -> PhotoError {
    PhotoError::unsupported(Format::Bmp, feature)
}
