//! Convolutions on 8-bit integers: `QuantizeLinear → ConvInteger → Cast → Mul → Add`.
//!
//! Weights are unsigned bytes around 128, one scale for each output channel, 7 bits wide (64 to
//! 192): on x86 without VNNI two products of 8 bits each overflow the 16-bit sum. Written this way,
//! and not with a `DequantizeLinear` on the weights, rten runs on the mapped bytes as they are.
//! Depthwise convolutions, dense layers and the Grad-CAM operators stay in float32: few bytes, and
//! most of the error.

use std::collections::BTreeMap;

use rten_onnx::onnx::{DataType, NodeProto};

use super::calibrate::Range;
use crate::graph::{Graph, attribute, input, int, int_attribute, op, output};
use crate::tensor::Tensor;

/// Most steps of a weight to either side of 0.
const STEPS: f32 = 63.0;
/// The byte that stands for 0.
const ZERO: u8 = 128;
/// Convolutions with fewer weights stay in float32.
const SMALLEST: usize = 1024;

/// A convolution to be quantized.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Convolution {
    /// Its output, which names it.
    pub(super) output: String,
    /// What it reads.
    pub(super) input: String,
}

/// The convolutions worth it: not grouped, with many constant float32 weights. (A network's first
/// has few, and stays.)
pub(super) fn convolutions(graph: &Graph) -> Vec<Convolution> {
    let worth = |node: &&NodeProto| {
        let weights = input(node, 1).and_then(|w| graph.constants.get(w));
        let fits = |w: &Tensor| w.dtype == DataType::FLOAT && w.len() >= SMALLEST;
        op(node) == "Conv" && int(node, "group", 1) == 1 && weights.is_some_and(fits)
    };
    let found = graph.nodes.iter().filter(worth);
    found
        .map(|node| Convolution {
            output: output(node).to_owned(),
            input: input(node, 0).unwrap_or_default().to_owned(),
        })
        .collect()
}

/// Rewrites the convolutions; returns how many.
pub(super) fn convert(
    graph: &mut Graph,
    convolutions: &[Convolution],
    ranges: &BTreeMap<String, Range>,
) -> usize {
    let mut changed = 0;
    let mut bytes_of: BTreeMap<String, String> = BTreeMap::new();
    for convolution in convolutions {
        let Some(range) = ranges.get(&convolution.input) else { continue };
        let Some(at) = graph.nodes.iter().position(|n| output(n) == convolution.output) else {
            continue;
        };
        let end = graph.nodes.len();
        let zero = i8_scalar(graph, range.zero);
        let bytes = match bytes_of.get(&convolution.input) {
            Some(bytes) => bytes.clone(),
            None => {
                let scale = graph.add_constant("int8/scale", Tensor::scalar(range.scale));
                let base = format!("{}/int8", convolution.input);
                let reads = [convolution.input.as_str(), &scale, &zero];
                graph.emit(&base, "QuantizeLinear", &reads, vec![])
            }
        };
        bytes_of.insert(convolution.input.clone(), bytes.clone());
        if replace(graph, at, end, &bytes, &zero, range.scale).is_some() {
            changed += 1;
        }
    }
    changed
}

/// Puts the integer operators in the place of the convolution at `at`; those from `end` on are new.
fn replace(
    graph: &mut Graph,
    at: usize,
    end: usize,
    bytes: &str,
    zero: &str,
    input_scale: f32,
) -> Option<()> {
    let conv = graph.nodes.get(at)?.clone();
    let name = input(&conv, 1)?.to_owned();
    let (weights, scales) = quantized(graph.constants.get(&name)?)?;
    let channels = scales.len();
    let weights = graph.add_constant(&format!("{name}/uint8"), weights);
    let scales: Vec<f32> = scales.iter().map(|s| s * input_scale).collect();
    let scales = Tensor::f32(&[1, channels, 1, 1], &scales);
    let scales = graph.add_constant(&format!("{name}/scales"), scales);
    let around = Tensor { dtype: DataType::UINT8, dims: vec![], bytes: vec![ZERO] };
    let around = graph.add_constant("int8/weights_zero", around);
    let kept = ["auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"];
    let attributes = kept.iter().filter_map(|a| attribute(&conv, a).cloned()).collect();
    let base = output(&conv).to_owned();
    let sums = format!("{base}/sums");
    let sums = graph.emit(&sums, "ConvInteger", &[bytes, &weights, zero, &around], attributes);
    let to = vec![int_attribute("to", i64::from(DataType::FLOAT.0))];
    let sums = graph.emit(&format!("{base}/float"), "Cast", &[&sums], to);
    let mut last = graph.emit(&format!("{base}/scaled"), "Mul", &[&sums, &scales], vec![]);
    if let Some(bias) = input(&conv, 2) {
        let bias = graph.constants.get(bias)?.to_f32()?;
        let bias = Tensor::f32(&[1, channels, 1, 1], &bias);
        let bias = graph.add_constant(&format!("{base}/bias"), bias);
        last = graph.emit(&format!("{base}/biased"), "Add", &[&last, &bias], vec![]);
    }
    debug_assert_eq!(graph.nodes.last().map(output), Some(last.as_str()));
    graph.nodes.last_mut()?.output = vec![base];
    let new = graph.nodes.split_off(end);
    graph.nodes.splice(at..=at, new);
    Some(())
}

fn i8_scalar(graph: &mut Graph, value: i8) -> String {
    let tensor =
        Tensor { dtype: DataType::INT8, dims: vec![], bytes: value.to_le_bytes().to_vec() };
    graph.add_constant("int8/zero", tensor)
}

/// Bytes around [`ZERO`] and a scale for each output channel: `weight ≈ scale · (byte − 128)`.
fn quantized(weights: &Tensor) -> Option<(Tensor, Vec<f32>)> {
    let values = weights.to_f32()?;
    let channels = *weights.dims.first()?;
    let per_channel = values.len().checked_div(channels)?;
    let (mut bytes, mut scales) = (Vec::with_capacity(values.len()), Vec::new());
    for channel in values.chunks(per_channel) {
        let largest = channel.iter().fold(0_f32, |m, w| m.max(w.abs()));
        let scale = if largest > 0.0 { largest / STEPS } else { 1.0 };
        let byte = |w: &f32| ((w / scale).round().clamp(-STEPS, STEPS) + f32::from(ZERO)) as u8;
        bytes.extend(channel.iter().map(byte));
        scales.push(scale);
    }
    Some((Tensor { dtype: DataType::UINT8, dims: weights.dims.clone(), bytes }, scales))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_keep_half_a_step() {
        let values: Vec<f32> =
            (0..24).map(|n| (n as f32 - 11.0) * (1.0 + (n / 12) as f32)).collect();
        let weights = Tensor::f32(&[2, 3, 2, 2], &values);
        let (bytes, scales) = quantized(&weights).expect("float32");
        assert_eq!((bytes.dims, bytes.dtype), (weights.dims, DataType::UINT8));
        for (n, (byte, value)) in bytes.bytes.iter().zip(&values).enumerate() {
            let steps = value / scales[n / 12] - (f32::from(*byte) - 128.0);
            // 4 of 12 of the largest is 10.5 of its 63 steps; the quotient's own rounding comes on top.
            assert!(steps.abs() <= 0.5 + STEPS * f32::EPSILON, "{n}: {value} is {steps} steps off");
            assert!((65..=191).contains(byte), "{byte} needs more than 7 bits");
        }
    }
}
