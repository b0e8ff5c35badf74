//! Any calls of wasi-nn by a guest end with an error or a trap, and the next request is answered.
//!
//! The input is a script that a real component runs (`tests/guests/src/script.rs`), in a real instance of a
//! real service, without sockets: every dtype, rank, length, name, and order of handles. Needs the guests:
//! `cargo build --release --target wasm32-wasip2 -p skincell-guests`.
#![no_main]

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use libfuzzer_sys::fuzz_target;
use skincell_runner::app::{Additions, Values, load};
use skincell_runner::service::Service;
use skincell_runner::settings::Settings;
use std::sync::LazyLock;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

struct Host {
    runtime: Runtime,
    service: Service,
    _folder: tempfile::TempDir,
}

/// As `right` in `tests/cases/bad_guests.rs`: a tensor, a graph, a context, a run.
const RIGHT: [u8; 12] = [0, 1, 200, 4, 0, 5, 0, 6, 0, 1, 1, 0];

static HOST: LazyLock<Host> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    let models = folder.path().join("models");
    std::fs::create_dir(&models).expect("models/ is made");
    skincell_tests::colours::prepare(&models, "colours");
    std::fs::create_dir(models.join("broken")).expect("a broken model");
    std::fs::write(models.join("broken/model.onnx"), "not ONNX").expect("a broken model");
    let guest = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../target/wasm32-wasip2/release/skincell_guests.wasm"
    );
    let manifest = format!(
        "spin_manifest_version = 2\n[application]\nname = \"fuzz\"\n[[trigger.http]]\n\
         route = \"/...\"\ncomponent = \"guest\"\n[component.guest]\nsource = \"{guest}\"\n\
         ai_models = [\"colours\", \"broken\"]\n"
    );
    std::fs::write(folder.path().join("spin.toml"), manifest).expect("a manifest");
    let additions = Additions {
        environment: Vec::new(),
        variables: Values::from_environment(folder.path()).expect("variables"),
        profile: None,
    };
    let app = load(folder.path(), &additions).expect("an application");
    let settings = Settings {
        request_timeout: Duration::from_secs(10),
        guest_models: Some(4 << 10),
        threads: 1,
        ..Settings::default()
    };
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_time().build();
    let runtime = runtime.expect("a runtime");
    let service = runtime.block_on(async { Service::start(app, &settings) });
    Host { runtime, service: service.expect("a service"), _folder: folder }
});

fn post(script: &[u8]) -> (u16, Bytes) {
    HOST.runtime.block_on(async {
        let body = Full::new(Bytes::copy_from_slice(script));
        let request = http::Request::post("/script").header("host", "fuzz").body(body);
        let answer = HOST.service.handle(request.expect("a request"), None).await;
        let status = answer.status().as_u16();
        (status, answer.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default())
    })
}

fuzz_target!(|data: &[u8]| {
    let (status, _) = post(data);
    assert!([200, 413, 500].contains(&status), "{status}");
    if data.first().is_some_and(|first| first % 16 == 0) {
        let (status, answer) = post(&RIGHT);
        assert_eq!((status, &*answer), (200, &b"0 errors, 1 runs"[..]));
    }
});
