//! Graphs with functions of their own, branches, loops and fused operators are prepared so that every engine
//! has ONNX Runtime's probabilities.
//!
//! `tests/reference/structures.py` made the fixtures.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use std::fs;
use std::path::Path;

use common::expected::{largest, reference};
use skincell_engines::{Cellnet, Engine, Rten};
use skincell_modelkit::pack::{PackOptions, pack};
use skincell_modelkit::served::Served;
use skincell_modelkit::{Report, parse_labels, prepare};
use skincell_vision::rank::probabilities;
use skincell_vision::tensor::PhotoTensor;

/// Largest difference of a probability.
const TOLERANCE: f32 = 1e-4;
/// The same of integers: a value between two of them may become either.
const TOLERANCE_OF_INTEGERS: f32 = 0.01;
/// Each fixture, whether cellnet takes it, and whether it has a heatmap.
const FIXTURES: [(&str, bool, bool); 10] = [
    ("functions", true, true),
    ("if_on_constant", true, true),
    ("if_on_shape", true, true),
    ("if_on_photo", false, true),
    ("loop", false, true),
    ("masked", true, true),
    ("qoperator", true, true),
    ("qoperator_channels", true, true),
    ("qoperator_channels_11", false, true),
    ("skip_layer_norm", false, true),
];

fn prepared(name: &str, home: &Path) -> Report {
    let model = reference().join("structures").join(name).join("model.onnx");
    let mut options = common::options(model, home);
    options.classes = parse_labels("a\nb\nc").expect("three labels");
    (options.mean, options.std, options.force) = ([127.5; 3], [127.5; 3], true);
    prepare(&options, &mut |_| {}).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn structures_have_the_probabilities_of_onnx_runtime() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let photos = fs::read(reference().join("structures/photos.f32")).expect("the photos");
    for (name, packs, shown) in FIXTURES {
        let report = prepared(name, home.path());
        assert_eq!(
            report.card.gradcam.is_some(),
            shown,
            "{name}: {:?}",
            report.card.gradcam_missing
        );
        let expected = reference().join("structures").join(name).join("expected.json");
        let expected: Vec<Vec<f32>> =
            serde_json::from_slice(&fs::read(expected).expect("expected")).expect("numbers");
        let input = &report.card.input;
        let dimensions = vec![1, 3, input.height, input.width];
        let size = dimensions.iter().product::<u32>() as usize * 4;
        let out = home.path().join("out");
        let mut engines: Vec<Box<dyn Engine>> = vec![Box::new(Rten::new(1))];
        let packed = pack(&out, &PackOptions::default());
        assert_eq!(packed.is_ok(), packs, "{name}: {:?}", packed.err().map(|e| e.to_string()));
        if packs {
            engines.push(Box::new(Cellnet::new(1)));
        }
        engines.extend(common::onnx_runtime());
        for engine in &engines {
            let served = Served::open(&out, engine.as_ref()).expect("loads");
            for (data, expected) in photos.chunks_exact(size).zip(&expected) {
                let photo = PhotoTensor {
                    dimensions: dimensions.clone(),
                    dtype: input.dtype,
                    data: data.to_vec(),
                };
                let outcome = served.run(&photo).expect("runs");
                let found = probabilities(&outcome.scores, &report.card.output).expect("finite");
                let off = largest(&found, expected);
                let integers = name.starts_with("qoperator");
                let tolerance = if integers { TOLERANCE_OF_INTEGERS } else { TOLERANCE };
                assert!(off <= tolerance, "{name} {}: {off:.1e}", served.engine());
            }
        }
    }
}

/// Of heatmaps, of their largest element.
const TOLERANCE_OF_MAPS: f32 = 1e-5;

#[test]
fn heatmaps_through_rounding_have_the_derivative_of_fake_quantization() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let photos = fs::read(reference().join("structures/photos.f32")).expect("the photos");
    for name in ["qoperator", "qoperator_channels"] {
        let report = prepared(name, home.path());
        let out = home.path().join("out");
        pack(&out, &PackOptions::default()).expect("cellnet takes it");
        let maps = fs::read(reference().join("structures").join(name).join("maps.json"));
        let maps: Vec<Vec<Vec<f32>>> =
            serde_json::from_slice(&maps.expect("maps")).expect("numbers");
        let input = &report.card.input;
        let dimensions = vec![1, 3, input.height, input.width];
        let size = dimensions.iter().product::<u32>() as usize * 4;
        let mut engines: Vec<Box<dyn Engine>> =
            vec![Box::new(Rten::new(1)), Box::new(Cellnet::new(1))];
        engines.extend(common::onnx_runtime());
        for engine in &engines {
            let served = Served::open(&out, engine.as_ref()).expect("loads");
            assert_eq!(photos.len(), size * maps.len());
            for (data, expected) in photos.chunks_exact(size).zip(&maps) {
                let dimensions = dimensions.clone();
                let photo = PhotoTensor { dimensions, dtype: input.dtype, data: data.to_vec() };
                let found = served.run(&photo).expect("runs").cam.expect("maps").maps;
                let off = largest(&of_largest(&found), &of_largest(&expected.concat()));
                assert!(off <= TOLERANCE_OF_MAPS, "{name} {}: {off:.1e}", served.engine());
            }
        }
    }
}

/// Maps, whose common factor means nothing, in parts of their largest element.
fn of_largest(maps: &[f32]) -> Vec<f32> {
    let most = maps.iter().fold(0.0, |most: f32, value| most.max(value.abs()));
    maps.iter().map(|value| value / most).collect()
}
