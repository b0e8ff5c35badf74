//! The trait that kernels are written against, and the channel loop they share.
//!
//! A back end is a vector type and a dozen operations. Kernels are generic over it and `inline(always)`
//! down to the intrinsics. They are called through one function per back end with its `target_feature` (see
//! `entry!` in `exec`), so that everything in between is compiled for that instruction set.

use crate::plan::fixed::ToSteps;
use crate::plan::{Activation, LINE};

/// 1.5 · 2^23. Adding it to `t` (|t| < 2^22) rounds `t` to a whole number, which is then in the sum's
/// lowest bits.
pub(in crate::kernels) const WHOLE: f32 = 12_582_912.0;

/// A tile for the micro-kernel: rows of activations times weight panels, both read in place.
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
    /// Initial accumulators, one float for each output of the tile; null for zeros.
    pub(in crate::kernels) bias: *const f32,
    /// Destination of row 0 of the result.
    pub(in crate::kernels) out: *mut f32,
    /// Floats from one row of the result to the next.
    pub(in crate::kernels) out_step: usize,
    /// Values added to row 0 of the result; null for none.
    pub(in crate::kernels) add: *const f32,
    /// Floats from one row of the added values to the next.
    pub(in crate::kernels) add_step: usize,
    /// Number of tiles, each beginning in the row after the last of the one before (floats only).
    pub(in crate::kernels) repeat: usize,
    /// The next cache lines to prefetch, and how many for each tile.
    pub(in crate::kernels) ahead: (*const f32, usize),
    /// Bounds the result is clipped to, after the addition.
    pub(in crate::kernels) clip: Option<(f32, f32)>,
    /// For sums of bytes: whether all weights are within ±64.
    #[cfg_attr(
        not(target_arch = "x86_64"),
        allow(dead_code, reason = "only AVX2 is faster for it")
    )]
    pub(in crate::kernels) is_narrow: bool,
    /// For sums of bytes: whether they are widened. Then a float holds two 16-bit integers in place of four
    /// bytes, of inputs as of weights.
    pub(in crate::kernels) is_widened: bool,
}

impl Tile {
    /// One tile of one run in each row, to which nothing is added, without any sizes and places yet.
    pub(in crate::kernels) const PLAIN: Self = Self {
        a: std::ptr::null(),
        a_step: 0,
        run: 0,
        x_runs: 1,
        x_step: 0,
        y_runs: 1,
        y_step: 0,
        w: std::ptr::null(),
        w_step: 0,
        w_vector: 0,
        bias: std::ptr::null(),
        out: std::ptr::null_mut(),
        out_step: 0,
        add: std::ptr::null(),
        add_step: 0,
        repeat: 1,
        ahead: (std::ptr::null(), 0),
        clip: None,
        is_narrow: false,
        is_widened: false,
    };

    /// Multiplies `rows` rows, at least one, as tiles whose heights differ by one at most, by two calls of
    /// the micro-kernel or one; returns the number of tiles.
    ///
    /// # Safety
    /// As for [`super::micro::multiply`]; the tile must describe that many rows.
    #[inline(always)]
    pub(in crate::kernels) unsafe fn multiply<S: Simd>(
        &mut self,
        rows: usize,
        vectors: usize,
    ) -> usize {
        let tiles = rows.div_ceil(S::ROWS);
        let (rows, higher) = (rows / tiles, rows % tiles);
        if higher > 0 {
            self.repeat = higher;
            S::multiply(self, rows + 1, vectors);
            self.next(higher * (rows + 1), higher);
        }
        // There are fewer higher tiles than tiles.
        self.repeat = tiles - higher;
        S::multiply(self, rows, vectors);
        tiles
    }

    /// Moves on by `rows` rows, the rows of `tiles` tiles.
    ///
    /// # Safety
    /// The tile must describe as many more rows.
    #[inline(always)]
    unsafe fn next(&mut self, rows: usize, tiles: usize) {
        self.a = self.a.add(rows * self.a_step);
        self.out = self.out.add(rows * self.out_step);
        if !self.add.is_null() {
            self.add = self.add.add(rows * self.add_step);
        }
        self.ahead.0 = self.ahead.0.wrapping_add(tiles * self.ahead.1 * LINE as usize);
    }
}

/// Applies an activation in place: activation, first float, number of floats.
pub(in crate::kernels) type ActivateRun = unsafe fn(Activation, *mut f32, usize);
/// Applies an activation to rows: activation, first float, number and width of rows, destination of each
/// row.
pub(in crate::kernels) type ActivateRows =
    unsafe fn(Activation, *const f32, (usize, usize), *const *mut f32);

/// Finishes rows of sums of bytes: first sum, and what to do.
pub(in crate::kernels) type FinishSums = unsafe fn(*const f32, &Finish);

/// A place in each row of a tile: the first, and the distance from row to row. Null for none.
pub(in crate::kernels) type Rows<T> = (*mut T, usize);

/// What follows the sums of a tile of bytes.
pub(in crate::kernels) struct Finish {
    /// Rows and their width.
    pub(in crate::kernels) size: (usize, usize),
    /// What a unit of each column's sums is worth, and what is added.
    pub(in crate::kernels) factors: *const f32,
    pub(in crate::kernels) bias: *const f32,
    pub(in crate::kernels) activation: Activation,
    /// Whether the activation comes after the residual.
    pub(in crate::kernels) activate_last: bool,
    /// What is added.
    pub(in crate::kernels) residual: Rows<f32>,
    /// Where the values go.
    pub(in crate::kernels) values: Rows<f32>,
    /// Where the bytes go.
    pub(in crate::kernels) bytes: Rows<u8>,
    /// Steps of a byte in one, and the byte that stands for 0.
    pub(in crate::kernels) inverse: f32,
    pub(in crate::kernels) zero: f32,
    /// The same for 16-bit integers.
    pub(in crate::kernels) steps: ToSteps,
}

/// A SIMD back end.
pub(in crate::kernels) trait Simd: Copy + 'static {
    /// A vector of [`Simd::LANES`] `f32`.
    type V: Copy;
    /// The back end for the remaining channels, with at most 8 lanes.
    type Half: Simd;
    /// Lanes of a vector: 1, 4, 8 or 16.
    const LANES: usize;
    /// Whether [`Simd::Half`] is narrower. If not, loops over its vectors do all the work, and the compiler
    /// drops those over whole ones, which would be the same code once more.
    const HALVES: bool = Self::LANES > Self::Half::LANES;
    /// Registers for vectors.
    const REGISTERS: usize = 16;
    /// Most rows of a tile.
    const ROWS: usize;
    /// Most rows of a tile of sums of bytes.
    const SUM_ROWS: usize;
    /// Vectors of outputs of a full tile.
    const VECTORS: usize;

    /// [`super::math::activate_run`], compiled once per back end like the next: inlined into every caller,
    /// the two would be most of the crate's code.
    const ACTIVATE_RUN: ActivateRun;
    /// [`super::math::activate_rows`].
    const ACTIVATE_ROWS: ActivateRows;
    /// [`super::finish::finish_sums`].
    const FINISH_SUMS: FinishSums;

    /// All lanes `x`.
    unsafe fn splat(x: f32) -> Self::V;
    /// Reads `LANES` floats from `p`, which need not be aligned.
    unsafe fn load(p: *const f32) -> Self::V;
    /// Reads `LANES` 16-bit integers from `p`, which need not be aligned, and converts them.
    unsafe fn load_i16(p: *const i16) -> Self::V;
    /// Converts the `i32` whose bits the lanes hold, rounded to nearest.
    unsafe fn from_integers(v: Self::V) -> Self::V;
    /// Writes the lowest byte of each lane to `p`.
    unsafe fn store_bytes(p: *mut u8, v: Self::V);
    /// Writes the bytes of `steps + zero` to `p`, the steps rounded before, halves to even; `steps` is at
    /// least `-zero`, a whole number from -255 to 0, and greater results than 255 are written as 255.
    #[inline(always)]
    unsafe fn store_steps(p: *mut u8, steps: Self::V, zero: f32) {
        let steps = Self::min(steps, Self::splat(255.0 - zero));
        let whole = Self::sub(Self::add(steps, Self::splat(WHOLE)), Self::splat(WHOLE));
        // The byte is the lowest of the sum's.
        Self::store_bytes(p, Self::add(whole, Self::splat(WHOLE + zero)));
    }
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
    /// `a · b + c`, rounded once if the machine has a fused multiply-add.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// The smaller.
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// Square root.
    unsafe fn sqrt(a: Self::V) -> Self::V;
    /// `p · 2^n`, where n is the low 9 bits of `shifted` (the rest are ignored), and `p` and the result are
    /// normal numbers.
    unsafe fn scale(p: Self::V, shifted: Self::V) -> Self::V;
    /// `a / b` with an error of at most the last two bits, for normal `b` with a normal inverse.
    #[inline(always)]
    unsafe fn quotient(a: Self::V, b: Self::V) -> Self::V {
        Self::div(a, b)
    }
    /// `x · sigmoid(x)` within 1/4000 of its value, if the back end has a way with few instructions.
    #[inline(always)]
    unsafe fn short_silu(_: Self::V) -> Option<Self::V> {
        None
    }
    /// Per lane: `a > b ? yes : no`.
    unsafe fn where_greater(a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V;
    /// Four vectors; all lanes of vector `i` are the float at `p + i`.
    #[inline(always)]
    unsafe fn spread(p: *const f32) -> [Self::V; 4] {
        std::array::from_fn(|i| Self::splat(*p.add(i)))
    }
    /// Prefetches the cache line at `p`, which may be an invalid address.
    #[inline(always)]
    fn prefetch(_: *const f32) {}
    /// Pointers to a tile's rows, `a_step` floats apart.
    #[inline(always)]
    unsafe fn rows<const ROWS: usize>(a: *const f32, a_step: usize) -> [*const f32; ROWS] {
        std::array::from_fn(|r| a.add(r * a_step))
    }
    /// Runs the micro-kernel on a tile of `rows` rows and `vectors` vectors.
    unsafe fn multiply(tile: &Tile, rows: usize, vectors: usize);
    /// Whether tiles of sums of bytes are faster if inputs and weights are widened to 16 bits before (see
    /// [`Tile::is_widened`]), for weights within ±64 or for others.
    #[inline(always)]
    fn widens(_is_narrow: bool) -> bool {
        false
    }
    /// Widens `len` floats of four unsigned bytes each to `2 · len` floats of two 16-bit integers, if the
    /// back end [`Simd::widens`]; their order is its own.
    unsafe fn widen_inputs(_: *const f32, _: usize, _: *mut f32) {}
    /// Widens `rows` rows of 16 lanes of four signed bytes to twice as many rows of two 16-bit integers, in
    /// the order of the inputs.
    unsafe fn widen_weights(_: *const f32, _: usize, _: *mut f32) {}
    /// Transforms a square of 4×4 pixels of so many bytes to 16-bit integers, in steps from position to
    /// position (F(2×2, 3×3), like the next two), if the back end [`Simd::widens`].
    unsafe fn transform_bytes(_: &[*const u8; 16], _: usize, _: *mut i16, _: usize) {}
    /// Transforms a panel of 3×3 kernels of signed bytes, of so many fours of inputs, four times Winograd's.
    unsafe fn transform_weights(_: *const f32, _: usize, _: *mut f32) {}
    /// Transforms products, in steps from position to position, to the sums of 2×2 outputs of so many lanes,
    /// and adds what they start with.
    unsafe fn transform_products(
        _: (*const f32, usize),
        _: *const f32,
        _: [*mut f32; 4],
        _: usize,
    ) {
    }
    /// Runs the micro-kernel on bytes (see [`super::dot`]), on at most [`Simd::SUM_ROWS`] rows. With AVX-512,
    /// the machine must have VNNI.
    unsafe fn sum(tile: &Tile, rows: usize, vectors: usize);
}

/// Calls `$f::<S>` for each whole vector of channels from `$from` to `$to`, then `$f::<S::Half>`, both with
/// the constants in brackets if there are any.
macro_rules! channels {
    ($s:ident, $c:ident in $from:expr, $to:expr =>
        $f:ident $([$($k:ident),*])? ( $($a:expr),* $(,)? )) => {{
        let mut $c = $from;
        let end = $to;
        while <$s as Simd>::HALVES && $c + <$s as Simd>::LANES <= end {
            $f::<$s $($(, $k)*)?>($($a),*);
            $c += <$s as Simd>::LANES;
        }
        while $c < end {
            $f::<<$s as Simd>::Half $($(, $k)*)?>($($a),*);
            $c += <<$s as Simd>::Half as Simd>::LANES;
        }
    }};
}
pub(in crate::kernels) use channels;
