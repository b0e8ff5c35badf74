//! Sums of bytes of the portable back end: both sides widened to 16 bits once for a layer, and pairs
//! multiplied and added by `wide`'s `i16x8::dot` (`pmaddwd`, NEON), in Wasm by [`super::wasm_words`].

use wide::i16x8;

#[cfg(not(all(target_family = "wasm", target_feature = "simd128")))]
use super::micro::Dot;
use super::simd::{Simd, Tile};
#[cfg(not(all(target_family = "wasm", target_feature = "simd128")))]
use wide::i32x4;

/// Most rows of a tile, which are summed two by two: eight sums, four weights, two inputs and a product fit
/// 16 registers.
pub(super) const ROWS: usize = 16;

/// The bytes 0 and 2 of four, each in 16 bits.
const EVEN: u32 = 0x00ff_00ff;

/// Two integers of 16 bits in place of four bytes, on both sides.
#[cfg(not(all(target_family = "wasm", target_feature = "simd128")))]
struct Words;

#[cfg(not(all(target_family = "wasm", target_feature = "simd128")))]
impl Dot for Words {
    type V = wide::f32x4;
    type Weights = i16x8;
    type Inputs = i16x8;

    #[inline(always)]
    unsafe fn weights(p: *const f32) -> i16x8 {
        p.cast::<i16x8>().read_unaligned()
    }
    #[inline(always)]
    unsafe fn inputs(p: *const f32) -> i16x8 {
        bytemuck::cast(i32x4::splat(p.cast::<i32>().read_unaligned()))
    }
    #[inline(always)]
    unsafe fn add(sums: wide::f32x4, inputs: i16x8, weights: i16x8) -> wide::f32x4 {
        let sums: i32x4 = bytemuck::cast(sums);
        bytemuck::cast(sums + inputs.dot(weights))
    }
}

#[cfg(all(target_family = "wasm", target_feature = "simd128"))]
#[inline(never)]
unsafe fn sum_words<S: Simd<V = wide::f32x4>, const VECTORS: usize>(tile: &Tile, rows: usize) {
    super::wasm_words::sum::<VECTORS>(tile, rows);
}

#[cfg(not(all(target_family = "wasm", target_feature = "simd128")))]
#[inline(never)]
unsafe fn sum_words<S: Simd<V = wide::f32x4>, const VECTORS: usize>(tile: &Tile, rows: usize) {
    use super::dot::sum;
    let mut tile = *tile;
    for _ in 0..rows / 2 {
        sum::<S, Words, 2, VECTORS>(&tile);
        tile.a = tile.a.wrapping_add(2 * tile.a_step);
        tile.out = tile.out.wrapping_add(2 * tile.out_step);
    }
    if rows % 2 == 1 {
        sum::<S, Words, 1, VECTORS>(&tile);
    }
}

/// Runs the micro-kernel.
pub(super) unsafe fn sum_tile<S: Simd<V = wide::f32x4>>(tile: &Tile, rows: usize, vectors: usize) {
    debug_assert!(tile.is_widened, "sums of bytes are widened");
    match vectors {
        4 => sum_words::<S, 4>(tile, rows),
        2 => sum_words::<S, 2>(tile, rows),
        _ => sum_words::<S, 1>(tile, rows),
    }
}

/// Widens `len` floats of four unsigned bytes: the bytes 0 and 2 come before 1 and 3.
pub(super) unsafe fn widen_inputs(from: *const f32, len: usize, to: *mut f32) {
    for at in 0..len {
        let four = from.add(at).cast::<u32>().read_unaligned();
        let words = u64::from(four & EVEN) | u64::from(four >> 8 & EVEN) << 32;
        to.add(2 * at).cast::<u64>().write_unaligned(words);
    }
}

/// Widens `rows` rows of 16 lanes of four signed bytes: the bytes 0 and 2 of each lane to one row, the others
/// to the next.
pub(super) unsafe fn widen_weights(from: *const f32, rows: usize, to: *mut f32) {
    for at in (0..rows * 16).step_by(4) {
        let fours = from.add(at).cast::<i16x8>().read_unaligned();
        let to = to.add(at / 16 * 32 + at % 16);
        to.cast::<i16x8>().write_unaligned((fours << 8) >> 8);
        to.add(16).cast::<i16x8>().write_unaligned(fours >> 8);
    }
}
