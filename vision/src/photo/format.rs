//! The photo formats, and how bytes tell theirs. Leaves out file names and declared media types:
//! neither is evidence.

/// A photo format this crate decodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// JPEG, baseline and progressive.
    Jpeg,
    /// PNG; of an animation the default image.
    Png,
    /// WebP, lossy and lossless; of an animation the first frame.
    WebP,
    /// Windows bitmap.
    Bmp,
    /// GIF; of an animation the first frame.
    Gif,
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::WebP => "WebP",
            Self::Bmp => "BMP",
            Self::Gif => "GIF",
        })
    }
}

/// The format `bytes` are in, by their first bytes alone; `None` for any other.
#[must_use]
pub fn sniff(bytes: &[u8]) -> Option<Format> {
    match bytes {
        [0xFF, 0xD8, 0xFF, ..] => Some(Format::Jpeg),
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1A, b'\n', ..] => Some(Format::Png),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some(Format::WebP),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some(Format::Gif),
        [b'B', b'M', ..] => Some(Format::Bmp),
        _ => None,
    }
}

/// A still picture in an ISO base media file, as phones write them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heif {
    /// Coded with AV1.
    Avif,
    /// Coded with HEVC, or with what its brands do not say.
    Heic,
}

/// Whether `bytes` are HEIF or AVIF, by the brands of their first box (ISO/IEC 14496-12, 4.3; 23008-12, 10.2): a
/// major brand, then a version, then every brand the file is compatible with.
pub(super) fn heif(bytes: &[u8]) -> Option<Heif> {
    let (length, rest) = bytes.split_first_chunk()?;
    let brands = rest.strip_prefix(b"ftyp")?;
    // A length that is 0 or 1 means the file's end, or that 8 bytes of length follow.
    let (length, brands) = match u32::from_be_bytes(*length) {
        0 => (brands.len(), brands),
        1 => (brands.len(), brands.get(8..)?),
        length => ((length as usize).checked_sub(8)?, brands),
    };
    let brands = brands.get(..length.min(brands.len())).unwrap_or_default().as_chunks::<4>().0;
    // A box of brands is short; the second place is the version.
    let mut brands = brands.iter().take(64).enumerate().filter(|(at, _)| *at != 1);
    let mut found = None;
    brands
        .find_map(|(_, brand)| match brand {
            b"avif" | b"avis" => Some(Heif::Avif),
            b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"hevx" | b"hevm" | b"hevs"
            | b"mif1" | b"mif2" | b"mif3" | b"msf1" | b"miaf" | b"MiHB" | b"MiHE" | b"MiHA" => {
                found = Some(Heif::Heic);
                None
            }
            _ => None,
        })
        .or(found)
}
