//! From a `.keras` file to a served answer by the two commands of the README, as they stand there.
//! Skipped, with a printed reason, where no Python with Keras is at hand: `SKINCELL_PYTHON` names one
//! with models/keras/requirements.txt.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use skincell_tests::client::Request;
use skincell_tests::{App, Runner, artifacts, repository};
use skincell_vision::photo::{Limits, decode};

/// Saves a small network in the way of the origin app's, and a photo of its size; prints what Keras says
/// of the photo.
const KERAS: &str = r#"
import json, sys
import keras, numpy as np
import tf2onnx
from keras import layers
from PIL import Image

keras.utils.set_random_seed(7)
model = keras.Sequential([
    keras.Input((300, 300, 3)), layers.Rescaling(1 / 128, -1),
    layers.Conv2D(16, 3, strides=8, use_bias=False), layers.BatchNormalization(), layers.Activation("swish"),
    layers.Conv2D(32, 3, strides=4, padding="same", use_bias=False, name="top_conv"),
    layers.BatchNormalization(), layers.Activation("swish"), layers.GlobalAveragePooling2D(),
    layers.Dropout(0.3), layers.Dense(7, activation="softmax"),
])
y, x = np.mgrid[0:300, 0:300] / 300
photo = np.stack([np.sin(7 * x + y), np.cos(9 * y), np.sin(5 * x * y)], -1) * 100 + 128
photo = photo.astype("uint8")
Image.fromarray(photo).save("photo.png")
model.save("dermatology_stage1.keras")
print(json.dumps(model.predict(photo[None].astype("float32"), verbose=0)[0].tolist()))
"#;

/// The Python with Keras, if there is one.
fn python() -> Option<PathBuf> {
    let python = std::env::var_os("SKINCELL_PYTHON").map_or("python3".into(), PathBuf::from);
    let probe = Command::new(&python).args(["-c", "import keras, tf2onnx, PIL"]).output();
    let reason = match probe {
        Ok(output) if output.status.success() => return Some(python),
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim_end().to_owned(),
        Err(error) => error.to_string(),
    };
    let reason = reason.lines().last().unwrap_or_default().to_owned();
    println!("skipped: {}: {reason}; SKINCELL_PYTHON names another", python.display());
    None
}

/// The commands of the README's first block under "Your model".
fn commands() -> Vec<String> {
    let readme = std::fs::read_to_string(repository().join("README.md")).unwrap();
    let (_, section) = readme.split_once("\n## Your model\n").unwrap();
    let (_, block) = section.split_once("```sh\n").unwrap();
    let (block, _) = block.split_once("```").unwrap();
    block.lines().map(str::to_owned).collect()
}

/// The words of a command after `cargo run --release --`, which stands for the binary under test.
fn words(command: &str) -> Vec<&str> {
    let words = command.strip_prefix("cargo run --release -- ");
    words.unwrap_or_else(|| panic!("{command:?}")).split_whitespace().collect()
}

/// What Keras says of the photo that is now beside its model.
fn keras(python: &Path, folder: &Path) -> Vec<f64> {
    let made = Command::new(python).args(["-c", KERAS]).current_dir(folder).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let printed = String::from_utf8(made.stdout).unwrap();
    serde_json::from_str(printed.lines().last().unwrap()).unwrap()
}

#[test]
fn two_commands_of_the_readme_serve_a_keras_file() {
    let Some(python) = python() else { return };
    let app = App::without_models();
    let said = keras(&python, app.path());
    let commands = commands();
    let [prepare, up] = &commands[..] else { panic!("two commands are promised: {commands:?}") };

    let prepared = Command::new(&artifacts().runner)
        .args(words(prepare))
        .current_dir(app.path())
        .env("SKINCELL_PYTHON", &python)
        .output()
        .unwrap();
    print!("{}", String::from_utf8_lossy(&prepared.stdout));
    assert!(prepared.status.success(), "{}", String::from_utf8_lossy(&prepared.stderr));

    // What `--build` builds is built already, and the runner of tests adds a free port.
    assert_eq!(words(up), ["up", "--build"]);
    let runner = Runner::start(&app, &[]);
    let photo = std::fs::read(app.path().join("photo.png")).unwrap();
    let answer = Request::predict("", "image/png", photo).send(&runner);
    assert_eq!(answer.status, 200, "{}", answer.json());
    let answer = answer.json();
    let labels = std::fs::read_to_string(repository().join("models/labels/skin.txt")).unwrap();
    let classes: Vec<&str> = labels.lines().map(|line| line.split('\t').next().unwrap()).collect();
    assert_eq!(classes.len(), said.len());
    for result in answer["results"].as_array().unwrap() {
        let index = classes.iter().position(|class| result["class"] == *class).unwrap();
        let found = result["probability"].as_f64().unwrap() / 100.0;
        println!("{}: {found:.6}, Keras {:.6}", classes[index], said[index]);
        assert!((found - said[index]).abs() < 1e-5, "{}", classes[index]);
    }
    assert_eq!(answer["results"].as_array().unwrap().len(), classes.len());
    assert_eq!(answer["heatmap_basis"], "probability");
    let overlay = STANDARD.decode(answer["heatmap_base64"].as_str().unwrap()).unwrap();
    let overlay = decode(&overlay, (300, 300), &Limits::default()).unwrap();
    assert_eq!((overlay.width(), overlay.height()), (300, 300));
}
