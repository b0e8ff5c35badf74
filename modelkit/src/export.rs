//! From Keras or PyTorch to ONNX, by that framework's own exporter, in Python.
//!
//! The scripts are `models/keras/export.py` and `models/torch/export.py`, as they can be run by hand;
//! this finds out which one a model needs and runs it into a temporary folder.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;
use thiserror::Error;

/// Who made a model, and whose exporter it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framework {
    /// `.keras`, `.h5`, `.hdf5`, or a SavedModel folder.
    Keras,
    /// `.pt2` (`torch.export`) or `.pt` (TorchScript).
    Torch,
}

/// Why a model was not exported.
#[derive(Debug, Error)]
pub enum ExportError {
    /// Python does not start.
    #[error(
        "{python} does not start: {error}; name the Python that has {framework} installed with \
         --python",
        python = python.display(),
        framework = framework.name()
    )]
    Python {
        /// What was to be run.
        python: PathBuf,
        /// What the system said.
        error: io::Error,
        /// Whose exporter was wanted.
        framework: Framework,
    },
    /// That Python lacks what the exporter needs.
    #[error(
        "{python} has not what it takes to export this model: {reason}; `{python} -m pip install -r \
         {requirements}`, or name another Python with --python",
        python = python.display(),
        requirements = framework.requirements()
    )]
    Missing {
        /// The Python that ran.
        python: PathBuf,
        /// Its last words.
        reason: String,
        /// Whose exporter was wanted.
        framework: Framework,
    },
    /// The exporter fails.
    #[error("{framework} cannot export {model}: {reason}", framework = framework.name(), model = model.display())]
    Refused {
        /// Whose exporter it was.
        framework: Framework,
        /// The model.
        model: PathBuf,
        /// Its last words.
        reason: String,
    },
    /// There is no place for the ONNX file.
    #[error("no temporary folder for the exported model: {0}")]
    Folder(io::Error),
}

/// An ONNX file, gone with this value.
#[derive(Debug)]
pub struct Exported {
    folder: TempDir,
}

impl Exported {
    /// The file.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("exported.onnx")
    }
}

impl Framework {
    /// Whose a model is by its name; `None` for ONNX and anything else.
    #[must_use]
    pub fn of(model: &Path) -> Option<Self> {
        if model.join("saved_model.pb").exists() {
            return Some(Self::Keras);
        }
        match model.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "keras" | "h5" | "hdf5" => Some(Self::Keras),
            "pt" | "pt2" => Some(Self::Torch),
            _ => None,
        }
    }

    /// Its name, for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Keras => "Keras",
            Self::Torch => "PyTorch",
        }
    }

    fn requirements(self) -> &'static str {
        match self {
            Self::Keras => "models/keras/requirements.txt",
            Self::Torch => "models/torch/requirements.txt",
        }
    }

    fn script(self) -> &'static str {
        match self {
            Self::Keras => include_str!("../../models/keras/export.py"),
            Self::Torch => include_str!("../../models/torch/export.py"),
        }
    }
}

/// Exports a model with `python`; `size` is width and height, for a model that leaves them open.
///
/// # Errors
/// [`ExportError`], with the last words of the exporter.
pub fn export(
    model: &Path,
    framework: Framework,
    python: &Path,
    size: Option<(u32, u32)>,
) -> Result<Exported, ExportError> {
    let exported = Exported { folder: tempfile::tempdir().map_err(ExportError::Folder)? };
    let mut command = Command::new(python);
    command.args(["-c", framework.script()]).arg(model).arg(exported.path());
    if let Some((width, height)) = size {
        command.args(["--size", &height.to_string(), &width.to_string()]);
    }
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| {
        let python = python.to_owned();
        ExportError::Python { python, error, framework }
    })?;
    if output.status.success() {
        return Ok(exported);
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    let reason = last.trim().to_owned();
    let lacks = ["ModuleNotFoundError", "ImportError"].iter().any(|e| reason.starts_with(e));
    if lacks {
        return Err(ExportError::Missing { python: python.to_owned(), reason, framework });
    }
    Err(ExportError::Refused { framework, model: model.to_owned(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_known_by_their_names() {
        let cases = [
            ("stage1.keras", Some(Framework::Keras)),
            ("old.H5", Some(Framework::Keras)),
            ("program.pt2", Some(Framework::Torch)),
            ("script.pt", Some(Framework::Torch)),
            ("model.onnx", None),
            ("no/such/folder", None),
        ];
        for (name, framework) in cases {
            assert_eq!(Framework::of(Path::new(name)), framework, "{name}");
        }
        let home = tempfile::tempdir().expect("a temporary folder");
        assert_eq!(Framework::of(home.path()), None);
        std::fs::write(home.path().join("saved_model.pb"), []).expect("written");
        assert_eq!(Framework::of(home.path()), Some(Framework::Keras));
    }

    #[test]
    fn without_python_the_error_says_what_to_name() {
        let error = export(Path::new("a.keras"), Framework::Keras, Path::new("/no/python"), None);
        let error = error.expect_err("there is no such Python").to_string();
        assert!(error.contains("/no/python") && error.contains("--python"), "{error}");
    }
}
