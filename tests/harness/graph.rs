//! ONNX graphs written by hand, a line an operator.

use std::cell::RefCell;

use rten_onnx::onnx::{
    AttributeProto, AttributeType, DataType, Dimension, GraphProto, ModelProto, NodeProto,
    OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto, TypeProtoTensor, ValueInfoProto,
};

/// The graph as a file's content, of the operator set 17.
pub(crate) fn model(graph: GraphProto) -> ModelProto {
    let standard = OperatorSetIdProto { domain: Some(String::new()), version: Some(17) };
    ModelProto {
        ir_version: Some(8),
        graph: Some(graph),
        opset_import: vec![standard],
        ..Default::default()
    }
}

pub(crate) fn node(operator: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        name: Some(format!("node_{output}")),
        op_type: Some(operator.to_owned()),
        input: inputs.iter().map(|input| (*input).to_owned()).collect(),
        output: vec![output.to_owned()],
        ..Default::default()
    }
}

pub(crate) fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        ints: values.to_vec(),
        r#type: Some(AttributeType::INTS),
        ..Default::default()
    }
}

pub(crate) fn tensor(name: &str, dimensions: &[i64], values: &[f32]) -> TensorProto {
    TensorProto {
        name: Some(name.to_owned()),
        dims: dimensions.to_vec(),
        data_type: Some(DataType::FLOAT),
        raw_data: Some(RefCell::new(values.iter().flat_map(|v| v.to_le_bytes()).collect())),
        ..Default::default()
    }
}

pub(crate) fn value(name: &str, dimensions: &[i64]) -> ValueInfoProto {
    let dimension = |size: &i64| Dimension { dim_value: Some(*size), dim_param: None };
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto {
            tensor_type: Some(TypeProtoTensor {
                elem_type: Some(DataType::FLOAT),
                shape: Some(TensorShapeProto { dim: dimensions.iter().map(dimension).collect() }),
            }),
            sequence: None,
        }),
    }
}
