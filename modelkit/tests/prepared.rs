//! Properties of a prepared folder: its Grad-CAM maps equal the closed form, its bytes are reproducible, and
//! its weights are aligned and mapped.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use std::fs;
use std::path::Path;

use common::{
    CHANNELS, CLASSES, classifier, conv, float_value, model, node, noise, prepare_in, tensor,
};
use rten::{Model, ModelOptions};
use rten_onnx::onnx::GraphProto;
use rten_tensor::prelude::*;
use rten_tensor::{NdTensor, Tensor};
use skincell_modelkit::CamTarget;
use skincell_modelkit::external::{ALIGNMENT, GRAPH_FILE, WEIGHTS_FILE};
use skincell_vision::card::{self, Card, Dtype, Form, Target};

/// Loads a model with its weights mapped, as the server does.
#[allow(unsafe_code, reason = "mapping a file is unsafe because another process could change it")]
fn load_mapped(folder: &Path) -> Model {
    // SAFETY: the folder is this test's own, and nothing writes to it while the model lives.
    unsafe { ModelOptions::with_all_ops().load_mmap(folder.join(GRAPH_FILE)) }.expect("loads")
}

fn run(model: &Model, photo: &Tensor<f32>, output: &str) -> Tensor<f32> {
    let ids = [model.node_id(output).expect("the output is there")];
    let inputs = vec![(model.input_ids()[0], photo.view().into())];
    let mut values = model.run(inputs, &ids, None).expect("runs");
    values.remove(0).try_into().expect("float32")
}

#[test]
fn maps_match_the_closed_form() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let raw = classifier();
    let mut options = ModelOptions::with_all_ops();
    options.enable_optimization(false);
    let original = options.load(raw.write_buf().expect("encodes")).expect("loads");
    let photo = Tensor::from_data(&[1, 3, 8, 8], noise(9, 192));
    let z: NdTensor<f32, 4> = run(&original, &photo, "z").try_into().expect("four axes");
    let (bias, dense) = (noise(2, CHANNELS), noise(3, CHANNELS * CLASSES));

    for target in [Target::Conv, Target::Activation] {
        let report = prepare_in(home.path(), &raw, |o| {
            (o.target, o.force) = (CamTarget::Only(target), true);
        });
        let card = report.expect("prepared").card;
        assert_eq!(
            card.gradcam.as_ref().map(|g| (g.width, g.height, g.target)),
            Some((8, 8, target))
        );
        let prepared = load_mapped(&home.path().join("out"));
        assert_eq!(run(&prepared, &photo, "scores"), run(&original, &photo, "scores"));
        let maps: NdTensor<f32, 4> = run(&prepared, &photo, "cam").try_into().expect("four axes");
        assert_eq!(maps.shape(), [1, CLASSES, 8, 8]);
        let slope = |k: usize| {
            let positive = (0..64).filter(|i| z[[0, k, i / 8, i % 8]] > 0.0).count();
            positive as f64 / 64.0
        };
        let slopes: Vec<f64> = (0..CHANNELS).map(slope).collect();
        for (class, y, x) in (0..CLASSES).flat_map(|c| (0..64).map(move |i| (c, i / 8, i % 8))) {
            let term = |k: usize| {
                let weight = f64::from(dense[k * CLASSES + class]);
                let raw = f64::from(z[[0, k, y, x]]);
                match target {
                    Target::Conv => weight * slopes[k] * (raw - f64::from(bias[k])),
                    Target::Activation => weight * raw.max(0.0),
                }
            };
            let expected: f64 = (0..CHANNELS).map(term).sum();
            let found = f64::from(maps[[0, class, y, x]]);
            // 16 products of float32 numbers of size 1 to 10.
            assert!(
                (found - expected).abs() < 1e-5,
                "{target:?} {class} {y} {x}: {found} {expected}"
            );
        }
    }
}

#[test]
fn the_same_model_is_prepared_to_the_same_bytes() {
    let read = |folder: &Path| {
        [GRAPH_FILE, WEIGHTS_FILE, "card.json"]
            .map(|f| fs::read(folder.join("out").join(f)).expect(f))
    };
    let homes = [(), ()].map(|()| tempfile::tempdir().expect("a temporary folder"));
    for home in &homes {
        prepare_in(home.path(), &classifier(), |_| {}).expect("prepared");
    }
    assert_eq!(read(homes[0].path()), read(homes[1].path()));
}

#[test]
fn an_existing_folder_is_replaced_only_when_forced() {
    let home = tempfile::tempdir().expect("a temporary folder");
    prepare_in(home.path(), &classifier(), |_| {}).expect("prepared");
    let error = prepare_in(home.path(), &classifier(), |_| {}).expect_err("it is there already");
    assert!(error.to_string().contains("--force"), "{error}");
    let forced = prepare_in(home.path(), &classifier(), |o| {
        o.title = "new".to_owned();
        o.force = true;
    });
    assert_eq!(forced.expect("prepared").card.title, "new");
    let card = fs::read(home.path().join("out/card.json")).expect("written");
    assert_eq!(Card::parse(&card).expect("a good card").title, "new");
}

#[test]
fn u8_input_is_normalised_in_the_graph() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let normal = |o: &mut skincell_modelkit::PrepareOptions| {
        (o.mean, o.std) = ([10.0, 20.0, 30.0], [50.0, 60.0, 70.0]);
        o.force = true;
    };
    let pixels: Vec<u8> = noise(5, 192).iter().map(|v| (v * 127.0 + 128.0) as u8).collect();
    let photo = Tensor::from_data(&[1, 3, 8, 8], pixels.clone());
    let card = prepare_in(home.path(), &classifier(), normal).expect("prepared").card;
    let value =
        |(i, p): (usize, &u8)| (f32::from(*p) - card.input.mean[i / 64]) / card.input.std[i / 64];
    let normalised = pixels.iter().enumerate().map(value).collect::<Vec<f32>>();
    let normalised = Tensor::from_data(&[1, 3, 8, 8], normalised);
    let floats = load_mapped(&home.path().join("out"));
    let expected = run(&floats, &normalised, "cam");
    let card = prepare_in(home.path(), &classifier(), |o| {
        normal(o);
        o.input = Some(Dtype::U8);
    });
    let input = card.expect("prepared").card.input;
    assert_eq!(
        (input.dtype, input.layout, input.name.as_str()),
        (Dtype::U8, card::Layout::Nchw, "image")
    );
    let bytes = load_mapped(&home.path().join("out"));
    let ids = [bytes.node_id("cam").expect("there")];
    let values = bytes.run(vec![(bytes.input_ids()[0], photo.view().into())], &ids, None);
    let found: Tensor<f32> = values.expect("runs").remove(0).try_into().expect("float32");
    assert_eq!(found, expected);
}

#[test]
fn a_head_without_a_derivative_is_prepared_without_maps() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let mut raw = classifier();
    let graph = raw.graph.as_mut().expect("it has a graph");
    graph.node[4].input[0] = "s".to_owned();
    graph.node.insert(4, node("Sin", &["f"], "s"));
    let card = prepare_in(home.path(), &raw, |_| {}).expect("prepared").card;
    assert_eq!((card.gradcam, card.output.form), (None, Form::Logits));
    let why = card.gradcam_missing.expect("a reason");
    assert!(why.contains("Sin") && why.contains("no rule"), "{why}");
    let prepared = load_mapped(&home.path().join("out"));
    assert!(prepared.node_id("cam").is_err());
}

/// Each map is pooled to its maximum.
#[test]
fn a_max_pooling_head_has_maps() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let mut raw = classifier();
    let graph = raw.graph.as_mut().expect("it has a graph");
    graph.node[2] = node("MaxPool", &["a"], "g");
    graph.node[2].attribute =
        vec![common::ints("kernel_shape", &[8, 8]), common::ints("strides", &[1, 1])];
    let card = prepare_in(home.path(), &raw, |_| {}).expect("prepared").card;
    let map = card.gradcam.expect("a map");
    assert_eq!((map.target, map.layer.as_deref()), (Target::Activation, Some("node_a")));
}

/// All 32 MB of weights are used as pages of the file, without a private copy.
#[test]
fn weights_are_mapped_and_not_copied() {
    let side = 2048_i64;
    let wide = (side * side) as usize;
    let graph = GraphProto {
        node: vec![
            conv(&["image", "first"], "x", 1),
            node("Relu", &["x"], "y"),
            conv(&["y", "wide", "b"], "z", 1),
            node("Relu", &["z"], "a"),
            node("GlobalAveragePool", &["a"], "g"),
            node("Flatten", &["g"], "f"),
            node("Gemm", &["f", "dense", "db"], "hidden"),
            node("Relu", &["hidden"], "h"),
            node("Gemm", &["h", "last"], "scores"),
        ],
        initializer: vec![
            tensor("first", &[side, 3, 1, 1], &noise(1, 3 * side as usize)),
            tensor("wide", &[side, side, 1, 1], &noise(2, wide)),
            tensor("b", &[side], &noise(3, side as usize)),
            tensor("dense", &[side, side], &noise(4, wide)),
            tensor("db", &[side], &noise(5, side as usize)),
            tensor("last", &[side, 5], &noise(6, 5 * side as usize)),
        ],
        input: vec![float_value("image", &[1, 3, 2, 2])],
        output: vec![float_value("scores", &[1, 5])],
        value_info: vec![],
    };
    let home = tempfile::tempdir().expect("a temporary folder");
    let report = prepare_in(home.path(), &model(graph), |_| {}).expect("prepared");
    assert!(report.card.gradcam.is_some(), "{:?}", report.card.gradcam_missing);
    let folder = home.path().join("out");
    let weights = fs::metadata(folder.join(WEIGHTS_FILE)).expect("written").len();
    assert!(weights > 32 << 20 && weights < 33 << 20, "{weights}");
    assert!(report.bytes.0 < 16 << 10, "the graph's file holds weights: {}", report.bytes.0);

    let mapped = load_mapped(&folder);
    let photo = Tensor::from_data(&[1, 3, 2, 2], noise(9, 12));
    run(&mapped, &photo, "cam");
    let (resident, private) = mapping(&folder.join(WEIGHTS_FILE));
    // The first dense layer's weights are read twice, for the scores and for the maps.
    assert!(resident > 30 << 10, "only {resident} kB of the file are in use");
    assert_eq!(private, 0, "kB of the mapping were copied");
}

/// Resident and private dirty kB of this process's mapping of a file.
fn mapping(path: &Path) -> (u64, u64) {
    let path = path.canonicalize().expect("there").display().to_string();
    let maps = fs::read_to_string("/proc/self/smaps").expect("Linux");
    let (mut inside, mut resident, mut private) = (false, 0, 0);
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        if !first.ends_with(':') {
            inside = line.ends_with(&path);
        } else if inside {
            let kb: u64 = words.next().and_then(|w| w.parse().ok()).unwrap_or_default();
            match first {
                "Rss:" => resident += kb,
                "Private_Dirty:" => private += kb,
                _ => {}
            }
        }
    }
    (resident, private)
}

/// Keras exports such inputs for the constants of a Normalization layer.
#[test]
fn unused_inputs_are_dropped() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let mut raw = classifier();
    let graph = raw.graph.as_mut().expect("it has a graph");
    graph.input.push(common::float_value("unread", &[1, 1, 1, 3]));
    let report = prepare_in(home.path(), &raw, |_| {}).expect("prepared");
    assert_eq!(report.card.input.name, "image");
    let prepared = load_mapped(&home.path().join("out"));
    assert_eq!(prepared.input_ids().len(), 1);
}

#[test]
fn weights_are_aligned() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let conv = |o: &mut skincell_modelkit::PrepareOptions| {
        o.target = CamTarget::Only(Target::Conv);
    };
    prepare_in(home.path(), &classifier(), conv).expect("prepared");
    let bytes = fs::read(home.path().join("out").join(GRAPH_FILE)).expect("written");
    let graph =
        rten_onnx::onnx::ModelProto::parse_buf(&bytes).expect("parses").graph.expect("graph");
    let mut outside = 0;
    for tensor in &graph.initializer {
        for entry in tensor.external_data.iter().filter(|e| e.key.as_deref() == Some("offset")) {
            let offset: usize = entry.value.as_deref().expect("a value").parse().expect("a number");
            assert_eq!(offset % ALIGNMENT, 0, "{:?}", tensor.name);
            outside += 1;
        }
    }
    assert_eq!(outside, 4, "w, dense, and b twice: as a list and in the shape of a map");
}
