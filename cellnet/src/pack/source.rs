//! Reads the parts of an ONNX file that packing needs: nodes with attributes, constants, declared inputs
//! and outputs.

use std::collections::HashMap;

use rten_onnx::onnx::{AttributeProto, DataType, NodeProto, ValueInfoProto};

use super::constant::{Constant, Data};
use crate::error::PackError;
use crate::plan::Dtype;

/// A graph.
pub(super) struct Source {
    pub(super) nodes: Vec<NodeProto>,
    pub(super) constants: HashMap<String, Constant>,
    /// Smallest and largest integer of the type of each constant of 8-bit integers.
    pub(super) ranges: HashMap<String, (f32, f32)>,
    pub(super) inputs: Vec<Declared>,
    pub(super) outputs: Vec<String>,
    pub(super) opset: i64,
    /// Bytes of all constants.
    pub(super) bytes: usize,
}

/// A declared input.
pub(super) struct Declared {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) dims: Vec<usize>,
}

/// The parts of a graph that was read.
pub(super) fn of(file: skincell_onnx::ModelFile) -> Result<Source, PackError> {
    let (mut constants, mut ranges) = (HashMap::new(), HashMap::new());
    let mut bytes = 0;
    for (name, constant) in file.constants {
        bytes += constant.bytes.len();
        match constant.dtype {
            DataType::UINT8 => ranges.insert(name.clone(), (0.0, 255.0)),
            DataType::INT8 => ranges.insert(name.clone(), (-128.0, 127.0)),
            _ => None,
        };
        let constant = numbers(&name, constant)?;
        constants.insert(name, constant);
    }
    Ok(Source {
        nodes: super::order::in_order(file.nodes),
        constants,
        ranges,
        inputs: file.inputs.iter().map(declared).collect::<Result<_, _>>()?,
        outputs: file.outputs.into_iter().filter_map(|output| output.name).collect(),
        opset: skincell_onnx::opset(&file.opsets).unwrap_or(0),
        bytes,
    })
}

fn declared(info: &ValueInfoProto) -> Result<Declared, PackError> {
    let name = info.name.clone().unwrap_or_default();
    let refuse = |reason: String| PackError::Tensor { name: name.clone(), reason };
    let tensor = info.r#type.as_ref().and_then(|t| t.tensor_type.as_ref());
    let tensor = tensor.ok_or_else(|| refuse("it is not a tensor".to_owned()))?;
    let dtype = match tensor.elem_type {
        // Every half is a float32; the caller rounds or not.
        Some(DataType::FLOAT | DataType::FLOAT16) => Dtype::F32,
        Some(DataType::UINT8) => Dtype::U8,
        other => return Err(refuse(format!("its element type is {}", dtype_name(other)))),
    };
    let shape = tensor.shape.as_ref().ok_or_else(|| refuse("it has no shape".to_owned()))?;
    let mut dims = Vec::new();
    for (i, dim) in shape.dim.iter().enumerate() {
        dims.push(match (dim.dim_value, i) {
            (Some(value), _) if value > 0 => value as usize,
            // A variable batch size becomes 1.
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

/// A constant's elements as floats or integers.
fn numbers(name: &str, constant: skincell_onnx::Constant) -> Result<Constant, PackError> {
    let bytes = constant.bytes.as_slice();
    if let Some(index) = constant.first_nan() {
        let reason =
            format!("element {index} is NaN, no number; export the model from sound weights");
        return Err(PackError::Tensor { name: name.to_owned(), reason });
    }
    let is_half = constant.dtype == DataType::FLOAT16;
    let data = match constant.dtype {
        DataType::FLOAT => Data::Float(elements(bytes, f32::from_le_bytes)),
        DataType::FLOAT16 => Data::Float(constant.float_values().unwrap_or_default()),
        DataType::DOUBLE => Data::Float(elements(bytes, |b| f64::from_le_bytes(b) as f32)),
        DataType::INT64 => Data::Int(elements(bytes, i64::from_le_bytes)),
        DataType::INT32 => Data::Int(elements(bytes, |b| i64::from(i32::from_le_bytes(b)))),
        DataType::INT8 => Data::Int(elements(bytes, |[b]: [u8; 1]| i64::from(b as i8))),
        DataType::BOOL | DataType::UINT8 => Data::Int(elements(bytes, |[b]: [u8; 1]| i64::from(b))),
        other => {
            let reason = format!("its element type is {}", dtype_name(Some(other)));
            return Err(PackError::Tensor { name: name.to_owned(), reason });
        }
    };
    Ok(Constant { dims: constant.dims, data, is_half })
}

fn elements<T, const N: usize>(bytes: &[u8], from: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|bytes| from(*bytes)).collect()
}

/// The tensor in an attribute.
pub(super) fn attribute_tensor(
    attribute: &AttributeProto,
    name: &str,
) -> Result<Constant, PackError> {
    numbers(name, skincell_onnx::attribute_constant(attribute, name)?)
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
