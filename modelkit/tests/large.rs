//! Nodes whose output would not fit into any memory are refused by name before an engine runs them, and the
//! same nodes with small sizes are taken.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use common::{CLASSES, classifier, float_value, ints, node, prepare_in, tensor};
use rten_onnx::onnx::{AttributeProto, ModelProto, NodeProto, TensorProto};
use skincell_onnx::build::{int_attribute, integers};

fn with<const N: usize>(mut node: NodeProto, attributes: [AttributeProto; N]) -> NodeProto {
    node.attribute.extend(attributes);
    node
}

/// [`classifier`] with nodes that compute `grown`, whose largest element is added to all its scores.
fn growing(nodes: Vec<NodeProto>, constants: Vec<TensorProto>) -> ModelProto {
    let mut model = classifier();
    let graph = model.graph.as_mut().unwrap();
    graph.initializer.extend(constants);
    graph.node.extend(nodes);
    graph.node.push(with(node("ReduceMax", &["grown"], "most"), [int_attribute("keepdims", 0)]));
    graph.node.push(node("Add", &["scores", "most"], "sums"));
    graph.output = vec![float_value("sums", &[1, CLASSES as i64])];
    model
}

/// By operator, a network in which that operator makes something of about `size` times a small map.
fn networks(size: i64) -> Vec<(&'static str, ModelProto)> {
    let image = |operator| node(operator, &["image", "sizes"], "grown");
    let one = |node, sizes: &[i64]| growing(vec![node], vec![integers("sizes", sizes)]);
    let column = |name: &str, count: i64| tensor(name, &[count, 1], &vec![0.5; count as usize]);
    let root = (size as f64).sqrt() as i64;
    let range = vec![
        node("Range", &["from", "to", "by"], "numbers"),
        with(node("Cast", &["numbers"], "grown"), [int_attribute("to", 1)]),
    ];
    let scalar = |name: &str, value| TensorProto { dims: vec![], ..integers(name, &[value]) };
    let steps = vec![scalar("from", 0), scalar("to", size), scalar("by", 1)];
    let hot = node("OneHot", &["class", "sizes", "values"], "grown");
    let hot_values = vec![
        integers("class", &[2]),
        integers("sizes", &[size]),
        tensor("values", &[2], &[0.0, 1.0]),
    ];
    let padded = with(
        node("Conv", &["image", "w", "b"], "grown"),
        [ints("kernel_shape", &[3, 3]), ints("pads", &[size, 1, 1, 1])],
    );
    let pooled = with(
        node("ConvTranspose", &["z", "w"], "grown"),
        [ints("kernel_shape", &[3, 3]), ints("strides", &[size, 1])],
    );
    let resized = |sizes: &[f32]| {
        let constants = vec![tensor("factors", &[4], sizes)];
        growing(vec![node("Resize", &["image", "", "factors"], "grown")], constants)
    };
    let doubled = (0..8).map(|step| {
        let (from, to) = (format!("t{step}"), format!("t{}", step + 1));
        let from = if step == 0 { "image".to_owned() } else { from };
        node("Tile", &[&from, "sizes"], if step == 7 { "grown" } else { &to })
    });
    let eighth = (size as f64).powf(1.0 / 8.0).ceil() as i64;
    vec![
        ("Pad", one(image("Pad"), &[0, 0, 0, 0, 0, 0, size, 0])),
        ("Expand", one(image("Expand"), &[size, 3, 8, 8])),
        ("Tile", one(image("Tile"), &[1, 1, size, 1])),
        ("Tile", growing(doubled.collect(), vec![integers("sizes", &[1, 1, eighth, 1])])),
        ("ConstantOfShape", one(node("ConstantOfShape", &["sizes"], "grown"), &[size])),
        ("Range", growing(range, steps)),
        ("OneHot", growing(vec![hot], hot_values)),
        ("Resize", resized(&[1.0, 1.0, size as f32, 1.0])),
        ("Conv", growing(vec![padded], vec![])),
        ("ConvTranspose", growing(vec![pooled], vec![])),
        ("Add", {
            let turned = tensor("row", &[1, root], &vec![0.5; root as usize]);
            let sum = node("Add", &["column", "row"], "grown");
            growing(vec![sum], vec![column("column", root), turned])
        }),
        ("MatMul", {
            let turned = tensor("row", &[1, root], &vec![0.5; root as usize]);
            let product = node("MatMul", &["column", "row"], "grown");
            growing(vec![product], vec![column("column", root), turned])
        }),
    ]
}

fn prepared(model: &ModelProto) -> Result<(), String> {
    let home = tempfile::tempdir().unwrap();
    let done = prepare_in(home.path(), model, |_| {});
    done.map(drop).map_err(|error| error.to_string())
}

#[test]
fn a_node_that_would_fill_the_memory_is_refused_by_name() {
    for (operator, model) in networks(1 << 31) {
        let error = prepared(&model).expect_err(operator);
        let sentence = format!("{operator} \"");
        assert!(
            error.starts_with(&sentence) && error.contains("would make"),
            "{operator}: {error}"
        );
    }
    for (operator, model) in networks(4) {
        assert_eq!(prepared(&model), Ok(()), "{operator}");
    }
}
