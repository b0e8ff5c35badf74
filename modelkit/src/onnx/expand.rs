//! Drops an `Expand` if its readers repeat the elements themselves, as elementwise operators do.
//!
//! PyTorch's `expand_as` before a product, as in channel attention, writes one; the value that it makes is as
//! large as the map. Keras's layer norm writes one of a number to the channels.

use std::collections::HashMap;

use super::graph::{Graph, broadcast, input, op, output, reads};

/// Whether the graph has such a node, for which shapes are needed.
pub(crate) fn has_any(graph: &Graph) -> bool {
    graph.nodes.iter().any(|node| op(node) == "Expand")
}

/// Drops the nodes; `shapes` has those of all values.
pub(crate) fn drop_needless(graph: &mut Graph, shapes: &HashMap<String, Vec<usize>>) {
    let mut shapes = shapes.clone();
    for index in 0..graph.nodes.len() {
        let node = &graph.nodes[index];
        if op(node) != "Expand" {
            continue;
        }
        let (small, large) =
            (input(node, 0).unwrap_or_default().to_owned(), output(node).to_owned());
        if let Some(changed) = without(graph, index, &small, &shapes) {
            graph.replace_reads(&large, &small);
            shapes.extend(changed);
        }
    }
    graph.drop_unused();
}

/// The shapes that are others if the value `small` is read in place of what the node `index` repeats. `None`
/// if that changes more than such shapes: the operators between it and values of the old shape must repeat
/// elements themselves.
fn without(
    graph: &Graph,
    index: usize,
    small: &str,
    shapes: &HashMap<String, Vec<usize>>,
) -> Option<HashMap<String, Vec<usize>>> {
    let dims = |value: &str| {
        let held = graph.constants.get(value).map(|constant| constant.dims.clone());
        held.or_else(|| shapes.get(value).cloned())
    };
    let mut changed = HashMap::from([(output(&graph.nodes[index]).to_owned(), dims(small)?)]);
    for node in &graph.nodes[index..] {
        if changed.contains_key(output(node)) && graph.is_output(output(node)) {
            return None;
        }
        if !reads(node).iter().any(|value| changed.contains_key(*value)) {
            continue;
        }
        if !matches!(op(node), "Add" | "Sub" | "Mul" | "Div") {
            return None;
        }
        let side = |at| {
            input(node, at).and_then(|value| changed.get(value).cloned().or_else(|| dims(value)))
        };
        let made = broadcast(&side(0)?, &side(1)?)?;
        if dims(output(node))? != made {
            if graph.is_output(output(node)) {
                return None;
            }
            changed.insert(output(node).to_owned(), made);
        }
    }
    Some(changed)
}
