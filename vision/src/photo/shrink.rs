//! Averages a photo down while its rows arrive, so that the full size is never held in memory. The factor is
//! always whole; the resampler does the rest.

use super::picture::Photo;

/// Largest factor; sums of 4096² samples still fit 32 bits.
const MOST: u32 = 4096;

/// The largest whole factor that leaves both sides at least twice the target's, or 1.
pub(super) fn factor((width, height): (u32, u32), target: (u32, u32)) -> u32 {
    let most = |side: u32, target: u32| side / target.max(1).saturating_mul(2);
    most(width, target.0).min(most(height, target.1)).clamp(1, MOST)
}

/// The order in which a picture's rows arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rows {
    /// From the top, each row whole.
    InOrder,
    /// In any order and in parts, as in interlaced files.
    Scattered,
}

/// A photo being built from rows, with `factor` × `factor` pixels averaged to one.
pub(super) struct Shrink {
    factor: usize,
    width: usize,
    height: usize,
    columns: usize,
    rows: Rows,
    pixels: Vec<[u8; 3]>,
    /// Sums of the current row of squares, or of all squares if rows are scattered.
    sums: Vec<[u32; 3]>,
}

impl Shrink {
    /// Bytes held for a picture of `width` × `height`.
    pub(super) fn memory(width: u32, height: u32, factor: u32, rows: Rows) -> u64 {
        let columns = u64::from(width.div_ceil(factor));
        let pixels = columns * u64::from(height.div_ceil(factor));
        let sums = match (factor, rows) {
            (1, _) => 0,
            (_, Rows::InOrder) => columns,
            (_, Rows::Scattered) => pixels,
        };
        pixels * 3 + sums * 12
    }

    /// Begins a picture of `width` × `height`; `factor` comes from [`factor`].
    pub(super) fn new(width: u32, height: u32, factor: u32, rows: Rows) -> Self {
        let columns = width.div_ceil(factor) as usize;
        let count = columns * height.div_ceil(factor) as usize;
        let sums = match (factor, rows) {
            (1, _) => 0,
            (_, Rows::InOrder) => columns,
            (_, Rows::Scattered) => count,
        };
        Self {
            factor: factor as usize,
            width: width as usize,
            height: height as usize,
            columns,
            rows,
            pixels: vec![[0; 3]; count],
            sums: vec![[0; 3]; sums],
        }
    }

    /// Adds the pixels of row `y` in columns `first`, `first + step` and so on.
    pub(super) fn add(&mut self, y: usize, first: usize, step: usize, row: &[[u8; 3]]) {
        if self.factor == 1 {
            let start = y * self.width;
            let places = self.pixels.get_mut(start + first..start + self.width);
            let places = places.unwrap_or_default().iter_mut().step_by(step);
            places.zip(row).for_each(|(place, pixel)| *place = *pixel);
            return;
        }
        let base = if self.rows == Rows::InOrder { 0 } else { y / self.factor * self.columns };
        let sums = self.sums.get_mut(base..base + self.columns).unwrap_or_default();
        if step == 1 && first == 0 {
            for (sum, pixels) in sums.iter_mut().zip(row.chunks(self.factor)) {
                let [r, g, b] = total(pixels);
                *sum = [sum[0] + r, sum[1] + g, sum[2] + b];
            }
        } else {
            for (x, pixel) in (first..).step_by(step).zip(row) {
                if let Some(sum) = sums.get_mut(x / self.factor) {
                    sum.iter_mut().zip(pixel).for_each(|(sum, &sample)| *sum += u32::from(sample));
                }
            }
        }
        let last = y + 1 == self.height || (y + 1).is_multiple_of(self.factor);
        if self.rows == Rows::InOrder && last {
            self.average(y / self.factor, 0);
            self.sums.fill([0; 3]);
        }
    }

    /// The photo, once every row has been added.
    pub(super) fn finish(mut self) -> Option<Photo> {
        if self.factor > 1 && self.rows == Rows::Scattered {
            for square in 0..self.height.div_ceil(self.factor) {
                self.average(square, square * self.columns);
            }
        }
        let rows = self.pixels.len().checked_div(self.columns)?;
        let (columns, rows) = (u32::try_from(self.columns).ok()?, u32::try_from(rows).ok()?);
        let exact = |side: usize| side as f64 / self.factor as f64;
        let (width, height) = (exact(self.width), exact(self.height));
        let photo = Photo::from_rgb(columns, rows, self.pixels.into_flattened())?;
        Some(photo.covering(width, height))
    }

    /// Divides the sums from index `base` on by the number of pixels in each square of row `square`.
    fn average(&mut self, square: usize, base: usize) {
        let covered = |at: usize, side: usize| self.factor.min(side - at * self.factor) as u32;
        let rows = covered(square, self.height);
        let sums = self.sums.iter().skip(base);
        let pixels = self.pixels.iter_mut().skip(square * self.columns).take(self.columns);
        for (column, (pixel, sum)) in pixels.zip(sums).enumerate() {
            let count = rows * covered(column, self.width);
            *pixel = sum.map(|sum| ((sum + count / 2) / count) as u8);
        }
    }
}

fn total(pixels: &[[u8; 3]]) -> [u32; 3] {
    pixels.iter().fold([0; 3], |[r, g, b], pixel| {
        [r + u32::from(pixel[0]), g + u32::from(pixel[1]), b + u32::from(pixel[2])]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factor_keeps_twice_the_target() {
        for (size, target, expected) in [
            ((6000, 4000), (300, 300), 6),
            ((1200, 1200), (300, 300), 2),
            ((1199, 1200), (300, 300), 1),
            ((100, 100), (300, 300), 1),
            ((16384, 2), (1, 1), 1),
            ((4000, 6000), (300, 500), 6),
            ((9, 9), (0, 0), 4),
            ((u32::MAX, u32::MAX), (u32::MAX, 1), 1),
        ] {
            assert_eq!(factor(size, target), expected, "{size:?} {target:?}");
        }
    }

    /// Rows in order and the same pixels scattered give the same averages.
    #[test]
    fn averages_whole_and_partial_squares() {
        let (width, height) = (7_usize, 5_usize);
        let pixel = |x: usize, y: usize| [x * 30, y * 50, 255 * ((x + y) % 2)].map(|s| s as u8);
        for factor in [1, 2, 3, 5, 8] {
            let mut in_order = Shrink::new(7, 5, factor, Rows::InOrder);
            let mut scattered = Shrink::new(7, 5, factor, Rows::Scattered);
            for y in 0..height {
                let row: Vec<[u8; 3]> = (0..width).map(|x| pixel(x, y)).collect();
                in_order.add(y, 0, 1, &row);
            }
            for y in (0..height).rev() {
                for first in [1, 0] {
                    let part: Vec<[u8; 3]> =
                        (first..width).step_by(2).map(|x| pixel(x, y)).collect();
                    scattered.add(y, first, 2, &part);
                }
            }
            let photo = in_order.finish().unwrap();
            assert_eq!(photo, scattered.finish().unwrap(), "factor {factor}");
            let side = factor as usize;
            for (at, found) in photo.pixels().as_chunks::<3>().0.iter().enumerate() {
                let (left, top) =
                    (at % photo.width() as usize * side, at / photo.width() as usize * side);
                let square: Vec<[u8; 3]> = (top..height.min(top + side))
                    .flat_map(|y| (left..width.min(left + side)).map(move |x| (x, y)))
                    .map(|(x, y)| pixel(x, y))
                    .collect();
                for channel in 0..3 {
                    let sum: u32 = square.iter().map(|p| u32::from(p[channel])).sum();
                    let mean = f64::from(sum) / square.len() as f64;
                    assert!((f64::from(found[channel]) - mean).abs() <= 0.5, "factor {factor}");
                }
            }
            let extent = photo.extent();
            assert_eq!(extent.width, 7.0 / f64::from(factor));
            assert_eq!(extent.height, 5.0 / f64::from(factor));
        }
    }
}
