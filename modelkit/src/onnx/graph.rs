//! An ONNX graph that can be edited: nodes in order, constants by name, and searches for the producer and
//! the readers of a value.
//!
//! It covers names and structure. The meaning of operators is left to the modules that use it, and the
//! encoding to `external`.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use rten_onnx::onnx::{AttributeProto, NodeProto, OperatorSetIdProto, TensorProto, ValueInfoProto};
use skincell_onnx::Constant;
use skincell_onnx::build::DataType;
pub(crate) use skincell_onnx::build::{
    float_attribute, int_attribute, ints_attribute, value as typed_value_info,
};
use skincell_onnx::function::rename_inside;

/// An ONNX graph with its weights in memory.
#[derive(Clone, Default)]
pub(crate) struct Graph {
    /// In an order in which they can run, each after the producers of its inputs.
    pub(crate) nodes: Vec<NodeProto>,
    /// Initialisers and the values of `Constant` nodes.
    pub(crate) constants: BTreeMap<String, Constant>,
    /// Without those that are initialisers.
    pub(crate) inputs: Vec<ValueInfoProto>,
    pub(crate) outputs: Vec<ValueInfoProto>,
    pub(crate) ir_version: i64,
    pub(crate) opsets: Vec<OperatorSetIdProto>,
    /// Whether the biases of all convolutions are the layers' own (`true`) or come from folded batch norms
    /// (`false`), if the exporter recorded it.
    pub(crate) own_biases: Option<bool>,
    pub(crate) layers: LayerNames,
}

/// How names of nodes relate to layers of the framework, as the exporter recorded it.
#[derive(Debug, Clone, Default)]
pub(crate) struct LayerNames {
    /// Whether the name of each node begins with the path of its layer.
    pub(crate) exact: bool,
    /// The value that a layer computes, or the node if the value is gone, by the layer's path.
    pub(crate) outputs: BTreeMap<String, String>,
    /// Paths of layers, with dots, that the model calls more than once.
    pub(crate) repeated: Vec<String>,
}

impl LayerNames {
    /// Whether the model calls a layer of this name, or of a path that ends with it, more than once.
    pub(crate) fn calls_again(&self, layer: &str) -> bool {
        let wanted = format!(".{}", layer.trim_matches('/').replace('/', "."));
        let around = |path: &str| wanted.starts_with(&format!(".{path}."));
        let calls = |path: &String| around(path) || format!(".{path}").ends_with(&wanted);
        self.repeated.iter().any(calls)
    }
}

/// The operator's name.
pub(crate) fn op(node: &NodeProto) -> &str {
    node.op_type.as_deref().unwrap_or_default()
}

/// The node as error texts name it: its operator, and its name or that of its output.
pub(crate) fn label(node: &NodeProto) -> String {
    match node.name.as_deref() {
        Some(name) if !name.is_empty() => format!("{} \"{name}\"", op(node)),
        _ => match node.output.first() {
            Some(output) => format!("{} -> \"{output}\"", op(node)),
            None => op(node).to_owned(),
        },
    }
}

/// Name of input `index`, or `None` if it is left out.
pub(crate) fn input(node: &NodeProto, index: usize) -> Option<&str> {
    node.input.get(index).map(String::as_str).filter(|name| !name.is_empty())
}

/// Name of the first output.
pub(crate) fn output(node: &NodeProto) -> &str {
    node.output.first().map_or("", String::as_str)
}

/// An attribute by name.
pub(crate) fn attribute<'n>(node: &'n NodeProto, name: &str) -> Option<&'n AttributeProto> {
    node.attribute.iter().find(|a| a.name.as_deref() == Some(name))
}

/// An integer attribute, or its default.
pub(crate) fn int(node: &NodeProto, name: &str, default: i64) -> i64 {
    attribute(node, name).and_then(|a| a.i).unwrap_or(default)
}

/// A float attribute, or its default.
pub(crate) fn float(node: &NodeProto, name: &str, default: f32) -> f32 {
    attribute(node, name).and_then(|a| a.f).unwrap_or(default)
}

/// The text of a string attribute.
pub(crate) fn text<'n>(node: &'n NodeProto, name: &str) -> Option<&'n str> {
    attribute(node, name).and_then(|a| a.s.as_deref())
}

/// An attribute that is a list of integers, if the node has it.
pub(crate) fn ints<'n>(node: &'n NodeProto, name: &str) -> Option<&'n [i64]> {
    attribute(node, name).map(|a| &a.ints[..])
}

/// Every value a node reads, including those that subgraphs in its attributes read from outside.
pub(crate) fn reads(node: &NodeProto) -> Vec<&str> {
    let mut names: Vec<&str> =
        node.input.iter().map(String::as_str).filter(|n| !n.is_empty()).collect();
    for inner in node.attribute.iter().filter_map(|a| a.g.as_ref()) {
        let mut made: HashSet<&str> =
            inner.input.iter().filter_map(|v| v.name.as_deref()).collect();
        made.extend(inner.initializer.iter().filter_map(|t: &TensorProto| t.name.as_deref()));
        made.extend(inner.node.iter().flat_map(|n| n.output.iter().map(String::as_str)));
        let outputs = inner.output.iter().filter_map(|v| v.name.as_deref());
        let wanted = inner.node.iter().flat_map(reads).chain(outputs);
        names.extend(wanted.filter(|name| !made.contains(name)));
    }
    names
}

/// The shape to which two tensors broadcast, or `None`.
pub(crate) fn broadcast(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let rank = a.len().max(b.len());
    let at = |dims: &[usize], i: usize| (i + dims.len()).checked_sub(rank).map_or(1, |i| dims[i]);
    let one = |i| match (at(a, i), at(b, i)) {
        (1, side) | (side, 1) => Some(side),
        (x, y) => (x == y).then_some(x),
    };
    (0..rank).map(one).collect()
}

impl Graph {
    /// Version of the standard operator set of the graph.
    pub(crate) fn opset(&self) -> i64 {
        skincell_onnx::opset(&self.opsets).unwrap_or(1)
    }

    /// The node that computes a value, and its index.
    pub(crate) fn producer_of(&self, value: &str) -> Option<(usize, &NodeProto)> {
        let makes = |node: &NodeProto| node.output.iter().any(|o| o == value);
        self.nodes.iter().enumerate().find(|(_, node)| makes(node))
    }

    /// Indices of the nodes that read a value.
    pub(crate) fn consumers_of(&self, value: &str) -> Vec<usize> {
        let takes = |node: &NodeProto| reads(node).contains(&value);
        self.nodes.iter().enumerate().filter(|(_, n)| takes(n)).map(|(i, _)| i).collect()
    }

    /// Whether this value is an output of the graph.
    pub(crate) fn is_output(&self, value: &str) -> bool {
        self.outputs.iter().any(|o| o.name.as_deref() == Some(value))
    }

    /// A name that is not used yet: `base`, or `base_2`, `base_3`, ….
    pub(crate) fn fresh(&self, base: &str) -> String {
        let taken = |name: &str| {
            self.constants.contains_key(name)
                || self.inputs.iter().any(|v| v.name.as_deref() == Some(name))
                || self.nodes.iter().any(|n| n.output.iter().any(|o| o == name))
        };
        if !taken(base) {
            return base.to_owned();
        }
        let mut number = 2_usize;
        loop {
            let name = format!("{base}_{number}");
            if !taken(&name) {
                return name;
            }
            number += 1;
        }
    }

    /// Adds a constant under an unused name made from `base`, or returns the name of an equal one added
    /// before.
    pub(crate) fn add_constant(&mut self, base: &str, tensor: Constant) -> String {
        let same = |(name, held): (&String, &Constant)| {
            (name.starts_with(base) && *held == tensor).then(|| name.clone())
        };
        if let Some(name) = self.constants.iter().find_map(same) {
            return name;
        }
        let name = self.fresh(base);
        self.constants.insert(name.clone(), tensor);
        name
    }

    /// Appends a node with one output and returns that value's name, made from `base`.
    pub(crate) fn emit(
        &mut self,
        base: &str,
        operator: &str,
        inputs: &[&str],
        attributes: Vec<AttributeProto>,
    ) -> String {
        let name = self.fresh(base);
        self.nodes.push(NodeProto {
            name: Some(name.clone()),
            op_type: Some(operator.to_owned()),
            input: inputs.iter().map(|i| (*i).to_owned()).collect(),
            output: vec![name.clone()],
            attribute: attributes,
            domain: None,
        });
        name
    }

    /// Replaces the node `index` by the nodes from `from` on, which were added for it; returns their number.
    pub(crate) fn put_in_place(&mut self, index: usize, from: usize) -> usize {
        let new = self.nodes.split_off(from);
        let count = new.len();
        self.nodes.splice(index..=index, new);
        count
    }

    /// As [`Self::put_in_place`]; the last of the new nodes takes over the name and the output.
    pub(crate) fn take_place(&mut self, index: usize, from: usize) -> usize {
        let node = &self.nodes[index];
        let output = output(node).to_owned();
        // ONNX Runtime refuses two nodes of the same name.
        let name = node.name.clone().filter(|name| !name.is_empty()).or(Some(output.clone()));
        if let Some(last) = self.nodes.get_mut(from..).and_then(<[NodeProto]>::last_mut) {
            (last.name, last.output) = (name, vec![output]);
        }
        self.put_in_place(index, from)
    }

    /// Makes every node that reads `old` read `new`, in subgraphs too.
    pub(crate) fn replace_reads(&mut self, old: &str, new: &str) {
        let names = HashMap::from([(old.to_owned(), new.to_owned())]);
        for node in &mut self.nodes {
            for name in node.input.iter_mut().filter(|n| n.as_str() == old) {
                new.clone_into(name);
            }
            for inner in node.attribute.iter_mut().filter_map(|a| a.g.as_mut()) {
                rename_inside(inner, &names);
            }
        }
    }

    /// Drops nodes and constants that no output needs.
    pub(crate) fn drop_unused(&mut self) {
        self.drop_unused_but(None);
    }

    /// Drops nodes and constants that neither an output nor the value `kept` needs.
    pub(crate) fn drop_unused_but(&mut self, kept: Option<&str>) {
        let outputs = self.outputs.iter().filter_map(|o| o.name.clone());
        let mut needed: BTreeSet<String> = outputs.chain(kept.map(str::to_owned)).collect();
        let mut kept = vec![false; self.nodes.len()];
        for (index, node) in self.nodes.iter().enumerate().rev() {
            if node.output.iter().any(|o| needed.contains(o)) {
                kept[index] = true;
                needed.extend(reads(node).into_iter().map(str::to_owned));
            }
        }
        let mut kept = kept.into_iter();
        self.nodes.retain(|_| kept.next().unwrap_or(false));
        self.constants.retain(|name, _| needed.contains(name));
    }

    /// Number of weights: elements of all constants that are not lists of integers.
    pub(crate) fn parameters(&self) -> u64 {
        self.constants.values().filter(|t| t.to_i64().is_none()).map(|t| t.len() as u64).sum()
    }
}

/// Describes a float32 value for the graph's inputs or outputs.
pub(crate) fn value_info(name: &str, shape: &[usize]) -> ValueInfoProto {
    typed_value_info(name, DataType::FLOAT, shape)
}
