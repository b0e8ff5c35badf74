//! Which engine runs which model: what the user says, what the model's folder holds, how much memory one
//! model may take for itself.

use std::path::PathBuf;
use std::sync::Arc;

use crate::source::Source;
use crate::{Cellnet, Engine, Rten};

/// Which engine runs a model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
pub enum EngineChoice {
    /// cellnet where the folder has a `model.cell`; else ONNX Runtime where a library is named and there is
    /// room for private weights; else rten.
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

/// Engines in the order of preference.
#[derive(Clone)]
pub struct Engines {
    preferred: Vec<Arc<dyn Engine>>,
    last: Arc<dyn Engine>,
}

impl Engines {
    /// `preferred` first, `last` for whatever they do not take.
    #[must_use]
    pub fn new(preferred: Vec<Arc<dyn Engine>>, last: Arc<dyn Engine>) -> Self {
        Self { preferred, last }
    }

    /// The first engine that takes `source`, or the last of all, which will say why it does not.
    #[must_use]
    pub fn choose(&self, source: &Source<'_>) -> Arc<dyn Engine> {
        let first = self.preferred.iter().find(|engine| engine.takes(source));
        Arc::clone(first.unwrap_or(&self.last))
    }

    /// All of them, the first to be asked first.
    pub fn all(&self) -> impl Iterator<Item = &Arc<dyn Engine>> {
        self.preferred.iter().chain([&self.last])
    }
}

/// What engines are chosen by.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Which engine.
    pub choice: EngineChoice,
    /// Threads of each engine.
    pub threads: usize,
    /// The ONNX Runtime library, where there is one.
    pub library: Option<PathBuf>,
    /// Private bytes that one model may take; `None` is no bound.
    pub allowance: Option<u64>,
}

/// Why an engine cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SelectError {
    /// No library is named.
    #[error(
        "--engine onnxruntime needs an ONNX Runtime library: name it with --engine-lib or \
         ORT_DYLIB_PATH; the Python package onnxruntime carries one, \
         onnxruntime/capi/libonnxruntime.so.1.x"
    )]
    NoLibraryNamed,
    /// There is no library where one is named.
    #[cfg(feature = "onnxruntime")]
    #[error(transparent)]
    NoLibrary(#[from] crate::NoLibrary),
    /// The engine was left out of this program.
    #[error("this skincell was built without the engine onnxruntime")]
    NotBuilt,
}

impl Selection {
    /// The engines, in order of preference; and why ONNX Runtime is not among them, where a library was named
    /// and the choice is open.
    ///
    /// # Errors
    /// When ONNX Runtime is asked for and cannot be had.
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

    /// The engine over the library, if one is named; it takes every model, or those whose private copy fits
    /// into the allowance.
    #[cfg(feature = "onnxruntime")]
    fn onnxruntime(&self, every: bool) -> Result<Option<Arc<dyn Engine>>, SelectError> {
        let Some(library) = &self.library else { return Ok(None) };
        let engine = crate::OnnxRuntime::new(library, self.threads)?;
        let engine = engine.with_allowance(self.allowance);
        Ok(Some(Arc::new(if every { engine } else { engine.only_where_it_fits() })))
    }

    #[cfg(not(feature = "onnxruntime"))]
    fn onnxruntime(&self, every: bool) -> Result<Option<Arc<dyn Engine>>, SelectError> {
        if every { Err(SelectError::NotBuilt) } else { Ok(None) }
    }
}
