//! Graphs with functions of their own, branches, loops and fused operators are prepared so that every engine
//! has ONNX Runtime's probabilities.
//!
//! `tests/reference/structures.py` made the fixtures.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use std::fs;
use std::path::Path;

use common::expected::{largest, reference};
use common::{CHANNELS, node, tensor};
use rten_onnx::onnx::{DataType, ModelProto, NodeProto, TensorProto};
use skincell_engines::{Cellnet, Engine, Rten};
use skincell_modelkit::pack::{PackOptions, pack};
use skincell_modelkit::served::Served;
use skincell_modelkit::{Report, parse_labels, prepare};
use skincell_onnx::build::int_attribute;
use skincell_vision::rank::probabilities;
use skincell_vision::tensor::PhotoTensor;

/// Largest difference of a probability.
const TOLERANCE: f32 = 1e-4;
/// The same of integers: a value between two of them may become either.
const TOLERANCE_OF_INTEGERS: f32 = 0.01;
/// Each fixture, whether cellnet takes it, and whether it has a heatmap.
const FIXTURES: [(&str, bool, bool); 11] = [
    ("dynamic_tokens", true, true),
    ("functions", true, true),
    ("if_on_constant", true, true),
    ("if_on_shape", true, true),
    ("if_on_photo", false, true),
    ("loop", false, true),
    ("masked", true, true),
    ("qoperator", true, true),
    ("qoperator_channels", true, true),
    ("qoperator_channels_11", true, true),
    ("skip_layer_norm", true, true),
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
                let integers = name.starts_with("qoperator") || name == "dynamic_tokens";
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

/// [`common::classifier`], whose mean is added to itself rounded to integers, and their values by `values`,
/// nodes from "integers" to "values".
fn rounded_mean(values: Vec<NodeProto>) -> ModelProto {
    let mut model = common::classifier();
    let graph = model.graph.as_mut().expect("a graph");
    let at = graph.node.iter().position(|node| node.output == ["f"]).expect("the Flatten");
    graph.node[at].input = vec!["sum".to_owned()];
    let before = vec![node("QuantizeLinear", &["g", "scale", "zero"], "integers")];
    // Channels weigh differently, so that a factor of the rounding alone would show.
    let sum = [node("Mul", &["values", "each"], "weighed"), node("Add", &["g", "weighed"], "sum")];
    graph.node.splice(at..at, before.into_iter().chain(values).chain(sum));
    let zero = TensorProto {
        name: Some("zero".to_owned()),
        data_type: Some(DataType::UINT8),
        raw_data: Some(vec![100].into()),
        ..TensorProto::default()
    };
    graph.initializer.extend([
        tensor("scale", &[], &[0.01]),
        zero,
        tensor("zero_point", &[], &[100.0]),
        tensor("each", &[1, CHANNELS as i64, 1, 1], &common::noise(9, CHANNELS)),
    ]);
    model
}

#[test]
fn integers_read_without_dequantize_linear_have_the_same_heatmap() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let mut cast = node("Cast", &["integers"], "cast");
    cast.attribute = vec![int_attribute("to", i64::from(DataType::FLOAT.0))];
    let by_hand = vec![
        cast,
        node("Sub", &["cast", "zero_point"], "centred"),
        node("Mul", &["centred", "scale"], "values"),
    ];
    let by_operator = vec![node("DequantizeLinear", &["integers", "scale", "zero"], "values")];
    let maps = [by_operator, by_hand].map(|values| {
        let report =
            common::prepare_in(home.path(), &rounded_mean(values), |options| options.force = true)
                .expect("prepared");
        assert!(report.card.gradcam.is_some(), "{:?}", report.card.gradcam_missing);
        let served = Served::open(&home.path().join("out"), &Rten::new(1)).expect("loads");
        let input = &report.card.input;
        let pixels = common::noise(7, 3 * 8 * 8);
        let photo = PhotoTensor {
            dimensions: vec![1, 3, 8, 8],
            dtype: input.dtype,
            data: pixels.iter().flat_map(|value| value.to_le_bytes()).collect(),
        };
        served.run(&photo).expect("runs").cam.expect("maps").maps
    });
    let off = largest(&of_largest(&maps[0]), &of_largest(&maps[1]));
    assert!(off <= TOLERANCE_OF_MAPS, "{off:.1e}");
}

/// [`common::classifier`] as ONNX Runtime's `quantize_dynamic` writes it, and with the same weights in
/// float32. The bytes of the dense layer's weights need 7 bits, those of the convolution 8.
fn dynamically_quantized() -> [ModelProto; 2] {
    let [mut whole, mut values] =
        [common::classifier(), common::classifier()].map(|m| m.graph.unwrap());
    let (conv, dense) = (whole.node[0].clone(), whole.node[4].clone());
    let (channels, classes) = (CHANNELS as i64, common::CLASSES as i64);
    let layers = [
        ("w", vec![channels, 3, 3, 3], 127.0, 0.004),
        ("dense", vec![channels, classes], 60.0, 0.011),
    ];
    for (name, dims, most, scale) in layers {
        let count = dims.iter().product::<i64>() as usize;
        let steps: Vec<f32> = common::noise(11, count).iter().map(|v| (v * most).round()).collect();
        let raw: Vec<u8> = steps.iter().map(|step| (step + 128.0) as u8).collect();
        let of_bytes = |name: &str, dims: Vec<i64>, raw: Vec<u8>| TensorProto {
            name: Some(name.to_owned()),
            data_type: Some(DataType::UINT8),
            dims,
            raw_data: Some(raw.into()),
            ..TensorProto::default()
        };
        whole.initializer.push(of_bytes(&format!("{name} bytes"), dims.clone(), raw));
        whole.initializer.push(of_bytes(&format!("{name} zero"), vec![], vec![128]));
        whole.initializer.push(tensor(&format!("{name} scale"), &[], &[scale]));
        let exact: Vec<f32> = steps.iter().map(|step| step * scale).collect();
        values.initializer.retain(|held| held.name.as_deref() != Some(name));
        values.initializer.push(tensor(name, &dims, &exact));
    }
    whole.initializer.push(tensor("b map", &[1, channels, 1, 1], &common::noise(2, CHANNELS)));
    let layer = |x: &str, w: &str, operator: &str, bias: &str, y: &str| {
        let own = |part: &str| format!("{w} {part}");
        let mut rounded = node("DynamicQuantizeLinear", &[x], &own("q"));
        rounded.output.extend([own("s"), own("z")]);
        let inputs = [own("q"), own("bytes"), own("z"), own("zero")];
        let mut sums = node(operator, &inputs.each_ref().map(String::as_str), &own("sums"));
        if operator == "ConvInteger" {
            sums.attribute = conv.attribute.clone();
        }
        let mut floats = node("Cast", &[&own("sums")], &own("floats"));
        floats.attribute = vec![int_attribute("to", i64::from(DataType::FLOAT.0))];
        let scale = node("Mul", &[&own("s"), &own("scale")], &own("by"));
        let scaled = node("Mul", &[&own("floats"), &own("by")], &own("scaled"));
        [rounded, sums, floats, scale, scaled, node("Add", &[&own("scaled"), bias], y)]
    };
    let head = layer("f", "dense", "MatMulInteger", &dense.input[2], "scores");
    whole.node.splice(4.., head);
    whole.node.splice(..1, layer("image", "w", "ConvInteger", "b map", &conv.output[0]));
    [whole, values].map(common::model)
}

#[test]
fn heatmaps_of_dynamically_quantized_models_are_those_of_their_values() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let out = home.path().join("out");
    // Multiples of a 255th, from 0 to 1: the convolution's bytes are the photo.
    let mut steps: Vec<f32> =
        common::noise(8, 3 * 8 * 8).iter().map(|value| ((value + 1.0) * 127.0).floor()).collect();
    (steps[0], steps[1]) = (0.0, 255.0);
    let data: Vec<u8> = steps.iter().flat_map(|step| (step / 255.0).to_le_bytes()).collect();
    let maps = dynamically_quantized().map(|model| {
        let report = common::prepare_in(home.path(), &model, |options| options.force = true);
        let report = report.expect("prepared");
        let gradcam = report.card.gradcam.clone();
        assert!(gradcam.is_some(), "{:?}", report.card.gradcam_missing);
        pack(&out, &PackOptions::default()).expect("cellnet takes it");
        let mut engines: Vec<Box<dyn Engine>> =
            vec![Box::new(Rten::new(1)), Box::new(Cellnet::new(1))];
        engines.extend(common::onnx_runtime());
        let maps = engines.iter().map(|engine| {
            let served = Served::open(&out, engine.as_ref()).expect("loads");
            let dtype = report.card.input.dtype;
            let photo = PhotoTensor { dimensions: vec![1, 3, 8, 8], dtype, data: data.clone() };
            served.run(&photo).expect("runs").cam.expect("maps").maps
        });
        (gradcam.map(|cam| cam.target), maps.collect::<Vec<_>>())
    });
    let [(target, maps), (expected_target, expected)] = maps;
    assert_eq!(target, expected_target);
    for found in &maps {
        let off = largest(&of_largest(found), &of_largest(&expected[0]));
        assert!(off <= TOLERANCE_OF_MAPS, "{off:.1e}");
    }
}
