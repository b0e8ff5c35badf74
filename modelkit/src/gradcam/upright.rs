//! Checks that a map lies over the photo as the photo was sent.
//!
//! A heatmap is stretched over the whole photo. If the network itself cuts a part out of the photo, mirrors
//! it or exchanges its rows and columns, that is the wrong place, so such a network gets no heatmap. The same
//! holds for its maps, unless what was cut off is joined to the rest again. Padding and cutting by a few
//! pixels, as before and after convolutions, do not count. Behind operators that are not known to keep
//! places, a trial decides (`response`).

use std::collections::{HashMap, HashSet};

use rten_onnx::onnx::NodeProto;

use super::axes::{ancestors, axis_in, kept_axis};
use super::place::FeatureMap;
use super::refusal::Refusal;
use super::reverse::Shapes;
use super::tokens::STAYS;
use crate::onnx::engine::{EngineError, Probe};
use crate::onnx::graph::{Graph, input, int, ints, label, op, output, text};

/// The part of a side that padding of one end may add to the photo.
const BORDER: usize = 8;

/// Most nodes that are looked at as readers of a padded map.
const READERS: usize = 16;

const CUT: &str = "cuts a part out of the photo";
const BORDER_AROUND: &str = "puts a border around the photo";

/// What is known of a value that has rows and columns.
#[derive(Clone, Copy)]
struct Seen {
    /// The axes of the rows and of the columns.
    axes: [usize; 2],
    /// Whether no convolution or pooling has been applied to the photo.
    raw: bool,
}

/// Operators, besides those that [`Node::follow`] handles, that keep each place of a map where it is, or
/// enlarge or shrink the map. Along axes other than rows and columns they may do anything.
#[rustfmt::skip]
const KEEPS: &[&str] = &[
    "Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool", "Resize", "Upsample", "DepthToSpace",
    "SpaceToDepth", "LRN", "Transpose", "Pad", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "ReduceL1",
    "ReduceL2", "ReduceProd", "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp", "Slice", "Gather",
];

/// The way in which a map was found to lie over the photo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shown {
    /// By its operators.
    ByOperators,
    /// An operator before it may move places.
    Unknown,
}

/// Why a map does not lie over the photo: the first node that displaces it, and how.
///
/// `photo` is the name of the photo's input, `rows` the axis of its rows.
///
/// # Errors
/// The inner [`Refusal`] names the node; the outer error is the engine's.
pub(crate) fn upright(
    graph: &Graph,
    probe: &mut Probe,
    map: &FeatureMap,
    (photo, rows): (&str, usize),
) -> Result<Result<Shown, Refusal>, EngineError> {
    let order = ancestors(graph, &map.pooled, &HashSet::new());
    let nodes = || order.iter().filter_map(|i| graph.nodes.get(*i));
    let shapes = probe.learn_made(nodes())?;
    let start = Seen { axes: [rows, rows + 1], raw: true };
    let mut seen = HashMap::from([(photo.to_owned(), start)]);
    // Values with places that may have been moved.
    let mut moved: HashSet<&str> = HashSet::new();
    for node in nodes() {
        let reads_moved = node.input.iter().any(|i| moved.contains(i.as_str()));
        let Some((x, from)) = node.input.iter().find_map(|i| Some((i, *seen.get(i)?))) else {
            if reads_moved {
                moved.extend(node.output.iter().map(String::as_str));
            }
            continue;
        };
        let tokens = map.tokens.is_some() && matches!(op(node), "Reshape" | "Flatten");
        if joins_turned(node, shapes, &seen) {
            return Ok(Err(refuse(
                node,
                "joins a map with one whose rows and columns are exchanged",
            )));
        }
        if from.is_turned() && (tokens || output(node) == map.pooled) {
            return Ok(Err(refuse(node, "exchanges the rows and columns of the photo")));
        }
        let step = Node { graph, shapes, node, x, from };
        let is_border = output(node) == map.pooled && op(node) == "Pad";
        match if is_border { step.shown_padded() } else { step.follow() } {
            Err(why) => return Ok(Err(refuse(node, why))),
            Ok(None) if !step.has_places() && !reads_moved => {}
            Ok(None) => moved.extend(node.output.iter().map(String::as_str)),
            Ok(Some(to)) if to.is_turned() && output(node) == map.pooled => {
                return Ok(Err(refuse(node, "exchanges the rows and columns of the photo")));
            }
            Ok(Some(to)) => {
                seen.extend(node.output.iter().map(|value| (value.clone(), to)));
                if reads_moved || !step.keeps_places(to) {
                    moved.extend(node.output.iter().map(String::as_str));
                }
            }
        }
    }
    if let Some(tokens) = map.tokens {
        let is_shape = |(value, found): (&String, &Seen)| {
            tokens.has_shape(rows_and_columns(shapes, value, *found))
        };
        if !seen.iter().any(is_shape) {
            let node = graph.producer_of(&map.pooled).map(|(_, node)| label(node));
            let why = "the positions of its tokens in the photo cannot be traced".into();
            return Ok(Err(Refusal { node: node.unwrap_or_default(), why }));
        }
    }
    // A map that was made from a vector, or whose rows and columns could not be followed, shows no places by
    // its operators. Those of tokens were traced when the map was found.
    let is_map = shapes.get(&map.pooled).is_some_and(|shape| shape.len() == 4);
    let is_traced = !is_map || map.tokens.is_some() || seen.contains_key(&map.pooled);
    let is_shown = is_traced && !moved.contains(map.pooled.as_str());
    Ok(Ok(if is_shown { Shown::ByOperators } else { Shown::Unknown }))
}

fn refuse(node: &NodeProto, why: &str) -> Refusal {
    let instead = match why {
        CUT | BORDER_AROUND => ", and leave that to --fit and --crop-ratio",
        _ => "",
    };
    Refusal::at(
        node,
        format!(
            "it {why}, so that a heatmap would lie in the wrong place; export the model without it{instead}"
        ),
    )
}

/// Operators that add or join their inputs, place by place.
const JOINS: &[&str] =
    &["Add", "Concat", "Div", "Max", "Mean", "Min", "Mul", "Sub", "Sum", "Where"];

/// Whether a node joins a map with one whose rows and columns are exchanged. A single row or column, as of a
/// gate, is no map.
fn joins_turned(node: &NodeProto, shapes: &Shapes, seen: &HashMap<String, Seen>) -> bool {
    let is_map = |value: &str, found: &Seen| {
        rows_and_columns(shapes, value, *found).iter().all(|side| *side > 1)
    };
    let read = || node.input.iter().filter_map(|i| Some((i, seen.get(i)?)));
    let mut turned =
        read().filter(|(i, found)| is_map(i, found)).map(|(_, found)| found.is_turned());
    let first = turned.next();
    JOINS.contains(&op(node)) && turned.any(|turned| Some(turned) != first)
}

/// The numbers of rows and columns of a value; 0 if they are not known.
fn rows_and_columns(shapes: &Shapes, value: &str, found: Seen) -> [usize; 2] {
    let shape = shapes.get(value).map(Vec::as_slice).unwrap_or_default();
    found.axes.map(|axis| shape.get(axis).copied().unwrap_or(0))
}

impl Seen {
    fn is_turned(&self) -> bool {
        self.axes[0] > self.axes[1]
    }
}

/// The step of a Slice as a number of rows or columns.
fn forwards(step: i64) -> usize {
    usize::try_from(step).unwrap_or(1).max(1)
}

/// A node that reads a value with rows and columns.
struct Node<'a> {
    graph: &'a Graph,
    shapes: &'a Shapes,
    node: &'a NodeProto,
    x: &'a str,
    from: Seen,
}

impl Node<'_> {
    /// The rows and columns of the output, if it still has them.
    fn follow(&self) -> Result<Option<Seen>, &'static str> {
        let Seen { axes, raw } = self.from;
        match op(self.node) {
            "Transpose" => self.transposed(),
            "Slice" => self.sliced(),
            "Split" if raw && axes.contains(&self.axis(0)) => Err("cuts the photo into parts"),
            "Gather" if raw && axes.contains(&self.axis(0)) => {
                Err("picks rows or columns of the photo")
            }
            "Pad" if raw => self.padded(),
            "GridSample" | "RoiAlign" => Err("moves the photo's pixels"),
            "ReverseSequence" if axes.contains(&self.axis_by("time_axis", 0)) => {
                Err("mirrors the photo")
            }
            "Resize" if raw && self.cuts() => Err(CUT),
            "Pad" | "Split" | "Gather" => Ok(self.same_rank(raw)),
            "Conv" | "ConvTranspose" | "MaxPool" | "AveragePool" => {
                Ok(self.same_rank(false).filter(|seen| seen.axes.iter().all(|axis| *axis >= 2)))
            }
            "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => Ok(self.reshaped()),
            "Einsum" => Ok(None),
            _ => Ok(self.same_rank(raw)),
        }
    }

    fn sides(&self, value: &str) -> &[usize] {
        self.shapes.get(value).map(Vec::as_slice).unwrap_or_default()
    }

    /// The length of an axis after and before the node; 0 where there is none.
    fn sides_at(&self, axis: usize) -> (usize, usize) {
        let side = |value: &str| self.sides(value).get(axis).copied().unwrap_or(0);
        (side(output(self.node)), side(self.x))
    }

    /// The same axes, if the output has as many as the input, and more than one row or column.
    fn same_rank(&self, raw: bool) -> Option<Seen> {
        let made = self.sides(output(self.node));
        let axes = self.from.axes;
        let spread = axes.iter().any(|axis| made.get(*axis).is_some_and(|side| *side > 1));
        (spread && made.len() == self.sides(self.x).len()).then_some(Seen { axes, raw })
    }

    /// The axes of rows and columns after a reshape that leaves them as they are, as of channels into groups.
    fn reshaped(&self) -> Option<Seen> {
        let (x, y) = (self.sides(self.x), self.sides(output(self.node)));
        let [rows, columns] = self.from.axes.map(|axis| kept_axis(x, axis, y));
        let axes = [rows?, columns?];
        let spread = axes.iter().any(|axis| y[*axis] > 1);
        (axes[0] != axes[1] && spread).then_some(Seen { axes, ..self.from })
    }

    /// Whether several rows or columns may be left in the output, in whatever form.
    fn has_places(&self) -> bool {
        let side = |axis: usize| self.sides(self.x).get(axis).copied().unwrap_or(1);
        let places: usize = self.from.axes.map(side).iter().product();
        let (all, made) = (self.sides(self.x), self.sides(output(self.node)));
        let channels = all.iter().product::<usize>() / places.max(1);
        let operator = op(self.node);
        let reduces = operator.starts_with("Reduce") || operator.ends_with("Pool");
        made.iter().product::<usize>() > if reduces { channels } else { 1 }
    }

    /// Whether the operator is known to leave the rows and columns where they are, at the axes `to`.
    fn keeps_places(&self, to: Seen) -> bool {
        let shown = to.axes.contains(&self.axis(0)) || self.from.axes.contains(&self.axis(0));
        let rank = self.sides(output(self.node)).len();
        match op(self.node) {
            "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => true,
            "Concat" | "Split" | "Gather" => !shown,
            "Tile" | "Expand" => self.from.axes.iter().all(|axis| {
                self.sides(self.x).get(*axis) == self.sides(output(self.node)).get(*axis)
            }),
            "Slice" => !self.cuts_much(),
            "Pad" => self.padded().is_ok() || self.is_a_convolutions_padding(),
            // The rows of a product are those of its first factor.
            "MatMul" => input(self.node, 0) == Some(self.x) && !to.axes.contains(&(rank - 1)),
            operator => KEEPS.contains(&operator) || STAYS.contains(&operator),
        }
    }

    /// Whether a Slice takes a part of the rows or columns that is clearly not the whole.
    fn cuts_much(&self) -> bool {
        let steps = self.steps().unwrap_or_default();
        self.from.axes.iter().any(|axis| {
            let step = steps.iter().find(|(sliced, _)| sliced == axis).map_or(1, |(_, step)| *step);
            let (after, before) = self.sides_at(*axis);
            after * forwards(step) * BORDER < before * (BORDER - 1)
        })
    }

    /// The axes of rows and columns that a Slice cuts, each with its step; `None` if the places are computed.
    fn steps(&self) -> Option<Vec<(usize, i64)>> {
        let starts = self.list("starts", 1)?;
        let rank = i64::try_from(self.sides(self.x).len()).unwrap_or(0);
        let axes = self.list("axes", 3).unwrap_or_else(|| (0..).take(starts.len()).collect());
        let steps = self.list("steps", 4).unwrap_or_else(|| vec![1; starts.len()]);
        let axis = |axis: i64| usize::try_from(if axis < 0 { axis + rank } else { axis }).ok();
        let pairs = axes.into_iter().zip(steps).filter_map(|(a, step)| Some((axis(a)?, step)));
        Some(pairs.filter(|(axis, _)| self.from.axes.contains(axis)).collect())
    }

    fn axis(&self, default: i64) -> usize {
        self.axis_by("axis", default)
    }

    /// The axis that an attribute names.
    fn axis_by(&self, attribute: &str, default: i64) -> usize {
        let axis = int(self.node, attribute, default);
        let rank = i64::try_from(self.sides(self.x).len()).unwrap_or(0);
        usize::try_from(if axis < 0 { axis + rank } else { axis }).unwrap_or(usize::MAX)
    }

    /// Whether a Resize enlarges a part.
    fn cuts(&self) -> bool {
        text(self.node, "coordinate_transformation_mode") == Some("tf_crop_and_resize")
    }

    fn transposed(&self) -> Result<Option<Seen>, &'static str> {
        let Seen { axes, raw } = self.from;
        let rank = self.sides(self.x).len();
        let to = |axis: usize| match ints(self.node, "perm") {
            Some(perm) => perm.iter().position(|p| usize::try_from(*p) == Ok(axis)),
            None => rank.checked_sub(axis + 1),
        };
        match axes.map(to) {
            // A later transposition may turn it back.
            [Some(rows), Some(columns)] => Ok(Some(Seen { axes: [rows, columns], raw })),
            _ => Ok(None),
        }
    }

    /// A list of integers from an attribute or a constant input.
    fn list(&self, attribute: &str, index: usize) -> Option<Vec<i64>> {
        match ints(self.node, attribute) {
            Some(list) => Some(list.to_vec()),
            None => self.graph.constants.get(input(self.node, index)?)?.to_i64(),
        }
    }

    fn sliced(&self) -> Result<Option<Seen>, &'static str> {
        let raw = self.from.raw;
        let Some(steps) = self.steps() else {
            return if raw {
                Err("cuts a computed part out of the photo")
            } else {
                Ok(self.same_rank(false))
            };
        };
        for (axis, step) in steps {
            if step < 0 {
                return Err("mirrors the photo");
            }
            let step = forwards(step);
            let (after, all) = self.sides_at(axis);
            // Every second row, as in a layer that makes channels of neighbouring pixels, is no part.
            let kept = (after + 1) * step;
            if raw && kept < all {
                return Err(CUT);
            }
            if !raw
                && (kept - 1) * BORDER < all * (BORDER - 1)
                && !self.is_made_whole(axis, kept - step)
            {
                return Err("cuts a part out of its map");
            }
        }
        Ok(self.same_rank(raw))
    }

    /// Whether the part of a map, `side` long, is joined to others along this axis, as where maps are rolled,
    /// or is what a padding had been put around before.
    fn is_made_whole(&self, axis: usize, side: usize) -> bool {
        let joins = |index: usize| {
            let node = &self.graph.nodes[index];
            let rank = self.sides(output(self.node)).len();
            op(node) == "Concat" && axis_in(rank, int(node, "axis", 0)) == Some(axis)
        };
        let padded = |node: &NodeProto| {
            let before = input(node, 0).map(|x| self.sides(x)).unwrap_or_default();
            op(node) == "Pad" && before.get(axis) == Some(&side)
        };
        let before = || ancestors(self.graph, self.x, &HashSet::new()).into_iter();
        self.graph.consumers_of(output(self.node)).into_iter().any(joins)
            || before().filter_map(|index| self.graph.nodes.get(index)).any(padded)
    }

    /// Whether only convolutions and poolings read the padded map, each wider than its padding, which is as
    /// wide on both sides or differs by one, as exporters write the padding of TensorFlow.
    fn is_a_convolutions_padding(&self) -> bool {
        let pads = self.list("pads", 1).unwrap_or_default();
        let rank = pads.len() / 2;
        let is_even = |axis: &usize| match (pads.get(*axis), pads.get(axis + rank)) {
            (Some(before), Some(after)) => before.abs_diff(*after) <= 1,
            _ => false,
        };
        // Pads of some axes only would be in another order.
        if rank != self.sides(self.x).len() || !self.from.axes.iter().all(is_even) {
            return false;
        }
        let readers = self.readers(output(self.node));
        let covers = |index: &usize| {
            let node = &self.graph.nodes[*index];
            let windows = ["Conv", "MaxPool", "AveragePool"].contains(&op(node));
            windows && self.from.axes.iter().all(|axis| self.is_within_window(node, *axis))
        };
        !readers.is_empty() && readers.iter().all(covers)
    }

    /// The nodes that read a value, itself or rounded to integers or another type; none where so many round
    /// it that the file is not from an exporter.
    fn readers(&self, value: &str) -> Vec<usize> {
        let rounds = ["QuantizeLinear", "DequantizeLinear", "Cast", "Identity"];
        let (mut found, mut open) = (Vec::new(), self.graph.consumers_of(value));
        for _ in 0..READERS {
            let Some(index) = open.pop() else { return found };
            let node = &self.graph.nodes[index];
            match rounds.contains(&op(node)) {
                true => open.extend(self.graph.consumers_of(output(node))),
                false => found.push(index),
            }
        }
        Vec::new()
    }

    /// Whether the rows or columns added along an axis are fewer than those that the window of `node` spans.
    fn is_within_window(&self, node: &NodeProto, axis: usize) -> bool {
        let Some(side) = axis.checked_sub(2) else { return false };
        let at = |list: &[i64], side: usize| usize::try_from(*list.get(side)?).ok();
        let stated = ints(node, "kernel_shape").and_then(|kernel| at(kernel, side));
        let weights = input(node, 1).and_then(|weights| self.sides(weights).get(axis).copied());
        let dilation = ints(node, "dilations").and_then(|list| at(list, side)).unwrap_or(1);
        let (after, before) = self.sides_at(axis);
        let added = after.saturating_sub(before);
        stated.or(weights).is_some_and(|kernel| added <= kernel.saturating_sub(1) * dilation)
    }

    /// A map that is shown with what was put around it: the photo is under its inner part only.
    fn shown_padded(&self) -> Result<Option<Seen>, &'static str> {
        let grows = |axis: usize| {
            let (after, before) = self.sides_at(axis);
            after > before
        };
        if self.from.axes.iter().any(|axis| grows(*axis)) {
            return Err(BORDER_AROUND);
        }
        self.padded()
    }

    fn padded(&self) -> Result<Option<Seen>, &'static str> {
        let wide = |axis: usize| {
            let (after, before) = self.sides_at(axis);
            after.saturating_sub(before) * BORDER > 2 * before
        };
        let shrinks = |axis: usize| {
            let (after, before) = self.sides_at(axis);
            after < before
        };
        if self.from.axes.iter().any(|axis| shrinks(*axis)) {
            return Err(CUT);
        }
        if self.from.axes.iter().any(|axis| wide(*axis)) {
            return Err(BORDER_AROUND);
        }
        Ok(self.same_rank(true))
    }
}
