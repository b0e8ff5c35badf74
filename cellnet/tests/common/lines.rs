//! Graphs as text: a node a line, with operator, inputs, output, attributes. Inputs that are numbers or
//! lists are constants, and so are those of [`SHAPES`]. The input `x` is `[1, 3, 8, 12]`.
#![allow(clippy::unwrap_used, reason = "a test that cannot pack its graph has failed")]

use cellnet::pack::{Options, pack};
use cellnet::{Model, PackError, Pool, TensorRef, Workspace};
use rten_onnx::onnx::{AttributeProto, NodeProto, TensorProto};

use super::{declared, int, integers, ints, model, node, tensor};

/// A class token and six of the photo, `tokens`, their layer norm `e`, and its queries, keys and values for
/// two heads, `i`, `[3, 1, 2, 7, 4]`.
pub const EMBEDDED: &str = "
    Conv | x patch4 | a | strides=[4,4]
    Reshape | a [1,8,6] | b
    Transpose | b | c | perm=[0,2,1]
    Concat | first c | d | axis=1
    Add | d places | tokens
    LayerNormalization | tokens gamma beta | e | axis=-1
    MatMul | e joined | f
    Add | f shift | g
    Reshape | g [1,7,3,2,4] | h
    Transpose | h | i | perm=[2,0,3,1,4]";

/// The constants of floats.
const SHAPES: &[(&str, &[i64])] = &[
    ("patch4", &[8, 3, 4, 4]),
    ("patch2", &[8, 3, 2, 2]),
    ("first", &[1, 1, 8]),
    ("places", &[1, 7, 8]),
    ("gamma", &[8]),
    ("beta", &[8]),
    ("joined", &[8, 24]),
    ("shift", &[24]),
    ("project", &[8, 8]),
    ("wide", &[8, 16]),
    ("narrow", &[16, 8]),
    ("head", &[5, 8]),
    ("flat", &[5, 192]),
    ("point", &[5, 3, 1, 1]),
    ("cheap", &[5, 1, 3, 3]),
    ("strided", &[10, 1, 3, 3]),
    ("reduce", &[4, 10, 1, 1]),
    ("last", &[96, 5]),
    ("heads", &[1, 2, 6, 6]),
    ("mask", &[1, 4, 1, 6, 6]),
    ("both", &[4, 2, 6, 6]),
    ("gamma4", &[32]),
    ("beta4", &[32]),
    ("merge", &[32, 8]),
    ("end", &[5, 16]),
    ("factors", &[2, 1, 1]),
    ("tokens12", &[1, 2, 12, 12]),
    ("classes", &[5, 1, 1, 8]),
    ("zeros", &[5, 1, 1, 2, 1, 4]),
    ("smaller", &[8, 8, 2, 2]),
    ("keys", &[8, 16]),
];

/// The constant that an input of a node is, if it is one.
fn constant(op: &str, name: &str) -> Option<TensorProto> {
    if let Some((name, dims)) = SHAPES.iter().find(|(own, _)| *own == name) {
        let scale = match *name {
            "gamma" | "beta" | "gamma4" | "beta4" | "heads" | "factors" => 1.0,
            "zeros" => 0.0,
            _ => 0.4,
        };
        return Some(tensor(name, dims, |i| ((i * 37 % 101) as f32 / 50.0 - 1.0) * scale));
    }
    if let Some(list) = name.strip_prefix('[') {
        return Some(integers(name, &numbers(list)));
    }
    let value: f32 = name.parse().ok()?;
    if op == "Gather" {
        return Some(TensorProto { dims: Vec::new(), ..integers(name, &[value as i64]) });
    }
    Some(tensor(name, &[], |_| value))
}

fn numbers(list: &str) -> Vec<i64> {
    list.trim_matches(['[', ']']).split(',').map(|number| number.parse().unwrap()).collect()
}

fn attribute(text: &str) -> AttributeProto {
    let (name, value) = text.split_once('=').unwrap();
    let list = value.starts_with('[');
    if list { ints(name, &numbers(value)) } else { int(name, value.parse().unwrap()) }
}

/// The packed model, or why it cannot be packed.
pub fn packed(text: &str) -> Result<Vec<u8>, PackError> {
    let (mut nodes, mut constants): (Vec<NodeProto>, Vec<TensorProto>) = Default::default();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let parts: Vec<Vec<&str>> =
            line.split('|').map(|part| part.split_whitespace().collect()).collect();
        let (op, inputs, output) = (parts[0][0], &parts[1], parts[2][0]);
        let attributes = parts.get(3).into_iter().flatten().map(|text| attribute(text)).collect();
        for input in inputs {
            let known = constants.iter().any(|own| own.name.as_deref() == Some(*input));
            constants.extend(constant(op, input).filter(|_| !known));
        }
        nodes.push(node(op, inputs, output, attributes));
    }
    let graph = model(nodes, constants, vec![declared("x", &[1, 3, 8, 12])], &["y"]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    std::fs::write(&path, graph.write_buf().unwrap()).unwrap();
    pack(&path, &Options::default())
}

/// Packs a graph and compares its only output with the values of ONNX Runtime.
pub fn check(text: &str, expected: &[f32]) -> Model {
    let model = Model::from_bytes(&packed(text).unwrap()).unwrap();
    let photo: Vec<f32> = (0..3 * 8 * 12).map(|i| (i * 31 % 251) as f32 / 100.0 - 1.0).collect();
    let mut workspace = Workspace::new(&model);
    let given = [("x", TensorRef::F32(&photo))];
    let found = model.run(&mut workspace, &Pool::new(1), &given).unwrap();
    let found = &found[0].1.values;
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() < 5e-6, "{found}, not {expected}");
    }
    model
}
