//! The errors of decoding, one type for all formats. Each message says what the user can do.

use super::format::Format;
use thiserror::Error;

/// Why a photo cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PhotoError {
    /// There are no bytes.
    #[error("the photo is empty: send the bytes of a JPEG, PNG, WebP, BMP or GIF file")]
    Empty,
    /// The first bytes match no known format.
    #[error(
        "this is not a photo in a known format: send a JPEG, PNG, WebP, BMP or GIF file; TIFF and others must be saved as \
         one of these"
    )]
    UnknownFormat,
    /// The file is HEIC or HEIF.
    #[error(
        "this is a HEIC photo, which is not decoded: export it as JPEG and send that (on an iPhone: \
         Settings, Camera, Formats, Most Compatible)"
    )]
    Heic,
    /// The file is AVIF.
    #[error(
        "this is an AVIF photo, which is not decoded: save it as JPEG, PNG or WebP and send that"
    )]
    Avif,
    /// The file uses a feature of its format that is not supported.
    #[error("this {format} has {feature}, which is not decoded: save the photo as a plain JPEG")]
    Unsupported {
        /// The file's format.
        format: Format,
        /// The feature.
        feature: String,
    },
    /// The width or height is 0.
    #[error("this {format} is {width}x{height} pixels: both sides must be at least 1")]
    ZeroSize {
        /// The file's format.
        format: Format,
        /// Declared width in pixels.
        width: u32,
        /// Declared height in pixels.
        height: u32,
    },
    /// A side or the area is beyond the limits.
    #[error(
        "the photo is {width}x{height} pixels; at most {max_side} per side and {max_pixels} in all \
         are decoded: send a smaller one"
    )]
    TooLarge {
        /// Declared width in pixels.
        width: u32,
        /// Declared height in pixels.
        height: u32,
        /// Most pixels a side may have.
        max_side: u32,
        /// Most pixels a photo may have.
        max_pixels: u64,
    },
    /// Decoding would hold more than the limits allow.
    #[error(
        "decoding this photo would take {needed} bytes of memory, {limit} are allowed: send a \
         smaller one, or save it as a baseline JPEG"
    )]
    NeedsTooMuchMemory {
        /// Bytes a decode would hold at once, estimated from the header.
        needed: u64,
        /// Allowed bytes.
        limit: u64,
    },
    /// Texts and colour profile inflate to more than is allowed.
    #[error(
        "the texts and colour profile of this {format} inflate to more than {limit} bytes: save the \
         photo again without metadata"
    )]
    TooMuchMetadata {
        /// The file's format.
        format: Format,
        /// Allowed bytes.
        limit: u64,
    },
    /// The file ends too early.
    #[error("this {format} is cut short: send the whole file")]
    Truncated {
        /// The file's format.
        format: Format,
    },
    /// The file breaks its format's rules.
    #[error("this {format} is broken: {detail}: save the photo again and send that")]
    Corrupt {
        /// The file's format.
        format: Format,
        /// The violated rule.
        detail: String,
    },
}

impl PhotoError {
    pub(super) fn corrupt(format: Format, detail: impl ToString) -> Self {
        Self::Corrupt { format, detail: detail.to_string() }
    }

    pub(super) fn unsupported(format: Format, feature: impl ToString) -> Self {
        Self::Unsupported { format, feature: feature.to_string() }
    }

    /// Converts an error of a reader over bytes in memory, which fails only at their end.
    pub(super) fn from_io(format: Format, error: &std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::UnexpectedEof => Self::Truncated { format },
            _ => Self::corrupt(format, error),
        }
    }
}
