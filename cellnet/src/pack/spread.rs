//! Moves concatenations behind their only reader, where less is copied: a depthwise convolution is divided by
//! channels, and a 1×1 convolution by inputs, the second part adding the sums of the first.

use super::net::{ConvLayer, Kind, Layer, Moving, Net, Shape, ValueId};
use crate::plan::Activation;

/// Moves all that can be moved.
pub(super) fn spread(net: &mut Net) {
    while (0..net.layers.len()).any(|index| spread_one(net, index)) {}
}

/// Moves the concatenation at `index`; false if this layer is none or stays.
fn spread_one(net: &mut Net, index: usize) -> bool {
    let layer = &net.layers[index];
    let output = layer.output;
    let &[a, b] = layer.inputs.as_slice() else { return false };
    let is_copy = matches!(&layer.kind, Kind::Concat { scale, bias, activation: Activation::None }
        if scale.is_empty() && bias.is_empty());
    if !is_copy || a == b || net.uses()[output] != 1 {
        return false;
    }
    let reader = net.layers.iter().position(|layer| layer.inputs == [output]);
    let Some(reader) = reader.filter(|reader| *reader > index) else { return false };
    let Kind::Conv(conv) = &net.layers[reader].kind else { return false };
    let parts = if conv.is_depthwise() && conv.means.is_none() && conv.residual.is_none() {
        Some(by_channels(net, reader, conv, [a, b]))
    } else if is_point(conv) && conv.outputs < net.values[output].channels {
        Some(by_inputs(net, reader, conv, [a, b]))
    } else {
        None
    };
    let Some((layers, shapes)) = parts else { return false };
    net.values.extend(shapes);
    net.layers.splice(reader..=reader, layers);
    net.layers.remove(index);
    true
}

/// Whether a convolution is a sum over its inputs that can be divided: of floats, and nothing else is added.
fn is_point(conv: &ConvLayer) -> bool {
    conv.groups == 1
        && conv.moving == Moving::POINT
        && conv.sums.is_none()
        && conv.residual.is_none()
}

/// The layers that take the reader's place, and the shapes of the values they add.
type Taken = (Vec<Layer>, Vec<Shape>);

/// Two depthwise convolutions, and the concatenation of their results.
fn by_channels(net: &Net, reader: usize, conv: &ConvLayer, inputs: [ValueId; 2]) -> Taken {
    let reader = &net.layers[reader];
    let taps = conv.moving.kernel[0] * conv.moving.kernel[1];
    let (mut layers, mut shapes, mut first) = (Vec::new(), Vec::new(), 0);
    let added = [net.values.len(), net.values.len() + 1];
    for (input, output) in inputs.into_iter().zip(added) {
        let channels = net.values[input].channels;
        let part = ConvLayer {
            groups: channels,
            outputs: channels,
            weights: conv.weights[first * taps..(first + channels) * taps].to_vec(),
            bias: conv.bias[first..first + channels].to_vec(),
            ..conv.clone()
        };
        let kind = Kind::Conv(part);
        layers.push(Layer { kind, inputs: vec![input], output, ..reader.clone() });
        shapes.push(Shape { channels, ..net.values[reader.output] });
        first += channels;
    }
    let (scale, bias) = (Vec::new(), Vec::new());
    let kind = Kind::Concat { scale, bias, activation: Activation::None };
    layers.push(Layer { kind, inputs: added.to_vec(), ..reader.clone() });
    (layers, shapes)
}

/// A convolution of the first inputs, and one of the others that adds its sums.
fn by_inputs(net: &Net, reader: usize, conv: &ConvLayer, [a, b]: [ValueId; 2]) -> Taken {
    let reader = &net.layers[reader];
    let between = net.values.len();
    let own = net.values[a].channels;
    let part = |from: usize, to: usize| -> Vec<f32> {
        conv.weights.chunks(conv.group_inputs).flat_map(|row| row[from..to].to_vec()).collect()
    };
    let first = ConvLayer {
        group_inputs: own,
        weights: part(0, own),
        activation: Activation::None,
        activate_last: false,
        ..conv.clone()
    };
    let second = ConvLayer {
        group_inputs: conv.group_inputs - own,
        weights: part(own, conv.group_inputs),
        bias: vec![0.0; conv.outputs],
        residual: Some(between),
        activate_last: conv.activation != Activation::None,
        ..conv.clone()
    };
    let (first, second) = (Kind::Conv(first), Kind::Conv(second));
    let layers = vec![
        Layer { kind: first, inputs: vec![a], output: between, ..reader.clone() },
        Layer { kind: second, inputs: vec![b], ..reader.clone() },
    ];
    (layers, vec![net.values[reader.output]])
}
