//! The embedded engine: rten over `model.onnx`, its weights mapped from `model.onnx.data`.
//!
//! Weights stay file pages: shared between processes, given back under memory pressure. Which graphs
//! rten maps without copying is `modelkit`'s business, which writes them so.

use super::engine::{
    Engine, LoadError, LoadedModel, RunError, TensorError, aligned, checked_shape, type_name,
};
use rten::{DataType, Model, ModelOptions, NodeId, RunOptions, ThreadPool, Value, ValueType};
use rten_tensor::prelude::*;
use rten_tensor::{Tensor as RtenTensor, TensorView};
use std::borrow::Cow;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use wasmtime_wasi_nn::Tensor;
use wasmtime_wasi_nn::wit::TensorType;

/// The graph's file name; its weights lie beside it.
const FILE: &str = "model.onnx";

/// The engine; its models share one pool of threads, made when the first of them is loaded.
pub struct Rten {
    threads: usize,
    pool: OnceLock<Arc<ThreadPool>>,
}

struct RtenModel {
    model: Model,
    threads: Arc<ThreadPool>,
}

impl Rten {
    /// An engine with `threads` threads for all its models together.
    #[must_use]
    pub fn new(threads: usize) -> Self {
        Self { threads: threads.max(1), pool: OnceLock::new() }
    }
}

impl Engine for Rten {
    fn name(&self) -> &'static str {
        "rten"
    }

    fn takes(&self, folder: &Path) -> bool {
        folder.join(FILE).exists()
    }

    fn load(&self, folder: &Path) -> Result<Box<dyn LoadedModel>, LoadError> {
        let path = folder.join(FILE);
        if !path.exists() {
            return Err(LoadError::Missing(path));
        }
        let refused =
            |reason| LoadError::Refused { engine: self.name(), path: path.clone(), reason };
        let bytes = std::fs::read(&path).map_err(|error| refused(error.to_string()))?;
        looked_at(&bytes).map_err(refused)?;
        drop(bytes);
        let options = ModelOptions::with_all_ops();
        #[expect(unsafe_code, reason = "mapping weights is what keeps them out of private memory")]
        // SAFETY: the mapping is read-only, and every tool of ours that writes a model folder replaces
        // files by rename, which leaves a mapped file's pages as they were. What becomes of somebody
        // who writes into a mapped file or cuts it short is in `bus` and `files`.
        let loaded = unsafe { options.load_mmap(&path) };
        let model = loaded.map_err(|error| refused(error.to_string()))?;
        Ok(self.with_threads(model))
    }

    fn load_onnx(&self, bytes: Vec<u8>) -> Result<Box<dyn LoadedModel>, String> {
        looked_at(&bytes)?;
        let loaded = ModelOptions::with_all_ops().load(bytes);
        loaded.map(|model| self.with_threads(model)).map_err(|error| error.to_string())
    }
}

/// Looks for what rten's reader would follow blindly: damaged lengths, and numbers without an end, for
/// which it would not come back.
fn looked_at(bytes: &[u8]) -> Result<(), String> {
    cellnet::wire::check(bytes).map_err(|error| error.to_string())
}

impl Rten {
    fn with_threads(&self, model: Model) -> Box<dyn LoadedModel> {
        let pool = self.pool.get_or_init(|| Arc::new(ThreadPool::with_num_threads(self.threads)));
        Box::new(RtenModel { model, threads: Arc::clone(pool) })
    }
}

impl LoadedModel for RtenModel {
    fn run(&self, inputs: Vec<(String, Tensor)>) -> Result<Vec<(String, Tensor)>, RunError> {
        let mut bound = Vec::with_capacity(inputs.len());
        for (name, tensor) in &inputs {
            let id = self.input(name)?;
            let value = self
                .to_value(id, tensor)
                .map_err(|source| RunError::Tensor { name: name.clone(), source })?;
            bound.push((id, value));
        }
        if let Some(missing) =
            self.model.input_ids().iter().find(|id| !bound.iter().any(|(given, _)| given == *id))
        {
            return Err(RunError::MissingInput(self.node_name(*missing)));
        }
        let bound = bound.iter().map(|(id, value)| (*id, value.view())).collect();
        let options = RunOptions::default().with_thread_pool(Some(Arc::clone(&self.threads)));
        let outputs = self.model.output_ids();
        let values = self
            .model
            .run(bound, outputs, Some(options))
            .map_err(|error| RunError::Engine(error.to_string()))?;
        let named = outputs.iter().zip(values);
        named.map(|(id, value)| Ok((self.node_name(*id), from_value(value)?))).collect()
    }
}

/// An input as rten takes it: the guest's own bytes where they are aligned, a copy where they are not.
enum Input<'a> {
    F32(Vec<usize>, Cow<'a, [f32]>),
    I32(Vec<usize>, Cow<'a, [i32]>),
    U8(Vec<usize>, &'a [u8]),
}

impl Input<'_> {
    fn view(&self) -> rten::ValueOrView<'_> {
        // The lengths were checked by `checked_shape`.
        match self {
            Self::F32(shape, data) => TensorView::from_data(shape.as_slice(), &**data).into(),
            Self::I32(shape, data) => TensorView::from_data(shape.as_slice(), &**data).into(),
            Self::U8(shape, data) => TensorView::from_data(shape.as_slice(), *data).into(),
        }
    }
}

impl RtenModel {
    fn input(&self, name: &str) -> Result<NodeId, RunError> {
        let ids = self.model.input_ids();
        ids.iter().copied().find(|id| self.node_name(*id) == name).ok_or_else(|| {
            let known = ids.iter().map(|id| self.node_name(*id)).collect();
            RunError::UnknownInput { name: name.to_owned(), known }
        })
    }

    fn node_name(&self, id: NodeId) -> String {
        let info = self.model.node_info(id);
        info.and_then(|info| info.name().map(str::to_owned)).unwrap_or_default()
    }

    /// Checks `tensor` against itself; whether it fits the graph's input `id`, rten checks when it runs.
    fn to_value<'a>(&self, id: NodeId, tensor: &'a Tensor) -> Result<Input<'a>, TensorError> {
        let shape = checked_shape(tensor)?;
        match tensor.ty {
            TensorType::Fp32 => Ok(Input::F32(shape, aligned(&tensor.data))),
            TensorType::I32 => Ok(Input::I32(shape, aligned(&tensor.data))),
            // rten holds every integer wider than a byte as i32.
            TensorType::I64 if self.takes(id, DataType::Int32) => {
                let wide = tensor.data.chunks_exact(8).filter_map(|bytes| bytes.try_into().ok());
                let narrow = wide.map(|bytes| i64::from_le_bytes(bytes) as i32).collect();
                Ok(Input::I32(shape, Cow::Owned(narrow)))
            }
            TensorType::U8 => Ok(Input::U8(shape, &tensor.data)),
            other => Err(TensorError::Type(type_name(other))),
        }
    }

    fn takes(&self, id: NodeId, dtype: DataType) -> bool {
        let info = self.model.node_info(id);
        info.and_then(|info| info.dtype()) == Some(ValueType::Tensor(dtype))
    }
}

fn from_value(value: Value) -> Result<Tensor, RunError> {
    match value {
        Value::FloatTensor(tensor) => Ok(to_bytes(tensor, TensorType::Fp32)),
        Value::Int32Tensor(tensor) => Ok(to_bytes(tensor, TensorType::I32)),
        Value::UInt8Tensor(tensor) => Ok(to_bytes(tensor, TensorType::U8)),
        other => Err(RunError::Engine(format!(
            "an output is {:?}, which wasi-nn has no type for",
            other.dtype()
        ))),
    }
}

fn to_bytes<T: bytemuck::NoUninit>(tensor: RtenTensor<T>, ty: TensorType) -> Tensor {
    // A model's output has at most u32::MAX elements: it lies in memory.
    let dimensions = tensor.shape().iter().map(|&size| size as u32).collect();
    let data: Vec<T> = tensor.into_data();
    Tensor::new(dimensions, ty, bytemuck::cast_slice(&data).to_vec())
}
