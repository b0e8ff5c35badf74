//! Converts graphs in half precision to float32, including inputs and outputs.
//!
//! Engines treat them differently: rten computes in float32 with private copies of the weights, ONNX Runtime
//! in half precision, and both refuse operators that mix the two. The conversion is exact for the weights and
//! lets engines map them; the arithmetic rounds less than in half precision.

use rten_onnx::onnx::{AttributeProto, ValueInfoProto};
use skincell_onnx::Constant;
use skincell_onnx::build::DataType;

use crate::onnx::graph::{Graph, op};

fn is_half(dtype: DataType) -> bool {
    matches!(dtype, DataType::FLOAT16 | DataType::BFLOAT16)
}

/// Converts constants, casts and the types of inputs and outputs. A graph with subgraphs in attributes is
/// left unchanged.
pub(crate) fn widen(graph: &mut Graph) {
    if graph.nodes.iter().any(|node| node.attribute.iter().any(|a| a.g.is_some())) {
        return;
    }
    for constant in graph.constants.values_mut().filter(|constant| is_half(constant.dtype)) {
        if let Some(values) = constant.float_values() {
            *constant = Constant::f32(&constant.dims.clone(), &values);
        }
    }
    for node in graph.nodes.iter_mut().filter(|node| op(node) == "Cast") {
        for to in node.attribute.iter_mut().filter(|a| a.name.as_deref() == Some("to")) {
            widen_type(to);
        }
    }
    graph.inputs.iter_mut().chain(&mut graph.outputs).for_each(widen_value);
}

fn widen_type(to: &mut AttributeProto) {
    let half = [DataType::FLOAT16, DataType::BFLOAT16].map(|dtype| Some(i64::from(dtype.0)));
    if half.contains(&to.i) {
        to.i = Some(i64::from(DataType::FLOAT.0));
    }
}

fn widen_value(value: &mut ValueInfoProto) {
    let tensor = value.r#type.as_mut().and_then(|t| t.tensor_type.as_mut());
    if let Some(tensor) = tensor.filter(|t| t.elem_type.is_some_and(is_half)) {
        tensor.elem_type = Some(DataType::FLOAT);
    }
}
