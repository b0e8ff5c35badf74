//! A model and the engine that runs it: cellnet where the folder has a `model.cell`, rten where it has
//! only a `model.onnx`. The same files in the same order of preference as the runner's.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use rten::{DataType, NodeId, Value, ValueOrView, ValueType};
use rten_tensor::TensorView;
use rten_tensor::prelude::*;

use crate::baked::Archive;
use crate::tensor::{Tensor, TensorError, Type};

/// File of a packed model.
const CELL: &str = "model.cell";
/// File of a graph; its weights lie beside it.
const ONNX: &str = "model.onnx";
/// Those weights.
const WEIGHTS: &str = "model.onnx.data";
/// All files of a model.
pub const FILES: [&str; 3] = [CELL, ONNX, WEIGHTS];

/// A tensor and the name of the input or output it belongs to.
pub type Named = (String, Tensor);

/// A model in memory.
pub enum Model {
    /// A packed model and the memory its runs use one after the other.
    Cellnet(cellnet::Model, RefCell<cellnet::Workspace>, cellnet::Pool),
    /// Any other graph.
    Rten(Box<rten::Model>),
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let engine = match self {
            Self::Cellnet(..) => "cellnet",
            Self::Rten(_) => "rten",
        };
        f.debug_tuple("Model").field(&engine).finish()
    }
}

/// Why a model cannot be loaded.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct LoadError {
    /// The model file.
    pub path: PathBuf,
    /// The engine's own words.
    pub reason: String,
}

/// Why a model did not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A tensor that contradicts itself or the model.
    #[error("input {name:?}: {source}")]
    Tensor {
        /// The input's name.
        name: String,
        /// What is wrong.
        source: TensorError,
    },
    /// A name the model does not have.
    #[error("the model has no input {name:?}; it has {known:?}")]
    UnknownInput {
        /// The name given.
        name: String,
        /// The names there are.
        known: Vec<String>,
    },
    /// Too few inputs.
    #[error("the input {0:?} is missing")]
    MissingInput(String),
    /// The engine's own error.
    #[error("the engine failed: {0}")]
    Engine(String),
}

impl Model {
    /// Whether a folder holds a model. Looks at names only.
    #[must_use]
    pub fn lies_in(folder: &Path) -> bool {
        [CELL, ONNX].iter().any(|file| folder.join(file).is_file())
    }

    /// Loads the model in `folder`.
    ///
    /// # Errors
    /// [`LoadError`] with the file and what is wrong with it.
    pub fn load(folder: &Path) -> Result<Self, LoadError> {
        let cell = folder.join(CELL);
        if cell.is_file() {
            return Self::cellnet(cell.clone(), cellnet::Model::open(&cell));
        }
        let path = folder.join(ONNX);
        let model = rten::Model::load_file(&path).map(|model| Self::Rten(Box::new(model)));
        model.map_err(|error| LoadError { path, reason: error.to_string() })
    }

    /// The model called `name` in `archive`, whose weights stay where they are.
    ///
    /// # Errors
    /// [`LoadError`] with the file and what is wrong with it.
    pub fn baked(archive: &Archive<'static>, name: &str) -> Result<Self, LoadError> {
        if let Some(bytes) = archive.file(name, CELL) {
            let path = Path::new(name).join(CELL);
            return Self::cellnet(path, cellnet::Model::from_static(bytes));
        }
        let path = Path::new(name).join(ONNX);
        let Some(graph) = archive.file(name, ONNX) else {
            return Err(LoadError { path, reason: "it is not in this component".to_owned() });
        };
        let mut options = rten::ModelOptions::with_all_ops();
        if let Some(weights) = archive.file(name, WEIGHTS) {
            options.external_data_static(WEIGHTS, weights);
        }
        let model = options.load_static_slice(graph).map(|model| Self::Rten(Box::new(model)));
        model.map_err(|error| LoadError { path, reason: error.to_string() })
    }

    fn cellnet(
        path: PathBuf,
        opened: Result<cellnet::Model, cellnet::OpenError>,
    ) -> Result<Self, LoadError> {
        let model = opened.map_err(|error| LoadError { path, reason: error.to_string() })?;
        let workspace = RefCell::new(cellnet::Workspace::new(&model));
        Ok(Self::Cellnet(model, workspace, cellnet::Pool::new(1)))
    }

    /// Runs the model on `inputs` and gives all its outputs.
    ///
    /// # Errors
    /// [`RunError`] for inputs that do not fit the model, or when the engine fails.
    pub fn run(&self, inputs: &[Named]) -> Result<Vec<Named>, RunError> {
        match self {
            Self::Cellnet(model, workspace, pool) => {
                run_cellnet(model, &mut workspace.borrow_mut(), pool, inputs)
            }
            Self::Rten(model) => run_rten(model, inputs),
        }
    }
}

fn run_cellnet(
    model: &cellnet::Model,
    workspace: &mut cellnet::Workspace,
    pool: &cellnet::Pool,
    inputs: &[Named],
) -> Result<Vec<Named>, RunError> {
    let mut floats = Vec::with_capacity(inputs.len());
    for (name, tensor) in inputs {
        let named = |source| RunError::Tensor { name: name.clone(), source };
        tensor.checked_shape().map_err(named)?;
        let port = model.inputs().iter().find(|port| port.name == *name);
        if let Some(port) = port.filter(|port| port.dims != tensor.dimensions) {
            let (given, taken) = (tensor.dimensions.clone(), port.dims.clone());
            return Err(named(TensorError::Shape { given, taken }));
        }
        floats.push(match tensor.ty {
            Type::Fp32 => Some(tensor.elements::<f32>()),
            Type::U8 => None,
            other => return Err(named(TensorError::Type(other))),
        });
    }
    let bound: Vec<(&str, cellnet::TensorRef<'_>)> = inputs
        .iter()
        .zip(&floats)
        .map(|((name, tensor), floats)| match floats {
            Some(values) => (name.as_str(), cellnet::TensorRef::F32(values)),
            None => (name.as_str(), cellnet::TensorRef::U8(&tensor.data)),
        })
        .collect();
    let outputs = model.run(workspace, pool, &bound);
    let outputs = outputs.map_err(|error| RunError::Engine(error.to_string()))?;
    let tensor = |t: cellnet::Tensor| Tensor::of(t.dims, Type::Fp32, &t.values);
    Ok(outputs.into_iter().map(|(name, output)| (name, tensor(output))).collect())
}

fn node_name(model: &rten::Model, id: NodeId) -> String {
    let info = model.node_info(id);
    info.and_then(|info| info.name().map(str::to_owned)).unwrap_or_default()
}

fn run_rten(model: &rten::Model, inputs: &[Named]) -> Result<Vec<Named>, RunError> {
    let ids = model.input_ids();
    let mut bound: Vec<(NodeId, ValueOrView<'_>)> = Vec::with_capacity(inputs.len());
    for (name, tensor) in inputs {
        let found = ids.iter().copied().find(|id| node_name(model, *id) == *name);
        let Some(id) = found else {
            let known = ids.iter().map(|id| node_name(model, *id)).collect();
            return Err(RunError::UnknownInput { name: name.clone(), known });
        };
        let value = to_value(model, id, tensor);
        bound.push((id, value.map_err(|source| RunError::Tensor { name: name.clone(), source })?));
    }
    if let Some(missing) = ids.iter().find(|id| !bound.iter().any(|(given, _)| given == *id)) {
        return Err(RunError::MissingInput(node_name(model, *missing)));
    }
    let outputs = model.output_ids();
    let values = model.run(bound, outputs, None);
    let values = values.map_err(|error| RunError::Engine(error.to_string()))?;
    let named = outputs.iter().zip(values);
    named.map(|(id, value)| Ok((node_name(model, *id), from_value(value)?))).collect()
}

/// An input as rten takes it; whether it fits the graph, rten checks when it runs.
fn to_value<'a>(
    model: &rten::Model,
    id: NodeId,
    tensor: &'a Tensor,
) -> Result<ValueOrView<'a>, TensorError> {
    let shape = tensor.checked_shape()?;
    let takes_i32 = model.node_info(id).and_then(|info| info.dtype())
        == Some(ValueType::Tensor(DataType::Int32));
    match tensor.ty {
        Type::Fp32 => Ok(owned(&shape, tensor.elements::<f32>().into_owned()).into()),
        Type::I32 => Ok(owned(&shape, tensor.elements::<i32>().into_owned()).into()),
        // rten holds every integer wider than a byte as i32.
        Type::I64 if takes_i32 => {
            let narrow = tensor.elements::<i64>().iter().map(|v| *v as i32).collect();
            Ok(owned(&shape, narrow).into())
        }
        Type::U8 => Ok(TensorView::from_data(shape.as_slice(), tensor.data.as_slice()).into()),
        other => Err(TensorError::Type(other)),
    }
}

/// A tensor whose length [`Tensor::checked_shape`] compared with its shape.
fn owned<T>(shape: &[usize], data: Vec<T>) -> rten_tensor::Tensor<T> {
    rten_tensor::Tensor::from_data(shape, data)
}

fn from_value(value: Value) -> Result<Tensor, RunError> {
    fn bytes<T: bytemuck::NoUninit>(tensor: rten_tensor::Tensor<T>, ty: Type) -> Tensor {
        // A model's output has at most u32::MAX elements: it lies in memory.
        let dimensions = tensor.shape().iter().map(|size| *size as u32).collect();
        Tensor::of(dimensions, ty, &tensor.into_data())
    }
    match value {
        Value::FloatTensor(tensor) => Ok(bytes(tensor, Type::Fp32)),
        Value::Int32Tensor(tensor) => Ok(bytes(tensor, Type::I32)),
        Value::UInt8Tensor(tensor) => Ok(bytes(tensor, Type::U8)),
        other => {
            let dtype = other.dtype();
            Err(RunError::Engine(format!("an output is {dtype:?}, which wasi-nn has no type for")))
        }
    }
}
