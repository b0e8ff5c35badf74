//! The engine rten over `model.onnx`, with weights mapped from `model.onnx.data`.
//!
//! Weights stay file pages: shared between processes, and reclaimed under memory pressure. rten maps
//! weights without a copy only from files laid out for it, as `modelkit` writes them.

use std::borrow::Cow;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use ::rten::{
    self as engine, DataType, ModelOptions, NodeId, RunOptions, ThreadPool, Value, ValueOrView,
    ValueType,
};
use rten_tensor::TensorView;
use rten_tensor::prelude::*;

use crate::error::{LoadError, RunError};
use crate::inputs::matched;
use crate::outline::{Graph, Place};
use crate::source::{Source, WEIGHTS_FILE};
use crate::tensor::{Dtype, NamedTensor, Tensor, TensorError};
use crate::{Engine, Model};

const NAME: &str = "rten";

/// The engine. Its models share one thread pool, created when the first model is loaded.
pub struct Rten {
    threads: usize,
    pool: OnceLock<Arc<ThreadPool>>,
}

struct RtenModel {
    model: engine::Model,
    inputs: Vec<String>,
    threads: Arc<ThreadPool>,
}

impl Rten {
    /// An engine whose models share `threads` threads. In Wasm, which has none, runs use the caller's
    /// thread.
    #[must_use]
    pub fn new(threads: usize) -> Self {
        Self { threads: threads.max(1), pool: OnceLock::new() }
    }
}

impl Engine for Rten {
    fn name(&self) -> &'static str {
        NAME
    }

    fn takes(&self, source: &Source<'_>) -> bool {
        source.has_graph()
    }

    fn load(&self, source: Source<'_>) -> Result<Box<dyn Model>, LoadError> {
        let Graph { name, place } = Graph::of(source, NAME)?;
        let mut options = ModelOptions::with_all_ops();
        let loaded = match place {
            Place::File(path) => open(&options, &path),
            Place::Static(graph, files) => {
                if let Some(weights) = files.weights {
                    options.external_data_static(WEIGHTS_FILE, weights);
                }
                options.load_static_slice(graph)
            }
            Place::Bytes(bytes) => options.load(bytes),
        };
        let model = loaded.map_err(|error| LoadError::of(NAME, name, &error))?;
        let inputs = model.input_ids().iter().map(|id| node_name(&model, *id)).collect();
        let pool = self.pool.get_or_init(|| Arc::new(ThreadPool::with_num_threads(self.threads)));
        Ok(Box::new(RtenModel { model, inputs, threads: Arc::clone(pool) }))
    }
}

/// Maps the model's files, or reads them if the target cannot map.
fn open(options: &ModelOptions, path: &Path) -> Result<engine::Model, engine::LoadError> {
    if cfg!(target_family = "wasm") {
        return options.load_file(path);
    }
    #[expect(unsafe_code, reason = "mapping keeps weights out of private memory")]
    // SAFETY: the mapping is read-only, and our tools replace a model's files by rename, which leaves the
    // pages of a mapped file unchanged. The runner handles files that are written to or truncated while
    // mapped (`nn/sigbus.rs`, `nn/files.rs`).
    unsafe {
        options.load_mmap(path)
    }
}

impl Model for RtenModel {
    fn run(&self, inputs: &[NamedTensor]) -> Result<Vec<NamedTensor>, RunError> {
        let indices = matched(&self.inputs, inputs)?;
        let mut bound = Vec::with_capacity(inputs.len());
        for ((name, tensor), index) in inputs.iter().zip(indices) {
            let id = self.model.input_ids()[index];
            let value = self
                .to_value(id, tensor)
                .map_err(|source| RunError::Tensor { name: name.clone(), source })?;
            bound.push((id, value));
        }
        let bound = bound.iter().map(|(id, value)| (*id, value.view())).collect();
        let options = RunOptions::default().with_thread_pool(Some(Arc::clone(&self.threads)));
        let outputs = self.model.output_ids();
        let values = self
            .model
            .run(bound, outputs, Some(options))
            .map_err(|error| RunError::Engine(error.to_string()))?;
        let named = outputs.iter().zip(values);
        named
            .map(|(id, value)| {
                let name = node_name(&self.model, *id);
                let tensor = from_value(&name, value)?;
                Ok((name, tensor))
            })
            .collect()
    }
}

fn node_name(model: &engine::Model, id: NodeId) -> String {
    let info = model.node_info(id);
    info.and_then(|info| info.name().map(str::to_owned)).unwrap_or_default()
}

/// An input as rten takes it, copied only if the caller's bytes are not aligned.
enum Input<'a> {
    F32(Vec<usize>, Cow<'a, [f32]>),
    I32(Vec<usize>, Cow<'a, [i32]>),
    U8(Vec<usize>, &'a [u8]),
}

impl Input<'_> {
    fn view(&self) -> ValueOrView<'_> {
        // `checked_shape` has checked the lengths.
        match self {
            Self::F32(shape, data) => TensorView::from_data(shape.as_slice(), &**data).into(),
            Self::I32(shape, data) => TensorView::from_data(shape.as_slice(), &**data).into(),
            Self::U8(shape, data) => TensorView::from_data(shape.as_slice(), *data).into(),
        }
    }
}

impl RtenModel {
    /// Checks that `tensor` has the bytes its dimensions need. rten checks that it fits the graph's input
    /// `id`.
    fn to_value<'a>(&self, id: NodeId, tensor: &'a Tensor) -> Result<Input<'a>, TensorError> {
        let shape = tensor.checked_shape()?;
        match tensor.dtype {
            Dtype::F32 => Ok(Input::F32(shape, tensor.elements())),
            Dtype::I32 => Ok(Input::I32(shape, tensor.elements())),
            // rten stores every integer wider than a byte as i32.
            Dtype::I64 if self.takes(id, DataType::Int32) => {
                let narrow = |v: &i64| i32::try_from(*v).map_err(|_| TensorError::Wide(*v));
                let elements = tensor.elements::<i64>();
                let narrow: Result<Vec<i32>, _> = elements.iter().map(narrow).collect();
                Ok(Input::I32(shape, Cow::Owned(narrow?)))
            }
            Dtype::U8 => Ok(Input::U8(shape, &tensor.data)),
            given => Err(TensorError::Dtype {
                given,
                taken: "f32, u8, i32 or, where the model takes it, i64",
            }),
        }
    }

    fn takes(&self, id: NodeId, dtype: DataType) -> bool {
        let info = self.model.node_info(id);
        info.and_then(|info| info.dtype()) == Some(ValueType::Tensor(dtype))
    }
}

fn from_value(name: &str, value: Value) -> Result<Tensor, RunError> {
    fn bytes<T: bytemuck::NoUninit>(tensor: rten_tensor::Tensor<T>, dtype: Dtype) -> Tensor {
        // An output in memory has fewer than `u32::MAX` elements.
        let dimensions = tensor.shape().iter().map(|size| *size as u32).collect();
        Tensor::of(dimensions, dtype, &tensor.into_data())
    }
    match value {
        Value::FloatTensor(tensor) => Ok(bytes(tensor, Dtype::F32)),
        Value::Int32Tensor(tensor) => Ok(bytes(tensor, Dtype::I32)),
        Value::UInt8Tensor(tensor) => Ok(bytes(tensor, Dtype::U8)),
        other => {
            let found = format!("{:?}", other.dtype());
            Err(RunError::OutputType { name: name.to_owned(), found })
        }
    }
}
