//! The binary, which cargo has built for the tests of its package, and the components, built by a child
//! cargo once per test process.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Time limit of a build; a cold one on a small machine takes several minutes.
const BUILD_TIMEOUT: Duration = Duration::from_secs(20 * 60);

/// The target of components; without this one, cargo makes core modules.
const COMPONENT: &str = "wasm32-wasip2";

/// The programs under test, and the test guest.
#[derive(Debug)]
pub struct Artifacts {
    /// The binary `skincell`, or the one that `SKINCELL_BIN` names.
    pub runner: PathBuf,
    /// The component.
    pub component: PathBuf,
    /// The misbehaving component, `guests/`.
    pub guests: PathBuf,
}

/// The artifacts, built if necessary.
#[must_use]
pub fn artifacts() -> &'static Artifacts {
    static ARTIFACTS: OnceLock<Artifacts> = OnceLock::new();
    ARTIFACTS.get_or_init(|| Artifacts {
        // The same build as in `spin.toml`.
        component: component("skincell", COMPONENT),
        guests: component("skincell-guests", COMPONENT),
        runner: ["SKINCELL_BIN", "CARGO_BIN_EXE_skincell"]
            .iter()
            .find_map(std::env::var_os)
            .map(PathBuf::from)
            .expect("cargo names the binary it built; `cargo test -p skincell-cli` runs these"),
    })
}

/// wasi-nn in Wasm, `portable/`, built if necessary; only a few tests need it.
#[must_use]
pub fn portable() -> &'static Path {
    static PORTABLE: OnceLock<PathBuf> = OnceLock::new();
    PORTABLE.get_or_init(|| component("skincell-portable", COMPONENT))
}

/// The application `guests/two-inputs/`, built if necessary.
pub(crate) fn two_inputs() -> &'static Path {
    static TWO_INPUTS: OnceLock<PathBuf> = OnceLock::new();
    TWO_INPUTS.get_or_init(|| component("skincell-guest-two-inputs", COMPONENT))
}

/// The component of WASI 0.3 of `guests/wasi03/`, made with spin-sdk 7, built if necessary.
#[must_use]
pub fn wasi03() -> &'static Path {
    static RELEASE: OnceLock<PathBuf> = OnceLock::new();
    RELEASE.get_or_init(|| component("skincell-guest-wasi03", COMPONENT))
}

/// The same component made with spin-sdk 6, of WASI 0.3's release candidate, built if necessary.
#[must_use]
pub fn wasi03_candidate() -> &'static Path {
    static CANDIDATE: OnceLock<PathBuf> = OnceLock::new();
    CANDIDATE.get_or_init(|| component("skincell-guest-wasi03-candidate", COMPONENT))
}

/// The misbehaving guest as a core module of WASI 0.1, built if necessary.
#[must_use]
pub fn core_module() -> &'static Path {
    static MODULE: OnceLock<PathBuf> = OnceLock::new();
    MODULE.get_or_init(|| component("skincell-guests", "wasm32-wasip1"))
}

/// The root of the repository.
#[must_use]
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository")
}

/// Builds the component of a package alone, so that no other package's features apply, and returns its path.
fn component(package: &str, target: &str) -> PathBuf {
    let name = format!("{}.wasm", package.replace('-', "_"));
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--message-format=json-render-diagnostics"]);
    cargo.args(["--release", "--target", target, "-p", package]);
    cargo.current_dir(repository()).stdin(Stdio::null()).stdout(Stdio::piped());
    // Removes the variables that describe this test's own package.
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
                panic!("cargo build -p {package} took more than {BUILD_TIMEOUT:?}");
            }
        }
    };
    let messages = reader.join().expect("the reader ends").expect("cargo writes UTF-8");
    assert!(status.success(), "cargo build -p {package}: {status}");
    artifact(&messages, &name).unwrap_or_else(|| panic!("cargo build -p {package} made no {name}"))
}

/// The file `name` in cargo's messages, which are one JSON document per line.
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
