//! Compares Grad-CAM maps of every kind of head with PyTorch's autograd in float64.
//!
//! `tests/reference/heads.py`, `tokens.py` and `unusual.py` made the fixtures. Each is prepared for the
//! convolution, for the activation and with the default target, and run on every engine that supports it; the
//! maps of all classes are compared.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use std::fs;
use std::path::Path;

use common::expected::{Expected, largest, photos, reference};
use skincell_engines::{Cellnet, Engine, Rten};
use skincell_modelkit::pack::{PackOptions, pack};
use skincell_modelkit::served::Served;
use skincell_modelkit::{CamTarget, Report, parse_labels, prepare};
use skincell_vision::card::{Basis, Card, Target};
use skincell_vision::gradcam::heatmap;
use skincell_vision::rank::probabilities;

const PHOTOS: usize = 3;
const CLASSES: usize = 4;
/// Largest difference of a map, normalised to 0..1; the engines compute in float32.
const TOLERANCE: f32 = 2e-3;
/// Networks that cellnet must support, except with the map of the convolution.
const FOR_CELLNET: &[&str] = &[
    "bias_of_its_own",
    "branches",
    "gate",
    "group_norm",
    "max",
    "max_and_mean",
    "max_silu",
    "mean_of_a_part",
    "mean_of_heads",
    "saturated",
    "temperature",
];

/// Largest differences of probabilities and maps, and the number of maps that are not blank.
fn compare(folder: &Path, model: &mut Served, card: &Card) -> (f32, f32, usize) {
    let expected = Expected::read(folder);
    let map = card.gradcam.as_ref().expect("a map");
    let key = if map.target == Target::Conv { "conv" } else { "act" };
    let (mut off, mut maps, mut shown) = (0.0_f32, 0.0_f32, 0);
    for (index, tensor) in photos(&card.input, PHOTOS).iter().enumerate() {
        let outcome = model.run(tensor).expect("runs");
        let found = probabilities(&outcome.scores, &card.output).expect("finite");
        off = off.max(largest(&found, expected.part("probabilities", &[index])));
        let cam = outcome.cam.expect("maps");
        for class in 0..CLASSES {
            let heat = heatmap(&cam, map, &found, card.output.activation, class).expect("a map");
            let wanted = expected.part(key, &[index, class]);
            // For a saturated softmax the original map is blank and the logit's map is shown instead.
            if heat.basis() == Basis::Probability {
                maps = maps.max(largest(heat.values(), wanted));
                shown += usize::from(wanted.iter().any(|v| *v != 0.0));
            }
        }
    }
    (off, maps, shown)
}

/// The engines that support a folder, and cellnet's reason if it is not among them.
fn engines(folder: &Path) -> (Vec<Box<dyn Engine>>, Option<String>) {
    let mut engines: Vec<Box<dyn Engine>> = vec![Box::new(Rten::new(1))];
    let packed = pack(folder, &PackOptions::default());
    if packed.is_ok() {
        engines.push(Box::new(Cellnet::new(1)));
    }
    engines.extend(common::onnx_runtime());
    (engines, packed.err().map(|error| error.to_string()))
}

fn prepared(name: &str, home: &Path, target: Option<Target>) -> Report {
    let folder = reference().join("heads").join(name);
    let mut options = common::options(folder.join("model.onnx"), home);
    options.classes = parse_labels("a\nb\nc\nd").expect("four labels");
    (options.mean, options.std) = ([127.5; 3], [127.5; 3]);
    options.target = target.map_or(CamTarget::Solvable, CamTarget::Only);
    let own = matches!(name, "bias_of_its_own" | "flatten_last" | "half");
    options.own_bias = target.map(|_| own);
    options.force = true;
    prepare(&options, &mut |_| {}).unwrap_or_else(|e| panic!("{name}: {e}"))
}

#[test]
fn maps_of_every_head_match_autograd() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let mut names: Vec<String> = fs::read_dir(reference().join("heads"))
        .expect("the fixtures")
        .map(|e| e.expect("readable").file_name().into_string().expect("a name"))
        .collect();
    names.sort();
    assert!(names.len() >= 71, "only {} fixtures", names.len());
    let mut bad = Vec::new();
    for name in &names {
        let folder = reference().join("heads").join(name);
        let solved = Expected::read(&folder).has("conv");
        for target in [None, Some(Target::Conv), Some(Target::Activation)] {
            if target == Some(Target::Conv) && !solved {
                continue;
            }
            let report = prepared(name, home.path(), target);
            let card = report.card;
            if target == Some(Target::Conv) && name == "branches" {
                assert!(report.notes.iter().any(|n| n.contains("7 of the 12 channels")));
                continue;
            }
            if card.gradcam.is_none() || name.starts_with("refused_") {
                if card.gradcam.is_some() || !name.starts_with("refused_") {
                    bad.push(format!("{name} {target:?}: {:?}", card.gradcam_missing));
                }
                continue;
            }
            // If the convolution has no fixture or its bias is its own, the default is the activation. (A
            // bias in half precision was once overlooked.)
            let shown = card.gradcam.as_ref().map(|map| map.target);
            let unsure = !solved || ["half", "bias_of_its_own"].contains(&name.as_str());
            assert!(!unsure || target.is_some() || shown == Some(Target::Activation), "{name}");
            let out = home.path().join("out");
            let (engines, refused) = engines(&out);
            if let Some(error) = refused
                && target != Some(Target::Conv)
                && FOR_CELLNET.contains(&name.as_str())
            {
                bad.push(format!("{name} {target:?}: cellnet does not support it: {error}"));
            }
            for engine in &engines {
                let mut model = Served::open(&out, engine.as_ref()).expect("loads");
                let (off, maps, shown) = compare(&folder, &mut model, &card);
                let line = format!(
                    "{name:20} {target:?} {:8} probabilities {off:.1e}, {shown} maps {maps:.1e}",
                    model.engine()
                );
                println!("{line}");
                if off > 1e-4 || maps > TOLERANCE || (shown < 3 && name != "saturated") {
                    bad.push(line);
                }
            }
        }
    }
    assert!(bad.is_empty(), "too far from autograd:\n{}", bad.join("\n"));
}
