//! Finds the end of a classifier by its structure: the scores, the pooling, the last convolution.
//!
//! Names of nodes and values change from export to export, so none is looked at. What lies between
//! is differentiated by `backward`.

use std::collections::HashSet;

use crate::backward::Refusal;
use crate::engine::{EngineError, Probe};
use crate::graph::{Graph, input, op, output, reads};

/// The feature map before the pooling, and the convolution it comes from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tail {
    /// What the pooling takes: the map after the last activation.
    pub(crate) pooled: String,
    /// Index of the last convolution's node.
    pub(crate) conv: usize,
}

/// Finds the last pooling of whole maps before the logits and the last convolution before that.
///
/// # Errors
/// The inner [`Refusal`] names what stands where the pooling or the convolution should be; the
/// outer error is the engine's.
pub(crate) fn find(
    graph: &Graph,
    probe: &mut Probe,
    logits: &str,
) -> Result<Result<Tail, Refusal>, EngineError> {
    let before_logits = ancestors(graph, logits);
    let mut pooled = None;
    for index in before_logits.iter().rev() {
        let Some(node) = graph.nodes.get(*index) else { continue };
        let pools =
            matches!(op(node), "GlobalAveragePool" | "ReduceMean" | "ReduceSum" | "AveragePool");
        let (true, Some(map)) = (pools, input(node, 0)) else { continue };
        let shapes = probe.learn(&[map, output(node)])?;
        let elements = |name: &str| shapes.get(name).map_or(0, |s| s.iter().product::<usize>());
        let rank = shapes.get(map).map_or(0, Vec::len);
        // A head's layer norm also takes means, but not of maps; a map of 1x1 has no places left.
        if rank >= 3 && elements(map) > elements(output(node)) {
            pooled = Some(map.to_owned());
            break;
        }
    }
    let refuse = |why: &str| {
        let last = before_logits.last().and_then(|i| graph.nodes.get(*i));
        Refusal { node: last.map(crate::graph::label).unwrap_or_default(), why: why.to_owned() }
    };
    let Some(pooled) = pooled else {
        return Ok(Err(refuse("no pooling of whole feature maps comes before it")));
    };
    let is_map = |i: &&usize| graph.nodes.get(**i).is_some_and(|n| op(n) == "Conv");
    match ancestors(graph, &pooled).iter().rev().find(is_map) {
        Some(conv) => Ok(Ok(Tail { pooled, conv: *conv })),
        None => Ok(Err(refuse("no convolution comes before its pooling"))),
    }
}

/// Indices of the nodes a value depends on, in the graph's order.
fn ancestors(graph: &Graph, value: &str) -> Vec<usize> {
    let mut needed: HashSet<&str> = HashSet::from([value]);
    let mut indices = Vec::new();
    for (index, node) in graph.nodes.iter().enumerate().rev() {
        if node.output.iter().any(|o| needed.contains(o.as_str())) {
            needed.extend(reads(node));
            indices.push(index);
        }
    }
    indices.reverse();
    indices
}
