//! Stores weights in half precision (2 bytes, 11 significant bits), with a `Cast` back to float32.
//!
//! The engines compute in float32 and apply the cast when they load the model. So the file becomes smaller,
//! but private memory larger. Tensors with values outside the range of half precision stay as they are.

use ::half::f16;
use rten_onnx::onnx::{DataType, NodeProto};

use crate::onnx::graph::{Graph, int_attribute};
use skincell_onnx::Constant;

/// Tensors of fewer elements stay in float32: they save few bytes, and biases need the precision.
const SMALLEST: usize = 1024;

/// Converts every large float32 constant; returns their number.
pub(super) fn convert(graph: &mut Graph) -> usize {
    let names: Vec<String> = graph
        .constants
        .iter()
        // A distance is a small difference of large sums.
        .filter(|(name, t)| t.len() >= SMALLEST && !name.starts_with(crate::familiarity::PREFIX))
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

/// The tensor rounded to half precision, or `None` if it is not float32 or an element overflows.
fn to_half(tensor: &Constant) -> Option<Constant> {
    let halves: Vec<f16> = tensor.to_f32()?.into_iter().map(f16::from_f32).collect();
    if halves.iter().any(|h| !h.is_finite()) {
        return None;
    }
    let bytes = halves.iter().flat_map(|h| h.to_le_bytes()).collect();
    Some(Constant { dtype: DataType::FLOAT16, dims: tensor.dims.clone(), bytes })
}
