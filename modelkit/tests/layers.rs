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

/// The model with entries added to its metadata.
fn with_metadata(model: &[u8], entries: &[(&str, &str)]) -> Vec<u8> {
    let mut model = ModelProto::parse_buf(model).expect("a model");
    model.metadata_props.extend(entries.iter().map(|(key, value)| StringStringEntryProto {
        key: Some((*key).to_owned()),
        value: Some((*value).to_owned()),
    }));
    model.write_buf().expect("encodes")
}

/// The largest difference of the maps in `home/out` from those of the fixture's `key`.
fn difference(home: &Path, report: &Report, fixture: &str, key: &str) -> f32 {
    let expected = Expected::read(&reference().join(fixture));
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
        let off = difference(home.path(), &report, NET, key);
        assert!(off < 2e-3, "{layer}: {off}");
    }
}

#[test]
fn a_layer_without_a_map_is_refused_and_nothing_is_written() {
    for (layer, words) in [
        ("body.stem.2", "Conv \"/body/conv/Conv\": a convolution comes after the layer"),
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
        let entries = said.map(|value| ("skincell.conv_bias", value));
        let bytes = with_metadata(&net(), entries.as_slice());
        let report = prepared(home.path(), &bytes, |_| {}).expect("it is prepared");
        let map = report.card.gradcam.as_ref().expect("a map");
        assert_eq!(map.target, target, "{said:?}");
        if said == Some("own") {
            let off = difference(home.path(), &report, NET, "conv");
            assert!(off < 2e-3, "{off}");
        }
    }
}

/// `models/torch/export.py` writes which value is a layer's, because the newer exporter only numbers nodes.
#[test]
fn a_layer_recorded_by_the_exporter_is_found() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let outputs = r#"{"features.last": "/body/act/Relu_output_0"}"#;
    let model = with_metadata(&net(), &[("skincell.layer_outputs", outputs)]);
    let report = prepared(home.path(), &model, |o| o.layer = Some("features.last".to_owned()));
    let report = report.expect("it is prepared");
    let off = difference(home.path(), &report, NET, "act");
    assert!(off < 2e-3, "{off}");
}

/// A name that fits several places once showed the last of them without a word.
#[test]
fn a_name_of_several_places_is_refused_with_their_names() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let again = with_metadata(&net(), &[("skincell.repeated_layers", r#"["body.act"]"#)]);
    let ensemble = fs::read(reference().join("heads/refused_ensemble/model.onnx"));
    for (model, layer, words) in [
        (&again, "act", "more than once; name the node instead: /body/act/Relu"),
        (&ensemble.expect("the fixture"), "body.act", "fits several layers"),
    ] {
        let refused = prepared(home.path(), model, |o| o.layer = Some(layer.to_owned()));
        let found = refused.expect_err(layer).to_string();
        assert!(found.contains(words) && found.contains("/body/act/Relu"), "{layer}: {found}");
    }
}

#[test]
fn an_ensemble_says_which_layers_can_be_shown() {
    const ENSEMBLE: &str = "heads/refused_ensemble";
    let home = tempfile::tempdir().expect("a temporary folder");
    let model = fs::read(reference().join(ENSEMBLE).join("model.onnx")).expect("the fixture");
    let report = prepared(home.path(), &model, |_| {}).expect("it is prepared");
    let reason = report.card.gradcam_missing.expect("a reason");
    for words in ["ensemble", "--cam-layer", "/body/act/Relu", "/body/act_1/Relu"] {
        assert!(reason.contains(words), "{reason}");
    }
    let report = prepared(home.path(), &model, |o| o.layer = Some("/body/act/Relu".to_owned()));
    let off = difference(home.path(), &report.expect("it is prepared"), ENSEMBLE, "act");
    assert!(off < 2e-3, "{off}");
}
