//! Reads an ONNX file and everything beside it that belongs to it, and trusts none of it.
//!
//! Every length, name, path and dimension is checked here, so that the modules after this one work
//! on a graph that is whole: values made before they are read, constants as long as they say.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use cellnet::external;
use cellnet::wire::{self, WireError};
use rten_onnx::onnx::{DataLocation, DataType, GraphProto, ModelProto, NodeProto, TensorProto};
use rten_onnx::protobuf::ProtobufError;
use thiserror::Error;

use crate::onnx::constant::{Constant, element_size};
use crate::onnx::graph::{Graph, label, op, reads};

/// Why an ONNX file cannot be worked on.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The file system said no.
    #[error("{path}: {error}", path = path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What it said.
        error: std::io::Error,
    },
    /// Not a whole ONNX file.
    #[error("{path}: {error}", path = path.display())]
    Wire {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        error: WireError,
    },
    /// The outline is right, a field inside is not.
    #[error("{path}: the model is damaged: {error}; export it again", path = path.display())]
    Proto {
        /// Which file.
        path: PathBuf,
        /// What the decoder said.
        error: ProtobufError,
    },
    /// A tensor's data lies in another file, and cannot be had from there.
    #[error("weights of \"{tensor}\" lie in {location:?}: {problem}")]
    External {
        /// The tensor.
        tensor: String,
        /// The path as the model gives it.
        location: String,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// A tensor that does not hold what it declares.
    #[error("tensor \"{tensor}\" of dimensions {dims:?}: {problem}; export the model again")]
    Constant {
        /// The tensor.
        tensor: String,
        /// Its declared dimensions.
        dims: Vec<i64>,
        /// What is wrong.
        problem: String,
    },
    /// A node reads what nothing makes.
    #[error(
        "{node} reads \"{value}\", which no node, input or weight provides; the export left \
         something out"
    )]
    Missing {
        /// The node.
        node: String,
        /// The value.
        value: String,
    },
    /// Nodes that wait for each other.
    #[error(
        "{count} nodes wait for each other in a circle, {node} among them; no engine can run it"
    )]
    Cycle {
        /// One node of the circle.
        node: String,
        /// How many cannot run.
        count: usize,
    },
    /// Two makers of one value.
    #[error("\"{value}\" is made twice, the second time by {node}; export the model again")]
    Twice {
        /// The value.
        value: String,
        /// The second maker.
        node: String,
    },
    /// Operators too old, too new or of a private set.
    #[error("{0}")]
    Operators(String),
}

/// Oldest standard operator set worked on: from 11 on, `Gemm` has an optional bias.
const MIN_OPSET: i64 = 11;

/// Reads a model with all its weights.
///
/// # Errors
/// [`ReadError`], naming the first thing found wrong.
pub(crate) fn read(path: &Path) -> Result<Graph, ReadError> {
    let bytes = std::fs::read(path).map_err(|error| file_error(path, error))?;
    wire::check(&bytes).map_err(|error| ReadError::Wire { path: path.to_owned(), error })?;
    let model = ModelProto::parse_buf(&bytes)
        .map_err(|error| ReadError::Proto { path: path.to_owned(), error })?;
    drop(bytes);
    build(model, path)
}

fn file_error(path: &Path, error: std::io::Error) -> ReadError {
    ReadError::File { path: path.to_owned(), error }
}

fn build(model: ModelProto, path: &Path) -> Result<Graph, ReadError> {
    let GraphProto { node, initializer, input, output, .. } = model.graph.unwrap_or_default();
    let mut external = External { model: path, files: HashMap::new() };
    let mut constants = BTreeMap::new();
    for proto in initializer {
        let name = proto.name.clone().unwrap_or_default();
        constants.insert(name, tensor(proto, &mut external)?);
    }
    let mut nodes = Vec::with_capacity(node.len());
    for node in node {
        match constant_value(&node, &mut external)? {
            Some((name, tensor)) => drop(constants.insert(name, tensor)),
            None => nodes.push(node),
        }
    }
    let mut graph = Graph {
        nodes,
        inputs: input
            .into_iter()
            .filter(|v| !constants.contains_key(v.name.as_deref().unwrap_or_default()))
            .collect(),
        outputs: output,
        constants,
        // 4 is the first version whose initialisers need not be inputs too; 8 goes with opset 13.
        ir_version: model.ir_version.unwrap_or(8).max(8),
        opsets: model.opset_import,
    };
    check_operators(&graph)?;
    sort(&mut graph)?;
    Ok(graph)
}

fn check_operators(graph: &Graph) -> Result<(), ReadError> {
    let opset = graph.opset();
    if opset < MIN_OPSET {
        return Err(ReadError::Operators(format!(
            "the model is written in operator set {opset}, {MIN_OPSET} is the oldest worked on; \
             export it again with opset 17"
        )));
    }
    Ok(())
}

/// Refuses operators no engine knows. A tail that makes labels of the scores (`ZipMap`) is gone by then.
///
/// # Errors
/// [`ReadError::Operators`] with the first such node.
pub(crate) fn refuse_private(graph: &Graph) -> Result<(), ReadError> {
    let private = |n: &&NodeProto| {
        !matches!(n.domain.as_deref().unwrap_or_default(), "" | "ai.onnx" | "com.microsoft")
    };
    match graph.nodes.iter().find(private) {
        None => Ok(()),
        Some(node) => Err(ReadError::Operators(format!(
            "{} is of the private operator set \"{}\", which no engine here knows; export with \
             functions inlined, or name a tensor before it with --scores NAME",
            label(node),
            node.domain.as_deref().unwrap_or_default()
        ))),
    }
}

/// Puts nodes into an order in which they can run, keeping the file's where it is one.
fn sort(graph: &mut Graph) -> Result<(), ReadError> {
    let mut made: HashSet<String> = graph.constants.keys().cloned().collect();
    made.extend(graph.inputs.iter().filter_map(|v| v.name.clone()));
    let mut all = made.clone();
    for node in &graph.nodes {
        for value in node.output.iter().filter(|n| !n.is_empty()) {
            if !all.insert(value.clone()) {
                return Err(ReadError::Twice { value: value.clone(), node: label(node) });
            }
        }
    }
    for node in &graph.nodes {
        if let Some(value) = reads(node).into_iter().find(|value| !all.contains(*value)) {
            return Err(ReadError::Missing { node: label(node), value: value.to_owned() });
        }
    }
    for output in graph.outputs.iter().filter_map(|o| o.name.as_deref()) {
        if !all.contains(output) {
            return Err(ReadError::Missing {
                node: "the graph's output".to_owned(),
                value: output.to_owned(),
            });
        }
    }
    let mut waiting = std::mem::take(&mut graph.nodes);
    while !waiting.is_empty() {
        let before = waiting.len();
        let mut still = Vec::new();
        for node in waiting {
            if reads(&node).into_iter().all(|value| made.contains(value)) {
                made.extend(node.output.iter().cloned());
                graph.nodes.push(node);
            } else {
                still.push(node);
            }
        }
        waiting = still;
        if waiting.len() == before {
            let node = waiting.first().map(label).unwrap_or_default();
            return Err(ReadError::Cycle { node, count: before });
        }
    }
    Ok(())
}

/// The name and value of a `Constant` node, or `None` for any other node.
fn constant_value(
    node: &NodeProto,
    external: &mut External<'_>,
) -> Result<Option<(String, Constant)>, ReadError> {
    if op(node) != "Constant" {
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
    Err(ReadError::Operators(format!("{} has no value that is read here", label(node))))
}

/// A tensor with its bytes, wherever they lie.
fn tensor(proto: TensorProto, external: &mut External<'_>) -> Result<Constant, ReadError> {
    let name = proto.name.clone().unwrap_or_default();
    let fail = |problem: String| ReadError::Constant {
        tensor: name.clone(),
        dims: proto.dims.clone(),
        problem,
    };
    let dtype = proto.data_type.unwrap_or(DataType(0));
    let size = element_size(dtype)
        .ok_or_else(|| fail(format!("its element type {dtype} is not worked on")))?;
    let mut dims = Vec::with_capacity(proto.dims.len());
    let mut length = size;
    for dim in &proto.dims {
        let dim = usize::try_from(*dim).map_err(|_| fail("a dimension is negative".to_owned()))?;
        length = length
            .checked_mul(dim)
            .ok_or_else(|| fail("the dimensions multiply past 64 bits".to_owned()))?;
        dims.push(dim);
    }
    let bytes = if proto.data_location == Some(DataLocation::EXTERNAL) {
        external.load(&proto, &name, length)?
    } else {
        inline_bytes(&proto)
    };
    if bytes.len() != length {
        let held = bytes.len();
        return Err(fail(format!("that is {length} bytes, and it holds {held}")));
    }
    Ok(Constant { dtype, dims, bytes })
}

fn inline_bytes(proto: &TensorProto) -> Vec<u8> {
    if let Some(raw) = &proto.raw_data {
        return raw.take();
    }
    let ints = proto.int32_data.iter();
    match proto.data_type {
        Some(DataType::FLOAT) => proto.float_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Some(DataType::DOUBLE) => proto.double_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Some(DataType::INT64) => proto.int64_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Some(DataType::INT32) => ints.flat_map(|v| v.to_le_bytes()).collect(),
        // Smaller types are kept one to an int32 (onnx.proto, TensorProto.int32_data).
        Some(dtype) => {
            let size = element_size(dtype).unwrap_or(4).min(4);
            ints.flat_map(|v| v.to_le_bytes().into_iter().take(size)).collect()
        }
        None => Vec::new(),
    }
}

/// The files weights lie in, opened once.
struct External<'a> {
    model: &'a Path,
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
            Some(text) => text
                .parse::<u64>()
                .map_err(|_| fail(format!("its {key} is {text:?}, not a number of bytes"))),
        };
        let offset = number("offset", 0)?;
        let declared = number("length", length as u64)?;
        if declared != length as u64 {
            return Err(fail(format!("{declared} bytes there, but its dimensions need {length}")));
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
            let path = external::resolve(self.model, location).map_err(|e| e.to_string())?;
            let file = File::open(&path).map_err(|e| e.to_string())?;
            let length = file.metadata().map_err(|e| e.to_string())?.len();
            self.files.insert(location.to_owned(), (file, length));
        }
        self.files.get_mut(location).ok_or_else(|| "cannot be opened".to_owned())
    }
}
