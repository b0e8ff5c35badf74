//! Operators that engines do not support, or that rten computes otherwise than ONNX says, are prepared so
//! that every engine has ONNX Runtime's probabilities, or are refused.
//!
//! `tests/reference/operators.py --write` made the fixtures.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::expected::{largest, reference};
use skincell_engines::{Cellnet, Engine, Rten};
use skincell_modelkit::pack::{PackOptions, pack};
use skincell_modelkit::served::Served;
use skincell_modelkit::{PrepareError, Report, parse_labels, prepare};
use skincell_vision::rank::probabilities;
use skincell_vision::tensor::PhotoTensor;

/// Largest difference of a probability.
const TOLERANCE: f32 = 1e-4;
/// What must be refused, and a part of the reason.
const REFUSED: [(&str, &str); 3] = [
    ("batchnormalization_training", "model.eval()"),
    ("convtranspose_strides_2_2_auto_pad_same_lower", "pads as numbers"),
    ("resize_cubic_half_pixel_none_1_4_7_7", "--filter bicubic"),
];

fn folder() -> PathBuf {
    reference().join("operators")
}

fn prepared(name: &str, home: &Path) -> Result<Report, PrepareError> {
    let mut options = common::options(folder().join(name).join("model.onnx"), home);
    options.classes = parse_labels("a\nb\nc").expect("three labels");
    (options.mean, options.std, options.force) = ([127.5; 3], [127.5; 3], true);
    prepare(&options, &mut |_| {})
}

/// The photos `[1, 3, side, side]` of the fixtures.
fn photos(report: &Report) -> Vec<PhotoTensor> {
    let bytes = fs::read(folder().join("photos.f32")).expect("the photos");
    let input = &report.card.input;
    let dimensions = vec![1, 3, input.height, input.width];
    let size = dimensions.iter().product::<u32>() as usize * 4;
    let photo = |data: &[u8]| PhotoTensor {
        dimensions: dimensions.clone(),
        dtype: input.dtype,
        data: data.to_vec(),
    };
    bytes.chunks_exact(size).map(photo).collect()
}

#[test]
fn operators_have_the_probabilities_of_onnx_runtime() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let mut names: Vec<String> = fs::read_dir(folder())
        .expect("the fixtures")
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names.retain(|name| REFUSED.iter().all(|(refused, _)| refused != name));
    assert!(names.len() >= 13, "only {} fixtures", names.len());
    for name in &names {
        let report = prepared(name, home.path()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let expected = fs::read(folder().join(name).join("expected.json")).expect("expected");
        let expected: Vec<Vec<f32>> = serde_json::from_slice(&expected).expect("numbers");
        let out = home.path().join("out");
        let mut engines: Vec<Box<dyn Engine>> = vec![Box::new(Rten::new(1))];
        if pack(&out, &PackOptions::default()).is_ok() {
            engines.push(Box::new(Cellnet::new(1)));
        }
        engines.extend(common::onnx_runtime());
        for engine in &engines {
            let served = Served::open(&out, engine.as_ref()).expect("loads");
            for (photo, expected) in photos(&report).iter().zip(&expected) {
                let outcome = served.run(photo).expect("runs");
                let found = probabilities(&outcome.scores, &report.card.output).expect("finite");
                let off = largest(&found, expected);
                println!("{name} {}: {off:.1e}", served.engine());
                assert!(off <= TOLERANCE, "{name} {}: {off:.1e}", served.engine());
            }
        }
    }
}

#[test]
fn what_an_engine_would_compute_otherwise_is_refused_with_advice() {
    let home = tempfile::tempdir().expect("a temporary folder");
    for (name, advice) in REFUSED {
        let error = prepared(name, home.path()).expect_err(name).to_string();
        assert!(error.contains(advice), "{name}: {error}");
        assert!(!home.path().join("out").exists(), "{name}");
    }
}
