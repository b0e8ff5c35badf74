//! Runs a graph of unknown origin node by node, and refuses it before a node makes too large a value.
//!
//! A damaged number in a `Pad`, a `Tile` or a broadcast can ask for more memory than any machine has, and an
//! engine's failed allocation ends the process. So each node runs alone, after [`bound`] has computed from
//! its inputs how large its outputs can become. What nodes inside `If`, `Loop` and `Scan` make is not
//! bounded, nor are sizes that depend on what is seen in a photo.

use std::collections::HashMap;

use rten::{ModelOptions, Value, ValueOrView};
use rten_onnx::onnx::{NodeProto, ValueInfoProto};
use rten_tensor::Tensor;
use rten_tensor::prelude::*;

use super::bound::{Known, bound};
use super::engine::{EngineError, guarded};
use super::external;
use super::graph::{Graph, label, reads};

/// Most elements of a value that is larger than what it is made from: 256 MiB as float32.
const MOST: u64 = 1 << 26;
/// Most elements of all values that are needed at the same time: 1 GiB as float32.
const MOST_AT_ONCE: u64 = 1 << 28;
/// Most elements of a value whose numbers are looked at, for sizes.
const FEW: usize = 64;

/// Runs `graph` on a photo of zeros of the given shape, float32.
///
/// # Errors
/// [`EngineError::Large`] before a node makes too large a value; otherwise as of the engine.
pub(crate) fn refuse_large(graph: &Graph, photo: &[usize]) -> Result<(), EngineError> {
    let inputs = graph.inputs.iter().filter_map(|input| input.name.clone());
    let given = inputs.map(|name| (name, Tensor::<f32>::zeros(photo).into())).collect();
    refuse_large_from(graph, given)
}

/// As [`refuse_large`], on these inputs.
///
/// # Errors
/// As of [`refuse_large`].
pub(crate) fn refuse_large_from(
    graph: &Graph,
    mut held: HashMap<String, Value>,
) -> Result<(), EngineError> {
    let mut options = ModelOptions::with_all_ops();
    options.enable_optimization(false);
    let mut uses = HashMap::new();
    for name in graph.nodes.iter().flat_map(reads) {
        *uses.entry(name.to_owned()).or_insert(0_usize) += 1;
    }
    for node in &graph.nodes {
        let known: Vec<Known> = node.input.iter().map(|name| known(graph, &held, name)).collect();
        let expected = bound(node, &known);
        let others: u64 = held.values().map(|value| value.len() as u64).sum();
        let grows = expected > known.iter().map(Known::count).fold(MOST, u64::saturating_add);
        if grows || expected.saturating_add(others) > MOST_AT_ONCE {
            return Err(EngineError::Large { node: label(node), elements: expected, others });
        }
        let outputs = run(&options, graph, node, &held)?;
        for name in reads(node) {
            let left = uses.entry(name.to_owned()).or_insert(1);
            *left -= 1;
            if *left == 0 {
                held.remove(name);
            }
        }
        held.extend(outputs.into_iter().filter(|(name, _)| uses.contains_key(name)));
    }
    Ok(())
}

/// What is known of an input: of a constant, or of a value computed before.
pub(super) fn known(graph: &Graph, held: &HashMap<String, Value>, name: &str) -> Known {
    if let Some(constant) = graph.constants.get(name) {
        let few = Some(constant).filter(|constant| constant.len() <= FEW);
        let numbers = few.and_then(|constant| match constant.to_i64() {
            Some(list) => Some(list.into_iter().map(|number| number as f64).collect()),
            None => constant.to_f32().map(|list| list.into_iter().map(f64::from).collect()),
        });
        return Known { shape: constant.dims.clone(), numbers };
    }
    let Some(value) = held.get(name) else { return Known::default() };
    let numbers = match value {
        _ if value.len() > FEW => None,
        Value::Int32Tensor(tensor) => Some(tensor.iter().copied().map(f64::from).collect()),
        Value::FloatTensor(tensor) => Some(tensor.iter().copied().map(f64::from).collect()),
        _ => None,
    };
    Known { shape: value.shape().to_vec(), numbers }
}

/// Runs one node, and returns its outputs by name; `held` has its inputs that are no constants.
pub(super) fn run(
    options: &ModelOptions,
    graph: &Graph,
    node: &NodeProto,
    held: &HashMap<String, Value>,
) -> Result<Vec<(String, Value)>, EngineError> {
    let failed =
        |error: &dyn std::fmt::Display| EngineError::Run(format!("{}: {error}", label(node)));
    let mut names = reads(node);
    names.sort_unstable();
    names.dedup();
    let open = |name: &str| ValueInfoProto { name: Some(name.to_owned()), r#type: None };
    let mut alone = Graph {
        nodes: vec![node.clone()],
        outputs: node.output.iter().filter(|o| !o.is_empty()).map(|o| open(o)).collect(),
        ir_version: graph.ir_version,
        opsets: graph.opsets.clone(),
        ..Graph::default()
    };
    for name in &names {
        match graph.constants.get(*name) {
            Some(constant) => drop(alone.constants.insert((*name).to_owned(), constant.clone())),
            None => alone.inputs.push(open(name)),
        }
    }
    let bytes = external::in_one_piece(&alone).map_err(|error| failed(&error))?;
    guarded(|| {
        let model = options.load(bytes).map_err(|error| failed(&error))?;
        let mut given = Vec::new();
        for name in names.iter().filter(|name| !graph.constants.contains_key(**name)) {
            let value = held.get(*name).ok_or_else(|| failed(&"an input is missing"))?;
            let id = model.node_id(name).map_err(|error| failed(&error))?;
            given.push((id, ValueOrView::View(value.as_view())));
        }
        let made = model.run(given, model.output_ids(), None).map_err(|error| failed(&error))?;
        let names = node.output.iter().filter(|output| !output.is_empty()).cloned();
        Ok(names.zip(made).collect())
    })
}
