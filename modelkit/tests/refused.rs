//! Models that are no classifiers of photos, and flags that contradict a model, are refused with what it is
//! and the flag or step that helps.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use std::cell::RefCell;

use common::{classifier, conv, float_value, node, noise, prepare_in, tensor};
use rten_onnx::onnx::{AttributeProto, DataType, ModelProto, NodeProto, TensorProto};
use skincell_modelkit::{PrepareError, PrepareOptions, Report, SaidActivation, parse_labels};
use skincell_onnx::build::{float_attribute, int_attribute, integers, text_attribute};
use skincell_vision::card::Layout;

fn prepared(
    model: &ModelProto,
    change: impl FnOnce(&mut PrepareOptions),
) -> Result<Report, PrepareError> {
    let home = tempfile::tempdir().unwrap();
    let report = prepare_in(home.path(), model, |options| {
        options.std = [255.0; 3];
        change(options);
    });
    assert_eq!(home.path().join("out").exists(), report.is_ok(), "written only if it is right");
    report
}

/// Checks that the error has each of the texts.
#[track_caller]
fn says(found: Result<Report, PrepareError>, parts: &[&str]) {
    let error = found.expect_err("refused").to_string();
    assert!(parts.iter().all(|part| error.contains(part)), "{parts:?}: {error}");
}

/// The classifier with an input of this shape.
fn taking(shape: &[i64]) -> ModelProto {
    let mut model = classifier();
    model.graph.as_mut().unwrap().input = vec![float_value("image", shape)];
    model
}

/// The classifier with other nodes at its end, and its output `end` of this shape.
fn ending(nodes: Vec<NodeProto>, end: &str, shape: &[i64]) -> ModelProto {
    let mut model = classifier();
    let graph = model.graph.as_mut().unwrap();
    graph.node.extend(nodes);
    graph.initializer.push(tensor("single", &[5, 1], &noise(8, 5)));
    graph.initializer.push(tensor("twice", &[], &[2.0]));
    graph.output = vec![float_value(end, shape)];
    model
}

#[test]
fn other_numbers_of_channels_and_axes_are_refused_with_what_to_do() {
    for (shape, parts) in [
        (&[1, 1, 8, 8][..], &["0.299 R"][..]),
        (&[1, 2, 8, 8], &["R, G and B", "of these three"]),
        (&[1, 4, 8, 8], &["fourth channel", "torch.cat"]),
        (&[1, 6, 8, 8], &["one at a time"]),
        (&[1, 3, 4, 8, 8], &["several pictures"]),
        (&[3, 8, 8], &["axis for the batch"]),
        (&[1, 192], &["list of numbers"]),
        (&[], &["states no shape"]),
    ] {
        says(prepared(&taking(shape), |_| {}), parts);
    }
    // The first convolution shows the channels of an open axis.
    let mut open = taking(&[1, 3, 8, 8]);
    let graph = open.graph.as_mut().unwrap();
    graph.initializer[0] = tensor("w", &[16, 4, 3, 3], &noise(1, 16 * 36));
    let kind = graph.input[0].r#type.as_mut().unwrap().tensor_type.as_mut().unwrap();
    kind.shape.as_mut().unwrap().dim[1].dim_value = None;
    says(prepared(&open, |_| {}), &["fourth channel"]);
}

#[test]
fn an_order_of_axes_that_contradicts_the_model_is_refused() {
    for shape in [[1, 3, 8, 8], [1, -1, -1, -1]] {
        let asked = |layout| {
            prepared(&taking(&shape), |options| {
                (options.layout, options.size) = (Some(layout), Some((8, 8)));
            })
        };
        says(asked(Layout::Nhwc), &["--layout nhwc", "takes nchw", "leave the flag out"]);
        asked(Layout::Nchw).expect("the model's own order");
    }
}

#[test]
fn a_segmentation_or_a_detector_is_told_by_its_output() {
    let map = |end: &str, shape: &[i64]| ending(vec![node("Relu", &["z"], end)], end, shape);
    says(
        prepared(&map("masks", &[1, 16, 8, 8]), |_| {}),
        &["segmentation", "--scores NAME", "mean((2, 3))"],
    );
    let mut boxes = ending(vec![node("Reshape", &["a", "rows"], "boxes")], "boxes", &[1, 16, 64]);
    let graph = boxes.graph.as_mut().unwrap();
    graph.initializer.push(integers("rows", &[1, 16, 64]));
    says(prepared(&boxes, |_| {}), &["detector", "--scores NAME"]);
    boxes.graph.as_mut().unwrap().output.push(float_value("scores", &[1, 5]));
    says(prepared(&boxes, |_| {}), &["\"boxes\", \"scores\"", "--scores NAME", "detector"]);
}

#[test]
fn a_single_score_that_is_never_negative_is_no_logit_unless_the_user_says_so() {
    let logit = || node("MatMul", &["scores", "single"], "logit");
    for (nodes, end, maker) in [
        (vec![logit(), node("Relu", &["logit"], "q")], "q", "Relu"),
        (vec![logit(), node("Softplus", &["logit"], "q")], "q", "Softplus"),
        (vec![logit(), node("Mul", &["logit", "logit"], "q")], "q", "Mul"),
        (
            vec![
                logit(),
                node("Abs", &["logit"], "u"),
                node("Mul", &["u", "twice"], "v"),
                node("Identity", &["v"], "q"),
            ],
            "q",
            "Abs",
        ),
    ] {
        let model = ending(nodes, end, &[1, 1]);
        let two = |options: &mut PrepareOptions| options.classes = parse_labels("a\nb").unwrap();
        let parts = [maker, "at least 50 %", "--scores NAME, such as", "--activation sigmoid"];
        says(prepared(&model, two), &parts);
        let said = |options: &mut PrepareOptions| {
            two(options);
            options.activation = Some(SaidActivation::Sigmoid);
        };
        prepared(&model, said).expect("the user says what it is");
    }
    // A dense layer shows nothing: that its score is a logit is assumed, and the card says so.
    let one = |options: &mut PrepareOptions| options.classes = parse_labels("a\nb").unwrap();
    let report = prepared(&ending(vec![logit()], "logit", &[1, 1]), one).unwrap();
    assert!(report.card.assumed.contains(&"activation".to_owned()), "{:?}", report.card.assumed);
}

/// The evidence of a Dirichlet distribution, softplus(x) + 1, got a softmax.
#[test]
fn evidence_of_classes_gets_no_softmax_unless_the_user_says_so() {
    let plus = || node("Add", &["q", "twice"], "alpha");
    for (nodes, end) in [
        (vec![node("Softplus", &["scores"], "q"), plus()], "alpha"),
        (vec![node("Relu", &["scores"], "q"), plus()], "alpha"),
        (vec![node("Exp", &["scores"], "q")], "q"),
    ] {
        let model = ending(nodes, end, &[1, 5]);
        says(prepared(&model, |_| {}), &["evidence", "--scores NAME, such as", "--activation"]);
        let said = |options: &mut PrepareOptions| {
            options.activation = Some(SaidActivation::Softmax);
        };
        prepared(&model, said).expect("the user says what it is");
    }
    // SqueezeNet's logits are those of a ReLU.
    prepared(&ending(vec![node("Relu", &["scores"], "q")], "q", &[1, 5]), |_| {}).unwrap();
}

#[test]
fn steps_that_the_engine_does_not_know_are_refused_in_our_words() {
    let resize = |attributes: &[AttributeProto]| {
        let mut node = node("Resize", &["image", "", "scales"], "shown");
        node.attribute.extend_from_slice(attributes);
        node
    };
    let mode = |mode| text_attribute("mode", mode);
    let rule = text_attribute("coordinate_transformation_mode", "tf_half_pixel_for_nn");
    let cubic = [mode("cubic"), float_attribute("cubic_coeff_a", -0.5)];
    let mut blocks = node("DequantizeLinear", &["image", "one"], "shown");
    blocks.attribute = vec![int_attribute("block_size", 4)];
    for (step, parts) in [
        (resize(&[mode("nearest"), rule]), &["tf_half_pixel_for_nn", "--filter"][..]),
        (resize(&cubic), &["bicubically", "-0.5", "--filter"]),
        (resize(&[mode("linear"), int_attribute("antialias", 1)]), &["antialiasing", "--filter"]),
        (node("DFT", &["image"], "shown"), &["Fourier", "matrix"]),
        (node("RandomUniformLike", &["image"], "shown"), &["random", "model.eval()"]),
        (
            node("QuantizeLinear", &["image", "one", "wide"], "shown"),
            &["16 bits", "activation_type"],
        ),
        (node("DequantizeLinear", &["wide", "one"], "shown"), &["16 bits", "weight_type"]),
        (blocks, &["block_size", "per_channel=True"]),
    ] {
        let mut model = classifier();
        let graph = model.graph.as_mut().unwrap();
        graph.node[0].input[0] = "shown".to_owned();
        graph.node.insert(0, step);
        graph.initializer.push(tensor("scales", &[4], &[1.0, 1.0, 2.0, 2.0]));
        graph.initializer.push(tensor("one", &[], &[1.0]));
        graph.initializer.push(TensorProto {
            data_type: Some(DataType::UINT16),
            raw_data: Some(RefCell::new(vec![0, 0])),
            ..tensor("wide", &[], &[])
        });
        says(prepared(&model, |_| {}), parts);
    }
}

#[test]
fn weights_of_four_bits_are_refused_with_advice() {
    let mut model = classifier();
    model.graph.as_mut().unwrap().initializer.push(TensorProto {
        data_type: Some(DataType::INT4),
        raw_data: Some(RefCell::new(vec![0x21])),
        ..tensor("narrow", &[2], &[0.0; 2])
    });
    says(prepared(&model, |_| {}), &["\"narrow\"", "INT4", "weight_type=QuantType.QInt8"]);
}

#[test]
fn a_name_that_no_request_could_have_is_refused_before_the_work() {
    for (folder, name, parts) in [
        ("Skin", "", &["\"Skin\"", "-o ", "/skin"][..]),
        ("my model", "", &["my model", "/my-model"]),
        ("häut", "", &["häut", "such a name"]),
        ("out", "Skin", &["\"Skin\"", "--name skin"]),
    ] {
        // A file that is not read: the name is checked first.
        let home = tempfile::tempdir().unwrap();
        let mut options = common::options(home.path().join("nothing.onnx"), home.path());
        (options.output, options.name) = (home.path().join(folder), name.to_owned());
        says(skincell_modelkit::prepare(&options, &mut |_| {}), parts);
    }
}

/// Two convolutions of the photo in different sizes, pooled and added: no map lies on all paths. The second
/// one's photo is mirrored.
fn ensemble() -> ModelProto {
    let mut model = classifier();
    let graph = model.graph.as_mut().unwrap();
    let named = |name: &str, mut node: NodeProto| {
        node.name = Some(name.to_owned());
        node
    };
    graph.node = vec![
        conv(&["image", "w", "b"], "z", 3),
        named("upright", node("Relu", &["z"], "a")),
        node("Slice", &["image", "from", "to", "axis", "step"], "mirrored"),
        conv(&["mirrored", "w", "b"], "z2", 3),
        named("turned", node("Relu", &["z2"], "a2")),
        node("GlobalAveragePool", &["a"], "g"),
        node("GlobalMaxPool", &["a2"], "g2"),
        node("Add", &["g", "g2"], "sum"),
        node("Flatten", &["sum"], "f"),
        node("Gemm", &["f", "dense", "dense_b"], "scores"),
    ];
    for (name, number) in [("from", -1), ("to", -9), ("axis", 3), ("step", -1)] {
        graph.initializer.push(integers(name, &[number]));
    }
    model
}

#[test]
fn only_layers_that_can_be_shown_are_proposed() {
    let report = prepared(&ensemble(), |_| {}).unwrap();
    let why = report.card.gradcam_missing.expect("no heatmap");
    assert!(why.contains("--cam-layer NAME") && why.contains("upright"), "{why}");
    assert!(!why.contains("turned"), "{why}");
    let named = |name: &str| {
        let name = name.to_owned();
        prepared(&ensemble(), move |options| options.layer = Some(name))
    };
    says(named("turned"), &["--cam-layer", "mirrors the photo"]);
    named("upright").expect("it was proposed");
    let error = named("nothing").expect_err("no such layer").to_string();
    assert!(error.contains("upright") && !error.contains("turned"), "{error}");
}

#[test]
fn a_weight_that_is_no_number_is_refused_by_its_name() {
    // ReLU answers 0 for NaN, so that the scores do not show it.
    let mut model = classifier();
    let mut weights = noise(1, 16 * 27);
    weights[30] = f32::NAN;
    model.graph.as_mut().unwrap().initializer[0] = tensor("w", &[16, 3, 3, 3], &weights);
    says(prepared(&model, |_| {}), &["element 30", "\"w\"", "NaN", "export the model again"]);
}

#[test]
fn a_batch_norm_whose_folding_makes_no_numbers_is_refused() {
    let mut model = classifier();
    let graph = model.graph.as_mut().unwrap();
    graph.node[1] = node("Relu", &["normed"], "a");
    graph.node.insert(1, node("BatchNormalization", &["z", "s", "s", "s", "v"], "normed"));
    graph.initializer.push(tensor("s", &[16], &[1.0; 16]));
    graph.initializer.push(tensor("v", &[16], &[-1.0; 16]));
    says(prepared(&model, |_| {}), &["NaN"]);
}

#[test]
fn a_mask_of_minus_infinity_that_no_score_meets_is_no_fault() {
    let mut model = ending(vec![node("Max", &["scores", "least"], "q")], "q", &[1, 5]);
    let graph = model.graph.as_mut().unwrap();
    graph.initializer.push(tensor("least", &[], &[f32::NEG_INFINITY]));
    prepared(&model, |_| {}).expect("it changes no score");
}
