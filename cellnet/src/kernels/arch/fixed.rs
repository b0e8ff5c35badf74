//! SiLU in 16-bit integers with a fixed point: exact, so that all back ends give the same bits, and twice as
//! many lanes as floats.
//!
//! `silu(x) = max(x, 0) - bend(|x|)` with `bend(x) = x / (1 + e^x)`, which is below 0.28 and nearly 0 from 8
//! on. Sixteen parabolas of a width of 1/2, the last one bent to 0, give it within 1/200 (mostly far less).

use super::simd::{Finish, Simd};
use crate::plan::fixed;

/// The parabolas around 0, 1/2, 1, … 7 1/2, in 2^-16, by the distance from there in fourths: constant,
/// linear, quadratic. Fitted to minimise the largest error (Chebyshev nodes).
const BEND: [[i16; 16]; 3] = [
    [1, 12371, 17625, 17933, 15624, 12429, 9324, 6724, 4715, 3240, 2193, 1467, 972, 639, 418, 169],
    [
        8186, 4289, 1224, -643, -1467, -1619, -1440, -1152, -864, -623, -437, -300, -203, -136,
        -90, -169,
    ],
    [-1014, -900, -619, -322, -105, 16, 65, 75, 67, 53, 40, 29, 20, 14, 9, 0],
];

/// Vectors of 16-bit integers, twice as many as the back end has floats.
pub(in crate::kernels) trait Fixed: Simd {
    /// The integers.
    type W: Copy;
    /// A table of sixteen integers.
    type Table: Copy;

    /// Rounds the floats of two vectors, halves to even, and saturates them. The order of the integers is the
    /// back end's own.
    unsafe fn words(a: Self::V, b: Self::V) -> Self::W;
    /// All lanes `x`.
    unsafe fn word(x: i16) -> Self::W;
    /// `a + b`, modulo 2^16.
    unsafe fn plus(a: Self::W, b: Self::W) -> Self::W;
    /// `a - b`, modulo 2^16.
    unsafe fn minus(a: Self::W, b: Self::W) -> Self::W;
    /// The larger.
    unsafe fn larger(a: Self::W, b: Self::W) -> Self::W;
    /// `|a|` as an unsigned integer, or `most` if that is less.
    unsafe fn size(a: Self::W, most: Self::W) -> Self::W;
    /// `a · b`, modulo 2^16.
    unsafe fn low_product(a: Self::W, b: Self::W) -> Self::W;
    /// `a · b / 2^15`, rounded, halves up.
    unsafe fn product(a: Self::W, b: Self::W) -> Self::W;
    /// Loads a table.
    unsafe fn table(entries: &'static [i16; 16]) -> Self::Table;
    /// The entries at `index`, from 0 to 15.
    unsafe fn entries(table: Self::Table, index: Self::W) -> Self::W;
    /// Stores the integers of the first vector of [`Fixed::words`] at `a` and those of the second at `b`, as
    /// bytes, saturated.
    unsafe fn store_words_as_bytes(w: Self::W, a: *mut u8, b: *mut u8);
}

/// SiLU of integers with so many bits after the point.
#[derive(Clone, Copy)]
struct Silu<S: Fixed> {
    tables: [S::Table; 3],
    most: S::W,
    index: S::W,
    spread: S::W,
    unit: S::W,
}

/// `2^n` in all lanes.
#[inline(always)]
unsafe fn power<S: Fixed>(n: u32) -> S::W {
    S::word(1i16.unbounded_shl(n))
}

impl<S: Fixed> Silu<S> {
    /// `bits` is in [`crate::plan::fixed::BITS`].
    #[inline(always)]
    unsafe fn new(bits: u32) -> Self {
        // One unit below 7 3/4, where the last parabola ends.
        let most = 31i16.unbounded_shl(bits.saturating_sub(2)).wrapping_sub(1);
        Self {
            tables: [S::table(&BEND[0]), S::table(&BEND[1]), S::table(&BEND[2])],
            most: S::word(most),
            index: power::<S>(16u32.saturating_sub(bits)),
            spread: power::<S>(17u32.saturating_sub(bits)),
            unit: power::<S>(bits.saturating_sub(1)),
        }
    }

    #[inline(always)]
    unsafe fn of(&self, x: S::W) -> S::W {
        let size = S::size(x, self.most);
        // The nearest multiple of 1/2, and the distance from it: the lower bits, with their sign.
        let index = S::product(size, self.index);
        let far = S::low_product(size, self.spread);
        let slope = S::product(far, S::entries(self.tables[2], index));
        let slope = S::plus(S::entries(self.tables[1], index), slope);
        let bend = S::plus(S::entries(self.tables[0], index), S::product(far, slope));
        S::minus(S::larger(x, S::word(0)), S::product(bend, self.unit))
    }
}

/// What all outputs of a tile share.
struct Bytes<'a, S: Fixed> {
    sums: *const f32,
    finish: &'a Finish,
    silu: Silu<S>,
    steps: S::W,
    places: S::W,
    zero: S::W,
    /// Units in one.
    units: S::V,
}

impl<S: Fixed> Bytes<'_, S> {
    /// Factors and biases of a vector of columns in units, which is exact.
    #[inline(always)]
    unsafe fn column(&self, c: usize) -> (S::V, S::V) {
        let (factor, bias) = (self.finish.factors.add(c), self.finish.bias.add(c));
        (S::mul(S::load(factor), self.units), S::mul(S::load(bias), self.units))
    }

    #[inline(always)]
    unsafe fn value(&self, row: usize, c: usize, (factor, bias): (S::V, S::V)) -> S::V {
        let sum = S::load(self.sums.add(row * self.finish.size.1 + c));
        S::add(S::mul(S::from_integers(sum), factor), bias)
    }

    #[inline(always)]
    unsafe fn store(&self, a: S::V, b: S::V, to_a: *mut u8, to_b: *mut u8) {
        let y = self.silu.of(S::words(a, b));
        let whole = S::product(S::product(y, self.steps), self.places);
        S::store_words_as_bytes(S::plus(whole, self.zero), to_a, to_b);
    }
}

/// Finishes a tile of sums that become the bytes of their SiLU: in pairs of vectors, from one row, or from
/// two rows where the tile is as wide as a vector.
///
/// # Safety
/// As for [`super::finish::finish_sums`].
#[inline(always)]
pub(super) unsafe fn silu_bytes<S: Fixed>(sums: *const f32, finish: &Finish, bits: u8) {
    let (rows, width) = finish.size;
    let bytes = Bytes::<S> {
        sums,
        finish,
        silu: Silu::new(u32::from(bits)),
        steps: S::word(finish.steps.factor),
        places: power::<S>(15u32.saturating_sub(finish.steps.places)),
        zero: S::word(finish.zero as i16),
        units: S::splat(fixed::units(bits)),
    };
    let (to, to_step) = finish.bytes;
    let paired = width / (2 * S::LANES) * (2 * S::LANES);
    for c in (0..paired).step_by(2 * S::LANES) {
        let (first, second) = (bytes.column(c), bytes.column(c + S::LANES));
        for row in 0..rows {
            let (a, b) = (bytes.value(row, c, first), bytes.value(row, c + S::LANES, second));
            let to = to.add(row * to_step + c);
            bytes.store(a, b, to, to.add(S::LANES));
        }
    }
    if paired < width {
        let own = bytes.column(paired);
        for row in (0..rows).step_by(2) {
            let next = (row + 1).min(rows - 1);
            let (a, b) = (bytes.value(row, paired, own), bytes.value(next, paired, own));
            let to = to.add(paired);
            bytes.store(a, b, to.add(row * to_step), to.add(next * to_step));
        }
    }
}
