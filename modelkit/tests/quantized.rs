//! `quantize` to int8: convolutions that would change the answers stay in float32, the others do not.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use std::path::{Path, PathBuf};

use common::{CLASSES, conv, float_value, model, node, noise, prepare_in, tensor};
use rten_onnx::onnx::{GraphProto, ModelProto};
use skincell_engines::{Engine, Rten};
use skincell_modelkit::quantize::{
    Format, QuantizeError, QuantizeOptions, QuantizeReport, Targets, compare, quantize,
};
use skincell_modelkit::served::read_card;

const CHANNELS: usize = 48;

/// Three convolutions, each with a ReLU. One channel that the last reads is 4000 on every photo and has no
/// weight: a byte for a range that wide holds nothing of the other channels.
fn network() -> ModelProto {
    let channels = CHANNELS as i64;
    let layer = |seed, inputs: usize, kernel: usize| {
        let scale = 1.5 / ((inputs * kernel) as f32).sqrt();
        noise(seed, CHANNELS * inputs * kernel).into_iter().map(|w| w * scale).collect::<Vec<_>>()
    };
    let mut high = noise(4, CHANNELS);
    high[0] = 4000.0;
    let mut last = layer(5, CHANNELS, 1);
    last.iter_mut().step_by(CHANNELS).for_each(|weight| *weight = 0.0);
    let square = [channels, channels, 1, 1];
    model(GraphProto {
        node: vec![
            conv(&["image", "w1", "b1"], "z1", 3),
            node("Relu", &["z1"], "a1"),
            conv(&["a1", "w2", "b2"], "z2", 1),
            node("Relu", &["z2"], "a2"),
            conv(&["a2", "w3", "b3"], "z3", 1),
            node("Relu", &["z3"], "a3"),
            node("GlobalAveragePool", &["a3"], "g"),
            node("Flatten", &["g"], "f"),
            node("Gemm", &["f", "dense", "dense_b"], "scores"),
        ],
        initializer: vec![
            tensor("w1", &[channels, 3, 3, 3], &layer(1, 3, 9)),
            tensor("b1", &[channels], &noise(2, CHANNELS)),
            tensor("w2", &square, &layer(3, CHANNELS, 1)),
            tensor("b2", &[channels], &high),
            tensor("w3", &square, &last),
            tensor("b3", &[channels], &noise(6, CHANNELS)),
            tensor("dense", &[channels, CLASSES as i64], &noise(7, CHANNELS * CLASSES)),
            tensor("dense_b", &[CLASSES as i64], &noise(8, CLASSES)),
        ],
        input: vec![float_value("image", &[1, 3, 8, 8])],
        output: vec![float_value("scores", &[1, CLASSES as i64])],
        value_info: vec![],
    })
}

/// Writes photos of noise, `[1, 3, 8, 8]`, each of its own brightness.
fn photos(folder: &Path, seeds: std::ops::Range<u32>) -> Vec<PathBuf> {
    let write = |seed: u32| {
        let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 3, 8, 8), }";
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((118_u16).to_le_bytes());
        bytes.extend(format!("{header:<117}\n").as_bytes());
        let pale = 0.5 + (seed % 5) as f32 / 5.0;
        bytes.extend(noise(100 + seed, 192).iter().flat_map(|v| (v * pale).to_le_bytes()));
        let path = folder.join(format!("{seed}.npy"));
        std::fs::write(&path, bytes).expect("written");
        path
    };
    seeds.map(write).collect()
}

fn quantized(folder: &Path, targets: Targets) -> Result<QuantizeReport, QuantizeError> {
    quantized_to(folder, ("out", "int8"), targets)
}

fn quantized_to(
    folder: &Path,
    (from, to): (&str, &str),
    targets: Targets,
) -> Result<QuantizeReport, QuantizeError> {
    let options = QuantizeOptions {
        folder: folder.join(from),
        output: folder.join(to),
        format: Format::Int8,
        photos: photos(folder, 0..30),
        targets,
        force: true,
    };
    quantize(&options, &mut |_| {})
}

#[test]
fn a_convolution_that_bytes_would_ruin_stays_in_float() {
    let folder = tempfile::tempdir().expect("a folder");
    prepare_in(folder.path(), &network(), |_| {}).expect("prepared");
    let report = quantized(folder.path(), Targets::default()).expect("the targets can hold");
    let kept: Vec<&str> = report.kept.iter().map(|kept| kept.name.as_str()).collect();
    assert_eq!((kept.as_slice(), report.tensors), (&["z3"][..], 2));
    let card = read_card(&folder.path().join("int8")).expect("it has a card");
    assert_eq!((card.name.as_str(), report.card), ("int8", card.clone()), "named as its folder");
    let alone = report.kept[0].alone;
    assert!(!Targets::default().hold(&alone), "it alone breaks the targets: {alone:?}");

    // Photos that nothing was measured on.
    let engines: Vec<Box<dyn Engine>> = vec![Box::new(Rten::new(1))];
    let others = photos(folder.path(), 30..90);
    let pair = [folder.path().join("out"), folder.path().join("int8")];
    let found = compare(&pair[0], &pair[1], &others, &engines, &mut |_, _| {}).expect("compared");
    let wider = Targets { agreement: 0.95, heatmap: 0.98, change: 0.08 };
    assert!(found.photos == 60 && wider.hold(&found), "{found:?}");
}

#[test]
fn without_targets_all_are_on_integers_and_impossible_ones_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    prepare_in(folder.path(), &network(), |_| {}).expect("prepared");
    let none = Targets { agreement: 0.0, heatmap: -1.0, change: 1.0 };
    let report = quantized(folder.path(), none).expect("nothing is asked for");
    assert_eq!((report.kept.len(), report.tensors), (0, 3));
    let again = quantized_to(folder.path(), ("int8", "again"), none).expect_err("it rounds");
    assert!(matches!(again, QuantizeError::Rounds { .. }), "{again}");

    let exact = Targets { agreement: 1.0, heatmap: 1.0, change: 0.0 };
    let refused = quantized(folder.path(), exact).expect_err("bytes are not exact");
    assert!(matches!(refused, QuantizeError::Targets), "{refused}");
}
