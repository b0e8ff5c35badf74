//! Converts graphs in half or double precision to float32, including inputs and outputs.
//!
//! Engines treat them differently: rten computes in float32 with private copies of the weights, ONNX Runtime
//! in their own precision if it has the operator, and both refuse operators that mix two. The conversion
//! lets engines map the weights. It is exact for those in half precision, and the arithmetic rounds less
//! then; what double precision loses, the comparison with the original shows.

use rten_onnx::onnx::{AttributeProto, ValueInfoProto};
use skincell_onnx::Constant;
use skincell_onnx::build::DataType;

use crate::onnx::graph::{Graph, op};

const OTHERS: [DataType; 3] = [DataType::FLOAT16, DataType::BFLOAT16, DataType::DOUBLE];

fn is_other(dtype: DataType) -> bool {
    OTHERS.contains(&dtype)
}

/// Converts constants, casts and the types of inputs and outputs. A graph with subgraphs in attributes is
/// left unchanged.
pub(crate) fn convert(graph: &mut Graph) {
    if graph.nodes.iter().any(|node| node.attribute.iter().any(|a| a.g.is_some())) {
        return;
    }
    for constant in graph.constants.values_mut().filter(|constant| is_other(constant.dtype)) {
        if let Some(values) = constant.float_values() {
            *constant = Constant::f32(&constant.dims.clone(), &values);
        }
    }
    for node in graph.nodes.iter_mut().filter(|node| op(node) == "Cast") {
        for to in node.attribute.iter_mut().filter(|a| a.name.as_deref() == Some("to")) {
            convert_type(to);
        }
    }
    graph.inputs.iter_mut().chain(&mut graph.outputs).for_each(convert_value);
}

fn convert_type(to: &mut AttributeProto) {
    let others = OTHERS.map(|dtype| Some(i64::from(dtype.0)));
    if others.contains(&to.i) {
        to.i = Some(i64::from(DataType::FLOAT.0));
    }
}

fn convert_value(value: &mut ValueInfoProto) {
    let tensor = value.r#type.as_mut().and_then(|t| t.tensor_type.as_mut());
    if let Some(tensor) = tensor.filter(|t| t.elem_type.is_some_and(is_other)) {
        tensor.elem_type = Some(DataType::FLOAT);
    }
}
