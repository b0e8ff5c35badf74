//! Sums of bytes on x86-64: AVX-512 with VNNI, and AVX2 in 16 bits.

use std::arch::x86_64::*;

use super::dot::sum;
use super::micro::{Dot, pick_tile};
use super::simd::{Simd, Tile};

/// Most rows of a tile with AVX2: eight sums, four vectors of weights and two of inputs fit its registers.
pub(super) const AVX2_ROWS: usize = 4;

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
        _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(sums), fours))
    }
}

/// Any weights: both sides widened to 16 bits, bytes 0 and 2 apart from bytes 1 and 3.
struct Wide;

impl Dot for Wide {
    type V = __m256;
    type Weights = [__m256i; 2];
    type Inputs = [__m256i; 2];

    #[inline(always)]
    unsafe fn weights(p: *const f32) -> [__m256i; 2] {
        let fours = eight_fours(p);
        let even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(fours));
        [even, _mm256_srai_epi16::<8>(fours)]
    }
    #[inline(always)]
    unsafe fn inputs(p: *const f32) -> [__m256i; 2] {
        let four = one_four(p);
        [_mm256_and_si256(four, _mm256_set1_epi16(255)), _mm256_srli_epi16::<8>(four)]
    }
    #[inline(always)]
    unsafe fn add(sums: __m256, inputs: [__m256i; 2], weights: [__m256i; 2]) -> __m256 {
        let even = _mm256_madd_epi16(inputs[0], weights[0]);
        let odd = _mm256_madd_epi16(inputs[1], weights[1]);
        let sums = _mm256_add_epi32(_mm256_castps_si256(sums), even);
        _mm256_castsi256_ps(_mm256_add_epi32(sums, odd))
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
unsafe fn sum_wide<S: Simd<V = __m256>, const ROWS: usize, const VECTORS: usize>(tile: &Tile) {
    sum::<S, Wide, ROWS, VECTORS>(tile);
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
    if tile.is_narrow {
        pick_tile!(sum_narrow<S>, tile, rows, vectors; 1 => [1 2 3 4] 2 => [1 2 3 4]);
    } else {
        pick_tile!(sum_wide<S>, tile, rows, vectors; 1 => [1 2 3 4] 2 => [1 2 3 4]);
    }
}
