//! Chooses the engine for a model, by the user's choice, the files in the model's folder, and the private
//! memory one model may take.

use std::path::PathBuf;
use std::sync::Arc;

use crate::source::Source;
use crate::{Cellnet, Engine, Rten};

/// The user's choice of engine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
pub enum EngineChoice {
    /// cellnet if the folder has a `model.cell`; else ONNX Runtime if a library is named and there is room
    /// for private weights; else rten.
    #[default]
    Auto,
    /// cellnet only.
    Cellnet,
    /// rten only.
    Rten,
    /// ONNX Runtime only.
    #[cfg_attr(feature = "clap", value(name = "onnxruntime"))]
    OnnxRuntime,
}

/// Engines in order of preference.
#[derive(Clone)]
pub struct Engines {
    preferred: Vec<Arc<dyn Engine>>,
    last: Arc<dyn Engine>,
}

impl Engines {
    /// `preferred` in order, then `last` for sources that none of them takes.
    #[must_use]
    pub fn new(preferred: Vec<Arc<dyn Engine>>, last: Arc<dyn Engine>) -> Self {
        Self { preferred, last }
    }

    /// The first engine that takes `source`; otherwise the last engine, whose `load` then reports the
    /// reason.
    #[must_use]
    pub fn choose(&self, source: &Source<'_>) -> Arc<dyn Engine> {
        let first = self.preferred.iter().find(|engine| engine.takes(source));
        Arc::clone(first.unwrap_or(&self.last))
    }

    /// All engines, in order of preference.
    pub fn all(&self) -> impl Iterator<Item = &Arc<dyn Engine>> {
        self.preferred.iter().chain([&self.last])
    }
}

/// The settings that engines are chosen by.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// The user's choice.
    pub choice: EngineChoice,
    /// Threads of each engine; 0 counts as 1.
    pub threads: usize,
    /// The ONNX Runtime library, if one is named.
    pub library: Option<PathBuf>,
    /// Private bytes that one model may take; `None` means unlimited.
    pub allowance: Option<u64>,
}

/// Why an engine is not available.
#[derive(Debug, thiserror::Error)]
pub enum SelectError {
    /// No library was named.
    #[error(
        "--engine onnxruntime needs an ONNX Runtime library: name it with --engine-lib or \
         ORT_DYLIB_PATH; the Python package onnxruntime carries one, \
         onnxruntime/capi/libonnxruntime.so.1.x"
    )]
    NoLibraryNamed,
    /// The named library does not exist.
    #[cfg(feature = "onnxruntime")]
    #[error(transparent)]
    NoLibrary(#[from] crate::NoLibrary),
    /// The program was built without the engine.
    #[error(
        "this skincell was built without the engine onnxruntime; build it with the feature onnxruntime, or \
         choose another --engine"
    )]
    NotBuilt,
}

impl Selection {
    /// The engines in order of preference. With [`EngineChoice::Auto`], the second value says why a named
    /// ONNX Runtime library is not among them; `None` also in a build without that engine, which ignores
    /// the library.
    ///
    /// # Errors
    /// [`SelectError`] if ONNX Runtime was chosen and is not available.
    pub fn engines(&self) -> Result<(Engines, Option<SelectError>), SelectError> {
        let alone = |engine: Arc<dyn Engine>| Ok((Engines::new(Vec::new(), engine), None));
        let cellnet = || Arc::new(Cellnet::new(self.threads));
        let rten = || Arc::new(Rten::new(self.threads));
        match self.choice {
            EngineChoice::Cellnet => alone(cellnet()),
            EngineChoice::Rten => alone(rten()),
            EngineChoice::OnnxRuntime => match self.onnxruntime(true)? {
                Some(engine) => alone(engine),
                None => Err(SelectError::NoLibraryNamed),
            },
            EngineChoice::Auto => {
                let mut preferred: Vec<Arc<dyn Engine>> = vec![cellnet()];
                let missing = match self.onnxruntime(false) {
                    Ok(engine) => {
                        preferred.extend(engine);
                        None
                    }
                    Err(error) => Some(error),
                };
                Ok((Engines::new(preferred, rten()), missing))
            }
        }
    }

    /// ONNX Runtime, if a library is named. It takes every model, or only those whose private copy fits
    /// into the allowance.
    #[cfg(feature = "onnxruntime")]
    fn onnxruntime(&self, takes_every_model: bool) -> Result<Option<Arc<dyn Engine>>, SelectError> {
        let Some(library) = &self.library else { return Ok(None) };
        let engine = crate::OnnxRuntime::new(library, self.threads)?;
        let engine = engine.with_allowance(self.allowance);
        Ok(Some(Arc::new(if takes_every_model { engine } else { engine.only_where_it_fits() })))
    }

    #[cfg(not(feature = "onnxruntime"))]
    fn onnxruntime(&self, takes_every_model: bool) -> Result<Option<Arc<dyn Engine>>, SelectError> {
        if takes_every_model { Err(SelectError::NotBuilt) } else { Ok(None) }
    }
}
