//! The one trait the kernels are written against, and the channel loop they share.
//!
//! A back end is a vector type and a dozen operations. Kernels are generic over it, `inline(always)`
//! down to the intrinsics, and entered through one function per back end that carries its
//! `target_feature` (see `entry!` in `exec`), so that everything in between is compiled
//! for that instruction set.

use crate::plan::Activation;

/// A tile for the micro-kernel: rows of activations as they lie, times weight panels as they lie.
///
/// Row `r` of the tile reads `a + r · a_step`, then for each of `runs` offsets `y · y_step + x ·
/// x_step` a run of `run` consecutive floats. Each float meets the next `w_step` floats of weights,
/// in which vector `v` begins at `v · w_vector`.
#[derive(Debug, Clone, Copy)]
pub(in crate::kernels) struct Tile {
    /// First activation of row 0.
    pub(in crate::kernels) a: *const f32,
    /// Floats from one row of the tile to the next.
    pub(in crate::kernels) a_step: usize,
    /// Consecutive floats per run.
    pub(in crate::kernels) run: usize,
    /// Runs per line and floats between them.
    pub(in crate::kernels) x_runs: usize,
    pub(in crate::kernels) x_step: usize,
    /// Lines and floats between them.
    pub(in crate::kernels) y_runs: usize,
    pub(in crate::kernels) y_step: usize,
    /// First weight.
    pub(in crate::kernels) w: *const f32,
    /// Floats from one input's weights to the next.
    pub(in crate::kernels) w_step: usize,
    /// Floats from one vector of outputs to the next, within the weights.
    pub(in crate::kernels) w_vector: usize,
    /// What the accumulators start with, one float for each output of the tile; null for zeros.
    pub(in crate::kernels) bias: *const f32,
    /// Where row 0 of the result goes.
    pub(in crate::kernels) out: *mut f32,
    /// Floats from one row of the result to the next.
    pub(in crate::kernels) out_step: usize,
    /// What is added to row 0 of the result; null for nothing.
    pub(in crate::kernels) add: *const f32,
    /// Floats from one row of that to the next.
    pub(in crate::kernels) add_step: usize,
    /// Bounds the result is cut to, after the addition.
    pub(in crate::kernels) clip: Option<(f32, f32)>,
}

/// An activation, the floats it is applied to in place, and how many.
pub(in crate::kernels) type ActivateRun = unsafe fn(Activation, *mut f32, usize);
/// An activation, rows of floats, how many and how wide, and where each goes.
pub(in crate::kernels) type ActivateRows =
    unsafe fn(Activation, *const f32, (usize, usize), *const *mut f32);

/// A SIMD back end.
pub(in crate::kernels) trait Simd: Copy + 'static {
    /// A vector of [`Simd::LANES`] `f32`.
    type V: Copy;
    /// The back end for what is left of the channels: at most 8 lanes.
    type Half: Simd;
    /// Lanes of a vector: 1, 4, 8 or 16.
    const LANES: usize;
    /// Most rows of a tile.
    const ROWS: usize;
    /// Vectors of outputs of a full tile.
    const VECTORS: usize;

    /// [`super::math::activate_run`], like the next a function of its own for each back end: put in where they
    /// are used, they would be most of the crate's code.
    const ACTIVATE_RUN: ActivateRun;
    /// [`super::math::activate_rows`].
    const ACTIVATE_ROWS: ActivateRows;

    /// All lanes `x`.
    unsafe fn splat(x: f32) -> Self::V;
    /// Reads `LANES` floats from `p`, which need not be aligned.
    unsafe fn load(p: *const f32) -> Self::V;
    /// Writes `LANES` floats to `p`, which need not be aligned.
    unsafe fn store(p: *mut f32, v: Self::V);
    /// `a + b`
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    /// `a - b`
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    /// `a · b`
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// `a / b`
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// `a · b + c`, rounded once where the machine can.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// The smaller.
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// Square root.
    unsafe fn sqrt(a: Self::V) -> Self::V;
    /// `p · 2^n` for the whole number `n` in the lowest bits of `shifted` (its other bits but the last nine
    /// are of no account), where `p` and the result are normal numbers.
    unsafe fn scale(p: Self::V, shifted: Self::V) -> Self::V;
    /// `a / b` to the last bit or two, for normal `b` whose inverse is normal.
    #[inline(always)]
    unsafe fn quotient(a: Self::V, b: Self::V) -> Self::V {
        Self::div(a, b)
    }
    /// Per lane: `a > b ? yes : no`.
    unsafe fn where_greater(a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V;
    /// Four vectors, each with all lanes one of the four floats at `p`.
    #[inline(always)]
    unsafe fn spread(p: *const f32) -> [Self::V; 4] {
        std::array::from_fn(|i| Self::splat(*p.add(i)))
    }
    /// Asks for the cache line `p` points into, which need not be there.
    #[inline(always)]
    fn prefetch(_: *const f32) {}
    /// Pointers to a tile's rows, `a_step` floats from each other.
    #[inline(always)]
    unsafe fn rows<const ROWS: usize>(a: *const f32, a_step: usize) -> [*const f32; ROWS] {
        std::array::from_fn(|r| a.add(r * a_step))
    }
    /// Runs the micro-kernel on a tile of `rows` rows and `vectors` vectors.
    unsafe fn multiply(tile: &Tile, rows: usize, vectors: usize);
}

/// Calls `$f::<S>` for each whole vector of channels from `$from` to `$to`, then `$f::<S::Half>`.
macro_rules! channels {
    ($s:ident, $c:ident in $from:expr, $to:expr => $f:ident ( $($a:expr),* $(,)? )) => {{
        let mut $c = $from;
        let end = $to;
        while $c + <$s as Simd>::LANES <= end {
            $f::<$s>($($a),*);
            $c += <$s as Simd>::LANES;
        }
        while $c < end {
            $f::<<$s as Simd>::Half>($($a),*);
            $c += <<$s as Simd>::Half as Simd>::LANES;
        }
    }};
}
pub(in crate::kernels) use channels;
