//! Exports with Keras and PyTorch: for each kind of file that `prepare` accepts, the served scores are
//! compared with those of the framework. A test whose framework is not installed is skipped and prints the
//! reason.
//!
//! `SKINCELL_PYTHON` names a Python with models/keras/requirements.txt, `SKINCELL_TORCH_PYTHON` one
//! with models/torch/requirements.txt.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use skincell_engines::Rten;
use skincell_modelkit::export::export;
use skincell_modelkit::served::Served;
use skincell_modelkit::source::find;
use skincell_modelkit::{parse_labels, photos, prepare};

/// Saves a network in each of Keras's formats and an image tensor, and prints the network's scores.
const KERAS: &str = r#"
import json, sys
import keras, numpy as np
import tf2onnx

keras.utils.set_random_seed(3)
layers = keras.layers
model = keras.Sequential([
    keras.Input((16, 16, 3)), layers.Rescaling(1 / 255), layers.Conv2D(8, 3, use_bias=False),
    layers.BatchNormalization(), layers.Activation("silu"), layers.GlobalAveragePooling2D(),
    layers.Dense(5, activation="softmax"),
])
image = np.random.default_rng(3).uniform(0, 255, (1, 16, 16, 3)).astype("float32")
np.save(sys.argv[1] + "/image.npy", image)
model.save(sys.argv[1] + "/a.keras")
model.save(sys.argv[1] + "/b.h5")
model.export(sys.argv[1] + "/c", verbose=False)
pooled = model.layers[-2].output
named = {"zeta": layers.Dense(5)(pooled), "diagnosis": model.outputs[0], "alpha": layers.Dense(2)(pooled)}
keras.Model(model.inputs, named).save(sys.argv[1] + "/named.keras")
print(json.dumps(model.predict(image, verbose=0)[0].tolist()))
"#;

/// The same in PyTorch.
const TORCH: &str = r#"
import json, shutil, sys
import numpy as np, onnx, onnxscript, torch
from torch import nn

torch.manual_seed(3)
model = nn.Sequential(
    nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.SiLU(), nn.AdaptiveAvgPool2d(1),
    nn.Flatten(), nn.Linear(8, 5),
).eval()
image = torch.rand(1, 3, 16, 16)
np.save(sys.argv[1] + "/image.npy", image.numpy())
torch.export.save(torch.export.export(model, (image,)), sys.argv[1] + "/a.pt2")
torch.jit.trace(model, image).save(sys.argv[1] + "/b.pt")

class Named(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        scores = self.net(x)
        return {"features": scores * 2, "diagnosis": scores}

named = Named(model).eval()
torch.jit.trace(named, image, strict=False).save(sys.argv[1] + "/named.traced.pt")
torch.export.save(torch.export.export(named, (image,)), sys.argv[1] + "/named.pt2")
# Renamed, a file is what it is all the same.
shutil.copy(sys.argv[1] + "/a.pt2", sys.argv[1] + "/program.pt")
shutil.copy(sys.argv[1] + "/b.pt", sys.argv[1] + "/script.pt2")
print(json.dumps(model(image)[0].tolist()))
"#;

/// The Python that an environment variable names.
fn python(variable: &str) -> PathBuf {
    std::env::var_os(variable).map_or("python3".into(), PathBuf::from)
}

/// Runs the script with the Python named by an environment variable; returns its path and the framework's
/// scores, or `None`, with a printed reason, if Python or a package is missing.
fn framework(variable: &str, script: &str, folder: &Path) -> Option<(PathBuf, Vec<f32>)> {
    let python = python(variable);
    let output = match Command::new(&python).args(["-c", script]).arg(folder).output() {
        Ok(output) => output,
        Err(error) => {
            eprintln!("skipped: {}: {error}; {variable} names another", python.display());
            return None;
        }
    };
    let errors = String::from_utf8_lossy(&output.stderr);
    if let Some(missing) = errors.lines().rfind(|line| line.starts_with("ModuleNotFoundError")) {
        eprintln!("skipped: {}: {missing}; {variable} names another", python.display());
        return None;
    }
    assert!(output.status.success(), "{errors}");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let scores = text.lines().last().map(serde_json::from_str).expect("a line of scores");
    Some((python, scores.expect("scores")))
}

/// Exports, prepares and runs one file; returns the scores.
fn scores(model: &Path, python: &Path, size: Option<(u32, u32)>) -> Vec<f32> {
    let name = model.display();
    let source = find(model).unwrap_or_else(|e| panic!("{name}: {e}"));
    let framework = source.framework.expect("a framework's file");
    let exported = export(model, framework, python, size, &std::env::temp_dir())
        .unwrap_or_else(|e| panic!("{name}: {e}"));
    let home = model.parent().expect("a folder");
    let mut options = common::options(exported.path(), home);
    options.classes = parse_labels("a\nb\nc\nd\ne").expect("five labels");
    options.force = true;
    // A network that returns a dictionary has an output for each of its keys.
    let named = name.to_string().contains("/named");
    options.scores = named.then(|| "diagnosis".to_owned());
    let report = prepare(&options, &mut |_| {}).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(report.card.gradcam_missing, None, "{name}");
    let image = photos::load(&home.join("image.npy"), &report.card.input).expect("a tensor");
    let served =
        Served::open(&options.output, &Rten::new(1)).unwrap_or_else(|e| panic!("{name}: {e}"));
    served.run(&image).unwrap_or_else(|e| panic!("{name}: {e}")).scores
}

fn check(variable: &str, script: &str, files: &[&str], size: Option<(u32, u32)>) {
    let home = tempfile::tempdir().expect("a temporary folder");
    let Some((python, expected)) = framework(variable, script, home.path()) else { return };
    for file in files {
        let found = scores(&home.path().join(file), &python, size);
        println!("{file}: {found:?}, the framework {expected:?}");
        assert_eq!(found.len(), expected.len(), "{file}");
        let near = found.iter().zip(&expected).all(|(a, b)| (a - b).abs() <= 1e-5);
        assert!(near, "{file}: {found:?}, the framework {expected:?}");
    }
}

#[test]
fn keras_files_have_the_scores_of_keras() {
    check("SKINCELL_PYTHON", KERAS, &["a.keras", "b.h5", "c", "named.keras"], None);
}

#[test]
fn torch_files_have_the_scores_of_torch() {
    let names = ["a.pt2", "b.pt", "program.pt", "script.pt2"];
    let named = ["named.traced.pt", "named.pt2"];
    check("SKINCELL_TORCH_PYTHON", TORCH, &[&names[..], &named].concat(), Some((16, 16)));
}

#[test]
fn an_export_ends_with_the_program_that_wants_it() {
    let home = tempfile::tempdir().expect("a temporary folder");
    // Reading it takes for ever, because nobody writes to it.
    let pipe = home.path().join("model.keras");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
    for (variable, script) in [
        ("SKINCELL_PYTHON", include_str!("../exporters/keras/export.py")),
        ("SKINCELL_TORCH_PYTHON", include_str!("../exporters/torch/export.py")),
    ] {
        let mut command = Command::new(python(variable));
        command.args(["-c", script]).arg(&pipe).arg(home.path().join("out.onnx")).arg("--predict");
        // The other end of its standard input is closed, as after the end of that program.
        let Ok(mut child) = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn() else {
            eprintln!("skipped: {variable} names a Python that is not there");
            continue;
        };
        let started = Instant::now();
        while child.try_wait().expect("a child").is_none() {
            if started.elapsed() > Duration::from_secs(120) {
                child.kill().expect("ended");
                child.wait().expect("ended");
                panic!("{variable}: the export goes on");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
