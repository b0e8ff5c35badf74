//! Writes batch norms by computed statistics as arithmetic.
//!
//! Keras 2 computes a layer norm as the batch norm of a tensor whose channels are the pixels, by the mean and
//! the variance of each. cellnet and Grad-CAM take batch norms by constants only.

use std::collections::HashMap;

use rten_onnx::onnx::NodeProto;
use skincell_onnx::Constant;

use super::graph::{Graph, float, input, op};

/// Whether the graph has such a node, for which shapes are needed.
pub(crate) fn has_any(graph: &Graph) -> bool {
    graph.nodes.iter().any(|node| is_by_computed(graph, node))
}

/// Whether a batch norm's mean or variance is computed.
fn is_by_computed(graph: &Graph, node: &NodeProto) -> bool {
    let is_computed = |at| input(node, at).is_some_and(|name| !graph.constants.contains_key(name));
    op(node) == "BatchNormalization" && (is_computed(3) || is_computed(4))
}

/// Replaces the nodes; `shapes` has those of all values.
pub(crate) fn write_out(graph: &mut Graph, shapes: &HashMap<String, Vec<usize>>) {
    let mut index = 0;
    while let Some(node) = graph.nodes.get(index).cloned() {
        let rank = input(&node, 0).and_then(|x| shapes.get(x)).map(Vec::len);
        index += match rank {
            Some(rank) if is_by_computed(graph, &node) && rank > 1 => {
                let end = graph.nodes.len();
                spelled(graph, &node, rank);
                graph.take_place(index, end)
            }
            _ => 1,
        };
    }
}

/// `γ · (x − μ) / √(σ² + ε) + β`.
fn spelled(graph: &mut Graph, node: &NodeProto, rank: usize) {
    let mut columns = vec![1; rank];
    columns[1] = -1;
    let columns = graph.add_constant("norm/columns", Constant::i64_list(&columns));
    let [x, gamma, beta, mean, variance] =
        [0, 1, 2, 3, 4].map(|at| input(node, at).unwrap_or_default());
    let each = |graph: &mut Graph, base: &str, list: &str| {
        graph.emit(base, "Reshape", &[list, &columns], vec![])
    };
    let is_all = |graph: &Graph, list: &str, number: f32| {
        let values = graph.constants.get(list).and_then(Constant::to_f32);
        values.is_some_and(|values| values.iter().all(|value| *value == number))
    };
    let mean = each(graph, "norm/mean", mean);
    let moved = graph.emit("norm/moved", "Sub", &[x, &mean], vec![]);
    let variance = each(graph, "norm/variance", variance);
    let epsilon = Constant::scalar(float(node, "epsilon", 1e-5));
    let epsilon = graph.add_constant("norm/epsilon", epsilon);
    let plus = graph.emit("norm/plus", "Add", &[&variance, &epsilon], vec![]);
    let deviation = graph.emit("norm/deviation", "Sqrt", &[&plus], vec![]);
    let mut value = graph.emit("norm/normed", "Div", &[&moved, &deviation], vec![]);
    if !is_all(graph, gamma, 1.0) {
        let gamma = each(graph, "norm/scale", gamma);
        value = graph.emit("norm/scaled", "Mul", &[&value, &gamma], vec![]);
    }
    if !is_all(graph, beta, 0.0) {
        let beta = each(graph, "norm/bias", beta);
        graph.emit("norm/value", "Add", &[&value, &beta], vec![]);
    }
}
