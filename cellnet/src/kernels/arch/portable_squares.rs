//! Winograd's F(2×2, 3×3) on integers for the portable back end: the transforms of `x86_squares` with `wide`,
//! as exact as they are.

use wide::{i16x8, i32x4};

/// Integers of 16 bits in a vector.
const WORDS: usize = 8;

/// The transform of a vector of inputs, along one axis.
#[inline(always)]
fn of_inputs(d: [i16x8; 4]) -> [i16x8; 4] {
    [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]
}

/// Widens eight unsigned bytes.
#[inline(always)]
unsafe fn eight(p: *const u8) -> i16x8 {
    #[cfg(all(target_family = "wasm", target_feature = "simd128"))]
    {
        use std::arch::wasm32::{u16x8_load_extend_u8x8, v128};
        // `i16x8` is a transparent `v128` here.
        std::mem::transmute::<v128, i16x8>(u16x8_load_extend_u8x8(p))
    }
    #[cfg(not(all(target_family = "wasm", target_feature = "simd128")))]
    {
        i16x8::new(p.cast::<[u8; WORDS]>().read_unaligned().map(i16::from))
    }
}

/// Transforms a square of 4×4 pixels of unsigned bytes to 16 bits, in steps of `step` integers.
///
/// # Safety
/// Each pixel must be valid for `channels` bytes, at least 8, and `to` for 16 runs of as many integers.
pub(super) unsafe fn inputs(from: &[*const u8; 16], channels: usize, to: *mut i16, step: usize) {
    let mut c = 0;
    while c < channels {
        // The last vector overlaps the one before it and writes the same integers again.
        c = c.min(channels - WORDS);
        let mut half = [[i16x8::splat(0); 4]; 4];
        for x in 0..4 {
            let column = of_inputs(std::array::from_fn(|y| eight(from[y * 4 + x].add(c))));
            for y in 0..4 {
                half[y][x] = column[y];
            }
        }
        for y in 0..4 {
            let row = of_inputs(half[y]);
            for x in 0..4 {
                to.add((y * 4 + x) * step + c).cast::<i16x8>().write_unaligned(row[x]);
            }
        }
        c += WORDS;
    }
}

/// The transform of a vector of weights, along one axis, twice Winograd's.
#[inline(always)]
fn of_weights(g: [i16x8; 3]) -> [i16x8; 4] {
    let outer = g[0] + g[2];
    [g[0] + g[0], outer + g[1], outer - g[1], g[2] + g[2]]
}

/// Transforms a panel of 3×3 kernels, `[position][four inputs][lane]` of signed bytes, to `[position][two
/// inputs][lane]` of 16 bits.
///
/// # Safety
/// `from` must be valid for `9 · 16 · fours` floats and `to` for `16 · 32 · fours`.
pub(super) unsafe fn weights(from: *const f32, fours: usize, to: *mut f32) {
    for at in (0..fours * 16).step_by(4) {
        let (four, lane) = (at / 16, at % 16);
        for two in 0..2 {
            let mut half = [[i16x8::splat(0); 3]; 4];
            for x in 0..3 {
                let column = of_weights(std::array::from_fn(|y| {
                    two_of_four(from.add(((y * 3 + x) * fours + four) * 16 + lane), two)
                }));
                for y in 0..4 {
                    half[y][x] = column[y];
                }
            }
            for y in 0..4 {
                let row = of_weights(half[y]);
                for x in 0..4 {
                    let at = ((y * 4 + x) * 2 * fours + 2 * four + two) * 16 + lane;
                    to.add(at).cast::<i16x8>().write_unaligned(row[x]);
                }
            }
        }
    }
}

/// Widens the first or the last two of the four signed bytes of four lanes.
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

/// The transform of products to sums, along one axis.
#[inline(always)]
fn of_products(m: [i32x4; 4]) -> [i32x4; 2] {
    [m[0] + (m[1] + m[2]), (m[1] - m[2]) - m[3]]
}

/// Transforms `width` lanes of products, in steps of `step` floats, to the sums of 2×2 outputs, and adds
/// `start`.
///
/// # Safety
/// The width must be a multiple of four; `from` must be valid for 16 runs of so many 32-bit integers, and
/// `start` and each place of `to` for one.
pub(super) unsafe fn outputs(
    (from, step): (*const f32, usize),
    start: *const f32,
    to: [*mut f32; 4],
    width: usize,
) {
    for c in (0..width).step_by(4) {
        let mut half = [[i32x4::splat(0); 4]; 2];
        for x in 0..4 {
            let column = of_products(std::array::from_fn(|y| {
                from.add((y * 4 + x) * step + c).cast::<i32x4>().read_unaligned()
            }));
            (half[0][x], half[1][x]) = (column[0], column[1]);
        }
        let start = start.add(c).cast::<i32x4>().read_unaligned();
        for y in 0..2 {
            let row = of_products(half[y]);
            for x in 0..2 {
                let to = to[y * 2 + x].add(c).cast::<i32x4>();
                to.write_unaligned((row[x] >> 2) + start);
            }
        }
    }
}
