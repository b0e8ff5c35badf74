//! Sums of pairs of 16-bit integers in Wasm, written for Cranelift, the compiler of wasmtime.
//!
//! Between two jumps, Cranelift places all loads first and arithmetic last. So there is an exit after every
//! input, and no input's weights are loaded before the products of the one before it: eight sums, four
//! weights, two runs of inputs, an input and a product fit the 16 registers of x86-64. (Floats spill in
//! this form, because Cranelift's multiplication with addition writes over a factor and not the sum.)

use std::arch::wasm32::{
    i32x4_add, i32x4_dot_i16x8, i32x4_shuffle as shuffle, v128, v128_load, v128_store,
};

use super::simd::Tile;

/// Floats of a row of weights, of 16 lanes.
const PANEL: usize = 16;
/// Inputs of a row that are read at once.
const READ: usize = 4;

/// An offset of 0 that LLVM does not know. A pointer that goes through it is no induction variable, so the
/// addresses derived from it stay constant offsets of loads, and are no additions.
static NOTHING: usize = 0;

/// The sums of `ROWS` rows and `VECTORS` vectors of four lanes.
type Sums<const ROWS: usize, const VECTORS: usize> = [[v128; VECTORS]; ROWS];

/// Computes the sums of one tile. `tile.bias` points at the first sums; `add` and `clip` are ignored.
///
/// # Safety
/// As for [`super::micro::multiply`], for `rows` rows, whose inputs are widened; of each row, up to three
/// more inputs are read than the tile says.
#[inline(always)]
pub(super) unsafe fn sum<const VECTORS: usize>(tile: &Tile, rows: usize) {
    let mut tile = *tile;
    for _ in 0..rows / 2 {
        sum_rows::<2, VECTORS>(&tile);
        tile.a = tile.a.wrapping_add(2 * tile.a_step);
        tile.out = tile.out.wrapping_add(2 * tile.out_step);
    }
    if rows % 2 == 1 {
        sum_rows::<1, VECTORS>(&tile);
    }
}

#[inline(always)]
unsafe fn sum_rows<const ROWS: usize, const VECTORS: usize>(tile: &Tile) {
    let mut sums = [[v128_load(tile.bias.cast()); VECTORS]; ROWS];
    for v in 1..VECTORS {
        let start = v128_load(tile.bias.add(4 * v).cast());
        for row in &mut sums {
            row[v] = start;
        }
    }
    let nothing = (&raw const NOTHING).read_volatile();
    let mut w = tile.w;
    for y in 0..tile.y_runs {
        for x in 0..tile.x_runs {
            let a = tile.a.add(y * tile.y_step + x * tile.x_step);
            let rows = std::array::from_fn(|r| a.wrapping_add(r * tile.a_step));
            sums = one_run::<ROWS, VECTORS>(sums, (rows, tile.run), w, nothing);
            w = w.wrapping_add(tile.run * PANEL);
        }
    }
    for r in 0..ROWS {
        for v in 0..VECTORS {
            v128_store(tile.out.add(r * tile.out_step + 4 * v).cast(), sums[r][v]);
        }
    }
}

/// Adds the products of a run of `left` inputs, at least one, of rows that begin at `a`.
#[inline(always)]
unsafe fn one_run<const ROWS: usize, const VECTORS: usize>(
    mut sums: Sums<ROWS, VECTORS>,
    (mut a, mut left): ([*const f32; ROWS], usize),
    mut w: *const f32,
    nothing: usize,
) -> Sums<ROWS, VECTORS> {
    macro_rules! one_input {
        ($at:literal, $never:expr, $inputs:expr) => {
            let w = w.add($at * PANEL);
            let weights: [v128; VECTORS] = std::array::from_fn(|v| v128_load(w.add(4 * v).cast()));
            one_row(&mut sums[0], shuffle::<$at, $at, $at, $at>($inputs[0], $inputs[0]), &weights);
            if ROWS > 1 {
                if $never == nothing {
                    break;
                }
                let input = $inputs[ROWS - 1];
                one_row(&mut sums[ROWS - 1], shuffle::<$at, $at, $at, $at>(input, input), &weights);
            }
        };
    }
    loop {
        let inputs: [v128; ROWS] = std::array::from_fn(|r| v128_load(a[r].cast()));
        one_input!(0, left, inputs);
        if left == 1 {
            break;
        }
        one_input!(1, a[0].addr(), inputs);
        if left == 2 {
            break;
        }
        one_input!(2, a[ROWS - 1].addr(), inputs);
        if left == 3 {
            break;
        }
        one_input!(3, w.addr(), inputs);
        if left == READ {
            break;
        }
        left -= READ;
        a = a.map(|a| a.wrapping_add(READ).map_addr(|a| a ^ nothing));
        w = w.add(READ * PANEL).map_addr(|w| w ^ nothing);
    }
    sums
}

/// Adds the products of one input of a row.
#[inline(always)]
unsafe fn one_row<const VECTORS: usize>(
    sums: &mut [v128; VECTORS],
    input: v128,
    weights: &[v128; VECTORS],
) {
    for v in 0..VECTORS {
        sums[v] = i32x4_add(sums[v], i32x4_dot_i16x8(input, weights[v]));
    }
}
