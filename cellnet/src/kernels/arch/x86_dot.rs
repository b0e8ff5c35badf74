//! Sums of bytes on x86-64: AVX-512 with VNNI, and AVX2 in 16 bits.

use std::arch::asm;
use std::arch::x86_64::*;

use super::dot::sum;
use super::micro::{Dot, pick_tile};
use super::simd::{Simd, Tile};

/// Most rows of a tile with AVX2: eight sums, four vectors of weights and two of inputs fit its registers.
pub(super) const AVX2_ROWS: usize = 4;

/// Floats of weights that are prefetched before they are widened.
const AHEAD: usize = 512;

/// One instruction for the four products of 16 lanes.
struct Vnni;

impl Dot for Vnni {
    type V = __m512;
    type Weights = __m512i;
    type Inputs = __m512i;

    #[inline(always)]
    unsafe fn weights(p: *const f32) -> __m512i {
        _mm512_loadu_si512(p.cast())
    }
    #[inline(always)]
    unsafe fn inputs(p: *const f32) -> __m512i {
        _mm512_set1_epi32(p.cast::<i32>().read_unaligned())
    }
    #[inline(always)]
    unsafe fn add(sums: __m512, inputs: __m512i, weights: __m512i) -> __m512 {
        _mm512_castsi512_ps(_mm512_dpbusd_epi32(_mm512_castps_si512(sums), inputs, weights))
    }
}

/// Reads the four bytes of each of 8 lanes.
#[inline(always)]
unsafe fn eight_fours(p: *const f32) -> __m256i {
    _mm256_loadu_si256(p.cast())
}

/// Reads four bytes and repeats them in 8 lanes.
#[inline(always)]
unsafe fn one_four(p: *const f32) -> __m256i {
    _mm256_set1_epi32(p.cast::<i32>().read_unaligned())
}

/// Adds products to 8 sums.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn added(sums: __m256, products: __m256i) -> __m256 {
    let mut sums = _mm256_add_epi32(_mm256_castps_si256(sums), products);
    // This emits no instruction, but hides from the compiler that it could add the products of several inputs
    // first: that needs more registers than there are, and it would keep sums on the stack.
    asm!("/* {sums} */", sums = inout(ymm_reg) sums, options(pure, nomem, nostack, preserves_flags));
    _mm256_castsi256_ps(sums)
}

/// The same for 8 lanes.
struct VnniHalf;

impl Dot for VnniHalf {
    type V = __m256;
    type Weights = __m256i;
    type Inputs = __m256i;

    #[inline(always)]
    unsafe fn weights(p: *const f32) -> __m256i {
        eight_fours(p)
    }
    #[inline(always)]
    unsafe fn inputs(p: *const f32) -> __m256i {
        one_four(p)
    }
    #[inline(always)]
    unsafe fn add(sums: __m256, inputs: __m256i, weights: __m256i) -> __m256 {
        _mm256_castsi256_ps(_mm256_dpbusd_epi32(_mm256_castps_si256(sums), inputs, weights))
    }
}

/// Weights within ±64: the sum of two products fits 16 bits.
struct Narrow;

impl Dot for Narrow {
    type V = __m256;
    type Weights = __m256i;
    type Inputs = __m256i;

    #[inline(always)]
    unsafe fn weights(p: *const f32) -> __m256i {
        eight_fours(p)
    }
    #[inline(always)]
    unsafe fn inputs(p: *const f32) -> __m256i {
        one_four(p)
    }
    #[inline(always)]
    unsafe fn add(sums: __m256, inputs: __m256i, weights: __m256i) -> __m256 {
        let pairs = _mm256_maddubs_epi16(inputs, weights);
        let fours = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
        added(sums, fours)
    }
}

/// Two integers of 16 bits in place of four bytes, on both sides.
struct Words;

impl Dot for Words {
    type V = __m256;
    type Weights = __m256i;
    type Inputs = __m256i;

    #[inline(always)]
    unsafe fn weights(p: *const f32) -> __m256i {
        eight_fours(p)
    }
    #[inline(always)]
    unsafe fn inputs(p: *const f32) -> __m256i {
        one_four(p)
    }
    #[inline(always)]
    unsafe fn add(sums: __m256, inputs: __m256i, weights: __m256i) -> __m256 {
        added(sums, _mm256_madd_epi16(inputs, weights))
    }
}

/// Widens `len` floats of four unsigned bytes.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn widen_inputs(from: *const f32, len: usize, to: *mut f32) {
    let (whole, rest) = (len / 4 * 4, len % 4);
    for at in (0..whole).step_by(4) {
        let words = _mm256_cvtepu8_epi16(_mm_loadu_si128(from.add(at).cast()));
        _mm256_storeu_si256(to.add(2 * at).cast(), words);
    }
    for at in whole..whole + rest {
        let words =
            _mm_cvtepu8_epi16(_mm_cvtsi32_si128(from.add(at).cast::<i32>().read_unaligned()));
        _mm_storel_epi64(to.add(2 * at).cast(), words);
    }
}

/// Widens `rows` rows of 16 lanes of four signed bytes: the first two of each lane to one row, the others to
/// the next.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn widen_weights(from: *const f32, rows: usize, to: *mut f32) {
    // A byte in the upper half of 16 bits is shifted down with its sign.
    const NONE: i8 = -1;
    let upper = |first: i8| {
        let four = |lane: i8| [NONE, 4 * lane + first, NONE, 4 * lane + first + 1];
        let lanes = [four(0), four(1), four(2), four(3), four(0), four(1), four(2), four(3)];
        _mm256_loadu_si256(lanes.as_ptr().cast())
    };
    let (first, second) = (upper(0), upper(2));
    for at in (0..rows * 16).step_by(8) {
        // The next panels are in memory; a prefetch affects only the caches, even at an invalid address.
        _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(at + AHEAD).cast());
        let fours = eight_fours(from.add(at));
        let to = to.add(at / 16 * 32 + at % 16).cast::<__m256i>();
        let words = |which| _mm256_srai_epi16::<8>(_mm256_shuffle_epi8(fours, which));
        _mm256_storeu_si256(to, words(first));
        _mm256_storeu_si256(to.add(2), words(second));
    }
}

#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512vnni,avx2,fma")]
unsafe fn sum_vnni<S: Simd<V = __m512>, const ROWS: usize, const VECTORS: usize>(tile: &Tile) {
    sum::<S, Vnni, ROWS, VECTORS>(tile);
}

#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512vnni,avx2,fma")]
unsafe fn sum_vnni_half<S: Simd<V = __m256>, const ROWS: usize, const VECTORS: usize>(tile: &Tile) {
    sum::<S, VnniHalf, ROWS, VECTORS>(tile);
}

#[target_feature(enable = "avx2,fma")]
unsafe fn sum_narrow<S: Simd<V = __m256>, const ROWS: usize, const VECTORS: usize>(tile: &Tile) {
    sum::<S, Narrow, ROWS, VECTORS>(tile);
}

#[target_feature(enable = "avx2,fma")]
unsafe fn sum_words<S: Simd<V = __m256>, const ROWS: usize, const VECTORS: usize>(tile: &Tile) {
    sum::<S, Words, ROWS, VECTORS>(tile);
}

/// Runs the micro-kernel of AVX-512, on a machine with VNNI.
pub(super) unsafe fn avx512<S: Simd<V = __m512>>(tile: &Tile, rows: usize, vectors: usize) {
    pick_tile!(sum_vnni<S>, tile, rows, vectors;
        1 => [1 2 3 4 5 6 7 8 9 10 11 12 13 14] 2 => [1 2 3 4 5 6 7 8 9 10 11 12 13 14] 4 => [1]);
}

/// The same for half a vector.
pub(super) unsafe fn avx512_half<S: Simd<V = __m256>>(tile: &Tile, rows: usize, vectors: usize) {
    pick_tile!(sum_vnni_half<S>, tile, rows, vectors;
        1 => [1 2 3 4 5 6 7 8 9 10 11 12 13 14] 2 => [1 2 3 4 5 6 7 8 9 10 11 12 13 14]);
}

/// Runs the micro-kernel of AVX2.
pub(super) unsafe fn avx2<S: Simd<V = __m256>>(tile: &Tile, rows: usize, vectors: usize) {
    debug_assert!(
        tile.is_narrow != tile.is_widened,
        "bytes of wide weights, or words of narrow ones"
    );
    if tile.is_narrow {
        pick_tile!(sum_narrow<S>, tile, rows, vectors; 1 => [1 2 3 4] 2 => [1 2 3 4]);
    } else {
        pick_tile!(sum_words<S>, tile, rows, vectors; 1 => [1 2 3 4] 2 => [1 2 3 4]);
    }
}
