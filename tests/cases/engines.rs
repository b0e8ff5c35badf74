//! Compares the engines on the same models and photos. Packing a model (cellnet) or naming ONNX Runtime's
//! library selects another engine, which must give the same answers.

#![allow(clippy::unwrap_used, reason = "a test")]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use skincell_modelkit::pack::{PackOptions, pack};
use skincell_tests::client::{Request, get};
use skincell_tests::{App, Runner, artifacts, repository};
use skincell_vision::photo::{Limits, Photo, decode};
use std::path::Path;
use std::process::Command;

const MODELS: [&str; 2] = ["skin", "imagenet"];
const PHOTOS: [&str; 4] =
    ["drawn-eczema-1.jpg", "drawn-keratosis-1.jpg", "astronaut.webp", "skin.jpg"];

/// Largest difference of a probability, in per cent. The engines compute in single precision in different
/// orders.
const PERCENT: f64 = 0.01;
/// Largest mean difference of an overlay's levels, of 255.
const LEVELS: f64 = 0.5;

/// The repository's models in a temporary folder, each packed into a `model.cell`.
fn with_packed_models() -> App {
    let app = App::with_own_models();
    let models = app.path().join("models");
    for model in MODELS {
        let folder = models.join(model);
        let _ = std::fs::remove_file(folder.join("model.cell"));
        pack(&folder, &PackOptions::default()).unwrap();
    }
    app
}

fn ask(runner: &Runner, model: &str, photo: &[u8]) -> Value {
    let query = format!("?model={model}&top_k=1000");
    let answer = Request::predict(&query, "application/octet-stream", photo).send(runner);
    assert_eq!(answer.status, 200, "{}", answer.json());
    answer.json()
}

fn shares(answer: &Value) -> Vec<f64> {
    let mut shares: Vec<(u64, f64)> = answer["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|result| (result["index"].as_u64().unwrap(), result["probability"].as_f64().unwrap()))
        .collect();
    shares.sort_by_key(|(index, _)| *index);
    shares.into_iter().map(|(_, share)| share).collect()
}

fn overlay(answer: &Value) -> Photo {
    let png = STANDARD.decode(answer["heatmap_base64"].as_str().unwrap()).unwrap();
    decode(&png, (1, 1), &Limits::default()).unwrap()
}

fn compare(photo: &str, model: &str, one: &Value, other: &Value) {
    assert_eq!(one["results"][0]["class"], other["results"][0]["class"], "{photo} {model}");
    assert_eq!(one["heatmap_basis"], other["heatmap_basis"], "{photo} {model}");
    let (one_shares, other_shares) = (shares(one), shares(other));
    assert_eq!(one_shares.len(), other_shares.len());
    let pairs = one_shares.iter().zip(&other_shares);
    let percent = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    let (one, other) = (overlay(one), overlay(other));
    let pairs = one.pixels().iter().zip(other.pixels());
    let sum: u64 = pairs.map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    let levels = sum as f64 / one.pixels().len() as f64;
    println!("{photo} {model}: {percent:.5} per cent, {levels:.3} levels");
    assert!(percent <= PERCENT, "{photo} {model}: probabilities differ by {percent}");
    assert!(levels <= LEVELS, "{photo} {model}: overlays differ by {levels}");
}

#[test]
fn both_engines_answer_the_same() {
    let app = with_packed_models();
    let cellnet = Runner::start(&app, &[]);
    let rten = Runner::start(&app, &["--engine", "rten"]);
    for photo in PHOTOS {
        let bytes = std::fs::read(repository().join("tests/photos").join(photo)).unwrap();
        for model in MODELS {
            compare(photo, model, &ask(&cellnet, model, &bytes), &ask(&rten, model, &bytes));
        }
    }
    served_by(&cellnet, "cellnet");
    served_by(&rten, "rten");
}

fn served_by(runner: &Runner, engine: &str) {
    let memory = get(runner, "/memory").json();
    for model in memory["models"].as_array().unwrap() {
        assert_eq!((&model["engine"], &model["loaded"]), (&engine.into(), &true.into()));
    }
}

/// The library that ORT_DYLIB_PATH names, or `None` after printing why the test is skipped.
fn onnxruntime() -> Option<String> {
    let library = std::env::var("ORT_DYLIB_PATH").ok().filter(|path| !path.is_empty());
    if library.is_none() {
        println!("skipped: ORT_DYLIB_PATH names no ONNX Runtime library");
    }
    library
}

#[test]
fn onnxruntime_answers_the_same_alone_and_concurrently() {
    let Some(library) = onnxruntime() else { return };
    let app = App::with_own_models();
    let rten = Runner::start(&app, &["--engine", "rten"]);
    let flags = ["--engine", "onnxruntime", "--engine-lib", &library, "--max-concurrency", "4"];
    let private = Runner::start(&app, &flags);
    // The limit leaves no room for private weights, so they stay mapped.
    let flags = ["--engine", "onnxruntime", "--engine-lib", &library, "--memory-limit", "96MiB"];
    let mapped = Runner::start(&app, &flags);
    for photo in PHOTOS {
        let bytes = std::fs::read(repository().join("tests/photos").join(photo)).unwrap();
        for model in MODELS {
            let expected = ask(&rten, model, &bytes);
            compare(photo, model, &ask(&mapped, model, &bytes), &expected);
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| compare(photo, model, &ask(&private, model, &bytes), &expected));
                }
            });
        }
    }
    served_by(&private, "onnxruntime");
    served_by(&mapped, "onnxruntime");
}

#[test]
fn auto_prefers_cellnet_and_takes_onnxruntime_only_with_enough_memory() {
    let Some(library) = onnxruntime() else { return };
    let served_by = |app: &App, flags: &[&str]| {
        let flags = [flags, &["--engine-lib", &library]].concat();
        let memory = get(&Runner::start(app, &flags), "/memory").json();
        memory["models"][0]["engine"].as_str().unwrap().to_owned()
    };
    assert_eq!(served_by(&with_packed_models(), &[]), "cellnet");
    let unpacked = App::with_colours();
    assert_eq!(served_by(&unpacked, &["--memory-limit", "none"]), "onnxruntime");
    assert_eq!(served_by(&unpacked, &["--memory-limit", "80MiB"]), "rten");
}

#[test]
fn without_its_library_onnxruntime_is_refused_at_the_start() {
    let app = App::with_colours();
    let binary = &skincell_tests::artifacts().runner;
    let start = |flags: &[&str]| {
        let mut command = std::process::Command::new(binary);
        command.args(["up", "--listen", "127.0.0.1:0", "--engine", "onnxruntime", "--from"]);
        command.arg(app.path()).args(flags).env_remove("ORT_DYLIB_PATH");
        let output = command.output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let unnamed = start(&[]);
    assert!(unnamed.contains("--engine-lib"), "{unnamed}");
    let missing = start(&["--engine-lib", "nowhere.so"]);
    assert!(missing.contains("nowhere.so"), "{missing}");
}

#[test]
fn a_damaged_model_cell_is_answered_and_can_be_replaced() {
    let app = with_packed_models();
    let cell = app.path().join("models/skin/model.cell");
    damage(&cell);
    let runner = Runner::start(&app, &[]);
    let photo = std::fs::read(repository().join("tests/photos").join(PHOTOS[0])).unwrap();
    let answer = Request::predict("", "application/octet-stream", photo.clone()).send(&runner);
    assert_eq!((answer.status, answer.problem().as_str()), (503, "model-unavailable"));
    pack(cell.parent().unwrap(), &PackOptions::default()).unwrap();
    ask(&runner, "skin", &photo);
}

/// Inverts one byte of the plan.
fn damage(cell: &Path) {
    let mut bytes = std::fs::read(cell).unwrap();
    bytes[200] ^= 0xff;
    // Written as a new file, because a mapped file must not change.
    std::fs::remove_file(cell).unwrap();
    std::fs::write(cell, bytes).unwrap();
}

#[test]
fn a_packed_file_of_an_earlier_graph_does_not_outlive_it() {
    let app = with_packed_models();
    let folder = app.path().join("models/skin");
    let graph = std::fs::read(folder.join("model.onnx")).unwrap();
    let changed: Vec<u8> = (0..graph.len())
        .map(|i| if graph[i..].starts_with(b"Conv") { b'K' } else { graph[i] })
        .collect();
    assert_ne!(changed, graph, "it has convolutions");
    std::fs::remove_file(folder.join("model.onnx")).unwrap();
    std::fs::write(folder.join("model.onnx"), changed).unwrap();
    let mut command = Command::new(&artifacts().runner);
    let output = command.args(["model", "pack"]).arg(&folder).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("stays with rten") && said.contains("is removed"), "{said}");
    assert!(!folder.join("model.cell").exists());
}
