//! Photos: what they are in memory, and how they come out of a file's bytes.
//!
//! Formats are told by their first bytes alone. The header is checked against the limits before
//! any pixel is allocated, each format in a file of its own. Leaves out resizing to a model's
//! size: a decode only ever drops detail that the model could not see anyway.

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

/// Decodes a photo of any [`Format`] to upright RGB.
///
/// - EXIF orientation (JPEG, PNG, WebP) is applied, alpha is laid over white, 16-bit samples are
///   cut to their high byte, CMYK without a profile is converted as Pillow does it.
/// - An embedded colour profile (JPEG, PNG, WebP, BMP; of PNG also cICP, gAMA and cHRM) is converted to
///   sRGB, relative to its white, unless `colors` says otherwise; one that cannot be read is ignored, as
///   browsers do.
/// - `target` is the model's width and height in pixels. Where the file's picture is much larger,
///   the photo comes back smaller: a JPEG by 1/2, 1/4 or 1/8 of its own transform, PNG, BMP, GIF and
///   lossy WebP averaged over squares of pixels row by row. Both sides stay at least twice the target's.
/// - Nothing is allocated before the header has been checked against `limits`.
///
/// # Errors
/// [`PhotoError`]: for bytes that are no photo, one that is broken or cut short, and one beyond the
/// limits.
pub fn decode(bytes: &[u8], target: (u32, u32), limits: &Limits) -> Result<Photo, PhotoError> {
    decode_as(bytes, target, limits, Colors::Srgb)
}

/// What the numbers of the photo are to mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Colors {
    /// sRGB: profiles are converted.
    #[default]
    Srgb,
    /// The numbers as the file stores them: profiles are not read.
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

/// What a format's decoder gives.
struct Decoded {
    /// The pixels as the file has them.
    photo: Photo,
    /// How to turn them upright.
    orientation: orientation::Orientation,
    /// What their numbers mean, where that is neither sRGB nor converted already, as samples under alpha and CMYK
    /// must be.
    color: Option<color::Color>,
}
