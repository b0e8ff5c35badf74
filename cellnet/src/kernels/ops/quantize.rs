//! Rounds a map of floats to a map of bytes.

use crate::kernels::arch::math::steps;
use crate::kernels::arch::simd::{Simd, WHOLE, channels};
use crate::kernels::memory::{Memory, part};
use crate::kernels::ops::elementwise;
use crate::plan::Quantize;

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
