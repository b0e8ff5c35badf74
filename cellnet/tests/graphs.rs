//! Graphs as exporters write them: the same network exported from PyTorch and from Keras gives the same
//! answers and is fused to the expected number of steps. Unsupported graphs are refused with a reason.
#![allow(clippy::unwrap_used, reason = "a test that cannot pack its graph has failed")]

use std::cell::RefCell;

use cellnet::pack::{Options, pack};
use cellnet::plan::{Activation, Algorithm, Precision, Step};
use cellnet::{Model, PackError, Pool, TensorRef, Workspace};
use half::f16;
use rten_onnx::onnx::{AttributeProto, DataType, ModelProto, NodeProto, TensorProto};

use skincell_onnx::build::value;

mod common;
use common::{declared, declared_bytes, float, int, integers, ints, model, node, tensor, text};

const SIDE: usize = 11;

fn built(graph: &ModelProto) -> Result<Model, PackError> {
    built_with(graph, &Options::default())
}

fn built_with(graph: &ModelProto, options: &Options) -> Result<Model, PackError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    std::fs::write(&path, graph.write_buf().unwrap()).unwrap();
    Ok(Model::from_bytes(&pack(&path, options)?).unwrap())
}

fn answers(model: &Model, input: TensorRef<'_>) -> Vec<(String, Vec<f32>)> {
    let mut workspace = Workspace::new(model);
    let outputs = model.run(&mut workspace, &Pool::new(1), &[("x", input)]).unwrap();
    outputs.into_iter().map(|(name, tensor)| (name, tensor.values)).collect()
}

fn weights() -> Vec<TensorProto> {
    let wave = |scale: f32| move |i: usize| ((i * 37 % 101) as f32 / 50.0 - 1.0) * scale;
    vec![
        tensor("stem", &[16, 3, 3, 3], wave(0.3)),
        tensor("gamma", &[16], |i| 1.0 + i as f32 * 0.01),
        tensor("beta", &[16], wave(0.1)),
        tensor("mean", &[16], wave(0.2)),
        tensor("variance", &[16], |i| 0.5 + i as f32 * 0.05),
        tensor("depthwise", &[16, 1, 3, 3], wave(0.4)),
        tensor("reduce", &[4, 16, 1, 1], wave(0.5)),
        tensor("expand", &[16, 4, 1, 1], wave(0.5)),
        tensor("project", &[16, 16, 1, 1], wave(0.3)),
        tensor("dense", &[5, 16], wave(0.5)),
        integers("spatial", &[2, 3]),
        integers("spatial-last", &[1, 2]),
        integers("flat", &[16, -1]),
        integers("flat-last", &[-1, 16]),
        integers("maps", &[1, 5, 6, 6]),
        integers("row", &[1, -1]),
        integers("pads", &[0, 1, 1, 0, 0, 1, 1, 0]),
        tensor("sixth", &[], |_| 1.0 / 64.0),
        tensor("half", &[3], |i| i as f32 * 0.25),
    ]
}

fn bn(input: &str, output: &str) -> NodeProto {
    node("BatchNormalization", &[input, "gamma", "beta", "mean", "variance"], output, vec![])
}

/// A block with squeeze-and-excite, a dense layer, and Grad-CAM's product, as PyTorch's exporter writes it.
fn channels_first() -> ModelProto {
    let padded = || ints("pads", &[1, 1, 1, 1]);
    let nodes = vec![
        node("Conv", &["x", "stem"], "a", vec![padded(), ints("strides", &[2, 2])]),
        bn("a", "b"),
        node("Sigmoid", &["b"], "s", vec![]),
        node("Mul", &["b", "s"], "c", vec![]),
        node("Conv", &["c", "depthwise"], "d", vec![padded(), int("group", 16)]),
        node("HardSwish", &["d"], "e", vec![]),
        node("ReduceMean", &["e", "spatial"], "m", vec![int("keepdims", 1)]),
        node("Conv", &["m", "reduce"], "r", vec![]),
        node("Relu", &["r"], "r2", vec![]),
        node("Conv", &["r2", "expand"], "g", vec![]),
        node("Sigmoid", &["g"], "g2", vec![]),
        node("Mul", &["e", "g2"], "h", vec![]),
        node("Conv", &["h", "project"], "p", vec![]),
        node("Add", &["p", "c"], "q", vec![]),
        node("GlobalAveragePool", &["q"], "t", vec![]),
        node("Flatten", &["t"], "u", vec![]),
        node("Gemm", &["u", "dense"], "y", vec![int("transB", 1)]),
        node("Reshape", &["q", "flat"], "v", vec![]),
        node("Gemm", &["dense", "v"], "w", vec![]),
        node("Reshape", &["w", "maps"], "cam", vec![]),
    ];
    let side = SIDE as i64;
    model(nodes, weights(), vec![declared("x", &[1, 3, side, side])], &["y", "cam"])
}

/// The same network as tf2onnx writes it, with byte input and preprocessing in the graph.
fn channels_last() -> ModelProto {
    let first = || vec![ints("perm", &[0, 3, 1, 2])];
    let last = || vec![ints("perm", &[0, 2, 3, 1])];
    let nodes = vec![
        node("Cast", &["x"], "x0", vec![int("to", 1)]),
        node("Mul", &["x0", "sixth"], "x1", vec![]),
        node("Sub", &["x1", "half"], "x2", vec![]),
        node("Pad", &["x2", "pads"], "x3", vec![]),
        node("Transpose", &["x3"], "x4", first()),
        node(
            "Conv",
            &["x4", "stem"],
            "a",
            vec![ints("strides", &[2, 2]), text("auto_pad", "VALID")],
        ),
        bn("a", "b0"),
        node("Transpose", &["b0"], "b", last()),
        node("Sigmoid", &["b"], "s", vec![]),
        node("Mul", &["s", "b"], "c", vec![]),
        node("Transpose", &["c"], "c1", first()),
        node(
            "Conv",
            &["c1", "depthwise"],
            "d0",
            vec![text("auto_pad", "SAME_UPPER"), int("group", 16)],
        ),
        node("Transpose", &["d0"], "d", last()),
        node("HardSwish", &["d"], "e", vec![]),
        node("ReduceMean", &["e", "spatial-last"], "m", vec![int("keepdims", 1)]),
        node("Transpose", &["m"], "m1", first()),
        node("Conv", &["m1", "reduce"], "r", vec![]),
        node("Relu", &["r"], "r2", vec![]),
        node("Conv", &["r2", "expand"], "g", vec![]),
        node("Sigmoid", &["g"], "g1", vec![]),
        node("Transpose", &["g1"], "g2", last()),
        node("Mul", &["e", "g2"], "h", vec![]),
        node("Transpose", &["h"], "h1", first()),
        node("Conv", &["h1", "project"], "p0", vec![]),
        node("Transpose", &["p0"], "p", last()),
        node("Add", &["p", "c"], "q", vec![]),
        node("ReduceMean", &["q", "spatial-last"], "t", vec![int("keepdims", 0)]),
        node("Reshape", &["t", "row"], "u", vec![]),
        node("Gemm", &["u", "dense"], "y", vec![int("transB", 1)]),
        node("Reshape", &["q", "flat-last"], "v", vec![]),
        node("Gemm", &["dense", "v"], "w", vec![int("transB", 1)]),
        node("Reshape", &["w", "maps"], "cam", vec![]),
    ];
    let side = SIDE as i64;
    model(nodes, weights(), vec![declared_bytes("x", &[1, side, side, 3])], &["y", "cam"])
}

#[test]
fn both_layouts_give_the_same_answers_from_bytes_and_from_floats() {
    let bytes: Vec<u8> = (0..SIDE * SIDE * 3).map(|i| (i * 31 % 251) as u8).collect();
    let mut floats = vec![0.0f32; bytes.len()];
    for (i, byte) in bytes.iter().enumerate() {
        let (pixel, c) = (i / 3, i % 3);
        floats[c * SIDE * SIDE + pixel] = f32::from(*byte) / 64.0 - c as f32 * 0.25;
    }
    let first = answers(&built(&channels_first()).unwrap(), TensorRef::F32(&floats));
    let last = answers(&built(&channels_last()).unwrap(), TensorRef::U8(&bytes));
    assert_eq!(first.len(), 2);
    for ((name, a), (other, b)) in first.iter().zip(&last) {
        assert_eq!((name, a.len()), (other, b.len()));
        let largest = a.iter().fold(0.0f32, |m, v| v.abs().max(m));
        assert!(largest > 0.01, "{name} is not zero");
        for (a, b) in a.iter().zip(b) {
            assert!((a - b).abs() <= 2e-6 * largest, "{name}: {a} and {b}");
        }
    }
}

#[test]
fn a_block_is_fused_to_the_fewest_steps() {
    for graph in [channels_first(), channels_last()] {
        let model = built(&graph).unwrap();
        let steps = &model.plan().steps;
        let convs: Vec<_> = steps
            .iter()
            .filter_map(|s| if let Step::Conv(c) = s { Some(c) } else { None })
            .collect();
        // Stem, reduce, expand, project, dense, cam.
        assert_eq!(convs.len(), 6, "{steps:#?}");
        assert_eq!(convs[0].activation, Activation::Silu);
        assert_eq!(convs[2].activation, Activation::Sigmoid);
        assert!(convs[3].residual.is_some());
        let depthwise =
            steps.iter().find_map(|s| if let Step::Depthwise(d) = s { Some(d) } else { None });
        let depthwise = depthwise.unwrap();
        assert_eq!(depthwise.activation, Activation::HardSwish);
        assert!(depthwise.means.is_some());
        // The other three: the depthwise convolution, the squeeze's product in place, and the last mean.
        assert_eq!(steps.len(), 9, "{steps:#?}");
        // The dense layer's weights are stored once, though two steps use them.
        assert_eq!(convs[4].weights, convs[5].weights);
    }
}

/// The convolution was dropped, because nothing but the mean that was merged into it read its map.
#[test]
fn a_mean_may_be_the_only_reader_of_a_depthwise_map() {
    let kernel = |i: usize| (i * 37 % 101) as f32 / 50.0 - 1.0;
    let dense = |i: usize| (i * 23 % 89) as f32 / 44.0 - 1.0;
    let nodes = vec![
        node("Conv", &["x", "depthwise"], "d", vec![int("group", 3)]),
        node("GlobalAveragePool", &["d"], "t", vec![]),
        node("Flatten", &["t"], "u", vec![]),
        node("Gemm", &["u", "dense"], "y", vec![int("transB", 1)]),
    ];
    let constants =
        vec![tensor("depthwise", &[3, 1, 3, 3], kernel), tensor("dense", &[5, 3], dense)];
    let side = SIDE as i64;
    let graph = model(nodes, constants, vec![declared("x", &[1, 3, side, side])], &["y"]);
    let photo: Vec<f32> = (0..3 * SIDE * SIDE).map(|i| (i * 31 % 251) as f32 / 100.0).collect();
    let answer = answers(&built(&graph).unwrap(), TensorRef::F32(&photo));
    let inner = SIDE - 2;
    let mean = |c: usize| {
        let mut sum = 0.0;
        for (y, x, k) in (0..inner * inner * 9).map(|i| (i / 9 / inner, i / 9 % inner, i % 9)) {
            let pixel = photo[c * SIDE * SIDE + (y + k / 3) * SIDE + x + k % 3];
            sum += f64::from(kernel(c * 9 + k)) * f64::from(pixel);
        }
        sum / (inner * inner) as f64
    };
    for (row, found) in answer[0].1.iter().enumerate() {
        let expected: f64 = (0..3).map(|c| f64::from(dense(row * 3 + c)) * mean(c)).sum();
        assert!((f64::from(*found) - expected).abs() < 1e-5, "{row}: {found}, not {expected}");
    }
}

#[test]
fn unsupported_nodes_are_named_with_the_reason() {
    let side = SIDE as i64;
    let cases = [
        (node("Conv", &["x", "stem"], "y", vec![ints("dilations", &[2, 2])]), "Conv", "dilations"),
        (node("ReduceMax", &["x", "one"], "y", vec![]), "ReduceMax", "not all pixels"),
        (node("Reshape", &["x", "mixed"], "y", vec![]), "Reshape", "mix channels"),
        (node("Resize", &["x"], "y", vec![]), "Resize", "does not support"),
        (node("Softmax", &["x"], "y", vec![int("axis", 2)]), "Softmax", "channels"),
        (node("Cast", &["x"], "y", vec![int("to", 7)]), "Cast", "rounds to integers"),
        (node("Relu", &["gone"], "y", vec![]), "Relu", "gone"),
    ];
    for (node, wanted, part) in cases {
        let mut constants = weights();
        constants.push(integers("one", &[1]));
        constants.push(integers("mixed", &[1, side, 3 * side]));
        let graph = model(vec![node], constants, vec![declared("x", &[1, 3, side, side])], &["y"]);
        let error = built(&graph).unwrap_err();
        let PackError::Operator { op, node, reason } = error else { panic!("{error}") };
        assert_eq!((op.as_str(), node.as_str()), (wanted, "node_y"));
        assert!(reason.contains(part), "{wanted}: {reason}");
    }
}

#[test]
fn axes_are_named_in_words() {
    let transposed =
        |from, perm: &[i64], to| node("Transpose", &[from], to, vec![ints("perm", perm)]);
    let reshaped = |from, shape, to| node("Reshape", &[from, shape], to, vec![]);
    let cases = [
        (vec![transposed("x", &[0, 2, 3, 1], "t")], "[1, height, width, channels]"),
        (vec![reshaped("x", "merged", "t")], "[1, channels, pixels]"),
        (
            vec![reshaped("x", "halves", "t")],
            "[2 of the channels, 2 of the channels, height, width]",
        ),
        // As Swin divides a map into windows.
        (
            vec![
                transposed("x", &[0, 2, 3, 1], "last"),
                reshaped("last", "divided", "parts"),
                transposed("parts", &[0, 1, 3, 2, 4, 5], "beside"),
                reshaped("beside", "windows", "t"),
            ],
            "[2 of the pixels × 2 of the pixels, 4 of the pixels × 4 of the pixels, channels]",
        ),
    ];
    for (mut nodes, words) in cases {
        nodes.push(node("Conv", &["t", "stem"], "y", vec![]));
        let mut constants = weights();
        constants.push(integers("merged", &[1, 4, 64]));
        constants.push(integers("halves", &[2, 2, 8, 8]));
        constants.push(integers("divided", &[1, 2, 4, 2, 4, 4]));
        constants.push(integers("windows", &[4, 16, 4]));
        let input = vec![declared("x", &[1, 4, 8, 8])];
        let error = built(&model(nodes, constants, input, &["y"])).unwrap_err();
        assert!(error.to_string().contains(words), "{words}: {error}");
    }
}

/// 128 × 128 weights in half precision, from float32 to half and back, with the casts that converters append
/// at the end of the file if inputs and outputs stay in float32.
fn in_half_precision(casts: bool) -> ModelProto {
    let side = SIDE as i64;
    let wave = |i: usize| ((i * 37 % 101) as f32 / 50.0 - 1.0) * 0.1;
    let half = |name: &str, dims: &[i64]| {
        let count = dims.iter().product::<i64>() as usize;
        let bytes = (0..count).flat_map(|i| f16::from_f32(wave(i)).to_le_bytes()).collect();
        let raw_data = Some(RefCell::new(bytes));
        TensorProto { data_type: Some(DataType::FLOAT16), raw_data, ..tensor(name, dims, |_| 0.0) }
    };
    let (first, last) = if casts { ("inner", "result") } else { ("x", "y") };
    let mut nodes = vec![
        node("Conv", &[first, "widen"], "wide", vec![]),
        node("Relu", &["wide"], "positive", vec![]),
        node("Conv", &["positive", "mix"], "mixed", vec![]),
        node("GlobalAveragePool", &["mixed"], last, vec![]),
    ];
    if casts {
        nodes.push(node("Cast", &["x"], "inner", vec![int("to", 10)]));
        nodes.push(node("Cast", &["result"], "y", vec![int("to", 1)]));
    }
    let weights = vec![half("widen", &[128, 3, 1, 1]), half("mix", &[128, 128, 1, 1])];
    let dtype = if casts { DataType::FLOAT } else { DataType::FLOAT16 };
    model(nodes, weights, vec![value("x", dtype, &[1, 3, side, side])], &["y"])
}

#[test]
fn half_precision_keeps_its_bits_and_is_computed_in_float32() {
    let floats: Vec<f32> = (0..SIDE * SIDE * 3).map(|i| (i * 31 % 251) as f32 / 251.0).collect();
    let wave = |i: usize| f64::from(f16::from_f32(((i * 37 % 101) as f32 / 50.0 - 1.0) * 0.1));
    let mut wanted = vec![0.0f64; 128];
    for pixel in 0..SIDE * SIDE {
        let wide = |o: usize| {
            let sum = (0..3).map(|i| f64::from(floats[i * SIDE * SIDE + pixel]) * wave(o * 3 + i));
            sum.sum::<f64>().max(0.0)
        };
        let wide: Vec<f64> = (0..128).map(wide).collect();
        for (o, mean) in wanted.iter_mut().enumerate() {
            let sum = wide.iter().enumerate().map(|(i, x)| x * wave(o * 128 + i));
            *mean += sum.sum::<f64>() / (SIDE * SIDE) as f64;
        }
    }
    let largest = wanted.iter().fold(0.0f64, |m, v| v.abs().max(m));
    for casts in [false, true] {
        let model = built(&in_half_precision(casts)).unwrap();
        assert_eq!(model.plan().precision(), Precision::Half);
        let found = answers(&model, TensorRef::F32(&floats));
        for (found, wanted) in found[0].1.iter().zip(&wanted) {
            // An eighth of what rounding to half precision itself does.
            assert!((f64::from(*found) - wanted).abs() < largest * 6e-5, "{found} and {wanted}");
        }
    }
}

#[test]
fn fast_algorithms_get_the_room_that_is_allowed_where_it_saves_most() {
    let wave = |i: usize| ((i * 37 % 101) as f32 / 50.0 - 1.0) * 0.05;
    // The first convolution has four times the pixels of the second.
    let padded = || ints("pads", &[1, 1, 1, 1]);
    let pool = vec![ints("kernel_shape", &[2, 2]), ints("strides", &[2, 2])];
    let nodes = vec![
        node("Conv", &["x", "many"], "a", vec![padded()]),
        node("MaxPool", &["a"], "b", pool),
        node("Conv", &["b", "few"], "c", vec![padded()]),
        node("GlobalAveragePool", &["c"], "y", vec![]),
    ];
    let dims = [64, 64, 3, 3];
    let weights = vec![tensor("many", &dims, wave), tensor("few", &dims, |i| wave(i + 50))];
    let raw = 2.0 * dims.iter().product::<i64>() as f64 * 4.0;
    let graph = model(nodes, weights, vec![declared("x", &[1, 64, 48, 48])], &["y"]);
    let algorithms = |max_size: f64| {
        let model = built_with(&graph, &Options { max_size, ..Options::default() }).unwrap();
        let size = model.weights_bytes() as f64;
        // Biases and alignment are not the weights' fault.
        assert!(size <= max_size * raw + 1024.0, "{size} bytes of {raw} for {max_size}");
        let steps = model.plan().steps.iter();
        let found =
            steps.filter_map(|s| if let Step::Conv(c) = s { Some(c.algorithm) } else { None });
        found.collect::<Vec<_>>()
    };
    use Algorithm::{Direct, Winograd2, Winograd4};
    assert_eq!(algorithms(1.0), [Direct, Direct]);
    // Room for one of 16 positions instead of 9, for both, and for all of 36.
    assert_eq!(algorithms(1.45), [Winograd2, Direct]);
    assert_eq!(algorithms(1.8), [Winograd2, Winograd2]);
    assert_eq!(algorithms(4.1), [Winograd4, Winograd4]);
}

/// The mean of each channel of `x`, [1, 3, 1, 1], times numbers of the shape `by`.
fn repeated(by: &[i64]) -> Result<Model, PackError> {
    let nodes = vec![
        node("ReduceMean", &["x", "spatial"], "m", vec![int("keepdims", 1)]),
        node("Mul", &["m", "numbers"], "p", vec![]),
        node("Reshape", &["p", "rows"], "y", vec![]),
    ];
    let held = vec![
        integers("spatial", &[2, 3]),
        tensor("numbers", by, |i| i as f32 + 1.0),
        integers("rows", &[2, 3]),
    ];
    built(&model(nodes, held, vec![declared("x", &[1, 3, 2, 2])], &["y"]))
}

#[test]
fn numbers_repeated_along_two_axes_are_refused_and_along_one_are_not() {
    let packed = repeated(&[2, 1, 3, 1, 1]).unwrap();
    let photo: Vec<f32> = (0..12).map(|i| (i / 4) as f32 + 1.0).collect();
    let found = answers(&packed, TensorRef::F32(&photo));
    assert_eq!(found[0].1, [1.0, 4.0, 9.0, 4.0, 10.0, 18.0]);
    let refused = repeated(&[2, 5, 3, 1, 1]).unwrap_err();
    assert!(refused.to_string().contains("against a constant"), "{refused}");
}

#[test]
fn rectifiers_with_a_slope_below_zero_are_packed() {
    let below = |op: &str, more: &[&str], attribute: Vec<AttributeProto>| {
        let inputs = [&["x"], more].concat();
        let held = vec![tensor("slopes", &[3, 1, 1], |i| i as f32 + 2.0)];
        let nodes = vec![node(op, &inputs, "y", attribute)];
        let graph = model(nodes, held, vec![declared("x", &[1, 3, 2, 2])], &["y"]);
        let photo: Vec<f32> = (0..12).map(|i| (i % 4) as f32 - 2.0).collect();
        answers(&built(&graph).unwrap(), TensorRef::F32(&photo))[0].1.clone()
    };
    let each = |low: [f32; 2]| [low[0], low[1], 0.0, 1.0].repeat(3);
    assert_eq!(below("LeakyRelu", &[], vec![float("alpha", 0.25)]), each([-0.5, -0.25]));
    assert_eq!(below("LeakyRelu", &[], vec![]), each([-0.02, -0.01]));
    let found = below("PRelu", &["slopes"], vec![]);
    assert_eq!(found, [-4.0, -2.0, 0.0, 1.0, -6.0, -3.0, 0.0, 1.0, -8.0, -4.0, 0.0, 1.0]);
    let curve = |alpha: f32, scale: f32| move |x: f32| scale * alpha * (x.exp() - 1.0);
    let close = |found: Vec<f32>, low: &dyn Fn(f32) -> f32, high: f32| {
        for (found, want) in found.iter().zip([low(-2.0), low(-1.0), 0.0, high].repeat(3)) {
            assert!((found - want).abs() < 1e-6, "{found} instead of {want}");
        }
    };
    close(below("Elu", &[], vec![float("alpha", 0.5)]), &curve(0.5, 1.0), 1.0);
    close(below("Selu", &[], vec![]), &curve(1.673_263_2, 1.050_701), 1.050_701);
}

#[test]
fn shuffled_channels_are_packed_whole_and_in_parts() {
    let slice = |from: &str, to: &str, output: &str| {
        node("Slice", &["s", from, to, "channel"], output, vec![])
    };
    // Two groups of three channels, one of each in turn: 0, 3, 1, 4, 2, 5.
    let nodes = vec![
        node("Conv", &["x", "six-maps"], "c", vec![]),
        node("Reshape", &["c", "groups"], "g", vec![]),
        node("Transpose", &["g"], "t", vec![ints("perm", &[0, 2, 1, 3, 4])]),
        node("Reshape", &["t", "joined"], "s", vec![]),
        slice("zero", "two", "a"),
        slice("two", "six", "b"),
        node("Relu", &["a"], "first", vec![]),
        node("Relu", &["b"], "last", vec![]),
        node("Relu", &["s"], "all", vec![]),
    ];
    // The photo's channels, and the same ten times.
    let weight = |i: usize| if i % 3 == i / 3 % 3 { [1.0, 10.0][i / 9] } else { 0.0 };
    let held = vec![
        tensor("six-maps", &[6, 3, 1, 1], weight),
        integers("groups", &[1, 2, 3, 2, 2]),
        integers("joined", &[1, 6, 2, 2]),
        integers("channel", &[1]),
        integers("zero", &[0]),
        integers("two", &[2]),
        integers("six", &[6]),
    ];
    let graph = model(nodes, held, vec![declared("x", &[1, 3, 2, 2])], &["first", "last", "all"]);
    let photo: Vec<f32> = (0..12).map(|i| i as f32).collect();
    let found = answers(&built(&graph).unwrap(), TensorRef::F32(&photo));
    let channel = |at: usize, pixel: usize| photo[at % 3 * 4 + pixel] * [1.0, 10.0][at / 3];
    let channels = |all: &[usize]| -> Vec<f32> {
        all.iter().flat_map(|at| [0, 1, 2, 3].map(|pixel| channel(*at, pixel))).collect()
    };
    assert_eq!(found[0].1, channels(&[0, 3]));
    assert_eq!(found[1].1, channels(&[1, 4, 2, 5]));
    assert_eq!(found[2].1, channels(&[0, 3, 1, 4, 2, 5]));
}
