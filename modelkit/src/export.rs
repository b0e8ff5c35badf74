//! Exports Keras and PyTorch models to ONNX with the framework's own exporter, in a Python process.
//!
//! The scripts `models/keras/export.py` and `models/torch/export.py` can also be run by hand. This module
//! chooses the script for a model and runs it with a temporary folder. The process keeps running afterwards
//! and answers with the framework's own predictions, with which `prepare` compares.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde::Deserialize;
use tempfile::TempDir;
use thiserror::Error;

use crate::compare::{Given, Reference};
use crate::preprocess::Convention;

/// The framework of a model, whose exporter it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framework {
    /// `.keras`, `.h5`, `.hdf5`, or a SavedModel folder.
    Keras,
    /// `.pt2` (`torch.export`) or `.pt` (TorchScript); see [`crate::source`].
    Torch,
}

/// Why a model could not be exported.
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
        /// The Python to be run.
        python: PathBuf,
        /// The system's error.
        error: io::Error,
        /// The framework of the model.
        framework: Framework,
    },
    /// This Python lacks packages that the exporter needs.
    #[error(
        "{python} lacks packages to export this model: {reason}; run `{python} -m pip install {packages}`, \
         or name another Python with --python",
        python = python.display(),
        packages = framework.packages()
    )]
    Missing {
        /// The Python that ran.
        python: PathBuf,
        /// The last line of its errors.
        reason: String,
        /// The framework of the model.
        framework: Framework,
    },
    /// The exporter failed.
    #[error("{framework} cannot export {model}: {reason}", framework = framework.name(), model = model.display())]
    Refused {
        /// The framework of the model.
        framework: Framework,
        /// The model.
        model: PathBuf,
        /// The last line of the exporter's errors.
        reason: String,
    },
    /// The temporary folder cannot be made.
    #[error("no temporary folder for the exported model: {0}")]
    Folder(io::Error),
}

/// An exported ONNX file, and the process of its framework, which can still predict. Dropping this value
/// deletes the file and ends the process.
#[derive(Debug)]
pub struct Exported {
    folder: TempDir,
    framework: Framework,
    model: PathBuf,
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    convention: Option<Convention>,
}

/// The part of a script's first line that is used here.
#[derive(Deserialize)]
struct Hello {
    /// Name of the model's preprocessing convention, if its layers show which tool made it.
    #[serde(default)]
    convention: Option<String>,
}

/// The prefix of a script's lines for this module; frameworks print other lines.
const MARK: &str = "skincell: ";
/// Longest such line; several times the length of 100,000 scores in decimal notation.
const LONGEST_ANSWER: u64 = 64 << 20;

impl Exported {
    /// Path of the ONNX file.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("exported.onnx")
    }

    /// The model's preprocessing convention, if its layers show which tool made it.
    #[must_use]
    pub fn convention(&self) -> Option<Convention> {
        self.convention
    }

    /// Waits for the script's next line with the prefix.
    fn answer(&mut self) -> Result<String, ExportError> {
        loop {
            let mut line = String::new();
            let read = (&mut self.answers).take(LONGEST_ANSWER).read_line(&mut line);
            match read {
                Ok(0) | Err(_) => return Err(self.failed()),
                Ok(_) => {}
            }
            if let Some(answer) = line.strip_prefix(MARK) {
                return Ok(answer.to_owned());
            }
        }
    }

    /// Why the script ended.
    fn failed(&mut self) -> ExportError {
        // The script has closed its output, so it ends by itself.
        let ended = self.child.wait().ok();
        let said = fs::read(self.folder.path().join("errors")).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let last = said.lines().rev().find(|line| !line.trim().is_empty() && !is_log(line));
        let reason = match (last, ended.filter(|status| status.code().is_none())) {
            // Its last line then tells what it was doing, and not why it ended.
            (_, Some(signal)) => format!(
                "its process was ended from outside ({signal}); there may have been too little memory"
            ),
            (Some(last), None) => last.trim().to_owned(),
            (None, None) => "it said nothing".to_owned(),
        };
        let framework = self.framework;
        if ["ModuleNotFoundError", "ImportError"].iter().any(|e| reason.starts_with(e)) {
            return ExportError::Missing { python: PathBuf::new(), reason, framework };
        }
        ExportError::Refused { framework, model: self.model.clone(), reason }
    }
}

/// Whether a line is TensorFlow's log and not an error, such as `I0000 00:00:1795849330.876429 …`.
fn is_log(line: &str) -> bool {
    let line = line.trim_start();
    line.starts_with("WARNING")
        || matches!(line.as_bytes(), [b'I' | b'W' | b'E', rest @ ..]
            if rest.len() > 4 && rest[..4].iter().all(u8::is_ascii_digit) && rest[4] == b' ')
}

impl Reference for Exported {
    fn name(&self) -> &str {
        self.framework.name()
    }

    fn predict(&mut self, inputs: &[Given]) -> Result<Vec<(String, Vec<f64>)>, String> {
        let mut request = Vec::new();
        for (index, input) in inputs.iter().enumerate() {
            let file = self.folder.path().join(format!("input{index}.f32"));
            let bytes: Vec<u8> = input.values.iter().flat_map(|v| v.to_le_bytes()).collect();
            fs::write(&file, bytes).map_err(|e| format!("{}: {e}", file.display()))?;
            let (name, shape) = (&input.name, &input.shape);
            request.push(serde_json::json!({ "name": name, "shape": shape, "file": file }));
        }
        let line = serde_json::Value::from(request).to_string() + "\n";
        // If the script has ended, reading its answer gives the reason.
        let _ = self.requests.write_all(line.as_bytes()).and_then(|()| self.requests.flush());
        let answer = self.answer().map_err(|error| error.to_string())?;
        let answer: BTreeMap<String, Vec<f64>> = serde_json::from_str(&answer)
            .map_err(|error| format!("no answer of scores: {error}"))?;
        Ok(answer.into_iter().collect())
    }
}

impl Drop for Exported {
    fn drop(&mut self) {
        // Fails harmlessly if the process has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Framework {
    /// Its name, as shown to users.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Keras => "Keras",
            Self::Torch => "PyTorch",
        }
    }

    /// The packages that its script is tested with, as arguments of pip.
    fn packages(self) -> String {
        let requirements = match self {
            Self::Keras => include_str!("../exporters/keras/requirements.txt"),
            Self::Torch => include_str!("../exporters/torch/requirements.txt"),
        };
        let lines = requirements.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.collect::<Vec<_>>().join(" ")
    }

    fn script(self) -> &'static str {
        match self {
            Self::Keras => include_str!("../exporters/keras/export.py"),
            Self::Torch => include_str!("../exporters/torch/export.py"),
        }
    }
}

/// Exports a model with `python` into a temporary folder in `scratch`; `size` is width and height in pixels,
/// for a model with variable sizes. The script ends when this process does.
///
/// # Errors
/// [`ExportError`], with the last line of the exporter's errors.
pub fn export(
    model: &Path,
    framework: Framework,
    python: &Path,
    size: Option<(u32, u32)>,
    scratch: &Path,
) -> Result<Exported, ExportError> {
    let folder = tempfile::tempdir_in(scratch).map_err(ExportError::Folder)?;
    let errors = File::create(folder.path().join("errors")).map_err(ExportError::Folder)?;
    let mut command = Command::new(python);
    command.args(["-c", framework.script()]).arg(model).arg(folder.path().join("exported.onnx"));
    command.arg("--predict").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors);
    if let Some((width, height)) = size {
        command.args(["--size", &height.to_string(), &width.to_string()]);
    }
    let lacks = |error| ExportError::Python { python: python.to_owned(), error, framework };
    let mut child = command.spawn().map_err(lacks)?;
    let (Some(requests), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(lacks(io::Error::other("it has no standard input or output")));
    };
    let answers = BufReader::new(answers);
    let model = model.to_owned();
    let convention = None;
    let mut exported = Exported { folder, framework, model, child, requests, answers, convention };
    match exported.answer() {
        Ok(line) => {
            let said: Option<Hello> = serde_json::from_str(&line).ok();
            let is_machine = |name: &String| name == "teachable-machine";
            let found = said.and_then(|hello| hello.convention).filter(is_machine);
            exported.convention = found.map(|_| Convention::TeachableMachine);
            Ok(exported)
        }
        Err(ExportError::Missing { reason, framework, .. }) => {
            Err(ExportError::Missing { python: python.to_owned(), reason, framework })
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_python_the_error_says_what_to_name() {
        let error = export(
            Path::new("a.keras"),
            Framework::Keras,
            Path::new("/no/python"),
            None,
            &std::env::temp_dir(),
        );
        let error = error.expect_err("there is no such Python").to_string();
        assert!(error.contains("/no/python") && error.contains("--python"), "{error}");
    }
    #[test]
    fn of_a_script_that_was_killed_no_log_is_given_as_the_reason() {
        use std::os::unix::fs::PermissionsExt as _;
        let home = tempfile::tempdir().expect("a temporary folder");
        let python = home.path().join("python");
        let log =
            "I0000 00:00:1795849330.876429 20918 cudart_stub.cc:31] Could not find cuda drivers";
        let script =
            |end: &str| format!("#!/bin/sh\necho 'no such layer' >&2\necho '{log}' >&2\n{end}\n");
        for (end, part) in [("kill -9 $$", "too little memory"), ("exit 1", "no such layer")] {
            fs::write(&python, script(end)).expect("written");
            fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).expect("allowed");
            let error = export(Path::new("a.keras"), Framework::Keras, &python, None, home.path());
            let error = error.expect_err("it ended").to_string();
            assert!(error.contains(part) && !error.contains("cuda"), "{error}");
        }
    }
}
