//! Builders for ONNX graphs of tests.

use rten_onnx::onnx::{DataType, GraphProto, ModelProto, ValueInfoProto};
use skincell_onnx::build;
pub(crate) use skincell_onnx::build::{ints_attribute as ints, node, tensor};

/// A model with this graph, of operator set 17.
pub(crate) fn model(graph: GraphProto) -> ModelProto {
    build::model(17, graph)
}

/// A float32 input or output.
pub(crate) fn value(name: &str, dimensions: &[i64]) -> ValueInfoProto {
    build::value(name, DataType::FLOAT, dimensions)
}
