//! Convolutions on bytes by Winograd's F(2×2, 3×3), for back ends that multiply 16-bit integers: 16 products
//! for four outputs instead of 36, and the same sums to the bit.
//!
//! Four times the sums must fit 32 bits, which the number of inputs ensures. The task goes over the map in
//! chunks of rows whose transformed inputs stay in the cache, and for each over panels of outputs, whose
//! weights are transformed each time, once for many pixels. In the file they are bytes as for any algorithm.

use std::mem::MaybeUninit;

use super::finish::finish_sums;
use super::{Pixels, Shape, lanes_and_panels};
use crate::kernels::arch::simd::{Simd, Tile};
use crate::kernels::memory::{Memory, Task};
use crate::plan::{Conv, Map};

/// Floats of a chunk's transformed inputs, unless one row of squares needs more: 192 KiB.
const CHUNK: usize = 48 * 1024;
/// Squares whose products lie in the L1 cache.
const TOGETHER: usize = 16;
/// Lanes of a panel.
const PANEL: usize = 16;
/// Fewest squares for which the transforms of the weights pay.
const LEAST: usize = 16;
/// Inputs of a sum, in fours: whole vectors of bytes, and so few that four times any sum, at most
/// 4 · 9 · 255 · 128 for each input, fits 32 bits.
const FOURS: std::ops::RangeInclusive<u32> = 4..=256;

/// Whether a step on bytes is computed so.
pub(super) fn applies(step: &Conv, output: &Map) -> bool {
    let squares = output.height.div_ceil(2) as usize * across(output);
    let window = &step.window;
    (window.kernel, window.stride, step.groups) == ([3, 3], [1, 1], 1)
        && step.sums.is_some_and(|sums| !sums.is_narrow)
        && FOURS.contains(&step.group_inputs)
        && squares >= LEAST
}

/// Squares of a row.
fn across(output: &Map) -> usize {
    output.width.div_ceil(2) as usize
}

/// Rows of squares of a chunk.
fn chunk(step: &Conv, output: &Map) -> usize {
    (CHUNK / (16 * across(output) * 2 * step.group_inputs as usize)).max(1)
}

/// Floats of scratch: the transformed inputs of a chunk, and a panel of weights.
pub(super) fn scratch(step: &Conv, output: &Map) -> usize {
    let rows = chunk(step, output).min(output.height.div_ceil(2) as usize);
    16 * 2 * step.group_inputs as usize * (rows * across(output) + PANEL)
}

/// Some rows of squares, and where their transformed inputs lie: `[position][square][input]`.
struct Chunk {
    first_row: usize,
    last_row: usize,
    across: usize,
    squares: usize,
    /// Floats of a square's inputs at one position, two to a float.
    floats: usize,
    inputs: *mut f32,
}

/// Computes one task (see [`super::task`]).
///
/// # Safety
/// As for [`super::task`], for a step that this [`applies`] to; the task's scratch must be valid for
/// [`scratch`].
#[cfg_attr(target_arch = "x86_64", inline(always))]
#[cfg_attr(not(target_arch = "x86_64"), inline(never))]
pub(super) unsafe fn task<S: Simd>(
    shape: &Shape,
    rows: (usize, usize),
    blocks: (usize, usize),
    task: Task,
) {
    let (memory, step) = (shape.memory, shape.step);
    let input = memory.map(step.input);
    let (across, floats) = (across(shape.output), 2 * step.group_inputs as usize);
    let each = 2 * chunk(step, shape.output);
    for first in (rows.0..rows.1).step_by(each) {
        let last = rows.1.min(first + each);
        let squares = across * (last - first).div_ceil(2);
        let inputs = task.scratch;
        let chunk = Chunk { first_row: first, last_row: last, across, squares, floats, inputs };
        transform_inputs::<S>(memory, step, input, &chunk);
        let weights = inputs.add(16 * squares * floats);
        for block in blocks.0..blocks.1 {
            let (lanes, panels) = lanes_and_panels(shape, None, block);
            let mapped = memory.blob(step.weights);
            for panel in panels.0..panels.1 {
                let from = mapped.add(panel * 9 * PANEL * step.group_inputs as usize);
                S::transform_weights(from, step.group_inputs as usize, weights);
                let width = PANEL.min(lanes.1 - panel * PANEL);
                panel_of::<S>(shape, &chunk, weights, (panel * PANEL, width));
            }
        }
    }
}

/// Transforms all squares of a chunk. Where a square reaches past the map, it reads the last row or column
/// again: the outputs that depend on it are past the output's end.
#[inline(always)]
unsafe fn transform_inputs<S: Simd>(memory: &Memory, step: &Conv, input: &Map, chunk: &Chunk) {
    let before = [0, 1].map(|axis| (input.halo[axis] - step.window.pad[axis]) as usize);
    let last = [input.full_height() as usize - 1, input.full_width() as usize - 1];
    let from = memory.arena.add(input.offset as usize);
    let (pitch, stride) = (input.pitch() as usize, input.stride as usize);
    for square in 0..chunk.squares {
        let y = before[0] + chunk.first_row + square / chunk.across * 2;
        let x = before[1] + square % chunk.across * 2;
        let mut pixels = [std::ptr::null::<u8>(); 16];
        for i in 0..16 {
            let (y, x) = ((y + i / 4).min(last[0]), (x + i % 4).min(last[1]));
            pixels[i] = from.add(y * pitch + x * stride).cast::<u8>().cast_const();
        }
        let to = chunk.inputs.add(square * chunk.floats).cast::<i16>();
        S::transform_bytes(&pixels, 2 * chunk.floats, to, 2 * chunk.squares * chunk.floats);
    }
}

/// Computes the outputs of one panel of weights for a chunk.
#[inline(always)]
unsafe fn panel_of<S: Simd>(
    shape: &Shape,
    chunk: &Chunk,
    weights: *const f32,
    (lane, width): (usize, usize),
) {
    let zeros = [0.0f32; PANEL];
    let mut products = MaybeUninit::<[f32; TOGETHER * 16 * PANEL]>::uninit();
    let mut sums = MaybeUninit::<[f32; TOGETHER * 4 * PANEL]>::uninit();
    let products: *mut f32 = products.as_mut_ptr().cast();
    let sums: *mut f32 = sums.as_mut_ptr().cast();
    let start = shape.step.sums.map_or(shape.step.bias, |sums| sums.start);
    let start = shape.memory.blob(start).add(lane);
    for row in 0..chunk.squares / chunk.across {
        for x in (0..chunk.across).step_by(TOGETHER) {
            let count = TOGETHER.min(chunk.across - x);
            let first = row * chunk.across + x;
            let to = (products, zeros.as_ptr());
            multiply::<S>(shape, chunk, (first, count), (weights, width), to);
            for square in 0..count {
                let from = products.add(square * 16 * PANEL);
                let upper = sums.add(2 * square * width);
                let lower = upper.add(2 * TOGETHER * width);
                let to = [upper, upper.add(width), lower, lower.add(width)];
                S::transform_products((from, PANEL), start, to, width);
            }
            finish::<S>(shape, chunk, (row, x, count), (lane, width), sums);
        }
    }
}

/// The products of some squares: `[square][position][lane]`.
#[inline(always)]
unsafe fn multiply<S: Simd>(
    shape: &Shape,
    chunk: &Chunk,
    (first, count): (usize, usize),
    (weights, width): (*const f32, usize),
    (products, zeros): (*mut f32, *const f32),
) {
    let mut tile = Tile {
        a_step: chunk.floats,
        run: chunk.floats,
        x_runs: 1,
        y_runs: 1,
        w_vector: S::LANES,
        bias: zeros,
        out_step: 16 * PANEL,
        is_narrow: false,
        is_widened: true,
        ..shape.tile
    };
    for position in 0..16 {
        tile.w = weights.add(position * chunk.floats * PANEL);
        let mut square = 0;
        while square < count {
            let rows = S::SUM_ROWS.min(count - square);
            tile.a = chunk.inputs.add((position * chunk.squares + first + square) * chunk.floats);
            tile.out = products.add((square * 16 + position) * PANEL);
            S::sum(&tile, rows, width / S::LANES);
            square += rows;
        }
    }
}

/// Finishes the sums of some squares, in their two rows; the last row and column may be past the output's
/// end.
#[inline(always)]
unsafe fn finish<S: Simd>(
    shape: &Shape,
    chunk: &Chunk,
    (row, x, count): (usize, usize, usize),
    (lane, width): (usize, usize),
    sums: *mut f32,
) {
    let Some(own) = &shape.step.sums else { return };
    let x = 2 * x;
    let count = (2 * count).min(shape.output.width as usize - x);
    for lower in 0..2 {
        let y = chunk.first_row + 2 * row + lower;
        if y < chunk.last_row {
            let values = sums.add(lower * 2 * TOGETHER * width);
            let pixels = Pixels { y, x, count };
            finish_sums::<S>(shape, own, pixels, (lane, lane), (values, width));
        }
    }
}
