//! Fits familiarity to drawn pictures for networks of many kinds, from PyTorch with seeded weights, and
//! compares the scores of all engines that support the folder. A network that sees too little for it must say
//! so with the figure.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use std::path::Path;

use common::expected::reference;
use common::{float_value, node, tensor};
use rten_onnx::onnx::{GraphProto, ModelProto};
use skincell_engines::{Cellnet, Engine, Rten};
use skincell_modelkit::familiarity::{FamiliarityError, FamiliarizeOptions};
use skincell_modelkit::pack::{PackOptions, pack};
use skincell_modelkit::served::Served;
use skincell_modelkit::{FamiliarizeError, PrepareError, familiarize, parse_labels, prepare};
use skincell_vision::overlay::encode_png;
use skincell_vision::photo::Photo;

/// Largest difference of a score between engines, of the score above 1.
const DIFFERENCE: f32 = 1e-3;
const FITTED: u32 = 90;
const SIDE: u32 = 48;

/// Numbers from 0 to 1 that depend on a picture and a property, without order (splitmix64, Steele, Lea and
/// Flood 2014).
fn part(picture: u32, of: u32) -> f32 {
    let mixed = |z: u64, by: u32, times: u64| (z ^ (z >> by)).wrapping_mul(times);
    let z = (u64::from(picture) * 64 + u64::from(of)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let z = mixed(mixed(z, 30, 0xBF58_476D_1CE4_E5B9), 27, 0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 40) as f32 / (1 << 24) as f32
}

/// A picture of the known kind: a dark, round spot on a light, warm and grainy ground.
fn spot(number: u32, x: f32, y: f32) -> [f32; 3] {
    let part = |of: u32| part(number, of);
    let radius = 6.0 + 9.0 * part(2);
    let inside = (x - 12.0 - 24.0 * part(0)).hypot(y - 12.0 - 24.0 * part(1)) - radius;
    let dark = (90.0 + 60.0 * part(3)) / (1.0 + (inside / (0.7 + 2.0 * part(4))).exp());
    let grain = 12.0 * ((x * 13.0 + y * 29.0) * (1.0 + part(5))).sin();
    let light = 190.0 + 40.0 * part(6) + 40.0 * (part(7) - 0.5) * x / SIDE as f32 - dark + grain;
    [light, light * (0.85 - 0.15 * part(8)), light * (0.75 - 0.2 * part(9))]
}

/// A picture of another kind: stripes, tiles or noise in cold colours.
fn other(number: u32, x: f32, y: f32) -> [f32; 3] {
    let part = |of: u32| part(5000 + number, of);
    let period = 2.0 + 9.0 * part(0);
    let on = match number % 3 {
        0 => ((x / period) as u32).is_multiple_of(2),
        1 => ((x / period) as u32 + (y / period) as u32).is_multiple_of(2),
        _ => part(10 + (y as u32 * SIDE + x as u32) % 50) < 0.5,
    };
    if on { [20.0, 90.0 * part(1), 255.0] } else { [230.0 * part(2), 255.0, 255.0] }
}

fn draw(folder: &Path, numbers: std::ops::Range<u32>, kind: fn(u32, f32, f32) -> [f32; 3]) {
    std::fs::create_dir_all(folder).unwrap();
    for number in numbers {
        let places = (0..SIDE).flat_map(|y| (0..SIDE).map(move |x| (x as f32, y as f32)));
        let pixels = places.flat_map(|(x, y)| kind(number, x, y));
        let pixels = pixels.map(|level| level.clamp(0.0, 255.0) as u8).collect();
        let photo = Photo::from_rgb(SIDE, SIDE, pixels).unwrap();
        std::fs::write(folder.join(format!("{number}.png")), encode_png(&photo).unwrap()).unwrap();
    }
}

fn engines(folder: &Path) -> Vec<Box<dyn Engine>> {
    let mut engines: Vec<Box<dyn Engine>> = vec![Box::new(Rten::new(1))];
    if pack(folder, &PackOptions::default()).is_ok() {
        engines.push(Box::new(Cellnet::new(1)));
    }
    engines.extend(common::onnx_runtime());
    engines
}

/// The familiarity scores of the photos in a folder by an engine.
fn scores(model: &Path, engine: &dyn Engine, photos: &Path) -> Vec<f32> {
    let served = Served::open(model, engine).unwrap();
    let tensors = skincell_modelkit::photos::load_all(&[photos.to_owned()], &served.card().input);
    let each = tensors.unwrap().into_iter().map(|tensor| served.run(&tensor).unwrap());
    each.map(|outcome| outcome.familiarity.unwrap()).collect()
}

/// Checks that no engine finds a photo familiar whose elements are so large that numbers overflow, or are no
/// numbers.
fn refuse_overflows(name: &str, model: &Path, photos: &Path) {
    for engine in engines(model) {
        let served = Served::open(model, engine.as_ref()).unwrap();
        let known = served.card().familiarity.clone().unwrap();
        let input = &served.card().input;
        let tensors = skincell_modelkit::photos::load_all(&[photos.to_owned()], input).unwrap();
        for factor in [1e20, f32::INFINITY, f32::NAN] {
            let mut tensor = tensors[0].clone();
            let elements =
                tensor.data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            tensor.data = elements.flat_map(|v| (v * factor).to_le_bytes()).collect();
            let Ok(outcome) = served.run(&tensor) else { continue };
            let score = outcome.familiarity.unwrap();
            let engine = engine.name();
            // Finite numbers may stay so, and then their directions are those of the photo.
            assert!(
                factor == 1e20 || !known.read(score).is_familiar,
                "{name} by {engine}: {score} for {factor}"
            );
            assert!(
                score.is_nan() || score > 1.0 || factor == 1e20,
                "{name} by {engine}: {score} for {factor}"
            );
        }
    }
}

/// Checks the scores of all engines; returns the shares of further spots and of others that are familiar.
fn compare(name: &str, model: &Path, home: &Path) -> [f32; 2] {
    let mut shares = [0.0; 2];
    for (share, kind) in shares.iter_mut().zip(["further", "others"]) {
        let all: Vec<_> = engines(model)
            .iter()
            .map(|engine| (engine.name(), scores(model, engine.as_ref(), &home.join(kind))))
            .collect();
        let (_, first) = &all[0];
        for (engine, found) in &all {
            for (a, b) in first.iter().zip(found) {
                let difference = (a - b).abs() / a.max(1.0);
                assert!(difference <= DIFFERENCE, "{name} by {engine}: {a} and {b}");
                assert!((a - 1.0).abs() < DIFFERENCE || (*a <= 1.0) == (*b <= 1.0), "{name}: {a}");
            }
        }
        let familiar = first.iter().filter(|score| **score <= 1.0).count();
        *share = familiar as f32 / first.len() as f32;
    }
    shares
}

#[test]
fn every_engine_gives_the_same_scores_or_the_report_says_why_there_are_none() {
    let home = tempfile::tempdir().unwrap();
    let photos = home.path().join("spots");
    draw(&photos, 0..FITTED, spot);
    draw(&home.path().join("further"), 1000..1030, spot);
    draw(&home.path().join("others"), 0..30, other);
    let mut fitted_count = 0;
    let names = [
        "heads/vit",
        "heads/vit_hugging",
        "heads/vit_mean",
        "heads/swin",
        "heads/convnext",
        "heads/mixer",
        "heads/gate",
        "heads/flatten",
        "fixtures/head_sigmoid",
        "fixtures/depthwise",
    ];
    for name in names {
        let raw = reference().join(name).join("model.onnx");
        let mut options = common::options(raw, home.path());
        options.classes = parse_labels("a\nb\nc\nd").unwrap();
        (options.mean, options.std) = ([127.5; 3], [127.5; 3]);
        options.photos = vec![photos.clone()];
        options.force = true;
        let report = match prepare(&options, &mut |_| {}) {
            Ok(report) => report,
            // Different pictures that a network sees no difference in are versions of one to it.
            Err(PrepareError::Familiarity(error @ FamiliarityError::TooFew { .. })) => {
                println!("{name:24} {error}");
                continue;
            }
            Err(error) => panic!("{name}: {error}"),
        };
        let Some(fitted) = report.familiarity else {
            let said = report.notes.iter().find(|note| note.contains("is not available"));
            println!("{name:24} {}", said.expect(name));
            continue;
        };
        let model = home.path().join("out");
        refuse_overflows(name, &model, &home.path().join("further"));
        let [further, others] = compare(name, &model, home.path());
        let (auroc, pictures) = (fitted.familiarity.auroc, fitted.familiarity.pictures);
        println!(
            "{name:24} auroc {auroc:.3}, {pictures} pictures: {further:.2} and {others:.2} familiar"
        );
        assert!(further >= 0.8 && others < 0.5, "{name}: {further} {others}");
        fitted_count += 1;
    }
    assert!(fitted_count >= 5, "only {fitted_count} networks have familiarity");
}

/// Pixels of a photo of a network of dense layers only.
const PIXELS: usize = 3 * 24 * 24;

/// `image [1, 3, 24, 24]`, divided by 255 -> dense of `features` -> ReLU -> dense: `scores [1, 4]`.
fn dense(features: usize) -> ModelProto {
    let noise = common::noise;
    let count = features as i64;
    let layers: Vec<f32> = noise(1, PIXELS * features).iter().map(|w| w / 8.0).collect();
    let nodes = vec![
        node("Div", &["image", "most"], "scaled"),
        node("Flatten", &["scaled"], "flat"),
        node("Gemm", &["flat", "w", "b"], "z"),
        node("Relu", &["z"], "hidden"),
        node("Gemm", &["hidden", "w2", "b2"], "scores"),
    ];
    let graph = GraphProto {
        node: nodes,
        initializer: vec![
            tensor("most", &[1], &[255.0]),
            tensor("w", &[PIXELS as i64, count], &layers),
            tensor("b", &[count], &noise(2, features)),
            tensor("w2", &[count, 4], &noise(3, features * 4)),
            tensor("b2", &[4], &noise(4, 4)),
        ],
        input: vec![float_value("image", &[1, 3, 24, 24])],
        output: vec![float_value("scores", &[1, 4])],
        ..GraphProto::default()
    };
    common::model(graph)
}

#[test]
fn a_network_of_dense_layers_is_judged_by_its_last_features_or_not_at_all() {
    let home = tempfile::tempdir().unwrap();
    let photos = home.path().join("spots");
    draw(&photos, 0..FITTED, spot);
    for (features, expected) in [(32, None), (4, Some("has 4 features"))] {
        let raw = home.path().join("dense.onnx");
        std::fs::write(&raw, dense(features).write_buf().unwrap()).unwrap();
        let mut options = common::options(raw, home.path());
        options.classes = parse_labels("a\nb\nc\nd").unwrap();
        options.photos = vec![photos.clone()];
        options.force = true;
        let report = prepare(&options, &mut |_| {}).unwrap();
        let count = report.familiarity.as_ref().map(|fitted| fitted.features);
        assert!(count.is_none_or(|count| count == features), "{count:?} features");
        let why = report.notes.iter().find(|note| note.contains("familiarity is not available"));
        match expected {
            Some(words) => assert!(why.unwrap().contains(words), "{:?}", report.notes),
            None => assert!(count.is_some() || why.unwrap().contains("too different"), "{why:?}"),
        }
    }
}

#[test]
fn a_folder_is_fitted_again_but_not_to_photos_that_are_strange_to_it() {
    let home = tempfile::tempdir().unwrap();
    let (spots, others) = (home.path().join("spots"), home.path().join("others"));
    draw(&spots, 0..FITTED, spot);
    draw(&others, 0..FITTED, other);
    let mut options =
        common::options(reference().join("fixtures/head_sigmoid/model.onnx"), home.path());
    options.classes = parse_labels("a\nb\nc\nd").unwrap();
    (options.mean, options.std) = ([127.5; 3], [127.5; 3]);
    options.photos = vec![spots.clone()];
    let fitted = prepare(&options, &mut |_| {}).unwrap().familiarity.unwrap();
    let model = home.path().join("out");
    let again = |photos: &Path, replace| {
        let photos = &[photos.to_owned()];
        let options = FamiliarizeOptions { photos, basis: "", replace };
        familiarize(&model, &options, &mut |_, _| {})
    };
    let before = ["model.onnx", "model.onnx.data", "card.json"].map(|file| model.join(file));
    let before = || before.each_ref().map(|file| std::fs::read(file).unwrap());
    let first = before();
    assert_eq!(again(&spots, false).unwrap().familiarity, fitted.familiarity);
    assert_eq!(before(), first);
    let error = again(&others, false).unwrap_err();
    assert!(
        matches!(&error, FamiliarizeError::Fit(FamiliarityError::Strangers { unknown, .. }) if *unknown > 20),
        "{error}"
    );
    assert_eq!(before(), first, "nothing is written");
    let other = again(&others, true);
    assert!(!matches!(other, Err(FamiliarizeError::Fit(FamiliarityError::Strangers { .. }))));
}
