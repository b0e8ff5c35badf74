//! A layer that the file has in another form has the probabilities and the heatmap of the plain one, on every
//! engine.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use common::expected::largest;
use common::{CHANNELS, CLASSES, classifier, node, noise, tensor};
use rten_onnx::onnx::{AttributeProto, DataType, GraphProto, ModelProto, NodeProto, TensorProto};
use skincell_engines::{Cellnet, Engine, Rten};
use skincell_modelkit::CamTarget;
use skincell_modelkit::pack::{PackOptions, pack};
use skincell_modelkit::served::Served;
use skincell_onnx::build::{self, float_attribute, int_attribute, integers, ints_attribute};
use skincell_vision::card::Target;
use skincell_vision::rank::probabilities;
use skincell_vision::tensor::PhotoTensor;

/// Of probabilities, and of heatmaps as parts of their largest element.
const TOLERANCE: f32 = 1e-5;

/// Probabilities and heatmaps by one engine.
struct Found {
    engine: String,
    probabilities: Vec<f32>,
    maps: Vec<f32>,
}

/// What every engine that knows the model finds for one photo.
fn found(model: &ModelProto) -> Vec<Found> {
    found_for(model, Target::Activation)
}

/// The same, with the heatmap of a map of this kind.
fn found_for(model: &ModelProto, target: Target) -> Vec<Found> {
    let home = tempfile::tempdir().expect("a temporary folder");
    let report = common::prepare_in(home.path(), model, |options| {
        (options.force, options.target) = (true, CamTarget::Only(target));
        options.own_bias = Some(true);
    });
    let card = report.expect("prepared").card;
    assert!(card.gradcam.is_some(), "{:?}", card.gradcam_missing);
    let out = home.path().join("out");
    let mut engines: Vec<Box<dyn Engine>> = vec![Box::new(Rten::new(1))];
    match pack(&out, &PackOptions::default()) {
        Ok(_) => engines.push(Box::new(Cellnet::new(1))),
        Err(error) => println!("{error}"),
    }
    engines.extend(common::onnx_runtime());
    let one = |engine: Box<dyn Engine>| {
        let served = Served::open(&out, engine.as_ref()).expect("loads");
        let pixels = noise(7, 3 * 8 * 8);
        let data = pixels.iter().flat_map(|value| value.to_le_bytes()).collect();
        let photo = PhotoTensor { dimensions: vec![1, 3, 8, 8], dtype: card.input.dtype, data };
        let outcome = served.run(&photo).expect("runs");
        let maps = outcome.cam.expect("maps").maps;
        let most = maps.iter().fold(0.0, |most: f32, value| most.max(value.abs()));
        Found {
            engine: served.engine().to_string(),
            probabilities: probabilities(&outcome.scores, &card.output).expect("finite"),
            maps: maps.iter().map(|value| value / most).collect(),
        }
    };
    engines.into_iter().map(one).collect()
}

/// Compares a form of a model, which cellnet takes if it `packs`, with the plain one.
fn assert_same(form: &ModelProto, plain: &ModelProto, packs: bool) {
    assert_close(&found(form), &found(plain), packs);
}

fn assert_close(found: &[Found], plain: &[Found], packs: bool) {
    assert_eq!(found.iter().any(|found| found.engine == "cellnet"), packs);
    for found in found {
        let off = largest(&found.probabilities, &plain[0].probabilities);
        let maps = largest(&found.maps, &plain[0].maps);
        println!("{}: {off:.1e} {maps:.1e}", found.engine);
        assert!(off <= TOLERANCE && maps <= TOLERANCE, "{}: {off:.1e} {maps:.1e}", found.engine);
    }
}

/// [`common::classifier`] with a head that reads the vector "f", `[1, CHANNELS]`, and ends in "scores".
fn with_head(opset: i64, nodes: Vec<NodeProto>, held: Vec<TensorProto>) -> ModelProto {
    let mut graph: GraphProto = classifier().graph.expect("a graph");
    graph.node.truncate(4);
    graph.node.extend(nodes);
    graph.initializer.extend(held);
    build::model(opset, graph)
}

fn dense(x: &str, weights: &str) -> NodeProto {
    node("Gemm", &[x, weights, "dense_b"], "scores")
}

fn with(mut node: NodeProto, attributes: &[AttributeProto]) -> NodeProto {
    node.attribute.extend_from_slice(attributes);
    node
}

/// A constant of bytes.
fn bytes(name: &str, dims: &[i64], bytes: Vec<u8>) -> TensorProto {
    let data_type = Some(DataType::UINT8);
    TensorProto { data_type, raw_data: Some(bytes.into()), ..tensor(name, dims, &[]) }
}

/// The dense layer's weights as bytes up to `most` from 128, and the values of these in steps of 0.011.
fn bytes_and_values(most: f32) -> (Vec<u8>, Vec<f32>) {
    let steps = noise(11, CHANNELS * CLASSES).into_iter().map(|value| (value * most).round());
    steps.map(|step| ((step + 128.0) as u8, step * 0.011)).unzip()
}

/// The bytes with their zero point and scale.
fn integers_of(raw: Vec<u8>) -> Vec<TensorProto> {
    let dims = [CHANNELS as i64, CLASSES as i64];
    let zero = bytes("zero", &[], vec![128]);
    vec![bytes("bytes", &dims, raw), zero, tensor("scale", &[], &[0.011])]
}

#[test]
fn a_dense_layer_of_integers_and_a_scale() {
    let (raw, values) = bytes_and_values(60.0);
    let dims = [CHANNELS as i64, CLASSES as i64];
    let weights = node("DequantizeLinear", &["bytes", "scale", "zero"], "weights");
    let form = with_head(17, vec![weights, dense("f", "weights")], integers_of(raw));
    let plain = with_head(17, vec![dense("f", "weights")], vec![tensor("weights", &dims, &values)]);
    assert_same(&form, &plain, true);
}

/// The mean after a ReLU is not negative, so that the zero point is 0, which it is without one. rten sums
/// products with weights of up to 7 bits as integers.
#[test]
fn a_dense_layer_of_rounded_values_without_their_zero_point() {
    let dims = [CHANNELS as i64, CLASSES as i64];
    for most in [60.0, 100.0] {
        let (raw, values) = bytes_and_values(most);
        let mut rounded = node("DynamicQuantizeLinear", &["f"], "q");
        rounded.output.extend(["own scale".to_owned(), "own zero".to_owned()]);
        let to = [int_attribute("to", i64::from(DataType::FLOAT.0))];
        let nodes = vec![
            rounded,
            node("MatMulInteger", &["q", "bytes", "", "zero"], "sums"),
            with(node("Cast", &["sums"], "floats"), &to),
            node("Mul", &["own scale", "scale"], "by"),
            node("Mul", &["floats", "by"], "scaled"),
            node("Add", &["scaled", "dense_b"], "scores"),
        ];
        let form = with_head(17, nodes, integers_of(raw));
        let values = vec![tensor("weights", &dims, &values)];
        let plain = found(&with_head(17, vec![dense("f", "weights")], values));
        for found in found(&form) {
            let maps = largest(&found.maps, &plain[0].maps);
            println!("{}: {maps:.1e}", found.engine);
            assert!(maps <= TOLERANCE, "{}: {maps:.1e}", found.engine);
        }
    }
}

/// As tf2onnx writes Keras's layer norm of a vector: its deviation is repeated to the channels.
#[test]
fn a_layer_norm_that_repeats_its_deviation() {
    let axes = || [ints_attribute("axes", &[-1]), int_attribute("keepdims", 1)];
    let channels = CHANNELS as i64;
    let nodes = vec![
        with(node("ReduceMean", &["f"], "mean"), &axes()),
        node("Sub", &["f", "mean"], "moved"),
        node("Mul", &["moved", "moved"], "squares"),
        with(node("ReduceMean", &["squares"], "variance"), &axes()),
        node("Add", &["variance", "epsilon"], "plus"),
        node("Sqrt", &["plus"], "deviation"),
        node("Reciprocal", &["deviation"], "by"),
        node("Expand", &["by", "row"], "each"),
        node("Mul", &["f", "each"], "scaled"),
        node("Neg", &["mean"], "less"),
        node("Mul", &["less", "each"], "shift"),
        node("Add", &["scaled", "shift"], "normed"),
        dense("normed", "dense"),
    ];
    let held = vec![tensor("epsilon", &[], &[1e-3]), integers("row", &[1, channels])];
    let norm = with(
        node("LayerNormalization", &["f", "ones", "zeros"], "normed"),
        &[float_attribute("epsilon", 1e-3)],
    );
    let plain = vec![
        tensor("ones", &[channels], &[1.0; CHANNELS]),
        tensor("zeros", &[channels], &[0.0; CHANNELS]),
    ];
    let plain = with_head(17, vec![norm, dense("normed", "dense")], plain);
    assert_same(&with_head(17, nodes, held), &plain, true);
}

#[test]
fn a_norm_by_the_root_of_the_mean_square() {
    let epsilon = || float_attribute("epsilon", 1e-3);
    let by_one = || {
        let axes = [ints_attribute("axes", &[-1]), int_attribute("keepdims", 1)];
        vec![
            node("Mul", &["f", "f"], "squares"),
            with(node("ReduceMean", &["squares"], "mean"), &axes),
            node("Add", &["mean", "epsilon"], "plus"),
            node("Sqrt", &["plus"], "root"),
            node("Div", &["f", "root"], "whole"),
            node("Mul", &["whole", "factors"], "normed"),
            dense("normed", "dense"),
        ]
    };
    let held = || {
        let factors = tensor("factors", &[CHANNELS as i64], &noise(12, CHANNELS));
        vec![factors, tensor("epsilon", &[], &[1e-3]), tensor("none", &[1, 16], &[0.0; 16])]
    };
    let plain = with_head(17, by_one(), held());
    for (opset, operator) in [(23, "RMSNormalization"), (17, "SimplifiedLayerNormalization")] {
        let norm = with(node(operator, &["f", "factors"], "normed"), &[epsilon()]);
        let form = with_head(opset, vec![norm, dense("normed", "dense")], held());
        assert_same(&form, &plain, true);
    }
    let skip = node("SkipSimplifiedLayerNormalization", &["f", "none", "factors"], "normed");
    let skip = NodeProto { domain: Some("com.microsoft".to_owned()), ..with(skip, &[epsilon()]) };
    let form = with_head(17, vec![skip, dense("normed", "dense")], held());
    assert_same(&form, &plain, true);
}

/// Keras 2 writes a layer norm as the batch norm of a tensor whose channels are the pixels.
#[test]
fn a_layer_norm_by_a_batch_norm_of_pixels() {
    let (channels, pixels) = (CHANNELS as i64, 64);
    let epsilon = [float_attribute("epsilon", 1e-3)];
    let perm = |name, x, perm: &[i64]| {
        with(node("Transpose", &[x], name), &[ints_attribute("perm", perm)])
    };
    let over = |keeps| [ints_attribute("axes", &[0, 2, 3]), int_attribute("keepdims", keeps)];
    let by_batch_norm = vec![
        node("Reshape", &["last", "rows"], "r"),
        with(node("ReduceMean", &["r"], "mean"), &over(1)),
        node("Sub", &["r", "mean"], "moved"),
        with(node("ReduceSumSquare", &["moved"], "squares"), &over(0)),
        node("Squeeze", &["mean", "gone"], "means"),
        node("Div", &["squares", "count"], "variances"),
        with(
            node("BatchNormalization", &["r", "ones", "zeros", "means", "variances"], "n"),
            &epsilon,
        ),
        node("Reshape", &["n", "map"], "normed"),
        node("Mul", &["normed", "factors"], "scaled"),
        node("Add", &["scaled", "summands"], "y"),
    ];
    let by_one =
        vec![with(node("LayerNormalization", &["last", "factors", "summands"], "y"), &epsilon)];
    let model = |norm: Vec<NodeProto>| {
        let mut graph: GraphProto = classifier().graph.expect("a graph");
        graph.node[2].input[0] = "positive".to_owned();
        let mut nodes = vec![perm("last", "a", &[0, 2, 3, 1])];
        nodes.extend(norm);
        nodes.extend([perm("first", "y", &[0, 3, 1, 2]), node("Relu", &["first"], "positive")]);
        graph.node.splice(2..2, nodes);
        graph.initializer.extend([
            integers("rows", &[1, pixels, channels, 1]),
            integers("map", &[1, 8, 8, channels]),
            integers("gone", &[0, 2, 3]),
            tensor("count", &[], &[CHANNELS as f32]),
            tensor("ones", &[pixels], &[1.0; 64]),
            tensor("zeros", &[pixels], &[0.0; 64]),
            tensor("factors", &[channels], &noise(13, CHANNELS)),
            tensor("summands", &[channels], &noise(14, CHANNELS)),
        ]);
        common::model(graph)
    };
    let (form, plain) = (model(by_batch_norm), model(by_one));
    assert_same(&form, &plain, true);
    assert_close(&found_for(&form, Target::Conv), &found_for(&plain, Target::Conv), false);
}

/// `GreaterOrEqual`, with which the maximum's place is found, came with operator set 12.
#[test]
fn a_maximum_in_operator_set_11() {
    let axes = [ints_attribute("axes", &[1]), int_attribute("keepdims", 1)];
    let nodes = || {
        vec![
            with(node("ReduceMax", &["f"], "most"), &axes),
            node("Sub", &["f", "most"], "below"),
            node("Exp", &["below"], "share"),
            node("Mul", &["f", "share"], "gated"),
            dense("gated", "dense"),
        ]
    };
    assert_same(&with_head(11, nodes(), vec![]), &with_head(17, nodes(), vec![]), false);
}

/// PyTorch writes weights that a layer standardizes as a batch norm in training, of the weights alone (as in
/// Big Transfer's ResNets). It was refused as a batch norm of the photo.
#[test]
fn standardized_weights_in_training() {
    let (channels, each) = (CHANNELS as i64, 27);
    let (raw, factors, summands) =
        (noise(1, CHANNELS * 27), noise(5, CHANNELS), noise(6, CHANNELS));
    let form = |opset: i64| {
        let mut graph: GraphProto = classifier().graph.expect("a graph");
        let mut norm =
            node("BatchNormalization", &["raw", "factors", "summands", "m", "v"], "rows");
        norm.output.extend(["m2".to_owned(), "v2".to_owned()]);
        let mut norm = with(norm, &[float_attribute("epsilon", 1e-3)]);
        if opset < 14 {
            norm.output.extend(["m3".to_owned(), "v3".to_owned()]);
        } else {
            norm.attribute.push(int_attribute("training_mode", 1));
        }
        graph.node.splice(0..0, [norm, node("Reshape", &["rows", "shape"], "w")]);
        graph.initializer.remove(0);
        graph.initializer.extend([
            tensor("raw", &[1, channels, each], &raw),
            tensor("factors", &[channels], &factors),
            tensor("summands", &[channels], &summands),
            tensor("m", &[channels], &[0.0; CHANNELS]),
            tensor("v", &[channels], &[1.0; CHANNELS]),
            integers("shape", &[channels, 3, 3, 3]),
        ]);
        build::model(opset, graph)
    };
    let rows = raw.chunks(27).zip(factors.iter().zip(&summands));
    let standardized = rows.flat_map(|(row, (factor, summand))| {
        let of = |f: &dyn Fn(f64) -> f64| row.iter().map(|v| f(f64::from(*v))).sum::<f64>() / 27.0;
        let mean = of(&|v| v);
        let deviation = (of(&|v| (v - mean).powi(2)) + 1e-3).sqrt();
        let one = move |v: &f32| {
            let value = (f64::from(*v) - mean) / deviation * f64::from(*factor);
            (value + f64::from(*summand)) as f32
        };
        row.iter().map(one).collect::<Vec<_>>()
    });
    let weights = tensor("w", &[channels, 3, 3, 3], &standardized.collect::<Vec<_>>());
    let mut plain: GraphProto = classifier().graph.expect("a graph");
    plain.initializer[0] = weights;
    for opset in [13, 17] {
        assert_same(&form(opset), &common::model(plain.clone()), true);
    }
}

/// A batch norm of the photo's values in training depends on the photo's own statistics.
#[test]
fn a_batch_norm_in_training_is_refused_in_every_operator_set() {
    for opset in [11, 17] {
        let mut graph: GraphProto = classifier().graph.expect("a graph");
        let mut norm = node("BatchNormalization", &["z", "ones", "b", "b", "ones"], "normed");
        norm.output.extend(["m2".to_owned(), "v2".to_owned()]);
        if opset < 14 {
            norm.output.extend(["m3".to_owned(), "v3".to_owned()]);
        } else {
            norm.attribute.push(int_attribute("training_mode", 1));
        }
        graph.node.insert(1, norm);
        graph.node[2].input[0] = "normed".to_owned();
        graph.initializer.push(tensor("ones", &[CHANNELS as i64], &[1.0; CHANNELS]));
        let home = tempfile::tempdir().expect("a temporary folder");
        let report = common::prepare_in(home.path(), &build::model(opset, graph), |_| ());
        let error = report.map(|_| ()).expect_err("refused").to_string();
        assert!(error.contains("works as in training"), "{opset}: {error}");
    }
}
