//! `inspect`, `check` and `pack` of damaged files: refused with words and the next step.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use std::collections::BTreeSet;
use std::path::Path;

use common::{CHANNELS, classifier, ints, node, noise, prepare_in, tensor};
use rten_onnx::onnx::ModelProto;
use skincell_engines::{Cellnet, Engine};
use skincell_modelkit::check::{CheckOptions, check};
use skincell_modelkit::external::{GRAPH_FILE, WEIGHTS_FILE};
use skincell_modelkit::inspect::inspect;
use skincell_modelkit::pack::{CELL_FILE, Difference, PackOptions, ProofError, pack, prove};
use skincell_modelkit::{CARD_FILE, photos, served};
use skincell_onnx::build::{DataType, int_attribute, integers, value};
use skincell_vision::card::Dtype;

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
fn packed(home: &Path, model: &ModelProto) -> std::path::PathBuf {
    prepare_in(home, model, |options| options.std = [255.0; 3]).unwrap();
    let folder = home.join("out");
    pack(&folder, &PackOptions::default()).unwrap();
    folder
}

#[test]
fn a_flipped_bit_of_packed_weights_is_told_with_what_mends_it() {
    let home = tempfile::tempdir().unwrap();
    let folder = packed(home.path(), &classifier());
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
    let folder = packed(home.path(), &classifier());
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

#[test]
fn a_model_of_bytes_keeps_them_and_is_packed() {
    let home = tempfile::tempdir().unwrap();
    let mut model = classifier();
    let graph = model.graph.as_mut().unwrap();
    graph.input[0] = value("image", DataType::UINT8, &[1, 3, 8, 8]);
    let mut pixels = node("Cast", &["image"], "pixels");
    pixels.attribute = vec![int_attribute("to", i64::from(DataType::FLOAT.0))];
    graph.node[0].input[0] = "pixels".to_owned();
    graph.node.insert(0, pixels);
    let card = prepare_in(home.path(), &model, |_| {}).unwrap().card;
    assert_eq!(card.input.dtype, Dtype::U8);
    pack(&home.path().join("out"), &PackOptions::default()).unwrap();
}

#[test]
fn a_card_with_another_number_of_classes_is_told() {
    let home = tempfile::tempdir().unwrap();
    prepare_in(home.path(), &classifier(), |_| {}).unwrap();
    let folder = home.path().join("out");
    let mut card = served::read_card(&folder).unwrap();
    card.classes.pop();
    std::fs::write(folder.join(CARD_FILE), card.to_json().unwrap()).unwrap();
    let error = pack(&folder, &PackOptions::default()).unwrap_err().to_string();
    assert!(error.contains("returns 5 scores, but the card has 4 classes"), "{error}");
}

#[test]
fn a_packed_file_that_answers_as_another_graph_is_not_kept() {
    let (home, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut model = classifier();
    let folder = packed(home.path(), &model);
    let channels = CHANNELS as i64;
    let weights = tensor("w", &[channels, 3, 3, 3], &noise(9, CHANNELS * 27));
    model.graph.as_mut().unwrap().initializer[0] = weights;
    let other = packed(other.path(), &model);
    let card = served::read_card(&folder).unwrap();
    let photos = photos::drawn(&card.input).unwrap();
    let allowed = Difference { probability: 1e-3, heatmap: 2e-3 };
    let proof = prove(&folder, &folder, &card, &photos, allowed, 1e-6).expect("they agree");
    assert_eq!(proof.photos, photos.len());
    assert!(proof.difference.within(&allowed));
    match prove(&folder, &other, &card, &photos, allowed, 1e-6) {
        Err(ProofError::Differs { found, allowed, .. }) => assert!(!found.within(&allowed)),
        found => panic!("{found:?}"),
    }
    // What is packed and compared lies in a folder of its own, which is removed.
    let files: BTreeSet<_> =
        std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(files, [CARD_FILE, CELL_FILE, GRAPH_FILE, WEIGHTS_FILE].map(Into::into).into());
}
