//! Preparing any ONNX file gives an error, or a folder with a card that can be read.
//!
//! Runs in memory if `/dev/shm` exists. Graphs that need much memory or time are the user's own choice; the
//! limits of `run.py` end those.
#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use skincell_modelkit::{CARD_FILE, CamTarget, PrepareOptions, parse_labels, prepare};
use skincell_vision::card::{Card, Target};
use std::path::Path;

fuzz_target!(|data: &[u8]| -> Corpus {
    let memory = Path::new("/dev/shm");
    let folder = match memory.exists() {
        true => tempfile::tempdir_in(memory),
        false => tempfile::tempdir(),
    };
    let Ok(folder) = folder else { return Corpus::Reject };
    let model = folder.path().join("model.onnx");
    if std::fs::write(&model, data).is_err() {
        return Corpus::Reject;
    }
    let Ok(classes) = parse_labels("red\ngreen\nblue") else { return Corpus::Reject };
    let output = folder.path().join("out");
    let target = match data.len() % 3 {
        0 => CamTarget::Solvable,
        1 => CamTarget::Only(Target::Activation),
        _ => CamTarget::None,
    };
    let options = PrepareOptions {
        model,
        output: output.clone(),
        classes,
        title: "Fuzz".to_owned(),
        license: "Apache-2.0".to_owned(),
        std: [255.0; 3],
        target,
        ..PrepareOptions::default()
    };
    match prepare(&options, &mut |_| {}) {
        Ok(_) => {
            let card = std::fs::read(output.join(CARD_FILE)).unwrap_or_default();
            assert!(Card::parse(&card).is_ok(), "what was written can be read");
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    Corpus::Keep
});
