//! Which function ends a graph: softmax, its logarithm or a sigmoid, written as one node or spelled out,
//! behind whatever changes shape and type only.

use crate::onnx::graph::{Graph, input, label, op};

/// The function that makes a graph's scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    Softmax,
    LogSoftmax,
    Sigmoid,
}

/// The function that ends a graph, and where.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ending {
    pub(super) function: Function,
    /// The value it is applied to.
    pub(super) before: String,
    /// Its node, for people.
    pub(super) node: String,
}

/// Operators that change a value's shape or type, round it or cut it off at bounds, and nothing else.
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

/// The function that makes the value `name`, or `None` where none of these does.
pub(super) fn ending(graph: &Graph, name: &str) -> Option<Ending> {
    let mut value = name;
    // A graph has no circles, but its depth is the file's choice; nothing real passes this often.
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

/// What the node of operator `operator` that makes `value` reads.
fn made_by<'g>(
    graph: &'g Graph,
    value: &str,
    operator: &str,
) -> Option<(&'g str, Option<&'g str>)> {
    let (_, node) = graph.producer_of(value).filter(|(_, node)| op(node) == operator)?;
    Some((input(node, 0)?, input(node, 1)))
}

/// `e / sum(e)` with `e = exp(x)` or `exp(x − max(x))`: gives `x`.
fn spelled_softmax(graph: &Graph, value: &str) -> Option<String> {
    let (power, Some(sum)) = made_by(graph, value, "Div")? else { return None };
    let (summed, _) = made_by(graph, sum, "ReduceSum")?;
    if summed != power {
        return None;
    }
    let (exponent, _) = made_by(graph, power, "Exp")?;
    if let Some((x, Some(most))) = made_by(graph, exponent, "Sub") {
        // Only the value's own maximum leaves the softmax as it is.
        let (of, _) = made_by(graph, most, "ReduceMax")?;
        return (of == x).then(|| x.to_owned());
    }
    Some(exponent.to_owned())
}

/// `1 / (1 + exp(−x))`, the division as `Div` or `Reciprocal`: gives `x`.
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
