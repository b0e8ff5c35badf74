//! A photo in memory, and turning it. Decoding is done by each format's module.

/// An upright photo: 8-bit RGB, rows from the top, pixels from the left.
#[derive(Debug, Clone, PartialEq)]
pub struct Photo {
    width: u32,
    height: u32,
    pixels: Vec<u8>,
    extent: Extent,
}

/// The part of the pixel grid that the picture covers, in pixels. A scaled decode rounds the grid's size up,
/// so the last column and row may be covered in part. Resampling uses the covered part only.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Extent {
    pub(crate) left: f64,
    pub(crate) top: f64,
    pub(crate) width: f64,
    pub(crate) height: f64,
}

impl Photo {
    /// A photo of `pixels`, `[height, width, 3]` in R, G, B order. `None` if a side is 0 or the number of
    /// bytes is not `width * height * 3`.
    #[must_use]
    pub fn from_rgb(width: u32, height: u32, pixels: Vec<u8>) -> Option<Self> {
        // At most 3·(2^32 - 1)^2, which does not fit u64.
        let bytes = u128::from(width) * u128::from(height) * 3;
        let (right, bottom) = (f64::from(width), f64::from(height));
        let extent = Extent { left: 0.0, top: 0.0, width: right, height: bottom };
        let fits = bytes > 0 && bytes == pixels.len() as u128;
        fits.then_some(Self { width, height, pixels, extent })
    }

    /// Declares that the picture covers only the first `width` × `height` pixels of its grid; both may be
    /// fractions.
    pub(crate) fn covering(mut self, width: f64, height: f64) -> Self {
        self.extent.width = width.min(self.extent.width);
        self.extent.height = height.min(self.extent.height);
        self
    }

    /// Columns.
    #[must_use]
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Rows.
    #[must_use]
    pub fn height(&self) -> u32 {
        self.height
    }

    /// `[height, width, 3]`, R, G, B, 0 to 255, top-left origin.
    #[must_use]
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    pub(crate) fn pixels_mut(&mut self) -> &mut [u8] {
        &mut self.pixels
    }

    pub(crate) fn extent(&self) -> Extent {
        self.extent
    }

    /// Mirrored left to right.
    pub(crate) fn mirrored(mut self) -> Self {
        let pixels = self.pixels.as_chunks_mut::<3>().0;
        pixels.chunks_exact_mut(self.width as usize).for_each(<[_]>::reverse);
        self.extent.left = f64::from(self.width) - (self.extent.left + self.extent.width);
        self
    }

    /// Upside down.
    pub(crate) fn flipped(mut self) -> Self {
        let (stride, rows) = (self.width as usize * 3, self.height as usize);
        let (above, below) = self.pixels.split_at_mut(rows.div_ceil(2) * stride);
        for (upper, lower) in above.chunks_exact_mut(stride).zip(below.rchunks_exact_mut(stride)) {
            upper.swap_with_slice(lower);
        }
        self.extent.top = f64::from(self.height) - (self.extent.top + self.extent.height);
        self
    }

    /// Exchanges rows and columns, in squares that fit the cache.
    pub(super) fn transposed(self) -> Self {
        const SQUARE: usize = 32;
        let (width, height) = (self.width as usize, self.height as usize);
        let source = self.pixels.as_chunks::<3>().0;
        let mut turned = vec![[0_u8; 3]; source.len()];
        for top in (0..height).step_by(SQUARE) {
            let rows = top..height.min(top + SQUARE);
            for left in (0..width).step_by(SQUARE) {
                for x in left..width.min(left + SQUARE) {
                    let column = &mut turned[x * height..][rows.clone()];
                    let samples = source[top * width + x..].iter().step_by(width);
                    column.iter_mut().zip(samples).for_each(|(to, from)| *to = *from);
                }
            }
        }
        let Extent { left, top, width, height } = self.extent;
        Self {
            width: self.height,
            height: self.width,
            pixels: turned.into_flattened(),
            extent: Extent { left: top, top: left, width: height, height: width },
        }
    }
}
