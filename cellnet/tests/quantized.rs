//! Quantized graphs, as ONNX Runtime's tools and `skincell model quantize` write them, against the integer
//! arithmetic of their definition.
#![allow(clippy::unwrap_used, reason = "a test that cannot pack its graph has failed")]

use cellnet::pack::{Options, pack};
use cellnet::{Model, PackError, Pool, TensorRef, Workspace};
use rten_onnx::onnx::{DataType, ModelProto, NodeProto, TensorProto};

mod common;
use common::{bytes, declared, float, int, ints, model, node, tensor};

const SIDE: usize = 9;
const INPUTS: usize = 3;
const OUTPUTS: usize = 10;
const SCALE: f32 = 0.0131;
const ZERO: u8 = 117;

/// The weight of an output at an index of its kernel, -90 to 90.
fn weight(output: usize, index: usize) -> i8 {
    ((output * 31 + index * 57) % 181).cast_signed().wrapping_sub(90) as i8
}

fn weight_scale(output: usize) -> f32 {
    0.002 + output as f32 * 0.0003
}

fn bias(output: usize) -> i32 {
    output as i32 * 700 - 3000
}

fn constants() -> Vec<TensorProto> {
    let each = INPUTS * 9;
    let weights = || (0..OUTPUTS * each).map(|i| weight(i / each, i % each));
    let dims = [OUTPUTS, INPUTS, 3, 3];
    let biases = (0..OUTPUTS).flat_map(|o| bias(o).to_le_bytes()).collect();
    vec![
        tensor("scale", &[], |_| SCALE),
        tensor("other", &[], |_| SCALE * 2.0),
        tensor("scales", &[OUTPUTS as i64], weight_scale),
        tensor("bias scales", &[OUTPUTS as i64], |o| weight_scale(o) * SCALE),
        tensor("result scales", &[1, OUTPUTS as i64, 1, 1], |o| weight_scale(o) * SCALE),
        tensor("weight scales", &[1, OUTPUTS as i64, 1, 1], weight_scale),
        tensor("whole", &[OUTPUTS as i64, INPUTS as i64, 3, 3], |i| {
            f32::from(weight(i / each, i % each))
        }),
        bytes("zero", DataType::UINT8, &[], vec![ZERO]),
        bytes("i8", DataType::INT8, &dims, weights().map(|w| w as u8).collect()),
        bytes(
            "u8",
            DataType::UINT8,
            &dims,
            weights().map(|w| (i16::from(w) + 100) as u8).collect(),
        ),
        bytes("100", DataType::UINT8, &[], vec![100]),
        bytes("biases", DataType::INT32, &[OUTPUTS], biases),
    ]
}

fn graph(nodes: Vec<NodeProto>) -> ModelProto {
    let side = SIDE as i64;
    model(nodes, constants(), vec![declared("x", &[1, INPUTS as i64, side, side])], &["y"])
}

fn quantize() -> NodeProto {
    node("QuantizeLinear", &["x", "scale", "zero"], "q", vec![])
}

fn padded() -> Vec<rten_onnx::onnx::AttributeProto> {
    vec![ints("pads", &[1, 1, 1, 1])]
}

fn packed(graph: &ModelProto) -> Result<Model, PackError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    std::fs::write(&path, graph.write_buf().unwrap()).unwrap();
    Ok(Model::from_bytes(&pack(&path, &Options::default())?).unwrap())
}

fn input() -> Vec<f32> {
    (0..INPUTS * SIDE * SIDE).map(|i| (i * 97 % 401) as f32 * 0.01 - 1.9).collect()
}

/// The result by integer sums; zeros of the padding are the zero point.
fn expected(with_bias: bool) -> Vec<f64> {
    expected_with(SCALE, ZERO, with_bias)
}

/// The same with the input's scale and zero point.
fn expected_with(scale: f32, zero: u8, with_bias: bool) -> Vec<f64> {
    let steps = |x: f32| {
        let byte = ((x / scale).round_ties_even() + f32::from(zero)).clamp(0.0, 255.0);
        byte as i64 - i64::from(zero)
    };
    let integers: Vec<i64> = input().into_iter().map(steps).collect();
    let at = |channel: usize, y: usize, x: usize| {
        let inside = (1..=SIDE).contains(&y) && (1..=SIDE).contains(&x);
        if inside { integers[(channel * SIDE + y - 1) * SIDE + x - 1] } else { 0 }
    };
    let mut results = Vec::new();
    for output in 0..OUTPUTS {
        for (y, x) in (0..SIDE).flat_map(|y| (0..SIDE).map(move |x| (y, x))) {
            let mut sum = if with_bias { i64::from(bias(output)) } else { 0 };
            for index in 0..INPUTS * 9 {
                let pixel = at(index / 9, y + index / 3 % 3, x + index % 3);
                sum += pixel * i64::from(weight(output, index));
            }
            results.push(sum as f64 * f64::from(scale) * f64::from(weight_scale(output)));
        }
    }
    results
}

fn assert_close(graph: &ModelProto, expected: &[f64]) {
    let model = packed(graph).unwrap();
    let input = input();
    let inputs = [("x", TensorRef::F32(&input))];
    let outputs = model.run(&mut Workspace::new(&model), &Pool::new(1), &inputs).unwrap();
    assert_near(&outputs[0].1.values, expected);
}

fn assert_near(values: &[f32], expected: &[f64]) {
    let largest = expected.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    assert_eq!(values.len(), expected.len());
    for (got, want) in values.iter().zip(expected) {
        let error = (f64::from(*got) - want).abs();
        assert!(error <= 1e-6 * largest, "{got}, not {want}");
    }
}

#[test]
fn quantized_and_dequantized_maps_weights_and_biases() {
    let nodes = vec![
        quantize(),
        node("DequantizeLinear", &["q", "scale", "zero"], "a", vec![]),
        node("DequantizeLinear", &["i8", "scales"], "w", vec![int("axis", 0)]),
        node("DequantizeLinear", &["biases", "bias scales"], "b", vec![int("axis", 0)]),
        node("Conv", &["a", "w", "b"], "y", padded()),
    ];
    assert_close(&graph(nodes), &expected(true));
}

#[test]
fn convolutions_of_integers() {
    let nodes = vec![
        quantize(),
        node("ConvInteger", &["q", "u8", "zero", "100"], "sums", padded()),
        node("Cast", &["sums"], "floats", vec![int("to", 1)]),
        node("Mul", &["floats", "result scales"], "y", vec![]),
    ];
    assert_close(&graph(nodes), &expected(false));
}

fn quantize_dynamically() -> NodeProto {
    let mut node = node("DynamicQuantizeLinear", &["x"], "q", vec![]);
    node.output.extend(["s".to_owned(), "z".to_owned()]);
    node
}

/// The integers less their zero point, in float32.
fn centred() -> Vec<NodeProto> {
    let to_float = |from: &str, to: &str| node("Cast", &[from], to, vec![int("to", 1)]);
    vec![
        quantize_dynamically(),
        to_float("q", "bytes"),
        to_float("z", "zero of bytes"),
        node("Sub", &["bytes", "zero of bytes"], "centred", vec![]),
    ]
}

/// The result with the scale and zero point of the input's own values.
fn dynamically_expected() -> Vec<f64> {
    let (low, high) = input().iter().fold((0.0f32, 0.0f32), |(l, h), x| (l.min(*x), h.max(*x)));
    let scale = (high - low) / 255.0;
    expected_with(scale, (-low / scale).round_ties_even() as u8, false)
}

#[test]
fn convolutions_of_dynamically_quantized_integers() {
    let nodes = vec![
        quantize_dynamically(),
        node("ConvInteger", &["q", "u8", "z", "100"], "sums", padded()),
        node("Cast", &["sums"], "floats", vec![int("to", 1)]),
        node("Mul", &["s", "weight scales"], "scale of sums", vec![]),
        node("Mul", &["floats", "scale of sums"], "y", vec![]),
    ];
    assert_close(&graph(nodes), &dynamically_expected());
}

#[test]
fn dynamically_quantized_integers_in_float32() {
    let mut nodes = centred();
    nodes.extend([
        node("Conv", &["centred", "whole"], "sums", padded()),
        node("Mul", &["weight scales", "s"], "scale of sums", vec![]),
        node("Mul", &["scale of sums", "sums"], "y", vec![]),
    ]);
    assert_close(&graph(nodes), &dynamically_expected());
}

/// A bias is not divided by the scale as the products are.
#[test]
fn a_bias_before_a_dynamic_scale_is_refused_and_not_dropped() {
    let mut nodes = centred();
    nodes.extend([
        node("Conv", &["centred", "whole", "scales"], "sums", padded()),
        node("Mul", &["sums", "s"], "y", vec![]),
    ]);
    let error = packed(&graph(nodes)).map(drop).unwrap_err();
    assert!(error.to_string().contains("dynamic quantization"), "{error}");
}

#[test]
fn other_uses_of_a_dynamic_quantization_are_refused() {
    let cases = [
        node("Relu", &["s"], "y", vec![]),
        node("Cast", &["q"], "y", vec![int("to", 6)]),
        node("Sub", &["q", "zero"], "y", vec![]),
        node("Mul", &["s", "s"], "y", vec![]),
        node("ConvInteger", &["q", "u8", "zero", "100"], "y", padded()),
        node("Conv", &["x", "whole", "s"], "y", padded()),
    ];
    for node in cases {
        let op = node.op_type.clone();
        let error = packed(&graph(vec![quantize_dynamically(), node])).map(drop).unwrap_err();
        assert!(error.to_string().contains("dynamic quantization"), "{op:?}: {error}");
    }
    let read_as_it_is =
        packed(&graph(vec![quantize_dynamically(), node("Cast", &["q"], "y", vec![int("to", 1)])]));
    assert!(matches!(read_as_it_is, Err(PackError::Tensor { .. })));
}

#[test]
fn other_uses_of_integers_are_refused() {
    let cases = [
        (node("Cast", &["q"], "y", vec![int("to", 1)]), "8-bit integers"),
        (node("DequantizeLinear", &["q", "other", "zero"], "y", vec![]), "differ"),
        (node("DequantizeLinear", &["q", "scale"], "y", vec![]), "differ"),
        (node("DequantizeLinear", &["x", "scale", "zero"], "y", vec![]), "not from QuantizeLinear"),
        (node("ConvInteger", &["q", "u8", "100", "100"], "y", padded()), "differs"),
        (node("QuantizeLinear", &["x", "scales", "zero"], "y", vec![]), "several scales"),
    ];
    for (node, part) in cases {
        let Err(PackError::Operator { reason, .. }) = packed(&graph(vec![quantize(), node])) else {
            panic!("not refused: {part}");
        };
        assert!(reason.contains(part), "{reason}");
    }
    let error = packed(&model(
        vec![quantize()],
        constants(),
        vec![declared("x", &[1, INPUTS as i64, SIDE as i64, SIDE as i64])],
        &["q"],
    ));
    assert!(matches!(error, Err(PackError::Tensor { .. })));
}

const SIZE: usize = 160;

/// The weight of a dense layer of [`SIZE`] inputs and outputs, `[input][output]`.
fn dense_weight(index: usize) -> i8 {
    weight(index % SIZE, index / SIZE)
}

/// Dense layers of 8-bit integers that no sums of bytes compute, and whether they round their input: of
/// values that are not rounded, of values that are when the network runs, and of those in float32.
fn dense_layers() -> [(Vec<NodeProto>, bool); 3] {
    let last = vec![
        node("Mul", &["dense scales", "s"], "scale of sums", vec![]),
        node("Mul", &["floats", "scale of sums"], "y", vec![]),
    ];
    let values = vec![
        node("DequantizeLinear", &["i8", "dense scales"], "w", vec![int("axis", 1)]),
        node("MatMul", &["x", "w"], "y", vec![]),
    ];
    let integers = vec![
        quantize_dynamically(),
        node("MatMulInteger", &["q", "u8", "z", "100"], "sums", vec![]),
        node("Cast", &["sums"], "floats", vec![int("to", 1)]),
    ];
    let mut floats = centred();
    floats.push(node("MatMul", &["centred", "whole"], "floats", vec![]));
    [(values, false), ([integers, last.clone()].concat(), true), ([floats, last].concat(), true)]
}

/// The bytes of `model.cell` of a dense layer.
fn dense(nodes: Vec<NodeProto>) -> Vec<u8> {
    let (dims, long) = ([SIZE, SIZE], SIZE as i64);
    let raw = |of: fn(i8) -> u8| (0..SIZE * SIZE).map(dense_weight).map(of).collect();
    let constants = vec![
        bytes("i8", DataType::INT8, &dims, raw(|w| w as u8)),
        bytes("u8", DataType::UINT8, &dims, raw(|w| (i16::from(w) + 100) as u8)),
        bytes("100", DataType::UINT8, &[], vec![100]),
        tensor("whole", &[long, long], |i| f32::from(dense_weight(i))),
        tensor("dense scales", &[long], weight_scale),
    ];
    let graph = model(nodes, constants, vec![declared("x", &[1, long])], &["y"]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    std::fs::write(&path, graph.write_buf().unwrap()).unwrap();
    pack(&path, &Options::default()).unwrap()
}

#[test]
fn weights_of_eight_bits_take_sixteen() {
    let input: Vec<f32> = (0..SIZE).map(|i| (i * 97 % 401) as f32 * 0.01 - 1.9).collect();
    let (low, high) = input.iter().fold((0.0f32, 0.0f32), |(l, h), x| (l.min(*x), h.max(*x)));
    let scale = (high - low) / 255.0;
    let zero = (-low / scale).round_ties_even();
    let byte = |x: f32| ((x / scale).round_ties_even() + zero).clamp(0.0, 255.0);
    for (nodes, rounds) in dense_layers() {
        let cell = dense(nodes);
        assert!(cell.len() < SIZE * SIZE * 2 + 8192, "{} bytes", cell.len());
        let model = Model::from_bytes(&cell).unwrap();
        let inputs = [("x", TensorRef::F32(&input))];
        let outputs = model.run(&mut Workspace::new(&model), &Pool::new(1), &inputs).unwrap();
        let value = |x: f32| {
            if rounds { f64::from(byte(x) - zero) * f64::from(scale) } else { f64::from(x) }
        };
        let product = |o: usize| {
            let terms = input.iter().enumerate();
            let sum: f64 =
                terms.map(|(i, x)| value(*x) * f64::from(dense_weight(i * SIZE + o))).sum();
            sum * f64::from(weight_scale(o))
        };
        let expected: Vec<f64> = (0..SIZE).map(product).collect();
        assert_near(&outputs[0].1.values, &expected);
    }
}

/// As a heatmap's weights are computed of a dense layer whose weights the file has as integers.
#[test]
fn products_of_constants_are_computed() {
    let wave = |i: usize| (i * 37 % 101) as f32 / 50.0 - 1.0;
    let by = |name: &str, value: i64| int(name, value);
    let attributes =
        vec![by("transA", 1), by("transB", 1), float("alpha", 0.5), float("beta", 2.0)];
    let nodes = vec![
        node("DequantizeLinear", &["bytes", "scale"], "w", vec![]),
        node("MatMul", &["left", "w"], "p", vec![]),
        node("Gemm", &["p", "right", "c"], "q", attributes),
        node("MatMul", &["x", "q"], "y", vec![]),
    ];
    let steps = || (0..24).map(|i| weight(i, i));
    let held = vec![
        bytes("bytes", DataType::INT8, &[6, 4], steps().map(|w| w as u8).collect()),
        tensor("scale", &[], |_| SCALE),
        tensor("left", &[5, 6], wave),
        tensor("right", &[7, 5], |i| wave(i + 11)),
        tensor("c", &[7], |i| wave(i + 5)),
    ];
    let model = packed(&model(nodes, held, vec![declared("x", &[1, 4])], &["y"])).unwrap();
    let photo: Vec<f32> = (0..4).map(|i| wave(i + 3)).collect();
    let inputs = [("x", TensorRef::F32(&photo))];
    let outputs = model.run(&mut Workspace::new(&model), &Pool::new(1), &inputs).unwrap();
    let found = &outputs[0].1.values;
    let wide = |i: usize| f64::from(wave(i));
    let weights: Vec<f64> = steps().map(|w| f64::from(w) * f64::from(SCALE)).collect();
    let p = |row: usize, at: usize| -> f64 {
        (0..6).map(|k| wide(row * 6 + k) * weights[k * 4 + at]).sum()
    };
    let q = |row: usize, at: usize| -> f64 {
        let product: f64 = (0..5).map(|k| p(k, row) * wide(at * 5 + k + 11)).sum();
        0.5 * product + 2.0 * wide(at + 5)
    };
    assert_eq!(found.len(), 7);
    for (at, found) in found.iter().enumerate() {
        let want: f64 = (0..4).map(|row| wide(row + 3) * q(row, at)).sum();
        assert!((f64::from(*found) - want).abs() < 1e-5, "{at}: {found}, not {want}");
    }
}
