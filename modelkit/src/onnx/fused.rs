//! Writes the fused operators of ONNX Runtime's transformer optimizer and those of dynamic quantization with
//! those of the standard, which the other engines and Grad-CAM know. They are described in
//! `docs/ContribOperators.md` of ONNX Runtime.

use rten_onnx::onnx::{DataType, NodeProto};

use crate::onnx::graph::{Graph, float, float_attribute, input, int_attribute, op, output};

/// The operator set of ONNX Runtime's own operators.
const DOMAIN: &str = "com.microsoft";

/// Splits `SkipLayerNormalization`, the simplified one as well, into sums and a norm, `BiasGelu` into a sum
/// and `Gelu`, and `DynamicQuantizeMatMul` and `MatMulIntegerToFloat` into the rounding, the product of
/// integers and the scales.
pub(crate) fn split(graph: &mut Graph) {
    let mut index = 0;
    while let Some(node) = graph.nodes.get(index).cloned() {
        let end = graph.nodes.len();
        let own = node.domain.as_deref() == Some(DOMAIN);
        index += match op(&node) {
            "SkipLayerNormalization" | "SkipSimplifiedLayerNormalization"
                if own && skipped(graph, &node) =>
            {
                graph.put_in_place(index, end)
            }
            "BiasGelu" if own => {
                biased(graph, &node);
                graph.take_place(index, end)
            }
            "DynamicQuantizeMatMul" if own => {
                let [b, scale, zero, bias] = [1, 2, 3, 4].map(|at| input(&node, at));
                let x = input(&node, 0).unwrap_or_default();
                let [bytes, own_scale, own_zero] = rounded(graph, &node, x);
                let scales = [own_scale.as_str(), scale.unwrap_or_default()];
                let product = [Some(&*bytes), b, Some(&*own_zero), zero];
                multiplied(graph, &node, product, scales, bias);
                graph.take_place(index, end)
            }
            "MatMulIntegerToFloat" if own => {
                let [a, b, a_scale, b_scale, a_zero, b_zero, bias] =
                    [0, 1, 2, 3, 4, 5, 6].map(|at| input(&node, at));
                let scales = [a_scale, b_scale].map(Option::unwrap_or_default);
                multiplied(graph, &node, [a, b, a_zero, b_zero], scales, bias);
                graph.take_place(index, end)
            }
            _ => 1,
        };
    }
}

/// Rounds `x` to bytes; returns the names of these, their scale and their zero point.
fn rounded(graph: &mut Graph, node: &NodeProto, x: &str) -> [String; 3] {
    let base = output(node);
    let bytes = graph.emit(&format!("{base}/bytes"), "DynamicQuantizeLinear", &[x], vec![]);
    let [scale, zero] = ["scale", "zero"].map(|part| graph.fresh(&format!("{base}/{part}")));
    if let Some(last) = graph.nodes.last_mut() {
        last.output.extend([scale.clone(), zero.clone()]);
    }
    [bytes, scale, zero]
}

/// `(a − zero) · (b − zero) · scales[0] · scales[1] + bias`, from the integers a and b and their zero points.
fn multiplied(
    graph: &mut Graph,
    node: &NodeProto,
    product: [Option<&str>; 4],
    scales: [&str; 2],
    bias: Option<&str>,
) {
    let base = output(node);
    let mut inputs = product.map(Option::unwrap_or_default).to_vec();
    while inputs.last().is_some_and(|last| last.is_empty()) {
        inputs.pop();
    }
    let sums = graph.emit(&format!("{base}/sums"), "MatMulInteger", &inputs, vec![]);
    let to = vec![int_attribute("to", i64::from(DataType::FLOAT.0))];
    let floats = graph.emit(&format!("{base}/floats"), "Cast", &[&sums], to);
    let scale = graph.emit(&format!("{base}/scales"), "Mul", &scales, vec![]);
    let scaled = graph.emit(&format!("{base}/scaled"), "Mul", &[&floats, &scale], vec![]);
    if let Some(bias) = bias {
        graph.emit(&format!("{base}/biased"), "Add", &[&scaled, bias], vec![]);
    }
}

/// `layer_norm(x + skip + bias)`, or the simplified norm, which has no summand; its fourth output is the sum.
/// Returns whether it could be written: the norm's mean and deviation, which are outputs too, are read in
/// training only.
fn skipped(graph: &mut Graph, node: &NodeProto) -> bool {
    let given = |at: usize| node.output.get(at).is_some_and(|name| !name.is_empty());
    let (Some(x), Some(skip), Some(scale)) = (input(node, 0), input(node, 1), input(node, 2))
    else {
        return false;
    };
    if given(1) || given(2) {
        return false;
    }
    let base = output(node);
    let mut sum = graph.emit(&format!("{base}/sum"), "Add", &[x, skip], vec![]);
    let simplified = op(node) == "SkipSimplifiedLayerNormalization";
    let (summand, bias) = if simplified { (None, 3) } else { (input(node, 3), 4) };
    if let Some(bias) = input(node, bias) {
        sum = graph.emit(&format!("{base}/biased"), "Add", &[&sum, bias], vec![]);
    }
    if let Some(made) = node.output.get(3).filter(|name| !name.is_empty()) {
        sum.clone_from(made);
        if let Some(last) = graph.nodes.last_mut() {
            last.output = vec![sum.clone()];
        }
    }
    let mut inputs = vec![sum.as_str(), scale];
    inputs.extend(summand);
    let norm = if simplified { "SimplifiedLayerNormalization" } else { "LayerNormalization" };
    let epsilon = float_attribute("epsilon", float(node, "epsilon", 1e-12));
    graph.emit(base, norm, &inputs, vec![int_attribute("axis", -1), epsilon]);
    if let Some(last) = graph.nodes.last_mut() {
        last.name = node.name.clone().filter(|name| !name.is_empty()).or(Some(base.to_owned()));
        last.output = vec![base.to_owned()];
    }
    true
}

/// `gelu(x + bias)`.
fn biased(graph: &mut Graph, node: &NodeProto) {
    let (x, bias) = (input(node, 0).unwrap_or_default(), input(node, 1).unwrap_or_default());
    let base = output(node);
    let sum = graph.emit(&format!("{base}/sum"), "Add", &[x, bias], vec![]);
    graph.emit(base, "Gelu", &[&sum], vec![]);
    if let Some(last) = graph.nodes.last_mut() {
        last.domain = Some(DOMAIN.to_owned());
    }
}
