//! Replaces integer products that rten computes wrongly by products in float32.
//!
//! Around a padded image rten's `ConvInteger` puts bytes of 128, not the zero point, so that the sums at the
//! border are wrong by any amount unless that is 128. And on x86 without VNNI rten adds two products of an
//! unsigned and a signed byte in 16 bits. If the weights of a `ConvInteger` or `MatMulInteger` are wider than
//! 7 bits, the sum overflows and the probabilities are wrong by any amount. Such products are computed in
//! float32 as `(x − zero_x) · (w − zero_w)`: exact up to 2²⁴, with weights of four bytes. Others are left as
//! they are, for example those that `model quantize` writes.

use rten_onnx::onnx::NodeProto;
use skincell_onnx::Constant;
use skincell_onnx::build::DataType;

use crate::onnx::graph::{Graph, input, int, int_attribute, ints, op, output, text};

/// The zero point that rten pads with.
const PADDING: u8 = 128;

/// Whether rten's `ConvInteger` of this convolution is right at the border, for the input's zero point.
pub(crate) fn borders_are_right(node: &NodeProto, zero: Option<u8>) -> bool {
    let is_padded = match text(node, "auto_pad") {
        None | Some("NOTSET" | "") => {
            ints(node, "pads").is_some_and(|pads| pads.iter().any(|pad| *pad != 0))
        }
        Some(automatic) => automatic != "VALID",
    };
    !is_padded || zero == Some(PADDING)
}

/// Replaces the products that rten may compute wrongly; returns how many.
pub(crate) fn widen(graph: &mut Graph) -> usize {
    let mut widened = 0;
    let mut index = 0;
    while let Some(node) = graph.nodes.get(index) {
        let product = match op(node) {
            "ConvInteger" => "Conv",
            "MatMulInteger" => "MatMul",
            _ => {
                index += 1;
                continue;
            }
        };
        scalar_zeros(graph, index);
        let node = graph.nodes[index].clone();
        if fits(graph, &node) {
            index += 1;
            continue;
        }
        let end = graph.nodes.len();
        replace(graph, &node, product);
        widened += 1;
        index += graph.put_in_place(index, end);
    }
    widened
}

/// Makes zero points of one element scalars, because rten refuses lists of a wrong length.
fn scalar_zeros(graph: &mut Graph, index: usize) {
    for at in [2, 3] {
        let Some(name) = input(&graph.nodes[index], at) else { continue };
        let held =
            graph.constants.get(name).filter(|held| held.len() == 1 && !held.dims.is_empty());
        let Some(scalar) = held.map(|held| Constant { dims: vec![], ..held.clone() }) else {
            continue;
        };
        let name = graph.add_constant(&format!("{name}/scalar"), scalar);
        graph.nodes[index].input[at] = name;
    }
}

/// Whether rten computes this product rightly: the border, and the sum of two products of these weights and
/// any bytes, which must fit into 16 bits. rten converts the weights of a convolution to unsigned bytes and
/// its input to signed ones, and the other way round for a matrix product.
fn fits(graph: &Graph, node: &NodeProto) -> bool {
    let Some(weights) = input(node, 1).and_then(|name| graph.constants.get(name)) else {
        return false;
    };
    let bytes = || weights.bytes.iter().copied();
    let zero = input(node, 2)
        .map(|name| graph.constants.get(name).and_then(|zero| zero.bytes.first().copied()));
    // Without a zero point it is 0.
    let zero = zero.unwrap_or(Some(0));
    if op(node) == "ConvInteger" && !borders_are_right(node, zero) {
        return false;
    }
    match (op(node), weights.dtype) {
        ("ConvInteger", DataType::UINT8) => bytes().all(|byte| byte <= 127),
        ("MatMulInteger", DataType::UINT8) => bytes().all(|byte| (64..=192).contains(&byte)),
        ("MatMulInteger", DataType::INT8) => bytes().all(|byte| byte.cast_signed().abs() <= 64),
        _ => false,
    }
}

/// Appends the product in float32. Its result has the name of the node's output, unless all readers of that
/// convert it to float32 and can read the product itself.
fn replace(graph: &mut Graph, node: &NodeProto, product: &str) {
    let axis = if product == "Conv" { 0 } else { 1 };
    let base = output(node).to_owned();
    let left = centred(graph, &base, (input(node, 0), input(node, 2)), None);
    let right = centred(graph, &base, (input(node, 1), input(node, 3)), Some(axis));
    let attributes = node.attribute.clone();
    let float = graph.emit(&format!("{base}/float"), product, &[&left, &right], attributes);
    if let (Some(last), Some(name)) = (graph.nodes.last_mut(), node.name.as_ref()) {
        last.name = Some(name.clone()).filter(|name| !name.is_empty()).or(last.name.take());
    }
    let to_float =
        |node: &NodeProto| op(node) == "Cast" && int(node, "to", 0) == i64::from(DataType::FLOAT.0);
    let readers = graph.consumers_of(&base);
    if !graph.is_output(&base) && readers.iter().all(|at| to_float(&graph.nodes[*at])) {
        graph.replace_reads(&base, &float);
        return;
    }
    let whole = graph.emit(&format!("{base}/whole"), "Round", &[&float], vec![]);
    let to = vec![int_attribute("to", i64::from(DataType::INT32.0))];
    graph.emit(&format!("{base}/int32"), "Cast", &[&whole], to);
    if let Some(last) = graph.nodes.last_mut() {
        last.output = vec![base];
    }
}

/// A value minus its zero point, in float32. A list of zero points has one for each channel along `axis`.
fn centred(
    graph: &mut Graph,
    base: &str,
    (value, zero): (Option<&str>, Option<&str>),
    axis: Option<usize>,
) -> String {
    let value = value.unwrap_or_default();
    if let Some(constant) = folded(graph, value, zero, axis) {
        return graph.add_constant(&format!("{value}/float"), constant);
    }
    let to = || vec![int_attribute("to", i64::from(DataType::FLOAT.0))];
    let float = graph.emit(&format!("{base}/bytes"), "Cast", &[value], to());
    let Some(zero) = zero else { return float };
    let zero = graph.emit(&format!("{base}/zero"), "Cast", &[zero], to());
    graph.emit(&format!("{base}/centred"), "Sub", &[&float, &zero], vec![])
}

/// The same, computed here, if value and zero point are constants.
fn folded(graph: &Graph, value: &str, zero: Option<&str>, axis: Option<usize>) -> Option<Constant> {
    let held = graph.constants.get(value)?;
    let zero = match zero {
        Some(zero) => Some(graph.constants.get(zero)?),
        None => None,
    };
    centred_constant(held, zero, axis)
}

/// Constant bytes minus their zero points, 0 without one; several lie along `axis`. `None` for other types.
pub(crate) fn centred_constant(
    held: &Constant,
    zero: Option<&Constant>,
    axis: Option<usize>,
) -> Option<Constant> {
    let numbers = integers(held)?;
    let zeros = match zero {
        Some(zero) => integers(zero)?,
        None => vec![0.0],
    };
    let after: usize = match axis {
        Some(axis) => held.dims.get(axis + 1..)?.iter().product(),
        None => numbers.len(),
    };
    let channel = |at: usize| at / after.max(1) % zeros.len().max(1);
    let less = |(at, number): (usize, &f32)| Some(number - zeros.get(channel(at))?);
    let values = numbers.iter().enumerate().map(less).collect::<Option<Vec<f32>>>()?;
    Some(Constant::f32(&held.dims, &values))
}

/// The scale of a `QuantizeLinear` or `DequantizeLinear` that has only one.
pub(crate) fn scale_of(graph: &Graph, node: &NodeProto) -> Option<f32> {
    graph.constants.get(input(node, 1)?)?.to_scalar()
}

/// The least and the greatest value that a `QuantizeLinear` to 8 bits, with a single scale, can represent.
pub(crate) fn range_of(graph: &Graph, node: &NodeProto) -> Option<(f32, f32)> {
    let scale = scale_of(graph, node)?;
    let (zero, low, high) = match input(node, 2).map(|name| graph.constants.get(name)) {
        // Without a zero point the integers are unsigned, unless an attribute says otherwise.
        None if int(node, "output_dtype", 0) == 0 => (0.0, 0.0, 255.0),
        Some(Some(held)) => {
            let zero = *integers(held)?.first()?;
            let is_signed = held.dtype == DataType::INT8;
            if is_signed { (zero, -128.0, 127.0) } else { (zero, 0.0, 255.0) }
        }
        _ => return None,
    };
    Some(((low - zero) * scale, (high - zero) * scale))
}

/// The elements of a constant of signed or unsigned bytes.
fn integers(constant: &Constant) -> Option<Vec<f32>> {
    let bytes = constant.bytes.iter();
    match constant.dtype {
        DataType::UINT8 => Some(bytes.map(|b| f32::from(*b)).collect()),
        DataType::INT8 => Some(bytes.map(|b| f32::from(b.cast_signed())).collect()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::engine::GraphEngine;
    use crate::onnx::graph::{ints_attribute, value_info};
    use rten_onnx::onnx::OperatorSetIdProto;
    use rten_tensor::Tensor;
    use rten_tensor::prelude::*;

    fn graph() -> Graph {
        let standard = OperatorSetIdProto { domain: None, version: Some(17) };
        Graph {
            inputs: vec![value_info("image", &[1, 3, 2, 2])],
            outputs: vec![value_info("y", &[1, 1, 2, 2])],
            ir_version: 8,
            opsets: vec![standard],
            ..Graph::default()
        }
    }

    fn bytes(dtype: DataType, dims: &[usize], bytes: &[u8]) -> Constant {
        Constant { dtype, dims: dims.to_vec(), bytes: bytes.to_vec() }
    }

    fn cast(graph: &mut Graph, from: &str, to: DataType) -> String {
        graph.emit("cast", "Cast", &[from], vec![int_attribute("to", i64::from(to.0))])
    }

    /// Convolves a photo whose pixels are all `pixel`; returns the number of products widened and the first
    /// pixel of the result.
    fn convolved(pixel: f32, weights: Constant, zeros: (u8, Constant)) -> (usize, f32) {
        padded(0, pixel, weights, zeros)
    }

    /// The same with so many pixels of padding at each side.
    fn padded(pad: i64, pixel: f32, weights: Constant, zeros: (u8, Constant)) -> (usize, f32) {
        let mut graph = graph();
        let photo = cast(&mut graph, "image", DataType::UINT8);
        let weights = graph.add_constant("w", weights);
        let zero = graph.add_constant("zx", bytes(DataType::UINT8, &[], &[zeros.0]));
        let around = graph.add_constant("zw", zeros.1);
        let reads = [photo.as_str(), &weights, &zero, &around];
        let ones = ["kernel_shape", "strides", "dilations"];
        let mut strides = ones.map(|name| ints_attribute(name, &[1, 1])).to_vec();
        strides.push(ints_attribute("pads", &[pad; 4]));
        let sums = graph.emit("sums", "ConvInteger", &reads, strides);
        cast(&mut graph, &sums, DataType::FLOAT);
        graph.nodes.last_mut().expect("the cast").output = vec!["y".to_owned()];
        let widened = widen(&mut graph);
        let engine = GraphEngine::load(&graph).expect("rten takes it");
        let photo = Tensor::from_data(&[1, 3, 2, 2], vec![pixel; 12]);
        let found = engine.run(photo.view().into(), &["y"]).expect("it runs");
        (widened, found[0].iter().copied().next().expect("an element"))
    }

    #[test]
    fn products_of_eight_bits_do_not_overflow() {
        let zero = || bytes(DataType::UINT8, &[], &[0]);
        let wide = bytes(DataType::UINT8, &[1, 3, 1, 1], &[255; 3]);
        assert_eq!(convolved(255.0, wide, (0, zero())), (1, 3.0 * 255.0 * 255.0));
        let around = bytes(DataType::UINT8, &[1], &[200]);
        let wide = bytes(DataType::UINT8, &[1, 3, 1, 1], &[100, 255, 0]);
        assert_eq!(convolved(250.0, wide, (10, around)), (1, 240.0 * (-100.0 + 55.0 - 200.0)));
        let signed = bytes(DataType::INT8, &[1, 3, 1, 1], &[127, 128, 3]);
        let none = bytes(DataType::INT8, &[], &[0]);
        assert_eq!(convolved(255.0, signed, (0, none)), (1, 255.0 * 2.0));
        let narrow = bytes(DataType::UINT8, &[1, 3, 1, 1], &[127, 0, 1]);
        assert_eq!(convolved(255.0, narrow, (0, zero())), (0, 255.0 * 128.0), "left as it is");
    }

    #[test]
    fn a_border_is_padded_with_the_zero_point() {
        let weights = || bytes(DataType::UINT8, &[1, 3, 1, 1], &[127, 0, 1]);
        let around = || bytes(DataType::UINT8, &[], &[0]);
        assert_eq!(padded(1, 200.0, weights(), (100, around())), (1, 0.0));
        assert_eq!(padded(1, 200.0, weights(), (128, around())), (0, 0.0), "left as it is");
    }

    #[test]
    fn zero_points_in_a_list_of_one_are_taken() {
        let mut graph = graph();
        let photo = cast(&mut graph, "image", DataType::UINT8);
        let weights = graph.add_constant("w", bytes(DataType::INT8, &[2, 2], &[1, 2, 3, 4]));
        let zero = graph.add_constant("zx", bytes(DataType::UINT8, &[1], &[2]));
        let around = graph.add_constant("zw", bytes(DataType::INT8, &[1], &[1]));
        graph.emit("sums", "MatMulInteger", &[&photo, &weights, &zero, &around], vec![]);
        cast(&mut graph, "sums", DataType::FLOAT);
        graph.nodes.last_mut().expect("the cast").output = vec!["y".to_owned()];
        assert_eq!(widen(&mut graph), 0);
        let engine = GraphEngine::load(&graph).expect("rten takes it");
        let photo = Tensor::from_data(&[1, 3, 2, 2], vec![3.0_f32; 12]);
        let found = engine.run(photo.view().into(), &["y"]).expect("it runs");
        // (3 − 2) · (0 + 2) and (3 − 2) · (1 + 3).
        assert_eq!(found[0].iter().copied().take(2).collect::<Vec<_>>(), [2.0, 4.0]);
    }

    #[test]
    fn sums_that_are_read_as_integers_stay_integers() {
        let mut graph = graph();
        let photo = cast(&mut graph, "image", DataType::UINT8);
        let weights =
            graph.add_constant("w", bytes(DataType::INT8, &[2, 2], &[127, 129, 100, 255]));
        let sums = graph.emit("sums", "MatMulInteger", &[&photo, &weights], vec![]);
        let twice = graph.emit("twice", "Add", &[&sums, &sums], vec![]);
        cast(&mut graph, &twice, DataType::FLOAT);
        graph.nodes.last_mut().expect("the cast").output = vec!["y".to_owned()];
        assert_eq!(widen(&mut graph), 1);
        let engine = GraphEngine::load(&graph).expect("rten takes it");
        let photo = Tensor::from_data(&[1, 3, 2, 2], vec![200.0; 12]);
        let found = engine.run(photo.view().into(), &["y"]).expect("it runs");
        let first: Vec<f32> = found[0].iter().copied().take(2).collect();
        assert_eq!(first, [2.0 * 200.0 * 227.0, 2.0 * 200.0 * -128.0]);
    }
}
