//! `inspect` and `check` of damaged files: refused with words and the next step, before anything is run.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use std::path::Path;

use common::{classifier, ints, node, prepare_in};
use rten_onnx::onnx::ModelProto;
use skincell_engines::{Cellnet, Engine};
use skincell_modelkit::check::{CheckOptions, check};
use skincell_modelkit::inspect::inspect;
use skincell_modelkit::pack::{CELL_FILE, PackOptions, pack};
use skincell_modelkit::{CARD_FILE, served};
use skincell_onnx::build::integers;

/// What the engines say to a graph.
fn engines(model: &ModelProto) -> Vec<(bool, String)> {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("raw.onnx");
    std::fs::write(&path, model.write_buf().unwrap()).unwrap();
    let found = inspect(&path).expect("it is an ONNX file");
    found.engines.into_iter().map(|(_, takes, words)| (takes, words)).collect()
}

#[test]
fn a_graph_that_asks_for_more_than_any_memory_is_not_tried() {
    let mut padded = classifier();
    padded.graph.as_mut().unwrap().node[0].attribute = vec![ints("pads", &[20_000; 4])];
    let mut filled = classifier();
    let graph = filled.graph.as_mut().unwrap();
    graph.initializer.push(integers("sides", &[1 << 40]));
    graph.node.insert(0, node("ConstantOfShape", &["sides"], "bomb"));
    graph.node.push(node("ReduceMax", &["bomb"], "most"));
    graph.node.push(node("Add", &["scores", "most"], "sum"));
    graph.output[0].name = Some("sum".to_owned());
    for (model, named) in [(padded, "Conv"), (filled, "ConstantOfShape")] {
        for (takes, words) in engines(&model) {
            assert!(!takes && words.contains(named) && words.contains("elements"), "{words}");
        }
    }
    assert!(engines(&classifier()).iter().all(|(takes, _)| *takes));
}

/// A packed classifier in the folder `out`.
fn packed(home: &Path) -> std::path::PathBuf {
    prepare_in(home, &classifier(), |options| options.std = [255.0; 3]).unwrap();
    let folder = home.join("out");
    pack(&folder, &PackOptions::default()).unwrap();
    folder
}

#[test]
fn a_flipped_bit_of_packed_weights_is_told_with_what_mends_it() {
    let home = tempfile::tempdir().unwrap();
    let folder = packed(home.path());
    let photos = CheckOptions {
        folder: folder.clone(),
        inputs: Vec::new(),
        reference: None,
        probability_tolerance: 1e-3,
        heatmap_tolerance: 2e-3,
    };
    let cellnet: [Box<dyn Engine>; 1] = [Box::new(Cellnet::new(1))];
    inspect(&folder).expect("sound");
    check(&photos, &cellnet, &mut |_, _| {}).expect("sound");
    let cell = folder.join(CELL_FILE);
    let mut bytes = std::fs::read(&cell).unwrap();
    let weights = u64::from_le_bytes(bytes[24..32].try_into().unwrap()) as usize;
    bytes[weights + 6] ^= 0x40;
    std::fs::write(&cell, bytes).unwrap();
    let errors = [
        inspect(&folder).unwrap_err().to_string(),
        check(&photos, &cellnet, &mut |_, _| {}).unwrap_err().to_string(),
    ];
    for error in errors {
        assert!(error.contains("weights") && error.contains("skincell model pack"), "{error}");
    }
}

#[cfg(unix)]
#[test]
fn a_pipe_in_place_of_a_file_is_refused_at_once() {
    use skincell_modelkit::{prepare, source};

    let home = tempfile::tempdir().unwrap();
    let folder = packed(home.path());
    let pipe = home.path().join("pipe.onnx");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let options = common::options(pipe.clone(), &home.path().join("new"));
    let card = folder.join(CARD_FILE);
    std::fs::remove_file(&card).unwrap();
    std::fs::rename(&pipe, &card).unwrap();
    let of_card = served::read_card(&folder).unwrap_err().to_string();
    std::fs::rename(&card, &pipe).unwrap();
    let errors = [
        of_card,
        inspect(&pipe).unwrap_err().to_string(),
        source::find(&pipe).unwrap_err().to_string(),
        prepare(&options, &mut |_| {}).unwrap_err().to_string(),
    ];
    for error in errors {
        assert!(error.contains("it is a pipe"), "{error}");
    }
}
