//! Finds models and keeps the loaded ones.
//!
//! Models are folders in the models folder: `/models`, or the value of `WASI_NN_MODELS`. Finding a model
//! looks at file names only. It is loaded when a run is prepared, as in the runner, and once per instance.
//!
//! A component with baked models has only those, and reads no files.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use skincell_engines::source::{CELL_FILE, GRAPH_FILE, WEIGHTS_FILE};
use skincell_engines::{Cellnet, Engines, LoadError, Model, Rten, Source, StaticFiles};

use crate::baked::Archive;

/// The variable that names another models folder.
pub const FOLDER_VARIABLE: &str = "WASI_NN_MODELS";
/// The models folder if the variable is not set.
pub const FOLDER: &str = "/models";
/// Longest name of a model, as in a card.
const LONGEST: usize = 64;

/// The models of one instance.
pub struct Store {
    root: PathBuf,
    baked: Archive<'static>,
    engines: Engines,
    loaded: RefCell<HashMap<String, Rc<dyn Model>>>,
}

/// The place of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In a folder of files.
    Folder(PathBuf),
    /// Baked into the component.
    Baked,
}

impl Store {
    /// The models of `baked`, or the models in the folders of `root` if `baked` is empty.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>, baked: Archive<'static>) -> Self {
        // Wasm has one thread.
        let engines = Engines::new(vec![Arc::new(Cellnet::new(1))], Arc::new(Rten::new(1)));
        Self { root: root.into(), baked, engines, loaded: RefCell::default() }
    }

    /// The place of the model `name`, if it exists.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Place> {
        if !is_plain(name) {
            return None;
        }
        if !self.baked.is_empty() {
            return self.baked.has(name).then_some(Place::Baked);
        }
        let folder = self.root.join(name);
        let source = Source::Folder(&folder);
        let lies_there = self.engines.all().any(|engine| engine.takes(&source));
        lies_there.then_some(Place::Folder(folder))
    }

    /// The model `name`, loaded on the first call.
    ///
    /// # Errors
    /// [`LoadError`]. Failures are not kept, so the next call tries again.
    pub fn load(&self, name: &str, place: &Place) -> Result<Rc<dyn Model>, LoadError> {
        if let Some(model) = self.loaded.borrow().get(name) {
            return Ok(Rc::clone(model));
        }
        let file = |file| self.baked.file(name, file);
        let source = match place {
            Place::Folder(folder) => Source::Folder(folder),
            Place::Baked => Source::Static(StaticFiles {
                name,
                cell: file(CELL_FILE),
                graph: file(GRAPH_FILE),
                weights: file(WEIGHTS_FILE),
            }),
        };
        let model: Rc<dyn Model> = self.engines.choose(&source).load(source)?.into();
        self.loaded.borrow_mut().insert(name.to_owned(), Rc::clone(&model));
        Ok(model)
    }
}

/// Whether `name` is a plain folder name: letters, digits, `.`, `_`, `-`, not beginning with a dot.
pub(crate) fn is_plain(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    !name.is_empty() && name.len() <= LONGEST && !name.starts_with('.') && name.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]

    use super::{Archive, Place, Store, is_plain};

    #[test]
    fn names_that_could_be_paths_are_refused() {
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
        let error = store.load("cell", &store.find("cell").unwrap()).map(drop).unwrap_err();
        assert!(error.to_string().contains("model.cell"), "{error}");
    }

    #[test]
    fn a_component_with_baked_models_has_no_others() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("cell")).unwrap();
        std::fs::write(root.path().join("cell/model.cell"), "not a model").unwrap();
        let files = [("skin/model.cell".to_owned(), b"not a model".to_vec())];
        let archive = Archive::read(Archive::pack(&files).unwrap().leak()).unwrap();
        let store = Store::new(root.path(), archive);
        assert_eq!(store.find("skin"), Some(Place::Baked));
        assert_eq!(store.find("cell"), None);
        let error = store.load("skin", &Place::Baked).map(drop).unwrap_err();
        assert!(error.to_string().contains("model.cell"), "{error}");
    }
}
