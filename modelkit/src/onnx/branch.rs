//! Replaces an `If` whose condition is known by the nodes of the branch that runs.
//!
//! PyTorch's exporter writes such nodes for `squeeze` and for code in scripted models that asks for a
//! shape. With the photo's size known, the condition is a constant, and without the `If` cellnet and
//! Grad-CAM can take the graph.

use std::collections::HashMap;

use rten_onnx::onnx::{GraphProto, NodeProto};
use skincell_onnx::function::rename;
use skincell_onnx::{Constant, attribute_constant, inner_constant};

use crate::onnx::graph::{Graph, attribute, input, op, output};

/// Replaces each `If` with a constant condition; returns whether there was one.
pub(crate) fn take_known(graph: &mut Graph) -> bool {
    let (mut index, mut found) = (0, false);
    while index < graph.nodes.len() {
        match branch(graph, index) {
            // The branch may begin with an `If` itself.
            Some(nodes) => {
                graph.nodes.splice(index..=index, nodes);
                found = true;
            }
            None => index += 1,
        }
    }
    found
}

/// The nodes of the branch that the `If` at `index` takes, under names that are not used yet.
fn branch(graph: &mut Graph, index: usize) -> Option<Vec<NodeProto>> {
    let node = graph.nodes.get(index).filter(|node| op(node) == "If")?.clone();
    let condition = graph.constants.get(input(&node, 0)?).filter(|c| c.len() == 1)?;
    let taken =
        if condition.bytes.iter().any(|byte| *byte != 0) { "then_branch" } else { "else_branch" };
    let body = attribute(&node, taken)?.g.clone()?;
    let (names, constants) = names(graph, &node, &body)?;
    graph.constants.extend(constants);
    let own = node.name.clone().filter(|name| !name.is_empty());
    let own = own.unwrap_or_else(|| output(&node).to_owned());
    let computes = |inner: &&NodeProto| op(inner) != "Constant";
    let mut nodes: Vec<NodeProto> = body.node.iter().filter(computes).cloned().collect();
    for inner in &mut nodes {
        rename(inner, &names);
        // ONNX Runtime refuses two nodes of the same name, which two branches may have.
        let name = inner.name.take().filter(|name| !name.is_empty());
        inner.name = name.map(|name| format!("{own}/{name}"));
    }
    for (inner, outer) in body.output.iter().filter_map(|v| v.name.as_ref()).zip(&node.output) {
        let source = names.get(inner).unwrap_or(inner);
        if !outer.is_empty() {
            nodes.push(NodeProto {
                op_type: Some("Identity".to_owned()),
                input: vec![source.clone()],
                output: vec![outer.clone()],
                name: Some(format!("{own}/{inner}")),
                ..NodeProto::default()
            });
        }
    }
    Some(nodes)
}

/// New names for the values of a branch by their old ones, and its constants with their new names.
type Renamed = (HashMap<String, String>, Vec<(String, Constant)>);

fn names(graph: &Graph, node: &NodeProto, body: &GraphProto) -> Option<Renamed> {
    let base = node.output.first()?;
    let mut names = HashMap::new();
    let mut constants = Vec::new();
    for tensor in &body.initializer {
        let name = tensor.name.clone()?;
        constants.push((graph.fresh(&format!("{base}/{name}")), inner_constant(tensor).ok()?));
        names.insert(name, constants.last()?.0.clone());
    }
    for inner in &body.node {
        for made in inner.output.iter().filter(|o| !o.is_empty()) {
            names.insert(made.clone(), graph.fresh(&format!("{base}/{made}")));
        }
        if op(inner) == "Constant" {
            let made = inner.output.first()?;
            let value = attribute_constant(attribute(inner, "value")?, made).ok()?;
            constants.push((names.get(made)?.clone(), value));
        }
    }
    Some((names, constants))
}
