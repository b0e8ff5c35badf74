//! Finds the map a classifier's heatmap is made on, by structure: the last map that everything passes.
//!
//! Names of nodes and values change from export to export, so none is looked at. A gate's or a branch's
//! map is never taken for the whole: only values through which every way from the photo to the scores
//! leads are candidates. What lies behind is differentiated by `tangent` and `reverse`.

use std::collections::{HashMap, HashSet};

use rten_onnx::onnx::NodeProto;

use super::refusal::Refusal;
use crate::onnx::engine::{EngineError, Probe};
use crate::onnx::graph::{Graph, input, int, ints, label, op, output, reads};

/// The feature map before the pooling, and the convolution it comes from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tail {
    /// The last map that everything passes: what the pooling takes.
    pub(crate) pooled: String,
    /// The axis of its channels.
    pub(crate) axis: usize,
    /// Index of the last convolution's node before it that gives a map of that size.
    pub(crate) conv: Option<usize>,
}

/// The inputs of a node that its output depends on smoothly: not shapes, bounds and indices.
pub(super) fn flows(node: &NodeProto) -> Vec<&str> {
    match op(node) {
        "Shape" | "Size" | "ConstantOfShape" => Vec::new(),
        "Reshape" | "Expand" | "Squeeze" | "Unsqueeze" | "Slice" | "Gather" | "Pad" | "Resize"
        | "Tile" | "Split" | "ReduceMean" | "ReduceSum" | "ReduceMax" => {
            input(node, 0).into_iter().collect()
        }
        _ => reads(node),
    }
}

/// Indices of the nodes a value depends on, in the graph's order.
fn ancestors(graph: &Graph, value: &str) -> Vec<usize> {
    let mut needed: HashSet<&str> = HashSet::from([value]);
    let mut indices = Vec::new();
    for (index, node) in graph.nodes.iter().enumerate().rev() {
        if node.output.iter().any(|o| needed.contains(o.as_str())) {
            needed.extend(flows(node));
            indices.push(index);
        }
    }
    indices.reverse();
    indices
}

/// The values every way from the photo to `scores` passes, from the first on.
fn passes(graph: &Graph, scores: &str) -> Vec<String> {
    let nodes: Vec<&NodeProto> =
        ancestors(graph, scores).into_iter().filter_map(|i| graph.nodes.get(i)).collect();
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

/// The axis of the channels of a map, by what made it.
pub(super) fn channel_axis(
    graph: &Graph,
    shapes: &HashMap<String, Vec<usize>>,
    value: &str,
) -> usize {
    let rank = shapes.get(value).map_or(4, Vec::len);
    let Some((_, node)) = graph.producer_of(value) else { return 1 };
    let before = input(node, 0).unwrap_or_default();
    match op(node) {
        "Conv"
        | "ConvTranspose"
        | "MaxPool"
        | "AveragePool"
        | "BatchNormalization"
        | "GlobalAveragePool"
        | "InstanceNormalization" => 1,
        "MatMul" | "LayerNormalization" | "Gemm" => rank.saturating_sub(1),
        "Transpose" => {
            let axis = channel_axis(graph, shapes, before);
            let perm = ints(node, "perm").unwrap_or_default();
            perm.iter().position(|p| usize::try_from(*p).ok() == Some(axis)).unwrap_or(1)
        }
        "Concat" => {
            let axis = int(node, "axis", 1);
            let full = i64::try_from(rank).unwrap_or(4);
            usize::try_from(if axis < 0 { axis + full } else { axis }).unwrap_or(1)
        }
        "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => match shapes.get(before) {
            Some(from) => {
                let axis = channel_axis(graph, shapes, before);
                let all = from.get(axis).copied().unwrap_or(0);
                let to = shapes.get(value).map(Vec::as_slice).unwrap_or_default();
                let lead: usize = from.iter().take(axis).product();
                let fits = |a: &usize| to[*a] == all && to[..*a].iter().product::<usize>() == lead;
                (0..to.len()).find(fits).unwrap_or(rank.saturating_sub(1))
            }
            None => rank.saturating_sub(1),
        },
        _ => {
            let carried = flows(node).into_iter().find(|i| !graph.constants.contains_key(*i));
            carried.map_or(1, |i| channel_axis(graph, shapes, i)).min(rank.saturating_sub(1))
        }
    }
}

/// Finds the last map before the scores that everything passes, and the last convolution before it.
///
/// # Errors
/// The inner [`Refusal`] says what stands where the map should be; the outer error is the engine's.
pub(crate) fn find(
    graph: &Graph,
    probe: &mut Probe,
    scores: &str,
) -> Result<Result<Tail, Refusal>, EngineError> {
    let passes = passes(graph, scores);
    let order = ancestors(graph, scores);
    let last = order.last().and_then(|i| graph.nodes.get(*i));
    let refuse = |why: &str| {
        Ok(Err(Refusal { node: last.map(label).unwrap_or_default(), why: why.to_owned() }))
    };
    let names: Vec<&str> = passes.iter().map(String::as_str).collect();
    let shapes = probe.learn(&names)?.clone();
    let is_map = |value: &&String| {
        let shape = shapes.get(*value).map(Vec::as_slice).unwrap_or_default();
        let axis = channel_axis(graph, &shapes, value);
        let places = shape.iter().product::<usize>() / shape.get(axis).copied().unwrap_or(1).max(1);
        matches!(shape, [1, _, _, _] | [1, _, _]) && places > 1
    };
    let Some(mut pooled) = passes.iter().rev().find(is_map).cloned() else {
        return refuse("no feature map that everything passes comes before it");
    };
    // Back over poolings and what only moves elements, to what an activation or a sum gave.
    while let Some((_, node)) = graph.producer_of(&pooled) {
        let before = input(node, 0).unwrap_or_default().to_owned();
        let moves = match op(node) {
            "MaxPool" | "AveragePool" | "Transpose" | "Identity" | "Dropout" | "Cast" => true,
            "Reshape" | "Flatten" => shapes.get(&before).is_some_and(|s| s.len() == 4),
            _ => false,
        };
        match input(node, 0).filter(|before| moves && passes.iter().any(|p| p == before)) {
            Some(before) => pooled = before.to_owned(),
            None => break,
        }
    }
    let axis = channel_axis(graph, &shapes, &pooled);
    let wanted = shapes.get(&pooled).cloned().unwrap_or_default();
    if graph.inputs.iter().any(|i| i.name.as_deref() == Some(&pooled)) {
        return refuse("no convolution comes before it");
    }
    let convolutions = ancestors(graph, &pooled);
    let mut conv = None;
    for index in convolutions.into_iter().rev() {
        let Some(node) = graph.nodes.get(index).filter(|n| op(n) == "Conv") else { continue };
        let shape = probe.learn(&[output(node)])?.get(output(node)).cloned().unwrap_or_default();
        let places = |shape: &[usize], axis: usize| {
            shape.iter().product::<usize>() / shape.get(axis).copied().unwrap_or(1).max(1)
        };
        if places(&shape, 1) == places(&wanted, axis) {
            conv = Some(index);
            break;
        }
    }
    Ok(Ok(Tail { pooled, axis, conv }))
}

/// The axes a reduction goes over, from an attribute or a constant input; all but the batch's where
/// none are given.
pub(super) fn reduced_axes(graph: &Graph, node: &NodeProto, rank: usize) -> Option<Vec<usize>> {
    let axes = match (ints(node, "axes"), input(node, 1)) {
        (Some(axes), _) => axes.to_vec(),
        (None, Some(name)) => graph.constants.get(name)?.to_i64()?,
        (None, None) => (0..i64::try_from(rank).ok()?).collect(),
    };
    let full = i64::try_from(rank).ok()?;
    let axis = |a: &i64| usize::try_from(if *a < 0 { a + full } else { *a }).ok();
    axes.iter().map(axis).collect::<Option<Vec<_>>>().filter(|a| a.iter().all(|a| *a < rank))
}

/// What a Slice or Gather takes, where that is neighbouring places along one axis: the axis, the
/// first place and their number, and whether the axis goes away.
pub(super) fn taken(
    graph: &Graph,
    node: &NodeProto,
    shape: &[usize],
) -> Option<(usize, (usize, usize), bool)> {
    let rank = i64::try_from(shape.len()).ok()?;
    let place = |axis: i64| usize::try_from(if axis < 0 { axis + rank } else { axis }).ok();
    if op(node) == "Gather" {
        let axis = place(int(node, "axis", 0))?;
        let side = i64::try_from(*shape.get(axis)?).ok()?;
        let tensor = graph.constants.get(input(node, 1)?)?;
        let indices = tensor.to_i64()?;
        let at = |i: &i64| if *i < 0 { i + side } else { *i };
        let first = at(indices.first()?);
        let row = indices.iter().zip(first..).all(|(i, wanted)| at(i) == wanted);
        let fits = first >= 0 && first + i64::try_from(indices.len()).ok()? <= side;
        let drops = tensor.dims.is_empty();
        let plain = row && fits && tensor.dims.len() <= 1;
        return plain.then_some((axis, (usize::try_from(first).ok()?, indices.len()), drops));
    }
    let list = |attribute: &str, index: usize| match ints(node, attribute) {
        Some(list) => Some(list.to_vec()),
        None => graph.constants.get(input(node, index)?)?.to_i64(),
    };
    let (starts, ends) = (list("starts", 1)?, list("ends", 2)?);
    let axes = list("axes", 3).unwrap_or_else(|| (0..).take(starts.len()).collect());
    let steps = list("steps", 4).unwrap_or_else(|| vec![1; starts.len()]);
    let ([start], [end], [axis], [1]) = (&starts[..], &ends[..], &axes[..], &steps[..]) else {
        return None;
    };
    let axis = place(*axis)?;
    let side = i64::try_from(*shape.get(axis)?).ok()?;
    let at = |v: i64| (if v < 0 { v + side } else { v }).clamp(0, side);
    let (from, to) = (at(*start), at(*end));
    let count = usize::try_from(to - from).ok()?;
    Some((axis, (usize::try_from(from).ok()?, count), false))
}
