//! Decides whether the last convolution's bias belongs to the layer itself or comes from a folded batch norm.
//!
//! Grad-CAM on the raw convolution shows the map before the batch norm, so only the second kind is
//! subtracted. The graph shows the kind if it still contains the batch norm, or if `onnx::fold` folded it. If
//! the exporter folded it, the kind is unknown.

use super::place::FeatureMap;
use crate::onnx::fold::Shifts;
use crate::onnx::graph::{Graph, input, op, output};
use skincell_onnx::Constant;

/// The origin of the bias.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Source {
    /// The layer's own bias, or none: nothing is subtracted.
    Own,
    /// This bias comes from a batch norm.
    Norm(Vec<f32>),
    /// The origin of this bias is unknown.
    Unknown(Vec<f32>),
    /// The bias is computed when the model runs.
    Computed,
}

impl Source {
    /// The bias to be subtracted.
    pub(super) fn bias(&self) -> Option<Vec<f32>> {
        match self {
            Self::Own | Self::Computed => None,
            Self::Norm(bias) | Self::Unknown(bias) => Some(bias.clone()),
        }
    }
}

/// Determines the origin from the graph; if it is unknown, `own` decides.
pub(super) fn source(
    graph: &Graph,
    last_map: &FeatureMap,
    shifts: &Shifts,
    own: Option<bool>,
) -> Source {
    let Some(conv) = last_map.conv.and_then(|i| graph.nodes.get(i)) else { return Source::Own };
    if let Some(shift) = shifts.get(output(conv)) {
        return Source::Norm(shift.clone());
    }
    let Some(bias) = input(conv, 2) else { return Source::Own };
    let bias = graph.constants.get(bias).and_then(Constant::float_values);
    if bias.as_ref().is_some_and(|bias| bias.iter().all(|v| *v == 0.0)) {
        return Source::Own;
    }
    // A batch norm that is not folded, perhaps as a factor per channel. A scalar factor belongs to an
    // activation.
    let channels = input(conv, 1).and_then(|w| graph.constants.get(w)).map(|w| w.dims.first());
    let per_channel = |name: &String| {
        graph.constants.get(name).is_some_and(|t| t.len() > 1 && Some(Some(&t.len())) == channels)
    };
    let consumers = graph.consumers_of(output(conv));
    let normed = consumers.iter().filter_map(|i| graph.nodes.get(*i)).any(|n| {
        op(n) == "BatchNormalization" || (op(n) == "Mul" && n.input.iter().any(per_channel))
    });
    match (own, bias) {
        _ if normed => Source::Own,
        (Some(true), _) => Source::Own,
        (_, None) => Source::Computed,
        (Some(false), Some(bias)) => Source::Norm(bias),
        (None, Some(bias)) => Source::Unknown(bias),
    }
}
