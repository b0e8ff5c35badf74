//! Finds the parts of an installation: the component, which a release contains, the model `skin`, and the
//! engine for browsers.
//!
//! An archive has its files beside the program; a wheel and a system package have them in
//! `../share/skincell`. A program built in a checkout has the component in cargo's folder.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// The component, in a program that was built with the feature `embed`. `SKINCELL_COMPONENT` named its
/// file to the compiler.
#[cfg(feature = "embed")]
const EMBEDDED: Option<&[u8]> = Some(include_bytes!(env!("SKINCELL_COMPONENT")));
#[cfg(not(feature = "embed"))]
const EMBEDDED: Option<&[u8]> = None;

/// File name of the component.
const COMPONENT: &str = "skincell.wasm";

/// Cargo's folder of the component, relative to the program built beside it, without and with `--target`.
const BUILT: [&str; 2] = ["../wasm32-wasip2/release", "../../wasm32-wasip2/release"];

/// The model that is served if none is named.
const SKIN: &str = "skin";

/// A component: a file, or bytes in this program.
#[derive(Debug)]
pub enum Component {
    /// A file.
    File(PathBuf),
    /// The bytes of the file.
    Embedded(&'static [u8]),
}

/// The component: the file `given`, else the one in this program, else a file of the installation.
///
/// # Errors
/// A message that says where it was sought.
pub fn component(given: Option<&Path>) -> anyhow::Result<Component> {
    match (given, EMBEDDED) {
        (Some(file), _) => Ok(Component::File(file.to_owned())),
        (None, Some(bytes)) => Ok(Component::Embedded(bytes)),
        (None, None) => {
            let built = BUILT.iter().map(|folder| program_folder().join(folder));
            let file = find(COMPONENT, folders().into_iter().chain(built), "file")?;
            Ok(Component::File(file))
        }
    }
}

/// The folder of the model `skin`: in the installation, or in the checkout that is the current folder.
///
/// # Errors
/// A message that says where it was sought, and what to name instead.
pub fn skin() -> anyhow::Result<PathBuf> {
    model(SKIN).map_err(|error| {
        error.context(
            "name a model to serve: a prepared folder, or a .keras, .onnx or .pt2 file with --labels",
        )
    })
}

/// The folder of the model `name`: in the installation, or in the checkout that is the current folder.
///
/// # Errors
/// A message that says where it was sought.
pub fn model(name: &str) -> anyhow::Result<PathBuf> {
    let folders = folders().into_iter().chain([PathBuf::from(".")]);
    find(&format!("models/{name}"), folders, "folder")
}

/// The folder of model folders: in the current folder, or in the installation.
///
/// # Errors
/// A message that says where it was sought.
pub fn models() -> anyhow::Result<PathBuf> {
    find("models", std::iter::once(PathBuf::from(".")).chain(folders()), "folder")
}

/// The folder of the engine for browsers: in the installation, or in cargo's folder of the checkout that is
/// the current folder.
///
/// # Errors
/// A message that says where it was sought, and what makes it.
pub fn browser_engine() -> anyhow::Result<PathBuf> {
    let folders = folders().into_iter().chain([PathBuf::from("target")]);
    find("browser", folders, "folder").context(
        "the engine for browsers is missing; the archive and the wheel have it, and in a checkout \
         browser/build makes it",
    )
}

/// Folders in which the files of an installation lie.
fn folders() -> Vec<PathBuf> {
    let program = program_folder();
    vec![program.join("../share/skincell"), program]
}

/// The folder of this program. Without `/proc`, as in a bare root, it is known from the command line.
fn program_folder() -> PathBuf {
    let called = || Some(PathBuf::from(std::env::args_os().next()?));
    let program = std::env::current_exe().ok().or_else(called).unwrap_or_default();
    program.parent().map(Path::to_path_buf).unwrap_or_default()
}

fn find(name: &str, folders: impl Iterator<Item = PathBuf>, kind: &str) -> anyhow::Result<PathBuf> {
    let mut sought = Vec::new();
    for folder in folders {
        let path = folder.join(name);
        if path.exists() {
            return Ok(path);
        }
        sought.push(path.display().to_string());
    }
    bail!("there is no {kind} {name}; it was sought as {}", sought.join(", "))
}
