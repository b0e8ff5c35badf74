//! Rounds a map of floats to a map of bytes, or to the values that bytes would stand for.

use crate::kernels::arch::math::steps;
use crate::kernels::arch::simd::{Simd, WHOLE, channels};
use crate::kernels::memory::{Memory, part};
use crate::kernels::ops::elementwise;
use crate::plan::{DynamicQuantize, Map, Quantize};

/// Computes one task: some rows.
///
/// # Safety
/// As for the direct convolution's task.
#[inline(always)]
pub(in crate::kernels) unsafe fn task<S: Simd>(
    memory: &Memory,
    step: &Quantize,
    task: usize,
    threads: usize,
) {
    let (input, output) = (memory.map(step.input), memory.map(step.output));
    let parts = elementwise::tasks(step.input, memory.maps, threads);
    let rows = part(output.height as usize, task, parts);
    let zero = f32::from(output.zero.unwrap_or(0));
    // Bytes beyond the last channel are multiplied with zeros. Without gaps, a row of pixels is one run.
    let (mut count, mut runs) =
        ((input.channels as usize).next_multiple_of(8), output.width as usize);
    if input.stride == 4 * output.stride {
        (count, runs) = (input.stride as usize * runs, 1);
    }
    for y in rows.0..rows.1 {
        for x in 0..runs {
            let from = memory.arena.add(elementwise::at(input, y, x)).cast_const();
            let to = memory.arena.add(elementwise::at(output, y, x)).cast::<u8>();
            channels!(S, c in 0, count => vector(step.scale, zero, from.add(c), to.add(c)));
        }
    }
}

#[inline(always)]
unsafe fn vector<S: Simd>(scale: f32, zero: f32, from: *const f32, to: *mut u8) {
    let steps = steps::<S>(S::load(from), scale, -zero, 255.0 - zero);
    // The byte is the lowest of the sum's.
    S::store_bytes(to, S::add(S::add(steps, S::splat(zero)), S::splat(WHOLE)));
}

/// Rounds a map to 256 steps between its least and greatest value.
///
/// # Safety
/// As for the direct convolution's task.
pub(in crate::kernels) unsafe fn dynamic(memory: &Memory, step: &DynamicQuantize) {
    let (input, output) = (memory.map(step.input), memory.map(step.output));
    let channels = input.channels as usize;
    let pixels =
        || (0..input.height as usize).flat_map(|y| (0..input.width as usize).map(move |x| (y, x)));
    let place = |map: &Map, (y, x)| memory.arena.add(elementwise::at(map, y, x));
    let (mut low, mut high) = (0.0f32, 0.0f32);
    for pixel in pixels() {
        for value in std::slice::from_raw_parts(place(input, pixel), channels) {
            low = if *value < low { *value } else { low };
            high = if *value > high { *value } else { high };
        }
    }
    let scale = if high > low { (high - low) / 255.0 } else { 1.0 };
    let zero = whole((-low / scale).clamp(0.0, 255.0));
    for pixel in pixels() {
        let from = std::slice::from_raw_parts(place(input, pixel), channels);
        let to = std::slice::from_raw_parts_mut(place(output, pixel), channels);
        for (to, value) in to.iter_mut().zip(from) {
            // The same as rounding first, because the bounds are whole.
            *to = whole((value / scale).max(-zero).min(255.0 - zero)) * scale;
        }
    }
}

/// Rounds a number of at most 255 in size, halves to even.
fn whole(number: f32) -> f32 {
    (number + WHOLE) - WHOLE
}
