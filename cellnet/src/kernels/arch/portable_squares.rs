//! The integers of F(2×2, 3×3) for the portable back end, with `wide`.

use wide::{i16x8, i32x4};

use super::portable::Portable;
use super::squares::Squares;

impl Squares for Portable {
    type Sums = i32x4;

    #[cfg(all(target_family = "wasm", target_feature = "simd128"))]
    #[inline(always)]
    unsafe fn widened(p: *const u8) -> i16x8 {
        super::wasm::widened(p)
    }
    #[cfg(not(all(target_family = "wasm", target_feature = "simd128")))]
    #[inline(always)]
    unsafe fn widened(p: *const u8) -> i16x8 {
        i16x8::new(p.cast::<[u8; 8]>().read_unaligned().map(i16::from))
    }
    #[inline(always)]
    unsafe fn two_of_four(p: *const f32, two: usize) -> i16x8 {
        let fours = p.cast::<i32x4>().read_unaligned();
        // The two bytes come to lie in the upper halves of 16 bits, and are shifted down with their signs.
        let upper = i32x4::splat(0xff00_0000_u32.cast_signed());
        let placed = if two == 0 {
            ((fours << 16) & upper) | ((fours << 8) & i32x4::splat(0xff00))
        } else {
            (fours & upper) | ((fours >> 8) & i32x4::splat(0xff00))
        };
        bytemuck::cast::<i32x4, i16x8>(placed) >> 8
    }
    #[inline(always)]
    unsafe fn store_words(p: *mut i16, w: i16x8) {
        p.cast::<i16x8>().write_unaligned(w);
    }
    #[inline(always)]
    unsafe fn load_sums(p: *const f32) -> i32x4 {
        p.cast::<i32x4>().read_unaligned()
    }
    #[inline(always)]
    unsafe fn plus_sums(a: i32x4, b: i32x4) -> i32x4 {
        a + b
    }
    #[inline(always)]
    unsafe fn minus_sums(a: i32x4, b: i32x4) -> i32x4 {
        a - b
    }
    #[inline(always)]
    unsafe fn quarter(a: i32x4) -> i32x4 {
        a >> 2
    }
    #[inline(always)]
    unsafe fn store_sums(p: *mut f32, a: i32x4) {
        p.cast::<i32x4>().write_unaligned(a);
    }
}
