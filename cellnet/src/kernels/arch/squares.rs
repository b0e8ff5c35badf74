//! Winograd's F(2×2, 3×3) on integers: transforms of bytes, of whole weights and of products.
//!
//! Twice Winograd's matrix of the weights has whole entries, so that all is exact: transformed inputs are
//! within ±1020, transformed weights, four times Winograd's, within ±1152, and the results are four times the
//! sums.

use super::fixed::Fixed;

/// Vectors of 32-bit integers, as many as the back end has floats, and 16-bit ones, twice as many.
pub(super) trait Squares: Fixed {
    /// The 32-bit integers.
    type Sums: Copy;

    /// Widens as many unsigned bytes as a vector has 16-bit integers.
    unsafe fn widened(p: *const u8) -> Self::W;
    /// Widens the first or the last two of the four signed bytes of each lane of floats.
    unsafe fn two_of_four(p: *const f32, two: usize) -> Self::W;
    /// Stores 16-bit integers.
    unsafe fn store_words(p: *mut i16, w: Self::W);
    /// Loads 32-bit integers.
    unsafe fn load_sums(p: *const f32) -> Self::Sums;
    /// `a + b`.
    unsafe fn plus_sums(a: Self::Sums, b: Self::Sums) -> Self::Sums;
    /// `a - b`.
    unsafe fn minus_sums(a: Self::Sums, b: Self::Sums) -> Self::Sums;
    /// `a / 4`, of a multiple of 4.
    unsafe fn quarter(a: Self::Sums) -> Self::Sums;
    /// Stores 32-bit integers.
    unsafe fn store_sums(p: *mut f32, a: Self::Sums);
}

/// The transform of a vector of inputs, along one axis.
#[inline(always)]
unsafe fn of_inputs<S: Squares>(d: [S::W; 4]) -> [S::W; 4] {
    [S::minus(d[0], d[2]), S::plus(d[1], d[2]), S::minus(d[2], d[1]), S::minus(d[1], d[3])]
}

/// Transforms a square of 4×4 pixels of unsigned bytes to 16 bits, in steps of `step` integers.
///
/// # Safety
/// Each pixel must be valid for `channels` bytes, at least a vector of 16-bit integers, and `to` for 16 runs
/// of as many integers. The machine must have the instruction set of `S`, here and below.
#[inline(always)]
pub(super) unsafe fn inputs<S: Squares>(
    from: &[*const u8; 16],
    channels: usize,
    to: *mut i16,
    step: usize,
) {
    let words = 2 * S::LANES;
    let mut c = 0;
    while c < channels {
        // The last vector overlaps the one before it and writes the same integers again.
        c = c.min(channels - words);
        let mut half = [[S::word(0); 4]; 4];
        for x in 0..4 {
            let mut column = [S::word(0); 4];
            for y in 0..4 {
                column[y] = S::widened(from[y * 4 + x].add(c));
            }
            let column = of_inputs::<S>(column);
            for y in 0..4 {
                half[y][x] = column[y];
            }
        }
        for y in 0..4 {
            let row = of_inputs::<S>(half[y]);
            for x in 0..4 {
                S::store_words(to.add((y * 4 + x) * step + c), row[x]);
            }
        }
        c += words;
    }
}

/// The transform of a vector of weights, along one axis, twice Winograd's.
#[inline(always)]
unsafe fn of_weights<S: Squares>(g: [S::W; 3]) -> [S::W; 4] {
    let outer = S::plus(g[0], g[2]);
    [S::plus(g[0], g[0]), S::plus(outer, g[1]), S::minus(outer, g[1]), S::plus(g[2], g[2])]
}

/// Transforms a panel of 3×3 kernels, `[position][four inputs][lane]` of signed bytes, to `[position][two
/// inputs][lane]` of 16 bits.
///
/// # Safety
/// `from` must be valid for `9 · 16 · fours` floats and `to` for `16 · 32 · fours`.
#[inline(always)]
pub(super) unsafe fn weights<S: Squares>(from: *const f32, fours: usize, to: *mut f32) {
    for at in (0..fours * 16).step_by(S::LANES) {
        let (four, lane) = (at / 16, at % 16);
        for two in 0..2 {
            let mut half = [[S::word(0); 3]; 4];
            for x in 0..3 {
                let mut column = [S::word(0); 3];
                for y in 0..3 {
                    let at = from.add(((y * 3 + x) * fours + four) * 16 + lane);
                    column[y] = S::two_of_four(at, two);
                }
                let column = of_weights::<S>(column);
                for y in 0..4 {
                    half[y][x] = column[y];
                }
            }
            for y in 0..4 {
                let row = of_weights::<S>(half[y]);
                for x in 0..4 {
                    let at = ((y * 4 + x) * 2 * fours + 2 * four + two) * 16 + lane;
                    S::store_words(to.add(at).cast(), row[x]);
                }
            }
        }
    }
}

/// The transform of products to sums, along one axis.
#[inline(always)]
unsafe fn of_products<S: Squares>(m: [S::Sums; 4]) -> [S::Sums; 2] {
    let (plus, minus) = (S::plus_sums(m[1], m[2]), S::minus_sums(m[1], m[2]));
    [S::plus_sums(m[0], plus), S::minus_sums(minus, m[3])]
}

/// Transforms `width` lanes of products, in steps of `step` floats, to the sums of 2×2 outputs, and adds
/// `start`.
///
/// # Safety
/// The width must be a multiple of a vector; `from` must be valid for 16 runs of so many 32-bit integers, and
/// `start` and each place of `to` for one.
#[inline(always)]
pub(super) unsafe fn outputs<S: Squares>(
    (from, step): (*const f32, usize),
    start: *const f32,
    to: [*mut f32; 4],
    width: usize,
) {
    for c in (0..width).step_by(S::LANES) {
        let start = S::load_sums(start.add(c));
        let mut half = [[start; 4]; 2];
        for x in 0..4 {
            let mut column = [start; 4];
            for y in 0..4 {
                column[y] = S::load_sums(from.add((y * 4 + x) * step + c));
            }
            let column = of_products::<S>(column);
            (half[0][x], half[1][x]) = (column[0], column[1]);
        }
        for y in 0..2 {
            let row = of_products::<S>(half[y]);
            for x in 0..2 {
                S::store_sums(to[y * 2 + x].add(c), S::plus_sums(S::quarter(row[x]), start));
            }
        }
    }
}
