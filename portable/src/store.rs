//! Which models there are, and the ones loaded so far.
//!
//! Models are folders of the models folder, `/models` or what `WASI_NN_MODELS` names. Finding one looks
//! at names only; loading happens when a run is prepared, as on the native side, and once an instance.
//!
//! A component with baked models has these and no others, and looks for no file.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::Rc;

use crate::baked::Archive;
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
    baked: Archive<'static>,
    loaded: RefCell<HashMap<String, Rc<Model>>>,
}

/// Where a model is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In a folder of files.
    Folder(PathBuf),
    /// In the component.
    Baked,
}

impl Store {
    /// The models of `baked`, or where that is empty those in the folders of `root`.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>, baked: Archive<'static>) -> Self {
        Self { root: root.into(), baked, loaded: RefCell::default() }
    }

    /// Where the model called `name` is, if it is anywhere.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Place> {
        if !is_plain(name) {
            return None;
        }
        if !self.baked.is_empty() {
            return self.baked.has(name).then_some(Place::Baked);
        }
        let folder = self.root.join(name);
        Model::lies_in(&folder).then_some(Place::Folder(folder))
    }

    /// The model called `name`, loaded unless it is already.
    ///
    /// # Errors
    /// [`LoadError`]; it is not kept, so the next caller tries again.
    pub fn load(&self, name: &str, place: &Place) -> Result<Rc<Model>, LoadError> {
        if let Some(model) = self.loaded.borrow().get(name) {
            return Ok(Rc::clone(model));
        }
        let model = Rc::new(match place {
            Place::Folder(folder) => Model::load(folder)?,
            Place::Baked => Model::baked(&self.baked, name)?,
        });
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

    use super::{Archive, Place, Store, is_plain};

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
        let store = Store::new(root.path(), Archive::default());
        for name in ["cell", "onnx"] {
            assert_eq!(store.find(name), Some(Place::Folder(root.path().join(name))));
        }
        assert_eq!(store.find("card"), None);
        assert_eq!(store.find("../cell"), None);
        let error = store.load("cell", &store.find("cell").unwrap()).unwrap_err();
        assert!(error.to_string().contains("model.cell"), "{error}");
    }

    #[test]
    fn who_has_baked_models_has_no_others() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("cell")).unwrap();
        std::fs::write(root.path().join("cell/model.cell"), "not a model").unwrap();
        let files = [("skin/model.cell".to_owned(), b"not a model".to_vec())];
        let archive = Archive::read(Archive::pack(&files).unwrap().leak()).unwrap();
        let store = Store::new(root.path(), archive);
        assert_eq!(store.find("skin"), Some(Place::Baked));
        assert_eq!(store.find("cell"), None);
        let error = store.load("skin", &Place::Baked).unwrap_err();
        assert!(error.to_string().contains("model.cell"), "{error}");
    }
}
