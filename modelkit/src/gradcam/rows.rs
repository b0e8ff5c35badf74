//! Moves selections of few rows up through row-wise operators, so that only the needed rows are computed.
//!
//! A classifier that reads only the class token then computes the rest of its last block for that token
//! alone, and the reverse pass handles only the gradient of that token. The scores stay the same up to
//! rounding.

use rten_onnx::onnx::NodeProto;

use super::axes::{axis_in, dims_of, kept_axis, reduced_axes, taken};
use super::reverse::Shapes;
use crate::onnx::graph::{Graph, input, int, int_attribute, ints, op, output};
use skincell_onnx::Constant;

/// Neighbouring elements along an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rows {
    axis: usize,
    from: usize,
    count: usize,
}

/// A node that selects rows: its index in the graph, and whether it removes the axis.
struct Reader {
    index: usize,
    rows: Rows,
    drops: bool,
}

/// Moves selections up as far as possible. `shapes` holds the shapes of all values of the graph and is
/// updated. The value `kept` is not dropped even if no node reads it yet.
pub(crate) fn pull_up(graph: &mut Graph, shapes: &mut Shapes, kept: &str) {
    drop_idle(graph, shapes);
    let mut index = graph.nodes.len();
    while index > 0 {
        index -= 1;
        let Some((rows, readers)) = wanted(graph, shapes, index) else { continue };
        let node = graph.nodes[index].clone();
        let Some(narrow) = narrowed(graph, shapes, &node, rows) else { continue };
        for Reader { index, rows: own, drops } in readers {
            let own = Rows { from: own.from - rows.from, ..own };
            let reader = graph.nodes[index].clone();
            graph.nodes[index] = selection(graph, &reader, &reader.input[0], own, drops);
        }
        shapes.entry(output(&node).to_owned()).and_modify(|shape| shape[rows.axis] = rows.count);
        // The added selections are handled later, at the nodes that they read.
        graph.nodes.splice(index..=index, narrow);
    }
    drop_idle(graph, shapes);
    graph.drop_unused_but(Some(kept));
}

/// The range of rows that all readers of a node's output select together, if it is small.
fn wanted(graph: &Graph, shapes: &Shapes, index: usize) -> Option<(Rows, Vec<Reader>)> {
    let node = graph.nodes.get(index).filter(|n| !matches!(op(n), "Slice" | "Gather"))?;
    let value = output(node);
    let shape = shapes.get(value).filter(|_| !graph.is_output(value) && node.output.len() == 1)?;
    let mut all: Option<Rows> = None;
    let mut readers = Vec::new();
    for index in graph.consumers_of(value) {
        let reader = graph.nodes.get(index).filter(|n| matches!(op(n), "Slice" | "Gather"))?;
        if reader.input.iter().filter(|i| *i == value).count() != 1 {
            return None;
        }
        let (axis, (from, count), drops) = taken(graph, reader, shape)?;
        readers.push(Reader { index, rows: Rows { axis, from, count }, drops });
        all = Some(match all {
            None => Rows { axis, from, count },
            Some(rows) if rows.axis == axis => {
                let start = rows.from.min(from);
                let end = (rows.from + rows.count).max(from + count);
                Rows { axis, from: start, count: end - start }
            }
            Some(_) => return None,
        });
    }
    // Selecting half or more saves little; channels are often split this way.
    let few = |rows: &Rows| rows.count > 0 && rows.count * 2 < shape[rows.axis];
    Some((all.filter(few)?, readers))
}

/// The selecting `node`, rewritten to take `rows` of `value`.
fn selection(
    graph: &mut Graph,
    node: &NodeProto,
    value: &str,
    rows: Rows,
    drops: bool,
) -> NodeProto {
    let int = |v: usize| i64::try_from(v).unwrap_or(0);
    let mut new = node.clone();
    new.input = vec![value.to_owned()];
    new.attribute.clear();
    if drops {
        let place = Constant { dims: Vec::new(), ..Constant::i64_list(&[int(rows.from)]) };
        new.input.push(graph.add_constant("rows/place", place));
        new.attribute.push(int_attribute("axis", int(rows.axis)));
        new.op_type = Some("Gather".to_owned());
        return new;
    }
    for bound in [rows.from, rows.from + rows.count, rows.axis] {
        new.input.push(graph.add_constant("rows/bound", Constant::i64_list(&[int(bound)])));
    }
    new.op_type = Some("Slice".to_owned());
    new
}

/// The nodes that compute `rows` of the output of `node`; `None` for an operator that needs all rows.
fn narrowed(
    graph: &mut Graph,
    shapes: &mut Shapes,
    node: &NodeProto,
    rows: Rows,
) -> Option<Vec<NodeProto>> {
    let y = shapes.get(output(node))?.clone();
    if op(node) == "Concat" {
        return one_part(graph, shapes, node, rows);
    }
    let cuts = cuts(graph, shapes, node, &y, rows.axis)?;
    let mut new = node.clone();
    if matches!(op(node), "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze") {
        let mut sides = y.clone();
        sides[rows.axis] = rows.count;
        new = reshaped(graph, node, &sides);
    }
    let mut nodes = Vec::new();
    for (index, axis) in cuts {
        let value = new.input.get(index)?.clone();
        let mut dims = dims_of(graph, shapes, &value)?.clone();
        if dims[axis] != y[rows.axis] {
            return None;
        }
        let name = graph.fresh(&format!("rows/{value}"));
        let plain = NodeProto { name: Some(name.clone()), ..NodeProto::default() };
        let mut cut = selection(graph, &plain, &value, Rows { axis, ..rows }, false);
        cut.output = vec![name.clone()];
        dims[axis] = rows.count;
        shapes.insert(name.clone(), dims);
        new.input[index] = name;
        nodes.push(cut);
    }
    nodes.push(new);
    Some(nodes)
}

/// Rows that lie in a single part of a concatenation.
fn one_part(
    graph: &mut Graph,
    shapes: &Shapes,
    node: &NodeProto,
    rows: Rows,
) -> Option<Vec<NodeProto>> {
    let rank = shapes.get(output(node))?.len();
    (axis_of(node, 0, rank)? == rows.axis).then_some(())?;
    let mut start = 0;
    for part in &node.input {
        let side = *dims_of(graph, shapes, part)?.get(rows.axis)?;
        if start <= rows.from && rows.from + rows.count <= start + side {
            let own = Rows { from: rows.from - start, ..rows };
            return Some(vec![selection(graph, node, part, own, false)]);
        }
        start += side;
    }
    None
}

/// A Reshape of the node's first input, with the same name and output.
fn reshaped(graph: &mut Graph, node: &NodeProto, sides: &[usize]) -> NodeProto {
    let sides: Vec<i64> = sides.iter().filter_map(|s| i64::try_from(*s).ok()).collect();
    let sides = graph.add_constant("rows/shape", Constant::i64_list(&sides));
    let input = vec![node.input[0].clone(), sides];
    let operator = Some("Reshape".to_owned());
    NodeProto { op_type: operator, input, attribute: Vec::new(), ..node.clone() }
}

/// If only some elements along `axis` of a node's output (of shape `y`) are needed: the inputs to be cut, and
/// the axes along which to cut them.
fn cuts(
    graph: &Graph,
    shapes: &Shapes,
    node: &NodeProto,
    y: &[usize],
    axis: usize,
) -> Option<Vec<(usize, usize)>> {
    let rank = y.len();
    let x = || dims_of(graph, shapes, input(node, 0)?);
    Some(match op(node) {
        "Relu" | "LeakyRelu" | "Elu" | "Gelu" | "Erf" | "Tanh" | "Sigmoid" | "HardSigmoid"
        | "HardSwish" | "Swish" | "Softplus" | "Identity" | "Cast" | "Sqrt" | "Exp" | "Log"
        | "Neg" | "Reciprocal" | "Clip" | "IsNaN" | "Abs" => vec![(0, axis)],
        "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Where" => {
            let mut cuts = Vec::new();
            for (index, value) in node.input.iter().enumerate() {
                let dims = dims_of(graph, shapes, value)?;
                let own = (axis + dims.len()).checked_sub(rank);
                cuts.extend(own.filter(|a| dims[*a] != 1).map(|own| (index, own)));
            }
            cuts
        }
        "LayerNormalization" if axis < axis_of(node, -1, rank)? => vec![(0, axis)],
        "Softmax" if graph.opset() >= 13 && axis_of(node, -1, rank)? != axis => vec![(0, axis)],
        "ReduceMean" | "ReduceSum" | "ReduceMax" if int(node, "keepdims", 1) == 1 => {
            let over = reduced_axes(graph, node, rank)?;
            (!over.contains(&axis)).then_some(vec![(0, axis)])?
        }
        "MatMul" if axis + 2 == rank => vec![(0, x()?.len().checked_sub(2)?)],
        "MatMul" if axis + 2 < rank && x()?.len() == rank => {
            let weights = input(node, 1).and_then(|w| dims_of(graph, shapes, w))?;
            (weights.len() == 2).then_some(vec![(0, axis)])?
        }
        "Gemm" if axis == 0 && int(node, "transA", 0) == 0 => {
            let bias = input(node, 2).and_then(|c| dims_of(graph, shapes, c));
            let long = bias.is_some_and(|dims| dims.len() == 2 && dims[0] != 1);
            [Some((0, 0)), long.then_some((2, 0))].into_iter().flatten().collect()
        }
        "Transpose" => match ints(node, "perm") {
            Some(perm) => vec![(0, usize::try_from(*perm.get(axis)?).ok()?)],
            None => vec![(0, rank - 1 - axis)],
        },
        "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => vec![(0, kept_axis(y, axis, x()?)?)],
        _ => return None,
    })
}

/// Whether a Gather takes every element of a vector once and in order. PyTorch's exporter writes views this
/// way.
fn takes_all(graph: &Graph, shapes: &Shapes, node: &NodeProto) -> Option<()> {
    let [side] = shapes.get(input(node, 0)?)?[..] else { return None };
    let indices = graph.constants.get(input(node, 1)?)?;
    let ordered = indices.to_i64()?.into_iter().eq(0..i64::try_from(side).ok()?);
    (ordered && indices.dims.len() > 1).then_some(())
}

fn axis_of(node: &NodeProto, default: i64, rank: usize) -> Option<usize> {
    axis_in(rank, int(node, "axis", default))
}

/// Removes selections of all elements, and replaces those that only change the shape by a Reshape.
fn drop_idle(graph: &mut Graph, shapes: &Shapes) {
    for index in 0..graph.nodes.len() {
        let node = graph.nodes[index].clone();
        if op(&node) == "Gather" && takes_all(graph, shapes, &node).is_some() {
            let sides = shapes.get(output(&node)).cloned().unwrap_or_default();
            graph.nodes[index] = reshaped(graph, &node, &sides);
        }
    }
    let idle = |graph: &Graph, node: &NodeProto| {
        let x = shapes.get(input(node, 0)?)?;
        let (axis, (from, count), drops) = taken(graph, node, x)?;
        (!drops && from == 0 && count == x[axis] && !graph.is_output(output(node))).then_some(())
    };
    let mut index = 0;
    while let Some(node) = graph.nodes.get(index) {
        if matches!(op(node), "Slice" | "Gather") && idle(graph, node).is_some() {
            let (from, to) = (node.input[0].clone(), output(node).to_owned());
            graph.nodes.remove(index);
            graph.replace_reads(&to, &from);
        } else {
            index += 1;
        }
    }
}
