//! Fuses layers: batch norms into convolutions, activations and residuals into the layer before, the parts
//! of gates (SiLU, hard swish) into one activation, means into depthwise convolutions.
//!
//! A layer is merged into the one before it only if nothing else reads the value between them. Means are the
//! exception: the depthwise convolution writes its map as well as the mean, so others may read the map.

use super::net::{Arg, ConvLayer, Kind, Layer, Net, Shape, ValueId};
use crate::plan::{Activation, BinaryOp, Pooling};

/// Applies all fusions.
pub fn fuse(net: &mut Net) {
    drop_unused(net);
    gates(net);
    drop_unused(net);
    while merge_one(net) {}
    super::spread::spread(net);
    means(net);
    drop_unused(net);
}

/// Drops layers with unread outputs.
fn drop_unused(net: &mut Net) {
    loop {
        let uses = net.uses();
        let before = net.layers.len();
        net.layers.retain(|l| uses[l.output] > 0);
        if net.layers.len() == before {
            return;
        }
    }
}

/// If an affine layer produces `value`: its input, scale, bias and activation.
fn affine_of(net: &Net, value: ValueId) -> Option<(ValueId, &[f32], &[f32], Activation)> {
    let layer = net.layers.get(net.producer(value)?)?;
    match &layer.kind {
        Kind::Affine { scale, bias, activation } => {
            Some((*layer.inputs.first()?, scale, bias, *activation))
        }
        _ => None,
    }
}

/// Whether all values are `wanted`, up to the rounding of a computed f32.
fn all_equal(values: &[f32], wanted: f32) -> bool {
    !values.is_empty() && values.iter().all(|v| (v - wanted).abs() <= 1e-6 * wanted.abs())
}

/// `x`, if `value` is ReLU6(x + 3).
fn shifted_relu6(net: &Net, value: ValueId) -> Option<ValueId> {
    let (mut inner, scale, bias, mut activation) = affine_of(net, value)?;
    let (mut scale, mut bias) = (scale, bias);
    // ReLU6 may be written as a ReLU followed by a minimum.
    if activation == (Activation::Clip { low: f32::NEG_INFINITY, high: 6.0 })
        && scale.is_empty()
        && bias.is_empty()
    {
        let lower = affine_of(net, inner)?;
        if lower.3 != Activation::RELU {
            return None;
        }
        (inner, scale, bias) = (lower.0, lower.1, lower.2);
        activation = Activation::Clip { low: 0.0, high: 6.0 };
    }
    if activation != (Activation::Clip { low: 0.0, high: 6.0 }) || !scale.is_empty() {
        return None;
    }
    if all_equal(bias, 3.0) {
        return Some(inner);
    }
    let (x, scale, shift, none) = affine_of(net, inner)?;
    let shifted = bias.is_empty() && scale.is_empty() && all_equal(shift, 3.0);
    (shifted && none == Activation::None).then_some(x)
}

/// `x` and a factor, if `value` is the factor times a hard sigmoid of `x`: 6 if the division by 6 is missing,
/// else 1.
fn hard_sigmoid(net: &Net, value: ValueId) -> Option<(ValueId, f32)> {
    if let Some(x) = shifted_relu6(net, value) {
        return Some((x, 6.0));
    }
    let (inner, scale, bias, activation) = affine_of(net, value)?;
    let sixth = 1.0 / 6.0;
    if let Activation::HardSigmoid { alpha, beta } = activation {
        // 1e-5: an alpha written with few digits, such as 0.16667, is a sixth too.
        let usual = (alpha - sixth).abs() < 1e-5 && beta == 0.5;
        return (usual && scale.is_empty() && bias.is_empty()).then_some((inner, 1.0));
    }
    let divided = all_equal(scale, sixth) && bias.is_empty() && activation == Activation::None;
    if divided { shifted_relu6(net, inner).map(|x| (x, 1.0)) } else { None }
}

/// The number that all values are, or the default if there are none.
fn uniform(values: &[f32], default: f32) -> Option<f32> {
    let first = values.first().copied().unwrap_or(default);
    values.iter().all(|v| *v == first).then_some(first)
}

/// `x` and a factor, if `value` is the factor times the normal distribution's share below `x`:
/// `(1 + erf(x / √2)) / 2`.
fn normal_share(net: &Net, value: ValueId) -> Option<(ValueId, f32)> {
    let (mut at, mut factor, mut summand) = (value, 1.0, 0.0);
    let (mut inner, mut root) = loop {
        let (inner, scale, bias, activation) = affine_of(net, at)?;
        let (scale, bias) = (uniform(scale, 1.0)?, uniform(bias, 0.0)?);
        match activation {
            Activation::None => {
                summand += factor * bias;
                factor *= scale;
                at = inner;
            }
            Activation::Erf if bias == 0.0 => break (inner, scale),
            _ => return None,
        }
    };
    if root == 1.0 {
        let (x, scale, bias, activation) = affine_of(net, inner)?;
        if activation != Activation::None || uniform(bias, 0.0)? != 0.0 {
            return None;
        }
        (inner, root) = (x, uniform(scale, 1.0)?);
    }
    let fits = (root - std::f32::consts::FRAC_1_SQRT_2).abs() < 1e-6
        && factor != 0.0
        && (factor - summand).abs() <= 1e-6 * factor.abs();
    fits.then_some((inner, 2.0 * factor))
}

/// The activation of `x` that `x · value` equals, and a remaining factor.
fn gate(net: &Net, value: ValueId, x: ValueId) -> Option<(Activation, f32)> {
    if let Some((inner, scale, bias, Activation::Sigmoid)) = affine_of(net, value) {
        return (inner == x && scale.is_empty() && bias.is_empty())
            .then_some((Activation::Silu, 1.0));
    }
    if let Some((inner, factor)) = normal_share(net, value) {
        return (inner == x).then_some((Activation::Gelu, factor));
    }
    let (inner, factor) = hard_sigmoid(net, value)?;
    (inner == x).then_some((Activation::HardSwish, factor))
}

/// A value and a factor, whose product `value` is.
fn scaled(net: &Net, value: ValueId) -> Option<(ValueId, f32)> {
    let (x, scale, bias, activation) = affine_of(net, value)?;
    let plain = bias.is_empty() && activation == Activation::None;
    uniform(scale, 1.0).filter(|_| plain).map(|factor| (x, factor))
}

/// Replaces a product of a value and its own gate, and the parts of a hard sigmoid, by one activation.
fn gates(net: &mut Net) {
    for index in 0..net.layers.len() {
        let layer = &net.layers[index];
        let mut found = None;
        match &layer.kind {
            Kind::Binary { op: BinaryOp::Mul, a: Arg::Value(a), b: Arg::Value(b), .. } => {
                for (x, y) in [(*a, *b), (*b, *a)] {
                    if let Some((activation, factor)) = gate(net, y, x) {
                        found = Some((x, activation, factor));
                    } else if let Some((x, by)) = scaled(net, x)
                        && let Some((activation, factor)) = gate(net, y, x)
                    {
                        found = Some((x, activation, by * factor));
                    }
                }
            }
            Kind::Affine { scale, .. } if !scale.is_empty() => {
                if let Some((x, 1.0)) = hard_sigmoid(net, layer.output) {
                    let activation = Activation::HardSigmoid { alpha: 1.0 / 6.0, beta: 0.5 };
                    found = Some((x, activation, 1.0));
                }
            }
            _ => {}
        }
        let Some((x, activation, factor)) = found else { continue };
        let (output, name) = (layer.output, layer.name.clone());
        let (scale, bias) = (Vec::new(), Vec::new());
        let kind = Kind::Affine { scale, bias, activation };
        if factor == 1.0 {
            net.layers[index] = Layer { kind, inputs: vec![x], output, name, rounded: None };
            continue;
        }
        let shape = net.values[x];
        let inner = net.value(shape);
        let scale = vec![factor; shape.channels];
        let outer = Kind::Affine { scale, bias: Vec::new(), activation: Activation::None };
        let layer = |kind, input, output| {
            let (name, inputs) = (name.clone(), vec![input]);
            Layer { kind, inputs, output, name, rounded: None }
        };
        net.layers[index] = layer(outer, inner, output);
        net.layers.insert(index, layer(kind, x, inner));
        // The indices have moved, so begin again.
        return gates(net);
    }
}

/// Merges one layer into another; false if there is none left to merge.
fn merge_one(net: &mut Net) -> bool {
    let uses = net.uses();
    for index in 0..net.layers.len() {
        let merged = match &net.layers[index].kind {
            Kind::Affine { .. } => merge_affine(net, &uses, index),
            Kind::Binary { op: BinaryOp::Add, .. } => merge_residual(net, &uses, index),
            _ => false,
        };
        if merged {
            return true;
        }
    }
    false
}

fn merge_affine(net: &mut Net, uses: &[usize], index: usize) -> bool {
    let layer = &net.layers[index];
    let Kind::Affine { scale, bias, activation } = layer.kind.clone() else { return false };
    let (Some(input), output) = (layer.inputs.first().copied(), layer.output) else { return false };
    let neutral = (scale.is_empty() || all_equal(&scale, 1.0)) && bias.iter().all(|b| *b == 0.0);
    let is_port = |net: &Net, v: ValueId| net.inputs.iter().any(|p| p.value == v);
    let is_passed_through = is_port(net, input) && net.outputs.iter().any(|p| p.value == output);
    if neutral && activation == Activation::None && !is_passed_through {
        replace(net, index, input, output);
        return true;
    }
    if uses[input] != 1 {
        return false;
    }
    if let Some(spec) = net.inputs.iter_mut().find(|p| p.value == input) {
        if activation != Activation::None || is_passed_through {
            return false;
        }
        compose(&mut spec.scale, &mut spec.bias, &scale, &bias);
        spec.value = output;
        net.layers.remove(index);
        return true;
    }
    let Some(before) = net.producer(input) else { return false };
    if !absorb(&mut net.layers[before], &scale, &bias, neutral, activation) {
        return false;
    }
    net.layers[before].output = output;
    net.layers.remove(index);
    true
}

/// Removes the layer; readers of `output` read `input` instead.
fn replace(net: &mut Net, index: usize, input: ValueId, output: ValueId) {
    net.layers.remove(index);
    let swap = |v: &mut ValueId| {
        if *v == output {
            *v = input;
        }
    };
    for layer in &mut net.layers {
        layer.inputs.iter_mut().for_each(swap);
        match &mut layer.kind {
            Kind::Conv(conv) => conv.residual.iter_mut().for_each(swap),
            Kind::Binary { a, b, .. } => {
                for arg in [a, b] {
                    if let Arg::Value(v) = arg {
                        swap(v);
                    }
                }
            }
            _ => {}
        }
    }
    for spec in &mut net.outputs {
        swap(&mut spec.value);
    }
}

/// `(x · scale + bias) · by + plus` as one scale and bias.
fn compose(scale: &mut Vec<f32>, bias: &mut Vec<f32>, by: &[f32], plus: &[f32]) {
    let factor = |c: usize| by.get(c).copied().unwrap_or(1.0);
    let summand = |c: usize| plus.get(c).copied().unwrap_or(0.0);
    let channels = [scale.len(), bias.len(), by.len(), plus.len()].into_iter().max().unwrap_or(0);
    let old = |v: &[f32], c: usize, default: f32| v.get(c).copied().unwrap_or(default);
    let new_bias: Vec<f32> =
        (0..channels).map(|c| old(bias, c, 0.0) * factor(c) + summand(c)).collect();
    let new_scale: Vec<f32> = (0..channels).map(|c| old(scale, c, 1.0) * factor(c)).collect();
    *scale = if new_scale.iter().all(|s| *s == 1.0) { Vec::new() } else { new_scale };
    *bias = if new_bias.iter().all(|b| *b == 0.0) { Vec::new() } else { new_bias };
}

/// Merges an affine layer into the layer before it, if that layer can take it.
fn absorb(
    layer: &mut Layer,
    scale: &[f32],
    bias: &[f32],
    neutral: bool,
    activation: Activation,
) -> bool {
    if let (Kind::Affine { activation: own, .. }, Activation::Clip { low, high }, true) =
        (&mut layer.kind, activation, neutral)
        && let Activation::Clip { low: l, high: h } = *own
    {
        *own = Activation::Clip { low: l.max(low), high: h.min(high) };
        return true;
    }
    if neutral && round_clipped(layer, activation) {
        return true;
    }
    let Some(slot) = layer.claim_activation() else { return false };
    if neutral {
        *slot = activation;
        return true;
    }
    match &mut layer.kind {
        Kind::Conv(conv) if conv.residual.is_none() => {
            scale_conv(conv, scale, bias);
            conv.activation = activation;
            true
        }
        Kind::Affine { scale: s, bias: b, activation: own }
        | Kind::Concat { scale: s, bias: b, activation: own } => {
            compose(s, b, scale, bias);
            *own = activation;
            true
        }
        _ => false,
    }
}

/// Merges the rounding of a quantized graph into a layer whose results are clipped. Rounding is monotonic, so
/// the rounded bounds clip the rounded values.
fn round_clipped(layer: &mut Layer, activation: Activation) -> bool {
    let Activation::Quantize { scale, low, high } = activation else { return false };
    let Some(own) = layer.last_activation() else { return false };
    let Activation::Clip { low: from, high: to } = *own else { return false };
    let bound = |value: f32| (value / scale).round_ties_even().clamp(low, high);
    *own = Activation::Quantize { scale, low: bound(from), high: bound(to) };
    true
}

fn scale_conv(conv: &mut ConvLayer, scale: &[f32], bias: &[f32]) {
    let each = conv.weights.len() / conv.outputs.max(1);
    let factors = scale.iter().copied().chain(std::iter::repeat(1.0));
    if let Some(sums) = &mut conv.sums {
        sums.factors.iter_mut().zip(factors).for_each(|(own, factor)| *own *= factor);
    } else {
        for (weights, factor) in conv.weights.chunks_mut(each.max(1)).zip(factors) {
            weights.iter_mut().for_each(|w| *w *= factor);
        }
    }
    for (o, b) in conv.bias.iter_mut().enumerate() {
        let factor = scale.get(o).copied().unwrap_or(1.0);
        *b = *b * factor + bias.get(o).copied().unwrap_or(0.0);
    }
}

/// Merges an addition of two maps of the same shape into the convolution that produces one of them. The
/// convolution then takes the addition's place in the order.
fn merge_residual(net: &mut Net, uses: &[usize], index: usize) -> bool {
    let layer = &net.layers[index];
    let Kind::Binary { op: BinaryOp::Add, a: Arg::Value(a), b: Arg::Value(b), activation } =
        layer.kind
    else {
        return false;
    };
    let output = layer.output;
    if a == b || net.values[a] != net.values[b] {
        return false;
    }
    let mut sides = [(a, b), (b, a)];
    // The later of two convolutions, which is moved the least.
    sides.sort_by_key(|(own, _)| std::cmp::Reverse(net.producer(*own)));
    for (own, other) in sides {
        let Some(before) = net.producer(own) else { continue };
        if uses[own] != 1 {
            continue;
        }
        let Kind::Conv(conv) = &mut net.layers[before].kind else { continue };
        let two = conv.activation != Activation::None && activation != Activation::None;
        if conv.is_depthwise() || conv.residual.is_some() || two {
            continue;
        }
        conv.residual = Some(other);
        if activation != Activation::None {
            (conv.activation, conv.activate_last) = (activation, true);
        }
        let mut conv = net.layers[before].clone();
        conv.output = output;
        net.layers[index] = conv;
        net.layers.remove(before);
        return true;
    }
    false
}

/// Merges a mean over the output of a depthwise convolution into that convolution. Something else must read
/// the map too: a layer whose map is unread is dropped.
fn means(net: &mut Net) {
    let uses = net.uses();
    let mut index = 0;
    while index < net.layers.len() {
        let layer = &net.layers[index];
        let mean = Kind::Reduce { pooling: Pooling::Mean, activation: Activation::None };
        let producer = layer.inputs.first().and_then(|v| net.producer(*v));
        if layer.kind == mean
            && let Some(before) = producer
            && uses[net.layers[before].output] > 1
        {
            let output = layer.output;
            if let Kind::Conv(conv) = &mut net.layers[before].kind
                && conv.is_depthwise()
                && conv.means.is_none()
                && net.values[output] == Shape::vector(conv.outputs)
            {
                conv.means = Some(output);
                net.layers.remove(index);
                continue;
            }
        }
        index += 1;
    }
}
