//! Depthwise convolution, with activation and the means for squeeze-and-excite fused.
//!
//! Vectors of channels go down the map; four neighbouring outputs share each weight loaded. The means
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

/// Where the loops of one vector of channels begin.
struct Channel<'a> {
    step: &'a Depthwise,
    memory: &'a Memory<'a>,
    input: &'a Map,
    output: &'a Map,
    rows: (usize, usize),
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
    let channel = Channel { step, memory, input, output, rows };
    channels!(S, c in first, last => vector(&channel, c));
}

#[inline(always)]
unsafe fn vector<S: Simd>(channel: &Channel, c: usize) {
    match (channel.step.window.kernel, channel.step.window.stride) {
        ([3, 3], [1, 1]) => rows::<S, 3, 1>(channel, c),
        ([3, 3], [2, 2]) => rows::<S, 3, 2>(channel, c),
        ([5, 5], [1, 1]) => rows::<S, 5, 1>(channel, c),
        ([5, 5], [2, 2]) => rows::<S, 5, 2>(channel, c),
        _ => rows::<S, 0, 0>(channel, c),
    }
}

/// All rows of one vector of channels. `KERNEL` and `STRIDE` are 0 where they are only known at run
/// time or differ by axis.
#[cfg_attr(target_arch = "x86_64", inline(always))]
#[cfg_attr(not(target_arch = "x86_64"), inline)]
unsafe fn rows<S: Simd, const KERNEL: usize, const STRIDE: usize>(channel: &Channel, c: usize) {
    let (input, output, window) = (channel.input, channel.output, &channel.step.window);
    let stride = input.stride as usize;
    let x_stride = if STRIDE == 0 { window.stride[1] as usize } else { STRIDE };
    let pad = window.pad[0] as usize * input.pitch() as usize + window.pad[1] as usize * stride;
    let from = channel.memory.arena.add(input.origin() as usize + c).sub(pad).cast_const();
    let to = channel.memory.arena.add(output.origin() as usize + c);
    let width = output.width as usize;
    let mut total = S::splat(0.0);
    for y in channel.rows.0..channel.rows.1 {
        let row = from.add(y * window.stride[0] as usize * input.pitch() as usize);
        let out = to.add(y * output.pitch() as usize);
        let mut sum = S::splat(0.0);
        let mut x = 0;
        while x + SIDE <= width {
            let at = (row.add(x * x_stride * stride), out.add(x * stride));
            sum = outputs::<S, KERNEL, STRIDE, SIDE>(channel, at, c, sum);
            x += SIDE;
        }
        while x < width {
            let at = (row.add(x * x_stride * stride), out.add(x * stride));
            sum = outputs::<S, KERNEL, STRIDE, 1>(channel, at, c, sum);
            x += 1;
        }
        total = S::add(total, sum);
    }
    if let Some(means) = channel.step.means {
        let pixels = (output.width as f32) * (output.height as f32);
        let means = channel.memory.map(means).origin() as usize + c;
        S::store(channel.memory.arena.add(means), S::div(total, S::splat(pixels)));
    }
}

/// `N` neighbouring outputs; gives `sum` plus what they came to.
#[cfg_attr(target_arch = "x86_64", inline(always))]
#[cfg_attr(not(target_arch = "x86_64"), inline)]
unsafe fn outputs<S: Simd, const KERNEL: usize, const STRIDE: usize, const N: usize>(
    channel: &Channel,
    (from, to): (*const f32, *mut f32),
    c: usize,
    sum: S::V,
) -> S::V {
    let (step, memory) = (channel.step, channel.memory);
    let (pitch, stride) = (channel.input.pitch() as usize, channel.input.stride as usize);
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
