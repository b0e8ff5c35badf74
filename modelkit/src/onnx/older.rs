//! Converts graphs of the standard operator sets 7 to 10 to set 11, in which some parameters are inputs that
//! were attributes before; and graphs of the sets 11 and 12 to set 13, where that is needed. Operators that
//! did not change between these sets are left as they are.

use rten_onnx::onnx::{AttributeProto, NodeProto};
use skincell_onnx::Constant;
use skincell_onnx::build::text_attribute;

use crate::onnx::graph::{Graph, input, int, label, op};

/// The oldest set supported. In older sets, operators broadcast only if an attribute demands it.
pub(super) const OLDEST: i64 = 7;
/// The set that graphs are converted to.
const TO: i64 = 11;

/// Rewrites the graph if its set is older than 11.
///
/// # Errors
/// A text that names the node that cannot be written in set 11, and the reason.
pub(super) fn upgrade(graph: &mut Graph) -> Result<(), String> {
    if !(OLDEST..TO).contains(&graph.opset()) {
        return Ok(());
    }
    let by_pixel = |n: &&NodeProto| op(n) == "BatchNormalization" && int(n, "spatial", 1) == 0;
    if let Some(node) = graph.nodes.iter().find(by_pixel) {
        let what = label(node);
        return Err(format!(
            "{what} has separate statistics for each pixel, which operator set 11 does not support"
        ));
    }
    rewrite(graph, TO, |graph, node| match op(node) {
        "Clip" => clip(graph, node),
        "Pad" => pad(graph, node),
        "Slice" => slice(graph, node),
        "Upsample" | "Resize" => resize(graph, node),
        _ => {}
    });
    Ok(())
}

/// Makes the graph one of set `to`, by rewriting its nodes one by one.
fn rewrite(graph: &mut Graph, to: i64, each: impl Fn(&mut Graph, &mut NodeProto)) {
    for index in 0..graph.nodes.len() {
        let mut node = graph.nodes[index].clone();
        each(graph, &mut node);
        graph.nodes[index] = node;
    }
    let standard = graph.opsets.iter_mut().filter(|set| skincell_onnx::is_standard(set));
    standard.for_each(|set| set.version = Some(to));
}

/// Rewrites a graph of set 11 or 12 in set 13, the first in which weights may have a scale for each channel.
/// Returns whether the graph is of set 13 or later then. Graphs inside of nodes, and a softmax over several
/// axes, are not rewritten.
pub(super) fn upgrade_to_13(graph: &mut Graph) -> bool {
    if graph.opset() >= 13 {
        return true;
    }
    let stays = |node: &NodeProto| {
        let is_softmax = matches!(op(node), "Softmax" | "LogSoftmax" | "Hardmax");
        node.attribute.iter().any(|a| a.g.is_some())
            || (is_softmax && !is_over_last_axis(graph, node))
    };
    if graph.nodes.iter().any(stays) {
        return false;
    }
    rewrite(graph, 13, |graph, node| {
        let name = match op(node) {
            "Squeeze" | "Unsqueeze" | "ReduceSum" => "axes",
            "Split" => "split",
            _ => return,
        };
        if let Some(list) = take(node, name) {
            set_input(graph, node, 1, name, Constant::i64_list(&list.ints));
        }
    });
    true
}

/// Whether a softmax, which before set 13 is over all axes from `axis` on, is over the last one alone.
fn is_over_last_axis(graph: &Graph, node: &NodeProto) -> bool {
    let mut value = input(node, 0).unwrap_or_default();
    let is_matrix = loop {
        match graph.producer_of(value).map(|(_, made)| (op(made), input(made, 0))) {
            Some(("QuantizeLinear" | "DequantizeLinear", Some(before))) => value = before,
            Some((operator, _)) => break matches!(operator, "Flatten" | "Gemm" | "QGemm"),
            None => break false,
        }
    };
    let axis = int(node, "axis", 1);
    axis == -1 || (axis == 1 && is_matrix)
}

/// Removes an attribute and returns it.
fn take(node: &mut NodeProto, name: &str) -> Option<AttributeProto> {
    let at = node.attribute.iter().position(|a| a.name.as_deref() == Some(name))?;
    Some(node.attribute.remove(at))
}

/// Sets input `at` of a node to a new constant.
fn set_input(graph: &mut Graph, node: &mut NodeProto, at: usize, base: &str, value: Constant) {
    let name = graph.add_constant(base, value);
    if node.input.len() <= at {
        node.input.resize(at + 1, String::new());
    }
    if let Some(input) = node.input.get_mut(at) {
        *input = name;
    }
}

fn clip(graph: &mut Graph, node: &mut NodeProto) {
    for (at, name) in [(1, "min"), (2, "max")] {
        if let Some(bound) = take(node, name).and_then(|a| a.f) {
            set_input(graph, node, at, "clip/bound", Constant::scalar(bound));
        }
    }
}

fn pad(graph: &mut Graph, node: &mut NodeProto) {
    let Some(pads) = take(node, "pads") else { return };
    let value = take(node, "value").and_then(|a| a.f).unwrap_or(0.0);
    set_input(graph, node, 1, "pad/pads", Constant::i64_list(&pads.ints));
    set_input(graph, node, 2, "pad/value", Constant::scalar(value));
}

/// Nodes of set 10 have the inputs already and no attribute.
fn slice(graph: &mut Graph, node: &mut NodeProto) {
    for (at, name) in [(1, "starts"), (2, "ends"), (3, "axes")] {
        if let Some(list) = take(node, name) {
            let list = Constant::i64_list(&list.ints);
            set_input(graph, node, at, &format!("slice/{name}"), list);
        }
    }
}

/// `Upsample` and the `Resize` of set 10 multiply pixel indices by the scale, which later sets call
/// `asymmetric`.
fn resize(graph: &mut Graph, node: &mut NodeProto) {
    let scales = match take(node, "scales") {
        Some(list) => {
            graph.add_constant("resize/scales", Constant::f32(&[list.floats.len()], &list.floats))
        }
        None => node.input.get(1).cloned().unwrap_or_default(),
    };
    node.op_type = Some("Resize".to_owned());
    set_input(graph, node, 1, "resize/region", Constant::f32(&[0], &[]));
    node.input.truncate(2);
    node.input.push(scales);
    node.attribute.push(text_attribute("coordinate_transformation_mode", "asymmetric"));
    node.attribute.push(text_attribute("nearest_mode", "floor"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::graph::{int_attribute, ints_attribute, value_info};
    use rten_onnx::onnx::OperatorSetIdProto;

    fn graph(nodes: Vec<NodeProto>, version: i64) -> Graph {
        Graph {
            nodes,
            inputs: vec![value_info("x", &[1, 3, 4, 4])],
            outputs: vec![value_info("y", &[1, 3, 4, 4])],
            ir_version: 8,
            opsets: vec![OperatorSetIdProto { domain: None, version: Some(version) }],
            ..Graph::default()
        }
    }

    fn node(operator: &str, attribute: Vec<AttributeProto>) -> NodeProto {
        NodeProto {
            op_type: Some(operator.to_owned()),
            input: vec!["x".to_owned()],
            output: vec!["y".to_owned()],
            attribute,
            ..Default::default()
        }
    }

    /// The constants that the inputs of the first node name, `None` for each that is no constant.
    fn inputs(graph: &Graph) -> Vec<Option<&Constant>> {
        graph.nodes[0].input.iter().map(|name| graph.constants.get(name)).collect()
    }

    #[test]
    fn attributes_become_inputs() {
        let mut slice = node("Slice", vec![ints_attribute("starts", &[1])]);
        slice.attribute.push(ints_attribute("ends", &[3]));
        let mut made = graph(vec![slice], 9);
        upgrade(&mut made).expect("it has a form in set 11");
        let list = |numbers: &[i64]| Constant::i64_list(numbers);
        assert_eq!(inputs(&made), [None, Some(&list(&[1])), Some(&list(&[3]))]);
        assert_eq!((made.opset(), made.nodes[0].attribute.len()), (11, 0));

        let mut made = graph(vec![node("Pad", vec![ints_attribute("pads", &[0, 0, 1, 1])])], 10);
        upgrade(&mut made).expect("it has a form in set 11");
        let zero = Constant::scalar(0.0);
        assert_eq!(inputs(&made), [None, Some(&list(&[0, 0, 1, 1])), Some(&zero)]);
    }

    #[test]
    fn set_13_takes_axes_as_inputs_and_no_softmax_over_several() {
        let mut made = graph(vec![node("Squeeze", vec![ints_attribute("axes", &[0])])], 12);
        assert!(upgrade_to_13(&mut made));
        assert_eq!(inputs(&made), [None, Some(&Constant::i64_list(&[0]))]);
        assert_eq!((made.opset(), made.nodes[0].attribute.len()), (13, 0));

        let softmax = |axis| graph(vec![node("Softmax", vec![int_attribute("axis", axis)])], 11);
        assert!(upgrade_to_13(&mut softmax(-1)));
        let mut several = softmax(1);
        assert!(!upgrade_to_13(&mut several));
        assert_eq!(several.opset(), 11);
        let mut flat = softmax(1);
        flat.nodes[0].input = vec!["flat".to_owned()];
        let mut flatten = node("Flatten", vec![]);
        flatten.output = vec!["flat".to_owned()];
        flat.nodes.insert(0, flatten);
        assert!(upgrade_to_13(&mut flat));
    }

    #[test]
    fn newer_sets_stay_and_unsupported_nodes_are_named() {
        let norm = || node("BatchNormalization", vec![int_attribute("spatial", 0)]);
        let mut newer = graph(vec![norm()], 11);
        assert_eq!(upgrade(&mut newer), Ok(()));
        let error = upgrade(&mut graph(vec![norm()], 8)).expect_err("it has none");
        assert!(error.contains("BatchNormalization"), "{error}");
    }
}
