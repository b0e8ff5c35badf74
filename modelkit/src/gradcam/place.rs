//! Finds the feature map for the heatmap by the structure of the graph: the last map through which all paths
//! from the photo to the scores lead.
//!
//! So the map of a gate or of one branch is never mistaken for the whole. A sequence of tokens counts as a
//! map if `tokens` finds their places in the photo. Names of nodes and values are not used, because they
//! change from export to export. The part after the map is differentiated by `tangent` and `reverse`.

use std::collections::{HashMap, HashSet};

use rten_onnx::onnx::NodeProto;

use super::axes::{ancestors, channel_axis, flows};
use super::refusal::{Reason, Refusal};
use super::tokens::{Tokens, Tracer};
use crate::onnx::engine::{EngineError, Probe};
use crate::onnx::graph::{Graph, input, label, op, output};

/// The feature map before the pooling, and the convolution it comes from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FeatureMap {
    /// The last map on all paths, which is the input of the pooling.
    pub(crate) pooled: String,
    /// The axis of its channels.
    pub(crate) axis: usize,
    /// Index of the last convolution's node before it whose map has the same size.
    pub(crate) conv: Option<usize>,
    /// The tokens, if the map is a sequence: `[1, tokens, channels]`, `[tokens, 1, channels]` or
    /// `[1, channels, tokens]`.
    pub(crate) tokens: Option<Tokens>,
}

/// The values on all paths from the photo to `scores`, in the graph's order.
///
/// A value is open from its computation to its last reader. If only one value that depends on the photo is
/// open, all paths lead through it.
fn passes(graph: &Graph, scores: &str, skipped: &HashSet<usize>) -> Vec<String> {
    let nodes: Vec<&NodeProto> =
        ancestors(graph, scores, skipped).into_iter().filter_map(|i| graph.nodes.get(i)).collect();
    let mut readers: HashMap<&str, usize> = HashMap::new();
    for node in &nodes {
        let distinct: HashSet<&str> = flows(node).into_iter().collect();
        distinct.into_iter().for_each(|value| *readers.entry(value).or_default() += 1);
    }
    let mut open: HashSet<&str> = graph.inputs.iter().filter_map(|i| i.name.as_deref()).collect();
    let mut depends = open.clone();
    let mut found = Vec::new();
    for node in nodes {
        let taken: HashSet<&str> =
            flows(node).into_iter().filter(|value| depends.contains(value)).collect();
        if taken.is_empty() {
            continue;
        }
        for value in taken {
            let left = readers.get_mut(value).map_or(0, |n| {
                *n -= 1;
                *n
            });
            if left == 0 {
                open.remove(value);
            }
        }
        let given = node.output.iter().map(String::as_str);
        let wanted = given.filter(|o| readers.contains_key(o) || *o == scores);
        for value in wanted {
            depends.insert(value);
            open.insert(value);
        }
        if let (1, Some(only)) = (open.len(), open.iter().next()) {
            found.push((*only).to_owned());
        }
    }
    found.dedup();
    found
}

/// The last map on all paths to the scores.
///
/// # Errors
/// As [`find_all`].
pub(crate) fn find(
    graph: &Graph,
    probe: &mut Probe,
    scores: &str,
) -> Result<Result<FeatureMap, Refusal>, EngineError> {
    Ok(find_all(graph, probe, scores)?.map(|mut last_maps| last_maps.swap_remove(0)))
}

/// Finds the last maps on all paths to the scores, the last one first, each with the last convolution before
/// it. There is at least one.
///
/// # Errors
/// The inner [`Refusal`] says why there is no such map; the outer error is the engine's.
pub(crate) fn find_all(
    graph: &Graph,
    probe: &mut Probe,
    scores: &str,
) -> Result<Result<Vec<FeatureMap>, Refusal>, EngineError> {
    let order = ancestors(graph, scores, &HashSet::new());
    let nodes = || order.iter().filter_map(|i| graph.nodes.get(*i));
    let refuse = |why: Reason| {
        let node = nodes().next_back().map(label).unwrap_or_default();
        Ok(Err(Refusal { node, why }))
    };
    let shapes = probe.learn_made(nodes())?;
    let tracer = Tracer { graph, shapes };
    // Paths of class tokens only do not come from places of the photo.
    let skipped =
        order.iter().copied().filter(|i| tracer.takes_no_place(&graph.nodes[*i])).collect();
    let passes = passes(graph, scores, &skipped);
    if passes.last().is_none_or(|last| last != scores) {
        let why = if skipped.is_empty() {
            "it does not depend on any pixel of the photo"
        } else {
            "it reads class tokens only, and how they depend on the places is not known"
        };
        return refuse(why.into());
    }
    let mut last_maps: Vec<FeatureMap> = Vec::new();
    let mut end = passes.len();
    while last_maps.len() < MAPS {
        let found = match last_map(&tracer, &passes[..end]) {
            Ok(Some(found)) => found,
            _ if !last_maps.is_empty() => break,
            Ok(None) => return refuse(Reason::NoMap),
            Err(value) => {
                let node = graph.producer_of(value).map(|(_, n)| label(n)).unwrap_or_default();
                let why = "the positions of its tokens in the photo cannot be traced".into();
                return Ok(Err(Refusal { node, why }));
            }
        };
        let pooled = before_moves(&tracer, &passes, found);
        end = passes.iter().position(|value| *value == pooled).unwrap_or(0);
        match described(&tracer, pooled, &skipped) {
            Ok(last_map) => last_maps.push(last_map),
            Err(_) if !last_maps.is_empty() => break,
            Err(why) => return refuse(why.into()),
        }
    }
    Ok(Ok(last_maps))
}

/// The map `pooled`, with the axis of its channels and the last convolution before it.
fn described(
    tracer: &Tracer,
    pooled: String,
    skipped: &HashSet<usize>,
) -> Result<FeatureMap, &'static str> {
    let (graph, shapes) = (tracer.graph, tracer.shapes);
    if graph.inputs.iter().any(|i| i.name.as_deref() == Some(&pooled)) {
        return Err("there is no convolution before it");
    }
    let Some((axis, tokens)) = tracer.channels(&pooled) else {
        return Err("the positions of its tokens in the photo cannot be traced");
    };
    let wanted = shapes.get(&pooled).cloned().unwrap_or_default();
    let convolution = |index: &usize| {
        let node = graph.nodes.get(*index).filter(|n| op(n) == "Conv")?;
        let shape = shapes.get(output(node))?;
        (places(shape, 1) == places(&wanted, axis)).then_some(())
    };
    let mut before = ancestors(graph, &pooled, skipped).into_iter().rev();
    let conv = before.find(|i| convolution(i).is_some()).filter(|_| tokens.is_none());
    Ok(FeatureMap { pooled, axis, conv, tokens })
}

/// Most maps that are tried, from the last one back.
const MAPS: usize = 4;

/// The number of places (pixels) of a map with this axis of channels.
fn places(shape: &[usize], axis: usize) -> usize {
    shape.iter().product::<usize>() / shape.get(axis).copied().unwrap_or(1).max(1)
}

/// Least length at which a sequence is assumed to consist of places of the photo even if they cannot be
/// traced.
const SEQUENCE: usize = 9;

/// The last map of numbers, not of the integers they are rounded to, among the values on all paths. The error
/// is a sequence whose places cannot be traced.
fn last_map<'p>(tracer: &Tracer, passes: &'p [String]) -> Result<Option<&'p str>, &'p str> {
    for value in passes.iter().rev() {
        let shape = tracer.shapes.get(value).map(Vec::as_slice).unwrap_or_default();
        let producer = tracer.graph.producer_of(value);
        let is_integer = producer.is_some_and(|(_, node)| op(node) == "QuantizeLinear");
        if is_integer || shape.iter().filter(|side| **side > 1).count() < 2 {
            continue;
        }
        match *shape {
            [1, a, b] | [a, 1, b] if a > 1 && b > 1 => {
                if tracer.channels(value).is_some() {
                    return Ok(Some(value));
                }
                // A product of two computed tensors is not a sequence of places.
                if a.min(b) >= SEQUENCE && tracer.is_spatial(value) {
                    return Err(value);
                }
            }
            [1, _, _, _] => {
                let axis = channel_axis(tracer.graph, tracer.shapes, value);
                if places(shape, axis) > 1 && tracer.is_spatial(value) {
                    return Ok(Some(value));
                }
            }
            _ => {}
        }
    }
    Ok(None)
}

/// Goes back over poolings, operators that only move elements and, in a sequence, dense layers of each token,
/// to the output of an activation, a norm or a sum.
fn before_moves(tracer: &Tracer, passes: &[String], found: &str) -> String {
    let (graph, shapes) = (tracer.graph, tracer.shapes);
    let mut pooled = found.to_owned();
    let mut powered = false;
    while let Some((_, node)) = graph.producer_of(&pooled) {
        let held = |value: &&String| !graph.constants.contains_key(*value);
        let data: Vec<&String> = node.input.iter().filter(held).collect();
        let rank = |value: &str| shapes.get(value).map_or(0, Vec::len);
        let weighs = |node: &NodeProto| {
            matches!(op(node), "MatMul" | "Gemm")
                && input(node, 1).is_some_and(|w| graph.constants.contains_key(w))
        };
        let sequence = rank(&pooled) == 3;
        let moves = match op(node) {
            "MaxPool" | "AveragePool" | "Transpose" | "Identity" | "Dropout" | "Cast" => true,
            // Generalised mean pooling: a power of values that are clipped above 0.
            "Pow" => true,
            "Clip" | "Max" => powered,
            "Reshape" | "Flatten" => input(node, 0).is_some_and(|x| rank(x) == 4),
            // Cuts off class tokens.
            "Slice" => sequence && tracer.channels(data[0]).is_some_and(|(_, t)| t.is_some()),
            "MatMul" | "Gemm" => sequence && weighs(node),
            "Add" if sequence && data.len() == 1 => {
                graph.producer_of(data[0]).is_some_and(|(_, node)| weighs(node))
            }
            _ => false,
        };
        match data.first().filter(|before| moves && passes.contains(before)) {
            Some(before) => {
                powered = op(node) == "Pow";
                pooled = (*before).clone();
            }
            None => break,
        }
    }
    pooled
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::graph::{int_attribute, ints_attribute, value_info};
    use rten_onnx::onnx::{DataType, OperatorSetIdProto};
    use skincell_onnx::Constant;

    /// The integers of a quantized network were tried as a map, which ended its preparation.
    #[test]
    fn integers_are_no_map() {
        let mut graph = Graph {
            inputs: vec![value_info("image", &[1, 3, 8, 8])],
            outputs: vec![value_info("scores", &[1, 4])],
            ir_version: 8,
            opsets: vec![OperatorSetIdProto { domain: None, version: Some(17) }],
            ..Graph::default()
        };
        let weights: Vec<f32> = (0..12).map(|n| n as f32 / 12.0).collect();
        let weights = graph.add_constant("w", Constant::f32(&[4, 3, 1, 1], &weights));
        let ones =
            ["kernel_shape", "strides", "dilations"].map(|name| ints_attribute(name, &[1, 1]));
        let map = graph.emit("map", "Conv", &["image", &weights], ones.to_vec());
        let scale = graph.add_constant("scale", Constant::scalar(0.01));
        let zero = Constant { dtype: DataType::UINT8, dims: vec![], bytes: vec![0] };
        let zero = graph.add_constant("zero", zero);
        let bytes = graph.emit("bytes", "QuantizeLinear", &[&map, &scale, &zero], vec![]);
        let values = graph.emit("values", "DequantizeLinear", &[&bytes, &scale, &zero], vec![]);
        let mean = vec![ints_attribute("axes", &[2, 3]), int_attribute("keepdims", 0)];
        graph.emit("scores", "ReduceMean", &[&values], mean);
        let mut probe = Probe::new(&graph, &[1, 3, 8, 8]).expect("it runs");
        let last_maps = find_all(&graph, &mut probe, "scores").expect("it runs").expect("maps");
        let maps: Vec<&str> = last_maps.iter().map(|last_map| last_map.pooled.as_str()).collect();
        assert_eq!(maps, ["values", "map"]);
    }
}
