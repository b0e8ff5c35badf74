//! `--cam-layer` shows the map of the layer it names, and `--conv-bias` need not be said where the exporter
//! wrote it.
//!
//! The maps are those of PyTorch's autograd in float64; `tests/reference/heads.py` made the fixture.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use std::fs;
use std::path::Path;

use common::expected::{Expected, largest, photos, reference};
use rten_onnx::onnx::{ModelProto, StringStringEntryProto};
use skincell_engines::Rten;
use skincell_modelkit::served::Served;
use skincell_modelkit::{PrepareError, PrepareOptions, Report, parse_labels, prepare};
use skincell_vision::card::{Basis, Target};
use skincell_vision::gradcam::heatmap;
use skincell_vision::rank::probabilities;

const PHOTOS: usize = 3;
const CLASSES: usize = 4;
/// A convolution with a bias of its own, ReLU, mean, dense layer.
const NET: &str = "heads/bias_of_its_own";

fn prepared(
    home: &Path,
    model: &[u8],
    change: impl FnOnce(&mut PrepareOptions),
) -> Result<Report, PrepareError> {
    let file = home.join("raw.onnx");
    fs::write(&file, model).expect("written");
    let mut options = common::options(file, home);
    options.classes = parse_labels("a\nb\nc\nd").expect("four labels");
    (options.mean, options.std, options.force) = ([127.5; 3], [127.5; 3], true);
    change(&mut options);
    prepare(&options, &mut |_| {})
}

fn net() -> Vec<u8> {
    fs::read(reference().join(NET).join("model.onnx")).expect("the fixture")
}

/// The largest difference of the maps in `home/out` from those of the fixture's `key`.
fn difference(home: &Path, report: &Report, key: &str) -> f32 {
    let expected = Expected::read(&reference().join(NET));
    let model = Served::open(&home.join("out"), &Rten::new(1)).expect("loads");
    let (card, map) = (&report.card, report.card.gradcam.as_ref().expect("a map"));
    let mut most = 0.0_f32;
    for (index, tensor) in photos(&card.input, PHOTOS).iter().enumerate() {
        let outcome = model.run(tensor).expect("runs");
        let found = probabilities(&outcome.scores, &card.output).expect("finite");
        let cam = outcome.cam.expect("maps");
        for class in 0..CLASSES {
            let heat = heatmap(&cam, map, &found, card.output.activation, class).expect("a map");
            // Where the probability has no positive gradient, the logit's map is shown; `heads` compares
            // those.
            if heat.basis() != Basis::Probability {
                continue;
            }
            most = most.max(largest(heat.values(), expected.part(key, &[index, class])));
        }
    }
    most
}

#[test]
fn a_named_layer_has_the_map_of_autograd() {
    let home = tempfile::tempdir().expect("a temporary folder");
    for (layer, key, target) in [
        ("body.act", "act", Target::Activation),
        ("/body/act/Relu", "act", Target::Activation),
        ("body.conv", "conv", Target::Conv),
        ("/body/conv/Conv_output_0", "conv", Target::Conv),
    ] {
        let report = prepared(home.path(), &net(), |options| {
            (options.layer, options.own_bias) = (Some(layer.to_owned()), Some(true));
        });
        let report = report.unwrap_or_else(|error| panic!("{layer}: {error}"));
        assert_eq!(report.card.gradcam.as_ref().map(|map| map.target), Some(target), "{layer}");
        let off = difference(home.path(), &report, key);
        assert!(off < 2e-3, "{layer}: {off}");
    }
}

#[test]
fn a_layer_without_a_map_is_refused_and_nothing_is_written() {
    for (layer, words) in [
        ("body.stem.2", "Conv \"/body/conv/Conv\": a convolution mixes the pixels"),
        ("body.nothing", "/body/act/Relu"),
        ("/parts.0/Gemm", "does not compute a map"),
    ] {
        let home = tempfile::tempdir().expect("a temporary folder");
        let refused = prepared(home.path(), &net(), |o| o.layer = Some(layer.to_owned()));
        let words_found = refused.expect_err(layer).to_string();
        assert!(words_found.contains(words), "{layer}: {words_found}");
        assert!(words_found.contains("--cam-layer"), "{layer}: {words_found}");
        assert!(!home.path().join("out").exists(), "{layer}");
    }
}

/// `models/torch/export.py` and `models/keras/export.py` write whose the biases are; without that word the
/// default is the activation.
#[test]
fn the_bias_is_whose_the_exporter_says() {
    let home = tempfile::tempdir().expect("a temporary folder");
    for (said, target) in [
        (None, Target::Activation),
        (Some("own"), Target::Conv),
        (Some("folded"), Target::Conv),
        (Some("something else"), Target::Activation),
    ] {
        let mut model = ModelProto::parse_buf(&net()).expect("a model");
        model.metadata_props.extend(said.map(|value| StringStringEntryProto {
            key: Some("skincell.conv_bias".to_owned()),
            value: Some(value.to_owned()),
        }));
        let bytes = model.write_buf().expect("encodes");
        let report = prepared(home.path(), &bytes, |_| {}).expect("it is prepared");
        let map = report.card.gradcam.as_ref().expect("a map");
        assert_eq!(map.target, target, "{said:?}");
        if said == Some("own") {
            let off = difference(home.path(), &report, "conv");
            assert!(off < 2e-3, "{off}");
        }
    }
}
