//! Winograd's F(2×2, 3×3) on integers with AVX2: transforms of bytes, of whole weights and of sums.
//!
//! Twice Winograd's matrix of the weights has whole entries, so that all is exact: transformed inputs are
//! within ±1020, transformed weights, four times Winograd's, within ±1152, and the results are four times the
//! sums.

use std::arch::x86_64::*;

/// Integers of 16 bits in a vector.
const WORDS: usize = 16;

/// The transform of a vector of inputs, along one axis.
#[inline]
#[target_feature(enable = "avx2")]
fn of_inputs(d: [__m256i; 4]) -> [__m256i; 4] {
    [
        _mm256_sub_epi16(d[0], d[2]),
        _mm256_add_epi16(d[1], d[2]),
        _mm256_sub_epi16(d[2], d[1]),
        _mm256_sub_epi16(d[1], d[3]),
    ]
}

/// Transforms a square of 4×4 pixels of unsigned bytes to 16 bits, in steps of `step` integers.
///
/// # Safety
/// Each pixel must be valid for `channels` bytes, at least 16, and `to` for 16 runs of as many integers.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn inputs(from: &[*const u8; 16], channels: usize, to: *mut i16, step: usize) {
    let mut c = 0;
    while c < channels {
        // The last vector overlaps the one before it and writes the same integers again.
        c = c.min(channels - WORDS);
        let mut half = [[_mm256_setzero_si256(); 4]; 4];
        for x in 0..4 {
            let mut column = [_mm256_setzero_si256(); 4];
            for y in 0..4 {
                let bytes = _mm_loadu_si128(from[y * 4 + x].add(c).cast());
                column[y] = _mm256_cvtepu8_epi16(bytes);
            }
            let column = of_inputs(column);
            for y in 0..4 {
                half[y][x] = column[y];
            }
        }
        for y in 0..4 {
            let row = of_inputs(half[y]);
            for x in 0..4 {
                _mm256_storeu_si256(to.add((y * 4 + x) * step + c).cast(), row[x]);
            }
        }
        c += WORDS;
    }
}

/// The transform of a vector of weights, along one axis, twice Winograd's.
#[inline]
#[target_feature(enable = "avx2")]
fn of_weights(g: [__m256i; 3]) -> [__m256i; 4] {
    let outer = _mm256_add_epi16(g[0], g[2]);
    [
        _mm256_add_epi16(g[0], g[0]),
        _mm256_add_epi16(outer, g[1]),
        _mm256_sub_epi16(outer, g[1]),
        _mm256_add_epi16(g[2], g[2]),
    ]
}

/// Transforms a panel of 3×3 kernels, `[position][four inputs][lane]` of signed bytes, to `[position][two
/// inputs][lane]` of 16 bits.
///
/// # Safety
/// `from` must be valid for `9 · 16 · fours` floats and `to` for `16 · 32 · fours`.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn weights(from: *const f32, fours: usize, to: *mut f32) {
    // A byte in the upper half of 16 bits is shifted down with its sign.
    let upper = |first: i8| {
        let four = |lane: i8| [-1, 4 * lane + first, -1, 4 * lane + first + 1];
        let lanes = [four(0), four(1), four(2), four(3), four(0), four(1), four(2), four(3)];
        _mm256_loadu_si256(lanes.as_ptr().cast())
    };
    let which = [upper(0), upper(2)];
    for four in 0..fours {
        for (lane, two) in [(0, 0), (0, 1), (8, 0), (8, 1)] {
            let mut half = [[_mm256_setzero_si256(); 3]; 4];
            for x in 0..3 {
                let mut column = [_mm256_setzero_si256(); 3];
                for y in 0..3 {
                    let at = from.add(((y * 3 + x) * fours + four) * 16 + lane);
                    let bytes = _mm256_shuffle_epi8(_mm256_loadu_si256(at.cast()), which[two]);
                    column[y] = _mm256_srai_epi16::<8>(bytes);
                }
                let column = of_weights(column);
                for y in 0..4 {
                    half[y][x] = column[y];
                }
            }
            for y in 0..4 {
                let row = of_weights(half[y]);
                for x in 0..4 {
                    let at = ((y * 4 + x) * 2 * fours + 2 * four + two) * 16 + lane;
                    _mm256_storeu_si256(to.add(at).cast(), row[x]);
                }
            }
        }
    }
}

/// The transform of products to sums, along one axis.
#[inline]
#[target_feature(enable = "avx2")]
fn of_products(m: [__m256i; 4]) -> [__m256i; 2] {
    let (plus, minus) = (_mm256_add_epi32(m[1], m[2]), _mm256_sub_epi32(m[1], m[2]));
    [_mm256_add_epi32(m[0], plus), _mm256_sub_epi32(minus, m[3])]
}

/// Transforms `width` lanes of products, in steps of `step` floats, to the sums of 2×2 outputs, and adds
/// `start`.
///
/// # Safety
/// The width must be a multiple of eight; `from` must be valid for 16 runs of so many 32-bit integers, and
/// `start` and each place of `to` for one.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn outputs(
    (from, step): (*const f32, usize),
    start: *const f32,
    to: [*mut f32; 4],
    width: usize,
) {
    for c in (0..width).step_by(8) {
        let mut half = [[_mm256_setzero_si256(); 4]; 2];
        for x in 0..4 {
            let mut column = [_mm256_setzero_si256(); 4];
            for y in 0..4 {
                column[y] = _mm256_loadu_si256(from.add((y * 4 + x) * step + c).cast());
            }
            let column = of_products(column);
            (half[0][x], half[1][x]) = (column[0], column[1]);
        }
        let start = _mm256_loadu_si256(start.add(c).cast());
        for y in 0..2 {
            let row = of_products(half[y]);
            for x in 0..2 {
                let sums = _mm256_add_epi32(_mm256_srai_epi32::<2>(row[x]), start);
                _mm256_storeu_si256(to[y * 2 + x].add(c).cast(), sums);
            }
        }
    }
}
