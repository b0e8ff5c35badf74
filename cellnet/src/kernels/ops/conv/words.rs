//! Convolutions on bytes for back ends that multiply 16-bit integers: inputs and weights are widened in the
//! task's scratch before the micro-kernel reads them, each input once for all outputs and each weight once
//! for many pixels.
//!
//! The task goes over the map in chunks whose widened inputs stay in the L2 cache, and for each over the
//! panels. What was a float with four bytes becomes two floats with two 16-bit integers each, so that the
//! tile's geometry is the same with doubled steps.

use super::{Shape, lanes_and_panels, rows_by_lanes};
use crate::kernels::arch::simd::Simd;
use crate::kernels::memory::{Memory, Task, part};
use crate::kernels::ops::panels::Panels;
use crate::plan::{Conv, Map};

/// Floats of a chunk's widened inputs, unless a single row of outputs needs more: 256 KiB.
const CHUNK: usize = 64 * 1024;
/// Fewest pixels of a chunk of a flat step: a tile.
const LEAST: usize = 16;

/// Rows (pixels if flat) of a chunk.
fn chunk(step: &Conv, input: &Map) -> usize {
    if super::is_flat(step, input) {
        return (CHUNK / (2 * input.stride as usize)).max(LEAST);
    }
    let rows = CHUNK / (2 * input.pitch() as usize);
    let window = &step.window;
    (rows.saturating_sub(window.kernel[0] as usize) / window.stride[0] as usize).max(1)
}

/// The floats of the input that `rows` read, relative to the map's first.
fn reads(step: &Conv, input: &Map, rows: (usize, usize)) -> (usize, usize) {
    if super::is_flat(step, input) {
        let (first, stride) = ((input.origin() - input.offset) as usize, input.stride as usize);
        return (first + rows.0 * stride, first + rows.1 * stride);
    }
    let window = &step.window;
    let stride = window.stride[0] as usize;
    let above = input.halo[0] as usize - window.pad[0] as usize;
    let last = (rows.1 - 1) * stride + window.kernel[0] as usize;
    let pitch = input.pitch() as usize;
    ((above + rows.0 * stride) * pitch, (above + last) * pitch)
}

/// Floats of scratch: the widened inputs of a chunk, and 32 outputs' weights.
pub(super) fn scratch(step: &Conv, input: &Map, output: &Map) -> usize {
    let rows = chunk(step, input).min(super::rows_of(step, input, output));
    let (first, last) = reads(step, input, (0, rows));
    (2 * (last - first)).next_multiple_of(16) + 2 * 32 * step.depth() as usize
}

/// Computes one task (see [`super::task`]).
///
/// # Safety
/// As for [`super::task`], for a step with sums; the task's scratch must be valid for [`scratch`].
#[inline(always)]
pub(super) unsafe fn task<S: Simd>(
    mut shape: Shape,
    rows: (usize, usize),
    blocks: (usize, usize),
    task: Task,
) {
    let (memory, step) = (shape.memory, shape.step);
    let input = memory.map(step.input);
    (shape.stride, shape.pitch, shape.depth) = (2 * shape.stride, 2 * shape.pitch, 2 * shape.depth);
    let tile = &mut shape.tile;
    (tile.a_step, tile.run, tile.is_widened) = (2 * tile.a_step, 2 * tile.run, true);
    (tile.x_step, tile.y_step) = (2 * tile.x_step, 2 * tile.y_step);
    let chunks = (rows.1 - rows.0).div_ceil(chunk(step, input));
    for i in 0..chunks {
        let (first, last) = part(rows.1 - rows.0, i, chunks);
        let rows = (rows.0 + first, rows.0 + last);
        let (first, last) = reads(step, input, rows);
        let from = memory.arena.add(input.offset as usize);
        // All slices read the same inputs.
        if !(task.again && task.slice.is_some() && chunks == 1) {
            S::widen_inputs(from.add(first), last - first, task.scratch);
        }
        let before = (input.origin() - input.offset) as isize - first as isize;
        shape.input = task.scratch.cast_const().wrapping_offset(2 * before);
        let weights = task.scratch.add((2 * (last - first)).next_multiple_of(16));
        for block in blocks.0..blocks.1 {
            let (lanes, panels) = lanes_and_panels(&shape, task.slice, block);
            shape.panels = widened::<S>(memory, step, panels, weights);
            rows_by_lanes::<S>(&shape, rows, 0, lanes);
        }
    }
}

/// Widens the weights of some panels.
#[inline(always)]
unsafe fn widened<S: Simd>(
    memory: &Memory,
    step: &Conv,
    panels: (usize, usize),
    to: *mut f32,
) -> Panels {
    let each = step.depth() as usize * 16;
    let from = memory.blob(step.weights).add(panels.0 * each);
    S::widen_weights(from, (panels.1 - panels.0) * step.depth() as usize, to);
    Panels::at(to, panels.0, 2 * each)
}
