//! Drops an `Expand` if its readers repeat the elements themselves, as elementwise operators do.
//!
//! PyTorch's `expand_as` before a product, as in channel attention, writes one; the value that it makes is as
//! large as the map.

use std::collections::HashMap;

use super::graph::{Graph, input, op, output};

/// Whether the graph has such a node, for which shapes are needed.
pub(crate) fn has_any(graph: &Graph) -> bool {
    graph.nodes.iter().any(|node| op(node) == "Expand")
}

/// Drops the nodes; `shapes` has those of all values.
pub(crate) fn drop_needless(graph: &mut Graph, shapes: &HashMap<String, Vec<usize>>) {
    for index in 0..graph.nodes.len() {
        let node = &graph.nodes[index];
        if op(node) == "Expand" && is_needless(graph, output(node), shapes) {
            let (small, large) =
                (input(node, 0).unwrap_or_default().to_owned(), output(node).to_owned());
            graph.replace_reads(&large, &small);
        }
    }
    graph.drop_unused();
}

/// Whether each reader also reads another value, or a constant, that has all elements of this one's shape.
fn is_needless(graph: &Graph, value: &str, shapes: &HashMap<String, Vec<usize>>) -> bool {
    let Some(shape) = shapes.get(value).filter(|_| !graph.is_output(value)) else { return false };
    let small = graph.producer_of(value).and_then(|(_, node)| shapes.get(input(node, 0)?));
    let is_whole_rank = small.is_some_and(|small| small.len() == shape.len());
    graph.consumers_of(value).into_iter().all(|reader| {
        let node = &graph.nodes[reader];
        let fills = |other: &String| {
            let held = graph.constants.get(other).map(|constant| &constant.dims);
            let dims = shapes.get(other).or(held);
            let fills = dims.is_some_and(|dims| {
                long(dims) == long(shape) && (is_whole_rank || dims.len() == shape.len())
            });
            other != value && fills
        };
        matches!(op(node), "Add" | "Sub" | "Mul" | "Div") && node.input.iter().any(fills)
    })
}

/// The dimensions behind those of length one at the front.
fn long(dims: &[usize]) -> &[usize] {
    let first = dims.iter().position(|dim| *dim != 1).unwrap_or(dims.len());
    dims.get(first..).unwrap_or_default()
}
