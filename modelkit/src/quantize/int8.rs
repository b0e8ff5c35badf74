//! Rewrites convolutions to 8-bit integers: `QuantizeLinear → ConvInteger → Cast → Mul → Add`, or, where
//! rten's `ConvInteger` is wrong at a padded border, `QuantizeLinear → DequantizeLinear → Conv` (cellnet sums
//! the same integers for both).
//!
//! - Weights are unsigned bytes of 7 bits (1 to 127) with zero point 64 and one scale per output channel. On
//!   x86 without VNNI rten adds two products of such a byte and a signed one (down to -128) in 16 bits, which
//!   larger bytes would overflow; cellnet is faster there for the same reason.
//! - Inputs are unsigned bytes because ONNX Runtime's `ConvInteger` returns wrong sums for signed ones.
//! - rten computes with the mapped bytes, which a `DequantizeLinear` on the weights prevents; so only padded
//!   ones have it.
//! - Weights are rounded so that the layer's output is close on the photos (`round`).
//! - The mean error that rounding adds to a channel, computed from the means of its inputs on the photos, is
//!   subtracted from the bias.
//!
//! Grouped convolutions, dense layers and the Grad-CAM operators stay in float32: they have few bytes and
//! would cause most of the error.

use std::collections::BTreeMap;

use rten_onnx::onnx::{DataType, NodeProto};

use super::calibrate::Statistics;
use super::round::Together;
use crate::onnx::graph::{Graph, attribute, input, int, int_attribute, ints, op, output};
use crate::onnx::integer::borders_are_right;
use skincell_onnx::Constant;

/// Largest number of steps of a weight above or below 0.
const STEPS: f32 = 63.0;
/// The zero point of the weights.
const ZERO: u8 = 64;
/// Convolutions with fewer weights stay in float32.
const SMALLEST: usize = 1024;

/// A convolution to be quantized.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Convolution {
    /// Name of its output, which identifies it.
    pub(super) output: String,
    /// Name of its input.
    pub(super) input: String,
    /// Number of its weights.
    pub(super) weights: usize,
    /// Pixels of its input for each of its output.
    pub(super) skipped: usize,
}

/// The convolutions to quantize: those without groups and with many constant float32 weights. (The first of a
/// network usually has too few.)
pub(super) fn convolutions(graph: &Graph) -> Vec<Convolution> {
    let worth = |node: &&NodeProto| {
        let weights = input(node, 1).and_then(|w| graph.constants.get(w));
        let fits = |w: &Constant| w.dtype == DataType::FLOAT && w.len() >= SMALLEST;
        op(node) == "Conv" && int(node, "group", 1) == 1 && weights.is_some_and(fits)
    };
    let found = graph.nodes.iter().filter(worth);
    found
        .map(|node| Convolution {
            output: output(node).to_owned(),
            input: input(node, 0).unwrap_or_default().to_owned(),
            weights: input(node, 1).and_then(|w| graph.constants.get(w)).map_or(0, Constant::len),
            skipped: ints(node, "strides").unwrap_or_default().iter().product::<i64>().max(1)
                as usize,
        })
        .collect()
}

/// The weights of a convolution as bytes: `weight ≈ scale · (byte − ZERO)`.
pub(super) struct Rounded {
    weights: Constant,
    /// One for each output channel.
    scales: Vec<f32>,
}

/// Rounds the weights of convolutions whose inputs have statistics, by the names of their outputs.
pub(super) fn rounded(
    graph: &Graph,
    convolutions: &[Convolution],
    statistics: &BTreeMap<String, Statistics>,
) -> BTreeMap<String, Rounded> {
    let round = |convolution: &Convolution| {
        let (_, node) = graph.producer_of(&convolution.output)?;
        let weights = graph.constants.get(input(node, 1)?)?;
        let (weights, scales) =
            quantized(weights, &statistics.get(&convolution.input)?.covariance)?;
        Some((convolution.output.clone(), Rounded { weights, scales }))
    };
    convolutions.iter().filter_map(round).collect()
}

/// Rewrites the convolutions; returns their number.
pub(super) fn convert(
    graph: &mut Graph,
    convolutions: &[&Convolution],
    statistics: &BTreeMap<String, Statistics>,
    rounded: &BTreeMap<String, Rounded>,
) -> usize {
    let mut changed = 0;
    let mut bytes_of: BTreeMap<String, [String; 2]> = BTreeMap::new();
    for convolution in convolutions {
        let Some(statistics) = statistics.get(&convolution.input) else { continue };
        let Some(rounded) = rounded.get(&convolution.output) else { continue };
        let range = statistics.range;
        let Some(at) = graph.nodes.iter().position(|n| output(n) == convolution.output) else {
            continue;
        };
        let end = graph.nodes.len();
        let zero = u8_scalar(graph, "int8/zero", range.zero);
        let [bytes, scale] = match bytes_of.get(&convolution.input) {
            Some(both) => both.clone(),
            None => {
                let scale = graph.add_constant("int8/scale", Constant::scalar(range.scale));
                let base = format!("{}/int8", convolution.input);
                let reads = [convolution.input.as_str(), &scale, &zero];
                [graph.emit(&base, "QuantizeLinear", &reads, vec![]), scale]
            }
        };
        bytes_of.insert(convolution.input.clone(), [bytes.clone(), scale.clone()]);
        if replace(graph, (at, end), [&bytes, &scale, &zero], statistics, rounded).is_some() {
            changed += 1;
        }
    }
    changed
}

/// Replaces the convolution at `at` by operators on integers, which read `bytes` of a `scale` and a `zero`
/// point. The nodes from `end` on were added for it.
fn replace(
    graph: &mut Graph,
    (at, end): (usize, usize),
    [bytes, scale, zero]: [&str; 3],
    statistics: &Statistics,
    Rounded { weights, scales }: &Rounded,
) -> Option<()> {
    let conv = graph.nodes.get(at)?.clone();
    let name = input(&conv, 1)?.to_owned();
    let original = graph.constants.get(&name)?;
    let shifts = shifts(original, weights, scales, &statistics.means)?;
    let channels = scales.len();
    let bias = match input(&conv, 2) {
        Some(bias) => graph.constants.get(bias)?.to_f32()?,
        None => vec![0.0; channels],
    };
    let bias: Vec<f32> = bias.iter().zip(&shifts).map(|(b, s)| b - s).collect();
    let kept = ["auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"];
    let attributes = kept.iter().filter_map(|a| attribute(&conv, a).cloned()).collect();
    let base = output(&conv).to_owned();
    let bias = |dims: &[usize]| Constant::f32(dims, &bias);
    if borders_are_right(&conv, Some(statistics.range.zero)) {
        let scales: Vec<f32> = scales.iter().map(|s| s * statistics.range.scale).collect();
        let scales = Constant::f32(&[1, channels, 1, 1], &scales);
        let scales = graph.add_constant(&format!("{name}/scales"), scales);
        let weights = graph.add_constant(&format!("{name}/uint8"), weights.clone());
        let around = u8_scalar(graph, "int8/weights_zero", ZERO);
        let sums = format!("{base}/sums");
        let sums = graph.emit(&sums, "ConvInteger", &[bytes, &weights, zero, &around], attributes);
        let to = vec![int_attribute("to", i64::from(DataType::FLOAT.0))];
        let sums = graph.emit(&format!("{base}/float"), "Cast", &[&sums], to);
        let scaled = graph.emit(&format!("{base}/scaled"), "Mul", &[&sums, &scales], vec![]);
        let bias = graph.add_constant(&format!("{base}/bias"), bias(&[1, channels, 1, 1]));
        graph.emit(&format!("{base}/biased"), "Add", &[&scaled, &bias], vec![]);
    } else {
        let values = format!("{bytes}/values");
        let values = graph.emit(&values, "DequantizeLinear", &[bytes, scale, zero], vec![]);
        let weights = graph.add_constant(&format!("{name}/int8"), signed(weights));
        let scales = Constant::f32(&[channels], scales);
        let scales = graph.add_constant(&format!("{name}/scales"), scales);
        let axis = vec![int_attribute("axis", 0)];
        let whole = format!("{name}/values");
        let weights = graph.emit(&whole, "DequantizeLinear", &[&weights, &scales], axis);
        let bias = graph.add_constant(&format!("{base}/bias"), bias(&[channels]));
        graph.emit(&format!("{base}/summed"), "Conv", &[&values, &weights, &bias], attributes);
    }
    graph.nodes.last_mut()?.output = vec![base];
    graph.put_in_place(at, end);
    Some(())
}

/// The same weights as signed bytes, with zero point 0.
fn signed(weights: &Constant) -> Constant {
    let bytes = weights.bytes.iter().map(|byte| byte.wrapping_sub(ZERO)).collect();
    Constant { dtype: DataType::INT8, dims: weights.dims.clone(), bytes }
}

fn u8_scalar(graph: &mut Graph, base: &str, value: u8) -> String {
    let tensor = Constant { dtype: DataType::UINT8, dims: vec![], bytes: vec![value] };
    graph.add_constant(base, tensor)
}

/// Weights as bytes and a scale for each output channel: `weight ≈ scale · (byte − ZERO)`. Without a
/// `covariance` of the inputs they are rounded to the nearest.
fn quantized(weights: &Constant, covariance: &[f32]) -> Option<(Constant, Vec<f32>)> {
    let values = weights.to_f32()?;
    let (channels, inputs) = (*weights.dims.first()?, *weights.dims.get(1)?);
    let per_channel = values.len().checked_div(channels)?;
    let area = per_channel.checked_div(inputs)?;
    let together = Together::new(covariance, inputs);
    let (mut bytes, mut scales) = (vec![ZERO; values.len()], Vec::new());
    for (channel, bytes) in values.chunks(per_channel).zip(bytes.chunks_mut(per_channel)) {
        let scale = best_scale(channel);
        for position in 0..area {
            let own: Vec<f32> = channel.iter().skip(position).step_by(area).copied().collect();
            let whole = match &together {
                Some(together) => together.steps(&own, scale, STEPS),
                None => own.iter().map(|w| steps(*w, scale)).collect(),
            };
            let to = bytes.iter_mut().skip(position).step_by(area);
            to.zip(whole).for_each(|(to, step)| *to = (step + f32::from(ZERO)) as u8);
        }
        scales.push(scale);
    }
    Some((Constant { dtype: DataType::UINT8, dims: weights.dims.clone(), bytes }, scales))
}

/// A weight in whole steps, clipped.
fn steps(weight: f32, scale: f32) -> f32 {
    (weight / scale).round().clamp(-STEPS, STEPS)
}

/// The scale with the smallest squared error of rounding and clipping; the largest step is tried at shares of
/// 50 % to 100 % of the largest weight.
fn best_scale(weights: &[f32]) -> f32 {
    let largest = weights.iter().fold(0_f32, |m, w| m.max(w.abs()));
    if largest == 0.0 {
        return 1.0;
    }
    let cost = |scale: f32| -> f64 {
        weights.iter().map(|w| f64::from(w - scale * steps(*w, scale)).powi(2)).sum()
    };
    let tried = (10..=20).map(|share| largest * share as f32 / 20.0 / STEPS);
    let priced = tried.map(|scale| (cost(scale), scale));
    priced.min_by(|a, b| a.0.total_cmp(&b.0)).map_or(largest / STEPS, |(_, scale)| scale)
}

/// `Σ (quantized − weight) · mean` for each output channel: the mean error of rounding, without the effect of
/// padding.
fn shifts(weights: &Constant, bytes: &Constant, scales: &[f32], means: &[f64]) -> Option<Vec<f32>> {
    let [_, inputs, height, width] = weights.dims[..] else { return None };
    if means.len() != inputs {
        return None;
    }
    let (values, area) = (weights.to_f32()?, height * width);
    let channels = values.chunks(inputs * area).zip(bytes.bytes.chunks(inputs * area));
    let shift = |((weights, bytes), scale): ((&[f32], &[u8]), &f32)| {
        let pairs = weights.iter().zip(bytes).enumerate();
        let terms = pairs.map(|(at, (weight, byte))| {
            let back = f64::from(*scale) * (f64::from(*byte) - f64::from(ZERO));
            (back - f64::from(*weight)) * means.get(at / area).copied().unwrap_or_default()
        });
        terms.sum::<f64>() as f32
    };
    Some(channels.zip(scales).map(shift).collect())
}

#[cfg(test)]
mod tests {
    use super::super::calibrate::Range;
    use super::*;
    use crate::onnx::engine::GraphEngine;
    use crate::onnx::graph::{ints_attribute, value_info};
    use rten_onnx::onnx::OperatorSetIdProto;
    use rten_tensor::Tensor;
    use rten_tensor::prelude::*;

    #[test]
    fn weights_keep_half_a_step() {
        // Uniform weights are not clipped: the largest one has 63 steps.
        let values: Vec<f32> =
            (0..24).map(|n| (n as f32 - 11.0) * (1.0 + (n / 12) as f32)).collect();
        let weights = Constant::f32(&[2, 3, 2, 2], &values);
        let (bytes, scales) = quantized(&weights, &[]).expect("float32");
        assert_eq!((&bytes.dims, bytes.dtype), (&weights.dims, DataType::UINT8));
        for (n, (byte, value)) in bytes.bytes.iter().zip(&values).enumerate() {
            let steps = value / scales[n / 12] - (f32::from(*byte) - f32::from(ZERO));
            // Half a step, and the rounding of the quotient.
            assert!(steps.abs() <= 0.5 + STEPS * f32::EPSILON, "{n}: {value} is {steps} steps off");
            assert!((1..=127).contains(byte), "{byte} needs more than 7 bits");
        }

        // The mean error, computed weight by weight.
        let means = [0.5, -2.0, 3.0];
        let found = shifts(&weights, &bytes, &scales, &means).expect("they fit");
        for channel in 0..2 {
            let mut sum = 0.0;
            for at in 0..12 {
                let n = channel * 12 + at;
                let back = scales[channel] * (f32::from(bytes.bytes[n]) - f32::from(ZERO));
                sum += (back - values[n]) * means[at / 4] as f32;
            }
            assert!((found[channel] - sum).abs() < 1e-4, "{found:?} {sum}");
        }
    }

    /// rten's `ConvInteger` pads with 128 instead of the zero point.
    #[test]
    fn the_border_of_a_padded_convolution_is_right() {
        let noise = |n: usize| ((n * 7919 + n * n * 31) % 1009) as f32 / 1009.0;
        let weights: Vec<f32> = (0..8 * 16 * 9).map(|n| noise(n) - 0.5).collect();
        let photo: Vec<f32> = (0..16 * 36).map(|n| noise(n + 5000)).collect();
        let mut graph = Graph {
            inputs: vec![value_info("image", &[1, 16, 6, 6])],
            outputs: vec![value_info("y", &[1, 8, 6, 6])],
            ir_version: 8,
            opsets: vec![OperatorSetIdProto { domain: None, version: Some(17) }],
            ..Graph::default()
        };
        let weights = graph.add_constant("w", Constant::f32(&[8, 16, 3, 3], &weights));
        let attributes = vec![
            ints_attribute("pads", &[1; 4]),
            ints_attribute("kernel_shape", &[3, 3]),
            ints_attribute("strides", &[1, 1]),
            ints_attribute("dilations", &[1, 1]),
        ];
        graph.emit("y", "Conv", &["image", &weights], attributes);
        let run = |graph: &Graph| -> Vec<f32> {
            let engine = GraphEngine::load(graph).expect("rten takes it");
            let photo = Tensor::from_data(&[1, 16, 6, 6], photo.clone());
            let found = engine.run(photo.view().into(), &["y"]).expect("it runs");
            found[0].iter().copied().collect()
        };
        let before = run(&graph);
        let convolutions = convolutions(&graph);
        let range = Range { scale: 1.0 / 255.0, zero: 0 };
        let means = vec![0.5; 16];
        let statistics = Statistics { range, means, covariance: vec![], pixels: 36 };
        let statistics = BTreeMap::from([("image".to_owned(), statistics)]);
        let rounded = rounded(&graph, &convolutions, &statistics);
        let all: Vec<&Convolution> = convolutions.iter().collect();
        assert_eq!(convert(&mut graph, &all, &statistics, &rounded), 1);
        let largest = before.iter().fold(0_f32, |most, value| most.max(value.abs()));
        let pairs = before.iter().zip(run(&graph));
        let off = pairs.map(|(one, other)| (one - other).abs()).fold(0_f32, f32::max);
        // 144 weights of up to half a step of 1/126 each; with a wrong border it is some 0.5.
        assert!(off < 0.02 * largest, "{off} of {largest}");
    }

    #[test]
    fn one_weight_far_out_is_clipped() {
        let mut weights: Vec<f32> = (0..100_000).map(|n| n as f32 / 500_000.0 - 0.1).collect();
        weights.push(0.15);
        let largest = best_scale(&weights) * STEPS;
        assert!((0.09..0.12).contains(&largest), "{largest}");
        assert_eq!(best_scale(&[0.0; 4]), 1.0);
    }
}
