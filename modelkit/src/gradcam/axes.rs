//! The inputs of a node that a derivative passes through, what a value depends on by them, and how operators
//! move axes.

use std::borrow::Borrow;
use std::collections::{HashMap, HashSet};
use std::hash::Hash;

use rten_onnx::onnx::NodeProto;

use crate::onnx::graph::{Graph, input, int, ints, op, reads, text};

/// The inputs of a node with respect to which its output has a derivative: not shapes, bounds and indices.
pub(super) fn flows(node: &NodeProto) -> Vec<&str> {
    match op(node) {
        "Shape" | "Size" | "ConstantOfShape" | "IsNaN" | "Equal" | "Greater" | "Less"
        | "GreaterOrEqual" | "LessOrEqual" | "Not" | "And" | "Or" | "ArgMax" => Vec::new(),
        "Reshape" | "Expand" | "Squeeze" | "Unsqueeze" | "Slice" | "Gather" | "Pad" | "Resize"
        | "Tile" | "Split" | "ReduceMean" | "ReduceSum" | "ReduceMax" | "ReduceL2"
        | "ReduceSumSquare" => input(node, 0).into_iter().collect(),
        _ => reads(node),
    }
}

/// Indices of the nodes that a value depends on, in the graph's order, without `skipped` nodes.
pub(crate) fn ancestors(graph: &Graph, value: &str, skipped: &HashSet<usize>) -> Vec<usize> {
    let mut needed: HashSet<&str> = HashSet::from([value]);
    let mut indices = Vec::new();
    for (index, node) in graph.nodes.iter().enumerate().rev() {
        if !skipped.contains(&index) && node.output.iter().any(|o| needed.contains(o.as_str())) {
            needed.extend(flows(node));
            indices.push(index);
        }
    }
    indices.reverse();
    indices
}

/// The dimensions of a constant, or of a value whose shape is known.
pub(super) fn dims_of<'g, Name: Borrow<str> + Eq + Hash>(
    graph: &'g Graph,
    shapes: &'g HashMap<Name, Vec<usize>>,
    value: &str,
) -> Option<&'g Vec<usize>> {
    graph.constants.get(value).map(|t| &t.dims).or_else(|| shapes.get(value))
}

/// The index of an axis among `rank` axes; a negative axis counts from the end.
pub(super) fn axis_in(rank: usize, axis: i64) -> Option<usize> {
    usize::try_from(if axis < 0 { axis + i64::try_from(rank).ok()? } else { axis }).ok()
}

/// The axis of the channels of a map, derived from the operators that compute it.
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
        "MatMul" | "Gemm" => rank.saturating_sub(1),
        // A norm keeps the axes of its input; it may normalise rows and columns too.
        "LayerNormalization" if rank != 4 => rank.saturating_sub(1),
        "Transpose" => {
            let axis = channel_axis(graph, shapes, before);
            let perm = ints(node, "perm").unwrap_or_default();
            perm.iter().position(|p| usize::try_from(*p).ok() == Some(axis)).unwrap_or(1)
        }
        "Concat" => axis_in(rank, int(node, "axis", 1)).unwrap_or(1),
        "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => match shapes.get(before) {
            Some(from) => {
                if let Some(x) = restored(graph, shapes, node) {
                    return channel_axis(graph, shapes, x);
                }
                let axis = channel_axis(graph, shapes, before);
                let all = from.get(axis).copied().unwrap_or(0);
                let to = shapes.get(value).map(Vec::as_slice).unwrap_or_default();
                let lead: usize = from.iter().take(axis).product();
                let fits = |a: &usize| to[*a] == all && to[..*a].iter().product::<usize>() == lead;
                // Otherwise channels are split into groups or joined, before the trailing axes that stay
                // equal.
                let stay =
                    from.iter().rev().zip(to.iter().rev()).take_while(|(a, b)| a == b).count();
                let groups = (axis + stay < from.len()).then(|| to.len().checked_sub(stay + 1));
                let groups = groups.flatten().unwrap_or(rank.saturating_sub(1));
                (0..to.len()).find(fits).unwrap_or(groups)
            }
            None => rank.saturating_sub(1),
        },
        _ => {
            let carried = |i: &&str| !graph.constants.contains_key(*i) && !is_mask(graph, i);
            let carried = flows(node).into_iter().find(carried);
            carried.map_or(1, |i| channel_axis(graph, shapes, i)).min(rank.saturating_sub(1))
        }
    }
}

/// Most nodes between a comparison and the factor of 0 and 1 that is made of it.
const MASK_DEPTH: usize = 8;

/// Whether a value is a comparison, as a factor. Keras's `ReLU` with a threshold writes one before the map
/// itself.
fn is_mask(graph: &Graph, value: &str) -> bool {
    let mut value = value;
    for _ in 0..MASK_DEPTH {
        let Some((_, node)) = graph.producer_of(value) else { return false };
        match (op(node), input(node, 0)) {
            ("Cast" | "Identity" | "Not", Some(before)) => value = before,
            (operator, _) => {
                return matches!(
                    operator,
                    "Equal" | "Greater" | "Less" | "GreaterOrEqual" | "LessOrEqual" | "And" | "Or"
                );
            }
        }
    }
    false
}

/// The value whose shape a `Reshape` restores: it was flattened for a norm or a softmax only, as group norms
/// are written.
fn restored<'g>(
    graph: &'g Graph,
    shapes: &HashMap<String, Vec<usize>>,
    node: &'g NodeProto,
) -> Option<&'g str> {
    let (_, inner) = graph.producer_of(input(node, 0)?)?;
    let kept = matches!(op(inner), "InstanceNormalization" | "Softmax" | "LogSoftmax");
    let (_, first) = graph.producer_of(input(inner, 0).filter(|_| kept)?)?;
    let x = input(first, 0).filter(|_| matches!(op(first), "Reshape" | "Flatten"))?;
    (shapes.get(x)? == shapes.get(node.output.first()?)?).then_some(x)
}

/// The axis of a reshaped tensor that corresponds to `axis`: it has the same length and the same number of
/// elements before it.
pub(super) fn kept_axis(from: &[usize], axis: usize, to: &[usize]) -> Option<usize> {
    let lead: usize = from.get(..axis)?.iter().product();
    let side = *from.get(axis)?;
    (0..to.len()).find(|a| to[*a] == side && to[..*a].iter().product::<usize>() == lead)
}

/// The axes of a reduction, from an attribute or a constant input; all axes if none are given.
pub(super) fn reduced_axes(graph: &Graph, node: &NodeProto, rank: usize) -> Option<Vec<usize>> {
    let axes = match (ints(node, "axes"), input(node, 1)) {
        (Some(axes), _) => axes.to_vec(),
        (None, Some(name)) => graph.constants.get(name)?.to_i64()?,
        (None, None) => (0..i64::try_from(rank).ok()?).collect(),
    };
    axes.iter()
        .map(|axis| axis_in(rank, *axis))
        .collect::<Option<Vec<_>>>()
        .filter(|a| a.iter().all(|a| *a < rank))
}

/// How many elements a `Pad` adds before and after each of `rank` axes, if it adds a constant.
///
/// # Errors
/// A text for users, about a `Pad` of another kind.
pub(super) fn padding(
    graph: &Graph,
    node: &NodeProto,
    rank: usize,
) -> Result<Vec<(usize, usize)>, String> {
    if let Some(mode) = text(node, "mode").filter(|mode| *mode != "constant") {
        return Err(format!(
            "it pads with the map's own values (mode {mode}), and there is a rule for the derivative of a \
             constant border only"
        ));
    }
    let list = |index| input(node, index).map(|name| graph.constants.get(name)?.to_i64());
    let pads = match ints(node, "pads") {
        Some(pads) => Some(pads.to_vec()),
        None => list(1).flatten(),
    };
    let axes = match list(3) {
        Some(axes) => axes,
        None => Some((0..).take(rank).collect()),
    };
    let (pads, axes) = pads.zip(axes).ok_or("its border is computed")?;
    let mut each = vec![(0, 0); rank];
    let (before, after) = pads.split_at(axes.len().min(pads.len()));
    for ((axis, before), after) in axes.iter().zip(before).zip(after) {
        let counts = usize::try_from(*before).ok().zip(usize::try_from(*after).ok());
        let counts = counts.ok_or("it cuts a part of the map off, by a negative border")?;
        let at = axis_in(rank, *axis).and_then(|axis| each.get_mut(axis));
        *at.ok_or("its axes do not fit")? = counts;
    }
    Ok(each)
}

/// For a Slice or Gather that takes neighbouring elements along one axis: the axis, the first index and the
/// number of elements, and whether the axis is removed.
pub(super) fn taken(
    graph: &Graph,
    node: &NodeProto,
    shape: &[usize],
) -> Option<(usize, (usize, usize), bool)> {
    if op(node) == "Gather" {
        let axis = axis_in(shape.len(), int(node, "axis", 0))?;
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
    let lengths = [starts.len(), ends.len(), axes.len(), steps.len()];
    if lengths.iter().any(|length| *length != starts.len()) || steps.iter().any(|step| *step != 1) {
        return None;
    }
    let part = |((start, end), axis): ((&i64, &i64), &i64)| {
        let axis = axis_in(shape.len(), *axis)?;
        let side = i64::try_from(*shape.get(axis)?).ok()?;
        let at = |v: i64| (if v < 0 { v + side } else { v }).clamp(0, side);
        let count = usize::try_from(at(*end) - at(*start)).ok()?;
        Some((axis, (usize::try_from(at(*start)).ok()?, count), false))
    };
    let parts = starts.iter().zip(&ends).zip(&axes).map(part).collect::<Option<Vec<_>>>()?;
    // `x[:, 0]` is often written with the whole of the first axis.
    let mut cut = parts.iter().filter(|(axis, (_, count), _)| shape.get(*axis) != Some(count));
    match (cut.next(), cut.next()) {
        (Some(one), None) => Some(*one),
        (None, _) => parts.first().copied(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rten_onnx::onnx::NodeProto;
    use skincell_onnx::Constant;

    use super::{channel_axis, taken};
    use crate::onnx::graph::{Graph, ints_attribute};

    fn empty(constants: BTreeMap<String, Constant>) -> Graph {
        Graph { constants, ..Graph::default() }
    }

    /// What a Slice of a value of shape `[1, 65, 32]` takes.
    fn slice(bounds: [&[i64]; 3]) -> Option<(usize, (usize, usize), bool)> {
        let names = ["starts", "ends", "axes"];
        let constants = names.iter().zip(bounds);
        let constants: BTreeMap<String, Constant> =
            constants.map(|(name, list)| ((*name).to_owned(), Constant::i64_list(list))).collect();
        let graph = empty(constants);
        let node = NodeProto {
            op_type: Some("Slice".to_owned()),
            input: ["x", "starts", "ends", "axes"].map(str::to_owned).to_vec(),
            ..NodeProto::default()
        };
        taken(&graph, &node, &[1, 65, 32])
    }

    fn made(operator: &str, x: &str, y: &str) -> NodeProto {
        NodeProto {
            op_type: Some(operator.to_owned()),
            input: vec![x.to_owned()],
            output: vec![y.to_owned()],
            ..NodeProto::default()
        }
    }

    /// The axis of the channels after a convolution, a transposition if there is one, and a layer norm.
    fn normed(perm: Option<&[i64]>, shape: &[usize]) -> usize {
        let mut move_axes = made(if perm.is_some() { "Transpose" } else { "Relu" }, "map", "moved");
        move_axes.attribute.extend(perm.map(|perm| ints_attribute("perm", perm)));
        let nodes =
            vec![made("Conv", "image", "map"), move_axes, made("LayerNormalization", "moved", "y")];
        let graph = Graph { nodes, ..empty(BTreeMap::new()) };
        let shapes = ["map", "moved", "y"].map(|name| (name.to_owned(), shape.to_vec()));
        channel_axis(&graph, &shapes.into(), "y")
    }

    #[test]
    fn a_layer_norm_has_the_channels_of_its_input() {
        assert_eq!(normed(None, &[1, 4, 9, 9]), 1);
        assert_eq!(normed(Some(&[0, 2, 3, 1]), &[1, 9, 9, 4]), 3);
        assert_eq!(normed(None, &[1, 81, 4]), 2);
    }

    #[test]
    fn a_group_norm_has_the_channels_of_its_input() {
        let nodes = vec![
            made("Conv", "image", "map"),
            made("Reshape", "map", "rows"),
            made("InstanceNormalization", "rows", "normal"),
            made("Reshape", "normal", "y"),
        ];
        let graph = Graph { nodes, ..empty(BTreeMap::new()) };
        let named = |name: &str, shape: &[usize]| (name.to_owned(), shape.to_vec());
        let rows: &[usize] = &[1, 2, 288];
        let map: &[usize] = &[1, 4, 12, 12];
        let shapes =
            [named("map", map), named("rows", rows), named("normal", rows), named("y", map)];
        assert_eq!(channel_axis(&graph, &shapes.into(), "y"), 1);
    }

    #[test]
    fn a_slice_may_name_axes_that_it_takes_whole() {
        assert_eq!(slice([&[0], &[1], &[1]]), Some((1, (0, 1), false)));
        assert_eq!(slice([&[0, 0], &[1, 1], &[0, 1]]), Some((1, (0, 1), false)));
        assert_eq!(
            slice([&[0, 1, 0], &[i64::MAX, 65, 32], &[0, 1, -1]]),
            Some((1, (1, 64), false))
        );
        assert_eq!(slice([&[0, 0], &[65, 32], &[1, 2]]), Some((1, (0, 65), false)));
        assert_eq!(slice([&[0, 1], &[1, 3], &[1, 2]]), None);
    }
}
