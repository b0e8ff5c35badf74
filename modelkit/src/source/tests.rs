//! Files and folders by their content, under right and wrong names.

use std::fs;

use super::zip::archive;
use super::*;

/// An ONNX model with a graph and an operator set, as far as its tags go.
const ONNX: &[u8] = &[0x08, 8, 0x3a, 2, 0x22, 0, 0x42, 2, 0x10, 17];

/// The beginning of an HDF5 file that says it has `size` bytes.
fn hdf5(size: u64) -> Vec<u8> {
    let begin = [&b"\x89HDF\r\n\x1a\n"[..], &[0; 5], &[8, 8], &[0; 25]].concat();
    [&begin[..], &size.to_le_bytes(), &[0; 16]].concat()
}

/// What is found at the path of a file with this content.
fn found(name: &str, bytes: &[u8]) -> Result<Option<Framework>, String> {
    let home = tempfile::tempdir().expect("a temporary folder");
    let file = home.path().join(name);
    fs::write(&file, bytes).expect("written");
    let source = find(&file).map_err(|error| error.to_string())?;
    assert_eq!(source.path, file);
    Ok(source.framework)
}

#[test]
fn the_content_decides_what_reads_a_file() {
    let keras = archive(&["metadata.json", "config.json", "model.weights.h5"]);
    let program = archive(&["net/models/model.json", "net/archive_format"]);
    let script = archive(&["net/data.pkl", "net/code/__torch__.py"]);
    for name in ["a.onnx", "a.pt", "a.pth", "a.h5", "a.keras", "a.pb", "a", "A.ONNX"] {
        assert_eq!(found(name, ONNX), Ok(None), "{name}");
    }
    for name in ["a.pt", "a.pt2", "a.pth", "a.bin"] {
        assert_eq!(found(name, &program), Ok(Some(Framework::Torch)), "{name}");
        assert_eq!(found(name, &script), Ok(Some(Framework::Torch)), "{name}");
    }
    assert_eq!(found("a.keras", &keras), Ok(Some(Framework::Keras)));
    assert_eq!(found("a.h5", &hdf5(64)), Ok(Some(Framework::Keras)));
    assert_eq!(found("a.onnx", b"neither"), Ok(None), "the reader of ONNX refuses it");
}

#[test]
fn a_file_of_another_kind_is_refused_with_what_it_is_and_what_to_do() {
    let keras = archive(&["config.json", "model.weights.h5"]);
    let weights = archive(&["net/data.pkl", "net/data/0"]);
    let safetensors = [&7_u64.to_le_bytes()[..], b"{\"a\":1}", &[0; 8]].concat();
    let cases: &[(&str, &[u8], &[&str])] = &[
        ("a.onnx", &[], &["empty", "export it again"]),
        ("a.json", br#"{"module": "keras", "class_name": "Functional", "#, &["load_weights"]),
        ("a.json", br#"{"modelTopology": {"class_name": "Model", "#, &["TensorFlow.js"]),
        ("a.onnx", b"\xff\xd8\xff\xe0", &["a photo and not a model", "classify"]),
        ("a.keras", &keras[..keras.len() - 8], &["cut short", "save it again"]),
        ("a.pt2", &archive(&["x/archive_format"])[..40], &["cut short"]),
        ("a.h5", &hdf5(9000), &["cut short"]),
        ("a.h5", &keras, &["archive of Keras", ".keras: rename"]),
        ("a.keras", &hdf5(64), &["HDF5", ".h5: rename"]),
        ("a.H5", &hdf5(64), &[".h5: rename"]),
        ("a.pth", &weights, &["pickle", "load_state_dict", "yolo export"]),
        ("a.pt", &[0x80, 2, 0x8a, 10], &["pickle", "torch.onnx.export"]),
        ("learner.PKL", b"x", &["pickle", "fastai"]),
        ("weights.pth", b"x", &["weights", "load_state_dict"]),
        ("a.onnx", &[&[28, 0, 0, 0][..], b"TFL3"].concat(), &["TensorFlow Lite", "--tflite"]),
        ("a.tflite", b"x", &["TensorFlow Lite", "--tflite"]),
        ("a.onnx", &[&[20, 0, 0, 0][..], b"ORTM"].concat(), &["ONNX Runtime", ".onnx file"]),
        ("a.pt", &safetensors, &["weights", "optimum-cli"]),
        ("model.safetensors", b"x", &["weights", "optimum-cli"]),
        ("a.mlmodel", b"x", &["Core ML", "made from"]),
        ("a.zip", &archive(&["coremldata.bin"]), &["Core ML"]),
        ("a.zip", &archive(&["model.onnx"]), &["unpack it first"]),
        ("a.keras", &archive(&["photo.png"]), &["without the members", "model.save"]),
        ("saved_model.pb", b"x", &["name its folder", "--graphdef"]),
        ("a.engine", b"x", &["another engine", "ONNX"]),
        ("a.keras", b"version https://git-lfs", &["git lfs pull"]),
        ("a.pt", b"<!DOCTYPE html>", &["web page", "download"]),
        ("a.keras", b"no model", &["Keras file", "\"no model\"", "model.save"]),
        ("a.pt2", b"no model", &["PyTorch file", "torch.export.save"]),
    ];
    for (name, bytes, parts) in cases {
        let error = found(name, bytes).expect_err(name);
        assert!(parts.iter().all(|part| error.contains(part)), "{parts:?}: {error}");
    }
}

/// What is found in a folder with these files.
fn in_folder_of(names: &[&str]) -> Result<String, String> {
    let home = tempfile::tempdir().expect("a temporary folder");
    for name in names {
        let file = home.path().join(name);
        fs::create_dir_all(file.parent().expect("a folder")).expect("made");
        fs::write(file, ONNX).expect("written");
    }
    let source = find(home.path()).map_err(|error| error.to_string())?;
    let inside = source.path.strip_prefix(home.path()).expect("inside").display().to_string();
    Ok(format!("{inside} {:?}", source.framework))
}

#[test]
fn a_folder_is_a_saved_model_or_holds_one_onnx_file_or_is_refused() {
    for (names, right) in [
        (&["saved_model.pb", "variables/x"][..], " Some(Keras)"),
        (&["net.onnx", "net.onnx.data", "labels.txt"], "net.onnx None"),
        (&["model.onnx", "model_fp16.onnx", "config.json"], "model.onnx None"),
    ] {
        assert_eq!(in_folder_of(names).as_deref(), Ok(right));
    }
    for (names, part) in [
        (&["card.json", "model.onnx"][..], "skincell serve"),
        (&["config.json", "metadata.json", "model.weights.h5"], "zipfile -c"),
        (&["data.pkl", "version"], "unpacked file of PyTorch"),
        (&["a.onnx", "b.onnx"], "b.onnx; name the one"),
        (&["a.keras"], "a.keras; name the one"),
        (&["export/saved_model.pb"], "export; name the one"),
        (&["config.json", "model.safetensors"], "optimum-cli"),
        (&["model.json", "group1-shard1of1.bin"], "TensorFlow.js"),
        (&[], "no model"),
    ] {
        let error = in_folder_of(names).expect_err(part);
        assert!(error.contains(part), "{part}: {error}");
    }
}
