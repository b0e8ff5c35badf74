//! Encodes a graph as the two files of a served model: `model.onnx` with the graph and `model.onnx.data`
//! with the weights.
//!
//! An engine maps the second file and computes with the mapped weights. Each begins at a multiple of
//! [`ALIGNMENT`]; they follow in the order in which the nodes first read them, so that pages are read in
//! order; equal weights are stored once. Tensors that engines convert, and small ones, stay in
//! `model.onnx`. The output is deterministic. Writing the files to disk is left to `write`.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};

use rten_onnx::onnx::{
    AttributeProto, DataLocation, DataType, GraphProto, ModelProto, NodeProto,
    StringStringEntryProto, TensorProto,
};
use rten_onnx::protobuf::{EncodeMessage, MessageWriter, ProtobufError, ValueWriter, WriteValue};

use crate::onnx::graph::{Graph, reads};
use skincell_onnx::Constant;

pub use skincell_engines::source::{GRAPH_FILE, WEIGHTS_FILE};

/// Every weight begins at a multiple of this many bytes, the size of a cache line.
pub const ALIGNMENT: usize = 64;
/// Tensors of fewer bytes stay in the graph's file.
const SMALLEST: usize = 64;

/// Contents of a model's two files.
pub(crate) struct Files {
    /// `model.onnx`.
    pub(crate) graph: Vec<u8>,
    /// `model.onnx.data`.
    pub(crate) weights: Vec<u8>,
}

/// Encodes a graph as two files.
///
/// # Errors
/// [`ProtobufError`], which is not expected to happen.
pub(crate) fn lay_out(graph: &Graph) -> Result<Files, ProtobufError> {
    let mut weights = Vec::new();
    let mut places = BTreeMap::new();
    let mut held: HashMap<&[u8], usize> = HashMap::new();
    for name in in_order_of_use(graph) {
        let Some(tensor) = graph.constants.get(name) else { continue };
        if !is_external(tensor) {
            continue;
        }
        let offset = *held.entry(&tensor.bytes).or_insert_with(|| {
            weights.resize(weights.len().next_multiple_of(ALIGNMENT), 0);
            let offset = weights.len();
            weights.extend_from_slice(&tensor.bytes);
            offset
        });
        places.insert(name, offset);
    }
    let initializer = in_order_of_use(graph)
        .into_iter()
        .filter_map(|name| Some((name, graph.constants.get(name)?)))
        .map(|(name, tensor)| initializer(name, tensor, places.get(name).copied()))
        .collect();
    Ok(Files { graph: encode(graph, initializer)?, weights })
}

/// Encodes a graph as one file with its weights inside, for an engine that loads it from memory.
///
/// # Errors
/// [`ProtobufError`], which is not expected to happen.
pub(crate) fn in_one_piece(graph: &Graph) -> Result<Vec<u8>, ProtobufError> {
    let initializers = graph.constants.iter().map(|(name, t)| initializer(name, t, None));
    encode(graph, initializers.collect())
}

fn in_order_of_use(graph: &Graph) -> Vec<&str> {
    let mut seen = HashSet::new();
    let used = graph.nodes.iter().flat_map(reads).chain(graph.constants.keys().map(String::as_str));
    used.filter(|name| graph.constants.contains_key(*name) && seen.insert(*name)).collect()
}

/// Whether mapping this tensor saves a private copy: rten converts 64-bit integers and booleans when it loads
/// a model, and so copies them anyway.
fn is_external(tensor: &Constant) -> bool {
    let mapped = matches!(
        tensor.dtype,
        DataType::FLOAT | DataType::FLOAT16 | DataType::INT8 | DataType::UINT8 | DataType::INT32
    );
    mapped && tensor.bytes.len() >= SMALLEST
}

fn initializer(name: &str, tensor: &Constant, offset: Option<usize>) -> TensorProto {
    let entry = |key: &str, value: String| StringStringEntryProto {
        key: Some(key.to_owned()),
        value: Some(value),
    };
    let mut proto = TensorProto {
        name: Some(name.to_owned()),
        dims: tensor.dims.iter().map(|d| *d as i64).collect(),
        data_type: Some(tensor.dtype),
        ..Default::default()
    };
    match offset {
        None => proto.raw_data = Some(RefCell::new(tensor.bytes.clone())),
        Some(offset) => {
            proto.data_location = Some(DataLocation::EXTERNAL);
            proto.external_data = vec![
                entry("location", WEIGHTS_FILE.to_owned()),
                entry("offset", offset.to_string()),
                entry("length", tensor.bytes.len().to_string()),
            ];
        }
    }
    proto
}

fn encode(graph: &Graph, initializer: Vec<TensorProto>) -> Result<Vec<u8>, ProtobufError> {
    let model = NamedModel {
        graph: NamedGraph(GraphProto {
            node: graph.nodes.clone(),
            initializer,
            input: graph.inputs.clone(),
            output: graph.outputs.clone(),
            value_info: Vec::new(),
        }),
        rest: ModelProto {
            ir_version: Some(graph.ir_version),
            producer_name: Some("skincell".to_owned()),
            opset_import: graph.opsets.clone(),
            ..Default::default()
        },
    };
    let mut bytes = Vec::with_capacity(usize::try_from(model.encoded_len()?).unwrap_or(0));
    model.encode(ValueWriter::new(&mut bytes))?;
    Ok(bytes)
}

/// A model whose graphs have names, which the ONNX checker and ONNX Runtime demand and `rten-onnx` does not
/// write.
struct NamedModel {
    graph: NamedGraph,
    rest: ModelProto,
}

struct NamedGraph(GraphProto);

struct NamedNode(NodeProto);

struct NamedAttribute(AttributeProto);

impl EncodeMessage for NamedModel {
    fn encode_fields<W: WriteValue>(
        &self,
        fields: &mut MessageWriter<W>,
    ) -> Result<(), ProtobufError> {
        self.rest.encode_fields(fields)?;
        fields.write_message(7, &self.graph) // onnx.proto: ModelProto.graph
    }
}

impl EncodeMessage for NamedGraph {
    fn encode_fields<W: WriteValue>(
        &self,
        fields: &mut MessageWriter<W>,
    ) -> Result<(), ProtobufError> {
        let holds_graph = |node: &NodeProto| node.attribute.iter().any(|a| a.g.is_some());
        if !self.0.node.iter().any(holds_graph) {
            self.0.encode_fields(fields)?;
        } else {
            for node in &self.0.node {
                fields.write_message(1, &NamedNode(node.clone()))?; // GraphProto.node
            }
            GraphProto { node: Vec::new(), ..self.0.clone() }.encode_fields(fields)?;
        }
        fields.write_string(2, "skincell") // onnx.proto: GraphProto.name
    }
}

impl EncodeMessage for NamedNode {
    fn encode_fields<W: WriteValue>(
        &self,
        fields: &mut MessageWriter<W>,
    ) -> Result<(), ProtobufError> {
        NodeProto { attribute: Vec::new(), ..self.0.clone() }.encode_fields(fields)?;
        for attribute in &self.0.attribute {
            fields.write_message(5, &NamedAttribute(attribute.clone()))?; // NodeProto.attribute
        }
        Ok(())
    }
}

impl EncodeMessage for NamedAttribute {
    fn encode_fields<W: WriteValue>(
        &self,
        fields: &mut MessageWriter<W>,
    ) -> Result<(), ProtobufError> {
        AttributeProto { g: None, ..self.0.clone() }.encode_fields(fields)?;
        match &self.0.g {
            Some(graph) => fields.write_message(6, &NamedGraph(graph.clone())), // AttributeProto.g
            None => Ok(()),
        }
    }
}
