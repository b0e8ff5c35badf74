//! The product of two computed maps, which Grad-CAM needs for heads with hidden layers. It is small, so
//! plain dot products over the channels suffice.

use crate::kernels::arch::simd::Simd;
use crate::kernels::memory::{Memory, part};
use crate::plan::{Map, Product};

/// Number of tasks: parts of the output's rows.
pub(in crate::kernels) fn tasks(step: &Product, maps: &[Map], threads: usize) -> usize {
    let rows = maps[step.output as usize].height as usize;
    if threads <= 1 { 1 } else { rows.min(3 * threads) }
}

/// Computes one task.
///
/// # Safety
/// As for the direct convolution's task.
#[inline(always)]
pub(in crate::kernels) unsafe fn task<S: Simd>(
    memory: &Memory,
    step: &Product,
    task: usize,
    threads: usize,
) {
    let (a, b, output) = (memory.map(step.a), memory.map(step.b), memory.map(step.output));
    let parts = tasks(step, memory.maps, threads);
    let (first, last) = part(output.height as usize, task, parts);
    let at = |map: &Map, y: usize, x: usize| {
        map.origin() as usize + y * map.pitch() as usize + x * map.stride as usize
    };
    let width = a.width as usize;
    for y in first..last {
        for x in 0..output.width as usize {
            let to = memory.arena.add(at(output, y, x));
            let right = memory.arena.add(at(b, y, x)).cast_const();
            for i in 0..output.channels as usize {
                let left = memory.arena.add(at(a, i / width, i % width)).cast_const();
                *to.add(i) = dot::<S>(left, right, a.channels as usize);
            }
        }
    }
}

#[inline(always)]
unsafe fn dot<S: Simd>(a: *const f32, b: *const f32, len: usize) -> f32 {
    let mut sums = S::splat(0.0);
    let whole = len / S::LANES * S::LANES;
    let mut i = 0;
    while i < whole {
        sums = S::fma(S::load(a.add(i)), S::load(b.add(i)), sums);
        i += S::LANES;
    }
    let mut lanes = [0.0f32; 16];
    S::store(lanes.as_mut_ptr(), sums);
    let mut sum: f32 = lanes.iter().sum();
    while i < len {
        sum += *a.add(i) * *b.add(i);
        i += 1;
    }
    sum
}
