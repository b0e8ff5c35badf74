//! Limits on a photo's size, checked against its header before pixels are allocated.

use super::error::PhotoError;
use super::format::Format;

/// The limits of a decode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most pixels per side.
    pub max_side: u32,
    /// Most pixels in all, as declared by the file.
    pub max_pixels: u64,
    /// Most bytes a decode may hold at once, including the returned photo but not the file.
    pub max_alloc: u64,
}

impl Default for Limits {
    /// 16384 pixels per side; 51 megapixels (phones take photos of 8192×6144 and 8160×6144); 40 MiB, which an
    /// instance of 64 MiB can hold besides the file, its code and a model's tensors.
    fn default() -> Self {
        Self { max_side: 16_384, max_pixels: 51_000_000, max_alloc: 40 << 20 }
    }
}

impl Limits {
    /// Checks the size a header declares.
    pub(super) fn check_size(
        &self,
        format: Format,
        width: u32,
        height: u32,
    ) -> Result<(), PhotoError> {
        if width == 0 || height == 0 {
            return Err(PhotoError::ZeroSize { format, width, height });
        }
        let pixels = u64::from(width) * u64::from(height);
        if width > self.max_side || height > self.max_side || pixels > self.max_pixels {
            let (max_side, max_pixels) = (self.max_side, self.max_pixels);
            return Err(PhotoError::TooLarge { width, height, max_side, max_pixels });
        }
        Ok(())
    }

    /// Checks an estimate of the bytes held at once.
    pub(super) fn check_memory(&self, needed: u64) -> Result<(), PhotoError> {
        if needed > self.max_alloc {
            return Err(PhotoError::NeedsTooMuchMemory { needed, limit: self.max_alloc });
        }
        Ok(())
    }
}
