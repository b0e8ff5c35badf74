//! Removes identities and dropout, and folds batch norms into convolutions.
//!
//! An engine that folds a batch norm when it loads a model makes a private copy of the convolution's weights;
//! folded here, the weights stay mapped. The change of each convolution is returned, because Grad-CAM's
//! target is the convolution before its batch norm.

use std::collections::HashMap;

use rten_onnx::onnx::NodeProto;

use crate::onnx::graph::{Graph, float, input, op, output};
use skincell_onnx::Constant;

/// The constant a folded batch norm added to each channel, by the name of the folded convolution's output:
/// `β − μγ/√(σ² + ε)`.
pub(crate) type Shifts = HashMap<String, Vec<f32>>;

/// Removes `Identity` and `Dropout` nodes, except if the graph's output would lose its name.
pub(crate) fn drop_identities(graph: &mut Graph) {
    let mut index = 0;
    while let Some(node) = graph.nodes.get(index) {
        let (from, to) = (input(node, 0).unwrap_or_default().to_owned(), output(node).to_owned());
        // A dropout's second output is its mask, which only training reads.
        let mask_read = node.output.get(1).is_some_and(|m| !graph.consumers_of(m).is_empty());
        let idle = matches!(op(node), "Identity" | "Dropout") && !mask_read;
        let bound = graph.is_output(&to) || captured(graph, &to);
        if idle && !bound && !from.is_empty() {
            graph.nodes.remove(index);
            graph.replace_reads(&to, &from);
        } else if idle && op(node) == "Dropout" {
            // rten supports dropout only in builds with random numbers.
            if let Some(node) = graph.nodes.get_mut(index) {
                node.op_type = Some("Identity".to_owned());
                node.attribute.clear();
                node.input.truncate(1);
                node.output.truncate(1);
            }
            index += 1;
        } else {
            index += 1;
        }
    }
}

/// Whether a graph inside an attribute reads the value under this name.
fn captured(graph: &Graph, value: &str) -> bool {
    let reads_inside = |node: &NodeProto| {
        crate::onnx::graph::reads(node).contains(&value) && !node.input.iter().any(|i| i == value)
    };
    graph.nodes.iter().any(reads_inside)
}

/// Folds each batch norm into the convolution before it, if that has no other reader:
/// `W' = αW`, `b' = α(b − μ) + β`, `α = γ/√(σ² + ε)`, computed in f64.
pub(crate) fn fold_batch_norms(graph: &mut Graph) -> Shifts {
    let mut shifts = Shifts::new();
    let mut index = 0;
    while index < graph.nodes.len() {
        match fold_one(graph, index) {
            Some((value, shift)) => drop(shifts.insert(value, shift)),
            None => index += 1,
        }
    }
    shifts
}

fn fold_one(graph: &mut Graph, index: usize) -> Option<(String, Vec<f32>)> {
    let norm = graph.nodes.get(index).filter(|n| op(n) == "BatchNormalization")?;
    let between = input(norm, 0)?.to_owned();
    let (conv_index, conv) = graph.producer_of(&between).filter(|(_, n)| op(n) == "Conv")?;
    if graph.consumers_of(&between).len() != 1 || graph.is_output(&between) {
        return None;
    }
    let list = |index| graph.constants.get(input(norm, index)?)?.to_f32();
    let (gamma, beta, mean, variance) = (list(1)?, list(2)?, list(3)?, list(4)?);
    let weights = graph.constants.get(input(conv, 1)?)?;
    let channels = *weights.dims.first()?;
    let bias = match input(conv, 2) {
        None => vec![0.0; channels],
        Some(name) => graph.constants.get(name)?.to_f32()?,
    };
    if [&gamma, &beta, &mean, &variance, &bias].iter().any(|l| l.len() != channels) {
        return None;
    }
    let epsilon = f64::from(float(norm, "epsilon", 1e-5));
    let mut folded = weights.to_f32()?;
    let per_channel = folded.len().checked_div(channels)?;
    let (mut new_bias, mut shift) = (Vec::new(), Vec::new());
    for (k, weights) in folded.chunks_mut(per_channel.max(1)).enumerate() {
        let alpha = f64::from(gamma[k]) / (f64::from(variance[k]) + epsilon).sqrt();
        for weight in weights {
            *weight = (f64::from(*weight) * alpha) as f32;
        }
        let moved = f64::from(beta[k]) - f64::from(mean[k]) * alpha;
        shift.push(moved as f32);
        new_bias.push((moved + f64::from(bias[k]) * alpha) as f32);
    }
    let weights = Constant::f32(&weights.dims.clone(), &folded);
    let result = output(norm).to_owned();
    let base = input(conv, 1)?.to_owned();
    let weights = graph.add_constant(&format!("{base}/folded"), weights);
    let bias = graph.add_constant(&format!("{base}/bias"), Constant::f32(&[channels], &new_bias));
    let conv = graph.nodes.get_mut(conv_index)?;
    conv.input.truncate(1);
    conv.input.extend([weights, bias]);
    conv.output = vec![result.clone()];
    if let Some(name) = conv.name.clone().filter(|name| !name.is_empty()) {
        let gone = graph.layers.outputs.values_mut().filter(|value| **value == between);
        gone.for_each(|value| value.clone_from(&name));
    }
    graph.nodes.remove(index);
    Some((result, shift))
}
