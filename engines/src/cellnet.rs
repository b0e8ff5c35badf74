//! The engine cellnet over `model.cell`: image classifiers (convolutional networks and vision transformers),
//! packed beforehand, with mapped weights.
//!
//! The crate `cellnet` decides which graphs can be packed.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use ::cellnet::{self as engine, Pool, TensorRef, Workspace};

use crate::error::{LoadError, RunError};
use crate::inputs::matched;
use crate::source::{CELL_FILE, Source};
use crate::tensor::{Dtype, NamedTensor, Tensor, TensorError};
use crate::{Engine, Model};

/// Workspaces each model keeps between runs: sequential requests reuse one, and a burst leaves no more than
/// that.
const KEPT_WORKSPACES: usize = 1;

const NAME: &str = "cellnet";

/// The engine. Its models share one thread pool, created when the first model is loaded.
pub struct Cellnet {
    threads: usize,
    pool: OnceLock<Arc<Pool>>,
}

struct CellnetModel {
    model: engine::Model,
    inputs: Vec<String>,
    pool: Arc<Pool>,
    workspaces: Mutex<Vec<Workspace>>,
}

impl Cellnet {
    /// An engine whose models share `threads` threads.
    #[must_use]
    pub fn new(threads: usize) -> Self {
        Self { threads, pool: OnceLock::new() }
    }
}

impl Engine for Cellnet {
    fn name(&self) -> &'static str {
        NAME
    }

    fn takes(&self, source: &Source<'_>) -> bool {
        source.has_cell()
    }

    fn load(&self, source: Source<'_>) -> Result<Box<dyn Model>, LoadError> {
        let path = source.path(CELL_FILE);
        let refused = |reason| {
            let model = path.display().to_string();
            LoadError::Refused { engine: NAME, model, reason }
        };
        let opened = match source {
            Source::Folder(_) if !source.has_cell() => return Err(LoadError::Missing(path)),
            Source::Folder(_) => engine::Model::open(&path),
            Source::Static(files) => match files.cell {
                Some(bytes) => engine::Model::from_static(bytes),
                None => return Err(LoadError::Missing(path)),
            },
            Source::Bytes(_) => {
                return Err(refused("cellnet loads packed models, not ONNX".to_owned()));
            }
        };
        let model =
            opened.map_err(|error| LoadError::of(NAME, path.display().to_string(), &error))?;
        let inputs = model.inputs().iter().map(|spec| spec.name.clone()).collect();
        let pool = Arc::clone(self.pool.get_or_init(|| Arc::new(Pool::new(self.threads))));
        Ok(Box::new(CellnetModel { model, inputs, pool, workspaces: Mutex::default() }))
    }
}

impl Model for CellnetModel {
    fn run(&self, inputs: &[NamedTensor]) -> Result<Vec<NamedTensor>, RunError> {
        let indices = matched(&self.inputs, inputs)?;
        let mut elements = Vec::with_capacity(inputs.len());
        for ((name, tensor), index) in inputs.iter().zip(indices) {
            let named = |source| RunError::Tensor { name: name.clone(), source };
            let expected = &self.model.inputs()[index].dims;
            elements.push((name.as_str(), Elements::of(tensor, expected).map_err(named)?));
        }
        let bound: Vec<_> = elements.iter().map(|(name, e)| (*name, e.view())).collect();
        let mut workspace = self.workspace();
        let outputs = self
            .model
            .run(&mut workspace, &self.pool, &bound)
            .map_err(|error| RunError::Engine(error.to_string()))?;
        self.keep(workspace);
        let tensor =
            |output: engine::OutputTensor| Tensor::of(output.dims, Dtype::F32, &output.values);
        Ok(outputs.into_iter().map(|(name, output)| (name, tensor(output))).collect())
    }

    fn workspace_bytes(&self) -> Option<u64> {
        Some(self.model.workspace_bytes(self.pool.threads()) as u64)
    }

    fn read_ahead(&self) {
        self.model.touch();
    }
}

/// An input's elements, copied only if they are not aligned.
enum Elements<'a> {
    F32(Cow<'a, [f32]>),
    U8(&'a [u8]),
}

impl<'a> Elements<'a> {
    /// Checks the length of `tensor` and that its dimensions are `expected`. The engine checks the type.
    fn of(tensor: &'a Tensor, expected: &[u32]) -> Result<Self, TensorError> {
        tensor.checked_shape()?;
        if tensor.dimensions != expected {
            let (given, taken) = (tensor.dimensions.clone(), expected.to_vec());
            return Err(TensorError::Shape { given, taken });
        }
        match tensor.dtype {
            Dtype::F32 => Ok(Self::F32(tensor.elements())),
            Dtype::U8 => Ok(Self::U8(&tensor.data)),
            given => Err(TensorError::Dtype { given, taken: "f32 or u8" }),
        }
    }

    fn view(&self) -> TensorRef<'_> {
        match self {
            Self::F32(values) => TensorRef::F32(values),
            Self::U8(values) => TensorRef::U8(values),
        }
    }
}

impl CellnetModel {
    fn workspace(&self) -> Workspace {
        let kept = self.workspaces.lock().unwrap_or_else(PoisonError::into_inner).pop();
        kept.unwrap_or_else(|| Workspace::new(&self.model))
    }

    fn keep(&self, workspace: Workspace) {
        let mut kept = self.workspaces.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT_WORKSPACES {
            kept.push(workspace);
        }
    }
}
