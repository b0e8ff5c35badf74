//! Reads a PNG's chunks before its pixels are decoded: EXIF, colour space, and whether texts and colour
//! profile stay small when inflated. The contents of texts are not kept.

use super::super::color::{self, Channels, Color};
use super::super::error::PhotoError;
use super::super::format::Format;
use flate2::bufread::ZlibDecoder;
use std::io::{self, Read};

/// Most bytes that the compressed texts and the colour profile of a file together may inflate to. Photo
/// editors write a few hundred KiB at most; a malicious megabyte can inflate to a gigabyte.
pub(super) const MAX_INFLATED: u64 = 16 << 20;

/// The contents of the chunks other than pixels.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Chunks<'a> {
    /// The EXIF block, before or after the pixels.
    pub(super) exif: Option<&'a [u8]>,
    /// Whether there is a tRNS chunk, which makes single colours transparent.
    pub(super) has_transparency: bool,
    /// Code points of primaries and transfer (ITU-T H.273).
    pub(super) cicp: Option<(u8, u8)>,
    /// The compressed ICC profile.
    pub(super) profile: Option<&'a [u8]>,
    /// Whether the file declares sRGB.
    pub(super) is_srgb: bool,
    /// The encoding exponent.
    pub(super) gamma: Option<f32>,
    /// Chromaticities of white, red, green and blue, each as x and y.
    pub(super) points: Option<[(f32, f32); 4]>,
}

/// Reads the chunks up to the end chunk or the first incomplete one. If pixels are missing after that, their
/// decoder reports it.
///
/// # Errors
/// [`PhotoError::TooMuchMetadata`] if compressed metadata inflates to more than [`MAX_INFLATED`] bytes; it is
/// inflated only that far and not kept. [`PhotoError::Corrupt`] if the palette does not consist of 1 to 256
/// whole entries, because the decoder would panic on it.
pub(super) fn walk(bytes: &[u8]) -> Result<Chunks<'_>, PhotoError> {
    let mut chunks = Chunks::default();
    let mut left = MAX_INFLATED;
    let mut rest = bytes.get(8..).unwrap_or_default();
    let mut has_pixels = false;
    while let Some((&[l3, l2, l1, l0, name @ ..], after)) = rest.split_first_chunk::<8>()
        && let length = u32::from_be_bytes([l3, l2, l1, l0]) as usize
        && let Some((chunk, after)) = after.split_at_checked(length)
        && &name != b"IEND"
    {
        has_pixels |= &name == b"IDAT";
        if &name == b"PLTE" && !(length.is_multiple_of(3) && (3..=768).contains(&length)) {
            let detail =
                format!("its palette has {length} bytes, not 3 for each of 1 to 256 colours");
            return Err(PhotoError::corrupt(Format::Png, detail));
        }
        if &name == b"eXIf" {
            chunks.exif = chunks.exif.or(Some(chunk));
        } else if !has_pixels {
            chunks.take_color(&name, chunk);
        }
        if let Some(stream) = compressed(&name, chunk) {
            left = left
                .checked_sub(inflated(stream, left))
                .ok_or(PhotoError::TooMuchMetadata { format: Format::Png, limit: MAX_INFLATED })?;
        }
        // Each chunk ends with a checksum of 4 bytes.
        rest = after.get(4..).unwrap_or_default();
    }
    Ok(chunks)
}

impl<'a> Chunks<'a> {
    /// Reads a chunk about colours; such chunks precede the pixels.
    fn take_color(&mut self, name: &[u8; 4], chunk: &'a [u8]) {
        let fixed = |at: usize| {
            let bytes = chunk.get(at * 4..)?.first_chunk()?;
            Some(u32::from_be_bytes(*bytes) as f32 / 100_000.0)
        };
        let point = |at: usize| Some((fixed(at * 2)?, fixed(at * 2 + 1)?));
        match (name, chunk) {
            // Only code points of full range count; browsers ignore those of limited range (video).
            (b"cICP", [primaries, transfer, _, 1]) => self.cicp = Some((*primaries, *transfer)),
            (b"tRNS", _) => self.has_transparency = true,
            (b"iCCP", _) => self.profile = compressed(name, chunk),
            (b"sRGB", _) => self.is_srgb = true,
            (b"gAMA", _) => self.gamma = fixed(0),
            (b"cHRM", _) => {
                let points = [point(0), point(1), point(2), point(3)];
                self.points = points
                    .into_iter()
                    .collect::<Option<Vec<_>>>()
                    .and_then(|all| all.try_into().ok());
            }
            _ => {}
        }
    }

    /// The colours, in the order of precedence of the PNG specification, third edition, 4.3: code points, a
    /// usable profile, sRGB, gamma with chromaticities.
    pub(super) fn color(&self, channels: Channels) -> Option<Color> {
        if let Some((primaries, transfer)) = self.cicp {
            return color::from_cicp(primaries, transfer);
        }
        let chunks = || match self.is_srgb {
            true => None,
            false => color::from_chunks(self.gamma, self.points),
        };
        self.profile.and_then(|stream| from_stream(stream, channels)).or_else(chunks)
    }

    /// The name of the transfer function if it is one of high dynamic range. The look of such a picture
    /// depends on the display and on the browser's tone mapping, so it has no single correct conversion to
    /// sRGB.
    pub(super) fn high_dynamic_range(&self) -> Option<&'static str> {
        match self.cicp? {
            (_, 16) => Some("PQ"),
            (_, 18) => Some("HLG"),
            _ => None,
        }
    }
}

/// The colours of a compressed profile; `None` if it cannot be used.
fn from_stream(stream: &[u8], channels: Channels) -> Option<Color> {
    let mut profile = Vec::new();
    let limit = color::MAX_PROFILE as u64 + 1;
    ZlibDecoder::new(stream).take(limit).read_to_end(&mut profile).ok()?;
    color::from_icc(&profile, channels)
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

/// The number of bytes that `stream` inflates to before it ends or breaks, at most `limit` + 1.
fn inflated(stream: &[u8], limit: u64) -> u64 {
    let mut reader = ZlibDecoder::new(stream).take(limit.saturating_add(1));
    let mut block = [0; 4096];
    let mut count = 0;
    loop {
        match reader.read(&mut block) {
            Ok(0) => return count,
            Ok(bytes) => count += bytes as u64,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // A broken stream is not an error, because its text is skipped anyway.
            Err(_) => return count,
        }
    }
}
