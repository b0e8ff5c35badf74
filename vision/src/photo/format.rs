//! The photo formats, recognised by a file's first bytes. File names and declared media types are ignored,
//! because they can be wrong.

/// A photo format this crate decodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// JPEG, baseline and progressive.
    Jpeg,
    /// PNG; for an animation its default image.
    Png,
    /// WebP, lossy and lossless; for an animation its first frame.
    WebP,
    /// BMP of Windows and OS/2.
    Bmp,
    /// GIF; for an animation its first frame.
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

/// The format of `bytes`, recognised by the first of them; `None` if it is not supported.
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

/// Formats of phones based on the ISO base media file format. They are recognised in order to refuse them by
/// name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heif {
    /// Coded with AV1.
    Avif,
    /// Coded with HEVC, or with a coding that the brands do not name.
    Heic,
}

/// Recognises HEIF and AVIF by the brands in their first box (ISO/IEC 14496-12, 4.3; 23008-12, 10.2): a
/// major brand, a version, and all brands the file is compatible with.
pub(super) fn heif(bytes: &[u8]) -> Option<Heif> {
    let (length, rest) = bytes.split_first_chunk()?;
    let brands = rest.strip_prefix(b"ftyp")?;
    // A length of 0 means up to the file's end; 1 means that a length of 8 bytes follows.
    let (length, brands) = match u32::from_be_bytes(*length) {
        0 => (brands.len(), brands),
        1 => (brands.len(), brands.get(8..)?),
        length => ((length as usize).checked_sub(8)?, brands),
    };
    let brands = brands.get(..length.min(brands.len())).unwrap_or_default().as_chunks::<4>().0;
    // The box is short; its second word is the version.
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
