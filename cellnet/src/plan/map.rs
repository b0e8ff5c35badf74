//! Where tensors lie: maps in the arena, blobs in the weights section.

use serde::{Deserialize, Serialize};

/// Floats per cache line; offsets of maps and blobs are multiples of it.
pub const LINE: u64 = 16;
/// Channel strides of maps are multiples of this, except for maps that only dense convolutions read.
pub const CHANNEL_BLOCK: u32 = 8;

/// A run of `f32` in the weights section.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    /// Where it begins, in floats from the start of the section; a multiple of [`LINE`].
    pub offset: u64,
    /// Its length in floats.
    pub len: u64,
}

/// A tensor in the arena, `[height, width, channels]`: of `f32` or, with [`Map::zero`], of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Map {
    /// Rows of the tensor, without halo.
    pub height: u32,
    /// Columns of the tensor, without halo.
    pub width: u32,
    /// Channels.
    pub channels: u32,
    /// Floats from one pixel to the next, at least `channels`.
    pub stride: u32,
    /// Zero rows above, zero columns left, zero rows below, zero columns right.
    pub halo: [u32; 4],
    /// Where the halo's first float lies in the arena; a multiple of [`LINE`].
    pub offset: u64,
    /// For a map of bytes: the byte that stands for 0 and fills the halo. Each float of the map then holds
    /// the bytes of four neighbouring channels, and `channels` and `stride` count such floats.
    pub zero: Option<u8>,
}

impl Map {
    /// Columns with halo.
    pub fn full_width(&self) -> u64 {
        u64::from(self.halo[1]) + u64::from(self.width) + u64::from(self.halo[3])
    }

    /// Rows with halo.
    pub fn full_height(&self) -> u64 {
        u64::from(self.halo[0]) + u64::from(self.height) + u64::from(self.halo[2])
    }

    /// Floats from one row to the next.
    pub fn pitch(&self) -> u64 {
        product(self.full_width(), self.stride)
    }

    /// Floats the map takes in the arena, halo included; saturates instead of overflowing.
    pub fn floats(&self) -> u64 {
        self.full_height().saturating_mul(self.pitch())
    }

    /// Whether pixels follow each other without a gap between rows.
    pub fn is_flat(&self) -> bool {
        self.halo[1] == 0 && self.halo[3] == 0
    }

    /// Offset in the arena of the first channel of pixel (0, 0).
    pub fn origin(&self) -> u64 {
        self.offset
            .saturating_add(product(self.pitch(), self.halo[0]))
            .saturating_add(u64::from(self.halo[1]) * u64::from(self.stride))
    }
}

/// `a · b`, or `u64::MAX` if `a` exceeds 32 bits. (A checked 64-bit product is a function call in Wasm.)
fn product(a: u64, b: u32) -> u64 {
    u32::try_from(a).map_or(u64::MAX, |a| u64::from(a) * u64::from(b))
}
