//! Finds the last function of a graph: softmax, log-softmax or sigmoid, as one node or as several, also if
//! nodes follow that change only shape, type or rounding.
//!
//! Any other last function is left undecided.

use crate::onnx::graph::{Graph, input, label, op};

/// A function that turns logits into scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    Softmax,
    LogSoftmax,
    Sigmoid,
}

/// The last function of a graph.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ending {
    pub(super) function: Function,
    /// Name of its input.
    pub(super) before: String,
    /// Its node, as error texts name it.
    pub(super) node: String,
}

/// Operators that only change a value's shape or type, round it or clip it.
const PASSING: [&str; 11] = [
    "Identity",
    "Dropout",
    "Cast",
    "CastLike",
    "Flatten",
    "Reshape",
    "Squeeze",
    "Unsqueeze",
    "Clip",
    "QuantizeLinear",
    "DequantizeLinear",
];

/// The function that computes the value `name`, or `None` if it is another one.
pub(super) fn ending(graph: &Graph, name: &str) -> Option<Ending> {
    let mut value = name;
    // The file may chain any number of such operators; real models have only a few.
    for _ in 0..32 {
        let (_, node) = graph.producer_of(value)?;
        let before = input(node, 0)?;
        let function = match op(node) {
            "Softmax" => Function::Softmax,
            "LogSoftmax" => Function::LogSoftmax,
            "Sigmoid" => Function::Sigmoid,
            _ => {
                let spelled = spelled_softmax(graph, value)
                    .map(|before| (Function::Softmax, before))
                    .or_else(|| Some((Function::Sigmoid, spelled_sigmoid(graph, value)?)));
                if let Some((function, before)) = spelled {
                    return Some(Ending { function, before, node: label(node) });
                }
                if !PASSING.contains(&op(node)) {
                    return None;
                }
                value = before;
                continue;
            }
        };
        return Some(Ending { function, before: before.to_owned(), node: label(node) });
    }
    None
}

/// The first two inputs of the node that computes `value`, if its operator is `operator`.
fn made_by<'g>(
    graph: &'g Graph,
    value: &str,
    operator: &str,
) -> Option<(&'g str, Option<&'g str>)> {
    let (_, node) = graph.producer_of(value).filter(|(_, node)| op(node) == operator)?;
    Some((input(node, 0)?, input(node, 1)))
}

/// Returns `x` if `value` is `e / sum(e)` with `e = exp(x)` or `exp(x − max(x))`.
fn spelled_softmax(graph: &Graph, value: &str) -> Option<String> {
    let (power, Some(sum)) = made_by(graph, value, "Div")? else { return None };
    let (summed, _) = made_by(graph, sum, "ReduceSum")?;
    if summed != power {
        return None;
    }
    let (exponent, _) = made_by(graph, power, "Exp")?;
    if let Some((x, Some(most))) = made_by(graph, exponent, "Sub") {
        // Subtracting anything but the maximum of `x` could change the softmax.
        let (of, _) = made_by(graph, most, "ReduceMax")?;
        return (of == x).then(|| x.to_owned());
    }
    Some(exponent.to_owned())
}

/// Returns `x` if `value` is `1 / (1 + exp(−x))`, the division as `Div` or `Reciprocal`.
fn spelled_sigmoid(graph: &Graph, value: &str) -> Option<String> {
    let is_one = |name: &str| {
        graph.constants.get(name).and_then(skincell_onnx::Constant::to_scalar) == Some(1.0)
    };
    let sum = match made_by(graph, value, "Div") {
        Some((one, Some(sum))) if is_one(one) => sum,
        _ => made_by(graph, value, "Reciprocal")?.0,
    };
    let (a, Some(b)) = made_by(graph, sum, "Add")? else { return None };
    let power = if is_one(a) { b } else { Some(a).filter(|_| is_one(b))? };
    let (negative, _) = made_by(graph, power, "Exp")?;
    made_by(graph, negative, "Neg").map(|(x, _)| x.to_owned())
}
