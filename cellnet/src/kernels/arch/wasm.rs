//! What `wide` does lane by lane where Wasm has an instruction: narrowing, widening, and tables.

use std::arch::wasm32::{
    f32x4_convert_i32x4, f32x4_nearest, i8x16_shuffle, i8x16_swizzle, i16x8_narrow_i32x4,
    i16x8_shl, i16x8_splat, i32x4_load_extend_i16x4, u8x16_narrow_i16x8, u16x8_load_extend_u8x8,
    v128, v128_load, v128_or, v128_store32_lane,
};
use std::mem::transmute;

use wide::{f32x4, i16x8};

/// Sixteen integers: their lower bytes and their upper bytes.
pub(super) type Table = [v128; 2];

// `f32x4` and `i16x8` are transparent `v128` with simd128.

#[inline(always)]
pub(super) unsafe fn load_i16(p: *const i16) -> f32x4 {
    transmute::<v128, f32x4>(f32x4_convert_i32x4(i32x4_load_extend_i16x4(p)))
}

#[inline(always)]
pub(super) unsafe fn widened(p: *const u8) -> i16x8 {
    transmute::<v128, i16x8>(u16x8_load_extend_u8x8(p))
}

#[inline(always)]
pub(super) unsafe fn store_bytes(p: *mut u8, v: f32x4) {
    let v = transmute::<f32x4, v128>(v);
    let bytes = i8x16_shuffle::<0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12>(v, v);
    v128_store32_lane::<0>(bytes, p.cast());
}

#[inline(always)]
pub(super) unsafe fn words(a: f32x4, b: f32x4) -> i16x8 {
    let [a, b] = transmute::<[f32x4; 2], [v128; 2]>([a, b]);
    let [a, b] = [a, b].map(|v| truncated(f32x4_nearest(v)));
    transmute::<v128, i16x8>(i16x8_narrow_i32x4(a, b))
}

/// `a · b / 2^15`, rounded. The relaxed instruction differs between machines only where both are `i16::MIN`,
/// and one factor never is: it is a power of two up to 2^11, or a distance, or
/// [`crate::plan::fixed::ToSteps`]'.
#[cfg(target_feature = "relaxed-simd")]
#[inline(always)]
pub(super) unsafe fn product(a: i16x8, b: i16x8) -> i16x8 {
    let [a, b] = transmute::<[i16x8; 2], [v128; 2]>([a, b]);
    transmute::<v128, i16x8>(std::arch::wasm32::i16x8_relaxed_q15mulr(a, b))
}

/// Whole numbers as integers. The relaxed instruction is exact where they fit 32 bits, which the packer
/// ensures, and a quarter as long.
#[cfg(target_feature = "relaxed-simd")]
#[inline(always)]
unsafe fn truncated(v: v128) -> v128 {
    std::arch::wasm32::i32x4_relaxed_trunc_f32x4(v)
}
#[cfg(not(target_feature = "relaxed-simd"))]
#[inline(always)]
unsafe fn truncated(v: v128) -> v128 {
    std::arch::wasm32::i32x4_trunc_sat_f32x4(v)
}

#[inline(always)]
pub(super) unsafe fn table(entries: &'static [i16; 16]) -> Table {
    let first = v128_load(entries.as_ptr().cast());
    let last = v128_load(entries.as_ptr().add(8).cast());
    [
        i8x16_shuffle::<0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30>(first, last),
        i8x16_shuffle::<1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31>(first, last),
    ]
}

#[inline(always)]
pub(super) unsafe fn entries([lower, upper]: Table, index: i16x8) -> i16x8 {
    let index = transmute::<i16x8, v128>(index);
    // An index of 16 or more gives 0.
    let lower = i8x16_swizzle(lower, v128_or(index, i16x8_splat(i16::MIN)));
    let upper = i8x16_swizzle(upper, v128_or(i16x8_shl(index, 8), i16x8_splat(0x80)));
    transmute::<v128, i16x8>(v128_or(lower, upper))
}

#[inline(always)]
pub(super) unsafe fn store_words_as_bytes(w: i16x8, a: *mut u8, b: *mut u8) {
    let w = transmute::<i16x8, v128>(w);
    let bytes = u8x16_narrow_i16x8(w, w);
    v128_store32_lane::<0>(bytes, a.cast());
    v128_store32_lane::<1>(bytes, b.cast());
}
