//! The micro-kernel: the one loop nearly all multiplications go through.
//!
//! `ROWS × VECTORS` accumulators stay in registers while the loop walks the inputs; each input costs
//! one load per weight vector and one broadcast per row, taken from the activations as they lie. Next to
//! nothing else may be in the loop: where another thread has the core's other half, what is fetched and
//! not what is multiplied is the limit, and five instructions of address arithmetic less made a network
//! 10 % faster there.
//! Watch the generated code when touching this: one accumulator spilled to the stack has cost a
//! factor of 2.6 before (`tests/instructions.rs` sees it).

use super::simd::{Simd, Tile};

/// Inputs in a row without a jump, where the weights lie in panels of [`PANEL`].
const UNROLLED: usize = 4;
/// Lanes of a wide panel; its weights are found without arithmetic.
const PANEL: usize = 16;

/// Multiplies one tile.
///
/// # Safety
/// Every address the tile describes (see [`Tile`]) must be valid for its access for `ROWS` rows and
/// `VECTORS` vectors; `out` must not overlap what is read. The caller's instruction set must be `S`'s.
#[inline(always)]
pub(super) unsafe fn multiply<S: Simd, const ROWS: usize, const VECTORS: usize>(tile: &Tile) {
    let mut acc = [[S::splat(0.0); VECTORS]; ROWS];
    if !tile.bias.is_null() {
        for v in 0..VECTORS {
            let bias = S::load(tile.bias.add(v * S::LANES));
            for row in &mut acc {
                row[v] = bias;
            }
        }
    }
    let mut w: [*const f32; VECTORS] = std::array::from_fn(|v| tile.w.add(v * tile.w_vector));
    for y in 0..tile.y_runs {
        for x in 0..tile.x_runs {
            let a = tile.a.add(y * tile.y_step + x * tile.x_step);
            let rows = S::rows::<ROWS>(a, tile.a_step);
            let mut i = 0;
            if tile.w_step == PANEL {
                while i + UNROLLED <= tile.run {
                    if S::SPREADS {
                        four_inputs::<S, ROWS, VECTORS>(&mut acc, &rows, i, w[0]);
                    } else {
                        for u in 0..UNROLLED {
                            one_input::<S, ROWS, VECTORS>(&mut acc, &rows, i + u, &w, u * PANEL);
                        }
                    }
                    for v in 0..VECTORS {
                        w[v] = w[v].add(UNROLLED * PANEL);
                    }
                    i += UNROLLED;
                }
            }
            while i < tile.run {
                one_input::<S, ROWS, VECTORS>(&mut acc, &rows, i, &w, 0);
                for v in 0..VECTORS {
                    w[v] = w[v].add(tile.w_step);
                }
                i += 1;
            }
        }
    }
    if !tile.add.is_null() {
        for r in 0..ROWS {
            for v in 0..VECTORS {
                let add = S::load(tile.add.add(r * tile.add_step + v * S::LANES));
                acc[r][v] = S::add(acc[r][v], add);
            }
        }
    }
    if let Some((low, high)) = tile.clip {
        let (low, high) = (S::splat(low), S::splat(high));
        for r in 0..ROWS {
            for v in 0..VECTORS {
                acc[r][v] = S::min(S::max(acc[r][v], low), high);
            }
        }
    }
    for r in 0..ROWS {
        for v in 0..VECTORS {
            S::store(tile.out.add(r * tile.out_step + v * S::LANES), acc[r][v]);
        }
    }
}

/// Input `i` of each row times its weights, `offset` floats from `w`.
#[inline(always)]
unsafe fn one_input<S: Simd, const ROWS: usize, const VECTORS: usize>(
    acc: &mut [[S::V; VECTORS]; ROWS],
    rows: &[*const f32; ROWS],
    i: usize,
    w: &[*const f32; VECTORS],
    offset: usize,
) {
    let mut weights = [S::splat(0.0); VECTORS];
    for v in 0..VECTORS {
        weights[v] = S::load(w[v].add(offset));
    }
    for r in 0..ROWS {
        let value = S::splat(*rows[r].add(i));
        for v in 0..VECTORS {
            acc[r][v] = S::fma(value, weights[v], acc[r][v]);
        }
    }
}

/// Inputs `i` to `i + 4` of each row, read at once, times their weights from `w` on; for back ends whose
/// vectors all lie in one panel.
#[inline(always)]
unsafe fn four_inputs<S: Simd, const ROWS: usize, const VECTORS: usize>(
    acc: &mut [[S::V; VECTORS]; ROWS],
    rows: &[*const f32; ROWS],
    i: usize,
    w: *const f32,
) {
    let mut weights = [[S::splat(0.0); VECTORS]; UNROLLED];
    for u in 0..UNROLLED {
        for v in 0..VECTORS {
            weights[u][v] = S::load(w.add(u * PANEL + v * S::LANES));
        }
    }
    for r in 0..ROWS {
        let values = S::spread(rows[r].add(i));
        for u in 0..UNROLLED {
            for v in 0..VECTORS {
                acc[r][v] = S::fma(values[u], weights[u][v], acc[r][v]);
            }
        }
    }
}

/// Picks the instance of a back end's micro-kernel for `rows` and `vectors`.
macro_rules! pick_tile {
    ($f:ident, $tile:expr, $rows:expr, $vectors:expr; $($v:literal => [$($r:literal)*])*) => {
        match ($vectors, $rows) {
            $($(($v, $r) => $f::<$r, $v>($tile),)*)*
            _ => debug_assert!(false, "no tile of {} rows and {} vectors", $rows, $vectors),
        }
    };
}
pub(super) use pick_tile;
