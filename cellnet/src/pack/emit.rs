//! Turns layers into the plan's steps, and packs their weights in the order of execution.

use super::is_halved;
use super::layout::Layout;
use super::net::{Arg, ConvLayer, Kind, Layer, Moving, Net, NetTensor, ValueId};
use super::weights::{Section, depthwise, halve, regroup, whole};
use crate::plan::{
    Affine, Algorithm, Attention, Binary, Blob, CHANNEL_BLOCK, Conv, Depthwise, DynamicQuantize,
    Norm, Operand, Plan, Pool, Prepend, Product, Quantize, Reduce, Rounding, Shuffle, Slice,
    Softmax, Step, Sums, TensorSpec, Window,
};

/// The plan and weights of a net that has been laid out. Dense and grouped convolutions of at least `halved`
/// weights store them in 16 bits, and so do large ones whose weights the graph has in 16 bits or fewer.
pub fn emit(
    net: &Net,
    algorithms: &[Algorithm],
    layout: Layout,
    halved: usize,
) -> (Plan, Vec<f32>) {
    let mut emitter =
        Emitter { net, layout: &layout, section: Section::default(), steps: Vec::new(), halved };
    for (layer, algorithm) in net.layers.iter().zip(algorithms) {
        emitter.layer(layer, *algorithm);
    }
    let (steps, section) = (emitter.steps, emitter.section);
    let spec = |p: &NetTensor| TensorSpec {
        name: p.name.clone(),
        dtype: p.dtype,
        dims: p.dims.iter().map(|d| *d as u32).collect(),
        order: p.order,
        map: layout.map_of[p.value].unwrap_or(u32::MAX),
        scale: filled(&p.scale, net.values[p.value].channels, 1.0),
        bias: filled(&p.bias, net.values[p.value].channels, 0.0),
    };
    let plan = Plan {
        inputs: net.inputs.iter().map(spec).collect(),
        outputs: net.outputs.iter().map(spec).collect(),
        arena: layout.arena,
        maps: layout.maps,
        steps,
    };
    (plan, section.floats)
}

/// A value for each channel, or none if all are the default.
fn filled(values: &[f32], channels: usize, default: f32) -> Vec<f32> {
    let mut values = values.to_vec();
    if !values.is_empty() {
        values.resize(channels, default);
    }
    values
}

/// The values of pixels, `stride` floats each.
fn padded(values: &[f32], channels: usize, stride: usize) -> Vec<f32> {
    let mut padded = Vec::with_capacity(values.len() / channels.max(1) * stride);
    for pixel in values.chunks(channels.max(1)) {
        padded.extend_from_slice(pixel);
        padded.resize(padded.len() + stride - channels, 0.0);
    }
    padded
}

struct Emitter<'a> {
    net: &'a Net,
    layout: &'a Layout,
    section: Section,
    steps: Vec<Step>,
    halved: usize,
}

fn window(moving: &Moving) -> Window {
    Window {
        kernel: moving.kernel.map(|k| k as u32),
        stride: moving.stride.map(|s| s as u32),
        pad: [moving.pads[0] as u32, moving.pads[1] as u32],
    }
}

impl Emitter<'_> {
    /// An unread value has no map; its index then fails the plan's check.
    fn map(&self, value: ValueId) -> u32 {
        self.layout.map_of.get(value).copied().flatten().unwrap_or(u32::MAX)
    }

    fn stride(&self, value: ValueId) -> usize {
        self.layout.maps.get(self.map(value) as usize).map_or(0, |m| m.stride as usize)
    }

    fn layer(&mut self, layer: &Layer, algorithm: Algorithm) {
        let input = layer.inputs.first().map_or(u32::MAX, |v| self.map(*v));
        let output = self.map(layer.output);
        let step = match &layer.kind {
            Kind::Conv(conv) if conv.is_depthwise() => self.depthwise(layer, conv),
            Kind::Conv(conv) => self.conv(layer, conv, algorithm),
            Kind::Pool { moving, pooling } => {
                Step::Pool(Pool { input, output, window: window(moving), pooling: *pooling })
            }
            Kind::Reduce { pooling, activation } => {
                Step::Reduce(Reduce { input, output, pooling: *pooling, activation: *activation })
            }
            Kind::Affine { scale, bias, activation } => {
                let stride = layer.inputs.first().map_or(0, |v| self.stride(*v));
                let (scale, bias) = (self.channels(scale, stride), self.channels(bias, stride));
                let activation = *activation;
                Step::Affine(Affine { input, output, first: 0, scale, bias, activation })
            }
            Kind::Concat { .. } => return self.concat(layer),
            Kind::Binary { op, a, b, activation } => {
                let (a, b) = (self.operand(a), self.operand(b));
                let scale = layer.rounded.map(|rounded| rounded.scale);
                Step::Binary(Binary { op: *op, a, b, output, activation: *activation, scale })
            }
            Kind::Quantize { scale, .. } => {
                Step::Quantize(Quantize { input, output, scale: *scale })
            }
            Kind::Softmax => Step::Softmax(Softmax { input, output }),
            Kind::DynamicQuantize => Step::DynamicQuantize(DynamicQuantize { input, output }),
            Kind::Norm { .. }
            | Kind::Attention(_)
            | Kind::Slice { .. }
            | Kind::Shuffle { .. }
            | Kind::Prepend { .. } => self.pixels(layer),
            Kind::Product => {
                let b = layer.inputs.get(1).map_or(u32::MAX, |v| self.map(*v));
                Step::Product(Product { a: input, b, output })
            }
        };
        self.steps.push(step);
    }

    /// Layer norm, attention, and copies of a part of a map.
    fn pixels(&mut self, layer: &Layer) -> Step {
        let map = |i: usize| layer.inputs.get(i).map_or(u32::MAX, |v| self.map(*v));
        let ([input, key, value], output) = ([0, 1, 2].map(map), self.map(layer.output));
        let stride = self.stride(layer.output);
        match &layer.kind {
            Kind::Norm { epsilon, scale, bias } => {
                let scale = self.section.push_channels(scale, stride);
                let bias = self.section.push_channels(bias, stride);
                Step::Norm(Norm { input, output, epsilon: *epsilon, scale, bias })
            }
            Kind::Attention(attention) => {
                let sides = layer.inputs.get(1).map(|v| self.net.values[*v].pixels());
                let keys = sides.unwrap_or(0) / attention.groups.iter().product::<usize>().max(1);
                Step::Attention(Attention {
                    query: input,
                    key,
                    value,
                    first: attention.first.map(|n| n as u32),
                    output,
                    heads: attention.heads as u32,
                    head: attention.head as u32,
                    value_head: attention.value_head as u32,
                    scale: attention.scale,
                    groups: attention.groups.map(|n| n as u32),
                    is_near: attention.is_near,
                    shift: attention.shift.map(|n| n as u32),
                    bias: self.summands(&attention.bias, keys),
                    mask: self.summands(&attention.mask, keys),
                })
            }
            Kind::Prepend { head } => {
                let channels = self.net.values[layer.output].channels;
                let head = padded(head, channels, stride);
                Step::Prepend(Prepend { input, output, head: self.section.push(&head) })
            }
            Kind::Slice { first } => Step::Slice(Slice { input, output, first: *first as u32 }),
            Kind::Shuffle { first, groups } => Step::Shuffle(Shuffle {
                input,
                output,
                first: *first as u32,
                groups: *groups as u32,
            }),
            _ => Step::Slice(Slice { input, output, first: u32::MAX }),
        }
    }

    /// Summands of attention's scores, whole blocks of them for each query.
    fn summands(&mut self, values: &[f32], keys: usize) -> Option<Blob> {
        let wide = keys.next_multiple_of(CHANNEL_BLOCK as usize);
        (!values.is_empty()).then(|| self.section.push(&padded(values, keys, wide)))
    }

    fn channels(&mut self, values: &[f32], stride: usize) -> Option<Blob> {
        if values.is_empty() { None } else { Some(self.section.push_channels(values, stride)) }
    }

    fn depthwise(&mut self, layer: &Layer, conv: &ConvLayer) -> Step {
        let stride = self.stride(layer.output);
        Step::Depthwise(Depthwise {
            input: layer.inputs.first().map_or(u32::MAX, |v| self.map(*v)),
            output: self.map(layer.output),
            means: conv.means.map(|m| self.map(m)),
            window: window(&conv.moving),
            weights: self.section.push(&depthwise(conv, stride)),
            bias: self.section.push_channels(&conv.bias, stride),
            activation: conv.activation,
        })
    }

    fn conv(&mut self, layer: &Layer, conv: &ConvLayer, algorithm: Algorithm) -> Step {
        let grouped = regroup(conv);
        let (mut sums, mut inputs) = (None, grouped.inputs);
        let packed = if let Some(layer) = &conv.sums {
            let whole = whole(&grouped, layer.zero);
            inputs = inputs.div_ceil(4);
            sums = Some(Sums {
                start: self.section.push(&whole.start),
                factors: self.section.push(&grouped.bias(&layer.factors)),
                is_narrow: whole.is_narrow,
            });
            whole.weights
        } else {
            grouped.pack(algorithm)
        };
        let (weights, scales) = if is_halved(conv, self.halved) {
            let halved = halve(&packed, grouped.inputs, grouped.panel);
            (self.section.push(&halved.weights), Some(self.section.push(&halved.scales)))
        } else {
            (self.section.push(&packed), None)
        };
        let rounding = layer
            .rounded
            .map(|rounded| Rounding { output: self.map(rounded.value), scale: rounded.scale });
        Step::Conv(Conv {
            input: layer.inputs.first().map_or(u32::MAX, |v| self.map(*v)),
            output: self.map(layer.output),
            residual: conv.residual.map(|r| self.map(r)),
            window: window(&conv.moving),
            groups: grouped.groups as u32,
            group_inputs: inputs as u32,
            group_outputs: grouped.outputs as u32,
            panel: grouped.panel as u32,
            weights,
            scales,
            sums,
            bias: self.section.push(&grouped.bias(&conv.bias)),
            activation: conv.activation,
            activate_last: conv.activate_last,
            rounding,
            algorithm,
        })
    }

    /// One affine step for each input, which writes that input's channels of the output.
    fn concat(&mut self, layer: &Layer) {
        let Kind::Concat { scale, bias, activation } = &layer.kind else { return };
        let mut first = 0;
        for value in &layer.inputs {
            let channels = self.net.values[*value].channels;
            let stride = self.stride(*value);
            let part = |values: &[f32]| {
                values.get(first..first + channels).map(<[f32]>::to_vec).unwrap_or_default()
            };
            let (scale, bias) = (part(scale), part(bias));
            let step = Affine {
                input: self.map(*value),
                output: self.map(layer.output),
                first: first as u32,
                scale: self.channels(&scale, stride),
                bias: self.channels(&bias, stride),
                activation: *activation,
            };
            self.steps.push(Step::Affine(step));
            first += channels;
        }
    }

    fn operand(&mut self, arg: &Arg) -> Operand {
        let (shape, values) = match arg {
            Arg::Value(value) => return Operand::Map(self.map(*value)),
            Arg::Constant { shape, values } => (shape, values),
        };
        let channels = shape.channels;
        let stride =
            if channels == 1 { 1 } else { channels.next_multiple_of(CHANNEL_BLOCK as usize) };
        let packed = padded(values, channels, stride);
        Operand::Constant {
            height: shape.height as u32,
            width: shape.width as u32,
            channels: channels as u32,
            values: self.section.push(&packed),
        }
    }
}
