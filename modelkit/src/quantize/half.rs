//! Weights in half precision: 11 bits of mantissa in 2 bytes, and a `Cast` back to float32.
//!
//! The engines here compute in float32 and undo the cast when they load the model, so this makes
//! the file smaller and the private memory larger. Weights outside half's range stay as they are.

use ::half::f16;
use rten_onnx::onnx::{DataType, NodeProto};

use crate::onnx::graph::{Graph, int_attribute};
use skincell_onnx::Constant;

/// Smaller tensors stay: their bytes are few, and biases need their digits.
const SMALLEST: usize = 1024;

/// Converts every large float32 constant; returns how many.
pub(super) fn convert(graph: &mut Graph) -> usize {
    let names: Vec<String> = graph
        .constants
        .iter()
        .filter(|(_, t)| t.len() >= SMALLEST)
        .map(|(n, _)| n.clone())
        .collect();
    let mut casts = Vec::new();
    for name in names {
        let Some(halved) = graph.constants.get(&name).and_then(to_half) else { continue };
        let half_name = graph.fresh(&format!("{name}/half"));
        graph.constants.remove(&name);
        graph.constants.insert(half_name.clone(), halved);
        casts.push(NodeProto {
            name: Some(format!("{name}/single")),
            op_type: Some("Cast".to_owned()),
            input: vec![half_name],
            output: vec![name],
            attribute: vec![int_attribute("to", i64::from(DataType::FLOAT.0))],
            domain: None,
        });
    }
    let changed = casts.len();
    graph.nodes.splice(0..0, casts);
    changed
}

/// The tensor rounded to half precision, if it is float32 and none of it overflows.
fn to_half(tensor: &Constant) -> Option<Constant> {
    let halves: Vec<f16> = tensor.to_f32()?.into_iter().map(f16::from_f32).collect();
    if halves.iter().any(|h| !h.is_finite()) {
        return None;
    }
    let bytes = halves.iter().flat_map(|h| h.to_le_bytes()).collect();
    Some(Constant { dtype: DataType::FLOAT16, dims: tensor.dims.clone(), bytes })
}
