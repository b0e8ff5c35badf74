//! Derivatives of models in integers, in the form QDQ.
//!
//! Rounding has no useful derivative, so a gradient passes `QuantizeLinear` as if nothing were rounded, and is
//! 0 where the integers' range cuts a value off, as a `Clip` would: the straight-through estimator.

use rten_onnx::onnx::NodeProto;

use super::closed::name;
use crate::onnx::graph::{Graph, input, int, op};
use skincell_onnx::Constant;
use skincell_onnx::build::DataType;

/// Whether a node rounds to integers.
pub(super) fn rounds(node: &NodeProto) -> bool {
    op(node) == "QuantizeLinear"
}

/// The first and the last real number that the integers of a `QuantizeLinear` with one scale stand for.
pub(super) fn span(graph: &Graph, node: &NodeProto) -> Option<(f32, f32)> {
    let scale = graph.constants.get(input(node, 1)?)?.to_scalar()?;
    let (dtype, zero) = match input(node, 2) {
        None => (DataType::UINT8, 0.0),
        Some(name) => {
            let zero = graph.constants.get(name)?;
            (zero.dtype, *numbers(zero)?.first().filter(|_| zero.len() == 1)?)
        }
    };
    let (low, high) = match dtype {
        DataType::UINT8 => (0.0, 255.0),
        DataType::INT8 => (-128.0, 127.0),
        _ => return None,
    };
    Some(((low - zero) * scale, (high - zero) * scale))
}

/// Whether a `DequantizeLinear` gives back the value that the node before it rounded.
pub(super) fn undoes(graph: &Graph, node: &NodeProto) -> bool {
    let before = input(node, 0).and_then(|x| graph.producer_of(x)).map(|(_, node)| node);
    let same = |index| {
        let (a, b) = (before.and_then(|before| input(before, index)), input(node, index));
        let held = |name: Option<&str>| name.and_then(|name| graph.constants.get(name));
        a == b || (held(a).is_some() && held(a) == held(b))
    };
    before.is_some_and(rounds) && same(1) && same(2)
}

/// Makes products read weights in float32 that they read through a `DequantizeLinear` of a constant. Only the
/// nodes given are changed, not the graph's.
pub(super) fn widen_weights(graph: &mut Graph, nodes: &mut [NodeProto]) {
    for node in nodes.iter_mut().filter(|n| matches!(op(n), "Gemm" | "MatMul" | "Conv")) {
        let Some(weights) = input(node, 1).and_then(|weights| real(graph, weights)) else {
            continue;
        };
        node.input[1] = graph.add_constant(&name("weights"), weights);
    }
}

/// The real numbers of a value that a `DequantizeLinear` computes from a constant.
fn real(graph: &Graph, value: &str) -> Option<Constant> {
    let (_, node) = graph.producer_of(value).filter(|(_, n)| op(n) == "DequantizeLinear")?;
    let held = graph.constants.get(input(node, 0)?)?;
    let scales = graph.constants.get(input(node, 1)?)?.to_f32()?;
    let zeros = match input(node, 2) {
        None => vec![0.0; scales.len()],
        Some(zero) => numbers(graph.constants.get(zero)?)?,
    };
    let rank = i64::try_from(held.dims.len()).ok()?;
    let axis = int(node, "axis", 1);
    let axis = usize::try_from(if axis < 0 { axis + rank } else { axis }).ok()?;
    let (inner, side) = match scales.len() {
        1 => (1, 1),
        count => (held.dims.get(axis + 1..)?.iter().product(), count),
    };
    if zeros.len() != scales.len() || (side > 1 && held.dims.get(axis) != Some(&side)) {
        return None;
    }
    let at = |index: usize| index / inner % side;
    let real = |(index, number): (usize, f32)| (number - zeros[at(index)]) * scales[at(index)];
    let values: Vec<f32> = numbers(held)?.into_iter().enumerate().map(real).collect();
    Some(Constant::f32(&held.dims, &values))
}

/// The elements of a constant of bytes.
fn numbers(held: &Constant) -> Option<Vec<f32>> {
    match held.dtype {
        DataType::UINT8 => Some(held.bytes.iter().map(|byte| f32::from(*byte)).collect()),
        DataType::INT8 => {
            Some(held.bytes.iter().map(|byte| f32::from(byte.cast_signed())).collect())
        }
        _ => None,
    }
}
