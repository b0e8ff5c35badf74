//! `skincell serve`: one model with the component beside the program, without a `spin.toml`.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::path::{Path, PathBuf};

use skincell_tests::client::{Request, get};
use skincell_tests::{Runner, colours, photos, repository};

/// The answer to a photo that is red.
fn assert_red(runner: &Runner, model: &str) {
    let red = photos::png(64, 64, |_, _| [255, 0, 0]);
    let answer = Request::predict("", "application/octet-stream", red).send(runner);
    assert_eq!(answer.status, 200, "{}", answer.json());
    let answer = answer.json();
    assert_eq!(answer["model"]["name"], model);
    assert_eq!(answer["results"][0]["class"], "red");
    let expected = colours::per_cent([1.0, 0.0, 0.0])[0];
    let found = answer["results"][0]["probability"].as_f64().unwrap();
    assert!((found - expected).abs() < 0.01, "{found}, expected {expected}");
    assert!(answer["heatmap_base64"].is_string(), "{answer}");
}

/// A folder with the model `Colours.onnx` as it was exported.
fn with_export() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("Colours.onnx"), colours::exported()).unwrap();
    folder
}

/// The prepared folders in the cache of `folder`.
fn cached(folder: &Path) -> Vec<PathBuf> {
    let Ok(models) = fs::read_dir(folder.join("cache/skincell/models")) else { return Vec::new() };
    models.map(|entry| entry.unwrap().path()).collect()
}

/// Flags for preparing the model `colours`.
const PREPARING: [&str; 6] =
    ["Colours.onnx", "--labels", "red,green,blue", "--std", "255", "--notice=It knows colours."];

#[test]
fn a_prepared_folder_is_served_with_its_page() {
    let folder = tempfile::tempdir().unwrap();
    colours::prepare(folder.path(), "colours");
    let runner = Runner::serve(folder.path(), &["colours"]);
    assert_red(&runner, "colours");
    let page = get(&runner, "/");
    assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
    let models = get(&runner, "/models").json();
    assert_eq!(models["models"].as_array().unwrap().len(), 1, "{models}");
    assert_eq!(get(&runner, "/readyz").status, 200);
}

#[test]
fn an_onnx_file_with_labels_is_prepared_once() {
    let folder = with_export();
    let runner = Runner::serve(folder.path(), &PREPARING);
    assert_red(&runner, "colours");
    drop(runner);
    let first = cached(folder.path());
    assert_eq!(first.len(), 1, "{first:?}");
    let card = first[0].join("colours/card.json");
    let written = fs::metadata(&card).unwrap().modified().unwrap();
    assert!(first[0].join("colours/model.cell").exists(), "it is packed");

    let runner = Runner::serve(folder.path(), &PREPARING);
    assert_red(&runner, "colours");
    drop(runner);
    assert_eq!(cached(folder.path()), first);
    assert_eq!(
        fs::metadata(&card).unwrap().modified().unwrap(),
        written,
        "it is not prepared again"
    );

    let mut renamed = PREPARING;
    renamed[2] = "red,green,violet";
    let runner = Runner::serve(folder.path(), &renamed);
    assert_red(&runner, "colours");
    assert_eq!(cached(folder.path()).len(), 2, "other labels are another model");
}

#[test]
fn wrong_labels_are_refused_and_leave_nothing() {
    let folder = with_export();
    for (labels, expected) in [("red,green", "2"), ("none.txt", "none.txt")] {
        let error = Runner::refused_to_serve(folder.path(), &["Colours.onnx", "--labels", labels]);
        assert!(error.contains(expected), "{error}");
        assert_eq!(cached(folder.path()), Vec::<PathBuf>::new(), "{labels}");
    }
}

#[test]
fn a_model_that_cannot_be_served_is_refused_with_what_to_do() {
    let folder = with_export();
    let path = folder.path();
    colours::prepare(path, "colours");
    fs::rename(path.join("colours"), path.join("other")).unwrap();
    fs::create_dir(path.join("empty")).unwrap();
    for (arguments, expected) in [
        (&[][..], "name a model to serve"),
        (&["none.keras"], "none.keras does not exist"),
        (&["empty"], "the folder holds no model"),
        (&["other"], "rename the folder"),
        (&["other", "--labels", "a,b,c"], "is prepared already"),
        (&["Colours.onnx", "--disable-cache"], "--cache-dir"),
    ] {
        let error = Runner::refused_to_serve(path, arguments);
        assert!(error.contains(expected), "{arguments:?}: {error}");
    }
}

#[test]
fn without_a_model_the_included_one_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let models = folder.path().join("models");
    fs::create_dir(&models).unwrap();
    std::os::unix::fs::symlink(repository().join("models/skin"), models.join("skin")).unwrap();
    let runner = Runner::serve(folder.path(), &[]);
    let photo = fs::read(repository().join("tests/photos/drawn-acne-1.jpg")).unwrap();
    let answer = Request::predict("", "image/jpeg", photo).send(&runner).json();
    assert_eq!(answer["model"]["name"], "skin");
    assert_eq!(answer["results"][0]["class"], "Acne and Rosacea Photos");
}
