//! A network that displaces its photo gets no heatmap, because it would lie in the wrong place; padding and
//! steps that keep every part of the photo in its place do not count.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use common::{classifier, conv, ints, node, noise, options, prepare_in, tensor};
use rten_onnx::onnx::{ModelProto, NodeProto};
use skincell_modelkit::{CamTarget, PrepareError};
use skincell_onnx::build::{integers, text_attribute};
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
        ("joins a map with one", added_to_its_transpose()),
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
fn a_map_with_a_border_is_not_shown_but_that_before_it() {
    // The second as PyTorch's ZeroPad2d before a maximum writes it: one row below, one column to the right.
    for pads in [[0, 0, 2, 2, 0, 0, 2, 2], [0, 0, 0, 0, 0, 0, 1, 1]] {
        let pad = vec![node("Pad", &["a", "pads"], "shown")];
        let model = before(POOLING, pad, &[("pads", &pads)]);
        let home = tempfile::tempdir().unwrap();
        let shown = |layer: Option<&str>| {
            prepare_in(home.path(), &model, |options| {
                (options.layer, options.force) = (layer.map(str::to_owned), true);
                options.target = match layer {
                    None => CamTarget::Only(Target::Activation),
                    Some(_) => CamTarget::Solvable,
                };
            })
        };
        let card = shown(None).unwrap().card;
        let map = card.gradcam.unwrap_or_else(|| panic!("{:?}", card.gradcam_missing));
        assert_eq!((map.width, map.height, map.layer.as_deref()), (8, 8, Some("node_a")));
        let why = shown(Some("node_shown")).expect_err("it has a border").to_string();
        assert!(why.contains("a border") && why.contains("wrong place"), "{why}");
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
    // A map that is rolled as a whole or cut is not shown, but the one before it is.
    for model in [rolled(), map_slice([0, 4, 1])] {
        let home = tempfile::tempdir().unwrap();
        let report = prepare_in(home.path(), &model, |_| {}).unwrap();
        let layer = report.card.gradcam.and_then(|map| map.layer);
        assert_eq!(layer.as_deref(), Some("node_a"), "{:?}", report.card.gradcam_missing);
    }
}

/// A convolution of the photo to three channels, and from `joined`, of several channels, to three.
fn around(nodes: Vec<NodeProto>, channels: usize, lists: &[(&str, &[i64])]) -> ModelProto {
    let mut all = vec![conv(&["image", "first"], "p", 3)];
    all.extend(nodes);
    all.push(conv(&["joined", "last"], "shown", 1));
    let mut model = before(CONVOLUTION, all, lists);
    let graph = model.graph.as_mut().expect("a graph");
    graph.initializer.push(tensor("first", &[3, 3, 3, 3], &noise(11, 81)));
    let (side, count) = (channels as i64, 3 * channels);
    graph.initializer.push(tensor("last", &[3, side, 1, 1], &noise(12, count)));
    model
}

/// Slices of `p`, each of starts, ends and steps along rows and columns, joined along `axis`.
fn joined(slices: &[[[i64; 2]; 3]], axis: i64) -> ModelProto {
    let mut nodes = Vec::new();
    let mut lists: Vec<(String, Vec<i64>)> = vec![("sides".to_owned(), vec![2, 3])];
    for (at, slice) in slices.iter().enumerate() {
        let names = ["from", "to", "step"].map(|name| format!("{name}{at}"));
        let [from, to, step] = &names;
        nodes.push(node("Slice", &["p", from, to, "sides", step], &format!("part{at}")));
        lists.extend(names.into_iter().zip(slice.map(|list| list.to_vec())));
    }
    let parts: Vec<String> = (0..slices.len()).map(|at| format!("part{at}")).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let mut join = node("Concat", &parts, "joined");
    join.attribute.push(skincell_onnx::build::int_attribute("axis", axis));
    nodes.push(join);
    let lists: Vec<(&str, &[i64])> = lists.iter().map(|(n, l)| (n.as_str(), &l[..])).collect();
    around(nodes, if axis == 1 { 3 * slices.len() } else { 3 }, &lists)
}

/// The photo with its columns in another order, by a product with a matrix of 0 and 1.
fn permuted(order: [usize; 8]) -> ModelProto {
    let mut matrix = vec![0.0; 64];
    order.iter().enumerate().for_each(|(to, from)| matrix[from * 8 + to] = 1.0);
    let mut model = before(CONVOLUTION, vec![node("MatMul", &["image", "matrix"], "shown")], &[]);
    model.graph.as_mut().expect("a graph").initializer.push(tensor("matrix", &[8, 8], &matrix));
    model
}

/// The photo turned by half: as one axis of places, read backward.
fn turned_as_a_list() -> ModelProto {
    let nodes = vec![
        node("Reshape", &["image", "list"], "flat"),
        node("Slice", &["flat", "from", "to", "axis", "step"], "back"),
        node("Reshape", &["back", "map"], "shown"),
    ];
    let lists: [(&str, &[i64]); 6] = [
        ("list", &[1, 3, 64]),
        ("map", &[1, 3, 8, 8]),
        ("from", &[-1]),
        ("to", &[-65]),
        ("axis", &[2]),
        ("step", &[-1]),
    ];
    before(CONVOLUTION, nodes, &lists)
}

/// The photo with its rows and columns exchanged, by an operator whose places are not followed.
fn exchanged() -> ModelProto {
    let mut sum = node("Einsum", &["image"], "shown");
    sum.attribute.push(text_attribute("equation", "bchw->bcwh"));
    before(CONVOLUTION, vec![sum], &[])
}

/// A photo of three channels that a dense layer computes from all pixels.
fn made_by_a_dense_layer() -> ModelProto {
    let nodes = vec![
        node("Reshape", &["image", "list"], "flat"),
        node("MatMul", &["flat", "wide"], "mixed"),
        node("Reshape", &["mixed", "map"], "shown"),
    ];
    let mut model = before(CONVOLUTION, nodes, &[("list", &[1, 192]), ("map", &[1, 3, 8, 8])]);
    let graph = model.graph.as_mut().expect("a graph");
    graph.initializer.push(tensor("wide", &[192, 192], &noise(13, 192 * 192)));
    model
}

/// The photo and itself with rows and columns exchanged, added.
fn added_to_its_transpose() -> ModelProto {
    let mut turn = node("Transpose", &["image"], "turned");
    turn.attribute.push(ints("perm", &[0, 1, 3, 2]));
    before(CONVOLUTION, vec![turn, node("Add", &["image", "turned"], "shown")], &[])
}

#[test]
fn places_that_operators_moved_are_found_by_a_trial() {
    let half = |from, to| [[0, from], [8, to], [1, 1]];
    let places = "in other places of this map";
    for (name, reason, model) in [
        ("turned as a list", places, turned_as_a_list()),
        ("mirrored by a product", places, permuted([7, 6, 5, 4, 3, 2, 1, 0])),
        ("shuffled by a product", places, permuted([2, 3, 6, 7, 0, 1, 4, 5])),
        ("halves as channels", "cuts a part out of its map", joined(&[half(0, 4), half(4, 8)], 1)),
        ("rolled by half", places, joined(&[half(4, 8), half(0, 4)], 3)),
        ("exchanged", "rows and columns are exchanged in this map", exchanged()),
        ("made by a dense layer", places, made_by_a_dense_layer()),
    ] {
        let why = missing(&model).unwrap_or_else(|| panic!("{name}: it has a heatmap"));
        assert!(why.contains(reason) && why.contains("wrong place"), "{name}: {why}");
    }
}

#[test]
fn places_that_only_look_moved_have_a_heatmap() {
    let every = |row, column| [[row, column], [8, 8], [2, 2]];
    let half = |from, to| [[0, from], [8, to], [1, 1]];
    let cells = [every(0, 0), every(1, 0), every(0, 1), every(1, 1)];
    for (name, model) in [
        ("pixels as channels", joined(&cells, 1)),
        ("cut and joined again", joined(&[half(0, 4), half(4, 8)], 3)),
        ("a product that changes nothing", permuted([0, 1, 2, 3, 4, 5, 6, 7])),
    ] {
        assert_eq!(missing(&model), None, "{name}");
    }
}

/// EfficientNets that were padded by TensorFlow's rule got no heatmap: the padding of a small map is wide
/// beside it. Weights that are all equal spread each part of the photo over the whole map, so a trial would
/// refuse it.
#[test]
fn the_padding_of_a_convolution_keeps_places() {
    let padded_by = |rows: i64| {
        let mut small = conv(&["image", "first"], "p", 3);
        small.attribute[1] = ints("strides", &[4, 4]);
        let mut wide = conv(&["padded again", "equal"], "shown", 5);
        wide.attribute[2] = ints("pads", &[0, 0, 0, 0]);
        let same = node("Identity", &["padded"], "padded again");
        let nodes = vec![small, node("Pad", &["p", "pads"], "padded"), same, wide];
        let pads = [0, 0, rows, 2, 0, 0, 2, 2];
        let mut model = before(CONVOLUTION, nodes, &[("pads", &pads)]);
        let graph = model.graph.as_mut().expect("a graph");
        graph.initializer.push(tensor("first", &[3, 3, 3, 3], &noise(11, 81)));
        graph.initializer.push(tensor("equal", &[3, 3, 5, 5], &[0.1; 225]));
        model
    };
    assert_eq!(missing(&padded_by(2)), None);
    let why = missing(&padded_by(4)).expect("more rows than the window spans");
    assert!(why.contains("wrong place"), "{why}");
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
