//! The binary, which cargo built for the tests of its package, and the components, built by cargo as a
//! child: once a test process, and at no cost where they are fresh.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Longest a build may take: a cold one on a small machine is several minutes.
const BUILD_TIMEOUT: Duration = Duration::from_secs(20 * 60);

/// What is under test, and what tests it.
#[derive(Debug)]
pub struct Artifacts {
    /// The binary `skincell`; `SKINCELL_BIN` names another one to test instead.
    pub runner: PathBuf,
    /// The component.
    pub component: PathBuf,
    /// The component that misbehaves, `guests/`.
    pub guests: PathBuf,
}

/// The artifacts, built if need be.
#[must_use]
pub fn artifacts() -> &'static Artifacts {
    static ARTIFACTS: OnceLock<Artifacts> = OnceLock::new();
    ARTIFACTS.get_or_init(|| {
        let wasm = ["--release", "--target", "wasm32-wasip2", "-p"];
        Artifacts {
            // Exactly what `spin.toml` builds, alone, so that no other package's features leak in.
            component: build(&[&wasm[..], &["skincell"]].concat(), "skincell.wasm"),
            guests: build(&[&wasm[..], &["skincell-guests"]].concat(), "skincell_guests.wasm"),
            runner: ["SKINCELL_BIN", "CARGO_BIN_EXE_skincell"]
                .iter()
                .find_map(std::env::var_os)
                .map(PathBuf::from)
                .expect("cargo names the binary it built; `cargo test -p skincell-cli` runs these"),
        }
    })
}

/// wasi-nn in Wasm, `portable/`, built if need be: only a few tests want it.
#[must_use]
pub fn portable() -> &'static Path {
    static PORTABLE: OnceLock<PathBuf> = OnceLock::new();
    PORTABLE.get_or_init(|| {
        let wasm = ["--release", "--target", "wasm32-wasip2", "-p", "skincell-portable"];
        build(&wasm, "skincell_portable.wasm")
    })
}

/// The application of two inputs, `guests/two-inputs/`, built if need be.
pub(crate) fn two_inputs() -> &'static Path {
    static TWO_INPUTS: OnceLock<PathBuf> = OnceLock::new();
    TWO_INPUTS.get_or_init(|| {
        let wasm = ["--release", "--target", "wasm32-wasip2", "-p", "skincell-guest-two-inputs"];
        build(&wasm, "skincell_guest_two_inputs.wasm")
    })
}

/// The root of the repository.
#[must_use]
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository")
}

/// Runs `cargo build` and gives the path of the artifact called `name`.
fn build(arguments: &[&str], name: &str) -> PathBuf {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.arg("build").arg("--message-format=json-render-diagnostics").args(arguments);
    cargo.current_dir(repository()).stdin(Stdio::null()).stdout(Stdio::piped());
    // What cargo tells this test about its own package is not true of the ones to be built.
    for (variable, _) in std::env::vars_os() {
        let variable = variable.to_string_lossy().into_owned();
        let own = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"];
        if own.iter().any(|prefix| variable.starts_with(prefix)) {
            cargo.env_remove(variable);
        }
    }
    let mut child = cargo.spawn().expect("cargo starts");
    let mut stdout = child.stdout.take().expect("stdout is piped");
    let reader = std::thread::spawn(move || {
        let mut messages = String::new();
        stdout.read_to_string(&mut messages).map(|_| messages)
    });
    let deadline = Instant::now() + BUILD_TIMEOUT;
    let status = loop {
        match child.try_wait().expect("cargo can be waited for") {
            Some(status) => break status,
            None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
            None => {
                let _ = child.kill();
                panic!("cargo build {arguments:?} took more than {BUILD_TIMEOUT:?}");
            }
        }
    };
    let messages = reader.join().expect("the reader ends").expect("cargo writes UTF-8");
    assert!(status.success(), "cargo build {arguments:?}: {status}");
    artifact(&messages, name).unwrap_or_else(|| panic!("cargo build {arguments:?} made no {name}"))
}

/// The file called `name` among cargo's messages, one JSON document a line.
fn artifact(messages: &str, name: &str) -> Option<PathBuf> {
    let files = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["reason"] == "compiler-artifact")
        .filter_map(|message| message["filenames"].as_array().cloned())
        .flatten();
    files
        .filter_map(|file| file.as_str().map(PathBuf::from))
        .find(|file| file.file_name().is_some_and(|found| found == name))
}
