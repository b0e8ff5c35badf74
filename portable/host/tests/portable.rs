//! The component composed with `wasi:nn` in Wasm must give the answers expected of the native one, with
//! both models: `skin` packed, for cellnet, and `imagenet` as a graph, for rten.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod build;

use std::path::Path;

use bytes::Bytes;
use serde_json::Value;
use skincell_portable_host::compose::with_nn;
use skincell_portable_host::proxy::Proxy;

/// The photos used; each takes about a second in Wasm.
const PHOTOS: [&str; 4] =
    ["drawn-eczema-1.jpg", "drawn-keratosis-1.jpg", "drawn-wart-2.jpg", "cat.png"];

fn composed() -> Proxy {
    let wasm = ["build", "--release", "--target", "wasm32-wasip2", "--package"];
    let build = |package, file| build::built(&[&wasm[..], &[package]].concat(), file);
    let component = build("skincell", "skincell.wasm");
    let provider = build("skincell-portable", "skincell_portable.wasm");
    Proxy::new(&with_nn(&component, &provider).unwrap()).unwrap()
}

/// A folder with the mounts of Spin: `/models/<name>/` with card and model.
fn mounted() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let repository = build::repository().canonicalize().unwrap();
    for (model, packed) in [("skin", true), ("imagenet", false)] {
        let folder = root.path().join("models").join(model);
        std::fs::create_dir_all(&folder).unwrap();
        for file in ["card.json", "model.onnx", "model.onnx.data"] {
            let from = repository.join("models").join(model).join(file);
            // Links out of the mounted folder are not followed.
            std::fs::hard_link(&from, folder.join(file))
                .or_else(|_| std::fs::copy(&from, folder.join(file)).map(|_| ()))
                .unwrap();
        }
        if packed {
            let options = cellnet::pack::Options::default();
            let (onnx, cell) = (folder.join("model.onnx"), folder.join("model.cell"));
            cellnet::pack::pack_file(&onnx, &cell, &options).unwrap();
        }
    }
    root
}

async fn ask(proxy: &Proxy, root: &Path, model: &str, photo: &str) -> Value {
    let photo = std::fs::read(build::repository().join("tests/photos").join(photo)).unwrap();
    let request = http::Request::post(format!("http://skincell/predict?model={model}&top_k=5"))
        .header("host", "skincell")
        .header("content-type", "application/octet-stream")
        .body(Bytes::from(photo))
        .unwrap();
    let answer = proxy.ask(root, request).await.unwrap();
    let body: Value = serde_json::from_slice(answer.body()).unwrap();
    assert_eq!(answer.status(), 200, "{body}");
    body
}

fn compare(answer: &Value, expected: &Value, tolerance: f64, what: &str) {
    let (got, want) = (answer["results"].as_array().unwrap(), expected.as_array().unwrap());
    assert_eq!(got.len(), want.len(), "{what}");
    assert_eq!(got[0]["class"], want[0]["class"], "{what}");
    for want in want {
        let got = got.iter().find(|got| got["index"] == want["index"]);
        // A class outside the first five has a probability of almost zero.
        let share = got.map_or(0.0, |got| got["probability"].as_f64().unwrap() / 100.0);
        let off = (share - want["probability"].as_f64().unwrap()).abs();
        assert!(off <= tolerance, "{what}: {} is off by {off}", want["class"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_with_inference_in_wasm_are_the_expected_ones() {
    let (proxy, root) = (composed(), mounted());
    let expected = build::repository().join("tests/photos/expected.json");
    let expected: Value = serde_json::from_slice(&std::fs::read(expected).unwrap()).unwrap();
    let tolerance = expected["tolerance"].as_f64().unwrap();
    let all = expected["photos"].as_array().unwrap();
    for photo in all.iter().filter(|p| PHOTOS.iter().any(|name| p["file"] == *name)) {
        for model in ["skin", "imagenet"] {
            let file = photo["file"].as_str().unwrap();
            let answer = ask(&proxy, root.path(), model, file).await;
            compare(&answer, &photo[model], tolerance, &format!("{file} by {model}"));
            assert!(answer["heatmap_base64"].is_string(), "{file} by {model} has no heatmap");
            println!("{file} by {model}: {}; {}", answer["results"][0], answer["timing_ms"]);
        }
    }
}
