//! The features of a network without a map on all paths to the scores, such as one of dense layers only: what
//! its last dense layer reads.

use std::collections::HashSet;

use rten_onnx::onnx::NodeProto;

use crate::gradcam::ancestors;
use crate::onnx::engine::{EngineError, Probe};
use crate::onnx::graph::{Graph, input, op};

/// Fewest features that tell kinds of pictures apart.
pub(super) const FEWEST: usize = 8;

/// The value `[1, features]` that the last dense layer before `scores` reads, and the number of features.
///
/// # Errors
/// The inner error says why there is none; the outer one is the engine's.
pub(super) fn find(
    graph: &Graph,
    probe: &mut Probe,
    scores: &str,
) -> Result<Result<(String, usize), String>, EngineError> {
    let none =
        || Ok(Err("no layer of the network computes features of the whole photo".to_owned()));
    let Some(value) = read_by_the_last_layer(graph, scores) else { return none() };
    if !is_learnt(graph, &value) {
        return none();
    }
    let shape = probe.learn(&[&value])?.get(&value).cloned().unwrap_or_default();
    match *shape {
        [1, count] if count >= FEWEST => Ok(Ok((value, count))),
        [1, count] => Ok(Err(format!(
            "the layer before the scores has {count} features, and fewer than {FEWEST} tell nothing of the photo"
        ))),
        _ => none(),
    }
}

/// Goes back from the scores over operators of one computed input to a product with constant weights.
fn read_by_the_last_layer(graph: &Graph, scores: &str) -> Option<String> {
    let mut value = scores.to_owned();
    loop {
        let (_, node) = graph.producer_of(&value)?;
        let mut data =
            node.input.iter().filter(|i| !i.is_empty() && !graph.constants.contains_key(*i));
        let (before, more) = (data.next()?.clone(), data.next());
        if more.is_some() {
            return None;
        }
        if is_dense(graph, node) {
            return Some(before);
        }
        value = before;
    }
}

fn is_dense(graph: &Graph, node: &NodeProto) -> bool {
    matches!(op(node), "Gemm" | "MatMul")
        && input(node, 1).is_some_and(|weights| graph.constants.contains_key(weights))
}

/// Whether weights that mix the pixels of the photo are before a value.
pub(super) fn is_learnt(graph: &Graph, value: &str) -> bool {
    let before = ancestors(graph, value, &HashSet::new());
    let mixes = |index: &usize| {
        let mixing = ["Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "LSTM", "GRU"];
        graph.nodes.get(*index).is_some_and(|node| mixing.contains(&op(node)))
    };
    before.iter().any(mixes)
}
