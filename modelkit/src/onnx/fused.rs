//! Writes the fused operators of ONNX Runtime's transformer optimizer with those of the standard, which the
//! other engines and Grad-CAM know.

use rten_onnx::onnx::NodeProto;

use crate::onnx::graph::{Graph, float, float_attribute, input, int_attribute, op, output};

/// The operator set of ONNX Runtime's own operators.
const DOMAIN: &str = "com.microsoft";

/// Splits `SkipLayerNormalization` into sums and a norm, and `BiasGelu` into a sum and `Gelu`.
pub(crate) fn split(graph: &mut Graph) {
    let mut index = 0;
    while let Some(node) = graph.nodes.get(index).cloned() {
        let end = graph.nodes.len();
        let own = node.domain.as_deref() == Some(DOMAIN);
        index += match op(&node) {
            "SkipLayerNormalization" if own && skipped(graph, &node) => {
                graph.put_in_place(index, end)
            }
            "BiasGelu" if own => {
                biased(graph, &node);
                graph.take_place(index, end)
            }
            _ => 1,
        };
    }
}

/// `layer_norm(x + skip + bias)`; its fourth output is the sum. Returns whether it could be written: the
/// norm's mean and deviation, which are outputs too, are read in training only.
fn skipped(graph: &mut Graph, node: &NodeProto) -> bool {
    let given = |at: usize| node.output.get(at).is_some_and(|name| !name.is_empty());
    let (Some(x), Some(skip), Some(scale)) = (input(node, 0), input(node, 1), input(node, 2))
    else {
        return false;
    };
    if given(1) || given(2) {
        return false;
    }
    let base = output(node);
    let mut sum = graph.emit(&format!("{base}/sum"), "Add", &[x, skip], vec![]);
    if let Some(bias) = input(node, 4) {
        sum = graph.emit(&format!("{base}/biased"), "Add", &[&sum, bias], vec![]);
    }
    if let Some(made) = node.output.get(3).filter(|name| !name.is_empty()) {
        sum.clone_from(made);
        if let Some(last) = graph.nodes.last_mut() {
            last.output = vec![sum.clone()];
        }
    }
    let mut inputs = vec![sum.as_str(), scale];
    inputs.extend(input(node, 3));
    let epsilon = float_attribute("epsilon", float(node, "epsilon", 1e-12));
    graph.emit(base, "LayerNormalization", &inputs, vec![int_attribute("axis", -1), epsilon]);
    if let Some(last) = graph.nodes.last_mut() {
        last.name = node.name.clone().filter(|name| !name.is_empty()).or(Some(base.to_owned()));
        last.output = vec![base.to_owned()];
    }
    true
}

/// `gelu(x + bias)`.
fn biased(graph: &mut Graph, node: &NodeProto) {
    let (x, bias) = (input(node, 0).unwrap_or_default(), input(node, 1).unwrap_or_default());
    let base = output(node);
    let sum = graph.emit(&format!("{base}/sum"), "Add", &[x, bias], vec![]);
    graph.emit(base, "Gelu", &[&sum], vec![]);
    if let Some(last) = graph.nodes.last_mut() {
        last.domain = Some(DOMAIN.to_owned());
    }
}
