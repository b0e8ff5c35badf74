//! Inputs beside the photo: `--input-default` sets their default, and scores and heatmap follow the value of
//! the request.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use std::path::Path;

use common::{CHANNELS, CLASSES, classifier, float_value, node, noise, options, tensor};
use rten_onnx::onnx::ModelProto;
use skincell_engines::{Dtype, Engine, Rten, Source, Tensor};
use skincell_modelkit::prepare;
use skincell_vision::card::Card;

/// The classifier with an input `age`, which the hidden layer reads beside the features.
fn with_age() -> ModelProto {
    let mut model = classifier();
    let graph = model.graph.as_mut().expect("it has a graph");
    let (wide, hidden, classes) = (CHANNELS as i64 + 1, 6, CLASSES as i64);
    graph.input.push(float_value("age", &[1, 1]));
    graph.node.pop();
    let mut joined = node("Concat", &["f", "age"], "joined");
    joined.attribute = vec![skincell_onnx::build::int_attribute("axis", 1)];
    graph.node.extend([
        joined,
        node("Gemm", &["joined", "hidden", "hidden_b"], "h"),
        node("Tanh", &["h"], "t"),
        node("Gemm", &["t", "last", "dense_b"], "scores"),
    ]);
    graph.initializer.remove(2);
    graph.initializer.extend([
        tensor("hidden", &[wide, hidden], &noise(7, (wide * hidden) as usize)),
        tensor("hidden_b", &[hidden], &noise(8, hidden as usize)),
        tensor("last", &[hidden, classes], &noise(9, (hidden * classes) as usize)),
    ]);
    model
}

/// Card, scores and maps of a prepared folder for an age; with `None` the default is used.
fn answers(folder: &Path, age: Option<f32>) -> (Card, Vec<Vec<f32>>) {
    let card = Card::parse(&std::fs::read(folder.join("card.json")).unwrap()).unwrap();
    let floats = |shape: &[u32], values: &[f32]| {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Tensor::new(shape.to_vec(), Dtype::F32, bytes)
    };
    let photo = ("image".to_owned(), floats(&[1, 3, 8, 8], &noise(5, 192)));
    let age = age.map(|age| ("age".to_owned(), floats(&[1, 1], &[age])));
    let model = Rten::new(1).load(Source::Folder(folder)).expect("loads");
    let inputs: Vec<_> = std::iter::once(photo).chain(age).collect();
    let outputs = model.run(&inputs).expect("runs");
    let of = |name: &str| {
        let (_, tensor) = outputs.iter().find(|(output, _)| output == name).expect("an output");
        tensor.to_f32().expect("float32")
    };
    let cam = &card.gradcam.as_ref().expect("a heatmap").output;
    let found = vec![of(&card.output.name), of(cam)];
    (card, found)
}

#[test]
fn a_request_overrides_the_default() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let raw = home.path().join("raw.onnx");
    std::fs::write(&raw, with_age().write_buf().expect("encodes")).expect("written");
    let made = |name: &str, age: f32| {
        let mut options = options(raw.clone(), home.path());
        (options.output, options.defaults) =
            (home.path().join(name), vec![("age".to_owned(), vec![age])]);
        let report = prepare(&options, &mut |_| {}).expect("it is prepared");
        assert!(report.notes.iter().all(|note| !note.contains("built into the graph")));
        home.path().join(name)
    };
    let (young, old) = (made("young", 0.1), made("old", 0.9));
    let (card, at_old) = answers(&young, Some(0.9));
    let [field] = &card.fields[..] else { panic!("{:?}", card.fields) };
    assert_eq!(
        (field.name.as_str(), &field.shape[..], &field.default[..]),
        ("age", &[1, 1][..], &[0.1][..])
    );
    let (_, by_default) = answers(&old, Some(0.9));
    let (_, at_young) = answers(&young, Some(0.1));
    assert_eq!(at_old, by_default, "a value has the same result in a request and as default");
    for (a, b) in at_old.iter().zip(&at_young) {
        let off = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(off > 1e-3, "the age matters: {off}");
    }
}
