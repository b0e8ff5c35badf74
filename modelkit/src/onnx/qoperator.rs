//! Writes graphs in ONNX Runtime's form QOperator, whose operators read and write 8-bit integers, in the form
//! QDQ: `DequantizeLinear`, the operator on the values, `QuantizeLinear`.
//!
//! Both forms compute the same sums, rounded at the same places, and scales and zero points stay those of
//! the file; engines and Grad-CAM know only QDQ. The operators are described in `docs/ContribOperators.md` of
//! ONNX Runtime and, for `QLinearConv` and `QLinearMatMul`, in the ONNX standard. Not written are operators
//! on maps whose channels come last, several scales along another axis than the output's, and scales that
//! are computed.

use std::collections::HashMap;

use rten_onnx::onnx::{AttributeProto, NodeProto};
use skincell_onnx::Constant;
use skincell_onnx::build::DataType;

use crate::onnx::graph::{Graph, attribute, input, int, int_attribute, op, output, text};
use crate::onnx::{defaults, integer, older};

/// The first operator set in which `DequantizeLinear` has a scale for each channel.
const SCALES_OF_CHANNELS: i64 = 13;
/// The first operator set whose `Softmax` is over one axis.
const SOFTMAX_OVER_AXIS: i64 = 13;
/// Standard operators that only select elements of their first input or move them, which models in the form
/// QOperator therefore apply to integers.
const MOVING: [&str; 12] = [
    "DepthToSpace",
    "Expand",
    "Flatten",
    "Gather",
    "Identity",
    "Reshape",
    "Slice",
    "SpaceToDepth",
    "Split",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
];

/// Operators that keep every element of their first input, and add zeros at most.
const KEEPING: [&str; 7] =
    ["Flatten", "Identity", "Pad", "Reshape", "Squeeze", "Transpose", "Unsqueeze"];

/// Names of the scale and the zero point of integers; no zero point stands for 0.
#[derive(Clone)]
struct Scale {
    scale: String,
    zero: Option<String>,
}

/// Where an operator on integers has what: indices of its inputs.
struct Layout {
    /// The operator on values.
    operator: String,
    /// Inputs that are no quantized values and come first.
    plain: usize,
    /// Integers, each followed by scale and zero point.
    values: Vec<usize>,
    /// The result's scale, followed by its zero point.
    result: usize,
    /// The bias in 32-bit integers, whose scale is the product of the scales of the first two values.
    bias: Option<usize>,
}

/// Writes the operators of the form QOperator in the form QDQ. Those that cannot be written are left.
pub(crate) fn write_as_qdq(graph: &mut Graph) {
    if graph.nodes.iter().any(|node| has_scales_of_channels(graph, node)) {
        older::upgrade_to_13(graph);
    }
    let mut index = 0;
    while let Some(node) = graph.nodes.get(index).cloned() {
        let end = graph.nodes.len();
        let is_written = layout(graph, &node).and_then(|how| write(graph, &node, &how)).is_some();
        if is_written {
            index += graph.put_in_place(index, end);
        } else {
            graph.nodes.truncate(end);
            index += 1;
        }
    }
    move_values(graph);
    drop_second_rounding(graph);
    defaults::write_out(graph);
}

/// Whether the weights of the node have several scales.
fn has_scales_of_channels(graph: &Graph, node: &NodeProto) -> bool {
    let scale = channel_axis(node).and_then(|_| graph.constants.get(input(node, 4)?));
    scale.is_some_and(|scale| scale.len() > 1)
}

/// Where the node has what, if it is an operator on integers that can be written.
fn layout(graph: &Graph, node: &NodeProto) -> Option<Layout> {
    let name = op(node);
    let operator = name.strip_prefix("QLinear").or_else(|| name.strip_prefix('Q'))?.to_owned();
    let of = |plain, values: &[usize], result, bias| {
        Some(Layout { operator, plain, values: values.to_vec(), result, bias })
    };
    match name {
        _ if int(node, "channels_last", 0) != 0 => None,
        "QLinearConv" => of(0, &[0, 3], 6, Some(8)),
        "QGemm" => of(0, &[0, 3], 7, Some(6)),
        "QLinearMatMul" | "QLinearAdd" | "QLinearMul" => of(0, &[0, 3], 6, None),
        "QLinearWhere" => of(1, &[1, 4], 7, None),
        "QLinearSoftmax" if !is_same_softmax(graph, node) => None,
        "QLinearSigmoid"
        | "QLinearLeakyRelu"
        | "QLinearSoftmax"
        | "QLinearGlobalAveragePool"
        | "QLinearAveragePool" => of(0, &[0], 3, None),
        "QLinearConcat" => of(0, &(2..node.input.len()).step_by(3).collect::<Vec<_>>(), 0, None),
        _ => None,
    }
}

/// Whether the operator's softmax is that of the graph's operator set; over the last axis they are the same.
fn is_same_softmax(graph: &Graph, node: &NodeProto) -> bool {
    let over_axis = |set: i64| set >= SOFTMAX_OVER_AXIS;
    int(node, "axis", -1) == -1 || over_axis(int(node, "opset", 0)) == over_axis(graph.opset())
}

/// Appends the operator in the form QDQ; `None` if it cannot be written.
fn write(graph: &mut Graph, node: &NodeProto, how: &Layout) -> Option<()> {
    let base = output(node).to_owned();
    let mut inputs: Vec<String> = node.input.get(..how.plain)?.to_vec();
    for (which, at) in how.values.iter().enumerate() {
        let axis = if which == 0 { None } else { channel_axis(node) };
        inputs.push(values_of(graph, node, *at, axis)?);
    }
    if let Some(at) = how.bias.filter(|at| input(node, *at).is_some()) {
        inputs.push(bias_of(graph, node, how, at)?);
    }
    let read: Vec<&str> = inputs.iter().map(String::as_str).collect();
    graph.emit(&format!("{base}/unrounded"), &how.operator, &read, attributes(node));
    let values = graph.nodes.last_mut()?;
    // The node of a layer keeps its name, for whoever names it as the heatmap's.
    values.name = node.name.clone().filter(|name| !name.is_empty()).or(values.name.take());
    match scale_at(node, how.result) {
        Some(scale) => quantize(graph, &format!("{base}/unrounded"), &scale, &base),
        // `QGemm` without a scale of its result returns values.
        None => graph.nodes.last_mut()?.output = vec![base],
    }
    Some(())
}

/// The attributes of the operator on values.
fn attributes(node: &NodeProto) -> Vec<AttributeProto> {
    let own = |a: &&AttributeProto| matches!(a.name.as_deref(), Some("channels_last" | "opset"));
    let mut held: Vec<_> = node.attribute.iter().filter(|a| !own(a)).cloned().collect();
    if op(node) == "QLinearSoftmax" && attribute(node, "axis").is_none() {
        held.push(int_attribute("axis", -1));
    }
    held
}

/// The axis of the weights that is the output's channels.
fn channel_axis(node: &NodeProto) -> Option<i64> {
    match op(node) {
        "QLinearConv" => Some(0),
        "QGemm" => Some(i64::from(int(node, "transB", 0) == 0)),
        "QLinearMatMul" => Some(-1),
        _ => None,
    }
}

fn scale_at(node: &NodeProto, at: usize) -> Option<Scale> {
    let scale = input(node, at)?.to_owned();
    Some(Scale { scale, zero: input(node, at + 1).map(str::to_owned) })
}

/// The values of the integers of input `at`, whose several scales, if any, lie along `axis`.
fn values_of(graph: &mut Graph, node: &NodeProto, at: usize, axis: Option<i64>) -> Option<String> {
    let integers = input(node, at)?;
    let mut own = scale_at(node, at + 1)?;
    let count = graph.constants.get(&own.scale)?.len();
    if count == 1 {
        own.scale = as_scalar(graph, &own.scale)?;
        own.zero = match own.zero {
            Some(zero) => Some(as_scalar(graph, &zero)?),
            None => None,
        };
        return Some(dequantize(graph, integers, &own, vec![]));
    }
    let held = graph.constants.get(integers)?;
    let rank = i64::try_from(held.dims.len()).ok()?;
    let axis = usize::try_from(axis?.rem_euclid(rank.max(1))).ok()?;
    if held.dims.get(axis) != Some(&count) {
        return None;
    }
    if graph.opset() < SCALES_OF_CHANNELS {
        let values = dequantized(graph, held, &own, axis)?;
        return Some(graph.add_constant(&format!("{integers}/values"), values));
    }
    own.zero = match own.zero {
        Some(zero) => Some(for_each_scale(graph, &zero, count)?),
        None => None,
    };
    let axis = int_attribute("axis", i64::try_from(axis).ok()?);
    Some(dequantize(graph, integers, &own, vec![axis]))
}

/// The values of constant integers, computed here: `(integer − zero) · scale`, with scales along `axis`.
fn dequantized(graph: &Graph, held: &Constant, own: &Scale, axis: usize) -> Option<Constant> {
    let zero = match &own.zero {
        Some(zero) => Some(graph.constants.get(zero)?),
        None => None,
    };
    let centred = integer::centred_constant(held, zero, Some(axis))?;
    let scales = graph.constants.get(&own.scale)?.to_f32()?;
    let after: usize = held.dims.get(axis + 1..)?.iter().product();
    let each = centred.to_f32()?.into_iter().enumerate();
    let scaled = each.map(|(at, value)| value * scales[at / after.max(1) % scales.len()]);
    Some(Constant::f32(&held.dims, &scaled.collect::<Vec<_>>()))
}

fn dequantize(
    graph: &mut Graph,
    integers: &str,
    own: &Scale,
    attributes: Vec<AttributeProto>,
) -> String {
    let mut inputs = vec![integers, &own.scale];
    inputs.extend(own.zero.as_deref());
    graph.emit(&format!("{integers}/values"), "DequantizeLinear", &inputs, attributes)
}

/// Appends the rounding of `values` to integers named `to`.
fn quantize(graph: &mut Graph, values: &str, own: &Scale, to: &str) {
    let mut inputs = vec![values, &own.scale];
    inputs.extend(own.zero.as_deref());
    graph.emit(&format!("{to}/integers"), "QuantizeLinear", &inputs, vec![]);
    if let Some(last) = graph.nodes.last_mut() {
        last.output = vec![to.to_owned()];
    }
}

/// A constant of one element without dimensions.
fn as_scalar(graph: &mut Graph, name: &str) -> Option<String> {
    let held = graph.constants.get(name).filter(|held| held.len() == 1)?;
    let scalar = Constant { dims: vec![], ..held.clone() };
    Some(graph.add_constant(name, scalar))
}

/// Zero points as many as there are scales.
fn for_each_scale(graph: &mut Graph, name: &str, count: usize) -> Option<String> {
    let held = graph.constants.get(name)?;
    if held.len() == count {
        return Some(name.to_owned());
    }
    let one = held.bytes.get(..held.bytes.len() / held.len().max(1))?;
    let all = Constant { dims: vec![count], bytes: one.repeat(count), dtype: held.dtype };
    (held.len() == 1).then(|| graph.add_constant(name, all))
}

/// The bias in values: integers, times alpha, times the scales of input and weights.
fn bias_of(graph: &mut Graph, node: &NodeProto, how: &Layout, at: usize) -> Option<String> {
    let name = input(node, at)?;
    let held = graph.constants.get(name)?;
    let scales = |which: usize| {
        let at = how.values.get(which)? + 1;
        graph.constants.get(input(node, at)?)?.to_f32()
    };
    let [of_input] = scales(0)?[..] else { return None };
    let alpha = attribute(node, "alpha").and_then(|a| a.f).unwrap_or(1.0);
    let of_weights = scales(1)?;
    let integers = held.to_i64()?;
    if of_weights.len() != 1 && integers.len() % of_weights.len().max(1) != 0 {
        return None;
    }
    let of_each = integers.iter().zip(of_weights.iter().cycle());
    let factor = f64::from(alpha) * f64::from(of_input);
    // A 32-bit integer is exact in float64.
    let values = of_each.map(|(whole, scale)| (*whole as f64 * factor * f64::from(*scale)) as f32);
    let values = Constant::f32(&held.dims, &values.collect::<Vec<_>>());
    Some(graph.add_constant(&format!("{name}/values"), values))
}

/// Moves values instead of integers: an operator of [`MOVING`] on the integers of a `QuantizeLinear` becomes
/// one on their values, which are rounded to the same integers behind it.
fn move_values(graph: &mut Graph) {
    let mut scales: HashMap<String, Scale> = HashMap::new();
    let mut index = 0;
    while let Some(node) = graph.nodes.get(index).cloned() {
        let end = graph.nodes.len();
        if let Some(own) = rounding(graph, &node) {
            scales.insert(output(&node).to_owned(), own);
        }
        let own = input(&node, 0).and_then(|integers| scales.get(integers)).cloned();
        let moved = own.filter(|_| is_moving(&node));
        index += match moved {
            Some(own) => {
                on_values(graph, &node, &own);
                scales.extend(node.output.iter().map(|name| (name.clone(), own.clone())));
                graph.put_in_place(index, end)
            }
            None => 1,
        };
    }
}

/// The scale of a `QuantizeLinear` that has only one.
fn rounding(graph: &Graph, node: &NodeProto) -> Option<Scale> {
    let own = scale_at(node, 1).filter(|_| op(node) == "QuantizeLinear")?;
    // Without a zero point, an attribute may name the type of the integers.
    let is_typed = own.zero.is_some() || int(node, "output_dtype", 0) == 0;
    let is_single = graph.constants.get(&own.scale).is_some_and(|scale| scale.len() == 1);
    (is_typed && is_single).then_some(own)
}

/// Whether the operator moves elements and nothing else. The second output of `MaxPool` are places, a `Pad`
/// without a value puts the integer 0, and a `Resize` that is not to the nearest mixes integers, which ONNX
/// Runtime cuts off instead of rounding.
fn is_moving(node: &NodeProto) -> bool {
    match op(node) {
        "MaxPool" => node.output.len() == 1,
        "Pad" => input(node, 2).is_some(),
        "Resize" => text(node, "mode").is_none_or(|mode| mode == "nearest"),
        other => MOVING.contains(&other),
    }
}

/// Appends the operator on the values of its integers, and the rounding of its results.
fn on_values(graph: &mut Graph, node: &NodeProto, own: &Scale) {
    let mut moved = node.clone();
    if let Some(name) = moved.input.first_mut() {
        *name = dequantize(graph, name, own, vec![]);
    }
    if let (Some(name), "Pad") = (moved.input.get_mut(2), op(node)) {
        *name = match value_of(graph, name, own) {
            Some(value) => graph.add_constant("pad/value", Constant::scalar(value)),
            None => dequantize(graph, name, own, vec![]),
        };
    }
    for name in &mut moved.output {
        *name = graph.fresh(&format!("{name}/values"));
    }
    let values = moved.output.clone();
    graph.nodes.push(moved);
    for (values, integers) in values.iter().zip(&node.output) {
        quantize(graph, values, own, integers);
    }
}

/// The value of a constant integer.
fn value_of(graph: &Graph, integer: &str, own: &Scale) -> Option<f32> {
    let held = |name: &str| graph.constants.get(name);
    let zero = match &own.zero {
        Some(zero) => Some(held(zero)?),
        None => None,
    };
    let centred = integer::centred_constant(held(integer)?, zero, None)?;
    Some(centred.to_scalar()? * held(&own.scale)?.to_scalar()?)
}

/// Lets nodes read values themselves where a file rounds them to the integers that they stand for already:
/// `DequantizeLinear`, an operator of [`KEEPING`], `QuantizeLinear` and `DequantizeLinear` of the same scale
/// and zero point. So a padding stands before its convolution.
fn drop_second_rounding(graph: &mut Graph) {
    let mut on_grid: HashMap<String, Grid> = HashMap::new();
    let mut rounded: HashMap<String, (String, Grid)> = HashMap::new();
    let mut read_instead = Vec::new();
    for node in &graph.nodes {
        let Some(x) = input(node, 0) else { continue };
        let made = output(node).to_owned();
        match op(node) {
            "QuantizeLinear" => {
                if let Some(grid) = rounding(graph, node).and_then(|own| grid(graph, &own)) {
                    rounded.insert(made, (x.to_owned(), grid));
                }
            }
            "DequantizeLinear" => {
                let Some(own) = scale_at(node, 1).and_then(|own| grid(graph, &own)) else {
                    continue;
                };
                if let Some((value, grid)) = rounded.get(x)
                    && *grid == own
                    && on_grid.get(value) == Some(grid)
                    && !graph.is_output(&made)
                {
                    read_instead.push((made.clone(), value.clone()));
                }
                on_grid.insert(made, own);
            }
            operator if KEEPING.contains(&operator) && adds_zeros_at_most(graph, node) => {
                if let Some(grid) = on_grid.get(x).cloned() {
                    on_grid.insert(made, grid);
                }
            }
            _ => {}
        }
    }
    for (value, instead) in read_instead {
        graph.replace_reads(&value, &instead);
    }
}

/// The values that integers can stand for: the scale, and the zero point with its type.
type Grid = (f32, Option<(DataType, Vec<u8>)>);

fn grid(graph: &Graph, own: &Scale) -> Option<Grid> {
    let scale = graph.constants.get(&own.scale)?.to_scalar()?;
    let zero = match &own.zero {
        Some(zero) => {
            let held = graph.constants.get(zero).filter(|held| held.len() == 1)?;
            Some((held.dtype, held.bytes.clone()))
        }
        None => None,
    };
    Some((scale, zero))
}

fn adds_zeros_at_most(graph: &Graph, node: &NodeProto) -> bool {
    let value = input(node, 2).filter(|_| op(node) == "Pad");
    value.is_none_or(|name| graph.constants.get(name).and_then(Constant::to_scalar) == Some(0.0))
}
