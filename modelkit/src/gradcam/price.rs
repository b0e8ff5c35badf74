//! Estimates the cost of the added nodes, relative to the model, in multiplications and bytes, from shapes.

use std::collections::{HashMap, HashSet};

use rten_onnx::onnx::NodeProto;

use super::axes::{axis_in, dims_of, reduced_axes};
use super::reverse::Shapes;
use crate::onnx::graph::{Graph, broadcast, input, int, ints, op, output, reads};
use skincell_onnx::Constant;

/// The cost of a Grad-CAM output.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Price {
    /// Multiplications of the added nodes, divided by those of the model.
    pub share: f64,
    /// Bytes of added constants, plus the growth of the largest total of values alive at once.
    pub bytes: u64,
}

/// Acceptable bytes of maps of all classes.
const MOST_BYTES: u64 = 10 << 20;

impl Price {
    /// Whether the cost of maps of all classes is acceptable.
    pub(super) fn is_small(self) -> bool {
        self.share <= 0.05 && self.bytes <= MOST_BYTES
    }

    /// Whether the engine cellnet makes up for the cost of maps of all classes. It does not support the
    /// operators that choose the likeliest classes, and saves about this much of other engines' time.
    pub(super) fn is_worth_cellnet(self) -> bool {
        self.share <= 0.25 && self.bytes <= MOST_BYTES
    }
}

/// The cost of the nodes from `first` on, and of the constants that are not in `before`.
pub(super) fn price(
    graph: &Graph,
    known: &Shapes,
    first: usize,
    before: &HashSet<String>,
) -> Price {
    let mut shapes: HashMap<&str, Vec<usize>> =
        known.iter().map(|(name, dims)| (name.as_str(), dims.clone())).collect();
    for node in graph.nodes.iter().skip(first) {
        for (index, value) in node.output.iter().enumerate() {
            let dims = inferred(graph, &shapes, node, index).unwrap_or_default();
            shapes.insert(value, dims);
        }
    }
    let work = |nodes: &[NodeProto]| -> f64 {
        nodes.iter().map(|node| multiplications(graph, &shapes, node)).sum()
    };
    let (model, added) = graph.nodes.split_at(first.min(graph.nodes.len()));
    let own = |name: &&String| !before.contains(*name) && !name.starts_with("cam/weights");
    let new = graph.constants.iter().filter(|(name, _)| own(name));
    let constants: u64 = new.map(|(_, c)| c.bytes.len() as u64).sum();
    let with = peak(&graph.nodes, &shapes);
    let without = peak(model, &shapes);
    Price {
        share: work(added) / work(model).max(1.0),
        bytes: constants + with.saturating_sub(without),
    }
}

fn elements(shapes: &HashMap<&str, Vec<usize>>, value: &str) -> u64 {
    shapes.get(value).map_or(0, |dims| dims.iter().map(|d| *d as u64).product())
}

/// The largest total of bytes of values that are alive at once, in the order of the nodes.
fn peak(nodes: &[NodeProto], shapes: &HashMap<&str, Vec<usize>>) -> u64 {
    let mut last: HashMap<&str, usize> = HashMap::new();
    for (index, node) in nodes.iter().enumerate() {
        last.extend(reads(node).into_iter().map(|value| (value, index)));
    }
    let (mut alive, mut most) = (0_u64, 0_u64);
    for (index, node) in nodes.iter().enumerate() {
        // A view of the same elements needs no memory.
        let view = matches!(op(node), "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" | "Identity");
        if !view {
            alive += node.output.iter().map(|o| elements(shapes, o)).sum::<u64>();
        }
        most = most.max(alive);
        let ends = reads(node).into_iter().filter(|v| last.get(v) == Some(&index));
        let ends: HashSet<&str> = ends.collect();
        if !view {
            alive = alive.saturating_sub(ends.into_iter().map(|v| elements(shapes, v)).sum());
        }
    }
    most * 4
}

fn multiplications(graph: &Graph, shapes: &HashMap<&str, Vec<usize>>, node: &NodeProto) -> f64 {
    let out = elements(shapes, output(node)) as f64;
    let dims = |index: usize| dims_of(graph, shapes, input(node, index)?);
    let each = match op(node) {
        "Conv" => dims(1).map(|w| w.iter().skip(1).product::<usize>()),
        "MatMul" => dims(0).and_then(|a| a.last().copied()),
        "Gemm" => dims(0).map(|a| match (&a[..], int(node, "transA", 0)) {
            ([rows, _], 1) => *rows,
            (_, _) => a.last().copied().unwrap_or(1),
        }),
        _ => Some(1),
    };
    out * each.unwrap_or(1) as f64
}

/// The shape of an output of an added node.
fn inferred(
    graph: &Graph,
    shapes: &HashMap<&str, Vec<usize>>,
    node: &NodeProto,
    index: usize,
) -> Option<Vec<usize>> {
    let dims = |index: usize| dims_of(graph, shapes, input(node, index)?).cloned();
    let list = |index: usize| {
        let list = graph.constants.get(input(node, index)?).and_then(Constant::to_i64)?;
        list.into_iter().map(|v| usize::try_from(v).ok()).collect::<Option<Vec<usize>>>()
    };
    let x = dims(0)?;
    Some(match op(node) {
        "Reshape" => list(1).unwrap_or_else(|| vec![x.iter().product()]),
        "Expand" => broadcast(&x, &list(1)?)?,
        "Transpose" => {
            let side = |p: &i64| x.get(usize::try_from(*p).ok()?).copied();
            ints(node, "perm")?.iter().map(side).collect::<Option<_>>()?
        }
        "Slice" => {
            let (from, to, axis) = (list(1)?, list(2)?, list(3)?);
            let step = list(4).unwrap_or_else(|| vec![1]);
            let mut y = x;
            let count = to.first()?.checked_sub(*from.first()?)?;
            *y.get_mut(*axis.first()?)? = count.div_ceil(*step.first()?.max(&1));
            y
        }
        "Concat" => {
            let axis = axis_in(x.len(), int(node, "axis", 0))?;
            let mut y = x;
            let side = |i: usize| dims(i)?.get(axis).copied();
            *y.get_mut(axis)? = (0..node.input.len()).map(side).sum::<Option<usize>>()?;
            y
        }
        "MatMul" => {
            let b = dims(1)?;
            let (lead, rows) = x.split_at(x.len().checked_sub(2)?);
            let (other, columns) = b.split_at(b.len().checked_sub(2)?);
            let mut y = broadcast(lead, other)?;
            y.extend([*rows.first()?, *columns.get(1)?]);
            y
        }
        "Gemm" => {
            let b = dims(1)?;
            let rows = x.get(usize::from(int(node, "transA", 0) == 1))?;
            vec![*rows, *b.get(usize::from(int(node, "transB", 0) == 0))?]
        }
        "ReduceSum" | "ReduceMean" => {
            let axes = reduced_axes(graph, node, x.len())?;
            x.iter().enumerate().map(|(a, d)| if axes.contains(&a) { 1 } else { *d }).collect()
        }
        "GlobalAveragePool" => {
            x.iter().enumerate().map(|(a, d)| if a > 1 { 1 } else { *d }).collect()
        }
        "TopK" => vec![1, *list(1)?.first()?],
        "Where" => broadcast(&broadcast(&x, &dims(1)?)?, &dims(2)?)?,
        _ if index == 0 && node.input.len() == 2 => broadcast(&x, &dims(1)?)?,
        _ => x,
    })
}
