//! Builders for ONNX messages: models, nodes, attributes, constants, and descriptions of inputs and
//! outputs.
//!
//! ```
//! use skincell_onnx::build::{ints_attribute, model, node, tensor, value, DataType};
//! use rten_onnx::onnx::GraphProto;
//!
//! let mut conv = node("Conv", &["image", "weights"], "scores");
//! conv.attribute = vec![ints_attribute("strides", &[8, 8])];
//! let file = model(17, GraphProto {
//!     node: vec![conv],
//!     initializer: vec![tensor("weights", &[5, 3, 8, 8], &[0.1; 960])],
//!     input: vec![value("image", DataType::FLOAT, &[1, 3, 8, 8])],
//!     output: vec![value("scores", DataType::FLOAT, &[1, 5, 1, 1])],
//!     value_info: vec![],
//! });
//! assert!(skincell_onnx::outline::check(&file.write_buf().unwrap()).is_ok());
//! ```

use std::cell::RefCell;

pub use rten_onnx::onnx::DataType;
use rten_onnx::onnx::{
    AttributeProto, AttributeType, Dimension, GraphProto, ModelProto, NodeProto,
    OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto, TypeProtoTensor, ValueInfoProto,
};

/// A model with this graph, for version `opset` of the standard operators.
#[must_use]
pub fn model(opset: i64, graph: GraphProto) -> ModelProto {
    let standard = OperatorSetIdProto { domain: Some(String::new()), version: Some(opset) };
    ModelProto {
        ir_version: Some(8),
        graph: Some(graph),
        opset_import: vec![standard],
        ..Default::default()
    }
}

/// A node with one output and no attributes, named `node_` followed by its output's name.
#[must_use]
pub fn node(operator: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        name: Some(format!("node_{output}")),
        op_type: Some(operator.to_owned()),
        input: inputs.iter().map(|input| (*input).to_owned()).collect(),
        output: vec![output.to_owned()],
        ..Default::default()
    }
}

/// A float32 constant; `values` has the product of `dims` elements, the last dimension running fastest.
#[must_use]
pub fn tensor(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    TensorProto {
        name: Some(name.to_owned()),
        dims: dims.to_vec(),
        data_type: Some(DataType::FLOAT),
        raw_data: Some(RefCell::new(values.iter().flat_map(|v| v.to_le_bytes()).collect())),
        ..Default::default()
    }
}

/// A one-dimensional int64 constant, the form of shapes and axes.
#[must_use]
pub fn integers(name: &str, values: &[i64]) -> TensorProto {
    TensorProto {
        name: Some(name.to_owned()),
        dims: vec![values.len() as i64],
        data_type: Some(DataType::INT64),
        int64_data: values.to_vec(),
        ..Default::default()
    }
}

/// A description of an input or output. A dimension that does not fit `i64` is left variable.
#[must_use]
pub fn value<D: Copy + TryInto<i64>>(name: &str, dtype: DataType, dims: &[D]) -> ValueInfoProto {
    let dim = |size: &D| Dimension { dim_value: (*size).try_into().ok(), dim_param: None };
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto {
            tensor_type: Some(TypeProtoTensor {
                elem_type: Some(dtype),
                shape: Some(TensorShapeProto { dim: dims.iter().map(dim).collect() }),
            }),
            sequence: None,
        }),
    }
}

/// An attribute of one integer.
#[must_use]
pub fn int_attribute(name: &str, value: i64) -> AttributeProto {
    AttributeProto { i: Some(value), ..attribute(name, AttributeType::INT) }
}

/// An attribute of several integers.
#[must_use]
pub fn ints_attribute(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto { ints: values.to_vec(), ..attribute(name, AttributeType::INTS) }
}

/// An attribute of one float.
#[must_use]
pub fn float_attribute(name: &str, value: f32) -> AttributeProto {
    AttributeProto { f: Some(value), ..attribute(name, AttributeType::FLOAT) }
}

/// An attribute of text.
#[must_use]
pub fn text_attribute(name: &str, value: &str) -> AttributeProto {
    AttributeProto { s: Some(value.to_owned()), ..attribute(name, AttributeType::STRING) }
}

fn attribute(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto { name: Some(name.to_owned()), r#type: Some(kind), ..Default::default() }
}
