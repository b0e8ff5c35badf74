//! Checks the repository's models on its test photos against `tests/photos/expected.json`, which
//! `models/expect.py` writes.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use skincell_tests::client::{Request, get};
use skincell_tests::{App, Runner, artifacts, repository};
use skincell_vision::photo::{Limits, decode};

/// A photograph's true class must be among this many likeliest ones.
const FOUND_WITHIN: usize = 3;

fn expected() -> (f64, Vec<Value>) {
    let path = repository().join("tests/photos/expected.json");
    let expected: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let tolerance = expected["tolerance"].as_f64().unwrap();
    (tolerance, expected["photos"].as_array().unwrap().clone())
}

fn ask(runner: &Runner, file: &str, query: &str) -> Value {
    let photo = std::fs::read(repository().join("tests/photos").join(file)).unwrap();
    let answer = Request::predict(query, "application/octet-stream", photo).send(runner);
    assert_eq!(answer.status, 200, "{file}: {}", answer.json());
    assert_eq!(answer.header("x-instance-requests"), "1", "{file}");
    answer.json()
}

/// The percentage of a class in an answer.
fn share(answer: &Value, class: &str) -> f64 {
    let results = answer["results"].as_array().unwrap();
    let result = results.iter().find(|result| result["class"] == class);
    result.unwrap_or_else(|| panic!("{class:?} is not answered"))["probability"].as_f64().unwrap()
}

#[test]
fn every_photo_gets_the_expected_answers() {
    let app = App::with_own_models();
    let runner = Runner::start(&app, &[]);
    let (tolerance, photos) = expected();
    assert!(photos.len() >= 20, "{} photos", photos.len());
    for photo in &photos {
        let file = photo["file"].as_str().unwrap();
        // On photos that show no skin, the skin model's answer depends on rounding, so it is not compared.
        let is_skin = photo["drawn"].is_string() || file == "skin.jpg";
        let models: &[&str] = if is_skin { &["imagenet", "skin"] } else { &["imagenet"] };
        for model in models {
            let answer = ask(&runner, file, &format!("?model={model}&top_k=1000&gradcam=0"));
            for kept in photo[*model].as_array().unwrap() {
                let class = kept["class"].as_str().unwrap();
                let found = share(&answer, class) / 100.0;
                let kept = kept["probability"].as_f64().unwrap();
                println!("{file} {model} {class}: {found:.4}, kept {kept:.4}");
                assert!(
                    (found - kept).abs() <= tolerance,
                    "{file} {model} {class}: {found} {kept}"
                );
            }
        }
    }
}

#[test]
fn photographs_get_the_class_that_they_show() {
    let app = App::with_own_models();
    let runner = Runner::start(&app, &[]);
    let mut shown = 0;
    for photo in expected().1 {
        let file = photo["file"].as_str().unwrap();
        // Some photographs have no matching class in ImageNet.
        let Some(shows) = photo["shows"].as_array().filter(|shows| !shows.is_empty()) else {
            continue;
        };
        let answer = ask(&runner, file, &format!("?model=imagenet&top_k={FOUND_WITHIN}&gradcam=0"));
        let best: Vec<&Value> =
            answer["results"].as_array().unwrap().iter().map(|r| &r["class"]).collect();
        assert!(best.iter().any(|class| shows.contains(class)), "{file} shows {shows:?}: {best:?}");
        shown += 1;
    }
    assert!(shown >= 5, "only {shown} photographs show an ImageNet class");
}

/// The README's first example.
#[test]
fn a_drawing_gets_seven_ranked_classes_and_a_heatmap() {
    let app = App::with_own_models();
    let runner = Runner::start(&app, &[]);
    let mut drawn = 0;
    for photo in expected().1 {
        let Some(class) = photo["drawn"].as_str() else { continue };
        let file = photo["file"].as_str().unwrap();
        let answer = ask(&runner, file, "");
        assert_eq!(answer["model"]["name"], "skin");
        assert!(answer["model"]["notice"].as_str().unwrap().contains("not a medical device"));
        let results = answer["results"].as_array().unwrap();
        let shares: Vec<f64> = results.iter().map(|r| r["probability"].as_f64().unwrap()).collect();
        assert_eq!(shares.len(), 7, "{file}");
        assert!(shares.is_sorted_by(|a, b| a >= b), "{file}: {shares:?}");
        assert!((shares.iter().sum::<f64>() - 100.0).abs() <= 0.1, "{file}: {shares:?}");
        assert_eq!(results[0]["class"], class, "{file}");
        assert_eq!(answer["heatmap_class"], class, "{file}");
        let png = STANDARD.decode(answer["heatmap_base64"].as_str().unwrap()).unwrap();
        let input = (224, 224);
        let overlay = decode(&png, input, &Limits::default()).unwrap();
        assert_eq!((overlay.width(), overlay.height()), input, "{file}");
        drawn += 1;
    }
    assert!(drawn >= 7, "only {drawn} drawings");
}

#[test]
fn both_models_are_listed_with_their_notices() {
    let app = App::with_own_models();
    let runner = Runner::start(&app, &[]);
    let listing = get(&runner, "/models").json();
    assert_eq!(listing["default"], "skin");
    for (name, classes) in [("imagenet", 1000), ("skin", 7)] {
        let models = listing["models"].as_array().unwrap();
        let model = models.iter().find(|model| model["name"] == name).unwrap();
        assert_eq!(model["classes"].as_array().unwrap().len(), classes);
        let notice = model["notice"].as_str().unwrap().to_lowercase();
        assert!(notice.contains("not a medical device"), "{notice}");
    }
}

/// Writes a small Keras classifier and a photo into a folder, and prints Keras's probabilities for the photo.
const KERAS: &str = r#"
import json, sys
sys.path.insert(0, "tests/reference")
from make import photos
from networks import build
from PIL import Image

pictures = photos()
model, _ = build("head_norm", 7, pictures)
model.save(sys.argv[1] + "/net.keras")
Image.fromarray(pictures[0]).save(sys.argv[1] + "/photo.png")
print(json.dumps(model.predict(pictures[:1].astype("float32"), verbose=0)[0].tolist()))
"#;

/// Makes a Keras model and a photo in `folder` and returns Keras's probabilities, or why that is impossible.
fn keras(python: &str, folder: &Path) -> Result<Vec<f64>, String> {
    let mut command = Command::new(python);
    command.args(["-c", KERAS]).arg(folder).current_dir(repository());
    let output = command.output().map_err(|error| format!("{python}: {error}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    match errors.lines().rfind(|line| line.starts_with("ModuleNotFoundError")) {
        Some(missing) => Err(format!("{python}: {missing}")),
        None => {
            assert!(output.status.success(), "{errors}");
            Ok(serde_json::from_slice(&output.stdout).unwrap())
        }
    }
}

/// The README's two commands. `SKINCELL_PYTHON` names a Python with
/// `tests/reference/requirements.txt` installed.
#[test]
fn a_keras_file_is_served_after_two_commands() {
    let python = std::env::var("SKINCELL_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let app = App::with_colours();
    let home = app.path();
    let probabilities = match keras(&python, home) {
        Ok(probabilities) => probabilities,
        Err(why) => {
            eprintln!("skipped: no Keras to export with: {why}");
            return;
        }
    };
    let labels = home.join("labels.txt");
    std::fs::write(&labels, "one\ntwo\nthree\nfour\n").unwrap();
    let prepared = Command::new(&artifacts().runner)
        .args(["model", "prepare", "--force", "--python", &python, "--labels"])
        .args([&labels, &home.join("net.keras")])
        .arg("-o")
        .arg(home.join("models/colours"))
        .output()
        .unwrap();
    assert!(prepared.status.success(), "{}", String::from_utf8_lossy(&prepared.stderr));

    let runner = Runner::start(&app, &[]);
    let photo = std::fs::read(home.join("photo.png")).unwrap();
    let answer = Request::predict("", "image/png", photo).send(&runner).json();
    for (class, expected) in ["one", "two", "three", "four"].iter().zip(probabilities) {
        let found = share(&answer, class) / 100.0;
        println!("{class}: {found:.6}, Keras {expected:.6}");
        assert!((found - expected).abs() <= 1e-4, "{class}: {found}, Keras {expected}");
    }
    let png = STANDARD.decode(answer["heatmap_base64"].as_str().unwrap()).unwrap();
    let overlay = decode(&png, (32, 32), &Limits::default()).unwrap();
    assert_eq!((overlay.width(), overlay.height()), (32, 32));
}
