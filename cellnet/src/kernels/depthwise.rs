//! Depthwise convolution, with activation and the means for squeeze-and-excite fused.
//!
//! A task takes some channels and goes down the map row by row, each row by vectors of channels, so that the
//! rows a window spans stay in the caches; four neighbouring outputs share each weight loaded. The means
//! are summed row by row and then over the rows, whole channels in one task, so that the order of the
//! additions is the same for every thread count.

use std::mem::MaybeUninit;

use super::conv::part;
use super::math::activate_rows;
use super::memory::Memory;
use super::simd::{Simd, channels};
use crate::plan::{Depthwise, Map};

/// Channels of one task at least.
const CHANNELS: usize = 32;
/// Outputs computed side by side.
const SIDE: usize = 4;
/// Outputs of a row that wait in the first cache for their activation: enough of them are worked on at once
/// to hide how long one takes.
const WAITING: usize = 32;
/// Those outputs, of one vector of channels: written before they are read.
#[repr(align(64))]
struct Buffer(MaybeUninit<[f32; WAITING * 16]>);

/// Parts of the channels, and parts of the rows.
fn grid(step: &Depthwise, maps: &[Map], threads: usize) -> (usize, usize) {
    let output = &maps[step.output as usize];
    let blocks = channels_of(output).div_ceil(CHANNELS);
    if threads <= 1 || step.means.is_some() {
        return (blocks, 1);
    }
    let rows = (3 * threads).div_ceil(blocks).clamp(1, output.height as usize);
    (blocks, rows)
}

/// Channels in whole vectors of the narrowest back end that has any.
fn channels_of(map: &Map) -> usize {
    (map.channels as usize).next_multiple_of(8)
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
    /// The channel `input` begins with.
    input_first: usize,
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
    let (blocks, row_parts) = grid(step, memory.maps, threads);
    let (block, row_part) = (task % blocks, task / blocks);
    let rows = part(memory.map(step.output).height as usize, row_part, row_parts);
    let first = block * CHANNELS;
    let last = (first + CHANNELS).min(channels_of(memory.map(step.output)));
    rows_of::<S>(memory, step, (memory.map(step.input), 0), rows, (first, last));
}

/// All rows of the channels `channels`, at most [`CHANNELS`], whose input lies in a map of their own.
///
/// # Safety
/// As for [`task`], with `input` in the place of the step's.
#[inline(always)]
pub(super) unsafe fn slice<S: Simd>(
    memory: &Memory,
    step: &Depthwise,
    input: &Map,
    channels: (usize, usize),
) {
    let rows = (0, memory.map(step.output).height as usize);
    rows_of::<S>(memory, step, (input, channels.0), rows, channels);
}

/// Some rows of some channels; `input`'s first channel is said with it.
#[inline(always)]
unsafe fn rows_of<S: Simd>(
    memory: &Memory,
    step: &Depthwise,
    (input, input_first): (&Map, usize),
    rows: (usize, usize),
    (first, last): (usize, usize),
) {
    let output = memory.map(step.output);
    let mut totals = [0.0f32; CHANNELS];
    let totals = totals.as_mut_ptr();
    let block = Channels { step, memory, input, input_first, output, first, totals };
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
    let from = input.origin() as usize + y * window.stride[0] as usize * input.pitch() as usize;
    let from = from + c - block.input_first;
    let from = block.memory.arena.add(from).sub(pad).cast_const();
    let to = output.origin() as usize + y * output.pitch() as usize + c;
    let to = block.memory.arena.add(to);
    let width = output.width as usize;
    let mut buffer = Buffer(MaybeUninit::uninit());
    let waiting: *mut f32 = buffer.0.as_mut_ptr().cast();
    let mut sum = S::splat(0.0);
    let mut first = 0;
    while first < width {
        let count = WAITING.min(width - first);
        let mut x = 0;
        while x + SIDE <= count {
            let at = from.add((first + x) * x_stride * stride);
            outputs::<S, KERNEL, STRIDE, SIDE>(block, at, waiting.add(x * S::LANES), c);
            x += SIDE;
            if x < count {
                // The last ones reach back over some that are there already, and write the same again.
                x = x.min(count - SIDE);
            }
        }
        while x < count {
            let at = from.add((first + x) * x_stride * stride);
            outputs::<S, KERNEL, STRIDE, 1>(block, at, waiting.add(x * S::LANES), c);
            x += 1;
        }
        let to = to.add(first * output.stride as usize);
        let place = |x| to.add(x * output.stride as usize);
        activate_rows::<S>(block.step.activation, waiting, (count, S::LANES), place);
        if block.step.means.is_some() {
            for x in 0..count {
                sum = S::add(sum, S::load(to.add(x * output.stride as usize)));
            }
        }
        first += count;
    }
    let total = block.totals.add(c - block.first);
    S::store(total, S::add(S::load(total), sum));
}

/// `N` neighbouring outputs, next to each other at `to`.
#[cfg_attr(target_arch = "x86_64", inline(always))]
#[cfg_attr(not(target_arch = "x86_64"), inline)]
unsafe fn outputs<S: Simd, const KERNEL: usize, const STRIDE: usize, const N: usize>(
    block: &Channels,
    from: *const f32,
    to: *mut f32,
    c: usize,
) {
    let (step, memory) = (block.step, block.memory);
    let (pitch, stride) = (block.input.pitch() as usize, block.input.stride as usize);
    let [kernel_y, kernel_x] =
        if KERNEL == 0 { step.window.kernel.map(|k| k as usize) } else { [KERNEL; 2] };
    let x_stride = if STRIDE == 0 { step.window.stride[1] as usize } else { STRIDE };
    let channels = block.output.stride as usize;
    let weights = memory.blob(step.weights).add(c);
    let mut acc = [S::load(memory.blob(step.bias).add(c)); N];
    for ky in 0..kernel_y {
        for kx in 0..kernel_x {
            let weight = S::load(weights.add((ky * kernel_x + kx) * channels));
            let at = from.add(ky * pitch + kx * stride);
            for n in 0..N {
                acc[n] = S::fma(S::load(at.add(n * x_stride * stride)), weight, acc[n]);
            }
        }
    }
    for n in 0..N {
        S::store(to.add(n * S::LANES), acc[n]);
    }
}
