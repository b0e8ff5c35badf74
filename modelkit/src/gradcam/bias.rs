//! Whose the last convolution's bias is: its own, or what a batch norm left when it was folded in.
//!
//! Grad-CAM on the raw convolution shows the map before the batch norm, so only the second kind is taken
//! off. The graph decides where it still holds the batch norm, or where `fold` removed it; a file whose
//! exporter folded it does not tell.

use super::place::Tail;
use crate::onnx::fold::Shifts;
use crate::onnx::graph::{Graph, input, op, output};
use skincell_onnx::Constant;

/// Where the bias comes from.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Source {
    /// The layer's own, or there is none: nothing is taken off.
    Own,
    /// This much was left by a batch norm.
    Norm(Vec<f32>),
    /// A bias of which the file does not say whose it is.
    Unknown(Vec<f32>),
    /// A bias that is computed when the model runs, so that nothing can be said of it.
    Computed,
}

impl Source {
    /// What is to be taken off.
    pub(super) fn bias(&self) -> Option<Vec<f32>> {
        match self {
            Self::Own | Self::Computed => None,
            Self::Norm(bias) | Self::Unknown(bias) => Some(bias.clone()),
        }
    }
}

/// Decides, or takes the user's word.
pub(super) fn source(graph: &Graph, tail: &Tail, shifts: &Shifts, own: Option<bool>) -> Source {
    let Some(conv) = tail.conv.and_then(|i| graph.nodes.get(i)) else { return Source::Own };
    if let Some(shift) = shifts.get(output(conv)) {
        return Source::Norm(shift.clone());
    }
    let Some(bias) = input(conv, 2) else { return Source::Own };
    let bias = graph.constants.get(bias).and_then(Constant::float_values);
    if bias.as_ref().is_some_and(|bias| bias.iter().all(|v| *v == 0.0)) {
        return Source::Own;
    }
    // A batch norm that an exporter left unfolded; a scalar factor belongs to an activation.
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
