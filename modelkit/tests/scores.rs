//! Interpretation of scores: every form in which classifiers return them is served as the right
//! probabilities, or refused with an error that names the flag that decides.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use std::cell::RefCell;

use common::{CLASSES, classifier, float_value, ints, node, noise, prepare_in, tensor};
use rten::{Model, ModelOptions, Value};
use rten_onnx::onnx::{
    AttributeProto, AttributeType, DataType, Dimension, ModelProto, NodeProto, TensorProto,
};
use rten_tensor::Tensor;
use rten_tensor::prelude::*;
use skincell_modelkit::external::GRAPH_FILE;
use skincell_modelkit::{Given, PrepareOptions, Reference, SaidActivation, prepare_from};
use skincell_vision::card::{Activation, Card, Class, Field, Form};
use skincell_vision::rank::probabilities;

fn labels(count: usize) -> Vec<Class> {
    (0..count).map(|i| Class { label: format!("class {i}"), display: None }).collect()
}

fn axis(value: i64) -> AttributeProto {
    AttributeProto {
        name: Some("axis".to_owned()),
        i: Some(value),
        r#type: Some(AttributeType::INT),
        ..Default::default()
    }
}

fn with(mut node: NodeProto, attribute: AttributeProto) -> NodeProto {
    node.attribute.push(attribute);
    node
}

fn int64(name: &str, dims: &[i64], values: &[i64]) -> TensorProto {
    let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let data_type = Some(DataType::INT64);
    TensorProto { data_type, raw_data: Some(RefCell::new(bytes)), ..tensor(name, dims, &[]) }
}

/// [`classifier`] with `nodes` appended; `end` is the name of the output, which has `shape`.
fn ending(nodes: Vec<NodeProto>, end: &str, shape: &[i64]) -> ModelProto {
    let mut model = classifier();
    let graph = model.graph.as_mut().unwrap();
    graph.node.extend(nodes);
    graph.initializer.extend([
        tensor("one", &[], &[1.0]),
        tensor("half", &[], &[0.5]),
        tensor("hundred", &[], &[100.0]),
        tensor("low", &[], &[1e-7]),
        tensor("single", &[CLASSES as i64, 1], &noise(8, CLASSES)),
        int64("last", &[1], &[1]),
        tensor("other", &[CLASSES as i64, CLASSES as i64], &noise(7, CLASSES * CLASSES)),
    ]);
    graph.output = vec![float_value(end, shape)];
    model
}

/// A photo of noise, the network's five logits for it, the logit of `single`, and the five logits of `other`.
fn truth() -> (Tensor<f32>, Vec<f64>, f64, Vec<f64>) {
    let photo = Tensor::from_data(&[1, 3, 8, 8], noise(9, 192));
    let model = load(&classifier().write_buf().unwrap());
    let ids = [model.node_id("scores").unwrap()];
    let inputs = vec![(model.input_ids()[0], photo.view().into())];
    let scores: Tensor<f32> = model.run(inputs, &ids, None).unwrap().remove(0).try_into().unwrap();
    let logits: Vec<f64> = scores.iter().map(|v| f64::from(*v)).collect();
    let dot = |weights: &[f32], columns: usize, column: usize| -> f64 {
        let terms = logits.iter().enumerate();
        terms.map(|(k, v)| v * f64::from(weights[k * columns + column])).sum()
    };
    let single = dot(&noise(8, CLASSES), 1, 0);
    let other = noise(7, CLASSES * CLASSES);
    let second = (0..CLASSES).map(|c| dot(&other, CLASSES, c)).collect();
    (photo, logits, single, second)
}

fn load(bytes: &[u8]) -> Model {
    let mut options = ModelOptions::with_all_ops();
    options.enable_optimization(false);
    options.load(bytes.to_vec()).unwrap()
}

fn softmax(logits: &[f64]) -> Vec<f64> {
    let sum: f64 = logits.iter().map(|l| l.exp()).sum();
    logits.iter().map(|l| l.exp() / sum).collect()
}

fn sigmoid(logit: f64) -> f64 {
    1.0 / (1.0 + (-logit).exp())
}

/// Prepares the model for `count` labels; returns the card and the probabilities for `photo`.
fn served(
    model: &ModelProto,
    photo: &Tensor<f32>,
    count: usize,
    change: impl FnOnce(&mut PrepareOptions),
) -> Result<(Card, Vec<f32>), String> {
    let home = tempfile::tempdir().unwrap();
    let report = prepare_in(home.path(), model, |options| {
        options.classes = labels(count);
        options.std = [255.0; 3];
        change(options);
    });
    let card = report.map_err(|error| error.to_string())?.card;
    // Reads the weights beside the graph; mapping them is not needed here.
    let model = ModelOptions::with_all_ops().load_file(home.path().join("out").join(GRAPH_FILE));
    let model = model.unwrap();
    let ids = [model.node_id(&card.output.name).unwrap()];
    let field = |field: &Field| {
        let shape: Vec<usize> = field.shape.iter().map(|side| *side as usize).collect();
        let numbers = Tensor::from_data(&shape, field.default.clone());
        (model.node_id(&field.name).unwrap(), Value::from(numbers).into())
    };
    let mut inputs = vec![(model.node_id(&card.input.name).unwrap(), photo.view().into())];
    inputs.extend(card.fields.iter().map(field));
    let scores: Tensor<f32> = model.run(inputs, &ids, None).unwrap().remove(0).try_into().unwrap();
    assert_eq!(scores.shape(), [1, count], "scores are [1, classes]");
    let scores: Vec<f32> = scores.iter().copied().collect();
    let found = probabilities(&scores, &card.output).unwrap();
    Ok((card, found))
}

fn close(name: &str, found: &[f32], expected: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{name}");
    for (found, expected) in found.iter().zip(expected) {
        assert!((f64::from(*found) - expected).abs() < 1e-6, "{name}: {found} {expected}");
    }
}

#[test]
fn five_scores_in_every_form_are_the_same_probabilities() {
    let (photo, logits, _, second) = truth();
    let expected = softmax(&logits);
    let mean: Vec<f64> =
        expected.iter().zip(softmax(&second)).map(|(a, b)| (a + b) / 2.0).collect();
    for (name, model, is_mean) in forms_of_five_scores() {
        let expected = if is_mean { &mean } else { &expected };
        let (card, found) =
            served(&model, &photo, 5, |_| {}).unwrap_or_else(|e| panic!("{name}: {e}"));
        close(name, &found, expected);
        let assumed = card.assumed.contains(&"activation".to_owned());
        assert_eq!(assumed, name == "logits", "{name}: only for plain logits is it assumed");
    }
}

/// The network with its five scores in every form, and whether that is the mean of two softmaxes.
fn forms_of_five_scores() -> Vec<(&'static str, ModelProto, bool)> {
    let soft = |from: &str, to: &str| with(node("Softmax", &[from], to), axis(-1));
    vec![
        ("logits", classifier(), false),
        ("softmax", ending(vec![soft("scores", "p")], "p", &[1, 5]), false),
        (
            "softmax and flatten",
            ending(vec![soft("scores", "p"), node("Flatten", &["p"], "q")], "q", &[1, 5]),
            false,
        ),
        (
            "softmax and clip",
            ending(
                vec![soft("scores", "p"), node("Clip", &["p", "low", "one"], "q")],
                "q",
                &[1, 5],
            ),
            false,
        ),
        (
            "log-softmax",
            ending(vec![with(node("LogSoftmax", &["scores"], "p"), axis(-1))], "p", &[1, 5]),
            false,
        ),
        (
            "mean of two softmaxes",
            ending(
                vec![
                    node("MatMul", &["scores", "other"], "z2"),
                    soft("scores", "p"),
                    soft("z2", "p2"),
                    node("Add", &["p", "p2"], "sum"),
                    node("Mul", &["sum", "half"], "q"),
                ],
                "q",
                &[1, 5],
            ),
            true,
        ),
        (
            "softmax spelled out",
            ending(
                vec![
                    with(node("ReduceMax", &["scores"], "most"), ints("axes", &[1])),
                    node("Sub", &["scores", "most"], "less"),
                    node("Exp", &["less"], "e"),
                    node("ReduceSum", &["e", "last"], "sum"),
                    node("Div", &["e", "sum"], "q"),
                ],
                "q",
                &[1, 5],
            ),
            false,
        ),
    ]
}

#[test]
fn scores_of_other_shapes_are_brought_to_one_row() {
    let (photo, logits, _, _) = truth();
    let expected = softmax(&logits);
    for shape in [&[5_i64][..], &[1, 1, 5], &[1, 5, 1, 1], &[1, 1, 1, 5]] {
        for with_softmax in [false, true] {
            let from = if with_softmax { "p" } else { "scores" };
            let mut nodes = vec![node("Reshape", &[from, "shape"], "q")];
            if with_softmax {
                nodes.insert(0, with(node("Softmax", &["scores"], "p"), axis(1)));
            }
            let mut model = ending(nodes, "q", shape);
            let sides = int64("shape", &[shape.len() as i64], shape);
            model.graph.as_mut().unwrap().initializer.push(sides);
            let found = served(&model, &photo, 5, |_| {});
            let (_, found) = found.unwrap_or_else(|e| panic!("{shape:?}: {e}"));
            close(&format!("{shape:?}, softmax {with_softmax}"), &found, &expected);
        }
    }
}

#[test]
fn a_single_score_is_the_probability_of_the_second_label() {
    let (photo, _, single, _) = truth();
    let p = sigmoid(single);
    let logit = || node("MatMul", &["scores", "single"], "logit");
    let spelled = vec![
        logit(),
        node("Neg", &["logit"], "n"),
        node("Exp", &["n"], "e"),
        node("Add", &["e", "one"], "s"),
        node("Reciprocal", &["s"], "q"),
    ];
    for (name, nodes, end) in [
        ("one logit", vec![logit()], "logit"),
        ("one sigmoid", vec![logit(), node("Sigmoid", &["logit"], "q")], "q"),
        ("one sigmoid, spelled out", spelled, "q"),
    ] {
        let model = ending(nodes, end, &[1, 1]);
        let (card, found) =
            served(&model, &photo, 2, |_| {}).unwrap_or_else(|e| panic!("{name}: {e}"));
        close(name, &found, &[1.0 - p, p]);
        assert_eq!(card.output.activation, Activation::Softmax, "{name}: they exclude each other");
        let (_, found) =
            served(&model, &photo, 1, |_| {}).unwrap_or_else(|e| panic!("{name}: {e}"));
        close(name, &found, &[p]);
    }
    let model = ending(vec![logit()], "logit", &[1, 1]);
    let (_, found) = served(&model, &photo, 2, |o| {
        o.activation = Some(SaidActivation::Sigmoid);
    })
    .unwrap();
    close("said", &found, &[1.0 - p, p]);
}

#[test]
fn ambiguous_scores_are_refused_with_the_flag_that_decides() {
    let (photo, ..) = truth();
    let soft = |axis_: i64| with(node("Softmax", &["scores"], "p"), axis(axis_));
    let logit = || node("MatMul", &["scores", "single"], "logit");
    let quarter = || {
        // An operator without known bounds whose values lie in 0..1 and do not sum to 1.
        vec![node("Sigmoid", &["scores"], "s"), node("Sqrt", &["s"], "q")]
    };
    let said = |activation| move |o: &mut PrepareOptions| o.activation = Some(activation);
    let nothing = |_: &mut PrepareOptions| {};
    let mut wrong_axis = ending(vec![soft(0)], "p", &[1, 5]);
    wrong_axis.graph.as_mut().unwrap().node.last_mut().unwrap().attribute = vec![axis(0)];
    let refusal = |found: Result<(Card, Vec<f32>), String>| found.expect_err("refused");
    let cases = [
        (refusal(served(&wrong_axis, &photo, 5, nothing)), "--scores"),
        (
            refusal(served(
                &ending(
                    vec![logit(), with(node("Softmax", &["logit"], "q"), axis(-1))],
                    "q",
                    &[1, 1],
                ),
                &photo,
                2,
                nothing,
            )),
            "single score",
        ),
        (
            refusal(served(&ending(quarter(), "q", &[1, 5]), &photo, 5, nothing)),
            "--activation none",
        ),
        (
            refusal(served(
                &ending(vec![soft(-1)], "p", &[1, 5]),
                &photo,
                5,
                said(SaidActivation::Sigmoid),
            )),
            "Softmax",
        ),
        (refusal(served(&classifier(), &photo, 5, said(SaidActivation::None))), "0 to 1"),
        (refusal(served(&classifier(), &photo, 4, nothing)), "scores of the model: 5"),
        (refusal(served(&classifier(), &photo, 2, nothing)), "the labels name: 2"),
    ];
    for (error, part) in cases {
        assert!(error.contains(part), "{part}: {error}");
    }
    let (card, _) =
        served(&ending(quarter(), "q", &[1, 5]), &photo, 5, said(SaidActivation::None)).unwrap();
    assert_eq!(
        (card.output.form, card.output.activation),
        (Form::Probabilities, Activation::Sigmoid)
    );
}

#[test]
fn scores_that_are_neither_logits_nor_probabilities_are_refused_with_the_tensor_before() {
    let (photo, ..) = truth();
    let logit = || node("MatMul", &["scores", "single"], "logit");
    let softmax = with(node("Softmax", &["scores"], "p"), axis(-1));
    let hundredfold = |of| node("Mul", &[of, "hundred"], "q");
    let tanh = vec![logit(), node("Neg", &["logit"], "n"), node("Tanh", &["n"], "q")];
    let sigmoid = vec![logit(), node("Sigmoid", &["logit"], "s"), hundredfold("s")];
    let cases = [
        (vec![softmax, hundredfold("p")], 5, 5, "--scores NAME, such as \"p\""),
        (tanh, 1, 2, "between -1 and 1"),
        (sigmoid, 1, 2, "between 0 and 100"),
    ];
    for (nodes, width, labels, part) in cases {
        let error = served(&ending(nodes, "q", &[1, width]), &photo, labels, |_| {});
        let error = error.expect_err("refused");
        assert!(error.contains(part), "{part}: {error}");
    }
}

/// Azure Custom Vision appends nodes that make labels (`ArgMax`, `LabelEncoder`) and a dictionary (`ZipMap`).
#[test]
fn nodes_behind_the_scores_are_removed() {
    let (photo, logits, ..) = truth();
    let private = |mut node: NodeProto, strings: &str| {
        node.domain = Some("ai.onnx.ml".to_owned());
        let named = (0..5).map(|i| format!("name {i}")).collect();
        let name = Some(strings.to_owned());
        node.attribute = vec![AttributeProto { name, strings: named, ..Default::default() }];
        node
    };
    let nodes = vec![
        with(node("Softmax", &["scores"], "p"), axis(1)),
        private(node("ZipMap", &["p"], "loss"), "classlabels_strings"),
        node("ArgMax", &["p"], "best"),
        private(node("LabelEncoder", &["best"], "classLabel"), "values_strings"),
    ];
    let mut model = ending(nodes, "classLabel", &[1, 1]);
    model.graph.as_mut().unwrap().output.push(float_value("loss", &[]));
    for scores in [None, Some("p"), Some("loss")] {
        let (card, found) = served(&model, &photo, 5, |o| {
            o.classes = vec![];
            o.scores = scores.map(str::to_owned);
        })
        .unwrap_or_else(|e| panic!("{scores:?}: {e}"));
        close("zip map", &found, &softmax(&logits));
        assert_eq!(card.classes[4].label, "name 4");
    }
}

#[test]
fn of_several_outputs_one_must_be_named_and_any_tensor_may_be() {
    let (photo, logits, ..) = truth();
    let mut model =
        ending(vec![node("MatMul", &["scores", "other"], "features")], "scores", &[1, 5]);
    model.graph.as_mut().unwrap().output.push(float_value("features", &[1, 5]));
    let error = served(&model, &photo, 5, |_| {}).expect_err("two outputs");
    assert!(error.contains("--scores") && error.contains("features"), "{error}");
    let (_, found) = served(&model, &photo, 5, |o| o.scores = Some("scores".to_owned())).unwrap();
    close("named", &found, &softmax(&logits));
    let error =
        served(&model, &photo, 5, |o| o.scores = Some("nothing".to_owned())).expect_err("none");
    assert!(error.contains("nothing"), "{error}");
}

/// Optimum exports models with all four axes open.
#[test]
fn with_open_axes_the_size_must_be_given() {
    let (photo, logits, ..) = truth();
    let mut model = classifier();
    let image = model.graph.as_mut().unwrap().input.first_mut().unwrap();
    let shape = image.r#type.as_mut().unwrap().tensor_type.as_mut().unwrap();
    let names = ["batch_size", "num_channels", "height", "width"];
    shape.shape.as_mut().unwrap().dim =
        names.map(|name| Dimension { dim_value: None, dim_param: Some(name.to_owned()) }).to_vec();
    let error = served(&model, &photo, 5, |_| {}).expect_err("no size");
    assert!(error.contains("--size"), "{error}");
    let (card, found) = served(&model, &photo, 5, |o| o.size = Some((8, 8))).unwrap();
    assert_eq!((card.input.width, card.input.height), (8, 8));
    close("open axes", &found, &softmax(&logits));
}

#[test]
fn an_input_beside_the_photo_is_fixed() {
    let (photo, logits, ..) = truth();
    let mut model = ending(vec![node("Add", &["scores", "age"], "q")], "q", &[1, 5]);
    model.graph.as_mut().unwrap().input.push(float_value("age", &[1, 5]));
    let error = served(&model, &photo, 5, |_| {}).expect_err("two inputs");
    assert!(error.contains("--input-default") && error.contains("age"), "{error}");
    let with_age = |values: &[f32]| {
        let values = values.to_vec();
        served(&model, &photo, 5, move |o| o.defaults = vec![("age".to_owned(), values)])
    };
    let shifted: Vec<f64> = logits.iter().zip(0..).map(|(l, i)| l + f64::from(i) / 4.0).collect();
    let (_, found) = with_age(&[0.0, 0.25, 0.5, 0.75, 1.0]).unwrap();
    close("age", &found, &softmax(&shifted));
    let error = with_age(&[1.0, 2.0]).expect_err("two of five numbers");
    assert!(error.contains("2 numbers") && error.contains('5'), "{error}");
}

/// A framework whose first score differs from the exported graph's by the number given.
struct Other(f64);

impl Reference for Other {
    fn name(&self) -> &str {
        "Other"
    }

    fn predict(&mut self, inputs: &[Given]) -> Result<Vec<(String, Vec<f64>)>, String> {
        let [Given { shape, values, .. }] = inputs else { return Err("one input".to_owned()) };
        let photo = Tensor::from_data(&shape[..], values.clone());
        let model = load(&classifier().write_buf().unwrap());
        let ids = [model.node_id("scores").unwrap()];
        let inputs = vec![(model.input_ids()[0], photo.view().into())];
        let scores: Tensor<f32> =
            model.run(inputs, &ids, None).unwrap().remove(0).try_into().unwrap();
        let mut scores: Vec<f64> = scores.iter().map(|v| f64::from(*v)).collect();
        scores[0] += self.0;
        Ok(vec![("scores".to_owned(), scores)])
    }
}

#[test]
fn a_difference_from_the_framework_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("raw.onnx");
    std::fs::write(&path, classifier().write_buf().unwrap()).unwrap();
    let mut options = common::options(path, home.path());
    options.std = [255.0; 3];
    let error = prepare_from(&options, Some(&mut Other(0.1)), &mut |_| {}).expect_err("it differs");
    assert!(error.to_string().contains("--max-difference"), "{error}");
    assert!(!home.path().join("out").exists(), "nothing is written");
    options.max_difference = Some(0.5);
    let report = prepare_from(&options, Some(&mut Other(0.1)), &mut |_| {}).expect("let pass");
    assert!(report.comparison.difference > 1e-3, "{:?}", report.comparison);
    options.force = true;
    options.max_difference = None;
    let report = prepare_from(&options, Some(&mut Other(0.0)), &mut |_| {}).expect("the same");
    assert!(report.comparison.difference < 1e-6, "{:?}", report.comparison);
}
