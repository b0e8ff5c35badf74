//! Puts nodes after those whose results they read. ONNX demands that order, but converters to half precision
//! append their casts at the end, and ONNX Runtime reads such files.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use rten_onnx::onnx::NodeProto;

/// The nodes in an order of execution: always the first of the file that can run. Nodes of a cycle come last,
/// where their inputs are unknown.
pub(super) fn in_order(nodes: Vec<NodeProto>) -> Vec<NodeProto> {
    let made: HashMap<&str, usize> = nodes
        .iter()
        .enumerate()
        .flat_map(|(i, node)| node.output.iter().map(move |name| (name.as_str(), i)))
        .filter(|(name, _)| !name.is_empty())
        .collect();
    let mut readers = vec![Vec::new(); nodes.len()];
    let mut waiting = vec![0usize; nodes.len()];
    for (i, node) in nodes.iter().enumerate() {
        for from in node.input.iter().filter_map(|name| made.get(name.as_str())) {
            readers[*from].push(i);
            waiting[i] += 1;
        }
    }
    let mut ready: BinaryHeap<Reverse<usize>> =
        (0..nodes.len()).filter(|i| waiting[*i] == 0).map(Reverse).collect();
    let mut order = Vec::with_capacity(nodes.len());
    while let Some(Reverse(next)) = ready.pop() {
        order.push(next);
        for reader in &readers[next] {
            waiting[*reader] -= 1;
            if waiting[*reader] == 0 {
                ready.push(Reverse(*reader));
            }
        }
    }
    order.extend((0..nodes.len()).filter(|i| waiting[*i] > 0));
    let mut nodes: Vec<Option<NodeProto>> = nodes.into_iter().map(Some).collect();
    order.into_iter().filter_map(|i| nodes[i].take()).collect()
}
