//! Shorthands for errors of reading a JPEG.

use crate::photo::error::PhotoError;
use crate::photo::format::Format;

pub(super) fn corrupt(detail: &str) -> PhotoError {
    PhotoError::corrupt(Format::Jpeg, detail)
}

pub(super) fn truncated() -> PhotoError {
    PhotoError::Truncated { format: Format::Jpeg }
}

pub(super) fn unsupported(feature: impl ToString) -> PhotoError {
    PhotoError::unsupported(Format::Jpeg, feature)
}
