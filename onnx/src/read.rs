//! Reads an ONNX file and its external data, both untrusted.
//!
//! Every length, file name and dimension is checked here. Whether the nodes make sense is not. Sparse
//! initializers are left out, so a node that reads one reads a value that nothing provides.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use rten_onnx::onnx::{
    AttributeProto, DataLocation, DataType, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    TensorProto, ValueInfoProto,
};
use rten_onnx::protobuf::ProtobufError;
use thiserror::Error;

use crate::constant::{Constant, element_size};
use crate::external;
use crate::function::Library;
use crate::outline::{self, OutlineError};

/// Why an ONNX file cannot be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The file could not be read.
    #[error("{path}: {error}", path = path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// The system's error.
        error: std::io::Error,
    },
    /// The file is not a complete ONNX model.
    #[error("{path}: {error}", path = path.display())]
    Outline {
        /// Which file.
        path: PathBuf,
        /// The reason.
        error: OutlineError,
    },
    /// The wire format is right, but a field cannot be decoded.
    #[error("{path}: the model is damaged: {error}; export it again", path = path.display())]
    Decode {
        /// Which file.
        path: PathBuf,
        /// The decoder's error.
        error: ProtobufError,
    },
    /// A tensor's data lies in another file and cannot be read from there.
    #[error("weights of \"{tensor}\" lie in {location:?}: {problem}")]
    External {
        /// The tensor.
        tensor: String,
        /// The path as the model gives it.
        location: String,
        /// The reason, and what to do.
        problem: String,
    },
    /// A tensor's bytes do not match its declaration.
    #[error("tensor \"{tensor}\" of dimensions {dims:?}: {problem}; export the model again")]
    Constant {
        /// The tensor.
        tensor: String,
        /// Its declared dimensions.
        dims: Vec<i64>,
        /// The reason.
        problem: String,
    },
    /// A tensor's elements are of a type that no engine here computes with.
    #[error(
        "tensor \"{tensor}\" has elements of type {dtype}, with which no engine here computes; {advice}"
    )]
    ElementType {
        /// The tensor.
        tensor: String,
        /// Its element type.
        dtype: DataType,
        /// What to do.
        advice: &'static str,
    },
    /// A `Constant` node without a value, or with a value that is not a number.
    #[error(
        "the constant \"{tensor}\" is no dense tensor of numbers, and no others are read; remove what uses it"
    )]
    Value {
        /// The tensor's name.
        tensor: String,
    },
}

/// A model with all its weights; each constant has the length that its type and dimensions imply.
#[derive(Debug)]
pub struct ModelFile {
    /// The nodes in the file's order, without `Constant` nodes, and with a function's nodes in place of its
    /// call.
    pub nodes: Vec<NodeProto>,
    /// Initializers and the values of `Constant` nodes, by name.
    pub constants: BTreeMap<String, Constant>,
    /// The inputs, without those that are initializers.
    pub inputs: Vec<ValueInfoProto>,
    /// The outputs.
    pub outputs: Vec<ValueInfoProto>,
    /// Version of the file format, if given.
    pub ir_version: Option<i64>,
    /// The operator sets the nodes belong to.
    pub opsets: Vec<OperatorSetIdProto>,
    /// The exporter's metadata (`metadata_props`).
    pub metadata: BTreeMap<String, String>,
}

/// Reads a model with all its weights.
///
/// # Errors
/// [`ReadError`] for the first problem found.
pub fn read(path: &Path) -> Result<ModelFile, ReadError> {
    let bytes = crate::regular::read(path)
        .map_err(|error| ReadError::File { path: path.to_owned(), error })?;
    outline::check(&bytes).map_err(|error| ReadError::Outline { path: path.to_owned(), error })?;
    let model = ModelProto::parse_buf(&bytes)
        .map_err(|error| ReadError::Decode { path: path.to_owned(), error })?;
    let functions = Library::read(&bytes, &model.opset_import)
        .map_err(|error| ReadError::Decode { path: path.to_owned(), error })?;
    drop(bytes);
    let GraphProto { node, initializer, input, output, .. } = model.graph.unwrap_or_default();
    let node = functions.inline(node);
    let mut external = External { model: Some(path), files: HashMap::new() };
    let mut constants = BTreeMap::new();
    for proto in initializer {
        let name = proto.name.clone().unwrap_or_default();
        constants.insert(name, tensor(proto, &mut external)?);
    }
    let mut nodes = Vec::with_capacity(node.len());
    for mut node in node {
        match constant_value(&node, &mut external)? {
            Some((name, tensor)) => drop(constants.insert(name, tensor)),
            None => {
                load_inside(&mut node, &mut external)?;
                nodes.push(node);
            }
        }
    }
    let is_input =
        |value: &ValueInfoProto| !constants.contains_key(value.name.as_deref().unwrap_or_default());
    Ok(ModelFile {
        nodes,
        inputs: input.into_iter().filter(is_input).collect(),
        outputs: output,
        constants,
        ir_version: model.ir_version,
        opsets: model.opset_import,
        metadata: model
            .metadata_props
            .into_iter()
            .filter_map(|p| Some((p.key?, p.value?)))
            .collect(),
    })
}

/// A tensor inside a graph, such as a subgraph's weight; its data must lie in the tensor itself.
///
/// # Errors
/// [`ReadError`] if its bytes do not match its declaration.
pub fn inner_constant(proto: &TensorProto) -> Result<Constant, ReadError> {
    tensor(proto.clone(), &mut External { model: None, files: HashMap::new() })
}

/// The tensor in an attribute; its data must lie in the attribute itself. `name` appears in errors.
///
/// # Errors
/// [`ReadError`] if there is no tensor, or its bytes do not match its declaration.
pub fn attribute_constant(attribute: &AttributeProto, name: &str) -> Result<Constant, ReadError> {
    let Some(proto) = attribute.t.clone() else {
        return Err(ReadError::Value { tensor: name.to_owned() });
    };
    let mut external = External { model: None, files: HashMap::new() };
    tensor(TensorProto { name: Some(name.to_owned()), ..proto }, &mut external)
}

/// The name and value of a `Constant` node, or `None` for any other node.
fn constant_value(
    node: &NodeProto,
    external: &mut External<'_>,
) -> Result<Option<(String, Constant)>, ReadError> {
    if node.op_type.as_deref() != Some("Constant") {
        return Ok(None);
    }
    let name = node.output.first().cloned().unwrap_or_default();
    for attribute in &node.attribute {
        let value = match attribute.name.as_deref() {
            Some("value") => match attribute.t.clone() {
                Some(proto) => tensor(TensorProto { name: Some(name.clone()), ..proto }, external)?,
                None => continue,
            },
            Some("value_float") => Constant::scalar(attribute.f.unwrap_or_default()),
            Some("value_floats") => Constant::f32(&[attribute.floats.len()], &attribute.floats),
            Some("value_ints") => Constant::i64_list(&attribute.ints),
            Some("value_int") => {
                Constant { dims: vec![], ..Constant::i64_list(&[attribute.i.unwrap_or_default()]) }
            }
            _ => continue,
        };
        return Ok(Some((name, value)));
    }
    Err(ReadError::Value { tensor: name })
}

/// Copies the initializers of subgraphs from their data files into the subgraphs, because only the main
/// graph's weights are written to a data file again.
fn load_inside(node: &mut NodeProto, external: &mut External<'_>) -> Result<(), ReadError> {
    for graph in node.attribute.iter_mut().filter_map(|a| a.g.as_mut()) {
        for proto in &mut graph.initializer {
            if proto.data_location == Some(DataLocation::EXTERNAL) {
                let bytes = tensor(proto.clone(), external)?.bytes;
                proto.raw_data = Some(RefCell::new(bytes));
                (proto.data_location, proto.external_data) = (None, Vec::new());
            }
        }
        graph.node.iter_mut().try_for_each(|inner| load_inside(inner, external))?;
    }
    Ok(())
}

/// A tensor with its bytes, from the graph or from a data file.
fn tensor(proto: TensorProto, external: &mut External<'_>) -> Result<Constant, ReadError> {
    let name = proto.name.clone().unwrap_or_default();
    let fail = |problem: String| ReadError::Constant {
        tensor: name.clone(),
        dims: proto.dims.clone(),
        problem,
    };
    let dtype = proto.data_type.unwrap_or(DataType(0));
    let size = element_size(dtype).ok_or_else(|| ReadError::ElementType {
        tensor: name.clone(),
        dtype,
        advice: advice(dtype),
    })?;
    let mut dims = Vec::with_capacity(proto.dims.len());
    let mut length = size;
    for dim in &proto.dims {
        let dim = usize::try_from(*dim).map_err(|_| fail("a dimension is negative".to_owned()))?;
        length = length
            .checked_mul(dim)
            .ok_or_else(|| fail("the product of the dimensions exceeds 64 bits".to_owned()))?;
        dims.push(dim);
    }
    let bytes = if proto.data_location == Some(DataLocation::EXTERNAL) {
        external.load(&proto, &name, length)?
    } else {
        take_inline_bytes(&proto)
    };
    if bytes.len() != length {
        let held = bytes.len();
        return Err(fail(format!("that is {length} bytes, but it holds {held}")));
    }
    Ok(Constant { dtype, dims, bytes })
}

/// What to do about elements of this type.
fn advice(dtype: DataType) -> &'static str {
    // The types of fewer than 16 bits for weights, in onnx.proto's order.
    let is_narrow = (DataType::FLOAT8E4M3FN.0..=DataType::FLOAT8E5M2FNUZ.0).contains(&dtype.0)
        || (DataType::UINT4.0..=NARROWEST).contains(&dtype.0);
    if is_narrow {
        "quantize the weights to integers of 8 bits (weight_type=QuantType.QInt8), or prepare the model that \
         was quantized"
    } else {
        "export the model again, with float32 in its place"
    }
}

/// `INT2`, the last of onnx.proto's types.
const NARROWEST: i32 = 26;

/// Takes the bytes out of the message itself. `rten-onnx` does not decode `uint64_data`: such a tensor comes
/// out empty, and its length refuses it.
fn take_inline_bytes(proto: &TensorProto) -> Vec<u8> {
    if let Some(raw) = &proto.raw_data {
        return raw.take();
    }
    let ints = proto.int32_data.iter();
    match proto.data_type {
        Some(DataType::FLOAT) => proto.float_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Some(DataType::DOUBLE) => proto.double_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Some(DataType::INT64) => proto.int64_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Some(DataType::INT32) => ints.flat_map(|v| v.to_le_bytes()).collect(),
        // Smaller types are stored one per int32 (onnx.proto, TensorProto.int32_data).
        Some(dtype) => {
            let size = element_size(dtype).unwrap_or(4).min(4);
            ints.flat_map(|v| v.to_le_bytes().into_iter().take(size)).collect()
        }
        None => Vec::new(),
    }
}

/// The data files, each opened once.
struct External<'a> {
    /// The graph's file; `None` if no data file may be read.
    model: Option<&'a Path>,
    /// Each open file with its length in bytes.
    files: HashMap<String, (File, u64)>,
}

impl External<'_> {
    fn load(
        &mut self,
        proto: &TensorProto,
        tensor: &str,
        length: usize,
    ) -> Result<Vec<u8>, ReadError> {
        let entry = |key: &str| {
            let held = proto.external_data.iter().find(|e| e.key.as_deref() == Some(key));
            held.and_then(|e| e.value.as_deref())
        };
        let location = entry("location").unwrap_or_default().to_owned();
        let fail = |problem: String| ReadError::External {
            tensor: tensor.to_owned(),
            location: location.clone(),
            problem,
        };
        let number = |key: &str, default: u64| match entry(key) {
            None => Ok(default),
            Some(text) => text.parse::<u64>().map_err(|_| {
                fail(format!(
                    "its {key} is {text:?}, not a number of bytes; export the model again"
                ))
            }),
        };
        let offset = number("offset", 0)?;
        let declared = number("length", length as u64)?;
        if declared != length as u64 {
            return Err(fail(format!(
                "{declared} bytes there, but its dimensions need {length}; export the model again"
            )));
        }
        let (file, held) = self.open(&location).map_err(&fail)?;
        if offset.checked_add(declared).is_none_or(|end| end > *held) {
            return Err(fail(format!(
                "bytes {offset} to {offset}+{declared} are asked for, and the file has {held}; \
                 copy it again, whole"
            )));
        }
        let mut bytes = vec![0; length];
        file.seek(SeekFrom::Start(offset)).map_err(|e| fail(e.to_string()))?;
        file.read_exact(&mut bytes).map_err(|e| fail(e.to_string()))?;
        Ok(bytes)
    }

    fn open(&mut self, location: &str) -> Result<&mut (File, u64), String> {
        if !self.files.contains_key(location) {
            let model = self.model.ok_or("its data has to lie in the graph itself")?;
            let path = external::resolve(model, location).map_err(|e| e.to_string())?;
            let file = crate::regular::open(&path).map_err(|e| e.to_string())?;
            let length = file.metadata().map_err(|e| e.to_string())?.len();
            self.files.insert(location.to_owned(), (file, length));
        }
        self.files.get_mut(location).ok_or_else(|| "cannot be opened".to_owned())
    }
}
