//! Divides a plan into stages, with a barrier between two stages.
//!
//! A stage is one step, or a pair: a convolution that expands a map and the depthwise convolution that is
//! the map's only reader. A pair keeps the map between them in the cache; `kernels/ops/pair.rs` computes
//! it.

use crate::plan::{Algorithm, Conv, Depthwise, Map, Plan, Step};

/// Most floats of a slice: half of an L2 cache of 512 KiB.
const SLICE: u64 = 64 * 1024;

/// One step of the plan, or that step and the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stage {
    /// Index of the first step.
    pub step: usize,
    /// For a pair: how many channels of the map between the steps are computed at a time.
    pub slice: Option<u32>,
}

/// The stages of a plan whose steps have been checked one by one.
pub fn stages(plan: &Plan) -> Vec<Stage> {
    let mut stages = Vec::with_capacity(plan.steps.len());
    let mut step = 0;
    while step < plan.steps.len() {
        let slice = slice(plan, step);
        stages.push(Stage { step, slice });
        step += if slice.is_some() { 2 } else { 1 };
    }
    stages
}

/// Channels of a slice, if this step and the next can be paired.
fn slice(plan: &Plan, step: usize) -> Option<u32> {
    let (conv, depthwise) = match plan.steps.get(step..step + 2)? {
        [Step::Conv(conv), Step::Depthwise(depthwise)] => (conv, depthwise),
        _ => return None,
    };
    let plain = conv.algorithm == Algorithm::Direct && conv.groups == 1 && conv.panel == 16;
    let between = conv.output;
    let readers = plan.steps.iter().flat_map(Step::inputs).filter(|map| *map == between).count();
    let given = plan.outputs.iter().any(|spec| spec.map == between);
    let joined = plain && depthwise.input == between && readers == 1 && !given;
    if joined && conv.residual.is_none() && conv.rounding.is_none() && apart(plan, conv, depthwise)
    {
        slice_of(plan.maps.get(between as usize)?)
    } else {
        None
    }
}

/// Whether the depthwise convolution's outputs do not overlap the input that the first convolution still
/// reads.
fn apart(plan: &Plan, conv: &Conv, depthwise: &Depthwise) -> bool {
    let range = |map: u32| plan.maps.get(map as usize).map(|m| m.offset..m.offset + m.floats());
    let written = [Some(depthwise.output), depthwise.means].into_iter().flatten();
    written.map(range).all(|written| match (written, range(conv.input)) {
        (Some(a), Some(b)) => a.end <= b.start || b.end <= a.start,
        _ => false,
    })
}

/// The widest slice of a map that is small enough, in whole vectors of every back end.
fn slice_of(map: &Map) -> Option<u32> {
    [32, 16].into_iter().find(|lanes| Map { stride: *lanes, ..*map }.floats() <= SLICE)
}

/// Whether a map of this size may be sliced, judged without its halo. The packer then keeps the input of
/// the first convolution apart from the output of the depthwise one.
#[cfg(feature = "pack")]
pub(crate) fn can_be_sliced(height: usize, width: usize) -> bool {
    height.saturating_mul(width) as u64 * 16 <= SLICE
}
