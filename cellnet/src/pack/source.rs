//! The ONNX file, read: nodes with their attributes, constants with their data (inside the file or
//! beside it), and the declared inputs and outputs.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use rten_onnx::onnx::{
    AttributeProto, DataLocation, DataType, ModelProto, NodeProto, TensorProto, ValueInfoProto,
};

use super::constant::{Constant, Data};
use crate::error::PackError;
use crate::plan::Dtype;
use crate::{external, wire};

/// A graph.
pub(super) struct Source {
    pub(super) nodes: Vec<NodeProto>,
    pub(super) constants: HashMap<String, Constant>,
    pub(super) inputs: Vec<Declared>,
    pub(super) outputs: Vec<String>,
    pub(super) opset: i64,
}

/// A declared input.
pub(super) struct Declared {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) dims: Vec<usize>,
}

/// Reads the graph at `path`.
pub(super) fn read(path: &Path) -> Result<Source, PackError> {
    let io = |path: &Path| {
        let path = path.to_path_buf();
        move |source| PackError::Io { path, source }
    };
    let not_onnx = |reason: String| PackError::Onnx { path: path.to_path_buf(), reason };
    let bytes = fs::read(path).map_err(io(path))?;
    wire::check(&bytes).map_err(|e| not_onnx(e.to_string()))?;
    let model = ModelProto::parse_buf(&bytes).map_err(|e| not_onnx(e.to_string()))?;
    drop(bytes);
    let opset = model
        .opset_import
        .iter()
        .find(|o| o.domain.as_deref().unwrap_or_default().is_empty())
        .and_then(|o| o.version)
        .unwrap_or(0);
    let graph = model.graph.ok_or_else(|| not_onnx("it holds no graph".to_owned()))?;
    let mut files = External { model: Some(path), read: HashMap::new() };
    let mut constants = HashMap::new();
    for tensor in &graph.initializer {
        let name = tensor.name.clone().unwrap_or_default();
        let constant = constant(tensor, &name, &mut files)?;
        constants.insert(name, constant);
    }
    let inputs = graph
        .input
        .iter()
        .filter(|i| !constants.contains_key(i.name.as_deref().unwrap_or_default()))
        .map(declared)
        .collect::<Result<_, _>>()?;
    let outputs = graph.output.iter().filter_map(|o| o.name.clone()).collect();
    Ok(Source { nodes: graph.node, constants, inputs, outputs, opset })
}

fn declared(info: &ValueInfoProto) -> Result<Declared, PackError> {
    let name = info.name.clone().unwrap_or_default();
    let refuse = |reason: String| PackError::Tensor { name: name.clone(), reason };
    let tensor = info.r#type.as_ref().and_then(|t| t.tensor_type.as_ref());
    let tensor = tensor.ok_or_else(|| refuse("it is no tensor".to_owned()))?;
    let dtype = match tensor.elem_type {
        Some(DataType::FLOAT) => Dtype::F32,
        Some(DataType::UINT8) => Dtype::U8,
        other => return Err(refuse(format!("its element type is {}", dtype_name(other)))),
    };
    let shape = tensor.shape.as_ref().ok_or_else(|| refuse("it has no shape".to_owned()))?;
    let mut dims = Vec::new();
    for (i, dim) in shape.dim.iter().enumerate() {
        dims.push(match (dim.dim_value, i) {
            (Some(value), _) if value > 0 => value as usize,
            // A free batch size: one photo at a time.
            (_, 0) => 1,
            (value, i) => {
                let given = dim.dim_param.clone().unwrap_or_else(|| format!("{value:?}"));
                return Err(refuse(format!("dimension {i} is {given}, not a fixed number")));
            }
        });
    }
    Ok(Declared { name, dtype, dims })
}

fn dtype_name(dtype: Option<DataType>) -> String {
    dtype.and_then(|d| d.name().map(str::to_owned)).unwrap_or_else(|| "unknown".to_owned())
}

/// Files beside the graph that hold its weights.
struct External<'a> {
    /// The graph's file; `None` where no other file may be read.
    model: Option<&'a Path>,
    read: HashMap<String, Vec<u8>>,
}

impl External<'_> {
    fn bytes(&mut self, tensor: &TensorProto, name: &str) -> Result<Vec<u8>, PackError> {
        let refuse = |reason: String| PackError::Tensor { name: name.to_owned(), reason };
        let entry = |key: &str| {
            let entry = tensor.external_data.iter().find(|e| e.key.as_deref() == Some(key));
            entry.and_then(|e| e.value.clone())
        };
        let location =
            entry("location").ok_or_else(|| refuse("it names no data file".to_owned()))?;
        let Some(model) = self.model else {
            return Err(refuse("its data has to lie in the graph itself".to_owned()));
        };
        if !self.read.contains_key(&location) {
            let path = external::resolve(model, &location)
                .map_err(|error| refuse(format!("its data file {location:?}: {error}")))?;
            let bytes = fs::read(&path).map_err(|source| PackError::Io { path, source })?;
            self.read.insert(location.clone(), bytes);
        }
        let file = self.read.get(&location).map(Vec::as_slice).unwrap_or_default();
        let number = |key: &str| entry(key).and_then(|v| v.parse::<usize>().ok());
        let offset = number("offset").unwrap_or(0);
        let length = number("length").unwrap_or(file.len().saturating_sub(offset));
        let end = offset.checked_add(length);
        let bytes = end.and_then(|end| file.get(offset..end));
        bytes.map(<[u8]>::to_vec).ok_or_else(|| {
            refuse(format!("{length} bytes at {offset} are not in {location} of {}", file.len()))
        })
    }
}

fn constant(
    tensor: &TensorProto,
    name: &str,
    files: &mut External<'_>,
) -> Result<Constant, PackError> {
    let refuse = |reason: String| PackError::Tensor { name: name.to_owned(), reason };
    let dims = tensor
        .dims
        .iter()
        .map(|d| usize::try_from(*d))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| refuse(format!("its dimensions are {:?}", tensor.dims)))?;
    let raw = if tensor.data_location == Some(DataLocation::EXTERNAL) {
        files.bytes(tensor, name)?
    } else {
        tensor.raw_data.as_ref().map(|r| r.borrow().clone()).unwrap_or_default()
    };
    let data = match tensor.data_type {
        Some(DataType::FLOAT) => Data::Float(or(&raw, f32::from_le_bytes, &tensor.float_data)),
        Some(DataType::DOUBLE) => {
            let values = or(&raw, f64::from_le_bytes, &tensor.double_data);
            Data::Float(values.into_iter().map(|v| v as f32).collect())
        }
        Some(DataType::INT64) => Data::Int(or(&raw, i64::from_le_bytes, &tensor.int64_data)),
        Some(DataType::INT32) => {
            let values = or(&raw, i32::from_le_bytes, &tensor.int32_data);
            Data::Int(values.into_iter().map(i64::from).collect())
        }
        Some(DataType::BOOL | DataType::UINT8) => {
            let small: Vec<u8> = tensor.int32_data.iter().map(|v| *v as u8).collect();
            Data::Int(or(&raw, u8::from_le_bytes, &small).into_iter().map(i64::from).collect())
        }
        other => return Err(refuse(format!("its element type is {}", dtype_name(other)))),
    };
    let constant = Constant { dims, data };
    let declared = constant.dims.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
    if declared != Some(constant.len()) {
        let reason = format!("it has {} elements for {:?}", constant.len(), constant.dims);
        return Err(refuse(reason));
    }
    Ok(constant)
}

/// Elements from raw bytes, or the typed list where there are none.
fn or<T: Copy, const N: usize>(raw: &[u8], from: fn([u8; N]) -> T, typed: &[T]) -> Vec<T> {
    if raw.is_empty() {
        return typed.to_vec();
    }
    raw.as_chunks::<N>().0.iter().map(|bytes| from(*bytes)).collect()
}

/// A tensor held by an attribute.
pub(super) fn attribute_tensor(
    attribute: &AttributeProto,
    name: &str,
) -> Result<Constant, PackError> {
    let refuse = || PackError::Tensor { name: name.to_owned(), reason: "it is empty".to_owned() };
    let tensor = attribute.t.as_ref().ok_or_else(refuse)?;
    constant(tensor, name, &mut External { model: None, read: HashMap::new() })
}

/// A node's attributes by name and kind.
pub(super) struct Attributes<'a>(pub(super) &'a NodeProto);

impl Attributes<'_> {
    fn find(&self, name: &str) -> Option<&AttributeProto> {
        self.0.attribute.iter().find(|a| a.name.as_deref() == Some(name))
    }

    pub(super) fn int(&self, name: &str, default: i64) -> i64 {
        self.find(name).and_then(|a| a.i).unwrap_or(default)
    }

    pub(super) fn float(&self, name: &str, default: f32) -> f32 {
        self.find(name).and_then(|a| a.f).unwrap_or(default)
    }

    pub(super) fn maybe_float(&self, name: &str) -> Option<f32> {
        self.find(name).and_then(|a| a.f)
    }

    pub(super) fn ints(&self, name: &str) -> Option<&[i64]> {
        self.find(name).map(|a| a.ints.as_slice())
    }

    pub(super) fn text(&self, name: &str) -> &str {
        self.find(name).and_then(|a| a.s.as_deref()).unwrap_or_default()
    }

    pub(super) fn attribute(&self, name: &str) -> Option<&AttributeProto> {
        self.find(name)
    }
}
