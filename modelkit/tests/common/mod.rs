//! Helpers for the tests: small ONNX classifiers with reproducible weights, and their preparation.

#![allow(dead_code, reason = "each test file uses its own part")]

pub mod expected;

use std::path::{Path, PathBuf};

use rten_onnx::onnx::{DataType, GraphProto, ModelProto, NodeProto, ValueInfoProto};
use skincell_modelkit::{PrepareError, PrepareOptions, Report, parse_labels, prepare};
use skincell_onnx::build::{self, value};
pub use skincell_onnx::build::{ints_attribute as ints, node, tensor};

/// Channels of the last convolution of [`classifier`].
pub const CHANNELS: usize = 16;
/// Classes of [`classifier`].
pub const CLASSES: usize = 5;

/// Numbers in -1..1, the same for the same seed (Numerical Recipes' linear congruential sequence).
pub fn noise(seed: u32, count: usize) -> Vec<f32> {
    let mut state = seed;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    })
    .take(count)
    .collect()
}

pub fn float_value(name: &str, dims: &[i64]) -> ValueInfoProto {
    value(name, DataType::FLOAT, dims)
}

/// A convolution of stride 1 that keeps the map's size.
pub fn conv(inputs: &[&str], output: &str, kernel: i64) -> NodeProto {
    let pad = kernel / 2;
    let mut conv = node("Conv", inputs, output);
    conv.attribute = vec![
        ints("kernel_shape", &[kernel, kernel]),
        ints("strides", &[1, 1]),
        ints("pads", &[pad, pad, pad, pad]),
    ];
    conv
}

/// `image [1, 3, 8, 8]` → 3×3 convolution with bias → ReLU → mean → dense: `scores [1, 5]`.
pub fn classifier() -> ModelProto {
    let (channels, classes) = (CHANNELS as i64, CLASSES as i64);
    let conv = conv(&["image", "w", "b"], "z", 3);
    let graph = GraphProto {
        node: vec![
            conv,
            node("Relu", &["z"], "a"),
            node("GlobalAveragePool", &["a"], "g"),
            node("Flatten", &["g"], "f"),
            node("Gemm", &["f", "dense", "dense_b"], "scores"),
        ],
        initializer: vec![
            tensor("w", &[channels, 3, 3, 3], &noise(1, CHANNELS * 27)),
            tensor("b", &[channels], &noise(2, CHANNELS)),
            tensor("dense", &[channels, classes], &noise(3, CHANNELS * CLASSES)),
            tensor("dense_b", &[classes], &noise(4, CLASSES)),
        ],
        input: vec![float_value("image", &[1, 3, 8, 8])],
        output: vec![float_value("scores", &[1, classes])],
        value_info: vec![],
    };
    model(graph)
}

/// A model of operator set 17.
pub fn model(graph: GraphProto) -> ModelProto {
    build::model(17, graph)
}

/// Options for a model of [`CLASSES`] classes, into `folder/out`.
pub fn options(model: PathBuf, folder: &Path) -> PrepareOptions {
    PrepareOptions {
        model,
        output: folder.join("out"),
        classes: parse_labels("a\nb\nc\nd\ne").expect("five labels"),
        std: [1.0; 3],
        ..PrepareOptions::default()
    }
}

/// Writes a model into a folder and prepares it there.
pub fn prepare_in(
    folder: &Path,
    model: &ModelProto,
    change: impl FnOnce(&mut PrepareOptions),
) -> Result<Report, PrepareError> {
    let path = folder.join("raw.onnx");
    std::fs::write(&path, model.write_buf().expect("encodes")).expect("written");
    let mut options = options(path, folder);
    change(&mut options);
    prepare(&options, &mut |_| {})
}

/// ONNX Runtime, if `ORT_DYLIB_PATH` names its library.
pub fn onnx_runtime() -> Option<Box<dyn skincell_engines::Engine>> {
    let library = std::env::var_os("ORT_DYLIB_PATH")?;
    let engine = skincell_engines::OnnxRuntime::new(Path::new(&library), 1).expect("a library");
    Some(Box::new(engine))
}
