//! A model that can be computed by hand: it classifies photos by how red, green and blue they are.
//!
//! `photo [1, 3, 8, 8]`, 0 to 1 → 1×1 convolution, the identity → ReLU → mean over the map → dense,
//! [`GAIN`] times the identity → `scores [1, 3]`. So the logits are `GAIN` times the mean of each channel,
//! and the Grad-CAM of a class is its channel. `modelkit` prepares it like any other model.

use std::path::Path;

use rten_onnx::onnx::{GraphProto, ModelProto};
use skincell_modelkit::{CamTarget, PrepareOptions, parse_labels, prepare as modelkit_prepare};
use skincell_vision::card::Target;

use crate::graph::{ints, model, node, tensor, value};

/// Width and height of the model's input in pixels.
pub const SIDE: u32 = 8;
/// Logit of a channel at full brightness.
pub const GAIN: f32 = 4.0;
/// The classes, in the order of the scores.
pub const CLASSES: [&str; 3] = ["red", "green", "blue"];
/// The notice in its card and its answers.
pub const NOTICE: &str = "It knows colours. Not a medical device.";

/// The expected percentages: softmax of `GAIN` times each channel's mean (0 to 1).
#[must_use]
pub fn per_cent(means: [f32; 3]) -> [f64; 3] {
    let powers = means.map(|mean| f64::from(mean * GAIN).exp());
    let sum: f64 = powers.iter().sum();
    powers.map(|power| power / sum * 100.0)
}

/// Writes the folder `models/name` of a model with an input beside the photo, `tint [1, 3]`, which is added
/// to the means of the channels; by default it is 0.
pub fn prepare_tinted(models: &Path, name: &str) {
    let mut tinted = graph();
    if let Some(graph) = &mut tinted.graph {
        graph.input.push(value("tint", &[1, 3]));
        graph.node.insert(4, node("Add", &["features", "tint"], "tinted"));
        graph.node[5].input[0] = "tinted".to_owned();
    }
    let exported = tinted.write_buf().expect("the graph is encoded");
    write(models, name, &exported, vec![("tint".to_owned(), vec![0.0; 3])]);
}

/// The model as an exporter writes it: ONNX with inline weights.
#[must_use]
pub fn exported() -> Vec<u8> {
    graph().write_buf().expect("the graph is encoded")
}

/// Writes the model's folder, `models/name`.
pub fn prepare(models: &Path, name: &str) {
    write(models, name, &exported(), Vec::new());
}

fn write(models: &Path, name: &str, onnx: &[u8], defaults: Vec<(String, Vec<f32>)>) {
    let exported = models.join("colours.onnx");
    std::fs::write(&exported, onnx).expect("the graph is written");
    let options = PrepareOptions {
        model: exported.clone(),
        output: models.join(name),
        classes: parse_labels(&CLASSES.join("\n")).expect("the labels are well"),
        title: "Colours".to_owned(),
        notice: NOTICE.to_owned(),
        license: "Apache-2.0".to_owned(),
        source: "tests/harness/colours.rs".to_owned(),
        std: [255.0; 3],
        defaults,
        target: CamTarget::Only(Target::Activation),
        ..PrepareOptions::default()
    };
    modelkit_prepare(&options, &mut |_| {}).expect("the model is prepared");
    std::fs::remove_file(exported).expect("the export is removed");
}

fn graph() -> ModelProto {
    let side = i64::from(SIDE);
    let diagonal = |value: f32| [value, 0.0, 0.0, 0.0, value, 0.0, 0.0, 0.0, value];
    let mut convolution = node("Conv", &["photo", "kernel"], "z");
    convolution.attribute = vec![ints("kernel_shape", &[1, 1])];
    let graph = GraphProto {
        node: vec![
            convolution,
            node("Relu", &["z"], "a"),
            node("GlobalAveragePool", &["a"], "means"),
            node("Flatten", &["means"], "features"),
            node("Gemm", &["features", "dense", "zeros"], "scores"),
        ],
        initializer: vec![
            tensor("kernel", &[3, 3, 1, 1], &diagonal(1.0)),
            tensor("dense", &[3, 3], &diagonal(GAIN)),
            tensor("zeros", &[3], &[0.0; 3]),
        ],
        input: vec![value("photo", &[1, 3, side, side])],
        output: vec![value("scores", &[1, 3])],
        value_info: vec![],
    };
    model(graph)
}
