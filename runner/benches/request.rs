//! Times the parts of a request besides decoding: a fresh instance, tensors passed between guest and host, a
//! run of each engine, and a whole request. Sockets are left out: requests go straight to the handler.
//!
//! It prints times only and has no thresholds.
//!
//! ```text
//! cargo build --release --target wasm32-wasip2 -p skincell -p skincell-guests
//! cargo bench -p skincell-runner            (set ORT_DYLIB_PATH to the library to include ONNX Runtime)
//! ```

#![allow(clippy::expect_used, reason = "an error ends the benchmark")]

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use http::Request;
use http_body_util::{BodyExt, Full};
use skincell_engines::{Cellnet, Dtype, Engine, Model, OnnxRuntime, Rten, Source, Tensor};
use skincell_runner::access::Access;
use skincell_runner::app::{self, Additions};
use skincell_runner::handler::Handler;
use skincell_runner::service::Service;
use skincell_runner::settings::Settings;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::runtime::Runtime;

/// The posted photo, and the model's input: float32, as its card says.
const PHOTO: &str = "tests/photos/drawn-eczema-1.jpg";
const INPUT: (&str, [u32; 4]) = ("image", [1, 3, 224, 224]);
/// The tensor that is passed back and forth: 300×300 with three channels of float32, EfficientNetV2-S's
/// input.
const MOVED_BYTES: u64 = 4 * 3 * 300 * 300;
const MOVES: u64 = 16;

fn repository() -> PathBuf {
    let runner = Path::new(env!("CARGO_MANIFEST_DIR"));
    runner.parent().expect("the runner lies in the repository").to_path_buf()
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads")
}

fn serve(folder: &Path) -> Handler {
    let app = app::load(folder, &Additions::default()).expect("an application");
    let settings = Settings { threads: 1, ..Settings::default() };
    let service = Service::start(app, &settings).expect("a service");
    Handler::new(Arc::new(service), Access::default(), None)
}

/// Sends `body` to `path` and reads the whole answer, whose status must be 200.
async fn ask(handler: &Handler, path: &str, body: &Bytes) -> Bytes {
    let method = if body.is_empty() { "GET" } else { "POST" };
    let request = Request::builder().method(method).uri(path);
    let request = request.header("host", "bench").header("content-type", "image/jpeg");
    let request = request.body(Full::new(body.clone()));
    let answer = handler.handle_local(request.expect("a request")).await;
    assert_eq!(answer.status(), 200, "{path}");
    answer.into_body().collect().await.expect("an answer to its end").to_bytes()
}

/// An application of the tests' guest only.
fn guest() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let wasm = repository().join("target/wasm32-wasip2/release/skincell_guests.wasm");
    let manifest = format!(
        "spin_manifest_version = 2\n[application]\nname = \"guest\"\n\
         [[trigger.http]]\nroute = \"/...\"\ncomponent = \"guest\"\n[component.guest]\nsource = {wasm:?}\n"
    );
    std::fs::write(folder.path().join("spin.toml"), manifest).expect("a manifest");
    folder
}

fn instances(criterion: &mut Criterion) {
    let (runtime, guest) = (runtime(), guest());
    let _inside = runtime.enter();
    let service = serve(guest.path());
    let nothing = Bytes::new();
    criterion.bench_function("instance/made, asked for one word, dropped", |b| {
        b.iter(|| runtime.block_on(ask(&service, "/fine", &nothing)));
    });
    let mut group = criterion.benchmark_group("tensors");
    let path = format!("/move-tensors?{MOVED_BYTES},0");
    group.bench_function("none moved", |b| {
        b.iter(|| runtime.block_on(ask(&service, &path, &nothing)));
    });
    let path = format!("/move-tensors?{MOVED_BYTES},{MOVES}");
    group.throughput(Throughput::Bytes(MOVES * MOVED_BYTES));
    group.bench_function(format!("{MOVES} of {MOVED_BYTES} bytes, there and back"), |b| {
        b.iter(|| runtime.block_on(ask(&service, &path, &nothing)));
    });
}

fn engines(criterion: &mut Criterion) {
    let folder = repository().join("models/skin");
    let mut engines: Vec<Box<dyn Engine>> = vec![Box::new(Cellnet::new(1)), Box::new(Rten::new(1))];
    match std::env::var_os("ORT_DYLIB_PATH") {
        Some(library) => {
            let engine = OnnxRuntime::new(Path::new(&library), 1).expect("ONNX Runtime's library");
            engines.push(Box::new(engine));
        }
        None => println!("onnxruntime is left out: ORT_DYLIB_PATH is not set"),
    }
    let elements = INPUT.1.iter().product::<u32>() as usize;
    for engine in engines {
        let model: Box<dyn Model> = engine.load(Source::Folder(&folder)).expect("models/skin");
        let input =
            (INPUT.0.to_owned(), Tensor::new(INPUT.1.to_vec(), Dtype::F32, vec![0; 4 * elements]));
        let inputs = [input];
        criterion.bench_function(&format!("run/models/skin, 1 thread, {}", engine.name()), |b| {
            b.iter(|| model.run(&inputs).expect("a run"));
        });
    }
}

fn requests(criterion: &mut Criterion) {
    let runtime = runtime();
    let _inside = runtime.enter();
    let service = serve(&repository());
    let photo = Bytes::from(std::fs::read(repository().join(PHOTO)).expect("a photo"));
    for (name, path, body) in [
        ("request/GET /health", "/health", &Bytes::new()),
        ("request/a photo, without a heatmap", "/predict?gradcam=false", &photo),
        ("request/a photo, with a heatmap", "/predict", &photo),
    ] {
        criterion.bench_function(name, |b| b.iter(|| runtime.block_on(ask(&service, path, body))));
    }
}

criterion_group!(benches, instances, engines, requests);
criterion_main!(benches);
