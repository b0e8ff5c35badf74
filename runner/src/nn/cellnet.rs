//! Our own engine over `model.cell`: convolutional classifiers, packed beforehand, weights mapped.
//!
//! Which graphs can be packed is `cellnet`'s business; a folder without `model.cell` is rten's.

use super::engine::{
    Engine, LoadError, LoadedModel, RunError, TensorError, aligned, checked_shape, type_name,
};
use cellnet::{Model, Pool, TensorRef, Workspace};
use std::borrow::Cow;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use wasmtime_wasi_nn::Tensor;
use wasmtime_wasi_nn::wit::TensorType;

/// The packed model's file name.
const FILE: &str = "model.cell";

/// Workspaces kept between runs, for each model: one request after the other needs no new memory, and
/// a burst of them leaves none behind.
const KEPT_WORKSPACES: usize = 1;

/// The engine; its models share one pool of threads, made when the first of them is loaded.
pub struct Cellnet {
    threads: usize,
    pool: OnceLock<Arc<Pool>>,
}

struct CellnetModel {
    model: Model,
    pool: Arc<Pool>,
    workspaces: Mutex<Vec<Workspace>>,
}

impl Cellnet {
    /// An engine with `threads` threads for all its models together.
    #[must_use]
    pub fn new(threads: usize) -> Self {
        Self { threads, pool: OnceLock::new() }
    }
}

impl Engine for Cellnet {
    fn name(&self) -> &'static str {
        "cellnet"
    }

    fn takes(&self, folder: &Path) -> bool {
        folder.join(FILE).exists()
    }

    fn load(&self, folder: &Path) -> Result<Box<dyn LoadedModel>, LoadError> {
        let path = folder.join(FILE);
        let model = Model::open(&path).map_err(|error| LoadError::Refused {
            engine: self.name(),
            path,
            reason: error.to_string(),
        })?;
        let pool = Arc::clone(self.pool.get_or_init(|| Arc::new(Pool::new(self.threads))));
        Ok(Box::new(CellnetModel { model, pool, workspaces: Mutex::default() }))
    }
}

impl LoadedModel for CellnetModel {
    fn run(&self, inputs: Vec<(String, Tensor)>) -> Result<Vec<(String, Tensor)>, RunError> {
        let mut elements = Vec::with_capacity(inputs.len());
        for (name, tensor) in &inputs {
            let named = |source| RunError::Tensor { name: name.clone(), source };
            elements.push((name, self.elements(name, tensor).map_err(named)?));
        }
        let bound: Vec<_> = elements.iter().map(|(name, e)| (name.as_str(), e.view())).collect();
        let mut workspace = self.workspace();
        let outputs = self
            .model
            .run(&mut workspace, &self.pool, &bound)
            .map_err(|error| RunError::Engine(error.to_string()))?;
        self.keep(workspace);
        let tensor = |output: cellnet::Tensor| {
            let data = bytemuck::cast_slice(&output.values).to_vec();
            Tensor::new(output.dims, TensorType::Fp32, data)
        };
        Ok(outputs.into_iter().map(|(name, output)| (name, tensor(output))).collect())
    }

    fn workspace_bytes(&self) -> Option<u64> {
        Some(self.model.workspace_bytes(self.pool.threads()) as u64)
    }

    fn read_ahead(&self) {
        self.model.touch();
    }
}

/// An input's elements, in place where they are aligned.
enum Elements<'a> {
    F32(Cow<'a, [f32]>),
    U8(&'a [u8]),
}

impl Elements<'_> {
    fn view(&self) -> TensorRef<'_> {
        match self {
            Self::F32(values) => TensorRef::F32(values),
            Self::U8(values) => TensorRef::U8(values),
        }
    }
}

impl CellnetModel {
    /// The tensor's elements, after checking it against itself and, in its dimensions, against the
    /// model; name, type and number of elements the engine checks.
    fn elements<'a>(&self, name: &str, tensor: &'a Tensor) -> Result<Elements<'a>, TensorError> {
        checked_shape(tensor)?;
        let port = self.model.inputs().iter().find(|port| port.name == name);
        if let Some(port) = port.filter(|port| port.dims != tensor.dimensions) {
            return Err(TensorError::Shape {
                given: tensor.dimensions.clone(),
                taken: port.dims.clone(),
            });
        }
        match tensor.ty {
            TensorType::Fp32 => Ok(Elements::F32(aligned(&tensor.data))),
            TensorType::U8 => Ok(Elements::U8(&tensor.data)),
            other => Err(TensorError::Type(type_name(other))),
        }
    }

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
