//! A network that displaces its photo gets no heatmap, because it would lie in the wrong place; padding and
//! steps that keep every part of the photo in its place do not count.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use common::{classifier, ints, node, options, prepare_in};
use rten_onnx::onnx::{ModelProto, NodeProto};
use skincell_modelkit::{CamTarget, PrepareError};
use skincell_onnx::build::integers;
use skincell_vision::card::Target;

/// Nodes of [`classifier`] that read its photo and its map: the convolution and the pooling.
const CONVOLUTION: usize = 0;
const POOLING: usize = 2;

/// The classifier with nodes in front of its node `reader`; the last makes `shown`.
fn before(reader: usize, nodes: Vec<NodeProto>, lists: &[(&str, &[i64])]) -> ModelProto {
    let mut model = classifier();
    let graph = model.graph.as_mut().expect("a graph");
    graph.node[reader].input[0] = "shown".to_owned();
    graph.node.splice(reader..reader, nodes);
    graph.initializer.extend(lists.iter().map(|(name, list)| integers(name, list)));
    model
}

/// A slice of the map along its columns.
fn map_slice(list: [i64; 3]) -> ModelProto {
    let nodes = vec![node("Slice", &["a", "from", "to", "axis", "step"], "shown")];
    let [from, to, step] = [0, 1, 2].map(|index| std::slice::from_ref(&list[index]));
    let lists = [("from", from), ("to", to), ("axis", &[3]), ("step", step)];
    before(POOLING, nodes, &lists)
}

/// The map moved by two columns around its edge, as `torch.roll` is exported.
fn rolled() -> ModelProto {
    let nodes = vec![
        node("Slice", &["a", "two", "end", "axis"], "right"),
        node("Slice", &["a", "zero", "two", "axis"], "left"),
        {
            let mut joined = node("Concat", &["right", "left"], "shown");
            joined.attribute.push(skincell_onnx::build::int_attribute("axis", 3));
            joined
        },
    ];
    let lists: [(&str, &[i64]); 4] = [("zero", &[0]), ("two", &[2]), ("end", &[8]), ("axis", &[3])];
    before(POOLING, nodes, &lists)
}

/// Why the model has no heatmap.
fn missing(model: &ModelProto) -> Option<String> {
    let home = tempfile::tempdir().unwrap();
    let report = prepare_in(home.path(), model, |options| {
        options.target = CamTarget::Only(Target::Activation);
    });
    report.unwrap().card.gradcam_missing
}

fn slice(lists: [&[i64]; 4]) -> ModelProto {
    let nodes = vec![node("Slice", &["image", "starts", "ends", "axes", "steps"], "shown")];
    let named = ["starts", "ends", "axes", "steps"].into_iter().zip(lists);
    before(CONVOLUTION, nodes, &named.collect::<Vec<_>>())
}

fn transposed(perms: &[[i64; 4]]) -> ModelProto {
    let mut value = "image".to_owned();
    let mut nodes = Vec::new();
    for (at, perm) in perms.iter().enumerate() {
        let to = if at + 1 == perms.len() { "shown".to_owned() } else { format!("t{at}") };
        let mut transpose = node("Transpose", &[&value], &to);
        transpose.attribute.push(ints("perm", perm));
        nodes.push(transpose);
        value = to;
    }
    before(CONVOLUTION, nodes, &[])
}

#[test]
fn a_displaced_photo_has_no_heatmap_and_the_reason_names_the_node() {
    let cases = [
        ("cuts a part out", slice([&[2, 2], &[6, 6], &[2, 3], &[1, 1]])),
        ("cuts a part out", slice([&[0], &[4], &[-2], &[1]])),
        ("mirrors", slice([&[-1], &[-9], &[3], &[-1]])),
        ("rows and columns", transposed(&[[0, 1, 3, 2]])),
        ("mirrors", map_slice([-1, -9, -1])),
        ("cuts a part out of its map", map_slice([0, 4, 1])),
        (
            "a border",
            before(
                POOLING,
                vec![node("Pad", &["a", "pads"], "shown")],
                &[("pads", &[0, 0, 2, 2, 0, 0, 2, 2])],
            ),
        ),
        (
            "a border",
            before(
                CONVOLUTION,
                vec![node("Pad", &["image", "pads"], "shown")],
                &[("pads", &[0, 0, 4, 4, 0, 0, 4, 4])],
            ),
        ),
    ];
    for (reason, model) in cases {
        let why = missing(&model).unwrap_or_else(|| panic!("{reason}: it has a heatmap"));
        assert!(why.contains(reason) && why.contains("wrong place"), "{reason}: {why}");
    }
}

#[test]
fn a_photo_that_stays_in_its_place_has_a_heatmap() {
    let whole = [
        slice([&[0], &[8], &[2], &[2]]),
        slice([&[2, 0], &[-9, 8], &[1, 2], &[-1, 1]]),
        transposed(&[[0, 1, 3, 2], [0, 1, 3, 2]]),
        transposed(&[[0, 2, 3, 1], [0, 3, 1, 2]]),
        map_slice([1, 8, 1]),
        map_slice([0, 8, 2]),
        before(
            CONVOLUTION,
            vec![node("Pad", &["image", "pads"], "shown")],
            &[("pads", &[0, 0, 1, 1, 0, 0, 1, 1])],
        ),
    ];
    for (at, model) in whole.iter().enumerate() {
        assert_eq!(missing(model), None, "case {at}");
    }
    // Rolled maps are rolled back in windows; there is no rule for them alone.
    let why = missing(&rolled()).expect("no heatmap");
    assert!(!why.contains("cuts"), "{why}");
}

#[test]
fn a_named_layer_behind_a_cut_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let model = slice([&[2, 2], &[6, 6], &[2, 3], &[1, 1]]);
    let path = home.path().join("raw.onnx");
    std::fs::write(&path, model.write_buf().unwrap()).unwrap();
    let mut options = options(path, home.path());
    options.layer = Some("a".to_owned());
    let error = skincell_modelkit::prepare(&options, &mut |_| {}).expect_err("refused");
    assert!(matches!(error, PrepareError::Layer(_)), "{error}");
    assert!(error.to_string().contains("cuts a part out"), "{error}");
}
