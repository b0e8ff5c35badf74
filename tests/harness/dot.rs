//! A model with two inputs that is not a classifier: `left` and `right`, `[1, 3]` each → `product [1, 3]`,
//! elementwise, and `dot [1, 1]`, its sum.

use std::path::Path;

use rten_onnx::onnx::{GraphProto, ModelProto};

use crate::graph::{model, node, tensor, value};

/// Writes the model's folder, `models/name`.
pub(crate) fn write(models: &Path, name: &str) {
    let folder = models.join(name);
    std::fs::create_dir_all(&folder).expect("the folder is made");
    let bytes = graph().write_buf().expect("the graph is encoded");
    std::fs::write(folder.join("model.onnx"), bytes).expect("the graph is written");
}

fn graph() -> ModelProto {
    model(GraphProto {
        node: vec![
            node("Mul", &["left", "right"], "product"),
            node("MatMul", &["product", "ones"], "dot"),
        ],
        initializer: vec![tensor("ones", &[3, 1], &[1.0; 3])],
        input: vec![value("left", &[1, 3]), value("right", &[1, 3])],
        output: vec![value("product", &[1, 3]), value("dot", &[1, 1])],
        value_info: vec![],
    })
}
