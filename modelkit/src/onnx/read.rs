//! Reads an ONNX file into a graph whose nodes are in an order in which they can run.
//!
//! It checks that every value exists and is computed once, so that later modules need not. Whether the graph
//! is a classifier of photos is left to them.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use rten_onnx::onnx::{DataType, NodeProto};
use skincell_onnx::ModelFile;
use thiserror::Error;

use crate::onnx::graph::{Graph, LayerNames, label, op, reads};
use crate::onnx::{defaults, older};

/// Why an ONNX file cannot be used.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The file cannot be read or decoded.
    #[error(transparent)]
    File(#[from] skincell_onnx::ReadError),
    /// A node reads a value that does not exist.
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
    /// The graph has a cycle.
    #[error(
        "{count} nodes wait for each other in a cycle, {node} among them; no engine can run the graph"
    )]
    Cycle {
        /// One node of the cycle.
        node: String,
        /// Number of nodes that cannot run.
        count: usize,
    },
    /// Two nodes compute the same value.
    #[error("\"{value}\" is made twice, the second time by {node}; export the model again")]
    Twice {
        /// Name of the value.
        value: String,
        /// The second node.
        node: String,
    },
    /// A weight is no number.
    #[error(
        "element {index} of the tensor \"{tensor}\" is NaN, no number: the weights are damaged, or training \
         failed; export the model again from sound weights"
    )]
    NotANumber {
        /// Name of the tensor.
        tensor: String,
        /// The first such element, counted from 0.
        index: usize,
    },
    /// An operator is unsupported: its set is too old or private.
    #[error("{0}")]
    Operators(String),
}

/// Metadata written by this repository's exporters: `own` if no batch norm follows a convolution, `folded` if
/// no convolution has a bias.
const CONV_BIAS: &str = "skincell.conv_bias";
/// Metadata written by this repository's exporters: `exact` if the name of each node begins with the path of
/// its layer.
const LAYER_NAMES: &str = "skincell.layer_names";
/// Metadata written by this repository's exporters: a JSON object of the value that each layer computes.
const LAYER_OUTPUTS: &str = "skincell.layer_outputs";
/// Metadata written by this repository's exporters: a JSON list of the layers that are called more than once.
const REPEATED_LAYERS: &str = "skincell.repeated_layers";

/// Reads a model with all its weights.
///
/// # Errors
/// [`ReadError`] with the first fault found.
pub(crate) fn read(path: &Path) -> Result<Graph, ReadError> {
    let ModelFile { nodes, constants, inputs, outputs, ir_version, opsets, metadata } =
        skincell_onnx::read(path)?;
    let mut graph = Graph {
        nodes,
        inputs,
        outputs,
        constants,
        // 4 is the first version whose initialisers need not be inputs too; 8 goes with opset 13.
        ir_version: ir_version.unwrap_or(8).max(8),
        opsets,
        own_biases: metadata.get(CONV_BIAS).and_then(|kind| match kind.as_str() {
            "own" => Some(true),
            "folded" => Some(false),
            _ => None,
        }),
        layers: layers(&metadata),
    };
    check_operators(&graph)?;
    refuse_nan(&graph)?;
    older::upgrade(&mut graph).map_err(ReadError::Operators)?;
    defaults::write_out(&mut graph);
    sort(&mut graph)?;
    Ok(graph)
}

/// What an exporter recorded of the layers.
fn layers(metadata: &BTreeMap<String, String>) -> LayerNames {
    let exact = metadata.get(LAYER_NAMES).is_some_and(|kind| kind == "exact");
    let outputs = metadata.get(LAYER_OUTPUTS).and_then(|text| serde_json::from_str(text).ok());
    let repeated = metadata.get(REPEATED_LAYERS).and_then(|text| serde_json::from_str(text).ok());
    LayerNames {
        exact,
        outputs: outputs.unwrap_or_default(),
        repeated: repeated.unwrap_or_default(),
    }
}

/// Refuses constants with an element that is NaN, which ReLU and maximum hide from the scores. Infinity is no
/// fault by itself: masks of attention have it.
///
/// # Errors
/// [`ReadError::NotANumber`] with the first such element.
pub(crate) fn refuse_nan(graph: &Graph) -> Result<(), ReadError> {
    for (name, constant) in &graph.constants {
        if let Some(index) = constant.first_nan() {
            return Err(ReadError::NotANumber { tensor: name.clone(), index });
        }
    }
    Ok(())
}

fn check_operators(graph: &Graph) -> Result<(), ReadError> {
    let opset = graph.opset();
    if opset < older::OLDEST {
        return Err(ReadError::Operators(format!(
            "the model is written in operator set {opset}, but the oldest one supported is {oldest}; \
             export it again with opset 17",
            oldest = older::OLDEST
        )));
    }
    Ok(())
}

/// Refuses operators that no engine supports. It is called after nodes behind the scores, such as
/// scikit-learn's `ZipMap`, were dropped.
///
/// # Errors
/// [`ReadError::Operators`] with the first such node.
pub(crate) fn refuse_private(graph: &Graph) -> Result<(), ReadError> {
    let private = |n: &&NodeProto| {
        !matches!(n.domain.as_deref().unwrap_or_default(), "" | "ai.onnx" | "com.microsoft")
    };
    let integer = |n: &&NodeProto| op(n).starts_with("QLinear") || op(n) == "QGemm";
    if let Some(node) = graph.nodes.iter().find(integer) {
        return Err(ReadError::Operators(format!(
            "{} computes on integers in a way no engine here knows; quantize in the form QDQ \
             (quant_format=QuantFormat.QDQ), or prepare the model that was quantized",
            label(node)
        )));
    }
    let is_wide = |name: &String| {
        let constant = graph.constants.get(name);
        constant.is_some_and(|c| matches!(c.dtype, DataType::INT16 | DataType::UINT16))
    };
    let wide = |n: &&NodeProto| {
        matches!(op(n), "QuantizeLinear" | "DequantizeLinear") && n.input.iter().any(is_wide)
    };
    if let Some(node) = graph.nodes.iter().find(wide) {
        let setting = match node.input.first().is_some_and(is_wide) {
            true => "weight_type=QuantType.QInt8",
            false => "activation_type=QuantType.QUInt8",
        };
        return Err(ReadError::Operators(format!(
            "{} has integers of 16 bits, with which no engine here computes; quantize to 8 bits \
             ({setting}), or prepare the model that was quantized",
            label(node)
        )));
    }
    let fused = |n: &&NodeProto| op(n).starts_with("Fused") || op(n).contains("Nchwc");
    if let Some(node) = graph.nodes.iter().find(fused) {
        return Err(ReadError::Operators(format!(
            "{} was made by ONNX Runtime's optimisation, and only ONNX Runtime knows it; prepare the file \
             that it was made of",
            label(node)
        )));
    }
    match graph.nodes.iter().find(private) {
        None => Ok(()),
        Some(node) => Err(ReadError::Operators(format!(
            "{} belongs to the private operator set \"{}\", which no engine here supports; export with \
             functions inlined, or name a tensor before it with --scores NAME",
            label(node),
            node.domain.as_deref().unwrap_or_default()
        ))),
    }
}

/// Puts nodes into an order in which they can run; an order that can run already is kept.
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
