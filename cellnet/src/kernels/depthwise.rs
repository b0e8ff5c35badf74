//! Depthwise convolution, with activation and the means for squeeze-and-excite fused.
//!
//! A task takes some channels and goes down the map row by row, each row by vectors of channels, so that the
//! rows a window spans stay in the caches; four neighbouring outputs share each weight loaded. The means
//! are summed row by row and then over the rows, whole channels in one task, so that the order of the
//! additions is the same for every thread count.

use std::mem::MaybeUninit;

use super::conv::part;
use super::math::activate_run;
use super::memory::Memory;
use super::simd::{Simd, channels};
use crate::plan::{Activation, Depthwise, Map};

/// Channels of one task at least.
const CHANNELS: usize = 32;
/// Outputs computed side by side.
const SIDE: usize = 4;

/// Parts of the channels, and parts of the rows.
fn grid(step: &Depthwise, maps: &[Map], threads: usize) -> (usize, usize) {
    let output = &maps[step.output as usize];
    let blocks = (output.stride as usize).div_ceil(CHANNELS);
    if threads <= 1 || step.means.is_some() {
        return (blocks, 1);
    }
    let rows = (3 * threads).div_ceil(blocks).clamp(1, output.height as usize);
    (blocks, rows)
}

/// Number of tasks of a step for this many threads.
pub(super) fn tasks(step: &Depthwise, maps: &[Map], threads: usize) -> usize {
    let (blocks, rows) = grid(step, maps, threads);
    blocks * rows
}

/// What the rows of one task share.
struct Channels<'a> {
    step: &'a Depthwise,
    memory: &'a Memory<'a>,
    input: &'a Map,
    output: &'a Map,
    /// The first of the task's channels.
    first: usize,
    /// What each of them has come to so far, if means are wanted.
    totals: *mut f32,
}

/// Computes one task.
///
/// # Safety
/// As for the direct convolution's task.
#[inline(always)]
pub(super) unsafe fn task<S: Simd>(memory: &Memory, step: &Depthwise, task: usize, threads: usize) {
    let (input, output) = (memory.map(step.input), memory.map(step.output));
    let (blocks, row_parts) = grid(step, memory.maps, threads);
    let (block, row_part) = (task % blocks, task / blocks);
    let rows = part(output.height as usize, row_part, row_parts);
    let first = block * CHANNELS;
    let last = (first + CHANNELS).min(output.stride as usize);
    let mut totals = [0.0f32; CHANNELS];
    let totals = totals.as_mut_ptr();
    let block = Channels { step, memory, input, output, first, totals };
    for y in rows.0..rows.1 {
        channels!(S, c in first, last => row(&block, y, c));
    }
    if let Some(means) = step.means {
        let means = memory.arena.add(memory.map(means).origin() as usize);
        let pixels = (output.width as f32) * (output.height as f32);
        channels!(S, c in first, last => mean(totals.add(c - first), means.add(c), pixels));
    }
}

#[inline(always)]
unsafe fn mean<S: Simd>(total: *const f32, to: *mut f32, pixels: f32) {
    S::store(to, S::div(S::load(total), S::splat(pixels)));
}

#[inline(always)]
unsafe fn row<S: Simd>(block: &Channels, y: usize, c: usize) {
    match (block.step.window.kernel, block.step.window.stride) {
        ([3, 3], [1, 1]) => row_of::<S, 3, 1>(block, y, c),
        ([3, 3], [2, 2]) => row_of::<S, 3, 2>(block, y, c),
        ([5, 5], [1, 1]) => row_of::<S, 5, 1>(block, y, c),
        ([5, 5], [2, 2]) => row_of::<S, 5, 2>(block, y, c),
        _ => row_of::<S, 0, 0>(block, y, c),
    }
}

/// One row of one vector of channels. `KERNEL` and `STRIDE` are 0 where they are only known at run time or
/// differ by axis.
#[cfg_attr(target_arch = "x86_64", inline(always))]
#[cfg_attr(not(target_arch = "x86_64"), inline)]
unsafe fn row_of<S: Simd, const KERNEL: usize, const STRIDE: usize>(
    block: &Channels,
    y: usize,
    c: usize,
) {
    let (input, output, window) = (block.input, block.output, &block.step.window);
    let stride = input.stride as usize;
    let x_stride = if STRIDE == 0 { window.stride[1] as usize } else { STRIDE };
    let pad = window.pad[0] as usize * input.pitch() as usize + window.pad[1] as usize * stride;
    let from = input.origin() as usize + y * window.stride[0] as usize * input.pitch() as usize + c;
    let from = block.memory.arena.add(from).sub(pad).cast_const();
    let to = output.origin() as usize + y * output.pitch() as usize + c;
    let to = block.memory.arena.add(to);
    let width = output.width as usize;
    let mut sum = S::splat(0.0);
    let mut x = 0;
    while x + SIDE <= width {
        let at = (from.add(x * x_stride * stride), to.add(x * stride));
        sum = outputs::<S, KERNEL, STRIDE, SIDE>(block, at, c, sum);
        x += SIDE;
    }
    while x < width {
        let at = (from.add(x * x_stride * stride), to.add(x * stride));
        sum = outputs::<S, KERNEL, STRIDE, 1>(block, at, c, sum);
        x += 1;
    }
    let total = block.totals.add(c - block.first);
    S::store(total, S::add(S::load(total), sum));
}

/// `N` neighbouring outputs; gives `sum` plus what they came to.
#[cfg_attr(target_arch = "x86_64", inline(always))]
#[cfg_attr(not(target_arch = "x86_64"), inline)]
unsafe fn outputs<S: Simd, const KERNEL: usize, const STRIDE: usize, const N: usize>(
    block: &Channels,
    (from, to): (*const f32, *mut f32),
    c: usize,
    sum: S::V,
) -> S::V {
    let (step, memory) = (block.step, block.memory);
    let (pitch, stride) = (block.input.pitch() as usize, block.input.stride as usize);
    let [kernel_y, kernel_x] =
        if KERNEL == 0 { step.window.kernel.map(|k| k as usize) } else { [KERNEL; 2] };
    let x_stride = if STRIDE == 0 { step.window.stride[1] as usize } else { STRIDE };
    let weights = memory.blob(step.weights).add(c);
    let mut acc = [S::load(memory.blob(step.bias).add(c)); N];
    for ky in 0..kernel_y {
        for kx in 0..kernel_x {
            let weight = S::load(weights.add((ky * kernel_x + kx) * stride));
            let at = from.add(ky * pitch + kx * stride);
            for n in 0..N {
                acc[n] = S::fma(S::load(at.add(n * x_stride * stride)), weight, acc[n]);
            }
        }
    }
    activate_all::<S, N>(step.activation, &mut acc);
    let mut sum = sum;
    for n in 0..N {
        S::store(to.add(n * stride), acc[n]);
        sum = S::add(sum, acc[n]);
    }
    sum
}

/// Applies `activation` to registers; the seldom ones go through memory, to keep their code short.
#[cfg_attr(target_arch = "x86_64", inline(always))]
#[cfg_attr(not(target_arch = "x86_64"), inline)]
unsafe fn activate_all<S: Simd, const N: usize>(activation: Activation, acc: &mut [S::V; N]) {
    match activation {
        Activation::None => {}
        Activation::Clip { low, high } => {
            let (low, high) = (S::splat(low), S::splat(high));
            for value in acc {
                *value = S::min(S::max(*value, low), high);
            }
        }
        other => {
            let mut lanes = MaybeUninit::<[f32; SIDE * 16]>::uninit();
            let lanes: *mut f32 = lanes.as_mut_ptr().cast();
            for n in 0..N {
                S::store(lanes.add(n * S::LANES), acc[n]);
            }
            activate_run::<S>(other, lanes, N * S::LANES);
            for n in 0..N {
                acc[n] = S::load(lanes.add(n * S::LANES));
            }
        }
    }
}
