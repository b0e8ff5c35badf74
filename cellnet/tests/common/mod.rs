//! Builders for small ONNX graphs.
#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(unreachable_pub, reason = "shared between test binaries, each of which is a crate")]
#![allow(unused_imports, reason = "each test file uses its own part")]

pub mod lines;

use std::cell::RefCell;

use rten_onnx::onnx::{
    AttributeProto, DataType, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto,
};
use skincell_onnx::build::{self, value};
pub use skincell_onnx::build::{
    float_attribute as float, int_attribute as int, integers, ints_attribute as ints,
    text_attribute as text,
};

/// A constant of floats, computed from each index.
pub fn tensor(name: &str, dims: &[i64], element: impl Fn(usize) -> f32) -> TensorProto {
    let count = dims.iter().product::<i64>() as usize;
    build::tensor(name, dims, &(0..count).map(element).collect::<Vec<_>>())
}

/// A constant of integers, by their bytes.
pub fn bytes(name: &str, dtype: DataType, dims: &[usize], bytes: Vec<u8>) -> TensorProto {
    let dims: Vec<i64> = dims.iter().map(|d| *d as i64).collect();
    let raw_data = Some(RefCell::new(bytes));
    TensorProto { data_type: Some(dtype), raw_data, ..tensor(name, &dims, |_| 0.0) }
}

/// A node with attributes, named after its output.
pub fn node(op: &str, inputs: &[&str], output: &str, attribute: Vec<AttributeProto>) -> NodeProto {
    NodeProto { attribute, ..build::node(op, inputs, output) }
}

/// A float input or output.
pub fn declared(name: &str, dims: &[i64]) -> ValueInfoProto {
    value(name, DataType::FLOAT, dims)
}

/// A byte input.
pub fn declared_bytes(name: &str, dims: &[i64]) -> ValueInfoProto {
    value(name, DataType::UINT8, dims)
}

/// A model of operator set 18.
pub fn model(
    node: Vec<NodeProto>,
    initializer: Vec<TensorProto>,
    input: Vec<ValueInfoProto>,
    outputs: &[&str],
) -> ModelProto {
    let output = outputs.iter().map(|o| declared(o, &[])).collect();
    build::model(18, GraphProto { node, initializer, input, output, ..Default::default() })
}
