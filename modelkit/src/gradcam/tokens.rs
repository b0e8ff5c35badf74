//! Finds the places in the photo of the tokens of a sequence, by tracing them back to the map they come from.
//!
//! A transformer flattens a map into a sequence and puts class tokens before or after it. The graph shows both,
//! in the reshape that joins rows and columns and in the concatenation. Lengths alone are never used to guess.

use std::collections::HashMap;

use rten_onnx::onnx::NodeProto;

use super::axes::{axis_in, channel_axis, dims_of, flows, kept_axis, taken};
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
                let mut offset = 0;
                for part in &node.input {
                    if let Some(found) = self.trace(part, axis, seen) {
                        return Some(Tokens { axis, from: found.from + offset, ..found });
                    }
                    offset += dims_of(self.graph, self.shapes, part)?.get(axis)?;
                }
                None
            }
            "Slice" | "Gather" => self.taken(node, axis, seen),
            "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => self.reshaped(node, axis, seen),
            "Conv" | "ConvTranspose" | "MaxPool" | "AveragePool" | "Resize" | "Pad" => None,
            _ => {
                let of = |before: &str| {
                    let x = self.shapes.get(before)?;
                    let back = match op(node) {
                        "Transpose" => match ints(node, "perm") {
                            Some(perm) => usize::try_from(*perm.get(axis)?).ok()?,
                            None => y.len() - 1 - axis,
                        },
                        // The rows of a product are the rows of its first factor.
                        "MatMul" if input(node, 0) != Some(before) || axis + 1 >= y.len() => {
                            return None;
                        }
                        "Gemm" if input(node, 0) != Some(before) || axis != 0 => return None,
                        _ => (axis + x.len()).checked_sub(y.len())?,
                    };
                    (x.get(back) == y.get(axis)).then_some(back)
                };
                let inputs = flows(node).into_iter().filter_map(|i| Some((i, of(i)?)));
                let mut found = inputs.filter_map(|(i, back)| self.trace(i, back, seen));
                found.next().map(|found| Tokens { axis, ..found })
            }
        }
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
