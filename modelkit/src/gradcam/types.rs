//! Keeps the added nodes in float32 if the model computes in half precision.
//!
//! The rules write their constants in float32. rten, which determines the shapes, computes everything in
//! float32, but other engines require consistent types.

use std::collections::HashMap;

use rten_onnx::onnx::{DataType, NodeProto};

use super::closed::name;
use crate::onnx::graph::{Graph, int, int_attribute, op};

/// For each value and constant, whether it has half precision, as far as the graph shows.
fn halves(graph: &Graph) -> HashMap<String, bool> {
    let half = |dtype| dtype == DataType::FLOAT16 || dtype == DataType::BFLOAT16;
    let mut found: HashMap<String, bool> =
        graph.constants.iter().map(|(name, t)| (name.clone(), half(t.dtype))).collect();
    for input in &graph.inputs {
        let dtype = input.r#type.as_ref().and_then(|t| t.tensor_type.as_ref()?.elem_type);
        found.insert(input.name.clone().unwrap_or_default(), dtype.is_some_and(half));
    }
    for node in &graph.nodes {
        let own = match op(node) {
            "Cast" => i32::try_from(int(node, "to", 1)).is_ok_and(|to| half(DataType(to))),
            "Shape" | "Size" | "Range" | "ConstantOfShape" => false,
            _ => node.input.iter().any(|i| found.get(i) == Some(&true)),
        };
        found.extend(node.output.iter().map(|o| (o.clone(), own)));
    }
    found
}

/// Inserts a cast to float32 for every half precision input of the nodes from `first` on.
pub(super) fn widen(graph: &mut Graph, first: usize) {
    let halves = halves(graph);
    let added: Vec<NodeProto> = graph.nodes.split_off(first);
    let own: Vec<String> = added.iter().flat_map(|n| n.output.clone()).collect();
    let mut cast: HashMap<String, String> = HashMap::new();
    for mut node in added {
        for value in &mut node.input {
            if halves.get(value) != Some(&true) || own.contains(value) {
                continue;
            }
            let wide = match cast.get(value) {
                Some(wide) => wide.clone(),
                None => {
                    let to = vec![int_attribute("to", i64::from(DataType::FLOAT.0))];
                    graph.emit(&name("wide"), "Cast", &[value], to)
                }
            };
            cast.insert(value.clone(), wide.clone());
            *value = wide;
        }
        graph.nodes.push(node);
    }
}
