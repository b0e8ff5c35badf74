//! Writes out attributes of windows that a file may leave out, because rten wants them.

use std::collections::HashMap;

use rten_onnx::onnx::NodeProto;

use crate::onnx::graph::{Graph, attribute, input, ints, ints_attribute, op, output, text};

/// Gives every convolution and pooling its strides, which are 1 by default, and every convolution its
/// dilations, 1, and pads, 0.
pub(super) fn write_out(graph: &mut Graph) {
    // Weights may be integers whose values a node gives.
    let is_dequantized = |node: &&NodeProto| op(node) == "DequantizeLinear";
    let integers = |node: &NodeProto| Some((output(node).to_owned(), input(node, 0)?.to_owned()));
    let integers: HashMap<String, String> =
        graph.nodes.iter().filter(is_dequantized).filter_map(integers).collect();
    for node in &mut graph.nodes {
        let lists: &[&str] = match op(node) {
            "Conv" | "ConvInteger" | "ConvTranspose" => &["strides", "dilations"],
            "MaxPool" | "AveragePool" => &["strides"],
            _ => continue,
        };
        let weights = input(node, 1).map(|name| integers.get(name).map_or(name, String::as_str));
        let weights = weights.and_then(|name| graph.constants.get(name));
        let sides = match ints(node, "kernel_shape") {
            Some(list) => list.len(),
            None => weights.map_or(0, |weights| weights.dims.len().saturating_sub(2)),
        };
        for name in lists {
            if sides > 0 && attribute(node, name).is_none() {
                node.attribute.push(ints_attribute(name, &vec![1; sides]));
            }
        }
        let padded = text(node, "auto_pad").unwrap_or("NOTSET");
        let unpadded = matches!(padded, "NOTSET" | "VALID") && attribute(node, "pads").is_none();
        if sides > 0 && unpadded && op(node).starts_with("Conv") {
            node.attribute.retain(|a| a.name.as_deref() != Some("auto_pad"));
            node.attribute.push(ints_attribute("pads", &vec![0; 2 * sides]));
        }
    }
}
