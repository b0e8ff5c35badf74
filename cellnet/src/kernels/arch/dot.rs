//! The micro-kernel on integers: unsigned bytes times signed weights, summed exactly in 32 bits.
//!
//! Its tiles have the geometry of [`super::micro`], whose walk it takes. What is a float there is four bytes
//! here: an input is the bytes of four channels, and each lane of a weight vector has the four weights they
//! are multiplied with. Sums are modulo 2^32, and all back ends give the same bits. Only the sums are stored;
//! scales, bias and activation follow in the caller, because here they would cost the main loop its
//! registers.

use super::micro::{Dot, accumulate};
use super::simd::{Simd, Tile};

/// Computes the sums of one tile. `tile.bias` points at the first sums; `add` and `clip` are ignored.
///
/// # Safety
/// As for [`super::micro::multiply`].
#[inline(always)]
pub(super) unsafe fn sum<S: Simd, D: Dot<V = S::V>, const ROWS: usize, const VECTORS: usize>(
    tile: &Tile,
) {
    let mut sums = [[S::splat(0.0); VECTORS]; ROWS];
    for v in 0..VECTORS {
        let start = S::load(tile.bias.add(v * S::LANES));
        for row in &mut sums {
            row[v] = start;
        }
    }
    accumulate::<S, D, ROWS, VECTORS>(&mut sums, tile);
    for r in 0..ROWS {
        for v in 0..VECTORS {
            S::store(tile.out.add(r * tile.out_step + v * S::LANES), sums[r][v]);
        }
    }
}
