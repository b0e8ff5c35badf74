//! `skincell serve`: one model with the component beside the program, without a `spin.toml`.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use skincell_tests::client::{Request, get};
use skincell_tests::{Runner, artifacts, colours, photos, repository};

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
    let error = Runner::refused_to_serve(folder.path(), &["Colours.onnx", "--basis", "8 drawings"]);
    assert!(error.contains("give both, or neither"), "{error}");
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
        (&["."], "holds other: name one of them, such as ./other"),
        (&["other/card.json"], "is a part of a prepared model"),
        (&["othr"], "did you mean other?"),
    ] {
        let error = Runner::refused_to_serve(path, arguments);
        assert!(error.contains(expected), "{arguments:?}: {error}");
    }
}

/// It was found out after a Keras model had been prepared for a minute.
#[test]
fn a_taken_port_is_told_before_a_model_is_prepared() {
    let folder = with_export();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let listen = [&PREPARING[..], &["--listen", &address]].concat();
    let error = Runner::refused_to_serve(folder.path(), &listen);
    assert!(error.contains(&format!("cannot listen on {address}; choose another")), "{error}");
    assert_eq!(cached(folder.path()), Vec::<PathBuf>::new());
}

/// `skincell classify` of the photo `red.png` in `folder`, which it draws.
fn classify(folder: &Path, arguments: &[&str]) -> Command {
    fs::write(folder.join("red.png"), photos::png(64, 64, |_, _| [255, 0, 0])).unwrap();
    let mut command = Command::new(&artifacts().runner);
    command.args(["classify", "red.png"]).args(arguments).current_dir(folder);
    command.env("XDG_CACHE_HOME", folder.join("cache")).env_remove("ORT_DYLIB_PATH");
    command
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Without a `spin.toml` it wanted one.
#[test]
fn classify_without_a_manifest_takes_the_models_of_serve() {
    let folder = with_export();
    let path = folder.path();
    colours::prepare(path, "colours");
    let preparing = [&["--json", "--model"], &PREPARING[..]].concat();
    for arguments in [&["--json", "--model", "colours"][..], &preparing, &preparing] {
        let output = classify(path, arguments).output().unwrap();
        assert!(output.status.success(), "{}", words(&output));
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(answer["results"][0]["class"], "red", "{arguments:?}");
    }
    assert_eq!(cached(path).len(), 1, "it is prepared once");
    let output = classify(path, &preparing).env("ENABLE_GRADCAM", "false").output().unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(answer["heatmap_base64"].is_null(), "the shell's variable counts");
    let mut gone = Command::new(&artifacts().runner);
    let output = gone.args(["classify", "gone.jpg"]).current_dir(path).output().unwrap();
    assert!(words(&output).contains("there is no photo gone.jpg"), "{}", words(&output));
    for (arguments, expected) in [
        (&[][..], "name a model to serve"),
        (&["--model", "colors"], "there is no folder models/colors"),
        (&["--model", "./colors"], "did you mean ./colours?"),
        (&["--model", "colours", "--from", "."], "leave them out"),
        (&["--model", "colours", "--labels", "a,b,c"], "is prepared already"),
        (&["--model", "colours", "--env", "SKINCELL_COLOR=p3"], "set srgb or stored"),
    ] {
        let output = classify(path, arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(words(&output).contains(expected), "{arguments:?}: {}", words(&output));
    }
}

/// Ctrl-C and a closed pipe left the files that are staged for the component.
#[test]
fn classify_removes_its_files_when_it_is_ended() {
    let folder = tempfile::tempdir().unwrap();
    colours::prepare(folder.path(), "colours");
    let many = vec!["red.png"; 5000];
    let staged = folder.path().join("tmp");
    for (signal, code) in [(Some("-TERM"), 143), (Some("-INT"), 130), (None, 0)] {
        let mut command = classify(folder.path(), &["--csv", "--model", "colours"]);
        command.args(&many).env("TMPDIR", &staged).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.next().unwrap().unwrap().starts_with("photo,"));
        assert!(fs::read_dir(&staged).unwrap().next().is_some(), "files are staged");
        match signal {
            Some(signal) => {
                let kill = Command::new("kill").args([signal, &child.id().to_string()]).status();
                assert!(kill.unwrap().success());
                std::thread::spawn(move || lines.for_each(drop));
            }
            None => drop(lines),
        }
        assert_eq!(child.wait().unwrap().code(), Some(code));
        assert!(fs::read_dir(&staged).unwrap().next().is_none(), "{signal:?} leaves nothing");
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
