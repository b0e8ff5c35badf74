//! Computes bounds of a value that hold for every photo, by interval arithmetic over a graph's last nodes.
//!
//! It looks at operators and constants only and runs nothing.

use rten_onnx::onnx::NodeProto;

use crate::onnx::graph::{Graph, float, input, op};

/// Bounds of a value's elements.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Range {
    /// From the first to the second number, both included.
    Within(f64, f64),
    /// A weighted sum of features, which may have any value.
    Unbounded,
    /// The operators do not show bounds.
    Unknown,
}

/// Most values examined. A limit is needed because every node that reads a value twice doubles the paths.
const LOOKS: usize = 256;

/// The bounds of the value `name`.
pub(super) fn range(graph: &Graph, name: &str) -> Range {
    of(graph, name, &mut LOOKS.clone())
}

/// The node that makes every element of the value `name` 0 or more without an upper bound, such as `Relu`,
/// also if nodes follow that change only its shape or type, or add constants. The flag says that they do.
pub(super) fn never_negative<'g>(graph: &'g Graph, name: &str) -> Option<(&'g NodeProto, bool)> {
    let (mut value, mut is_shifted) = (name, false);
    for _ in 0..LOOKS {
        let (_, node) = graph.producer_of(value)?;
        let constant = |index: usize| graph.constants.get(input(node, index)?);
        let positive = |index: usize| constant(index)?.to_scalar().filter(|factor| *factor > 0.0);
        let shift = |index: usize| {
            let values = constant(index)?.to_f32()?;
            values.iter().all(|value| *value >= 0.0).then_some(())
        };
        match op(node) {
            "Relu" | "Softplus" | "Exp" | "Abs" | "Sqrt" | "ReduceL1" | "ReduceL2"
            | "ReduceSumSquare" | "ThresholdedRelu" => return Some((node, is_shifted)),
            "Mul" if input(node, 0) == input(node, 1) => return Some((node, is_shifted)),
            "Mul" | "Div" if positive(1).is_some() => value = input(node, 0)?,
            "Mul" if positive(0).is_some() => value = input(node, 1)?,
            "Max" if node.input.len() == 2 && shift(0).or_else(|| shift(1)).is_some() => {
                return Some((node, is_shifted));
            }
            "Add" if shift(1).is_some() => (value, is_shifted) = (input(node, 0)?, true),
            "Add" if shift(0).is_some() => (value, is_shifted) = (input(node, 1)?, true),
            "Identity" | "Dropout" | "Cast" | "Flatten" | "Reshape" | "Squeeze" | "Unsqueeze" => {
                value = input(node, 0)?;
            }
            _ => return None,
        }
    }
    None
}

fn of(graph: &Graph, name: &str, left: &mut usize) -> Range {
    if let Some(tensor) = graph.constants.get(name) {
        let values = tensor.to_f32().unwrap_or_default();
        let low = values.iter().copied().fold(f32::INFINITY, f32::min);
        let high = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let known = !values.is_empty() && low.is_finite() && high.is_finite();
        return if known { Range::Within(low.into(), high.into()) } else { Range::Unknown };
    }
    let Some((_, node)) = graph.producer_of(name).filter(|_| *left > 0) else {
        return Range::Unknown;
    };
    *left -= 1;
    let mut at = |index| input(node, index).map_or(Range::Unknown, |i| of(graph, i, left));
    match op(node) {
        "Softmax" | "Sigmoid" | "HardSigmoid" => Range::Within(0.0, 1.0),
        "Tanh" | "Softsign" | "Erf" => Range::Within(-1.0, 1.0),
        "Gemm" | "MatMul" | "Conv" | "BatchNormalization" | "MatMulInteger" | "ConvInteger" => {
            Range::Unbounded
        }
        "Identity" | "Dropout" | "Cast" | "Flatten" | "Reshape" | "Squeeze" | "Unsqueeze"
        | "Transpose" | "Slice" | "Gather" | "ReduceMean" | "ReduceMax" | "ReduceMin"
        | "GlobalAveragePool" | "GlobalMaxPool" | "Relu" | "LeakyRelu" | "DequantizeLinear"
        | "QuantizeLinear" => through(op(node), at(0)),
        "Add" | "Sub" | "Mul" | "Div" => {
            let (first, second) = (at(0), at(1));
            pairwise(op(node), first, second)
        }
        "Sum" | "Mean" | "Concat" => {
            let all: Vec<Range> = (0..node.input.len()).map(at).collect();
            let joined = all.into_iter().reduce(|a, b| pairwise(op(node), a, b));
            let joined = joined.unwrap_or(Range::Unknown);
            match (op(node), joined) {
                ("Mean", Range::Within(low, high)) => {
                    let count = node.input.len() as f64;
                    Range::Within(low / count, high / count)
                }
                (_, joined) => joined,
            }
        }
        "Clip" => {
            let bound = |index: usize, name: &str, idle: f32| match input(node, index) {
                Some(bound) => {
                    graph.constants.get(bound).and_then(skincell_onnx::Constant::to_scalar)
                }
                None => Some(float(node, name, idle)),
            };
            match (bound(1, "min", f32::MIN), bound(2, "max", f32::MAX)) {
                (Some(low), Some(high)) => Range::Within(low.into(), high.into()),
                _ => Range::Unknown,
            }
        }
        _ => Range::Unknown,
    }
}

/// Bounds after an operator that keeps them, or after `Relu`.
fn through(operator: &str, range: Range) -> Range {
    match (operator, range) {
        ("Relu", Range::Within(low, high)) => Range::Within(low.max(0.0), high.max(0.0)),
        (_, range) => range,
    }
}

/// Bounds of two values combined by an operator.
fn pairwise(operator: &str, a: Range, b: Range) -> Range {
    let (Range::Within(al, ah), Range::Within(bl, bh)) = (a, b) else {
        // A product or quotient with another value that depends on the photo may be normalised features.
        let scaled = matches!(operator, "Mul" | "Div");
        let plain = |other: Range| !scaled || matches!(other, Range::Within(..));
        return match (a, b) {
            (Range::Unbounded, other) if plain(other) => Range::Unbounded,
            (other, Range::Unbounded) if operator != "Div" && plain(other) => Range::Unbounded,
            _ => Range::Unknown,
        };
    };
    let over = |values: [f64; 4]| {
        Range::Within(
            values.iter().copied().fold(f64::INFINITY, f64::min),
            values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        )
    };
    match operator {
        "Add" | "Sum" | "Mean" => Range::Within(al + bl, ah + bh),
        "Sub" => Range::Within(al - bh, ah - bl),
        "Mul" => over([al * bl, al * bh, ah * bl, ah * bh]),
        "Div" if bl > 0.0 || bh < 0.0 => over([al / bl, al / bh, ah / bl, ah / bh]),
        "Concat" => Range::Within(al.min(bl), ah.max(bh)),
        _ => Range::Unknown,
    }
}
