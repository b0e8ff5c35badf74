//! Lays out the arena: halos as wide as a value's readers need, and shared places for values that are not
//! needed at the same time.

use super::net::{Arg, Kind, Layer, Net, ValueId};
use crate::plan::{Algorithm, CHANNEL_BLOCK, LINE, Map};
use crate::stage::can_be_sliced;

/// The maps, and the map of each value.
pub struct Layout {
    pub maps: Vec<Map>,
    pub map_of: Vec<Option<u32>>,
    pub arena: u64,
}

/// Lays out a net for layers computed by `algorithms`.
pub fn lay_out(net: &Net, algorithms: &[Algorithm]) -> Layout {
    let lives = lives(net);
    let home = homes(net, &lives);
    let mut halos = vec![[0usize; 4]; net.values.len()];
    for (layer, algorithm) in net.layers.iter().zip(algorithms) {
        if let (Some(halo), Some(input)) = (needed(net, layer, *algorithm), layer.inputs.first()) {
            for (have, need) in halos[home[*input]].iter_mut().zip(halo) {
                *have = (*have).max(need);
            }
        }
    }
    let zeros = zeros(net);
    let mut spans: Vec<Span> = Vec::new();
    for (value, shape) in net.values.iter().enumerate() {
        if home[value] != value || lives[value].is_none() {
            continue;
        }
        let members = (0..net.values.len()).filter(|v| home[*v] == value).filter_map(|v| lives[v]);
        let (first, last) = members.fold((usize::MAX, 0), |(f, l), (a, b)| (f.min(a), l.max(b)));
        let zero = zeros[value];
        let channels = if zero.is_some() { shape.channels.div_ceil(4) } else { shape.channels };
        let stride = if is_narrow(net, value, channels, algorithms) {
            channels
        } else if zero.is_some() {
            stride_of(channels, CHANNEL_BLOCK as usize / 4)
        } else {
            stride_of(channels, CHANNEL_BLOCK as usize)
        };
        let map = Map {
            height: shape.height as u32,
            width: shape.width as u32,
            channels: channels as u32,
            stride: stride as u32,
            halo: halos[value].map(|h| h as u32),
            offset: 0,
            zero,
        };
        spans.push(Span { value, map, first, last });
    }
    place(&mut spans);
    let mut map_of = vec![None; net.values.len()];
    for (index, span) in spans.iter().enumerate() {
        for value in 0..net.values.len() {
            if home[value] == span.value && lives[value].is_some() {
                map_of[value] = Some(index as u32);
            }
        }
    }
    let end = |s: &Span| s.map.offset + s.map.floats();
    let arena = spans.iter().map(end).max().unwrap_or(0).next_multiple_of(LINE);
    Layout { maps: spans.into_iter().map(|s| s.map).collect(), map_of, arena }
}

/// Floats from pixel to pixel: whole blocks, but not a multiple of 4096 bytes, because neighbouring pixels
/// would then evict each other from the L1 cache.
fn stride_of(channels: usize, block: usize) -> usize {
    let stride = channels.next_multiple_of(block);
    if stride.is_multiple_of(128) { stride + 16 } else { stride }
}

/// The byte that stands for 0 in each value of bytes.
fn zeros(net: &Net) -> Vec<Option<u8>> {
    let mut zeros = vec![None; net.values.len()];
    for layer in &net.layers {
        if let Kind::Quantize { zero, .. } = layer.kind {
            zeros[layer.output] = Some(zero);
        }
        if let Some(rounded) = &layer.rounded {
            zeros[rounded.value] = Some(rounded.zero);
        }
    }
    zeros
}

/// A map, and the first and last layer that need it; layer 0 stands for loading the inputs.
struct Span {
    value: ValueId,
    map: Map,
    first: usize,
    last: usize,
}

/// The first and last layer (counted from 1) that use each value; `None` if unused.
fn lives(net: &Net) -> Vec<Option<(usize, usize)>> {
    let mut lives: Vec<Option<(usize, usize)>> = vec![None; net.values.len()];
    let mut touch = |value: ValueId, at: usize| {
        let (first, last) = lives[value].unwrap_or((at, at));
        lives[value] = Some((first.min(at), last.max(at)));
    };
    for spec in &net.inputs {
        touch(spec.value, 0);
    }
    for (i, layer) in net.layers.iter().enumerate() {
        touch(layer.output, i + 1);
        if let Kind::Conv(conv) = &layer.kind
            && let Some(means) = conv.means
        {
            touch(means, i + 1);
        }
        if let Some(rounded) = &layer.rounded {
            touch(rounded.value, i + 1);
        }
        let until = if is_paired(net, i) { i + 2 } else { i + 1 };
        for value in layer.reads() {
            touch(value, until);
        }
    }
    for spec in &net.outputs {
        touch(spec.value, net.layers.len() + 1);
    }
    lives
}

/// Whether this layer is a convolution paired with the depthwise one after it, and so still reads its input
/// while the depthwise one writes.
fn is_paired(net: &Net, layer: usize) -> bool {
    let (Some(first), Some(second)) = (net.layers.get(layer), net.layers.get(layer + 1)) else {
        return false;
    };
    let (Kind::Conv(expand), Kind::Conv(depthwise)) = (&first.kind, &second.kind) else {
        return false;
    };
    let shape = net.values[first.output];
    !expand.is_depthwise()
        && depthwise.is_depthwise()
        && second.inputs.first() == Some(&first.output)
        && can_be_sliced(shape.height, shape.width)
}

/// The value whose map each value uses: a binary layer overwrites an operand that has no later reader, and a
/// convolution on integers, whose inputs are bytes, the residual.
fn homes(net: &Net, lives: &[Option<(usize, usize)>]) -> Vec<ValueId> {
    let mut home: Vec<ValueId> = (0..net.values.len()).collect();
    for (i, layer) in net.layers.iter().enumerate() {
        if layer.rounded.is_some_and(|rounded| rounded.value == layer.output) {
            continue;
        }
        let mut replaceable = Vec::new();
        match &layer.kind {
            Kind::Binary { a, b, .. } => {
                replaceable.extend([a, b].into_iter().filter_map(|arg| match arg {
                    Arg::Value(value) => Some(*value),
                    Arg::Constant { .. } => None,
                }));
            }
            Kind::Conv(conv) if conv.sums.is_some() => replaceable.extend(conv.residual),
            _ => {}
        }
        let fits = |v: &ValueId| {
            let ends = lives[*v].is_some_and(|(_, last)| last == i + 1);
            let spec = net.inputs.iter().any(|p| p.value == *v);
            ends && !spec && net.values[*v] == net.values[layer.output]
        };
        if let Some(value) = replaceable.into_iter().find(fits) {
            home[layer.output] = home[value];
        }
    }
    home
}

/// The zeros that a layer reads around its first input.
fn needed(net: &Net, layer: &Layer, algorithm: Algorithm) -> Option<[usize; 4]> {
    let Kind::Conv(conv) = &layer.kind else { return None };
    let (input, output) = (net.values[*layer.inputs.first()?], net.values[layer.output]);
    let side = algorithm.tile() as usize;
    let after = |axis: usize, size: usize, outputs: usize| {
        let pad = conv.moving.pads[axis];
        let reads = if side == 0 {
            (outputs - 1) * conv.moving.stride[axis] + conv.moving.kernel[axis]
        } else {
            outputs.next_multiple_of(side) + 2
        };
        reads.saturating_sub(size + pad)
    };
    let below = after(0, input.height, output.height);
    let right = after(1, input.width, output.width);
    Some([conv.moving.pads[0], conv.moving.pads[1], below, right])
}

/// Whether a value is an input with few channels, read by direct dense convolutions only, so that its
/// pixels need no padding between them.
fn is_narrow(net: &Net, value: ValueId, channels: usize, algorithms: &[Algorithm]) -> bool {
    let is_input = net.inputs.iter().any(|input| input.value == value);
    let mut readers = net.layers.iter().zip(algorithms).filter(|(l, _)| l.reads().contains(&value));
    is_input
        && channels < CHANNEL_BLOCK as usize
        && readers.all(|(layer, algorithm)| match &layer.kind {
            Kind::Conv(conv) => {
                *algorithm == Algorithm::Direct
                    && !conv.is_depthwise()
                    && conv.residual != Some(value)
            }
            _ => false,
        })
        && !net.outputs.iter().any(|output| output.value == value)
}

/// Gives each map, largest first, the lowest offset that is free while the map is needed.
fn place(spans: &mut [Span]) {
    let mut order: Vec<usize> = (0..spans.len()).collect();
    order.sort_by_key(|i| (std::cmp::Reverse(spans[*i].map.floats()), *i));
    let mut placed: Vec<usize> = Vec::new();
    for index in order {
        let size = spans[index].map.floats().next_multiple_of(LINE);
        let mut taken: Vec<(u64, u64)> = placed
            .iter()
            .map(|p| &spans[*p])
            .filter(|s| s.first <= spans[index].last && spans[index].first <= s.last)
            .map(|s| (s.map.offset, s.map.offset + s.map.floats().next_multiple_of(LINE)))
            .collect();
        taken.sort_unstable();
        let mut offset = 0;
        for (start, end) in taken {
            if offset + size <= start {
                break;
            }
            offset = offset.max(end);
        }
        spans[index].map.offset = offset;
        placed.push(index);
    }
}
