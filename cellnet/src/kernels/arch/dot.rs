//! The micro-kernel on integers: unsigned bytes times signed weights, summed exactly in 32 bits.
//!
//! Its tiles have the geometry of [`super::micro`]. What is a float there is four bytes here: an input is the
//! bytes of four channels, and each lane of a weight vector has the four weights they are multiplied with.
//! All back ends give the same bits. Only the sums are stored; scales, bias and activation follow in the
//! caller, because here they would cost the main loop its registers.

use super::simd::{Simd, Tile};

/// Inputs per unrolled iteration.
const UNROLLED: usize = 4;
/// Lanes of a panel. As a constant it needs no address arithmetic.
const PANEL: usize = 16;

/// How a back end multiplies and adds bytes.
pub(super) trait Dot {
    /// Sums: the back end's vector of `f32`, with the bits of `i32`.
    type V: Copy;
    /// Four weights for each lane.
    type Weights: Copy;
    /// Four bytes, repeated in each lane.
    type Inputs: Copy;

    /// Reads a vector of weights at `p`.
    unsafe fn weights(p: *const f32) -> Self::Weights;
    /// Reads four bytes at `p`.
    unsafe fn inputs(p: *const f32) -> Self::Inputs;
    /// Adds the four products of each lane, modulo 2^32.
    unsafe fn add(sums: Self::V, inputs: Self::Inputs, weights: Self::Weights) -> Self::V;
}

/// Computes the sums of one tile. `tile.bias` points at the first sums; `add` and `clip` are ignored.
///
/// # Safety
/// As for [`super::micro::multiply`].
#[inline(always)]
pub(super) unsafe fn sum<S: Simd, D: Dot<V = S::V>, const ROWS: usize, const VECTORS: usize>(
    tile: &Tile,
) {
    let lanes = S::LANES;
    let mut sums = [[S::splat(0.0); VECTORS]; ROWS];
    for v in 0..VECTORS {
        let start = S::load(tile.bias.add(v * lanes));
        for row in &mut sums {
            row[v] = start;
        }
    }
    let mut w: [*const f32; VECTORS] = std::array::from_fn(|v| tile.w.add(v * tile.w_vector));
    for y in 0..tile.y_runs {
        for x in 0..tile.x_runs {
            let a = tile.a.add(y * tile.y_step + x * tile.x_step);
            let rows = S::rows::<ROWS>(a, tile.a_step);
            let mut i = 0;
            while i + UNROLLED <= tile.run {
                for u in 0..UNROLLED {
                    one_input::<D, ROWS, VECTORS>(&mut sums, &rows, i + u, &w, u * PANEL);
                }
                for v in 0..VECTORS {
                    w[v] = w[v].add(UNROLLED * PANEL);
                }
                i += UNROLLED;
            }
            while i < tile.run {
                one_input::<D, ROWS, VECTORS>(&mut sums, &rows, i, &w, 0);
                for v in 0..VECTORS {
                    w[v] = w[v].add(PANEL);
                }
                i += 1;
            }
        }
    }
    for r in 0..ROWS {
        for v in 0..VECTORS {
            S::store(tile.out.add(r * tile.out_step + v * lanes), sums[r][v]);
        }
    }
}

/// Adds input `i` of each row times its weights, `offset` floats from `w`.
#[inline(always)]
unsafe fn one_input<D: Dot, const ROWS: usize, const VECTORS: usize>(
    sums: &mut [[D::V; VECTORS]; ROWS],
    rows: &[*const f32; ROWS],
    i: usize,
    w: &[*const f32; VECTORS],
    offset: usize,
) {
    let mut weights = [D::weights(w[0].add(offset)); VECTORS];
    for v in 1..VECTORS {
        weights[v] = D::weights(w[v].add(offset));
    }
    for r in 0..ROWS {
        let inputs = D::inputs(rows[r].add(i));
        for v in 0..VECTORS {
            sums[r][v] = D::add(sums[r][v], inputs, weights[v]);
        }
    }
}
