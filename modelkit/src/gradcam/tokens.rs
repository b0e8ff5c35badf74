//! Finds the places in the photo of the tokens of a sequence, by tracing them back to the map they come from.
//!
//! A transformer flattens a map into a sequence and puts class tokens before or after it. The graph shows
//! both, in the reshape that joins rows and columns and in the concatenation. Lengths alone are never used to
//! guess.

use std::collections::{HashMap, HashSet};

use rten_onnx::onnx::NodeProto;

use super::axes::{
    ancestors, axis_in, channel_axis, dims_of, flows, kept_axis, reduced_axes, taken,
};
use crate::onnx::graph::{Graph, input, int, ints, op, output};

/// The tokens that are places of the photo: `height · width` of them along an axis, row by row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tokens {
    /// The axis of the tokens.
    pub(crate) axis: usize,
    /// Number of tokens before them, such as class tokens.
    pub(crate) from: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
}

impl Tokens {
    /// Whether the tokens have about as many rows for each column as a map. Halving may round either side up.
    pub(super) fn has_shape(self, [rows, columns]: [usize; 2]) -> bool {
        let (here, there) = (self.height * columns, self.width * rows);
        here * 3 <= there * 4 && there * 3 <= here * 4 && here > 0
    }
}

/// The places of the photo along an axis of a value: its elements `from..to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) axis: usize,
    pub(super) from: usize,
    pub(super) to: usize,
}

impl Tokens {
    pub(super) fn span(self) -> Span {
        Span { axis: self.axis, from: self.from, to: self.from + self.height * self.width }
    }
}

impl Span {
    /// The places among `count` elements from `first` on; `None` if there are none.
    pub(super) fn part(self, (first, count): (usize, usize)) -> Option<Self> {
        let at = |index: usize| index.saturating_sub(first).min(count);
        let (from, to) = (at(self.from), at(self.to));
        (from < to).then_some(Self { from, to, ..self })
    }

    pub(super) fn count(self) -> usize {
        self.to - self.from
    }
}

/// Results so far, by value and axis.
type Seen = HashMap<(String, usize), Option<Tokens>>;

/// Most nodes that are followed backward from a map.
const STEPS: usize = 32;

/// Operators whose output has each place where their input has it, along every axis of the same length.
#[rustfmt::skip]
pub(super) const STAYS: &[&str] = &[
    "Abs", "Add", "BatchNormalization", "BiasGelu", "Cast", "CastLike", "Ceil", "Celu", "Clip", "Concat",
    "Cos", "DequantizeLinear", "Div", "Dropout", "DynamicQuantizeLinear", "Elu", "Erf", "Exp", "Expand",
    "FastGelu", "Floor", "Gelu", "GroupNormalization", "HardSigmoid", "HardSwish", "Identity",
    "InstanceNormalization", "LayerNormalization", "LeakyRelu", "Log", "LogSoftmax", "LpNormalization",
    "Max", "Mean", "MeanVarianceNormalization", "Min", "Mish", "Mul", "Neg", "PRelu", "Pow",
    "QuantizeLinear", "QuickGelu", "RMSNormalization", "Reciprocal", "Relu", "Round", "Selu", "Shrink",
    "Sigmoid", "Sign", "SimplifiedLayerNormalization", "Sin", "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization", "Softmax", "Softplus", "Softsign", "Split", "Sqrt", "Sub", "Sum",
    "Swish", "Tanh", "ThresholdedRelu", "Tile", "Where",
];

/// Traces tokens in one graph.
pub(super) struct Tracer<'a> {
    pub(super) graph: &'a Graph,
    pub(super) shapes: &'a HashMap<String, Vec<usize>>,
}

impl Tracer<'_> {
    /// The tokens of a value along an axis.
    pub(super) fn tokens(&self, value: &str, axis: usize) -> Option<Tokens> {
        self.trace(value, axis, &mut Seen::new())
    }

    /// The axis of the channels of a map or sequence, and the tokens of a sequence. `None` for a sequence
    /// whose tokens cannot be traced.
    pub(super) fn channels(&self, value: &str) -> Option<(usize, Option<Tokens>)> {
        if let Some(shape) = self.shapes.get(value).filter(|shape| shape.len() == 3) {
            let long: Vec<usize> = (0..3).filter(|axis| shape[*axis] > 1).collect();
            let [first, second] = long[..] else { return None };
            let other = |tokens: Tokens| if tokens.axis == first { second } else { first };
            let tokens = self.tokens(value, first).or_else(|| self.tokens(value, second))?;
            return Some((other(tokens), Some(tokens)));
        }
        Some((channel_axis(self.graph, self.shapes, value), None))
    }

    /// Whether a node takes only tokens before or after those of the photo.
    pub(super) fn takes_no_place(&self, node: &NodeProto) -> bool {
        let takes = || {
            let value = input(node, 0).filter(|_| matches!(op(node), "Slice" | "Gather"))?;
            let (axis, part, _) = taken(self.graph, node, self.shapes.get(value)?)?;
            let tokens = self.tokens(value, axis)?;
            Some(tokens.span().part(part).is_none())
        };
        takes().unwrap_or(false)
    }

    /// Whether a value of four axes is a map, and not a sequence split into attention heads.
    pub(super) fn is_spatial(&self, value: &str) -> bool {
        let mut value = value;
        for _ in 0..STEPS {
            let Some((_, node)) = self.graph.producer_of(value) else { return true };
            let held = |value: &str| self.graph.constants.contains_key(value);
            let Some(before) = node.input.iter().find(|i| !held(i)) else { return true };
            match op(node) {
                "Softmax" | "Attention" | "Einsum" => return false,
                "MatMul" if !node.input.iter().any(|i| held(i)) => return false,
                "Reshape" => {
                    let (Some(x), Some(y)) = (self.shapes.get(before), self.shapes.get(value))
                    else {
                        return true;
                    };
                    if x.len() > 3 {
                        value = before;
                        continue;
                    }
                    // Either the tokens become rows and columns, or they stay one axis and channels become
                    // heads.
                    let tokens = self.channels(before).and_then(|(_, tokens)| tokens);
                    return tokens.is_none_or(|t| kept_axis(x, t.axis, y).is_none());
                }
                "Transpose" | "Identity" | "Cast" | "MatMul" | "Add" | "Sub" | "Mul" | "Div"
                | "Slice" | "Gather" | "LayerNormalization" => value = before,
                _ => return true,
            }
        }
        true
    }

    fn trace(&self, value: &str, axis: usize, seen: &mut Seen) -> Option<Tokens> {
        let key = (value.to_owned(), axis);
        if let Some(known) = seen.get(&key) {
            return *known;
        }
        seen.insert(key.clone(), None);
        let found = self.search(value, axis, seen);
        seen.insert(key, found);
        found
    }

    fn search(&self, value: &str, axis: usize, seen: &mut Seen) -> Option<Tokens> {
        let (_, node) = self.graph.producer_of(value)?;
        let y = self.shapes.get(value)?;
        match op(node) {
            "Concat" if axis_in(y.len(), int(node, "axis", 0)) == Some(axis) => {
                let (mut offset, mut only) = (0, None);
                for part in &node.input {
                    let length = dims_of(self.graph, self.shapes, part).and_then(|d| d.get(axis));
                    match self.trace(part, axis, seen) {
                        Some(found) if only.is_none() => {
                            only = Some(Tokens { axis, from: found.from + offset, ..found });
                        }
                        // Tokens of another map or size, which would be left out without a word.
                        _ if length == Some(&1) || !self.shows_places(part) => {}
                        _ => return None,
                    }
                    if only.is_none() {
                        offset += length?;
                    }
                }
                only
            }
            "Slice" | "Gather" => self.taken(node, axis, seen),
            "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => self.reshaped(node, axis, seen),
            _ => {
                let inputs = flows(node).into_iter();
                let inputs = inputs.filter_map(|i| Some((i, self.stays(node, i, axis)?)));
                let mut found = inputs.filter_map(|(i, back)| self.trace(i, back, seen));
                found.next().map(|found| Tokens { axis, ..found })
            }
        }
    }

    /// Whether a value is computed from an input of the graph, and not the class tokens that a node took.
    fn shows_places(&self, value: &str) -> bool {
        let made = self.graph.producer_of(value);
        if made.is_some_and(|(_, node)| self.takes_no_place(node)) {
            return false;
        }
        let is_input = |name: &str| {
            let mut inputs = self.graph.inputs.iter();
            inputs.any(|input| input.name.as_deref() == Some(name))
        };
        let nodes = ancestors(self.graph, value, &HashSet::new());
        nodes.iter().any(|index| flows(&self.graph.nodes[*index]).into_iter().any(is_input))
    }

    /// The axis of the input `before` whose places stay where they are along the output's `axis`. `None` if
    /// the operator may move them, as sorting and recurrence do, or if it is not known.
    fn stays(&self, node: &NodeProto, before: &str, axis: usize) -> Option<usize> {
        let (x, y) = (self.shapes.get(before)?, self.shapes.get(output(node))?);
        let first = input(node, 0) == Some(before);
        let back = match op(node) {
            "Transpose" => match ints(node, "perm") {
                Some(perm) => usize::try_from(*perm.get(axis)?).ok()?,
                None => y.len() - 1 - axis,
            },
            // The rows of a product are the rows of its first factor.
            "MatMul" | "MatMulInteger" | "FusedMatMul" | "QLinearMatMul" => {
                let flipped = int(node, "transA", 0) != 0 || int(node, "transBatchA", 0) != 0;
                (first && !flipped && axis + 1 < y.len()).then_some(())?;
                (axis + x.len()).checked_sub(y.len())?
            }
            "Gemm" => (first && axis == 0 && int(node, "transA", 0) == 0).then_some(0)?,
            // The rows of attention are those of its queries.
            "Attention" | "MultiHeadAttention" | "GroupQueryAttention" => {
                (first && x.len() == y.len()).then_some(axis)?
            }
            operator if operator.starts_with("Reduce") => {
                let gone = reduced_axes(self.graph, node, x.len())?;
                let kept: Vec<usize> = match int(node, "keepdims", 1) {
                    0 => (0..x.len()).filter(|a| !gone.contains(a)).collect(),
                    _ => (0..x.len()).collect(),
                };
                *kept.get(axis).filter(|a| !gone.contains(a))?
            }
            operator if STAYS.contains(&operator) => (axis + x.len()).checked_sub(y.len())?,
            _ => return None,
        };
        (x.get(back) == y.get(axis)).then_some(back)
    }

    fn taken(&self, node: &NodeProto, axis: usize, seen: &mut Seen) -> Option<Tokens> {
        let before = input(node, 0)?;
        let (along, (from, count), drops) = taken(self.graph, node, self.shapes.get(before)?)?;
        let back = if drops && along <= axis { axis + 1 } else { axis };
        let found = self.trace(before, back, seen)?;
        if along != back {
            return Some(Tokens { axis, ..found });
        }
        let first = found.from.checked_sub(from)?;
        let whole = first + found.height * found.width <= count;
        whole.then_some(Tokens { axis, from: first, ..found })
    }

    fn reshaped(&self, node: &NodeProto, axis: usize, seen: &mut Seen) -> Option<Tokens> {
        let before = input(node, 0)?;
        let (x, y) = (self.shapes.get(before)?, self.shapes.get(output(node))?);
        if let Some(back) = kept_axis(y, axis, x) {
            return self.trace(before, back, seen).map(|found| Tokens { axis, ..found });
        }
        // Rows and columns of a map become one axis.
        let lead: usize = y.get(..axis)?.iter().product();
        let joins =
            |a: &usize| x[..*a].iter().product::<usize>() == lead && x[*a] * x[a + 1] == y[axis];
        let at = (0..x.len().checked_sub(1)?).find(joins)?;
        let map = x.len() == 4 && x[0] == 1 && self.is_spatial(before);
        map.then_some(Tokens { axis, from: 0, height: x[at], width: x[at + 1] })
    }
}

#[cfg(test)]
mod tests {
    use super::{NodeProto, Tokens, Tracer};
    use crate::onnx::graph::{Graph, int_attribute};

    fn made(operator: &str, inputs: &[&str], y: &str) -> NodeProto {
        NodeProto {
            op_type: Some(operator.to_owned()),
            input: inputs.iter().map(|x| (*x).to_owned()).collect(),
            output: vec![y.to_owned()],
            ..NodeProto::default()
        }
    }

    /// The tokens along the last axis of what an operator makes of a flattened map `[1, 4, 9]`; `w` is
    /// another value of its shape.
    fn after(operator: &str, inputs: &[&str], shape: &[usize]) -> Option<Tokens> {
        let mut last = made(operator, inputs, "y");
        if operator.starts_with("Reduce") {
            last.attribute = vec![int_attribute("keepdims", 0)];
            last.attribute.push(crate::onnx::graph::ints_attribute("axes", &[1]));
        }
        let graph = Graph {
            nodes: vec![
                made("Conv", &["image"], "map"),
                made("Reshape", &["map", "sides"], "x"),
                last,
            ],
            ..Graph::default()
        };
        let named = |name: &str, shape: &[usize]| (name.to_owned(), shape.to_vec());
        let (map, x): (&[usize], &[usize]) = (&[1, 4, 3, 3], &[1, 4, 9]);
        let shapes = [named("map", map), named("x", x), named("w", x), named("y", shape)].into();
        Tracer { graph: &graph, shapes: &shapes }.tokens("y", shape.len() - 1)
    }

    #[test]
    fn places_are_traced_only_through_operators_that_keep_them() {
        let wanted = |axis| Some(Tokens { axis, from: 0, height: 3, width: 3 });
        for operator in ["Relu", "Softmax", "LayerNormalization", "Identity"] {
            assert_eq!(after(operator, &["x"], &[1, 4, 9]), wanted(2), "{operator}");
        }
        assert_eq!(after("Add", &["w", "x"], &[1, 4, 9]), wanted(2));
        assert_eq!(after("ReduceMean", &["x"], &[1, 9]), wanted(1));
        for operator in ["TopK", "CumSum", "Loop", "Scan", "GRU", "LSTM", "ScatterND", "MyOwn"] {
            assert_eq!(after(operator, &["x"], &[1, 4, 9]), None, "{operator}");
        }
    }

    #[test]
    fn columns_of_a_product_are_no_places() {
        assert_eq!(after("MatMul", &["x", "w"], &[1, 4, 9]), None);
        assert_eq!(after("Gemm", &["x", "w"], &[4, 9]), None);
    }
}
