//! Finds the values after the target that depend linearly on its tokens, so that gradients can be summed over
//! the tokens early.

use std::collections::{HashMap, HashSet};

use rten_onnx::onnx::NodeProto;

use super::axes::{axis_in, dims_of, flows, kept_axis, taken};
use super::tokens::{Span, Tokens};
use crate::onnx::graph::{Graph, input, int, ints, op, output};

/// Values whose tokens correspond to those of the target. The reverse pass needs only the sum of their
/// gradient over the tokens. Maps the name to the tokens that are places of the photo.
pub(super) type Summed = HashMap<String, Span>;

/// Follows the target forward through linear operators that treat all tokens alike. Also returns the outputs
/// of nodes that read none of the photo's tokens, only tokens before or after them.
pub(super) fn linear(
    graph: &Graph,
    shapes: &HashMap<String, Vec<usize>>,
    path: &[NodeProto],
    target: &str,
    tokens: Tokens,
) -> (Summed, HashSet<String>) {
    let mut relevant: HashSet<&str> = HashSet::from([target]);
    let mut summed = Summed::from([(target.to_owned(), tokens.span())]);
    let mut dead = HashSet::new();
    for node in path {
        let taken: Vec<&str> = flows(node).into_iter().filter(|i| relevant.contains(i)).collect();
        if taken.is_empty() {
            dead.insert(output(node).to_owned());
            continue;
        }
        let step = Linear { graph, shapes, summed: &summed, relevant: &relevant };
        match step.rule(node, &taken) {
            Some(After::Nothing) => {
                dead.insert(output(node).to_owned());
                continue;
            }
            Some(After::Summed(span)) => {
                for value in &node.output {
                    summed.insert(value.clone(), span);
                }
            }
            None => {}
        }
        relevant.extend(node.output.iter().map(String::as_str));
    }
    (summed, dead)
}

enum After {
    Summed(Span),
    /// The node reads none of the photo's tokens.
    Nothing,
}

struct Linear<'a> {
    graph: &'a Graph,
    shapes: &'a HashMap<String, Vec<usize>>,
    summed: &'a Summed,
    relevant: &'a HashSet<&'a str>,
}

impl Linear<'_> {
    fn rule(&self, node: &NodeProto, taken_inputs: &[&str]) -> Option<After> {
        let x = *taken_inputs.first()?;
        let span = *self.summed.get(x)?;
        let (axis, on) = (span.axis, |axis: usize| After::Summed(Span { axis, ..span }));
        let (shape, y) = (self.shapes.get(x)?, self.shapes.get(output(node))?);
        match op(node) {
            "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => Some(on(kept_axis(shape, axis, y)?)),
            "Transpose" => {
                let to = match ints(node, "perm") {
                    Some(perm) => perm.iter().position(|p| usize::try_from(*p).ok() == Some(axis)),
                    None => Some(shape.len() - 1 - axis),
                };
                Some(on(to?))
            }
            "Split" => {
                let along = axis_in(shape.len(), int(node, "axis", 0))?;
                (along != axis).then_some(After::Summed(span))
            }
            "Slice" | "Gather" => {
                let (along, part, drops) = taken(self.graph, node, shape)?;
                match (along == axis, drops) {
                    (false, true) => Some(on(axis - usize::from(along < axis))),
                    (false, false) => Some(After::Summed(span)),
                    (true, drops) => match span.part(part) {
                        None => Some(After::Nothing),
                        Some(span) => (!drops).then_some(After::Summed(span)),
                    },
                }
            }
            _ => self.arithmetic(node, taken_inputs, span),
        }
    }

    /// Sums and products that treat all tokens alike.
    fn arithmetic(&self, node: &NodeProto, taken_inputs: &[&str], span: Span) -> Option<After> {
        let x = *taken_inputs.first()?;
        let (shape, y) = (self.shapes.get(x)?, self.shapes.get(output(node))?);
        let alone = taken_inputs.len() == 1
            && node.input.iter().filter(|i| self.relevant.contains(i.as_str())).count() == 1;
        let axis = span.axis;
        let same = Some(After::Summed(span));
        // Whether another operand treats all tokens alike.
        let alike = |other: &str| {
            let dims = dims_of(self.graph, self.shapes, other)?;
            let at = (axis + dims.len()).checked_sub(shape.len());
            at.is_none_or(|at| dims[at] == 1).then_some(())
        };
        match op(node) {
            "Identity" | "Cast" | "Dropout" | "Neg" if alone => same,
            "Add" | "Sub" => {
                let fits =
                    |i: &&str| self.summed.get(*i) == Some(&span) && self.shapes.get(*i) == Some(y);
                (taken_inputs.iter().all(fits)).then_some(same)?
            }
            "Mul" if alone && shape == y => {
                alike(node.input.iter().find(|i| *i != x)?)?;
                same
            }
            "Div" if alone && shape == y && input(node, 0) == Some(x) => {
                alike(input(node, 1)?)?;
                same
            }
            "MatMul" if alone && input(node, 0) == Some(x) && shape.len() == y.len() => {
                let dims = dims_of(self.graph, self.shapes, input(node, 1)?)?;
                (axis + 1 < shape.len() && dims.len() == 2).then_some(same)?
            }
            "Gemm" if alone && input(node, 0) == Some(x) && int(node, "transA", 0) == 0 => {
                (axis == 0).then_some(same)?
            }
            _ => None,
        }
    }
}
