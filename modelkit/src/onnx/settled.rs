//! Computes nodes that read constants only, once and for all, so that no engine computes them for each photo.
//!
//! Weights that a file holds in fewer bits stay so: what makes floats of integers is left to the engines.

use std::collections::HashMap;

use rten::{ModelOptions, Value};
use rten_tensor::prelude::*;
use skincell_onnx::Constant;

use super::bound::bound;
use super::graph::{Graph, op, output, reads};
use super::walk::{known, run};

/// A computed constant may have this many elements, or as many as its inputs together if that is more.
const MOST: usize = 1 << 18;

/// Operators that make floats of integers, or rounded values of floats.
const TYPE_CHANGING: [&str; 4] =
    ["Cast", "DequantizeLinear", "QuantizeLinear", "DynamicQuantizeLinear"];

/// Replaces float32 values that the nodes from `first` on compute from constants by constants. A node that
/// the engine cannot run stays.
pub(crate) fn settle(graph: &mut Graph, first: usize) {
    let mut options = ModelOptions::with_all_ops();
    options.enable_optimization(false);
    let mut index = first;
    while index < graph.nodes.len() {
        let rounds = TYPE_CHANGING.contains(&op(&graph.nodes[index]));
        match if rounds { None } else { computed(graph, index, &options) } {
            Some((name, constant)) => {
                graph.nodes.remove(index);
                graph.constants.insert(name, constant);
            }
            None => index += 1,
        }
    }
}

/// Name and value of the only output of a node that reads constants only. `None` if it reads anything else,
/// is an output of the graph, or would be too large.
fn computed(graph: &Graph, index: usize, options: &ModelOptions) -> Option<(String, Constant)> {
    let node = graph.nodes.get(index).filter(|node| node.output.len() == 1)?;
    let given: Option<Vec<usize>> =
        reads(node).iter().map(|name| graph.constants.get(*name).map(Constant::len)).collect();
    let given = given.filter(|given| !given.is_empty() && !graph.is_output(output(node)))?;
    let most = given.iter().sum::<usize>().max(MOST);
    let has_graph = node.attribute.iter().any(|attribute| attribute.g.is_some());
    // Computed only if it cannot be too large, whatever the file says.
    let known: Vec<_> = node.input.iter().map(|name| known(graph, &HashMap::new(), name)).collect();
    if has_graph || bound(node, &known) > most as u64 {
        return None;
    }
    let mut made = run(options, graph, node, &HashMap::new()).ok()?;
    let (name, Value::FloatTensor(tensor)) = made.pop()? else { return None };
    let constant = Constant::f32(tensor.shape(), &tensor.to_vec());
    (constant.len() <= most).then_some((name, constant))
}
