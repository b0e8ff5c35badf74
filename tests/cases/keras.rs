//! Runs the README's two commands that prepare and serve a Keras model, and compares the answers with Keras.
//!
//! `SKINCELL_PYTHON` names a Python with models/keras/requirements.txt; without one the tests are skipped and
//! print the reason.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;
use skincell_tests::client::Request;
use skincell_tests::{App, Runner, artifacts, repository};
use skincell_vision::photo::{Limits, decode};

/// The common beginning of the scripts: `photo` makes a photo of the model's input size, and `tell` prints
/// Keras's results for it.
const COMMON: &str = r#"
import json, os, sys
import numpy as np
import tf2onnx
from PIL import Image

def photo(side):
    y, x = np.mgrid[0:side, 0:side] / side
    photo = np.stack([np.sin(7 * x + y), np.cos(9 * y), np.sin(5 * x * y)], -1) * 100 + 128
    Image.fromarray(photo.astype("uint8")).save("photo.png")
    return photo.astype("uint8")[None].astype("float32")

def tell(keras, predicted, parts, image):
    """Prints probabilities, and Grad-CAM of the likeliest class by a gradient tape: for the last
    convolution's raw output, and for the activation after it. `parts` are three functions: from the image to
    the raw output, from there to the activation, and from there to the scores."""
    import tensorflow as tf
    to_conv, to_activation, to_scores = parts
    best, heat = int(predicted[0].argmax()), {}
    for name in ["conv", "activation"]:
        with tf.GradientTape() as tape:
            held = to_conv(image)
            if name == "activation":
                held = to_activation(held)
            tape.watch(held)
            score = to_scores(held if name == "activation" else to_activation(held))[0, best]
        slope = tape.gradient(score, held).numpy()
        cam = np.maximum((slope.mean((1, 2), keepdims=True) * held.numpy()).sum(-1)[0], 0)
        heat[name] = (cam / cam.max()).tolist()
    print(json.dumps({"probabilities": predicted[0].tolist(), "heat": heat}))
"#;

/// A small network of the same structure as the origin app's.
const ORIGIN: &str = r#"
import keras
from keras import layers

keras.utils.set_random_seed(7)
convolution = layers.Conv2D(32, 3, strides=4, padding="same", use_bias=False, name="top_conv")
model = keras.Sequential([
    keras.Input((300, 300, 3)), layers.Rescaling(1 / 128, -1),
    layers.Conv2D(16, 3, strides=8, use_bias=False), layers.BatchNormalization(), layers.Activation("swish"),
    convolution, layers.BatchNormalization(), layers.Activation("swish"), layers.GlobalAveragePooling2D(),
    layers.Dropout(0.3), layers.Dense(7, activation="softmax"),
])
image = photo(300)
model.save("dermatology_stage1.keras")
at = model.layers.index(convolution) + 1
chain = lambda part: lambda x: [x := layer(x, training=False) for layer in part][-1]
parts = chain(model.layers[:at]), chain(model.layers[at:at + 2]), chain(model.layers[at + 2:])
tell(keras, model.predict(image, verbose=0), parts, image)
"#;

/// The model of TensorFlow's tutorial on image classification, unchanged: with augmentation and Rescaling
/// layers, Flatten, and logits as its output.
const TUTORIAL: &str = r#"
import keras
import tensorflow as tf
from keras import layers
from keras.models import Sequential

keras.utils.set_random_seed(5)
img_height, img_width, num_classes = 180, 180, 7
data_augmentation = keras.Sequential([
    layers.RandomFlip("horizontal", input_shape=(img_height, img_width, 3)),
    layers.RandomRotation(0.1), layers.RandomZoom(0.1),
])
model = Sequential([
    data_augmentation, layers.Rescaling(1./255),
    layers.Conv2D(16, 3, padding="same", activation="relu"), layers.MaxPooling2D(),
    layers.Conv2D(32, 3, padding="same", activation="relu"), layers.MaxPooling2D(),
    layers.Conv2D(64, 3, padding="same", activation="relu"), layers.MaxPooling2D(),
    layers.Dropout(0.2), layers.Flatten(), layers.Dense(128, activation="relu"),
    layers.Dense(num_classes, name="outputs"),
])
image = photo(180)
model.compile(optimizer="adam", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
model.fit(np.concatenate([image, 255 - image]), np.array([2, 5]), epochs=1, verbose=0)
model.save("dermatology_stage1.keras")
convolution = model.layers[6]
chain = lambda part: lambda x: [x := layer(x, training=False) for layer in part][-1]
before = chain(model.layers[1:6])
raw = lambda x: tf.nn.bias_add(convolution.convolution_op(before(x), convolution.kernel), convolution.bias)
parts = raw, tf.nn.relu, lambda x: tf.nn.softmax(chain(model.layers[7:])(x))
tell(keras, tf.nn.softmax(model.predict(image, verbose=0)).numpy(), parts, image)
"#;

/// A model as Teachable Machine exports it, with labels: MobileNetV2 in Keras 2 and two dense layers, with
/// the names of layers that the site uses.
const TEACHABLE_MACHINE: &str = r#"
import tf_keras as keras
from tf_keras import layers

keras.utils.set_random_seed(9)
network = keras.applications.MobileNetV2((224, 224, 3), alpha=0.35, include_top=False, weights=None)
image = photo(224) / 127.5 - 1
for layer in network.layers:
    if isinstance(layer, layers.BatchNormalization):
        layer.momentum = 0.5
for _ in range(8):
    network(image, training=True)
body = keras.Model(network.input, network.output, name="model1")
features = keras.Sequential([body, layers.GlobalAveragePooling2D(
    name="global_average_pooling2d_GlobalAveragePooling2D1")], name="sequential_1")
head = keras.Sequential([layers.Dense(100, activation="relu", input_shape=(1280,), name="dense_Dense1"),
                         layers.Dense(3, activation="softmax", use_bias=False, name="dense_Dense2")], name="sequential_3")
model = keras.Sequential([features, head], name="sequential_4")
model(image)
os.mkdir("converted_keras")
model.save("converted_keras/keras_model.h5")
with open("converted_keras/labels.txt", "w") as file:
    file.write("0 acne\n1 eczema\n2 healthy skin\n")
at = next(i for i, layer in enumerate(network.layers) if layer.name == "Conv_1")
to_conv = keras.Model(network.input, network.layers[at].output)
rest = lambda x: network.layers[at + 2](network.layers[at + 1](x, training=False))
parts = lambda x: to_conv(x, training=False), rest, lambda x: head(features.layers[1](x))
tell(keras, model.predict(image, verbose=0), parts, image)
"#;

/// The Python with Keras, if there is one.
fn python() -> Option<PathBuf> {
    let python = std::env::var_os("SKINCELL_PYTHON").map_or("python3".into(), PathBuf::from);
    let probe = Command::new(&python).args(["-c", "import keras, tf_keras, tf2onnx, PIL"]).output();
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

/// Keras's results for the photo.
#[derive(Deserialize)]
struct Said {
    probabilities: Vec<f64>,
    /// Grad-CAM of the likeliest class for each target of a card, rows from the top.
    heat: BTreeMap<String, Vec<Vec<f64>>>,
}

fn keras(python: &Path, script: &str, folder: &Path) -> Said {
    let script = format!("{COMMON}{script}");
    let made = Command::new(python).args(["-c", &script]).current_dir(folder).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let printed = String::from_utf8(made.stdout).unwrap();
    serde_json::from_str(printed.lines().last().unwrap()).unwrap()
}

/// Makes a model with the script, prepares and serves it with the README's commands, and compares the answer
/// with Keras's. `swaps` replaces words of the commands.
fn served_by_two_commands(script: &str, swaps: &[(&str, &str)], classes: &[&str]) {
    let Some(python) = python() else { return };
    let app = App::without_models();
    let said = keras(&python, script, app.path());
    let commands = commands();
    let [prepare, up] = &commands[..] else {
        panic!("the README should have two commands: {commands:?}")
    };
    let swapped = |word: &str| {
        let swap = swaps.iter().find(|(from, _)| *from == word);
        swap.map_or(word, |(_, to)| to).to_owned()
    };

    let prepared = Command::new(&artifacts().runner)
        .args(words(prepare).into_iter().map(swapped))
        .current_dir(app.path())
        .env("SKINCELL_PYTHON", &python)
        .output()
        .unwrap();
    print!("{}", String::from_utf8_lossy(&prepared.stdout));
    assert!(prepared.status.success(), "{}", String::from_utf8_lossy(&prepared.stderr));

    // `Runner::start` leaves out `--build`, because the tests have built the component, and adds a free port.
    assert_eq!(words(up), ["up", "--build"]);
    let runner = Runner::start(&app, &[]);
    let photo = || std::fs::read(app.path().join("photo.png")).unwrap();
    let answer = Request::predict("?heatmap=maps", "image/png", photo()).send(&runner);
    assert_eq!(answer.status, 200, "{}", answer.json());
    let answer = answer.json();
    let results = answer["results"].as_array().unwrap();
    assert_eq!(
        (results.len(), classes.len()),
        (said.probabilities.len(), said.probabilities.len())
    );
    for result in results {
        let index = classes.iter().position(|class| result["class"] == *class).unwrap();
        let found = result["probability"].as_f64().unwrap() / 100.0;
        println!("{}: {found:.6}, Keras {:.6}", classes[index], said.probabilities[index]);
        assert!((found - said.probabilities[index]).abs() < 1e-5, "{}", classes[index]);
    }
    let card = std::fs::read_to_string(app.path().join("models/skin/card.json")).unwrap();
    let card: Value = serde_json::from_str(&card).unwrap();
    let target = card["gradcam"]["target"].as_str().unwrap();
    let map = &answer["heatmap_maps"][0];
    assert_eq!((&map["index"], &map["basis"]), (&results[0]["index"], &Value::from("probability")));
    let right = said.heat[target].concat();
    let values = map["values"].as_array().unwrap();
    assert_eq!(values.len(), right.len());
    let off = values.iter().zip(&right).map(|(v, r)| (v.as_f64().unwrap() - r).abs());
    let off = off.fold(0.0, f64::max);
    println!("heatmap of {target}: within {off:.1e} of Keras's");
    assert!(off < 2e-3, "{off}");

    let answer = Request::predict("", "image/png", photo()).send(&runner).json();
    assert_eq!(answer["heatmap_basis"], "probability");
    let overlay = STANDARD.decode(answer["heatmap_base64"].as_str().unwrap()).unwrap();
    let (width, height) = (&card["input"]["width"], &card["input"]["height"]);
    let side = |side: &Value| u32::try_from(side.as_u64().unwrap()).unwrap();
    let overlay = decode(&overlay, (side(width), side(height)), &Limits::default()).unwrap();
    assert_eq!((overlay.width(), overlay.height()), (side(width), side(height)));
}

/// The labels of `models/labels/skin.txt`.
fn skin_labels() -> Vec<String> {
    let labels = std::fs::read_to_string(repository().join("models/labels/skin.txt")).unwrap();
    labels.lines().map(|line| line.split('\t').next().unwrap().to_owned()).collect()
}

#[test]
fn two_commands_of_the_readme_serve_a_keras_file() {
    let labels = skin_labels();
    served_by_two_commands(ORIGIN, &[], &labels.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn one_command_serves_a_keras_file() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let said = keras(&python, ORIGIN, folder.path());
    let labels = repository().join("models/labels/skin.txt");
    let python = python.to_str().unwrap();
    let flags = ["--labels", labels.to_str().unwrap(), "--python", python];
    let runner =
        Runner::serve(folder.path(), &[&["dermatology_stage1.keras"][..], &flags].concat());
    let photo = std::fs::read(folder.path().join("photo.png")).unwrap();
    let answer = Request::predict("", "image/png", photo).send(&runner).json();
    assert_eq!(answer["model"]["name"], "dermatology_stage1");
    for result in answer["results"].as_array().unwrap() {
        let index = usize::try_from(result["index"].as_u64().unwrap()).unwrap();
        let found = result["probability"].as_f64().unwrap() / 100.0;
        assert!((found - said.probabilities[index]).abs() < 1e-5, "{result}");
    }
    let heatmap = STANDARD.decode(answer["heatmap_base64"].as_str().unwrap()).unwrap();
    assert!(heatmap.starts_with(b"\x89PNG"));
}

#[test]
fn two_commands_of_the_readme_serve_the_model_of_tensorflows_tutorial() {
    let labels = skin_labels();
    served_by_two_commands(TUTORIAL, &[], &labels.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn two_commands_of_the_readme_serve_a_teachable_machine_export() {
    let swaps = [
        ("dermatology_stage1.keras", "converted_keras/keras_model.h5"),
        ("models/labels/skin.txt", "converted_keras/labels.txt"),
    ];
    served_by_two_commands(TEACHABLE_MACHINE, &swaps, &["acne", "eczema", "healthy skin"]);
}
