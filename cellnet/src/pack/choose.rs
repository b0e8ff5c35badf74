//! Chooses the algorithm of each dense 3×3 convolution: the cheapest whose measured error is small enough.
//!
//! Costs are counted in multiply-adds of one lane: products, transforms, and loading the weights, of which
//! Winograd has more. The factors were fitted to layers of EfficientNetV2-S and ResNet-50; an accuracy of a
//! third is enough.

use super::Options;
use super::measure::Measured;
use super::net::{ConvLayer, Kind, Net, Shape};
use crate::error::PackError;
use crate::plan::{Algorithm, Dtype};

/// Multiply-adds in the time it takes to load a byte of weights.
const BYTE: f64 = 2.0;
/// Transforms of one channel of a tile, input plus output side, in multiply-adds.
const TRANSFORM2: f64 = 60.0;
const TRANSFORM4: f64 = 160.0;

/// The algorithm of each layer: the cheapest allowed by the options whose error is small enough.
pub(super) fn algorithms(net: &Net, options: &Options) -> Result<Vec<Algorithm>, PackError> {
    let ranked: Vec<Vec<Algorithm>> = net
        .layers
        .iter()
        .map(|layer| match &layer.kind {
            Kind::Conv(conv) => ranking(conv, net.values[layer.output], options),
            _ => vec![Algorithm::Direct],
        })
        .collect();
    let fast: Vec<usize> =
        (0..ranked.len()).filter(|i| ranked[*i].first() != Some(&Algorithm::Direct)).collect();
    let mut chosen = vec![Algorithm::Direct; ranked.len()];
    if fast.is_empty() {
        return Ok(chosen);
    }
    let made = [noise(net)];
    let photos = if options.photos.is_empty() { &made } else { options.photos.as_slice() };
    let measured = Measured::new(net, &fast, photos)?;
    for layer in fast {
        let Kind::Conv(conv) = &net.layers[layer].kind else { continue };
        for algorithm in &ranked[layer] {
            let exact = *algorithm == Algorithm::Direct;
            if exact || measured.error(layer, conv, *algorithm)? <= options.max_error {
                chosen[layer] = *algorithm;
                break;
            }
        }
    }
    Ok(chosen)
}

/// Seeded noise in the range of the input's elements, used if there are no calibration photos.
fn noise(net: &Net) -> Vec<f32> {
    let spec = net.inputs.first();
    let count = spec.map_or(0, |p| p.dims.iter().product());
    let bytes = spec.is_some_and(|p| p.dtype == Dtype::U8);
    let mut state = 0x9e37_79b9u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        if bytes { (state >> 24) as f32 } else { (state >> 8) as f32 / (1u32 << 23) as f32 - 1.0 }
    };
    (0..count).map(|_| next()).collect()
}

/// The algorithms the options allow for a layer, cheapest first.
fn ranking(conv: &ConvLayer, output: Shape, options: &Options) -> Vec<Algorithm> {
    let dense = conv.groups == 1 && conv.moving.kernel == [3, 3] && conv.moving.stride == [1, 1];
    if !dense || conv.sums.is_some() || conv.group_inputs < 8 || conv.outputs < 8 {
        return vec![Algorithm::Direct];
    }
    let cost = |algorithm: Algorithm| {
        let (inputs, outputs) = (conv.group_inputs as f64, conv.outputs as f64);
        let side = algorithm.tile() as usize;
        let (spots, positions, transform) = match algorithm {
            Algorithm::Direct => (output.pixels(), 9.0, 0.0),
            Algorithm::Winograd2 => (tiles(output, side), 16.0, TRANSFORM2),
            Algorithm::Winograd4 => (tiles(output, side), 36.0, TRANSFORM4),
        };
        let products = positions * inputs * outputs;
        spots as f64 * (products + transform * (inputs + outputs)) + products * 4.0 * BYTE
    };
    let mut allowed = options.algorithms.clone();
    allowed.sort_by(|a, b| cost(*a).total_cmp(&cost(*b)));
    allowed
}

fn tiles(output: Shape, side: usize) -> usize {
    output.height.div_ceil(side) * output.width.div_ceil(side)
}
