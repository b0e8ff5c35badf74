//! Runs one suite of wasi-nn calls on every provider: native cellnet, native rten, native ONNX Runtime (if
//! its library is installed), and inference compiled to Wasm. All must give the same answers and error codes.

#![allow(clippy::unwrap_used, reason = "a test")]

use bytes::Bytes;
use serde_json::Value;
use skincell_modelkit::pack::{PackOptions, pack};
use skincell_portable::bake::bake;
use skincell_portable_host::compose::with_nn;
use skincell_portable_host::proxy::Proxy;
use skincell_tests::client::{Request, get};
use skincell_tests::{App, Runner, artifacts, damaged, portable, repository};
use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// Largest relative difference of two outputs. The engines compute in single precision in different orders.
const TOLERANCE: f32 = 1e-5;

/// The requests of the suite: the list of cases, `conformance`, and three requests that each exhaust a limit
/// of their instance.
const REQUESTS: [&str; 4] =
    ["conformance", "contexts?colours", "computes?colours", "load-name?misfit"];

/// The error code of refused runs.
const REFUSED: &str = "RuntimeError";

/// Largest difference of a probability (0 to 1).
const PROBABILITY: f64 = 1e-3;
/// Largest difference of a heatmap's value (0 to 1).
const HEAT: f64 = 2e-3;
/// In this photo, decoded in Wasm, one of the 62,720 values before the last ReLU6 is only 2.9e-6 away from a
/// jump of its derivative between 0 and 1. Rounding of the engines differs by more than that, so in one of
/// 1280 channels one of 49 pixels may or may not count. That changes the maps by up to `HEAT_THERE`.
const AT_THE_KINK: &str = "drawn-keratosis-2.jpg";
const HEAT_THERE: f64 = 1e-2;

/// An implementation of wasi-nn that runs the guest.
trait Provider {
    fn ask(&self, path: &str) -> String;
}

impl Provider for Runner {
    fn ask(&self, path: &str) -> String {
        let answer = get(self, &format!("/guest/{path}"));
        assert_eq!(answer.status, 200, "{path}: {}", String::from_utf8_lossy(&answer.body));
        String::from_utf8(answer.body).unwrap()
    }
}

/// The guests composed with inference in Wasm, compiled once for all tests.
static GUESTS: LazyLock<Proxy> = LazyLock::new(|| composed(&artifacts().guests, portable()));

fn composed(component: &Path, provider: &Path) -> Proxy {
    Proxy::new(&with_nn(component, provider).unwrap()).unwrap()
}

/// A component composed with inference in Wasm, and the application whose models it sees.
struct Portable<'a> {
    proxy: &'a Proxy,
    runtime: tokio::runtime::Runtime,
    app: &'a App,
}

impl<'a> Portable<'a> {
    fn new(proxy: &'a Proxy, app: &'a App) -> Self {
        Self { proxy, runtime: tokio::runtime::Runtime::new().unwrap(), app }
    }

    fn predict(&self, photo: &[u8]) -> Value {
        let request = http::Request::post(format!("http://test/predict{QUERY}"));
        let request = request.header("host", "test");
        let request = request.header("content-type", "application/octet-stream");
        let request = request.body(Bytes::copy_from_slice(photo)).unwrap();
        let answer = self.runtime.block_on(self.proxy.ask(self.app.path(), request)).unwrap();
        let body: Value = serde_json::from_slice(answer.body()).unwrap();
        assert_eq!(answer.status(), 200, "{body}");
        body
    }
}

impl Provider for Portable<'_> {
    fn ask(&self, path: &str) -> String {
        let request = http::Request::get(format!("http://test/guest/{path}"));
        let request = request.header("host", "test").body(Bytes::new()).unwrap();
        let asked = async {
            let answer = self.proxy.ask(self.app.path(), request);
            tokio::time::timeout(6 * LONGEST, answer).await
        };
        let Ok(answer) = self.runtime.block_on(asked) else {
            // The instance never ends, and this process cannot end normally while it runs.
            eprintln!("{path}: no answer after {:?}", 6 * LONGEST);
            std::process::abort();
        };
        String::from_utf8(answer.unwrap().into_body().to_vec()).unwrap()
    }
}

/// An application without the model `private`: in Wasm every mounted model may be loaded, so that the results
/// would differ.
fn app(packed: bool) -> App {
    let app = App::with_colours();
    let models = app.path().join("models");
    std::fs::remove_dir_all(models.join("private")).unwrap();
    if packed {
        pack(&models.join("colours"), &PackOptions::default()).unwrap();
        std::fs::write(models.join("broken/model.cell"), "not a packed model").unwrap();
    }
    app
}

fn lines(provider: &impl Provider) -> Vec<String> {
    let asked = REQUESTS.iter().map(|path| (path, provider.ask(path)));
    asked
        .flat_map(|(path, text)| match *path {
            "conformance" => text.lines().map(str::to_owned).collect(),
            path => vec![format!("{path}\t{text}")],
        })
        .collect()
}

/// Compares two lines word by word, and numbers by their difference.
fn same(one: &str, other: &str) -> bool {
    let close = |a: &str, b: &str| match (a.parse::<f32>(), b.parse::<f32>()) {
        (Ok(a), Ok(b)) => (a - b).abs() <= TOLERANCE * a.abs().max(b.abs()).max(1e-6),
        _ => false,
    };
    let (one, other) = (one.split([' ', '\t']), other.split([' ', '\t']));
    one.clone().count() == other.clone().count()
        && one.zip(other).all(|(a, b)| a == b || close(a, b))
}

fn assert_same(expected: &[String], found: &[String], provider: &str) {
    assert_eq!(expected.len(), found.len(), "{provider} has different cases: {found:#?}");
    let pairs = expected.iter().zip(found);
    let different: Vec<_> = pairs.filter(|(one, other)| !same(one, other)).collect();
    assert!(different.is_empty(), "{provider} differs: {different:#?}");
    println!("{provider}: {} cases, as expected", found.len());
}

/// Checks the outcomes of one provider, with which the others are then compared.
fn assert_sensible(lines: &[String]) {
    let outcome = |case: &str| {
        let line = lines.iter().find_map(|line| line.split_once('\t').filter(|(c, _)| *c == case));
        line.unwrap_or_else(|| panic!("there is no case {case:?} in {lines:#?}")).1
    };
    assert_eq!(outcome("load-by-name colours"), "found");
    for name in ["private", "", ".", "..", "/", "../models/colours", "colours/", "Colours"] {
        assert_eq!(outcome(&format!("load-by-name {name}")), "ErrorCode::NotFound", "{name}");
    }
    assert_eq!(outcome("load GraphEncoding::Onnx"), "ErrorCode::UnsupportedOperation");
    assert_eq!(outcome("contexts?colours"), "100 ErrorCode::TooLarge");
    assert_eq!(outcome("computes?colours"), "100 ErrorCode::TooLarge");
    assert_eq!(outcome("load-name?misfit"), "loaded");
    assert!(
        lines
            .iter()
            .filter(|line| line.starts_with("tensor "))
            .all(|line| line.ends_with("\ttrue"))
    );
    let run = outcome("a run");
    // The first channel is a third of the ramp; its score is its mean times the gain of 4 of the dense layer.
    let first: f32 = run
        .split("scores ")
        .nth(1)
        .unwrap()
        .split("] 0 ")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    let ramp: f32 = (0..64).map(|i| i as f32 / 192.0).sum::<f32>() / 64.0;
    assert!((first - 4.0 * ramp).abs() < 1e-5, "{run}");
    assert_eq!(run, outcome("the same again"));
    assert_eq!(run, outcome("kept"));
    assert_eq!(run, outcome("afterwards"), "refusals leave nothing behind");
    let from = lines.iter().position(|line| line.starts_with("no inputs\t")).unwrap();
    let to = lines.iter().position(|line| line.starts_with("afterwards\t")).unwrap();
    assert!(to - from > 20);
    for line in &lines[from..to] {
        assert!(line.ends_with(&format!("\tErrorCode::{REFUSED}")), "{line}");
    }
    assert_eq!(outcome("a broken model"), format!("ErrorCode::{REFUSED}"));
}

#[test]
fn all_wasi_nn_providers_give_the_same_results() {
    let (plain, packed) = (app(false), app(true));
    let rten = lines(&Runner::start(&plain, &["--engine", "rten"]));
    assert_sensible(&rten);
    println!("rten: {} cases", rten.len());
    assert_same(&rten, &lines(&Runner::start(&packed, &["--engine", "cellnet"])), "cellnet");
    assert_same(&rten, &lines(&Portable::new(&GUESTS, &plain)), "rten in Wasm");
    assert_same(&rten, &lines(&Portable::new(&GUESTS, &packed)), "cellnet in Wasm");
    match std::env::var("ORT_DYLIB_PATH").ok() {
        Some(library) => {
            let flags = ["--engine", "onnxruntime", "--engine-lib", &library];
            let onnxruntime = Runner::start(&plain, &flags);
            assert_same(&rten, &lines(&onnxruntime), "ONNX Runtime");
        }
        None => println!("skipped: ORT_DYLIB_PATH names no library of ONNX Runtime"),
    }
}

/// Time limit for a damaged model. A reader that follows an endless number never returns. The requirement is
/// one second; the rest is for busy machines.
const LONGEST: Duration = Duration::from_secs(10);

/// Makes a context of each damaged model and prints the longest time it took.
fn refuses_the_damaged(provider: &impl Provider, name: &str) {
    let mut longest = Duration::ZERO;
    for model in damaged::all() {
        let start = Instant::now();
        let outcome = provider.ask(&format!("context?{}", model.name));
        longest = longest.max(start.elapsed());
        let refused = outcome == format!("ErrorCode::{REFUSED}");
        assert!(refused || !model.is_refused, "{name}, {}: {outcome}", model.name);
        assert!(refused || outcome == "ready", "{name}, {}: {outcome}", model.name);
        assert!(longest <= LONGEST, "{name}, {}: {longest:?}", model.name);
    }
    println!("{name}: {} damaged models, the slowest in {longest:?}", damaged::all().len());
}

#[test]
fn a_damaged_model_is_an_error_within_seconds() {
    let app = App::with_damaged_models();
    refuses_the_damaged(&Runner::start(&app, &["--engine", "rten"]), "rten");
    refuses_the_damaged(&Portable::new(&GUESTS, &app), "rten in Wasm");
    match std::env::var("ORT_DYLIB_PATH").ok() {
        Some(library) => {
            let flags = ["--engine", "onnxruntime", "--engine-lib", &library];
            refuses_the_damaged(&Runner::start(&app, &flags), "ONNX Runtime");
        }
        None => println!("skipped: ORT_DYLIB_PATH names no library of ONNX Runtime"),
    }
}

/// Requests all classes, and the heatmaps as numbers.
const QUERY: &str = "?top_k=7&heatmap=maps";

/// An application with a packed copy of `models/skin`; links out of a mounted folder are not followed.
fn app_with_skin() -> App {
    let app = App::with_own_models();
    let models = app.path().join("models");
    std::fs::remove_dir_all(&models).unwrap();
    let folder = models.join("skin");
    std::fs::create_dir_all(&folder).unwrap();
    for file in ["card.json", "model.onnx", "model.onnx.data"] {
        std::fs::copy(repository().join("models/skin").join(file), folder.join(file)).unwrap();
    }
    pack(&folder, &PackOptions::default()).unwrap();
    app
}

fn photos() -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(repository().join("tests/photos")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let is_photo = |path: &std::path::PathBuf| {
        path.extension().is_some_and(|e| ["jpg", "png", "webp"].iter().any(|known| e == *known))
    };
    let read = |path: std::path::PathBuf| {
        (path.file_name().unwrap().display().to_string(), std::fs::read(&path).unwrap())
    };
    let mut photos: Vec<_> = paths.filter(is_photo).map(read).collect();
    photos.sort();
    photos
}

/// The numbers in `member` of each entry of `list`, ordered by the class's index.
fn numbers(answer: &Value, list: &str, member: &str) -> Vec<Vec<f64>> {
    let mut found: Vec<(u64, Vec<f64>)> = answer[list]
        .as_array()
        .unwrap_or_else(|| panic!("no {list} in {answer:.300}"))
        .iter()
        .map(|entry| {
            let value = &entry[member];
            let one = || vec![value.as_f64().unwrap()];
            let all = |list: &Vec<Value>| list.iter().map(|v| v.as_f64().unwrap()).collect();
            (entry["index"].as_u64().unwrap(), value.as_array().map_or_else(one, all))
        })
        .collect();
    found.sort_by_key(|(index, _)| *index);
    found.into_iter().map(|(_, numbers)| numbers).collect()
}

fn furthest(one: &[Vec<f64>], other: &[Vec<f64>]) -> f64 {
    assert_eq!(one.len(), other.len());
    let pairs = one.iter().flatten().zip(other.iter().flatten());
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// The component composed with inference in Wasm answers every photo as the native runner does, with its
/// model in files or baked in. (The host of this test would refuse a component that still imports `wasi:nn`.)
#[test]
fn the_composed_component_answers_every_photo_as_natively() {
    let app = app_with_skin();
    let native = Runner::start(&app, &[]);
    let component = &artifacts().component;
    let files = composed(component, portable());
    let files = Portable::new(&files, &app);
    let provider = app.path().join("baked.wasm");
    let baked = bake(&std::fs::read(portable()).unwrap(), &[app.path().join("models/skin")]);
    std::fs::write(&provider, baked.unwrap()).unwrap();
    let baked = composed(component, &provider);
    let baked = Portable::new(&baked, &app);
    let photos = photos();
    assert!(photos.len() > 20);
    for (name, photo) in &photos {
        let expected = Request::predict(QUERY, "application/octet-stream", photo.clone());
        let expected = expected.send(&native).json();
        for (way, portable) in [("files", &files), ("baked", &baked)] {
            let found = portable.predict(photo);
            assert_eq!(found["results"][0]["class"], expected["results"][0]["class"], "{name}");
            let shares = |answer| numbers(answer, "results", "probability");
            let maps = |answer| numbers(answer, "heatmap_maps", "values");
            let share = furthest(&shares(&expected), &shares(&found)) / 100.0;
            let first = expected["results"][0]["index"].as_u64().unwrap() as usize;
            let (ours, theirs) = (maps(&expected), maps(&found));
            let heat = furthest(&ours[first..=first], &theirs[first..=first]);
            let all = furthest(&ours, &theirs);
            println!(
                "{name}, {way}: probabilities within {share:.1e}, heatmap within {heat:.1e}, of any \
                 class within {all:.1e}"
            );
            assert!(share <= PROBABILITY, "{name}, {way}: {share}");
            assert!(heat <= HEAT, "{name}, {way}: {heat}");
            assert!(all <= if name == AT_THE_KINK { HEAT_THERE } else { HEAT }, "{name}: {all}");
        }
    }
    println!("{} photos answered as natively", photos.len());
}
