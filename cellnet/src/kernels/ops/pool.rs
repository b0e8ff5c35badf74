//! Pooling over windows, reduction over whole maps, and softmax.

use crate::kernels::arch::math::activate;
use crate::kernels::arch::simd::{Simd, channels};
use crate::kernels::memory::{Memory, part};
use crate::plan::{Map, Pool, Pooling, Reduce, Softmax};

/// Channels of one reduction task.
const CHANNELS: usize = 64;

/// Number of tasks of a pooling step.
pub(in crate::kernels) fn tasks(step: &Pool, maps: &[Map], threads: usize) -> usize {
    let rows = maps[step.output as usize].height as usize;
    if threads <= 1 { 1 } else { rows.min(3 * threads) }
}

/// Number of tasks of a reduction.
pub(in crate::kernels) fn reduce_tasks(step: &Reduce, maps: &[Map]) -> usize {
    (maps[step.input as usize].stride as usize).div_ceil(CHANNELS)
}

#[inline(always)]
unsafe fn join<S: Simd>(pooling: Pooling, a: S::V, b: S::V) -> S::V {
    if pooling == Pooling::Max { S::max(a, b) } else { S::add(a, b) }
}

fn neutral(pooling: Pooling) -> f32 {
    if pooling == Pooling::Max { f32::NEG_INFINITY } else { 0.0 }
}

/// A window clipped to the map: ranges of rows and columns.
struct Cut {
    rows: (usize, usize),
    columns: (usize, usize),
}

/// Computes one task of a pooling step: some rows.
///
/// # Safety
/// As for the direct convolution's task.
#[inline(always)]
pub(in crate::kernels) unsafe fn task<S: Simd>(
    memory: &Memory,
    step: &Pool,
    task: usize,
    threads: usize,
) {
    let output = memory.map(step.output);
    let parts = tasks(step, memory.maps, threads);
    let (first, last) = part(output.height as usize, task, parts);
    let input = memory.map(step.input);
    let cut = |axis: usize, at: usize, size: u32| {
        let (stride, pad) = (step.window.stride[axis] as usize, step.window.pad[axis] as usize);
        let end = (at * stride + step.window.kernel[axis] as usize).saturating_sub(pad);
        ((at * stride).saturating_sub(pad), end.min(size as usize))
    };
    let stride = output.stride as usize;
    for y in first..last {
        let rows = cut(0, y, input.height);
        for x in 0..output.width as usize {
            let cut = Cut { rows, columns: cut(1, x, input.width) };
            let to = output.origin() as usize + y * output.pitch() as usize + x * stride;
            channels!(S, c in 0, stride => window(memory, step, &cut, to, c));
        }
    }
}

#[cfg_attr(target_arch = "x86_64", inline(always))]
#[cfg_attr(not(target_arch = "x86_64"), inline)]
unsafe fn window<S: Simd>(memory: &Memory, step: &Pool, cut: &Cut, to: usize, c: usize) {
    let input = memory.map(step.input);
    let mut value = S::splat(neutral(step.pooling));
    for y in cut.rows.0..cut.rows.1 {
        for x in cut.columns.0..cut.columns.1 {
            let at =
                input.origin() as usize + y * input.pitch() as usize + x * input.stride as usize;
            value = join::<S>(step.pooling, value, S::load(memory.arena.add(at + c)));
        }
    }
    let inside = (cut.rows.1 - cut.rows.0) * (cut.columns.1 - cut.columns.0);
    let whole = step.window.kernel[0] as usize * step.window.kernel[1] as usize;
    let value = match step.pooling {
        Pooling::Mean => S::div(value, S::splat(inside as f32)),
        Pooling::MeanWithPadding => S::div(value, S::splat(whole as f32)),
        Pooling::Max | Pooling::Sum => value,
    };
    S::store(memory.arena.add(to + c), value);
}

/// Computes one task of a reduction: some channels, all pixels.
///
/// # Safety
/// As for the direct convolution's task.
#[inline(always)]
pub(in crate::kernels) unsafe fn reduce_task<S: Simd>(memory: &Memory, step: &Reduce, task: usize) {
    let stride = memory.map(step.input).stride as usize;
    let (first, last) = (task * CHANNELS, ((task + 1) * CHANNELS).min(stride));
    channels!(S, c in first, last => reduce_vector(memory, step, c));
}

#[cfg_attr(target_arch = "x86_64", inline(always))]
#[cfg_attr(not(target_arch = "x86_64"), inline)]
unsafe fn reduce_vector<S: Simd>(memory: &Memory, step: &Reduce, c: usize) {
    let input = memory.map(step.input);
    let mut total = S::splat(neutral(step.pooling));
    for y in 0..input.height as usize {
        let row = memory.arena.add(input.origin() as usize + y * input.pitch() as usize + c);
        let mut value = S::splat(neutral(step.pooling));
        for x in 0..input.width as usize {
            value = join::<S>(step.pooling, value, S::load(row.add(x * input.stride as usize)));
        }
        total = join::<S>(step.pooling, total, value);
    }
    if matches!(step.pooling, Pooling::Mean | Pooling::MeanWithPadding) {
        let pixels = (input.width as f32) * (input.height as f32);
        total = S::div(total, S::splat(pixels));
    }
    let to = memory.map(step.output).origin() as usize + c;
    S::store(memory.arena.add(to), activate::<S>(step.activation, total));
}

/// Softmax of every pixel, in double precision: it is short, and its results are the probabilities people
/// see.
///
/// # Safety
/// As for the direct convolution's task.
pub(in crate::kernels) unsafe fn softmax(memory: &Memory, step: &Softmax) {
    let (input, output) = (memory.map(step.input), memory.map(step.output));
    let channels = input.channels as usize;
    for y in 0..input.height as usize {
        for x in 0..input.width as usize {
            let at = |map: &Map| {
                map.origin() as usize + y * map.pitch() as usize + x * map.stride as usize
            };
            let from = std::slice::from_raw_parts(memory.arena.add(at(input)), channels);
            let to = std::slice::from_raw_parts_mut(memory.arena.add(at(output)), channels);
            let max = from.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = from.iter().map(|v| f64::from(v - max).exp()).sum();
            for (to, from) in to.iter_mut().zip(from) {
                *to = (f64::from(from - max).exp() / sum) as f32;
            }
        }
    }
}
