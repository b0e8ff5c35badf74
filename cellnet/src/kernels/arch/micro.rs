//! The micro-kernel: the loop that computes nearly all multiplications.
//!
//! `ROWS × VECTORS` accumulators stay in registers while the loop walks the inputs; each input costs one
//! load per weight vector and one broadcast per row, straight from the activations. The loop must contain
//! almost nothing else: when another hyperthread shares the core, instruction fetch is the limit and not
//! arithmetic, and five instructions of address arithmetic less made a network 10 % faster. Check the
//! generated code after a change: one accumulator spilled to the stack once cost a factor of 2.6
//! (`tests/instructions.rs` detects it).

use std::marker::PhantomData;
use std::mem::MaybeUninit;

use super::simd::{Simd, Tile};
use crate::plan::LINE;

/// Inputs per unrolled iteration, for weights in panels of [`PANEL`].
const UNROLLED: usize = 4;
/// Lanes of a wide panel. As a constant it needs no address arithmetic.
const PANEL: usize = 16;

/// How a back end multiplies and adds: floats, or bytes four at a time in the place of a float.
pub(super) trait Dot {
    /// Sums: the back end's vector of `f32`, which for bytes holds the bits of `i32`.
    type V: Copy;
    /// The weights of each lane for one input.
    type Weights: Copy;
    /// One input, repeated in each lane.
    type Inputs: Copy;

    /// Reads a vector of weights at `p`.
    unsafe fn weights(p: *const f32) -> Self::Weights;
    /// Reads an input at `p`.
    unsafe fn inputs(p: *const f32) -> Self::Inputs;
    /// Adds the products of each lane to `sums`.
    unsafe fn add(sums: Self::V, inputs: Self::Inputs, weights: Self::Weights) -> Self::V;
}

/// Floats, multiplied and added by the back end's own instruction.
struct Floats<S>(PhantomData<S>);

impl<S: Simd> Dot for Floats<S> {
    type V = S::V;
    type Weights = S::V;
    type Inputs = S::V;

    #[inline(always)]
    unsafe fn weights(p: *const f32) -> S::V {
        S::load(p)
    }
    #[inline(always)]
    unsafe fn inputs(p: *const f32) -> S::V {
        S::splat(*p)
    }
    #[inline(always)]
    unsafe fn add(sums: S::V, inputs: S::V, weights: S::V) -> S::V {
        S::fma(inputs, weights, sums)
    }
}

/// Multiplies one tile, or several that lie in line.
///
/// # Safety
/// Every address the tile describes (see [`Tile`]) must be valid for its access for `ROWS` rows of each tile
/// and `VECTORS` vectors; `out` must not overlap what is read. The machine must have the instruction set of
/// `S`.
#[inline(always)]
pub(in crate::kernels) unsafe fn multiply<S: Simd, const ROWS: usize, const VECTORS: usize>(
    tile: &Tile,
) {
    let mut place = Place { a: tile.a, out: tile.out, add: tile.add };
    let mut ahead = tile.ahead.0;
    let mut left = tile.repeat;
    loop {
        for _ in 0..tile.ahead.1 {
            S::prefetch(ahead);
            ahead = ahead.wrapping_add(LINE as usize);
        }
        multiply_one::<S, ROWS, VECTORS>(tile, place);
        left -= 1;
        if left == 0 {
            break;
        }
        place = place.after(tile, ROWS);
    }
}

/// Where a tile reads and writes.
#[derive(Clone, Copy)]
struct Place {
    a: *const f32,
    out: *mut f32,
    add: *const f32,
}

impl Place {
    /// The place `rows` rows further.
    #[inline(always)]
    unsafe fn after(self, tile: &Tile, rows: usize) -> Self {
        let add = if self.add.is_null() { self.add } else { self.add.add(rows * tile.add_step) };
        let (a, out) = (self.a.add(rows * tile.a_step), self.out.add(rows * tile.out_step));
        Self { a, out, add }
    }
}

#[inline(always)]
unsafe fn multiply_one<S: Simd, const ROWS: usize, const VECTORS: usize>(
    tile: &Tile,
    place: Place,
) {
    let mut acc = [[S::splat(0.0); VECTORS]; ROWS];
    if !tile.bias.is_null() {
        for v in 0..VECTORS {
            let bias = S::load(tile.bias.add(v * S::LANES));
            for row in &mut acc {
                row[v] = bias;
            }
        }
    }
    accumulate_from::<S, Floats<S>, ROWS, VECTORS>(&mut acc, tile, place.a);
    let clip = tile.clip.map(|(low, high)| (S::splat(low), S::splat(high)));
    for r in 0..ROWS {
        finish_row::<S, VECTORS>(tile, place, r, acc[r], clip);
    }
}

/// Adds, clips and stores a row of the result.
#[inline(always)]
unsafe fn finish_row<S: Simd, const VECTORS: usize>(
    tile: &Tile,
    place: Place,
    r: usize,
    mut row: [S::V; VECTORS],
    clip: Option<(S::V, S::V)>,
) {
    if !place.add.is_null() {
        for v in 0..VECTORS {
            row[v] = S::add(row[v], S::load(place.add.add(r * tile.add_step + v * S::LANES)));
        }
    }
    if let Some((low, high)) = clip {
        for v in 0..VECTORS {
            row[v] = S::min(S::max(row[v], low), high);
        }
    }
    for v in 0..VECTORS {
        S::store(place.out.add(r * tile.out_step + v * S::LANES), row[v]);
    }
}

/// Walks the inputs of a tile and adds their products to the accumulators.
///
/// # Safety
/// As for [`multiply`], for what the tile reads.
#[cfg(not(all(target_family = "wasm", target_feature = "simd128")))]
#[inline(always)]
pub(super) unsafe fn accumulate<
    S: Simd,
    D: Dot<V = S::V>,
    const ROWS: usize,
    const VECTORS: usize,
>(
    acc: &mut [[S::V; VECTORS]; ROWS],
    tile: &Tile,
) {
    accumulate_from::<S, D, ROWS, VECTORS>(acc, tile, tile.a);
}

/// As [`accumulate`], for activations from `first` on.
#[inline(always)]
unsafe fn accumulate_from<S: Simd, D: Dot<V = S::V>, const ROWS: usize, const VECTORS: usize>(
    acc: &mut [[S::V; VECTORS]; ROWS],
    tile: &Tile,
    first: *const f32,
) {
    let mut w: [*const f32; VECTORS] = std::array::from_fn(|v| tile.w.add(v * tile.w_vector));
    for y in 0..tile.y_runs {
        for x in 0..tile.x_runs {
            let a = first.add(y * tile.y_step + x * tile.x_step);
            let rows = S::rows::<ROWS>(a, tile.a_step);
            let mut i = 0;
            if tile.w_step == PANEL {
                while i + UNROLLED <= tile.run {
                    for u in 0..UNROLLED {
                        one_input::<D, ROWS, VECTORS>(acc, &rows, i + u, &w, u * PANEL);
                    }
                    for v in 0..VECTORS {
                        w[v] = w[v].add(UNROLLED * PANEL);
                    }
                    i += UNROLLED;
                }
            }
            while i < tile.run {
                one_input::<D, ROWS, VECTORS>(acc, &rows, i, &w, 0);
                for v in 0..VECTORS {
                    w[v] = w[v].add(tile.w_step);
                }
                i += 1;
            }
        }
    }
}

/// Adds input `i` of each row times its weights, `offset` floats from `w`, to the accumulators.
#[inline(always)]
unsafe fn one_input<D: Dot, const ROWS: usize, const VECTORS: usize>(
    acc: &mut [[D::V; VECTORS]; ROWS],
    rows: &[*const f32; ROWS],
    i: usize,
    w: &[*const f32; VECTORS],
    offset: usize,
) {
    let mut weights = [D::weights(w[0].add(offset)); VECTORS];
    for v in 1..VECTORS {
        weights[v] = D::weights(w[v].add(offset));
    }
    for r in 0..ROWS {
        let inputs = D::inputs(rows[r].add(i));
        for v in 0..VECTORS {
            acc[r][v] = D::add(acc[r][v], inputs, weights[v]);
        }
    }
}

/// Most rows of a tile with accumulators in memory.
pub(in crate::kernels) const ROWS_IN_MEMORY: usize = 16;

/// Multiplies one tile with the accumulators in memory, for Wasm. Between two jumps, Cranelift places all
/// loads first and arithmetic last, unless a store forces it earlier; with more live values than registers
/// it would spill weights, activations and accumulators alike. So this function loads one vector of two
/// rows, adds four inputs to it, and stores it, which needs 14 registers.
///
/// # Safety
/// Every address the tile describes (see [`Tile`]) must be valid for its access for `rows` rows of each tile,
/// at most [`ROWS_IN_MEMORY`], and `VECTORS` vectors, at most a panel; `out` must not overlap what is read.
/// The machine must have the instruction set of `S`.
#[inline(always)]
pub(in crate::kernels) unsafe fn multiply_in_memory<S: Simd, const VECTORS: usize>(
    tile: &Tile,
    rows: usize,
) {
    let mut place = Place { a: tile.a, out: tile.out, add: tile.add };
    let mut left = tile.repeat;
    loop {
        multiply_one_in_memory::<S, VECTORS>(tile, place, rows);
        left -= 1;
        if left == 0 {
            break;
        }
        place = place.after(tile, rows);
    }
}

#[inline(always)]
unsafe fn multiply_one_in_memory<S: Simd, const VECTORS: usize>(
    tile: &Tile,
    place: Place,
    rows: usize,
) {
    let mut acc = MaybeUninit::<[[f32; PANEL]; ROWS_IN_MEMORY]>::uninit();
    let acc: *mut f32 = acc.as_mut_ptr().cast();
    for r in 0..rows {
        for v in (0..VECTORS).map(|v| v * S::LANES) {
            let start = if tile.bias.is_null() { S::splat(0.0) } else { S::load(tile.bias.add(v)) };
            S::store(acc.add(r * PANEL + v), start);
        }
    }
    let mut w = tile.w;
    for y in 0..tile.y_runs {
        for x in 0..tile.x_runs {
            let a = place.a.add(y * tile.y_step + x * tile.x_step);
            let mut i = 0;
            while tile.w_step == PANEL && i + UNROLLED <= tile.run {
                let mut r = 0;
                while r + 2 <= rows {
                    let a = a.add(r * tile.a_step + i);
                    four_inputs::<S, VECTORS, 2>(acc.add(r * PANEL), (a, tile.a_step), w);
                    r += 2;
                }
                if r < rows {
                    let a = a.add(r * tile.a_step + i);
                    four_inputs::<S, VECTORS, 1>(acc.add(r * PANEL), (a, 0), w);
                }
                w = w.add(UNROLLED * PANEL);
                i += UNROLLED;
            }
            while i < tile.run {
                for r in 0..rows {
                    let value = S::splat(*a.add(r * tile.a_step + i));
                    for v in (0..VECTORS).map(|v| v * S::LANES) {
                        let sum = acc.add(r * PANEL + v);
                        S::store(sum, S::fma(value, S::load(w.add(v)), S::load(sum)));
                    }
                }
                w = w.add(tile.w_step);
                i += 1;
            }
        }
    }
    let clip = tile.clip.map(|(low, high)| (S::splat(low), S::splat(high)));
    for r in 0..rows {
        let row = std::array::from_fn(|v| S::load(acc.add(r * PANEL + v * S::LANES)));
        finish_row::<S, VECTORS>(tile, place, r, row, clip);
    }
}

/// Adds four inputs of `ROWS` rows, `a_step` floats apart, times their weights to the accumulators.
#[inline(always)]
unsafe fn four_inputs<S: Simd, const VECTORS: usize, const ROWS: usize>(
    acc: *mut f32,
    (a, a_step): (*const f32, usize),
    w: *const f32,
) {
    let values: [[S::V; UNROLLED]; ROWS] = std::array::from_fn(|r| S::spread(a.add(r * a_step)));
    for v in (0..VECTORS).map(|v| v * S::LANES) {
        let mut sums: [S::V; ROWS] = std::array::from_fn(|r| S::load(acc.add(r * PANEL + v)));
        for u in 0..UNROLLED {
            let weight = S::load(w.add(u * PANEL + v));
            for r in 0..ROWS {
                sums[r] = S::fma(weight, values[r][u], sums[r]);
            }
        }
        for r in 0..ROWS {
            S::store(acc.add(r * PANEL + v), sums[r]);
        }
    }
}

/// Picks the instance of a micro-kernel, of a named back end if there are several, for `rows` and `vectors`.
macro_rules! pick_tile {
    ($f:ident, $tile:expr, $rows:expr, $vectors:expr; $($v:literal => [$($r:literal)*])*) => {
        match ($vectors, $rows) {
            $($(($v, $r) => $f::<$r, $v>($tile),)*)*
            _ => debug_assert!(false, "no tile of {} rows and {} vectors", $rows, $vectors),
        }
    };
    ($f:ident<$s:ident>, $tile:expr, $rows:expr, $vectors:expr; $($v:literal => [$($r:literal)*])*) => {
        match ($vectors, $rows) {
            $($(($v, $r) => $f::<$s, $r, $v>($tile),)*)*
            _ => debug_assert!(false, "no tile of {} rows and {} vectors", $rows, $vectors),
        }
    };
}
pub(in crate::kernels) use pick_tile;
