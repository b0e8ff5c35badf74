//! Dynamically quantized graphs, for derivatives: products of rounded values as products of the values.
//!
//! `DynamicQuantizeLinear` rounds x to bytes q, with a scale s and a zero point z that are computed from x.
//! A product of q − z and constant weights follows, then the multiplication by s and constants. Rounding is
//! differentiated as by fake quantization, as if it were not there, because the range of the integers is
//! that of the values. So while derivatives are written, each such layer stands in the graph as the layer of
//! x that was quantized, under the name of its result: [`as_values`]. [`Integers::put_back`] restores what
//! is computed. Layers in any other form stay, and the derivative ends there.

use std::collections::{BTreeMap, HashMap, HashSet};

use rten_onnx::onnx::{DataType, NodeProto};
use skincell_onnx::Constant;

use crate::onnx::graph::{Graph, input, int, op, output, reads};
use crate::onnx::integer::centred_constant;

/// The graph as it was before [`as_values`].
pub(crate) struct Integers {
    /// All its nodes.
    nodes: Vec<NodeProto>,
    /// The constants that the graph may lose in the meantime.
    constants: BTreeMap<String, Constant>,
    /// Outputs of the nodes that the graph had after that.
    values: HashSet<String>,
}

impl Integers {
    /// Restores the layers; nodes and constants that were added in the meantime stay.
    pub(crate) fn put_back(self, graph: &mut Graph) {
        let added = std::mem::replace(&mut graph.nodes, self.nodes);
        graph.nodes.extend(added.into_iter().filter(|node| !self.values.contains(output(node))));
        graph.constants.extend(self.constants);
    }
}

/// What a value is to a dynamic quantization.
#[derive(Clone)]
struct Dynamic {
    /// Name of the value that was quantized.
    of: String,
    part: Part,
}

#[derive(Clone)]
enum Part {
    Bytes,
    Zero,
    /// The scale, times a constant if it is named.
    Scale(Option<String>),
    /// The layer's result divided by the scale; the node computes the same from the value.
    OverScale(NodeProto),
}

impl Part {
    /// Whether its derivative is that of the value divided by the scale. That holds for the bytes too: the
    /// zero point in them counts as a constant.
    fn has_derivative_of_values(&self) -> bool {
        match self {
            Self::Bytes => true,
            Self::OverScale(product) => op(product) == "Identity",
            Self::Zero | Self::Scale(_) => false,
        }
    }
}

/// Writes the layers of dynamically quantized values as layers of the values; `None` if there are none.
pub(crate) fn as_values(graph: &mut Graph) -> Option<Integers> {
    if !graph.nodes.iter().any(|node| op(node) == "DynamicQuantizeLinear") {
        return None;
    }
    let nodes = graph.nodes.clone();
    let (mut found, mut layers) = (HashMap::new(), HashSet::new());
    for index in 0..graph.nodes.len() {
        let node = graph.nodes[index].clone();
        if let Some(layer) = layer(graph, &mut found, &node) {
            layers.insert(output(&layer).to_owned());
            graph.nodes[index] = layer;
        }
    }
    add_biases(graph, &layers);
    let values = graph.nodes.iter().flat_map(|node| node.output.iter().cloned()).collect();
    let constants = unread(graph, &nodes);
    Some(Integers { nodes, constants, values })
}

/// The constants that `nodes` read but on which no output of `graph` depends any more, so that it may lose
/// them.
fn unread(graph: &Graph, nodes: &[NodeProto]) -> BTreeMap<String, Constant> {
    let mut needed: HashSet<&str> =
        graph.outputs.iter().filter_map(|o| o.name.as_deref()).collect();
    for node in graph.nodes.iter().rev() {
        if node.output.iter().any(|value| needed.contains(value.as_str())) {
            needed.extend(reads(node));
        }
    }
    let names = nodes.iter().flat_map(reads).filter(|name| !needed.contains(*name));
    names.filter_map(|name| Some((name.to_owned(), graph.constants.get(name)?.clone()))).collect()
}

/// The layer of values that ends in this node, if one does. Otherwise notes what the node's outputs are.
fn layer(
    graph: &mut Graph,
    found: &mut HashMap<String, Dynamic>,
    node: &NodeProto,
) -> Option<NodeProto> {
    if op(node) == "DynamicQuantizeLinear" {
        let of = input(node, 0)?.to_owned();
        let parts = [Part::Bytes, Part::Scale(None), Part::Zero];
        for (name, part) in node.output.iter().zip(parts) {
            found.insert(name.clone(), Dynamic { of: of.clone(), part });
        }
        return None;
    }
    let given = |index| input(node, index).and_then(|name| found.get(name));
    let of = (0..3).find_map(given)?.of.clone();
    let part = |index| given(index).filter(|held| held.of == of).map(|held| held.part.clone());
    let part = match (op(node), part(0), part(1), part(2)) {
        ("Cast", Some(part), ..) if int(node, "to", 0) == i64::from(DataType::FLOAT.0) => part,
        ("Sub", Some(Part::Bytes), Some(Part::Zero), _) => Part::OverScale(identity(&of, node)),
        ("DequantizeLinear", Some(Part::Bytes), Some(Part::Scale(None)), Some(Part::Zero)) => {
            return Some(identity(&of, node));
        }
        ("Conv" | "MatMul", Some(held), None, None)
            if held.has_derivative_of_values() && node.input.len() == 2 =>
        {
            Part::OverScale(product(node, op(node), [&of, &constant(graph, node, 1)?]))
        }
        (whole @ ("ConvInteger" | "MatMulInteger"), Some(Part::Bytes), None, around)
            if matches!(around, Some(Part::Zero)) || input(node, 2).is_none() =>
        {
            let (operator, axis) = if whole == "ConvInteger" { ("Conv", 0) } else { ("MatMul", 1) };
            let zero = match input(node, 3) {
                Some(zero) => Some(graph.constants.get(zero)?),
                None => None,
            };
            let weights = input(node, 1)?;
            let centred = centred_constant(graph.constants.get(weights)?, zero, Some(axis))?;
            let weights = graph.add_constant(&format!("{weights}/centred"), centred);
            Part::OverScale(product(node, operator, [&of, &weights]))
        }
        ("Mul", Some(Part::Scale(None)), None, _) => Part::Scale(Some(constant(graph, node, 1)?)),
        ("Mul", None, Some(Part::Scale(None)), _) => Part::Scale(Some(constant(graph, node, 0)?)),
        ("Mul", Some(Part::OverScale(layer)), Some(Part::Scale(by)), _)
        | ("Mul", Some(Part::Scale(by)), Some(Part::OverScale(layer)), _) => {
            return scaled(graph, layer, by.as_deref(), output(node));
        }
        _ => return None,
    };
    found.insert(output(node).to_owned(), Dynamic { of, part });
    None
}

/// Name of the node's input `index` if that is a constant.
fn constant(graph: &Graph, node: &NodeProto, index: usize) -> Option<String> {
    input(node, index).filter(|name| graph.constants.contains_key(*name)).map(str::to_owned)
}

/// A node in the place of `node` that passes on the value `of`.
fn identity(of: &str, node: &NodeProto) -> NodeProto {
    let operator = Some("Identity".to_owned());
    NodeProto { op_type: operator, input: vec![of.to_owned()], attribute: vec![], ..node.clone() }
}

/// The product of the values in the place of one of integers, under the name that the layer had before ONNX
/// Runtime's tool quantized it.
fn product(node: &NodeProto, operator: &str, inputs: [&str; 2]) -> NodeProto {
    let name = node.name.as_deref().map(|name| name.trim_end_matches("_quant").to_owned());
    let input = inputs.map(str::to_owned).to_vec();
    NodeProto { op_type: Some(operator.to_owned()), input, name, ..node.clone() }
}

/// The layer with its weights multiplied by the constant `by`, and with this output. `None` if the constant
/// has neither one element nor one for each output of the layer.
fn scaled(
    graph: &mut Graph,
    layer: NodeProto,
    by: Option<&str>,
    output: &str,
) -> Option<NodeProto> {
    let mut layer = NodeProto { output: vec![output.to_owned()], ..layer };
    let Some(by) = by else { return Some(layer) };
    let factors = graph.constants.get(by)?.to_f32()?;
    let name = input(&layer, 1)?.to_owned();
    let weights = graph.constants.get(&name)?;
    let (mut values, dims) = (weights.to_f32()?, weights.dims.clone());
    let is_conv = op(&layer) == "Conv";
    let outputs = if is_conv { *dims.first()? } else { *dims.last()? };
    if factors.len() != 1 && factors.len() != outputs {
        return None;
    }
    // Consecutive weights of one output: a whole kernel, or one of a row.
    let each = if is_conv { values.len() / outputs.max(1) } else { 1 };
    for (index, value) in values.iter_mut().enumerate() {
        *value *= factors[index / each.max(1) % outputs % factors.len()];
    }
    let base = format!("{name}/scaled");
    layer.input[1] = graph.add_constant(&base, Constant::f32(&dims, &values));
    Some(layer)
}

/// Makes an addition of a constant for each channel the bias of the convolution before it, one of `layers`,
/// as it was before the quantization.
fn add_biases(graph: &mut Graph, layers: &HashSet<String>) {
    let mut index = 0;
    while index < graph.nodes.len() {
        let Some((conv, bias)) = bias_of(graph, index, layers) else {
            index += 1;
            continue;
        };
        let sum = graph.nodes.remove(index);
        let conv = &mut graph.nodes[conv];
        conv.input.push(bias);
        conv.output = sum.output;
    }
}

/// The convolution that such an addition follows, and the constant as a list.
fn bias_of(graph: &mut Graph, index: usize, layers: &HashSet<String>) -> Option<(usize, String)> {
    let sum = graph.nodes.get(index).filter(|node| op(node) == "Add")?;
    let (a, b) = (input(sum, 0)?, input(sum, 1)?);
    let (value, added) = if layers.contains(a) { (a, b) } else { (b, a) };
    let (conv, node) = graph.producer_of(value).filter(|(_, node)| op(node) == "Conv")?;
    let is_alone = graph.consumers_of(value).len() == 1 && !graph.is_output(value);
    if !layers.contains(value) || !is_alone || node.input.len() != 2 {
        return None;
    }
    let channels = *graph.constants.get(input(node, 1)?)?.dims.first()?;
    let constant = graph.constants.get(added)?;
    let (dims, values) = (&constant.dims[..], constant.to_f32()?);
    if !matches!(dims, [1, c, 1, 1] | [c, 1, 1] if *c == channels) {
        return None;
    }
    let base = format!("{added}/list");
    Some((conv, graph.add_constant(&base, Constant::f32(&[channels], &values))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::graph::{int_attribute, value_info};

    /// A dense layer of integers whose scale is that of the photo times the value `by`.
    fn graph(by: &str) -> Graph {
        let mut graph = Graph { inputs: vec![value_info("x", &[1, 2])], ..Graph::default() };
        let bytes = |bytes: &[u8]| Constant {
            dtype: DataType::INT8,
            dims: vec![2, 1],
            bytes: bytes.to_vec(),
        };
        let weights = graph.add_constant("w", bytes(&[3, 5]));
        graph.add_constant("half", Constant::scalar(0.5));
        graph.emit("computed", "ReduceMean", &["x"], vec![]);
        graph.emit("q", "DynamicQuantizeLinear", &["x"], vec![]);
        let rounding = graph.nodes.last_mut().expect("the rounding");
        rounding.output.extend(["s".to_owned(), "z".to_owned()]);
        graph.emit("sums", "MatMulInteger", &["q", &weights, "z"], vec![]);
        let to = vec![int_attribute("to", i64::from(DataType::FLOAT.0))];
        graph.emit("floats", "Cast", &["sums"], to);
        graph.emit("scale", "Mul", &["s", by], vec![]);
        graph.emit("y", "Mul", &["floats", "scale"], vec![]);
        graph
    }

    #[test]
    fn a_layer_whose_scale_has_a_computed_factor_stays() {
        let last = |by: &str| {
            let mut graph = graph(by);
            as_values(&mut graph).expect("it rounds");
            graph.nodes.pop().expect("the last node")
        };
        let layer = last("half");
        assert_eq!((op(&layer), output(&layer)), ("MatMul", "y"));
        assert_eq!(op(&last("computed")), "Mul", "its factor would be lost");
    }

    #[test]
    fn what_is_computed_comes_back() {
        let mut changed = graph("half");
        let listed = |graph: &Graph| {
            graph.nodes.iter().map(|node| (op(node).to_owned(), node.input.clone())).collect()
        };
        let before: Vec<(String, Vec<String>)> = listed(&changed);
        let integers = as_values(&mut changed).expect("it rounds");
        changed.emit("cam/map", "Relu", &["y"], vec![]);
        integers.put_back(&mut changed);
        assert_eq!(changed.nodes.pop().map(|node| node.output), Some(vec!["cam/map".to_owned()]));
        assert_eq!(listed(&changed), before);
        assert!(changed.constants.contains_key("w"));
    }
}
