//! Resolves the data files an ONNX model names; only files in the model's folder or below are allowed.
//!
//! The model chooses these names, and the bytes read may appear in an answer, so a name that leads out of
//! the folder could disclose any file. All readers of ONNX models use this rule.

use std::path::{Component, Path, PathBuf};

use thiserror::Error;

/// Why a data file is refused.
#[derive(Debug, Error)]
pub enum ExternalError {
    /// The path is absolute, contains `..`, or is empty.
    #[error("a path that leaves the model's folder is not followed")]
    Path,
    /// A symbolic link leads out of the folder.
    #[error("a link that leaves the model's folder is not followed")]
    Link,
    /// The file does not exist.
    #[error("{0}; a model's data file must lie beside it, under the name it was saved")]
    Missing(#[from] std::io::Error),
}

/// The real path of the file that the model at `model` calls `location`.
///
/// Download caches keep a model and its data as links into another folder; that is allowed if both files
/// lie in the same folder there. If only the model is a link, its data may also lie beside the file the
/// link points to.
///
/// # Errors
/// [`ExternalError`].
pub fn resolve(model: &Path, location: &str) -> Result<PathBuf, ExternalError> {
    if location.is_empty() || !is_below(Path::new(location)) {
        return Err(ExternalError::Path);
    }
    if cfg!(target_family = "wasm") {
        return resolve_in_wasm(model.with_file_name(location));
    }
    let folder = |path: &Path| path.parent().map(Path::to_path_buf).unwrap_or_default();
    let (given, real) = (folder(model), folder(&model.canonicalize()?));
    let path = match given.join(location).canonicalize() {
        Ok(path) => path,
        Err(_) => real.join(location).canonicalize()?,
    };
    let own = if given.as_os_str().is_empty() { Path::new(".") } else { &given };
    match path.starts_with(&real) || path.starts_with(own.canonicalize()?) {
        true => Ok(path),
        false => Err(ExternalError::Link),
    }
}

/// Whether a relative path stays in its folder, judged by its components alone.
fn is_below(path: &Path) -> bool {
    path.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir))
}

/// WASI cannot canonicalize paths. A link may point to a place below itself; the mount keeps further links
/// inside.
fn resolve_in_wasm(path: PathBuf) -> Result<PathBuf, ExternalError> {
    match path.read_link() {
        Ok(target) if !is_below(&target) => Err(ExternalError::Link),
        _ => path.metadata().map(|_| path).map_err(Into::into),
    }
}

// Tests have no temporary folder in Wasm; the conformance suite covers the rule there.
#[cfg(all(test, not(target_family = "wasm")))]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]

    use super::{ExternalError, resolve};
    use std::fs;

    #[test]
    fn only_the_models_own_folder_is_read() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("model");
        fs::create_dir_all(folder.join("below")).unwrap();
        for file in ["model/model.onnx", "model/a.data", "model/below/b.data", "secret"] {
            fs::write(root.path().join(file), "bytes").unwrap();
        }
        let model = folder.join("model.onnx");
        for location in ["a.data", "./a.data", "below/b.data"] {
            let found = resolve(&model, location).unwrap();
            assert_eq!(found, folder.join(location).canonicalize().unwrap(), "{location}");
        }
        for location in ["", "..", "../secret", "below/../../secret", "/etc/passwd"] {
            let refused = resolve(&model, location);
            assert!(matches!(refused, Err(ExternalError::Path)), "{location}: {refused:?}");
        }
        assert!(matches!(resolve(&model, "missing"), Err(ExternalError::Missing(_))));
    }

    #[cfg(unix)]
    #[test]
    fn links_may_lead_to_the_folder_of_the_real_model() {
        use std::os::unix::fs::symlink;
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        for folder in ["blobs", "cache", "named"] {
            fs::create_dir(at(folder)).unwrap();
        }
        for file in ["blobs/1", "blobs/2", "named/model.onnx", "named/weights.data", "secret"] {
            fs::write(at(file), "bytes").unwrap();
        }
        // A download cache: both files are links to blobs.
        symlink(at("blobs/1"), at("cache/model.onnx")).unwrap();
        symlink(at("blobs/2"), at("cache/weights.data")).unwrap();
        symlink(at("secret"), at("cache/out.data")).unwrap();
        // Only the model is a link.
        symlink(at("named/model.onnx"), at("alone.onnx")).unwrap();
        assert!(resolve(&at("cache/model.onnx"), "weights.data").unwrap().ends_with("blobs/2"));
        let out = resolve(&at("cache/model.onnx"), "out.data");
        assert!(matches!(out, Err(ExternalError::Link)), "{out:?}");
        let beside = resolve(&at("alone.onnx"), "weights.data").unwrap();
        assert!(beside.ends_with("named/weights.data"));
    }
}
