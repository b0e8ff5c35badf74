//! Back ends for x86-64, chosen at run time: AVX-512 (F, VL, DQ), and AVX2 with FMA.
//!
//! Both add and multiply in the same order. Results differ in the last bits because AVX-512 computes an
//! inverse by an estimate and a Newton step, several times faster than a division.

use std::arch::asm;
use std::arch::x86_64::*;

use super::finish::finish_sums;
use super::math;
use super::micro::{multiply, pick_tile};
use super::simd::{ActivateRows, ActivateRun, Finish, FinishSums, Simd, Tile};
use super::{squares, x86_dot};
use crate::plan::Activation;

/// Coefficients of `2^f` for `f` from 0 to 1, lowest first; off by at most 7.5e-05 of the value.
const SHORT_EXP2: [f32; 4] = [0.999_925_2, 0.695_833_5, 0.226_067_2, 0.078_024_51];

/// Defines `short_silu` by the instructions of AVX-512 that take a fraction, scale by a power of two, and
/// estimate a reciprocal.
macro_rules! short_silu {
    ($fraction:expr, $scale:expr, $reciprocal:expr) => {
        #[inline(always)]
        unsafe fn short_silu(x: Self::V) -> Option<Self::V> {
            // 2^t = 2^fraction · 2^whole; scaling multiplies by the whole power and saturates.
            let t = Self::mul(x, Self::splat(-std::f32::consts::LOG2_E));
            let fraction = $fraction(t);
            let mut p = Self::splat(SHORT_EXP2[3]);
            p = Self::fma(p, fraction, Self::splat(SHORT_EXP2[2]));
            p = Self::fma(p, fraction, Self::splat(SHORT_EXP2[1]));
            p = Self::fma(p, fraction, Self::splat(SHORT_EXP2[0]));
            let divisor = Self::add(Self::splat(1.0), $scale(p, t));
            Some(Self::mul(x, $reciprocal(divisor)))
        }
    };
}

/// 8 lanes, 16 registers.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Avx2;

/// 16 lanes, 32 registers.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Avx512;

/// 8 lanes with AVX-512, whose 32 registers allow more rows.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Avx512Half;

/// The operations of the two back ends with eight lanes.
macro_rules! eight_lanes {
    () => {
        type V = __m256;
        const LANES: usize = 8;

        #[inline(always)]
        unsafe fn splat(x: f32) -> __m256 {
            _mm256_set1_ps(x)
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> __m256 {
            _mm256_loadu_ps(p)
        }
        #[inline(always)]
        unsafe fn load_i16(p: *const i16) -> __m256 {
            _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(_mm_loadu_si128(p.cast())))
        }
        #[inline(always)]
        unsafe fn from_integers(v: __m256) -> __m256 {
            _mm256_cvtepi32_ps(_mm256_castps_si256(v))
        }
        #[inline(always)]
        unsafe fn store_bytes(p: *mut u8, v: __m256) {
            let bytes = _mm256_and_si256(_mm256_castps_si256(v), _mm256_set1_epi32(255));
            let (low, high) = (_mm256_castsi256_si128(bytes), _mm256_extracti128_si256::<1>(bytes));
            let pairs = _mm_packus_epi32(low, high);
            _mm_storel_epi64(p.cast(), _mm_packus_epi16(pairs, pairs));
        }
        #[inline(always)]
        unsafe fn store(p: *mut f32, v: __m256) {
            _mm256_storeu_ps(p, v);
        }
        #[inline(always)]
        unsafe fn add(a: __m256, b: __m256) -> __m256 {
            _mm256_add_ps(a, b)
        }
        #[inline(always)]
        unsafe fn sub(a: __m256, b: __m256) -> __m256 {
            _mm256_sub_ps(a, b)
        }
        #[inline(always)]
        unsafe fn mul(a: __m256, b: __m256) -> __m256 {
            _mm256_mul_ps(a, b)
        }
        #[inline(always)]
        unsafe fn div(a: __m256, b: __m256) -> __m256 {
            _mm256_div_ps(a, b)
        }
        #[inline(always)]
        unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
            _mm256_fmadd_ps(a, b, c)
        }
        #[inline(always)]
        unsafe fn max(a: __m256, b: __m256) -> __m256 {
            _mm256_max_ps(a, b)
        }
        #[inline(always)]
        unsafe fn min(a: __m256, b: __m256) -> __m256 {
            _mm256_min_ps(a, b)
        }
        #[inline(always)]
        unsafe fn sqrt(a: __m256) -> __m256 {
            _mm256_sqrt_ps(a)
        }
        #[inline(always)]
        unsafe fn scale(p: __m256, shifted: __m256) -> __m256 {
            let exponent = _mm256_slli_epi32::<23>(_mm256_castps_si256(shifted));
            _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), exponent))
        }
        #[inline(always)]
        fn prefetch(p: *const f32) {
            // SAFETY: a prefetch affects only the caches, even at an invalid address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
        }
        #[inline(always)]
        unsafe fn where_greater(a: __m256, b: __m256, yes: __m256, no: __m256) -> __m256 {
            _mm256_blendv_ps(no, yes, _mm256_cmp_ps::<_CMP_GT_OQ>(a, b))
        }
    };
}

impl Simd for Avx2 {
    type Half = Self;
    const ROWS: usize = 6;
    const SUM_ROWS: usize = x86_dot::AVX2_ROWS;
    const VECTORS: usize = 2;
    const ACTIVATE_RUN: ActivateRun = activate_run_avx2;
    const ACTIVATE_ROWS: ActivateRows = activate_rows_avx2;
    const FINISH_SUMS: FinishSums = finish_sums_avx2;
    eight_lanes!();

    #[allow(clippy::pointers_in_nomem_asm_block, reason = "it reads nothing through the pointer")]
    #[inline(always)]
    unsafe fn rows<const ROWS: usize>(a: *const f32, a_step: usize) -> [*const f32; ROWS] {
        std::array::from_fn(|r| {
            let mut row = a.add(r * a_step);
            // This emits no instruction, but hides from the compiler that the rows are equally far apart:
            // it keeps one register for each row instead of computing addresses for every input.
            asm!("/* {row} */", row = inout(reg) row, options(pure, nomem, nostack, preserves_flags));
            row
        })
    }

    #[inline(always)]
    unsafe fn multiply(tile: &Tile, rows: usize, vectors: usize) {
        pick_tile!(multiply_avx2, tile, rows, vectors;
            1 => [1 2 3 4 5 6] 2 => [1 2 3 4 5 6]);
    }
    #[inline(always)]
    unsafe fn sum(tile: &Tile, rows: usize, vectors: usize) {
        x86_dot::avx2::<Self>(tile, rows, vectors);
    }
    #[inline(always)]
    fn widens(is_narrow: bool) -> bool {
        !is_narrow
    }
    #[inline(always)]
    unsafe fn widen_inputs(from: *const f32, len: usize, to: *mut f32) {
        x86_dot::widen_inputs(from, len, to);
    }
    #[inline(always)]
    unsafe fn widen_weights(from: *const f32, rows: usize, to: *mut f32) {
        x86_dot::widen_weights(from, rows, to);
    }
    #[inline(always)]
    unsafe fn transform_bytes(from: &[*const u8; 16], channels: usize, to: *mut i16, step: usize) {
        squares::inputs::<Self>(from, channels, to, step);
    }
    #[inline(always)]
    unsafe fn transform_weights(from: *const f32, fours: usize, to: *mut f32) {
        squares::weights::<Self>(from, fours, to);
    }
    #[inline(always)]
    unsafe fn transform_products(
        from: (*const f32, usize),
        start: *const f32,
        to: [*mut f32; 4],
        width: usize,
    ) {
        squares::outputs::<Self>(from, start, to, width);
    }
}

impl Simd for Avx512Half {
    type Half = Self;
    const REGISTERS: usize = 32;
    const ROWS: usize = 14;
    const SUM_ROWS: usize = Self::ROWS;
    const VECTORS: usize = 2;
    const ACTIVATE_RUN: ActivateRun = activate_run_avx512_half;
    const ACTIVATE_ROWS: ActivateRows = activate_rows_avx512_half;
    const FINISH_SUMS: FinishSums = finish_sums_avx512_half;
    eight_lanes!();

    short_silu!(_mm256_reduce_ps::<1>, _mm256_scalef_ps, _mm256_rcp14_ps);

    #[inline(always)]
    unsafe fn multiply(tile: &Tile, rows: usize, vectors: usize) {
        pick_tile!(multiply_avx512_half, tile, rows, vectors;
            1 => [1 2 3 4 5 6 7 8 9 10 11 12 13 14] 2 => [1 2 3 4 5 6 7 8 9 10 11 12 13 14]);
    }
    #[inline(always)]
    unsafe fn sum(tile: &Tile, rows: usize, vectors: usize) {
        x86_dot::avx512_half::<Self>(tile, rows, vectors);
    }
}

impl Simd for Avx512 {
    type V = __m512;
    type Half = Avx512Half;
    const LANES: usize = 16;
    const REGISTERS: usize = 32;
    const ROWS: usize = 14;
    const SUM_ROWS: usize = Self::ROWS;
    const VECTORS: usize = 2;
    const ACTIVATE_RUN: ActivateRun = activate_run_avx512;
    const ACTIVATE_ROWS: ActivateRows = activate_rows_avx512;
    const FINISH_SUMS: FinishSums = finish_sums_avx512;

    #[inline(always)]
    unsafe fn splat(x: f32) -> __m512 {
        _mm512_set1_ps(x)
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m512 {
        _mm512_loadu_ps(p)
    }
    #[inline(always)]
    unsafe fn load_i16(p: *const i16) -> __m512 {
        _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm256_loadu_si256(p.cast())))
    }
    #[inline(always)]
    unsafe fn from_integers(v: __m512) -> __m512 {
        _mm512_cvtepi32_ps(_mm512_castps_si512(v))
    }
    #[inline(always)]
    unsafe fn store_bytes(p: *mut u8, v: __m512) {
        _mm_storeu_si128(p.cast(), _mm512_cvtepi32_epi8(_mm512_castps_si512(v)));
    }
    #[inline(always)]
    unsafe fn store_steps(p: *mut u8, steps: __m512, zero: f32) {
        // Too large numbers become the largest unsigned one or -2^31, which saturate to 255.
        let whole = _mm512_add_epi32(_mm512_cvtps_epi32(steps), _mm512_set1_epi32(zero as i32));
        _mm_storeu_si128(p.cast(), _mm512_cvtusepi32_epi8(whole));
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: __m512) {
        _mm512_storeu_ps(p, v);
    }
    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        _mm512_add_ps(a, b)
    }
    #[inline(always)]
    unsafe fn sub(a: __m512, b: __m512) -> __m512 {
        _mm512_sub_ps(a, b)
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        _mm512_mul_ps(a, b)
    }
    #[inline(always)]
    unsafe fn div(a: __m512, b: __m512) -> __m512 {
        _mm512_div_ps(a, b)
    }
    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        _mm512_fmadd_ps(a, b, c)
    }
    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        _mm512_max_ps(a, b)
    }
    #[inline(always)]
    unsafe fn min(a: __m512, b: __m512) -> __m512 {
        _mm512_min_ps(a, b)
    }
    #[inline(always)]
    unsafe fn sqrt(a: __m512) -> __m512 {
        _mm512_sqrt_ps(a)
    }
    #[inline(always)]
    unsafe fn scale(p: __m512, shifted: __m512) -> __m512 {
        let exponent = _mm512_slli_epi32::<23>(_mm512_castps_si512(shifted));
        _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p), exponent))
    }
    short_silu!(_mm512_reduce_ps::<1>, _mm512_scalef_ps, _mm512_rcp14_ps);

    #[inline(always)]
    unsafe fn quotient(a: __m512, b: __m512) -> __m512 {
        // The estimate has a relative error of 2^-14; one Newton step squares it.
        let estimate = _mm512_rcp14_ps(b);
        let rest = _mm512_fnmadd_ps(b, estimate, _mm512_set1_ps(2.0));
        _mm512_mul_ps(_mm512_mul_ps(a, estimate), rest)
    }
    #[inline(always)]
    fn prefetch(p: *const f32) {
        // SAFETY: a prefetch affects only the caches, even at an invalid address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[inline(always)]
    unsafe fn where_greater(a: __m512, b: __m512, yes: __m512, no: __m512) -> __m512 {
        _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b), no, yes)
    }

    #[inline(always)]
    unsafe fn multiply(tile: &Tile, rows: usize, vectors: usize) {
        pick_tile!(multiply_avx512, tile, rows, vectors;
            1 => [1 2 3 4 5 6 7 8 9 10 11 12 13 14] 2 => [1 2 3 4 5 6 7 8 9 10 11 12 13 14]
            4 => [1]);
    }
    #[inline(always)]
    unsafe fn sum(tile: &Tile, rows: usize, vectors: usize) {
        x86_dot::avx512::<Self>(tile, rows, vectors);
    }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn multiply_avx2<const ROWS: usize, const VECTORS: usize>(tile: &Tile) {
    multiply::<Avx2, ROWS, VECTORS>(tile);
}

#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx2,fma")]
unsafe fn multiply_avx512<const ROWS: usize, const VECTORS: usize>(tile: &Tile) {
    multiply::<Avx512, ROWS, VECTORS>(tile);
}

#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx2,fma")]
unsafe fn multiply_avx512_half<const ROWS: usize, const VECTORS: usize>(tile: &Tile) {
    multiply::<Avx512Half, ROWS, VECTORS>(tile);
}

/// Defines the activation functions of a back end.
macro_rules! activations {
    ($features:literal, $finish_features:literal, $back_end:ty, $run:ident, $rows:ident, $finish:ident) => {
        #[target_feature(enable = $features)]
        unsafe fn $run(activation: Activation, p: *mut f32, len: usize) {
            math::activate_run::<$back_end>(activation, p, len);
        }
        #[target_feature(enable = $features)]
        unsafe fn $rows(
            activation: Activation,
            from: *const f32,
            size: (usize, usize),
            to: *const *mut f32,
        ) {
            math::activate_rows::<$back_end>(activation, from, size, to);
        }
        #[target_feature(enable = $finish_features)]
        unsafe fn $finish(sums: *const f32, finish: &Finish) {
            finish_sums::<$back_end>(sums, finish);
        }
    };
}
activations!("avx2,fma", "avx2,fma", Avx2, activate_run_avx2, activate_rows_avx2, finish_sums_avx2);
activations!(
    "avx512f,avx512vl,avx512dq,avx2,fma",
    "avx512f,avx512vl,avx512dq,avx512bw,avx512vnni,avx2,fma",
    Avx512Half,
    activate_run_avx512_half,
    activate_rows_avx512_half,
    finish_sums_avx512_half
);
activations!(
    "avx512f,avx512vl,avx512dq,avx2,fma",
    "avx512f,avx512vl,avx512dq,avx512bw,avx512vnni,avx2,fma",
    Avx512,
    activate_run_avx512,
    activate_rows_avx512,
    finish_sums_avx512
);
