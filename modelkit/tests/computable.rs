//! A heatmap that is not a number for a photo is found by `prepare`, and the model is served without it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use common::{CHANNELS, classifier, node, noise, prepare_in, tensor};
use rten_onnx::onnx::ModelProto;

/// The classifier with the roots of its means, one of which is 0 for every photo: there the derivative of the
/// root is infinite, in PyTorch as here.
fn roots() -> ModelProto {
    let mut model = classifier();
    let graph = model.graph.as_mut().unwrap();
    let mut biases = noise(2, CHANNELS);
    biases[3] = -100.0;
    graph.initializer[1] = tensor("b", &[CHANNELS as i64], &biases);
    graph.initializer.push(tensor("half", &[], &[0.5]));
    graph.node[4].input[0] = "roots".to_owned();
    graph.node.insert(4, node("Pow", &["f", "half"], "roots"));
    model
}

#[test]
fn a_heatmap_that_is_not_a_number_is_left_out_with_the_reason() {
    let home = tempfile::tempdir().unwrap();
    let card = prepare_in(home.path(), &roots(), |_| {}).expect("prepared").card;
    let why = card.gradcam_missing.expect("no heatmap");
    assert!(card.gradcam.is_none() && why.contains("not a number"), "{why}");
    let error = prepare_in(home.path(), &roots(), |options| {
        options.layer = Some("a".to_owned());
        options.force = true;
    });
    assert!(error.unwrap_err().to_string().contains("not a number"));
}
