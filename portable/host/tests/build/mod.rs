//! Builds Wasm for tests with a child cargo.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The root of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Runs cargo with `arguments` and returns the path of the built Wasm file whose name begins with `name`,
/// without its extension.
pub fn built(arguments: &[&str], name: &str) -> PathBuf {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(repository())
        .args(arguments)
        .args(["--message-format", "json-render-diagnostics"])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    // Removes the variables that describe this test's own package.
    for (variable, _) in std::env::vars_os() {
        let variable = variable.to_string_lossy().into_owned();
        let own = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"];
        if own.iter().any(|prefix| variable.starts_with(prefix)) {
            cargo.env_remove(variable);
        }
    }
    let output = cargo.output().expect("cargo starts");
    assert!(output.status.success(), "cargo {arguments:?}: {}", output.status);
    let messages = String::from_utf8(output.stdout).expect("cargo writes UTF-8");
    let stem = name.trim_end_matches(".wasm");
    let mut files = messages.split('"').map(PathBuf::from).filter(|path| {
        let file = path.file_name().and_then(|f| f.to_str()).unwrap_or_default();
        path.is_absolute() && file.starts_with(stem) && file.ends_with(".wasm")
    });
    files.next_back().unwrap_or_else(|| panic!("cargo {arguments:?} made no {name}"))
}
