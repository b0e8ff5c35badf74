//! Writes operators that rten does not support with others that it does, and sums that it would merge
//! wrongly.

use rten_onnx::onnx::NodeProto;

use crate::onnx::graph::{
    Graph, float, float_attribute, input, int, int_attribute, ints_attribute, op, output,
};
use skincell_onnx::Constant;

/// Writes the operators of a graph that rten does not support, if there is a rule for them.
pub(crate) fn replace(graph: &mut Graph) {
    let mut index = 0;
    while let Some(node) = graph.nodes.get(index).cloned() {
        let end = graph.nodes.len();
        let x = input(&node, 0).unwrap_or_default();
        match op(&node) {
            "Erfc" => complement(graph, x),
            "Sign" => sign(graph, x),
            "Selu" => selu(graph, &node, x),
            "Celu" => celu(graph, x, float(&node, "alpha", 1.0)),
            "Mish" => mish(graph, x),
            "ThresholdedRelu" => thresholded(graph, x, float(&node, "alpha", 1.0)),
            "LRN" => response(graph, &node, x),
            "GroupNormalization" => groups(graph, &node, x),
            "RMSNormalization" | "SimplifiedLayerNormalization" if is_over_the_last(&node) => {
                root_mean_square(graph, &node, x);
            }
            "Add" if let Some((at, rows)) = spread_bias(graph, &node) => {
                graph.nodes[index].input[at] = graph.add_constant("bias/rows", rows);
                index += 1;
                continue;
            }
            _ => {
                index += 1;
                continue;
            }
        }
        index += graph.take_place(index, end);
    }
}

/// The place and the new form, `[1, n]`, of a bias `[n]` that is added to a product with another number of
/// columns: the thresholds of an ordinal head, which are added to one score. rten merges a bias of one axis
/// into the product, and fails where it is not as long as that.
fn spread_bias(graph: &Graph, node: &NodeProto) -> Option<(usize, Constant)> {
    let columns = |value: &str| {
        let (_, product) = graph.producer_of(value).filter(|(_, made)| op(made) == "MatMul")?;
        graph.constants.get(input(product, 1)?)?.dims.last().copied()
    };
    [(0, 1), (1, 0)].into_iter().find_map(|(product, at)| {
        let columns = columns(input(node, product)?)?;
        let bias = graph.constants.get(input(node, at)?)?;
        let [length] = bias.dims[..] else { return None };
        let dims = vec![1, length];
        (length != columns).then(|| (at, Constant { dims, ..bias.clone() }))
    })
}

fn number(graph: &mut Graph, base: &str, value: f32) -> String {
    graph.add_constant(base, Constant::scalar(value))
}

/// `1 − erf(x)`: tf2onnx writes `Erfc` for Keras's gelu, although ONNX has no such operator.
fn complement(graph: &mut Graph, x: &str) {
    let one = number(graph, "erfc/one", 1.0);
    let erf = graph.emit("erfc/erf", "Erf", &[x], vec![]);
    graph.emit("erfc/value", "Sub", &[&one, &erf], vec![]);
}

/// rten's gives 1 at 0.
fn sign(graph: &mut Graph, x: &str) {
    let zero = number(graph, "sign/zero", 0.0);
    let to = || vec![int_attribute("to", 1)];
    let above = graph.emit("sign/above", "Greater", &[x, &zero], vec![]);
    let above = graph.emit("sign/one", "Cast", &[&above], to());
    let below = graph.emit("sign/below", "Less", &[x, &zero], vec![]);
    let below = graph.emit("sign/minus", "Cast", &[&below], to());
    graph.emit("sign/value", "Sub", &[&above, &below], vec![]);
}

/// `γ · elu(x)`, with the defaults of ONNX from Klambauer et al. 2017.
fn selu(graph: &mut Graph, node: &NodeProto, x: &str) {
    let alpha = float_attribute("alpha", float(node, "alpha", 1.673_263_2));
    let gamma = number(graph, "selu/gamma", float(node, "gamma", 1.050_701));
    let elu = graph.emit("selu/elu", "Elu", &[x], vec![alpha]);
    graph.emit("selu/value", "Mul", &[&elu, &gamma], vec![]);
}

/// `α · elu(x/α)`.
fn celu(graph: &mut Graph, x: &str, alpha: f32) {
    let alpha = number(graph, "celu/alpha", alpha);
    let part = graph.emit("celu/part", "Div", &[x, &alpha], vec![]);
    let elu = graph.emit("celu/elu", "Elu", &[&part], vec![float_attribute("alpha", 1.0)]);
    graph.emit("celu/value", "Mul", &[&elu, &alpha], vec![]);
}

/// `x · tanh(softplus(x))`.
fn mish(graph: &mut Graph, x: &str) {
    let plus = graph.emit("mish/plus", "Softplus", &[x], vec![]);
    let tanh = graph.emit("mish/tanh", "Tanh", &[&plus], vec![]);
    graph.emit("mish/value", "Mul", &[x, &tanh], vec![]);
}

/// `x` where `x > α`, otherwise 0.
fn thresholded(graph: &mut Graph, x: &str, alpha: f32) {
    let (alpha, zero) = (number(graph, "above/alpha", alpha), number(graph, "above/zero", 0.0));
    let above = graph.emit("above/condition", "Greater", &[x, &alpha], vec![]);
    graph.emit("above/value", "Where", &[&above, x, &zero], vec![]);
}

/// Local response normalisation, `x / (bias + α · mean(x²))^β` over neighbouring channels, the mean as a
/// pooling over an axis of channels.
fn response(graph: &mut Graph, node: &NodeProto, x: &str) {
    let size = int(node, "size", 1);
    let (before, after) = ((size - 1) / 2, size / 2);
    let square = graph.emit("lrn/square", "Mul", &[x, x], vec![]);
    let rows = graph.add_constant("lrn/rows", Constant::i64_list(&[0, 0, -1]));
    let rows = graph.emit("lrn/flat", "Reshape", &[&square, &rows], vec![]);
    // [1, channels, places] to [1, 1, channels, places]: the batch is 1.
    let lead = graph.add_constant("lrn/lead", Constant::i64_list(&[1, 1]));
    let sides = graph.emit("lrn/sides", "Shape", &[&rows], vec![]);
    let from = graph.add_constant("lrn/from", Constant::i64_list(&[1]));
    let to = graph.add_constant("lrn/to", Constant::i64_list(&[3]));
    let sides = graph.emit("lrn/kept", "Slice", &[&sides, &from, &to], vec![]);
    let sides = graph.emit("lrn/shape", "Concat", &[&lead, &sides], vec![int_attribute("axis", 0)]);
    let rows = graph.emit("lrn/image", "Reshape", &[&rows, &sides], vec![]);
    let window = vec![
        ints_attribute("kernel_shape", &[size, 1]),
        ints_attribute("strides", &[1, 1]),
        ints_attribute("pads", &[before, 0, after, 0]),
        int_attribute("count_include_pad", 1),
    ];
    let mean = graph.emit("lrn/mean", "AveragePool", &[&rows], window);
    let shape = graph.emit("lrn/sides", "Shape", &[x], vec![]);
    let mean = graph.emit("lrn/map", "Reshape", &[&mean, &shape], vec![]);
    let alpha = number(graph, "lrn/alpha", float(node, "alpha", 1e-4));
    let (bias, beta) = (float(node, "bias", 1.0), float(node, "beta", 0.75));
    let (bias, beta) = (number(graph, "lrn/bias", bias), number(graph, "lrn/beta", beta));
    let scaled = graph.emit("lrn/scaled", "Mul", &[&mean, &alpha], vec![]);
    let sum = graph.emit("lrn/sum", "Add", &[&scaled, &bias], vec![]);
    let power = graph.emit("lrn/power", "Pow", &[&sum, &beta], vec![]);
    graph.emit("lrn/value", "Div", &[x, &power], vec![]);
}

/// Whether a norm is over the last axis alone, and gives nothing but the normed values.
fn is_over_the_last(node: &NodeProto) -> bool {
    int(node, "axis", -1) == -1 && node.output.iter().skip(1).all(String::is_empty)
}

/// `γ · x / √(mean(x²) + ε)` over the last axis.
fn root_mean_square(graph: &mut Graph, node: &NodeProto, x: &str) {
    let square = graph.emit("rms/square", "Mul", &[x, x], vec![]);
    let keeps = int_attribute("keepdims", 1);
    let mean = if graph.opset() < 18 {
        let attributes = vec![ints_attribute("axes", &[-1]), keeps];
        graph.emit("rms/mean", "ReduceMean", &[&square], attributes)
    } else {
        let last = graph.add_constant("rms/last", Constant::i64_list(&[-1]));
        graph.emit("rms/mean", "ReduceMean", &[&square, &last], vec![keeps])
    };
    let epsilon = number(graph, "rms/epsilon", float(node, "epsilon", 1e-5));
    let sum = graph.emit("rms/sum", "Add", &[&mean, &epsilon], vec![]);
    let root = graph.emit("rms/root", "Sqrt", &[&sum], vec![]);
    let normed = graph.emit("rms/normed", "Div", &[x, &root], vec![]);
    graph.emit("rms/value", "Mul", &[&normed, input(node, 1).unwrap_or_default()], vec![]);
}

/// Group normalisation as instance normalisation of `[1, groups, elements]`. Its scale and bias have a number
/// for each group in sets before 21, and for each channel since.
fn groups(graph: &mut Graph, node: &NodeProto, x: &str) {
    let count = int(node, "num_groups", 1);
    let groups = usize::try_from(count).unwrap_or(1);
    let old = graph.opset() < 21;
    let rows = graph.add_constant("group/rows", Constant::i64_list(&[0, count, -1]));
    let rows = graph.emit("group/flat", "Reshape", &[x, &rows], vec![]);
    let one = graph.add_constant("group/one", Constant::f32(&[groups], &vec![1.0; groups]));
    let zero = graph.add_constant("group/zero", Constant::f32(&[groups], &vec![0.0; groups]));
    let epsilon = float_attribute("epsilon", float(node, "epsilon", 1e-5));
    let (scale, bias) = (input(node, 1).unwrap_or_default(), input(node, 2).unwrap_or_default());
    let within = if old { [scale, bias] } else { [&one[..], &zero[..]] };
    let normal = "InstanceNormalization";
    // Messages about the norm name the node of the file.
    let name = node.name.as_deref().filter(|name| !name.is_empty()).unwrap_or(output(node));
    let name = format!("{name}/normal");
    let made = graph.emit(&name, normal, &[&rows, within[0], within[1]], vec![epsilon]);
    let shape = graph.emit("group/sides", "Shape", &[x], vec![]);
    let map = graph.emit("group/map", "Reshape", &[&made, &shape], vec![]);
    if old {
        return;
    }
    let columns = graph.add_constant("group/columns", Constant::i64_list(&[1, -1, 1, 1]));
    let scale = graph.emit("group/scale", "Reshape", &[scale, &columns], vec![]);
    let bias = graph.emit("group/bias", "Reshape", &[bias, &columns], vec![]);
    let scaled = graph.emit("group/scaled", "Mul", &[&map, &scale], vec![]);
    graph.emit("group/value", "Add", &[&scaled, &bias], vec![]);
}
