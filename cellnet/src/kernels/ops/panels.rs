//! The weights of a convolution as the micro-kernel reads them: `f32` in the mapping, or 16-bit integers that
//! are first converted to `f32` in the task's scratch.
//!
//! Every panel is converted once for all pixels that a task multiplies with it. That costs a few
//! instructions for each vector of weights, which the bytes not read from memory pay for.

use crate::kernels::arch::simd::Simd;
use crate::kernels::memory::Memory;
use crate::plan::Conv;

/// How far ahead weights of 16 bits are prefetched.
const AHEAD: usize = 512;

/// Panels of a step, in `f32`.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Panels {
    /// The first weight of panel `first`.
    at: *const f32,
    first: usize,
    /// Floats of one panel.
    each: usize,
}

impl Panels {
    /// The panels of a step whose weights are `f32`.
    pub(in crate::kernels) fn mapped(memory: &Memory, step: &Conv) -> Self {
        Self { at: memory.blob(step.weights), first: 0, each: floats(step) }
    }

    /// Converts the panels `panels.0..panels.1`, counted over all groups, to `scratch`.
    ///
    /// # Safety
    /// `step` must be of the checked plan of `memory`, have scales and these panels; `scratch` must be
    /// valid for them all.
    #[inline(always)]
    pub(in crate::kernels) unsafe fn converted<S: Simd>(
        memory: &Memory,
        step: &Conv,
        panels: (usize, usize),
        scratch: *mut f32,
    ) -> Self {
        let (each, positions) = (floats(step), step.positions() as usize);
        for panel in panels.0..panels.1 {
            for position in 0..positions {
                let done = (panel - panels.0) * each + position * (each / positions);
                convert::<S>(memory, step, (panel, position), scratch.add(done));
            }
        }
        Self { at: scratch, first: panels.0, each }
    }

    /// Panels from `first` on, of `each` floats, at `at`.
    pub(in crate::kernels) fn at(at: *const f32, first: usize, each: usize) -> Self {
        Self { at, first, each }
    }

    /// The first weight of a panel.
    #[inline(always)]
    pub(in crate::kernels) unsafe fn panel(&self, panel: usize) -> *const f32 {
        self.at.add((panel - self.first) * self.each)
    }
}

/// Floats of one panel.
fn floats(step: &Conv) -> usize {
    step.depth() as usize * step.panel as usize
}

/// Converts the weights of one position of one panel: a row of lanes for each input.
///
/// # Safety
/// As for [`Panels::converted`]; `to` must be valid for these weights.
#[inline(always)]
pub(in crate::kernels) unsafe fn convert<S: Simd>(
    memory: &Memory,
    step: &Conv,
    (panel, position): (usize, usize),
    to: *mut f32,
) {
    let Some(scales) = step.scales else { return };
    let (lanes, inputs) = (step.panel as usize, step.group_inputs as usize);
    let index = panel * step.positions() as usize + position;
    let scales = memory.blob(scales).add(index * lanes);
    let from = memory.blob(step.weights).cast::<i16>().add(index * inputs * lanes);
    match lanes / S::LANES {
        0 => rows::<S::Half, 1>(from, scales, to, inputs),
        1 => rows::<S, 1>(from, scales, to, inputs),
        2 => rows::<S, 2>(from, scales, to, inputs),
        _ => {
            for c in (0..lanes).step_by(S::LANES) {
                for input in (0..inputs).map(|input| input * lanes + c) {
                    scaled::<S>(from.add(input), S::load(scales.add(c)), to.add(input));
                }
            }
        }
    }
}

/// Converts rows of `VECTORS` vectors.
#[inline(always)]
unsafe fn rows<S: Simd, const VECTORS: usize>(
    from: *const i16,
    scales: *const f32,
    to: *mut f32,
    inputs: usize,
) {
    let scales: [S::V; VECTORS] = std::array::from_fn(|v| S::load(scales.add(v * S::LANES)));
    let (mut from, mut to) = (from, to);
    for _ in 0..inputs {
        // The mapping is read once, from memory or a far cache.
        S::prefetch(from.wrapping_add(AHEAD).cast());
        for v in 0..VECTORS {
            scaled::<S>(from.add(v * S::LANES), scales[v], to.add(v * S::LANES));
        }
        (from, to) = (from.add(VECTORS * S::LANES), to.add(VECTORS * S::LANES));
    }
}

#[inline(always)]
unsafe fn scaled<S: Simd>(from: *const i16, scale: S::V, to: *mut f32) {
    S::store(to, S::mul(S::load_i16(from), scale));
}
