//! The portable back end on the crate `wide` (SSE2, NEON, Wasm simd128, or scalar code), and the one-lane
//! back end for channels that do not fill a vector.

use std::ptr;

use wide::{f32x4, i16x8, i32x4};

use super::finish;
use super::fixed::Fixed;
use super::math;
use super::micro::{ROWS_IN_MEMORY, multiply, multiply_in_memory, pick_tile};
use super::portable_words as words;
use super::simd::{ActivateRows, ActivateRun, Finish, FinishSums, Simd, Tile};
use super::squares;
#[cfg(all(target_family = "wasm", target_feature = "simd128"))]
use super::wasm;
use crate::plan::Activation;

/// Whether accumulators stay in memory.
const IN_MEMORY: bool = cfg!(target_family = "wasm");

/// 4 lanes.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Portable;

/// 1 lane.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Scalar;

impl Simd for Portable {
    type V = f32x4;
    type Half = Self;
    const LANES: usize = 4;
    // 12 accumulators, 4 weights: the 16 registers of SSE2.
    const ROWS: usize = match () {
        () if IN_MEMORY => ROWS_IN_MEMORY,
        () if cfg!(target_arch = "aarch64") => 6,
        () => 3,
    };
    const SUM_ROWS: usize = words::ROWS;
    const VECTORS: usize = 4;
    const ACTIVATE_RUN: ActivateRun = activate_run::<Self>;
    const ACTIVATE_ROWS: ActivateRows = activate_rows::<Self>;
    const FINISH_SUMS: FinishSums = finish_sums::<Self>;

    #[inline(always)]
    unsafe fn splat(x: f32) -> f32x4 {
        f32x4::splat(x)
    }
    #[cfg(all(target_family = "wasm", target_feature = "simd128"))]
    #[inline(always)]
    unsafe fn spread(p: *const f32) -> [f32x4; 4] {
        use std::arch::wasm32::{i32x4_shuffle as shuffle, v128, v128_load};
        use std::mem::transmute;
        // A scalar load and splat would go through a general-purpose register; this does not.
        let four = v128_load(p.cast());
        [
            transmute::<v128, f32x4>(shuffle::<0, 0, 0, 0>(four, four)),
            transmute::<v128, f32x4>(shuffle::<1, 1, 1, 1>(four, four)),
            transmute::<v128, f32x4>(shuffle::<2, 2, 2, 2>(four, four)),
            transmute::<v128, f32x4>(shuffle::<3, 3, 3, 3>(four, four)),
        ]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> f32x4 {
        f32x4::new(ptr::read_unaligned(p.cast::<[f32; 4]>()))
    }
    #[cfg(all(target_family = "wasm", target_feature = "simd128"))]
    #[inline(always)]
    unsafe fn load_i16(p: *const i16) -> f32x4 {
        wasm::load_i16(p)
    }
    #[cfg(not(all(target_family = "wasm", target_feature = "simd128")))]
    #[inline(always)]
    unsafe fn load_i16(p: *const i16) -> f32x4 {
        let four = ptr::read_unaligned(p.cast::<[i16; 4]>());
        i32x4::new(four.map(i32::from)).round_float()
    }
    #[inline(always)]
    unsafe fn from_integers(v: f32x4) -> f32x4 {
        bytemuck::cast::<f32x4, i32x4>(v).round_float()
    }
    #[cfg(all(target_family = "wasm", target_feature = "simd128"))]
    #[inline(always)]
    unsafe fn store_bytes(p: *mut u8, v: f32x4) {
        wasm::store_bytes(p, v);
    }
    #[cfg(not(all(target_family = "wasm", target_feature = "simd128")))]
    #[inline(always)]
    unsafe fn store_bytes(p: *mut u8, v: f32x4) {
        ptr::write_unaligned(p.cast::<[u8; 4]>(), v.to_array().map(|lane| lane.to_bits() as u8));
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: f32x4) {
        ptr::write_unaligned(p.cast::<[f32; 4]>(), v.to_array());
    }
    #[inline(always)]
    unsafe fn add(a: f32x4, b: f32x4) -> f32x4 {
        a + b
    }
    #[inline(always)]
    unsafe fn sub(a: f32x4, b: f32x4) -> f32x4 {
        a - b
    }
    #[inline(always)]
    unsafe fn mul(a: f32x4, b: f32x4) -> f32x4 {
        a * b
    }
    #[inline(always)]
    unsafe fn div(a: f32x4, b: f32x4) -> f32x4 {
        a / b
    }
    #[cfg(all(target_family = "wasm", target_feature = "relaxed-simd"))]
    #[inline(always)]
    unsafe fn fma(a: f32x4, b: f32x4, c: f32x4) -> f32x4 {
        use std::arch::wasm32::{f32x4_relaxed_madd, v128};
        use std::mem::transmute;
        // `f32x4` is a transparent `v128` here. Cranelift reuses the first factor's register.
        let [a, b, c] = transmute::<[f32x4; 3], [v128; 3]>([a, b, c]);
        transmute::<v128, f32x4>(f32x4_relaxed_madd(a, b, c))
    }
    #[cfg(not(all(target_family = "wasm", target_feature = "relaxed-simd")))]
    #[inline(always)]
    unsafe fn fma(a: f32x4, b: f32x4, c: f32x4) -> f32x4 {
        a.mul_add(b, c)
    }
    #[inline(always)]
    unsafe fn max(a: f32x4, b: f32x4) -> f32x4 {
        a.fast_max(b)
    }
    #[inline(always)]
    unsafe fn min(a: f32x4, b: f32x4) -> f32x4 {
        a.fast_min(b)
    }
    #[inline(always)]
    unsafe fn sqrt(a: f32x4) -> f32x4 {
        a.sqrt()
    }
    #[inline(always)]
    unsafe fn scale(p: f32x4, shifted: f32x4) -> f32x4 {
        let exponent: i32x4 = bytemuck::cast::<f32x4, i32x4>(shifted) << 23;
        bytemuck::cast(bytemuck::cast::<f32x4, i32x4>(p) + exponent)
    }
    #[inline(always)]
    unsafe fn where_greater(a: f32x4, b: f32x4, yes: f32x4, no: f32x4) -> f32x4 {
        a.simd_gt(b).select(yes, no)
    }

    #[inline(always)]
    unsafe fn multiply(tile: &Tile, rows: usize, vectors: usize) {
        if IN_MEMORY {
            return match vectors {
                4 => multiply_wasm::<4>(tile, rows),
                2 => multiply_wasm::<2>(tile, rows),
                _ => multiply_wasm::<1>(tile, rows),
            };
        }
        pick_tile!(multiply_portable, tile, rows, vectors;
            1 => [1 2 3 4 5 6] 2 => [1 2 3 4 5 6] 4 => [1 2 3 4 5 6]);
    }
    #[inline(always)]
    unsafe fn sum(tile: &Tile, rows: usize, vectors: usize) {
        words::sum_tile::<Self>(tile, rows, vectors);
    }
    #[inline(always)]
    fn widens(_: bool) -> bool {
        true
    }
    #[inline(always)]
    unsafe fn widen_inputs(from: *const f32, len: usize, to: *mut f32) {
        words::widen_inputs(from, len, to);
    }
    #[inline(always)]
    unsafe fn widen_weights(from: *const f32, rows: usize, to: *mut f32) {
        words::widen_weights(from, rows, to);
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
        products: (*const f32, usize),
        start: *const f32,
        to: [*mut f32; 4],
        width: usize,
    ) {
        squares::outputs::<Self>(products, start, to, width);
    }
}

#[inline(never)]
unsafe fn multiply_portable<const ROWS: usize, const VECTORS: usize>(tile: &Tile) {
    multiply::<Portable, ROWS, VECTORS>(tile);
}

#[inline(never)]
unsafe fn multiply_wasm<const VECTORS: usize>(tile: &Tile, rows: usize) {
    multiply_in_memory::<Portable, VECTORS>(tile, rows);
}

impl Simd for Scalar {
    type V = f32;
    type Half = Self;
    const LANES: usize = 1;
    const ROWS: usize = 1;
    const SUM_ROWS: usize = 1;
    const VECTORS: usize = 1;
    const ACTIVATE_RUN: ActivateRun = activate_run::<Self>;
    const ACTIVATE_ROWS: ActivateRows = activate_rows::<Self>;
    const FINISH_SUMS: FinishSums = no_sums;

    #[inline(always)]
    unsafe fn splat(x: f32) -> f32 {
        x
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> f32 {
        *p
    }
    #[inline(always)]
    unsafe fn load_i16(p: *const i16) -> f32 {
        f32::from(*p)
    }
    #[inline(always)]
    unsafe fn from_integers(v: f32) -> f32 {
        v.to_bits().cast_signed() as f32
    }
    #[inline(always)]
    unsafe fn store_bytes(p: *mut u8, v: f32) {
        *p = v.to_bits() as u8;
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: f32) {
        *p = v;
    }
    #[inline(always)]
    unsafe fn add(a: f32, b: f32) -> f32 {
        a + b
    }
    #[inline(always)]
    unsafe fn sub(a: f32, b: f32) -> f32 {
        a - b
    }
    #[inline(always)]
    unsafe fn mul(a: f32, b: f32) -> f32 {
        a * b
    }
    #[inline(always)]
    unsafe fn div(a: f32, b: f32) -> f32 {
        a / b
    }
    #[inline(always)]
    unsafe fn fma(a: f32, b: f32, c: f32) -> f32 {
        a * b + c
    }
    #[inline(always)]
    unsafe fn max(a: f32, b: f32) -> f32 {
        if a > b { a } else { b }
    }
    #[inline(always)]
    unsafe fn min(a: f32, b: f32) -> f32 {
        if a < b { a } else { b }
    }
    #[inline(always)]
    unsafe fn sqrt(a: f32) -> f32 {
        a.sqrt()
    }
    #[inline(always)]
    unsafe fn scale(p: f32, shifted: f32) -> f32 {
        f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 23))
    }
    #[inline(always)]
    unsafe fn where_greater(a: f32, b: f32, yes: f32, no: f32) -> f32 {
        if a > b { yes } else { no }
    }
    #[inline(always)]
    unsafe fn multiply(tile: &Tile, _: usize, _: usize) {
        multiply::<Self, 1, 1>(tile);
    }
    #[inline(always)]
    unsafe fn sum(_: &Tile, _: usize, _: usize) {
        debug_assert!(false, "convolutions use whole vectors");
    }
}

unsafe fn no_sums(_: *const f32, _: &Finish) {
    debug_assert!(false, "convolutions use whole vectors");
}

impl Fixed for Portable {
    type W = i16x8;
    #[cfg(all(target_family = "wasm", target_feature = "simd128"))]
    type Table = wasm::Table;
    #[cfg(not(all(target_family = "wasm", target_feature = "simd128")))]
    type Table = &'static [i16; 16];

    #[cfg(all(target_family = "wasm", target_feature = "simd128"))]
    #[inline(always)]
    unsafe fn words(a: f32x4, b: f32x4) -> i16x8 {
        wasm::words(a, b)
    }
    #[cfg(not(all(target_family = "wasm", target_feature = "simd128")))]
    #[inline(always)]
    unsafe fn words(a: f32x4, b: f32x4) -> i16x8 {
        let [a, b] = [a, b].map(|v| v.round_int().to_array());
        let lane = |n: usize| if n < 4 { a[n] } else { b[n - 4] };
        let saturated = |n: usize| lane(n).clamp(i32::from(i16::MIN), i32::from(i16::MAX)) as i16;
        i16x8::new(std::array::from_fn(saturated))
    }
    #[inline(always)]
    unsafe fn word(x: i16) -> i16x8 {
        i16x8::splat(x)
    }
    #[inline(always)]
    unsafe fn plus(a: i16x8, b: i16x8) -> i16x8 {
        a + b
    }
    #[inline(always)]
    unsafe fn minus(a: i16x8, b: i16x8) -> i16x8 {
        a - b
    }
    #[inline(always)]
    unsafe fn larger(a: i16x8, b: i16x8) -> i16x8 {
        a.max(b)
    }
    #[inline(always)]
    unsafe fn size(a: i16x8, most: i16x8) -> i16x8 {
        // Without the smallest integer, whose size has 17 bits.
        a.max(i16x8::splat(-i16::MAX)).abs().min(most)
    }
    #[inline(always)]
    unsafe fn low_product(a: i16x8, b: i16x8) -> i16x8 {
        a * b
    }
    #[cfg(all(target_family = "wasm", target_feature = "relaxed-simd"))]
    #[inline(always)]
    unsafe fn product(a: i16x8, b: i16x8) -> i16x8 {
        wasm::product(a, b)
    }
    #[cfg(not(all(target_family = "wasm", target_feature = "relaxed-simd")))]
    #[inline(always)]
    unsafe fn product(a: i16x8, b: i16x8) -> i16x8 {
        a.mul_scale_round(b)
    }
    #[cfg(all(target_family = "wasm", target_feature = "simd128"))]
    #[inline(always)]
    unsafe fn table(entries: &'static [i16; 16]) -> wasm::Table {
        wasm::table(entries)
    }
    #[cfg(not(all(target_family = "wasm", target_feature = "simd128")))]
    #[inline(always)]
    unsafe fn table(entries: &'static [i16; 16]) -> &'static [i16; 16] {
        entries
    }
    #[cfg(all(target_family = "wasm", target_feature = "simd128"))]
    #[inline(always)]
    unsafe fn entries(table: wasm::Table, index: i16x8) -> i16x8 {
        wasm::entries(table, index)
    }
    #[cfg(not(all(target_family = "wasm", target_feature = "simd128")))]
    #[inline(always)]
    unsafe fn entries(table: &'static [i16; 16], index: i16x8) -> i16x8 {
        i16x8::new(index.to_array().map(|index| table[(index & 15) as usize]))
    }
    #[cfg(all(target_family = "wasm", target_feature = "simd128"))]
    #[inline(always)]
    unsafe fn store_words_as_bytes(w: i16x8, a: *mut u8, b: *mut u8) {
        wasm::store_words_as_bytes(w, a, b);
    }
    #[cfg(not(all(target_family = "wasm", target_feature = "simd128")))]
    #[inline(always)]
    unsafe fn store_words_as_bytes(w: i16x8, a: *mut u8, b: *mut u8) {
        let bytes = w.to_array().map(|word| word.clamp(0, 255) as u8);
        let [first, second]: [[u8; 4]; 2] = bytemuck::cast(bytes);
        ptr::write_unaligned(a.cast(), first);
        ptr::write_unaligned(b.cast(), second);
    }
}

#[inline(never)]
unsafe fn finish_sums<S: Fixed>(sums: *const f32, finish: &Finish) {
    finish::finish_sums::<S>(sums, finish);
}

#[inline(never)]
unsafe fn activate_run<S: Simd>(activation: Activation, p: *mut f32, len: usize) {
    math::activate_run::<S>(activation, p, len);
}

#[inline(never)]
unsafe fn activate_rows<S: Simd>(
    activation: Activation,
    from: *const f32,
    size: (usize, usize),
    to: *const *mut f32,
) {
    math::activate_rows::<S>(activation, from, size, to);
}
