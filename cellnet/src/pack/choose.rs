//! Chooses the algorithm of each dense 3×3 convolution: the cheapest whose measured error is small enough and
//! for whose weights the file has room.
//!
//! Costs are counted in multiply-adds of one lane: products, transforms, and loading the weights, of which
//! Winograd has more. The factors were fitted to layers of EfficientNetV2-S and ResNet-50; an accuracy of a
//! third is enough.

use super::measure::Measured;
use super::net::{ConvLayer, Kind, Net, Shape};
use super::{Options, weight_bytes};
use crate::error::PackError;
use crate::plan::{Algorithm, Dtype};

/// Multiply-adds in the time it takes to load a byte of weights.
const BYTE: f64 = 2.0;
/// Transforms of one channel of a tile, input plus output side, in multiply-adds.
const TRANSFORM2: f64 = 60.0;
const TRANSFORM4: f64 = 160.0;

/// The algorithm of each layer: the cheapest allowed by the options whose error is small enough, where there
/// is `room` for its weights, in bytes beyond those of direct convolutions. If not for all, those come first
/// that save most time for each byte.
pub(super) fn algorithms(
    net: &Net,
    options: &Options,
    room: f64,
) -> Result<Vec<Algorithm>, PackError> {
    let mut chosen = vec![Algorithm::Direct; net.layers.len()];
    let mut offers: Vec<Offer> = net
        .layers
        .iter()
        .enumerate()
        .flat_map(|(i, layer)| match &layer.kind {
            Kind::Conv(conv) => offers(i, conv, net.values[layer.output], options),
            _ => Vec::new(),
        })
        .collect();
    let mut fast: Vec<usize> = offers.iter().map(|offer| offer.layer).collect();
    fast.dedup();
    if fast.is_empty() {
        return Ok(chosen);
    }
    let made = [noise(net)];
    let photos = if options.photos.is_empty() { &made } else { options.photos.as_slice() };
    let measured = Measured::new(net, &fast, photos)?;
    // What each layer saves and takes so far.
    let mut taken = vec![(0.0, 0.0); net.layers.len()];
    let mut room = room;
    loop {
        let fits = |offer: &Offer| {
            let (saved, bytes) = taken[offer.layer];
            offer.saved > saved && offer.bytes - bytes <= room
        };
        let worth = |offer: &Offer| {
            let (saved, bytes) = taken[offer.layer];
            (offer.saved - saved) / (offer.bytes - bytes).max(1.0)
        };
        let best = (0..offers.len())
            .filter(|i| fits(&offers[*i]))
            .max_by(|a, b| worth(&offers[*a]).total_cmp(&worth(&offers[*b])));
        let Some(best) = best else { return Ok(chosen) };
        let offer = offers.swap_remove(best);
        let Kind::Conv(conv) = &net.layers[offer.layer].kind else { continue };
        if measured.error(offer.layer, conv, offer.algorithm)? <= options.max_error {
            room -= offer.bytes - taken[offer.layer].1;
            taken[offer.layer] = (offer.saved, offer.bytes);
            chosen[offer.layer] = offer.algorithm;
        }
    }
}

/// A faster algorithm for a layer, the time it saves, and the bytes it takes, both beside direct convolution.
struct Offer {
    layer: usize,
    algorithm: Algorithm,
    saved: f64,
    bytes: f64,
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

/// The algorithms that the options allow for a layer and that are cheaper than direct convolution.
fn offers(layer: usize, conv: &ConvLayer, output: Shape, options: &Options) -> Vec<Offer> {
    let dense = conv.groups == 1 && conv.moving.kernel == [3, 3] && conv.moving.stride == [1, 1];
    if !dense || conv.sums.is_some() || conv.group_inputs < 8 || conv.outputs < 8 {
        return Vec::new();
    }
    let (inputs, outputs) = (conv.group_inputs as f64, conv.outputs as f64);
    let positions = |algorithm: Algorithm| match algorithm {
        Algorithm::Direct => 9.0,
        Algorithm::Winograd2 => 16.0,
        Algorithm::Winograd4 => 36.0,
    };
    let cost = |algorithm: Algorithm| {
        let (spots, transform) = match algorithm {
            Algorithm::Direct => (output.pixels(), 0.0),
            Algorithm::Winograd2 => (tiles(output, 2), TRANSFORM2),
            Algorithm::Winograd4 => (tiles(output, 4), TRANSFORM4),
        };
        let products = positions(algorithm) * inputs * outputs;
        spots as f64 * (products + transform * (inputs + outputs)) + products * 4.0 * BYTE
    };
    let direct = Algorithm::Direct;
    let each = inputs * conv.outputs.next_multiple_of(16) as f64 * weight_bytes(conv, options);
    let offer = |algorithm: Algorithm| Offer {
        layer,
        algorithm,
        saved: cost(direct) - cost(algorithm),
        bytes: (positions(algorithm) - positions(direct)) * each,
    };
    options.algorithms.iter().map(|a| offer(*a)).filter(|offer| offer.saved > 0.0).collect()
}

fn tiles(output: Shape, side: usize) -> usize {
    output.height.div_ceil(side) * output.width.div_ceil(side)
}
