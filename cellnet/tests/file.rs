//! The file `model.cell`: packing is reproducible, and opening detects every flipped byte, truncation and
//! other version. Also the packer's refusals, which name operator and node.

#![allow(clippy::unwrap_used, reason = "a test that cannot write its files has failed")]

use std::path::Path;

use cellnet::pack::{Options, pack};
use cellnet::{InferenceError, Model, OpenError, PackError, Pool, TensorRef, Workspace};
use rten_onnx::onnx::ModelProto;

mod common;
use common::{declared, ints, model, node, tensor};

/// Conv 3×3, ReLU, global mean, flatten, Gemm, and `last` as the last operator.
fn graph(last: &str) -> ModelProto {
    let nodes = vec![
        node("Conv", &["x", "w", "b"], "a", vec![ints("pads", &[1, 1, 1, 1])]),
        node("Relu", &["a"], "r", vec![]),
        node("GlobalAveragePool", &["r"], "g", vec![]),
        node("Flatten", &["g"], "f", vec![]),
        node("MatMul", &["f", "d"], "m", vec![]),
        node(last, &["m"], "y", vec![]),
    ];
    let initializer = vec![
        tensor("w", &[16, 3, 3, 3], |i| (i % 7) as f32 * 0.1 - 0.3),
        tensor("b", &[16], |i| i as f32 * 0.01),
        tensor("d", &[16, 4], |i| (i % 5) as f32 * 0.2 - 0.4),
    ];
    model(nodes, initializer, vec![declared("x", &[1, 3, 12, 12])], &["y"])
}

fn packed(folder: &Path, last: &str) -> Result<Vec<u8>, PackError> {
    let path = folder.join("model.onnx");
    std::fs::write(&path, graph(last).write_buf().unwrap()).unwrap();
    pack(&path, &Options::default())
}

#[test]
fn the_same_graph_gives_the_same_bytes_and_a_sound_answer() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = packed(folder.path(), "Softmax").unwrap();
    assert_eq!(bytes, packed(folder.path(), "Softmax").unwrap());
    let path = folder.path().join("model.cell");
    std::fs::write(&path, &bytes).unwrap();
    let model = Model::open(&path).unwrap();
    model.verify().unwrap();
    model.touch();
    assert!(model.is_mapped());
    let mut workspace = Workspace::new(&model);
    assert_eq!(workspace.bytes(), 0);
    let input = vec![0.5f32; 432];
    let pool = Pool::new(2);
    let outputs = model.run(&mut workspace, &pool, &[("x", TensorRef::F32(&input))]).unwrap();
    let (name, tensor) = &outputs[0];
    assert_eq!((name.as_str(), tensor.dims.as_slice()), ("y", [1, 4].as_slice()));
    assert!((tensor.values.iter().sum::<f32>() - 1.0).abs() < 1e-6);
    assert!(workspace.bytes() > 0 && workspace.bytes() <= model.workspace_bytes(2));
    workspace.release();
    assert_eq!(workspace.bytes(), 0);
}

#[test]
fn each_wrong_input_has_its_own_error() {
    let folder = tempfile::tempdir().unwrap();
    let model = Model::from_bytes(&packed(folder.path(), "Softmax").unwrap()).unwrap();
    let other = Model::from_bytes(&packed(folder.path(), "Softmax").unwrap()).unwrap();
    let (pool, floats) = (Pool::new(1), vec![0.0f32; 432]);
    let mut workspace = Workspace::new(&model);
    let mut run =
        |inputs: &[(&str, TensorRef<'_>)]| model.run(&mut workspace, &pool, inputs).unwrap_err();
    assert!(matches!(run(&[]), InferenceError::MissingInput { .. }));
    assert!(matches!(run(&[("z", TensorRef::F32(&floats))]), InferenceError::UnknownInput { .. }));
    assert!(matches!(run(&[("x", TensorRef::U8(&[0; 432]))]), InferenceError::Dtype { .. }));
    assert!(matches!(
        run(&[("x", TensorRef::F32(&floats[1..]))]),
        InferenceError::Length { found: 431, .. }
    ));
    let input = [("x", TensorRef::F32(floats.as_slice()))];
    let refused = other.run(&mut workspace, &pool, &input).unwrap_err();
    assert_eq!(refused, InferenceError::Workspace);
}

#[test]
fn every_flipped_byte_of_header_and_plan_is_detected() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = packed(folder.path(), "Softmax").unwrap();
    let weights = u64::from_le_bytes(bytes[24..32].try_into().unwrap()) as usize;
    for at in 0..weights {
        for flip in [1u8, 0x80, 0xff] {
            let mut broken = bytes.clone();
            broken[at] ^= flip;
            let error = Model::from_bytes(&broken).unwrap_err();
            match at {
                0..8 => assert!(matches!(error, OpenError::Magic { .. }), "{at}: {error}"),
                8..12 => assert!(matches!(error, OpenError::Version { .. }), "{at}: {error}"),
                12..64 => {
                    assert!(
                        matches!(error, OpenError::Checksum { part: "header", .. }),
                        "{at}: {error}"
                    );
                }
                _ => assert!(
                    matches!(error, OpenError::Checksum { part: "plan", .. }),
                    "{at}: {error}"
                ),
            }
        }
    }
    let mut broken = bytes.clone();
    broken[weights + 5] ^= 1;
    let model = Model::from_bytes(&broken).unwrap();
    assert!(matches!(model.verify(), Err(OpenError::Checksum { part: "weights", .. })));
}

#[test]
fn every_truncation_is_detected() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = packed(folder.path(), "Softmax").unwrap();
    for length in 0..bytes.len() {
        let error = Model::from_bytes(&bytes[..length]).unwrap_err();
        assert!(matches!(error, OpenError::Length { .. }), "{length}: {error}");
    }
    let longer = [bytes, vec![0; 64]].concat();
    assert!(matches!(Model::from_bytes(&longer), Err(OpenError::Length { .. })));
    let empty = folder.path().join("empty.cell");
    std::fs::write(&empty, []).unwrap();
    assert!(Model::open(&empty).is_err());
    assert!(matches!(Model::open(folder.path().join("none")), Err(OpenError::Io { .. })));
}

#[test]
fn an_unknown_operator_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = packed(folder.path(), "LpNormalization").unwrap_err();
    let PackError::Operator { op, node, .. } = error else { panic!("{error}") };
    assert_eq!((op.as_str(), node.as_str()), ("LpNormalization", "node_y"));
}

#[test]
fn a_file_that_is_no_graph_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    std::fs::write(&path, b"not protobuf at all, not at all").unwrap();
    assert!(matches!(pack(&path, &Options::default()), Err(PackError::Read(_))));
    let gone = folder.path().join("gone.onnx");
    assert!(matches!(pack(&gone, &Options::default()), Err(PackError::Read(_))));
}

/// The graph of [`graph`] with other weights or padding of the convolution.
fn packed_with(change: impl FnOnce(&mut ModelProto)) -> Result<Vec<u8>, PackError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    let mut model = graph("Softmax");
    change(&mut model);
    std::fs::write(&path, model.write_buf().unwrap()).unwrap();
    pack(&path, &Options::default())
}

#[test]
fn weights_that_are_no_numbers_are_refused_by_the_name_of_their_tensor() {
    let nan = |at: usize| move |i: usize| if i == at { f32::NAN } else { 0.5 };
    let error = packed_with(|model| {
        model.graph.as_mut().unwrap().initializer[0] = tensor("w", &[16, 3, 3, 3], nan(7));
    });
    let error = error.unwrap_err();
    let PackError::Tensor { name, reason } = &error else { panic!("{error}") };
    assert!(name == "w" && reason.contains("element 7 is NaN"), "{error}");
}

#[test]
fn a_padding_that_no_memory_holds_is_refused_at_its_node() {
    for pad in [10_000, 1 << 31] {
        let error = packed_with(|model| {
            let conv = &mut model.graph.as_mut().unwrap().node[0];
            conv.attribute = vec![ints("pads", &[pad; 4])];
        });
        let error = error.unwrap_err();
        let PackError::Operator { op, reason, .. } = &error else { panic!("{error}") };
        assert!(op == "Conv" && reason.contains("elements"), "{error}");
    }
}

#[cfg(unix)]
#[test]
fn a_pipe_in_place_of_a_file_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("model.cell");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let error = Model::open(&pipe).unwrap_err();
    let OpenError::Io { source, .. } = &error else { panic!("{error}") };
    assert!(source.to_string().contains("pipe"), "{source}");
    let error = pack(&pipe, &Options::default()).unwrap_err();
    assert!(error.to_string().contains("pipe"), "{error}");
}
