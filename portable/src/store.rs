//! Which models there are, and the ones loaded so far.
//!
//! Models are folders of the models folder, `/models` or what `WASI_NN_MODELS` names. Finding one looks
//! at names only; loading happens when a run is prepared, as on the native side, and once an instance.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::engine::{LoadError, Model};

/// Variable that names another models folder.
pub const FOLDER_VARIABLE: &str = "WASI_NN_MODELS";
/// The models folder where the variable is not set.
pub const FOLDER: &str = "/models";
/// Longest name of a model.
const LONGEST: usize = 64;

/// The models of one instance.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    loaded: RefCell<HashMap<String, Rc<Model>>>,
}

impl Store {
    /// The models in the folders of `root`.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), loaded: RefCell::default() }
    }

    /// The folder of the model called `name`, if it is mounted.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<PathBuf> {
        let folder = is_plain(name).then(|| self.root.join(name))?;
        Model::lies_in(&folder).then_some(folder)
    }

    /// The model called `name` in `folder`, loaded unless it is already.
    ///
    /// # Errors
    /// [`LoadError`]; it is not kept, so the next caller tries again.
    pub fn load(&self, name: &str, folder: &Path) -> Result<Rc<Model>, LoadError> {
        if let Some(model) = self.loaded.borrow().get(name) {
            return Ok(Rc::clone(model));
        }
        let model = Rc::new(Model::load(folder)?);
        self.loaded.borrow_mut().insert(name.to_owned(), Rc::clone(&model));
        Ok(model)
    }
}

/// Whether `name` is a folder's name and no path: letters, digits, `.`, `_`, `-`, and no dot in front.
fn is_plain(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    !name.is_empty() && name.len() <= LONGEST && !name.starts_with('.') && name.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]

    use super::{Store, is_plain};

    #[test]
    fn a_name_is_no_path() {
        for name in ["skin", "EfficientNetV2-S_300", "a.b"] {
            assert!(is_plain(name), "{name}");
        }
        let long = "a".repeat(65);
        for name in ["", ".", "..", ".hidden", "a/b", "/skin", "a\\b", "a\0", "é", long.as_str()] {
            assert!(!is_plain(name), "{name:?}");
        }
    }

    #[test]
    fn only_folders_with_a_model_are_found() {
        let root = tempfile::tempdir().unwrap();
        for (name, file) in [("cell", "model.cell"), ("onnx", "model.onnx"), ("card", "card.json")]
        {
            std::fs::create_dir(root.path().join(name)).unwrap();
            std::fs::write(root.path().join(name).join(file), "not a model").unwrap();
        }
        let store = Store::new(root.path());
        assert_eq!(store.find("cell"), Some(root.path().join("cell")));
        assert_eq!(store.find("onnx"), Some(root.path().join("onnx")));
        assert_eq!(store.find("card"), None);
        assert_eq!(store.find("../cell"), None);
        let error = store.load("cell", &root.path().join("cell")).unwrap_err();
        assert!(error.to_string().contains("model.cell"), "{error}");
    }
}
