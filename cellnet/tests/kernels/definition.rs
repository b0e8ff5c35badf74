//! The reference for testing kernels: every layer by its definition, in double precision. It is slow
//! because it shares no code with the kernels.

use cellnet::internals::{
    Arg, AttentionLayer, ConvLayer, Exact, Kind, Layer, Moving, Net, Shape, convolve, inside,
};
use cellnet::plan::{Activation, BinaryOp, Pooling};

/// How layers read values, and make them.
trait ByElement: Sized {
    /// The element, with axes of length one repeated.
    fn repeated(&self, y: usize, x: usize, c: usize) -> f64;

    /// The same value, with a magnitude of at least `size`.
    fn beside(self, size: f64) -> Self;

    /// A value computed element by element.
    fn build(shape: Shape, f: impl Fn(usize, usize, usize) -> f64) -> Self;
}

impl ByElement for Exact {
    fn repeated(&self, y: usize, x: usize, c: usize) -> f64 {
        self.at(
            y.min(self.shape.height - 1),
            x.min(self.shape.width - 1),
            c.min(self.shape.channels - 1),
        )
    }

    fn beside(self, size: f64) -> Self {
        Self { magnitude: self.magnitude.max(size), ..self }
    }

    fn build(shape: Shape, f: impl Fn(usize, usize, usize) -> f64) -> Self {
        let mut values = Vec::with_capacity(shape.pixels() * shape.channels);
        for y in 0..shape.height {
            for x in 0..shape.width {
                values.extend((0..shape.channels).map(|c| f(y, x, c)));
            }
        }
        Self::new(shape, values)
    }
}

/// Error function by its Taylor series (small arguments) or continued fraction.
fn erf(x: f64) -> f64 {
    if x.abs() < 3.0 {
        let (mut term, mut sum) = (x, x);
        for n in 1..80 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        return sum * std::f64::consts::FRAC_2_SQRT_PI;
    }
    let mut fraction = 0.0;
    for n in (1..60).rev() {
        fraction = f64::from(n) / 2.0 / (x.abs() + fraction);
    }
    let tail = (-x * x).exp() / ((x.abs() + fraction) * std::f64::consts::PI.sqrt());
    (1.0 - tail).copysign(x)
}

/// The activation by its definition.
pub fn activate(activation: Activation, x: f64) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    match activation {
        Activation::None => x,
        Activation::Clip { low, high } => x.max(f64::from(low)).min(f64::from(high)),
        Activation::Sigmoid => sigmoid(x),
        Activation::Silu | Activation::ShortSilu | Activation::FixedSilu { .. } => x * sigmoid(x),
        Activation::HardSigmoid { alpha, beta } => {
            (f64::from(alpha) * x + f64::from(beta)).clamp(0.0, 1.0)
        }
        Activation::HardSwish => x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
        Activation::Gelu => x / 2.0 * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2)),
        Activation::Erf => erf(x),
        Activation::Tanh => x.tanh(),
        Activation::Exp => x.exp(),
        Activation::Abs => x.abs(),
        Activation::Sqrt => x.sqrt(),
        Activation::Reciprocal => 1.0 / x,
        Activation::Step => f64::from(u8::from(x > 0.0)),
        Activation::Quantize { scale, low, high } => {
            let steps = (x / f64::from(scale)).round_ties_even();
            steps.max(f64::from(low)).min(f64::from(high)) * f64::from(scale)
        }
        Activation::LeakyRelu { slope } => {
            if x > 0.0 {
                x
            } else {
                x * f64::from(slope)
            }
        }
        Activation::Elu { alpha, scale } => {
            f64::from(scale) * if x > 0.0 { x } else { f64::from(alpha) * x.exp_m1() }
        }
    }
}

fn mean_of(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn pooled(values: &[f64], pooling: Pooling, window: usize) -> f64 {
    match pooling {
        Pooling::Max => values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        Pooling::Mean => mean_of(values),
        Pooling::MeanWithPadding => values.iter().sum::<f64>() / window as f64,
        Pooling::Sum => values.iter().sum(),
    }
}

/// Values of all layers, inputs first, in the order of [`Net::values`].
pub fn run(net: &Net, inputs: &[Exact]) -> Vec<Option<Exact>> {
    let mut values: Vec<Option<Exact>> = vec![None; net.values.len()];
    for (spec, input) in net.inputs.iter().zip(inputs) {
        values[spec.value] = Some(input.clone());
    }
    for layer in &net.layers {
        let (value, means) = compute(net, layer, &values);
        if let (Kind::Conv(ConvLayer { means: Some(to), .. }), Some(means)) = (&layer.kind, means) {
            values[*to] = Some(means);
        }
        if let Some(rounded) = &layer.rounded {
            values[rounded.value] = Some(quantized(&value, rounded.scale, rounded.zero));
        }
        if layer.rounded.is_none_or(|rounded| rounded.value != layer.output) {
            values[layer.output] = Some(value);
        }
    }
    values
}

fn compute(net: &Net, layer: &Layer, values: &[Option<Exact>]) -> (Exact, Option<Exact>) {
    let shape = net.values[layer.output];
    let get = |v: usize| values[v].as_ref().expect("layers are in order");
    let input = || get(layer.inputs[0]);
    let layer_inputs = &layer.inputs;
    let per_channel = |scale: &[f32], bias: &[f32], c: usize, x: f64| {
        x * f64::from(scale.get(c).copied().unwrap_or(1.0))
            + f64::from(bias.get(c).copied().unwrap_or(0.0))
    };
    let value = match &layer.kind {
        Kind::Conv(conv) => return convolution(conv, input(), conv.residual.map(get), shape),
        Kind::Pool { moving, pooling } => pool(input(), moving, *pooling, shape),
        Kind::Reduce { pooling, activation } => reduce(input(), *pooling, *activation, shape),
        Kind::Affine { scale, bias, activation } => Exact::build(shape, |y, x, c| {
            activate(*activation, per_channel(scale, bias, c, input().at(y, x, c)))
        })
        .beside(largest(bias))
        .beside(whole(*activation)),
        Kind::Concat { scale, bias, activation } => Exact::build(shape, |y, x, c| {
            let parts: Vec<&Exact> = layer.inputs.iter().map(|v| get(*v)).collect();
            activate(*activation, per_channel(scale, bias, c, joined(&parts, y, x, c)))
        })
        .beside(largest(bias)),
        Kind::Binary { op, a, b, activation } => {
            let side = |arg: &Arg| match arg {
                Arg::Value(v) => get(*v).clone(),
                Arg::Constant { shape, values } => {
                    Exact::new(*shape, values.iter().map(|v| f64::from(*v)).collect())
                }
            };
            let (a, b) = (side(a), side(b));
            Exact::build(shape, |y, x, c| {
                activate(*activation, binary(*op, a.repeated(y, x, c), b.repeated(y, x, c)))
            })
            .beside(a.magnitude.max(b.magnitude))
        }
        Kind::Quantize { scale, zero } => quantized(input(), *scale, *zero),
        Kind::Softmax => {
            let from = input();
            let total = |y: usize, x: usize| -> f64 {
                (0..shape.channels).map(|c| from.at(y, x, c).exp()).sum()
            };
            Exact::build(shape, |y, x, c| from.at(y, x, c).exp() / total(y, x))
        }
        Kind::Norm { epsilon, scale, bias } => norm(input(), f64::from(*epsilon), scale, bias),
        Kind::Attention(layer) => attention(layer, [0, 1, 2].map(|i| get(layer_inputs[i])), shape),
        Kind::Slice { first } => Exact::build(shape, |y, x, c| input().at(y, x, first + c)),
        Kind::Shuffle { first, groups } => shuffled(input(), (*first, *groups), shape),
        Kind::Prepend { head } => prepended(input(), head, shape),
        Kind::DynamicQuantize => dynamically_quantized(input(), shape),
        Kind::Product => {
            let (a, b) = (input(), get(layer.inputs[1]));
            let width = a.shape.width;
            let terms = |y: usize, x: usize, i: usize| {
                (0..a.shape.channels).map(move |c| a.at(i / width, i % width, c) * b.at(y, x, c))
            };
            let sizes = Exact::build(shape, |y, x, i| terms(y, x, i).map(f64::abs).sum());
            Exact::build(shape, |y, x, i| terms(y, x, i).sum()).beside(sizes.magnitude)
        }
    };
    (value, None)
}

/// Channels from `first` on, one of each group in turn.
fn shuffled(input: &Exact, (first, groups): (usize, usize), shape: Shape) -> Exact {
    let each = input.shape.channels / groups;
    let from = |c: usize| (first + c) % groups * each + (first + c) / groups;
    Exact::build(shape, |y, x, c| input.at(y, x, from(c)))
}

/// Constant pixels before those of a value.
fn prepended(input: &Exact, head: &[f32], shape: Shape) -> Exact {
    let (more, width) = (head.len() / shape.channels, input.shape.width);
    Exact::build(shape, |_, x, c| match x.checked_sub(more) {
        Some(pixel) => input.at(pixel / width, pixel % width, c),
        None => f64::from(head[x * shape.channels + c]),
    })
}

/// Layer norm of every pixel. An input's rounding errors grow by the inverse of the deviation.
fn norm(input: &Exact, epsilon: f64, scale: &[f32], bias: &[f32]) -> Exact {
    let channels = input.shape.channels;
    let pixel = |y: usize, x: usize| (0..channels).map(move |c| input.at(y, x, c));
    let moments = |y: usize, x: usize| {
        let mean = pixel(y, x).sum::<f64>() / channels as f64;
        let variance = pixel(y, x).map(|v| (v - mean).powi(2)).sum::<f64>() / channels as f64;
        (mean, 1.0 / (variance + epsilon).sqrt())
    };
    let grown = Exact::build(input.shape, |y, x, c| {
        f64::from(scale[c]).abs() * input.magnitude * moments(y, x).1
    });
    Exact::build(input.shape, |y, x, c| {
        let (mean, inverse) = moments(y, x);
        (input.at(y, x, c) - mean) * inverse * f64::from(scale[c]) + f64::from(bias[c])
    })
    .beside(grown.magnitude + largest(bias))
}

/// Attention by its definition.
fn attention(layer: &AttentionLayer, inputs: [&Exact; 3], shape: Shape) -> Exact {
    let ([query, key, value], [rows, columns]) = (inputs, layer.groups);
    // The group of a pixel, and its index in it.
    let place = |of: Shape, y: usize, x: usize| {
        let y = (y + of.height - layer.shift[0]) % of.height;
        let x = (x + of.width - layer.shift[1]) % of.width;
        let (high, wide) = (of.height / rows, of.width / columns);
        match layer.is_near {
            true => (y / high * columns + x / wide, y % high * wide + x % wide),
            false => (y % rows * columns + x % columns, y / rows * wide + x / columns),
        }
    };
    let keys = key.shape.pixels() / (rows * columns);
    let queries = shape.pixels() / (rows * columns);
    // Sums with a summand are of float32, because a very small one takes everything.
    let plus = |score: f64, values: &[f32], of: usize, query: usize, key: usize| {
        let summand = values.get((of * queries + query) * keys + key);
        summand.map_or(score, |summand| f64::from(score as f32 + summand))
    };
    let sizes = layer.head as f64 * query.magnitude * key.magnitude * f64::from(layer.scale.abs());
    let sizes = sizes + largest(&layer.bias) + largest(&layer.mask).min(10.0);
    Exact::build(shape, |y, x, c| {
        let head = c / layer.value_head;
        let (group, own) = place(shape, y, x);
        let all = (0..key.shape.height).flat_map(|v| (0..key.shape.width).map(move |u| (v, u)));
        let mut scores = Vec::new();
        for (v, u) in all {
            let (other, index) = place(key.shape, v, u);
            if other != group {
                continue;
            }
            let channels = head * layer.head..(head + 1) * layer.head;
            let terms = channels
                .map(|c| query.at(y, x, layer.first[0] + c) * key.at(v, u, layer.first[1] + c));
            let score = terms.sum::<f64>() * f64::from(layer.scale);
            let score = plus(score, &layer.bias, head, own, index);
            let score = plus(score, &layer.mask, group, own, index);
            scores.push((score, value.at(v, u, layer.first[2] + c)));
        }
        let most = scores.iter().fold(f64::MIN, |most, (score, _)| most.max(*score));
        let powers = scores.iter().map(|(score, value)| ((score - most).exp(), value));
        let (total, sum) = powers
            .fold((0.0, 0.0), |(total, sum), (power, value)| (total + power, sum + power * value));
        sum / total
    })
    .beside(value.magnitude * (1.0 + sizes))
}

/// The bytes that stand for a value.
/// The values that bytes between the least and the greatest stand for, by the definition of ONNX's
/// `DynamicQuantizeLinear`, in its own float32.
fn dynamically_quantized(input: &Exact, shape: Shape) -> Exact {
    let bound = |start: f32, join: fn(f32, f32) -> f32| {
        input.values.iter().fold(start, |bound, value| join(bound, *value as f32))
    };
    let (low, high) = (bound(0.0, f32::min), bound(0.0, f32::max));
    let scale = (high - low) / 255.0;
    let zero = (-low / scale).round_ties_even();
    Exact::build(shape, |y, x, c| {
        let byte = ((input.at(y, x, c) as f32 / scale).round_ties_even() + zero).clamp(0.0, 255.0);
        f64::from((byte - zero) * scale)
    })
}

fn quantized(value: &Exact, scale: f32, zero: u8) -> Exact {
    Exact::build(value.shape, |y, x, c| {
        let steps = (value.at(y, x, c) as f32 / scale).round_ties_even();
        f64::from((steps + f32::from(zero)).clamp(0.0, 255.0))
    })
}

/// The minuend of an activation that is computed as a difference, else 0.
fn whole(activation: Activation) -> f64 {
    match activation {
        // Both are 1 minus a term, so small results carry the rounding error of 1.
        Activation::Tanh | Activation::Erf => 1.0,
        _ => 0.0,
    }
}

fn largest(values: &[f32]) -> f64 {
    values.iter().fold(0.0, |m, v| f64::from(v.abs()).max(m))
}

/// Element `c` of the concatenated channels of all parts.
fn joined(parts: &[&Exact], y: usize, x: usize, c: usize) -> f64 {
    let mut own = c;
    for part in parts {
        if own < part.shape.channels {
            return part.at(y, x, own);
        }
        own -= part.shape.channels;
    }
    f64::NAN
}

/// A whole convolution layer and the means of its channels.
fn convolution(
    conv: &ConvLayer,
    input: &Exact,
    residual: Option<&Exact>,
    shape: Shape,
) -> (Exact, Option<Exact>) {
    let sums = convolve(input, conv, shape);
    let value = Exact::build(shape, |y, x, c| {
        let residual = residual.map_or(0.0, |r| r.at(y, x, c));
        let sum = sums.at(y, x, c);
        if conv.activate_last {
            activate(conv.activation, sum + residual)
        } else {
            activate(conv.activation, sum) + residual
        }
    });
    // The input carries rounding errors relative to its own magnitude, and each weight passes them on.
    let row = conv.weights.len() / conv.outputs;
    let passed = conv.weights.chunks(row).map(|w| w.iter().map(|w| f64::from(w.abs())).sum());
    // Sums of integers have none.
    let exact = conv.sums.is_some();
    let passed = if exact { 0.0 } else { passed.fold(0.0, f64::max) * input.magnitude };
    let value = value.beside(passed).beside(residual.map_or(0.0, |r| r.magnitude));
    let channel = |c: usize| -> Vec<f64> {
        value.values.iter().skip(c).step_by(shape.channels).copied().collect()
    };
    let means = Exact::build(Shape::vector(shape.channels), |_, _, c| mean_of(&channel(c)))
        .beside(value.magnitude);
    (value, Some(means))
}

fn pool(input: &Exact, moving: &Moving, pooling: Pooling, shape: Shape) -> Exact {
    let [ky, kx] = moving.kernel;
    Exact::build(shape, |y, x, c| {
        let places = (0..ky).flat_map(|dy| (0..kx).map(move |dx| (dy, dx)));
        let pixels = places.filter_map(|d| inside(moving, input.shape, (y, x), d));
        let values: Vec<f64> = pixels.map(|(y, x)| input.at(y, x, c)).collect();
        pooled(&values, pooling, ky * kx)
    })
    .beside(input.magnitude)
}

/// One number for each channel, over all its pixels.
fn reduce(input: &Exact, pooling: Pooling, activation: Activation, shape: Shape) -> Exact {
    let channel = |c: usize| -> Vec<f64> {
        input.values.iter().skip(c).step_by(input.shape.channels).copied().collect()
    };
    let terms = if pooling == Pooling::Sum { input.shape.pixels() } else { 1 };
    Exact::build(shape, |_, _, c| activate(activation, pooled(&channel(c), pooling, 1)))
        .beside(input.magnitude * terms as f64)
}

fn binary(op: BinaryOp, a: f64, b: f64) -> f64 {
    match op {
        BinaryOp::Add => a + b,
        BinaryOp::Sub => a - b,
        BinaryOp::Mul => a * b,
        BinaryOp::Div => a / b,
        BinaryOp::Max => a.max(b),
        BinaryOp::Min => a.min(b),
        BinaryOp::Greater => f64::from(u8::from(a > b)),
        BinaryOp::GreaterOrEqual => f64::from(u8::from(a >= b)),
    }
}
