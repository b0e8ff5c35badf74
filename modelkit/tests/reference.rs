//! Compares Grad-CAM maps of prepared models with the original method, `tf.GradientTape` in Keras.
//!
//! `tests/reference/make.py` made the fixtures. Each exported model is prepared for both targets and run on
//! every engine with the same photos. The probabilities are compared, and the heatmaps of all classes in both
//! bases, computed from the maps as the WebAssembly component does.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::expected::{Expected, largest, photos, reference};
use skincell_engines::{Cellnet, Engine, Rten};
use skincell_modelkit::pack::{PackOptions, pack};
use skincell_modelkit::served::{Outcome, Served};
use skincell_modelkit::{CamTarget, parse_labels, prepare};
use skincell_vision::card::{Activation, Basis, Card, Form, GradCam, Target};
use skincell_vision::gradcam::heatmap;
use skincell_vision::rank::probabilities;

const PHOTOS: usize = 5;
const CLASSES: usize = 4;

/// Largest accepted difference of a normalised map. Both sides compute in float32, with sums in a different
/// order; the test prints the largest difference found.
const MAP_TOLERANCE: f32 = 2e-3;
const PROBABILITY_TOLERANCE: f32 = 1e-5;

fn fixtures() -> PathBuf {
    reference().join("fixtures")
}

/// Prepares a fixture for a target and loads it into every engine that supports it.
fn prepared(raw: &Path, home: &Path, target: Target) -> (Vec<Served>, Card) {
    let mut options = common::options(raw.to_owned(), home);
    options.classes = parse_labels("a\nb\nc\nd").expect("four labels");
    options.target = CamTarget::Only(target);
    options.force = true;
    let name = raw.parent().and_then(Path::file_name).and_then(|n| n.to_str()).expect("a name");
    options.own_bias = Some(matches!(name, "conv_bias" | "head_none"));
    let report = prepare(&options, &mut |_| {}).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(report.card.gradcam_missing, None, "{name}");
    let folder = home.join("out");
    let mut engines: Vec<Box<dyn Engine>> = vec![Box::new(Rten::new(1))];
    match pack(&folder, &PackOptions::default()) {
        Ok(_) => engines.push(Box::new(Cellnet::new(1))),
        Err(error) => println!("{name:20} is not supported by cellnet: {error}"),
    }
    let open = |engine: &dyn Engine| {
        Served::open(&folder, engine).unwrap_or_else(|e| panic!("{name}: {e}"))
    };
    (engines.iter().map(|engine| open(engine.as_ref())).collect(), report.card)
}

/// Differences over the photos of one model, for one target and basis on one engine.
#[derive(Default)]
struct Seen {
    /// Largest difference of a probability.
    probabilities: f32,
    /// Largest difference of a map.
    maps: f32,
    /// Number of maps that are not blank.
    compared: usize,
    /// Number of logit maps shown instead of probability maps without gradient.
    saturated: usize,
}

fn compare(name: &str, model: &mut Served, card: &Card, basis: Basis) -> Seen {
    let folder = fixtures().join(name);
    let expected = Expected::read(&folder);
    let map = GradCam { basis, ..card.gradcam.clone().expect("a map") };
    let way = format!("{:?}/{basis:?}", map.target).to_lowercase();
    let mut seen = Seen::default();
    for (index, photo) in photos(&card.input, PHOTOS).iter().enumerate() {
        let Outcome { scores, cam, .. } = model.run(photo).expect("runs");
        let cam = cam.expect("maps");
        let softmax = name == "head_logits";
        assert_eq!(card.output.form == Form::Logits, softmax, "{name}");
        let wanted = expected.part("probabilities", &[index]);
        let scores = probabilities(&scores, &card.output).expect("finite");
        seen.probabilities = seen.probabilities.max(largest(&scores, wanted));
        for class in 0..CLASSES {
            let heat = heatmap(&cam, &map, &scores, card.output.activation, class).expect("a map");
            let mut wanted = expected.part(&way, &[index, class]);
            if heat.basis() != basis {
                // The origin app leaves such a map blank; the component shows the logit's instead.
                assert!(wanted.iter().all(|v| *v == 0.0), "{name} {way} {index} {class}");
                wanted = expected.part(&way.replace("probability", "logit"), &[index, class]);
                seen.saturated += 1;
            }
            seen.maps = seen.maps.max(largest(heat.values(), wanted));
            seen.compared += usize::from(wanted.iter().any(|v| *v != 0.0));
        }
    }
    seen
}

#[test]
fn maps_match_the_gradient_tape() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let entries = fs::read_dir(fixtures()).expect("the fixtures");
    let mut names: Vec<String> = entries
        .map(|e| e.expect("readable"))
        .filter(|e| e.path().is_dir())
        .map(|e| e.file_name().into_string().expect("a name"))
        .collect();
    names.sort();
    assert!(names.len() >= 45, "only {} fixtures", names.len());
    let mut bad = Vec::new();
    for name in &names {
        let (mut compared, mut saturated) = (0, 0);
        for target in [Target::Conv, Target::Activation] {
            let raw = fixtures().join(name).join("model.onnx");
            let (mut engines, card) = prepared(&raw, home.path(), target);
            for model in &mut engines {
                for basis in [Basis::Probability, Basis::Logit] {
                    let seen = compare(name, model, &card, basis);
                    let engine = model.engine();
                    let line = format!(
                        "{name:20} {engine:8} {target:?}/{basis:?}: probabilities {:.1e}, {} maps {:.1e}",
                        seen.probabilities, seen.compared, seen.maps
                    );
                    println!("{line}");
                    compared += if engine == "rten" { seen.compared } else { 0 };
                    saturated += seen.saturated;
                    let near = seen.probabilities <= PROBABILITY_TOLERANCE;
                    if !near || seen.maps > MAP_TOLERANCE {
                        bad.push(line);
                    }
                }
            }
        }
        assert!(compared >= 40, "{name}: only {compared} of 80 maps are not blank");
        let reached = name != "head_saturated" || saturated >= 10;
        assert!(reached, "{name}: only {saturated} maps of a saturated softmax");
    }
    assert!(bad.is_empty(), "too far from the tape:\n{}", bad.join("\n"));
}

/// The fixtures cover both activations.
#[test]
fn fixtures_end_in_softmax_and_sigmoid() {
    let home = tempfile::tempdir().expect("a temporary folder");
    for (name, activation) in
        [("head_norm", Activation::Softmax), ("head_sigmoid", Activation::Sigmoid)]
    {
        let raw = fixtures().join(name).join("model.onnx");
        let (_, card) = prepared(&raw, home.path(), Target::Conv);
        assert_eq!((card.output.activation, card.output.form), (activation, Form::Probabilities));
    }
}
