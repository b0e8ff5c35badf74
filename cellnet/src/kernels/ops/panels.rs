//! The weights of a convolution as the micro-kernel reads them: `f32` in the mapping, or 16-bit integers that
//! are first converted to `f32` in the task's scratch.
//!
//! Every panel is converted once for all pixels that a task multiplies with it. That costs a few
//! instructions for each vector of weights, which the bytes not read from memory pay for.

use crate::kernels::arch::simd::{Simd, channels};
use crate::kernels::memory::Memory;
use crate::plan::Conv;

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
    for input in (0..inputs).map(|input| input * lanes) {
        channels!(S, c in 0, lanes => scaled(from.add(input + c), scales.add(c), to.add(input + c)));
    }
}

#[inline(always)]
unsafe fn scaled<S: Simd>(from: *const i16, scales: *const f32, to: *mut f32) {
    S::store(to, S::mul(S::load_i16(from), S::load(scales)));
}
