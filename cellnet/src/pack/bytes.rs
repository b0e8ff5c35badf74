//! Lets layers write bytes themselves: a rounding is merged into the convolution on integers or the binary
//! layer before it, which then writes bytes beside its results, or in their place if nothing else reads them.
//!
//! Activations between bytes are shortened too: an error of 1/4000 of a value is far below a byte's step.

use super::net::{ConvLayer, Kind, Net, Rounded, ValueId};
use crate::plan::Activation;
use crate::plan::fixed::{BITS, ToSteps};

/// Merges all roundings that can be merged, and shortens activations.
pub fn join(net: &mut Net) {
    let mut index = 0;
    while index < net.layers.len() {
        if !join_one(net, index) {
            index += 1;
        }
    }
    shorten(net);
    fix(net);
}

/// Merges a rounding into the layer before it; false if this layer is none or stays.
fn join_one(net: &mut Net, index: usize) -> bool {
    let layer = &net.layers[index];
    let Kind::Quantize { scale, zero } = layer.kind else { return false };
    let (output, input) = (layer.output, layer.inputs.first().copied());
    let Some((input, before)) = input.and_then(|input| Some((input, net.producer(input)?))) else {
        return false;
    };
    let alone = net.uses()[input] == 1;
    let source = &mut net.layers[before];
    let fits = match &source.kind {
        Kind::Conv(conv) => conv.sums.is_some(),
        Kind::Binary { .. } => alone,
        _ => false,
    };
    // Kernels multiply by the inverse.
    if !fits || source.rounded.is_some() || !(1.0 / scale).is_normal() {
        return false;
    }
    source.rounded = Some(Rounded { value: output, scale, zero });
    if alone {
        source.output = output;
    }
    net.layers.remove(index);
    true
}

/// Computes SiLU in integers where only bytes are written: with as many bits after the point as leave room
/// for the largest byte.
fn fix(net: &mut Net) {
    for layer in &mut net.layers {
        let Some(rounded) = layer.rounded.filter(|rounded| rounded.value == layer.output) else {
            continue;
        };
        let Kind::Conv(conv) = &mut layer.kind else { continue };
        if conv.activation != Activation::ShortSilu || conv.residual.is_some() {
            continue;
        }
        let largest = rounded.scale * (255.0 - f32::from(rounded.zero));
        let fits = |bits: &u8| {
            let unit = 1.0 / (1u32 << bits) as f32;
            largest < 32767.0 * unit && most(conv) / unit < 1e9
        };
        let bits = BITS.rev().find(fits);
        if let Some(bits) = bits
            && ToSteps::new(bits, rounded.scale).is_some()
        {
            conv.activation = Activation::FixedSilu { bits };
        }
    }
}

/// The largest size that a result of a convolution on integers can have before its activation.
fn most(conv: &ConvLayer) -> f32 {
    let Some(sums) = &conv.sums else { return f32::INFINITY };
    let each = conv.weights.len() / conv.outputs.max(1);
    let bounds = conv.weights.chunks(each.max(1)).zip(&sums.factors).zip(&conv.bias);
    let bound = |((weights, factor), bias): ((&[f32], &f32), &f32)| {
        255.0 * weights.iter().map(|w| w.abs()).sum::<f32>() * factor + bias.abs()
    };
    bounds.map(bound).fold(0.0, f32::max)
}

/// Shortens the SiLU of convolutions on integers, and of the depthwise ones that read their results.
fn shorten(net: &mut Net) {
    let on_integers = |conv: &ConvLayer| conv.sums.is_some();
    let is_short = |net: &Net, value: ValueId| {
        let before = net.producer(value).and_then(|before| net.layers.get(before));
        before.is_some_and(|layer| matches!(&layer.kind, Kind::Conv(conv) if on_integers(conv)))
    };
    for index in 0..net.layers.len() {
        let input = net.layers[index].inputs.first().copied();
        let after = input.is_some_and(|input| is_short(net, input));
        if let Kind::Conv(conv) = &mut net.layers[index].kind
            && conv.activation == Activation::Silu
            && (on_integers(conv) || (conv.is_depthwise() && after))
        {
            conv.activation = Activation::ShortSilu;
        }
    }
}
