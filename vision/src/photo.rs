//! Photos in memory, and decoding them from a file's bytes.
//!
//! The first bytes determine the format; each format has a file of its own. The header is checked against
//! the limits before any pixel is allocated. A decode may return a smaller photo, but only drops detail
//! that the model could not see; resizing to the model's size is done in `resize`.

mod bmp;
mod channels;
mod color;
mod error;
mod format;
mod gif;
mod jpeg;
mod limits;
mod orientation;
mod picture;
mod png;
mod shrink;
mod webp;

pub use error::PhotoError;
use format::Heif;
pub use format::{Format, sniff};
pub use limits::Limits;
pub(crate) use picture::Extent;
pub use picture::Photo;

/// Decodes a photo of any [`Format`] to upright sRGB.
///
/// - EXIF orientation (JPEG, PNG, WebP) is applied, alpha is blended over white, 16-bit samples are
///   truncated to their high byte, and CMYK without a profile is converted as in Pillow.
/// - Colours are converted to sRGB, relative to the white point, from an embedded profile (JPEG, PNG, WebP,
///   BMP) or from PNG's cICP, gAMA and cHRM. A profile that cannot be read is ignored, as browsers do.
/// - `target` is the model's width and height in pixels. A much larger photo is returned smaller, with both
///   sides at least twice the target's: a JPEG is decoded at 1/2, 1/4 or 1/8 of its size by a smaller
///   inverse transform; PNG, BMP, GIF and lossy WebP are averaged over squares of pixels, row by row.
/// - No pixel is allocated before the header has been checked against `limits`.
///
/// # Errors
/// [`PhotoError`] for bytes that are not a photo, and for a photo that is damaged, cut short or beyond the
/// limits.
pub fn decode(bytes: &[u8], target: (u32, u32), limits: &Limits) -> Result<Photo, PhotoError> {
    decode_as(bytes, target, limits, Colors::Srgb)
}

/// The colour space of the decoded photo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Colors {
    /// sRGB; embedded profiles are applied.
    #[default]
    Srgb,
    /// The values as the file stores them; profiles are not read.
    Stored,
}

/// As [`decode`], with the choice of [`Colors`].
///
/// # Errors
/// As [`decode`].
pub fn decode_as(
    bytes: &[u8],
    target: (u32, u32),
    limits: &Limits,
    colors: Colors,
) -> Result<Photo, PhotoError> {
    let Some(format) = sniff(bytes) else {
        return Err(match (bytes, format::heif(bytes)) {
            ([], _) => PhotoError::Empty,
            (_, Some(Heif::Heic)) => PhotoError::Heic,
            (_, Some(Heif::Avif)) => PhotoError::Avif,
            (_, None) => PhotoError::UnknownFormat,
        });
    };
    let decoded = match format {
        Format::Jpeg => jpeg::decode(bytes, target, limits, colors)?,
        Format::Png => png::decode(bytes, target, limits, colors)?,
        Format::WebP => webp::decode(bytes, target, limits, colors)?,
        Format::Bmp => bmp::decode(bytes, target, limits)?,
        Format::Gif => gif::decode(bytes, target, limits)?,
    };
    let color = decoded.color.filter(|_| colors == Colors::Srgb);
    let photo = color::to_srgb(decoded.photo, color.as_ref());
    Ok(orientation::orient(photo, decoded.orientation))
}

/// The result of a format's decoder.
struct Decoded {
    /// The pixels in the file's orientation.
    photo: Photo,
    /// The orientation to correct.
    orientation: orientation::Orientation,
    /// The colours to convert from. `None` for sRGB, and for colours that the decoder had to convert itself
    /// (CMYK, and samples with alpha).
    color: Option<color::Color>,
}
