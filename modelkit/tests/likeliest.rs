//! Compares the maps of networks with so many classes that only the likeliest have maps with PyTorch's
//! autograd in float64, and checks which networks these are.
//!
//! `tests/reference/tokens.py` made the fixtures.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use std::path::Path;

use common::expected::{Expected, largest, photos, reference};
use common::{conv, float_value, model, node, noise, prepare_in, tensor};
use rten_onnx::onnx::GraphProto;
use skincell_engines::{Engine, Rten};
use skincell_modelkit::served::Served;
use skincell_modelkit::{parse_labels, prepare};
use skincell_vision::card::{Basis, Card, MapClasses};
use skincell_vision::gradcam::{GradCamError, heatmap};
use skincell_vision::rank::{probabilities, rank};

const PHOTOS: usize = 3;
const CLASSES: usize = 40;
const LIKELIEST: usize = 10;
const TOLERANCE: f32 = 2e-3;

/// The largest difference of the likeliest classes' maps; checks that the others are refused.
fn compare(folder: &Path, model: &Served, card: &Card) -> f32 {
    let expected = Expected::read(folder);
    let map = card.gradcam.as_ref().expect("a map");
    let key = if map.basis == Basis::Logit { "logit" } else { "act" };
    let mut off = 0.0_f32;
    for (index, tensor) in photos(&card.input, PHOTOS).iter().enumerate() {
        let outcome = model.run(tensor).expect("runs");
        let found = probabilities(&outcome.scores, &card.output).expect("finite");
        assert!(largest(&found, expected.part("probabilities", &[index])) < 1e-4);
        let cam = outcome.cam.expect("maps");
        let ranked = rank(&found, CLASSES);
        for (place, class) in ranked.iter().map(|r| r.index).enumerate() {
            let mut heat = heatmap(&cam, map, &found, card.output.activation, class);
            let asked = model.run_for(tensor, Some(class)).expect("runs").cam.expect("maps");
            if place >= LIKELIEST {
                assert_eq!(heat, Err(GradCamError::Unlikely { class, count: LIKELIEST }));
                assert_eq!(asked.classes[..LIKELIEST - 1], cam.classes[..LIKELIEST - 1]);
                heat = heatmap(&asked, map, &found, card.output.activation, class);
            } else {
                assert_eq!(asked.classes, cam.classes, "it has a map anyway");
            }
            let heat = heat.expect("a map");
            let mut wanted = expected.part(key, &[index, class]);
            if heat.basis() != map.basis {
                // The probability has no positive gradient, so the logit's map is shown.
                assert!(wanted.iter().all(|v| *v == 0.0), "photo {index}, class {class}");
                wanted = expected.part("logit", &[index, class]);
            }
            off = off.max(largest(heat.values(), wanted));
        }
    }
    off
}

#[test]
fn maps_of_the_likeliest_classes_match_autograd() {
    let home = tempfile::tempdir().expect("a temporary folder");
    for name in ["vit", "labels"] {
        for basis in [Basis::Probability, Basis::Logit] {
            let folder = reference().join("likeliest").join(name);
            let mut options = common::options(folder.join("model.onnx"), home.path());
            let labels: Vec<String> = (0..CLASSES).map(|i| format!("class {i}")).collect();
            options.classes = parse_labels(&labels.join("\n")).expect("labels");
            (options.mean, options.std) = ([127.5; 3], [127.5; 3]);
            (options.basis, options.force) = (basis, true);
            let report = prepare(&options, &mut |_| {}).unwrap_or_else(|e| panic!("{name}: {e}"));
            let card = report.card;
            let map = card.gradcam.as_ref().unwrap_or_else(|| panic!("{:?}", card.gradcam_missing));
            let (output, asked) = ("cam_classes".to_owned(), Some("cam_class".to_owned()));
            let likeliest = MapClasses::Likeliest { count: 10, output, asked };
            assert_eq!(map.classes, likeliest, "{name}: {:?}", report.price);
            let mut engines: Vec<Box<dyn Engine>> = vec![Box::new(Rten::new(1))];
            engines.extend(common::onnx_runtime());
            for engine in &engines {
                let model = Served::open(&home.path().join("out"), engine.as_ref()).expect("loads");
                let off = compare(&folder, &model, &card);
                println!("{name} {basis:?} {} {off:.1e}", model.engine());
                assert!(off < TOLERANCE, "{name} {basis:?} {}: {off}", model.engine());
            }
        }
    }
}

/// The classes of a network whose maps of all [`CLASSES`] classes cost about 9 % of its multiplications, with
/// `operator` between its convolutions.
fn classes_with_maps(operator: &str) -> MapClasses {
    let wide = CLASSES as i64;
    let mut nodes = vec![conv(&["image", "first"], "z0", 3)];
    for step in 1..4 {
        let (before, between) = (format!("z{}", step - 1), format!("a{step}"));
        nodes.push(node(operator, &[&before], &between));
        nodes.push(conv(&[&between, "next"], &format!("z{step}"), 3));
    }
    nodes.push(node("Relu", &["z3"], "a"));
    nodes.push(node("GlobalAveragePool", &["a"], "g"));
    nodes.push(node("Flatten", &["g"], "f"));
    nodes.push(node("Gemm", &["f", "dense"], "scores"));
    let graph = GraphProto {
        node: nodes,
        initializer: vec![
            tensor("first", &[16, 3, 3, 3], &noise(1, 16 * 27)),
            tensor("next", &[16, 16, 3, 3], &noise(2, 16 * 144)),
            tensor("dense", &[16, wide], &noise(3, 16 * CLASSES)),
        ],
        input: vec![float_value("image", &[1, 3, 8, 8])],
        output: vec![float_value("scores", &[1, wide])],
        value_info: vec![],
    };
    let home = tempfile::tempdir().expect("a temporary folder");
    let labels: Vec<String> = (0..CLASSES).map(|i| format!("class {i}")).collect();
    let report = prepare_in(home.path(), &model(graph), |options| {
        options.classes = parse_labels(&labels.join("\n")).expect("labels");
    });
    report.expect("prepared").card.gradcam.expect("a map").classes
}

#[test]
fn a_network_for_cellnet_keeps_the_maps_of_all_classes() {
    assert_eq!(classes_with_maps("Relu"), MapClasses::All);
    let only_rten = classes_with_maps("Atan");
    assert!(matches!(only_rten, MapClasses::Likeliest { count: 10, .. }), "{only_rten:?}");
}
