//! Layer norm of every pixel, and copies of a part of a map.

use crate::kernels::arch::portable::Scalar;
use crate::kernels::arch::simd::Simd;
use crate::kernels::memory::{Memory, part};
use crate::kernels::ops::elementwise::{at, row_parts};
use crate::plan::{Map, Norm, Prepend, Shuffle, Slice};

/// Lanes of the widest vector.
const LANES: usize = 16;

/// Computes one task of a layer norm: some rows.
///
/// # Safety
/// As for the direct convolution's task.
#[inline(always)]
pub(in crate::kernels) unsafe fn norm_task<S: Simd>(
    memory: &Memory,
    step: &Norm,
    task: usize,
    threads: usize,
) {
    let (input, output) = (memory.map(step.input), memory.map(step.output));
    each_pixel(memory, (input, output), task, threads, |from, to| {
        norm_pixel::<S>(memory, step, from, to, input.channels as usize);
    });
}

/// Calls `f` with the first channel of each pixel of a task, of the input and of the output.
#[inline(always)]
unsafe fn each_pixel(
    memory: &Memory,
    (input, output): (&Map, &Map),
    task: usize,
    threads: usize,
    f: impl Fn(*const f32, *mut f32),
) {
    let rows = part(output.height as usize, task, row_parts(output, threads));
    for y in rows.0..rows.1 {
        for x in 0..output.width as usize {
            f(memory.arena.add(at(input, y, x)), memory.arena.add(at(output, y, x)));
        }
    }
}

#[inline(always)]
unsafe fn norm_pixel<S: Simd>(
    memory: &Memory,
    step: &Norm,
    from: *const f32,
    to: *mut f32,
    channels: usize,
) {
    let count = channels as f32;
    let whole = channels / S::LANES * S::LANES;
    let mean =
        sum::<S>(from, whole, |x| x) + sum::<Scalar>(from.add(whole), channels - whole, |x| x);
    let mean = mean / count;
    let wide = S::splat(mean);
    let square = |x: S::V| {
        let off = S::sub(x, wide);
        S::mul(off, off)
    };
    let variance = sum::<S>(from, whole, square)
        + sum::<Scalar>(from.add(whole), channels - whole, |x| (x - mean) * (x - mean));
    let inverse = 1.0 / (variance / count + step.epsilon).sqrt();
    let (scale, bias) = (memory.blob(step.scale), memory.blob(step.bias));
    let mut c = 0;
    while c < whole {
        let value = S::mul(S::sub(S::load(from.add(c)), wide), S::splat(inverse));
        let value = S::fma(value, S::load(scale.add(c)), S::load(bias.add(c)));
        S::store(to.add(c), value);
        c += S::LANES;
    }
    while c < channels {
        let value = (*from.add(c) - mean) * inverse;
        *to.add(c) = value * *scale.add(c) + *bias.add(c);
        c += 1;
    }
}

/// The sum of `f` of `len` floats, a multiple of the lanes; two sums take turns.
#[inline(always)]
unsafe fn sum<S: Simd>(from: *const f32, len: usize, f: impl Fn(S::V) -> S::V) -> f32 {
    let mut sums = [S::splat(0.0); 2];
    let mut c = 0;
    while c + 2 * S::LANES <= len {
        sums[0] = S::add(sums[0], f(S::load(from.add(c))));
        sums[1] = S::add(sums[1], f(S::load(from.add(c + S::LANES))));
        c += 2 * S::LANES;
    }
    if c < len {
        sums[0] = S::add(sums[0], f(S::load(from.add(c))));
    }
    let mut lanes = [0.0f32; LANES];
    S::store(lanes.as_mut_ptr(), S::add(sums[0], sums[1]));
    lanes.iter().sum()
}

/// Computes one task of a slice: some rows.
///
/// # Safety
/// As for the direct convolution's task.
pub(in crate::kernels) unsafe fn slice_task(
    memory: &Memory,
    step: &Slice,
    task: usize,
    threads: usize,
) {
    let (input, output) = (memory.map(step.input), memory.map(step.output));
    each_pixel(memory, (input, output), task, threads, |from, to| {
        to.copy_from_nonoverlapping(from.add(step.first as usize), output.channels as usize);
    });
}

/// Computes one task of a shuffle: some rows.
///
/// # Safety
/// As for the direct convolution's task.
pub(in crate::kernels) unsafe fn shuffle_task(
    memory: &Memory,
    step: &Shuffle,
    task: usize,
    threads: usize,
) {
    let (input, output) = (memory.map(step.input), memory.map(step.output));
    let (groups, first) = (step.groups as usize, step.first as usize);
    let each = input.channels as usize / groups;
    each_pixel(memory, (input, output), task, threads, |from, to| {
        let (mut group, mut at) = (first % groups, first / groups);
        for c in 0..output.channels as usize {
            *to.add(c) = *from.add(group * each + at);
            group += 1;
            if group == groups {
                (group, at) = (0, at + 1);
            }
        }
    });
}

/// Computes a step that puts constant pixels before those of a map.
///
/// # Safety
/// As for the direct convolution's task.
pub(in crate::kernels) unsafe fn prepend(memory: &Memory, step: &Prepend) {
    let (input, output) = (memory.map(step.input), memory.map(step.output));
    let width = input.width as usize;
    let pixels = input.height as usize * width;
    let (channels, more) = (output.channels as usize, output.width as usize - pixels);
    for pixel in 0..more {
        let from = memory.blob(step.head).add(pixel * output.stride as usize);
        let to = memory.arena.add(at(output, 0, pixel));
        to.copy_from_nonoverlapping(from, channels);
    }
    for pixel in 0..pixels {
        let from = memory.arena.add(at(input, pixel / width, pixel % width));
        let to = memory.arena.add(at(output, 0, more + pixel));
        to.copy_from_nonoverlapping(from, channels);
    }
}
