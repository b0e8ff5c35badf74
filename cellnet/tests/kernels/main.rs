//! Kernels compared with the definition, on shapes that do not fill vectors, on every available instruction
//! set, with one and with three threads. Results must not depend on threads or repetition.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test whose plan cannot be run has failed"
)]

use cellnet::internals::{
    Arg, ConvLayer, Exact, Kind, Moving, Net, NetTensor, Shape, Stage, emit, lay_out, stages,
};
use cellnet::plan::{Activation, Algorithm, BinaryOp, Blob, Dtype, Order, Plan, Pooling, Step};
use cellnet::{Isa, Model, Pool, TensorRef, Workspace, format};
use proptest::prelude::*;

use definition::run;

mod definition;
mod halved;
mod joined;
mod quantized;
mod stages;
mod sums;
mod tokens;

/// Shapes tried for each property; fewer under Miri, which takes a minute for a millisecond's work.
const CASES: u32 = if cfg!(miri) { 3 } else { 48 };
/// Largest side and channel count of a map; smaller under Miri.
const SIDE: usize = if cfg!(miri) { 4 } else { 20 };
const CHANNELS: usize = if cfg!(miri) { 16 } else { 120 };

/// Numbers from a seed, in -1..1.
fn noise(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn spec(name: &str, shape: Shape, value: usize) -> NetTensor {
    NetTensor {
        name: name.to_owned(),
        dtype: Dtype::F32,
        dims: vec![1, shape.height, shape.width, shape.channels],
        order: Order::ChannelsLast,
        value,
        scale: Vec::new(),
        bias: Vec::new(),
    }
}

/// A net of inputs of the given shapes, to which layers are added.
fn net_of(inputs: &[Shape]) -> Net {
    let mut net = Net::default();
    for (i, shape) in inputs.iter().enumerate() {
        let value = net.value(*shape);
        net.inputs.push(spec(&format!("in{i}"), *shape, value));
    }
    net
}

/// Runs the net on every instruction set, with one thread and with three, and compares each output with the
/// definition. `tolerance` is relative to the magnitude of the summed terms.
fn check(net: &mut Net, outputs: &[usize], algorithm: Algorithm, tolerance: f64) {
    for (i, value) in outputs.iter().enumerate() {
        let output = spec(&format!("out{i}"), net.values[*value], *value);
        net.outputs.push(output);
    }
    let given: Vec<Vec<f32>> = net
        .inputs
        .iter()
        .enumerate()
        .map(|(i, p)| noise(i as u64 + 5, p.dims.iter().product()))
        .collect();
    let exact: Vec<Exact> = net
        .inputs
        .iter()
        .zip(&given)
        .map(|(p, v)| Exact::new(net.values[p.value], v.iter().map(|x| f64::from(*x)).collect()))
        .collect();
    let expected = run(net, &exact);
    let algorithms: Vec<Algorithm> = net
        .layers
        .iter()
        .map(|l| if matches!(l.kind, Kind::Conv(_)) { algorithm } else { Algorithm::Direct })
        .collect();
    check_halved(net, &algorithms, &given);
    let layout = lay_out(net, &algorithms);
    let (plan, weights) = emit(net, &algorithms, layout, usize::MAX);
    let model = model_of(&plan, weights);
    let tensors: Vec<(&str, TensorRef<'_>)> =
        net.inputs.iter().zip(&given).map(|(p, v)| (p.name.as_str(), TensorRef::F32(v))).collect();
    for isa in Isa::available() {
        let mut first = None;
        for threads in [1, 3] {
            let mut workspace = Workspace::with_isa(&model, isa);
            let got = model.run(&mut workspace, &Pool::new(threads), &tensors).unwrap();
            for ((name, tensor), value) in got.iter().zip(outputs) {
                let want = expected[*value].as_ref().unwrap();
                let errors = tensor.values.iter().zip(&want.values);
                let worst = errors.map(|(g, w)| (f64::from(*g) - w).abs()).fold(0.0, f64::max);
                let allowed = tolerance * want.magnitude.max(1e-3);
                assert!(
                    worst <= allowed && tensor.values.iter().all(|v| v.is_finite()),
                    "{name} on {}: off by {worst:e}, allowed {allowed:e}",
                    isa.name()
                );
            }
            let bits: Vec<u32> =
                got.iter().flat_map(|(_, t)| t.values.iter().map(|v| v.to_bits())).collect();
            assert_eq!(*first.get_or_insert(bits.clone()), bits, "threads change bits");
        }
    }
}

fn model_of(plan: &Plan, mut weights: Vec<f32>) -> Model {
    weights.resize(weights.len().next_multiple_of(16), 0.0);
    Model::from_bytes(&format::write(plan, &weights).unwrap()).unwrap()
}

/// Weights of 16 bits must give exactly the bits of the same weights in 32, on every instruction set and for
/// every number of threads.
fn check_halved(net: &Net, algorithms: &[Algorithm], given: &[Vec<f32>]) {
    let (plan, weights) = emit(net, algorithms, lay_out(net, algorithms), 0);
    let (mut wide, mut section) = (plan.clone(), weights.clone());
    for step in &mut wide.steps {
        let Step::Conv(conv) = step else { continue };
        let Some(scales) = conv.scales.take() else { continue };
        let blob = |b: Blob| &weights[b.offset as usize..(b.offset + b.len) as usize];
        let (inputs, panel) = (conv.group_inputs as usize, conv.panel as usize);
        let integers = blob(conv.weights).iter().flat_map(|pair| {
            let [a, b, c, d] = pair.to_le_bytes();
            [i16::from_le_bytes([a, b]), i16::from_le_bytes([c, d])]
        });
        let scale = |i: usize| blob(scales)[i / (inputs * panel) * panel + i % panel];
        let values: Vec<f32> =
            integers.enumerate().map(|(i, integer)| f32::from(integer) * scale(i)).collect();
        section.resize(section.len().next_multiple_of(16), 0.0);
        conv.weights = Blob { offset: section.len() as u64, len: values.len() as u64 };
        section.extend(values);
    }
    if wide == plan {
        return;
    }
    let (half, single) = (model_of(&plan, weights), model_of(&wide, section));
    let tensors: Vec<(&str, TensorRef<'_>)> =
        net.inputs.iter().zip(given).map(|(p, v)| (p.name.as_str(), TensorRef::F32(v))).collect();
    for isa in Isa::available() {
        let bits = |model: &Model, threads: usize| -> Vec<u32> {
            let mut workspace = Workspace::with_isa(model, isa);
            let outputs = model.run(&mut workspace, &Pool::new(threads), &tensors).unwrap();
            outputs.iter().flat_map(|(_, t)| t.values.iter().map(|v| v.to_bits())).collect()
        };
        let expected = bits(&single, 1);
        for threads in [1, 3] {
            let name = isa.name();
            assert_eq!(bits(&half, threads), expected, "16 bits, {threads} threads, {name}");
        }
    }
}

/// The net's stages, with all convolutions direct.
fn stages_of(net: &Net) -> Vec<Stage> {
    let algorithms = vec![Algorithm::Direct; net.layers.len()];
    let layout = lay_out(net, &algorithms);
    stages(&emit(net, &algorithms, layout, usize::MAX).0)
}

fn output_shape(input: Shape, moving: &Moving, channels: usize) -> Option<Shape> {
    let size = |size: usize, axis: usize| {
        let whole = size + moving.pads[axis] + moving.pads[axis + 2];
        Some(whole.checked_sub(moving.kernel[axis])? / moving.stride[axis] + 1)
    };
    let (height, width) = (size(input.height, 0)?, size(input.width, 1)?);
    Some(Shape { height, width, channels })
}

fn conv(moving: Moving, groups: usize, group_inputs: usize, outputs: usize) -> ConvLayer {
    let count = outputs * group_inputs * moving.kernel[0] * moving.kernel[1];
    ConvLayer {
        moving,
        groups,
        group_inputs,
        outputs,
        weights: noise(3, count),
        is_half: false,
        bias: noise(4, outputs),
        sums: None,
        residual: None,
        activation: Activation::None,
        activate_last: false,
        means: None,
    }
}

fn channels() -> impl Strategy<Value = usize> {
    let some = [1usize, 3, 7, 8, 13, 16, 24, 25, 40, 67];
    prop::sample::select(some.into_iter().filter(|n| *n <= CHANNELS).collect::<Vec<_>>())
}

fn activation() -> impl Strategy<Value = Activation> {
    prop::sample::select(vec![
        Activation::None,
        Activation::RELU,
        Activation::Clip { low: 0.0, high: 6.0 },
        Activation::Sigmoid,
        Activation::Silu,
        Activation::HardSigmoid { alpha: 0.2, beta: 0.5 },
        Activation::HardSwish,
        Activation::Gelu,
        Activation::Tanh,
        Activation::Abs,
        Activation::LeakyRelu { slope: 0.3 },
        Activation::Elu { alpha: 1.5, scale: 1.05 },
    ])
}

fn moving() -> impl Strategy<Value = Moving> {
    let kernel = prop::sample::select(vec![[1usize, 1], [3, 3], [5, 5], [7, 7], [2, 2], [1, 3]]);
    (kernel, 1usize..3, 1usize..3, any::<[u8; 4]>()).prop_map(|(kernel, sy, sx, pads)| Moving {
        kernel,
        stride: [sy, sx],
        pads: std::array::from_fn(|i| pads[i] as usize % kernel[i % 2]),
    })
}

fn shape() -> impl Strategy<Value = Shape> {
    (1..SIDE, 1..SIDE, channels()).prop_map(|(height, width, channels)| Shape {
        height,
        width,
        channels,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn dense_convolutions(
        input in shape(), moving in moving(), outputs in channels(), activation in activation(),
        residual in any::<bool>(), last in any::<bool>(),
    ) {
        let Some(shape) = output_shape(input, &moving, outputs) else { return Ok(()) };
        let mut net = net_of(&[input, shape]);
        let mut layer = conv(moving, 1, input.channels, outputs);
        layer.activation = activation;
        layer.residual = residual.then_some(1);
        layer.activate_last = residual && last;
        let value = net.push("conv", Kind::Conv(layer), vec![0], shape);
        check(&mut net, &[value], Algorithm::Direct, 2e-6);
    }

    #[test]
    fn grouped_convolutions(
        height in 1..SIDE.min(12), width in 1..SIDE.min(12), groups in 2usize..7, inputs in 1usize..10,
        outputs in prop::sample::select(vec![1usize, 2, 3, 8, 16, 24]), moving in moving(),
    ) {
        let input = Shape { height, width, channels: groups * inputs };
        let Some(shape) = output_shape(input, &moving, groups * outputs) else { return Ok(()) };
        let mut net = net_of(&[input]);
        let layer = conv(moving, groups, inputs, groups * outputs);
        let value = net.push("conv", Kind::Conv(layer), vec![0], shape);
        check(&mut net, &[value], Algorithm::Direct, 2e-6);
    }

    #[test]
    fn winograd_convolutions(
        height in 1..SIDE * 3 / 2, width in 1..SIDE * 3 / 2, inputs in channels(), outputs in channels(),
        pads in any::<[bool; 4]>(), four in any::<bool>(), activation in activation(),
        residual in any::<bool>(),
    ) {
        let input = Shape { height, width, channels: inputs };
        let moving = Moving { kernel: [3, 3], stride: [1, 1], pads: pads.map(usize::from) };
        let Some(shape) = output_shape(input, &moving, outputs) else { return Ok(()) };
        let mut net = net_of(&[input, shape]);
        // A layer before it, so that the map has whole blocks of channels.
        let none = Vec::new();
        let kind = Kind::Affine { scale: none.clone(), bias: none, activation: Activation::None };
        let copy = net.push("copy", kind, vec![0], input);
        let mut layer = conv(moving, 1, inputs, outputs);
        layer.activation = activation;
        layer.residual = residual.then_some(1);
        let value = net.push("conv", Kind::Conv(layer), vec![copy], shape);
        let algorithm = if four { Algorithm::Winograd4 } else { Algorithm::Winograd2 };
        check(&mut net, &[value], algorithm, if four { 2e-5 } else { 4e-6 });
    }

    #[test]
    fn depthwise_convolutions(
        input in shape(), moving in moving(), activation in activation(), means in any::<bool>(),
    ) {
        prop_assume!(input.channels > 1);
        let Some(shape) = output_shape(input, &moving, input.channels) else { return Ok(()) };
        let mut net = net_of(&[input]);
        let mut layer = conv(moving, input.channels, 1, input.channels);
        layer.activation = activation;
        let mut outputs = Vec::new();
        if means {
            layer.means = Some(net.value(Shape::vector(input.channels)));
            outputs.extend(layer.means);
        }
        outputs.push(net.push("conv", Kind::Conv(layer), vec![0], shape));
        check(&mut net, &outputs, Algorithm::Direct, 2e-6);
    }

    #[test]
    fn pairs_of_a_convolution_and_a_depthwise_one(
        input in shape(), first in moving(), second in moving(), expanded in prop::sample::select(vec![3usize, 24, 40, 67, CHANNELS]),
        activations in (activation(), activation()), means in any::<bool>(),
    ) {
        let Some(between) = output_shape(input, &first, expanded) else { return Ok(()) };
        let Some(shape) = output_shape(between, &second, expanded) else { return Ok(()) };
        let mut net = net_of(&[input]);
        let mut layer = conv(first, 1, input.channels, expanded);
        layer.activation = activations.0;
        let expanded_map = net.push("expand", Kind::Conv(layer), vec![0], between);
        let mut layer = conv(second, expanded, 1, expanded);
        layer.activation = activations.1;
        let mut outputs = Vec::new();
        if means {
            layer.means = Some(net.value(Shape::vector(expanded)));
            outputs.extend(layer.means);
        }
        outputs.push(net.push("depthwise", Kind::Conv(layer), vec![expanded_map], shape));
        prop_assert_eq!(stages_of(&net), [Stage { step: 0, slice: Some(32) }]);
        check(&mut net, &outputs, Algorithm::Direct, 4e-6);
    }

    #[test]
    fn pooling_and_reductions(
        input in shape(), moving in moving(), activation in activation(),
        pooling in prop::sample::select(vec![Pooling::Max, Pooling::Mean, Pooling::MeanWithPadding]),
    ) {
        let Some(shape) = output_shape(input, &moving, input.channels) else { return Ok(()) };
        let mut net = net_of(&[input]);
        let pooled = net.push("pool", Kind::Pool { moving, pooling }, vec![0], shape);
        let all = if pooling == Pooling::MeanWithPadding { Pooling::Sum } else { pooling };
        let kind = Kind::Reduce { pooling: all, activation };
        let reduced = net.push("reduce", kind, vec![pooled], Shape::vector(input.channels));
        check(&mut net, &[pooled, reduced], Algorithm::Direct, 4e-6);
    }

    #[test]
    fn affine_and_concat(a in shape(), others in prop::collection::vec(channels(), 1..4), activation in activation()) {
        let shapes: Vec<Shape> = std::iter::once(a.channels)
            .chain(others)
            .map(|channels| Shape { channels, ..a })
            .collect();
        let total = shapes.iter().map(|s| s.channels).sum();
        let mut net = net_of(&shapes);
        let (scale, bias) = (noise(8, total), noise(9, total));
        let kind = Kind::Concat { scale, bias, activation };
        let shape = Shape { channels: total, ..a };
        let joined = net.push("concat", kind, (0..shapes.len()).collect(), shape);
        let kind = Kind::Affine { scale: noise(10, total), bias: Vec::new(), activation };
        let affine = net.push("affine", kind, vec![joined], shape);
        check(&mut net, &[joined, affine], Algorithm::Direct, 2e-6);
    }

    #[test]
    fn binary_operations(
        shape in shape(), ones in any::<[bool; 3]>(), constant in any::<bool>(), swap in any::<bool>(),
        op in prop::sample::select(vec![BinaryOp::Add, BinaryOp::Sub, BinaryOp::Mul, BinaryOp::Max,
            BinaryOp::Min, BinaryOp::Greater, BinaryOp::GreaterOrEqual]),
        activation in activation(),
    ) {
        let own = |one: bool, n: usize| if one { 1 } else { n };
        let small = Shape {
            height: own(ones[0], shape.height),
            width: own(ones[1], shape.width),
            channels: own(ones[2], shape.channels),
        };
        let mut net = net_of(&[shape, small]);
        // One operand is computed, so that the result may overwrite it.
        let none = Vec::new();
        let kind = Kind::Affine { scale: none.clone(), bias: none, activation: Activation::Silu };
        let large = Arg::Value(net.push("copy", kind, vec![0], shape));
        let other = if constant {
            let values = noise(12, small.pixels() * small.channels);
            Arg::Constant { shape: small, values }
        } else {
            Arg::Value(1)
        };
        let (a, b) = if swap { (other, large) } else { (large, other) };
        let value = net.push("binary", Kind::Binary { op, a, b, activation }, Vec::new(), shape);
        check(&mut net, &[value], Algorithm::Direct, 2e-6);
    }

    #[test]
    fn softmax_and_products(input in shape(), rows in 1usize..9) {
        let matrix = Shape { height: rows, width: 1, channels: input.channels };
        let mut net = net_of(&[input, matrix]);
        let softmax = net.push("softmax", Kind::Softmax, vec![0], input);
        let shape = Shape { channels: rows, ..input };
        let product = net.push("product", Kind::Product, vec![1, 0], shape);
        check(&mut net, &[softmax, product], Algorithm::Direct, 1e-5);
    }
}

#[test]
fn activations_stay_close_over_their_whole_range() {
    let all = [
        Activation::Sigmoid,
        Activation::Silu,
        Activation::HardSwish,
        Activation::Gelu,
        Activation::Erf,
        Activation::Tanh,
        Activation::Step,
    ];
    let shape = Shape { height: 1, width: SIDE * 20 + 1, channels: 1 };
    // Each range is compared relative to its own largest result.
    for (activation, power) in all.into_iter().flat_map(|a| (-4..4).map(move |power| (a, power))) {
        let mut net = net_of(&[shape]);
        let scale = vec![10f32.powi(power)];
        let kind = Kind::Affine { scale, bias: Vec::new(), activation };
        let value = net.push("affine", kind, vec![0], shape);
        check(&mut net, &[value], Algorithm::Direct, 5e-7);
    }
}

#[test]
fn results_do_not_depend_on_earlier_runs() {
    let shape = Shape { height: SIDE.min(9), width: SIDE.min(11), channels: 13 };
    let mut net = net_of(&[shape]);
    let moving = Moving { kernel: [3, 3], stride: [1, 1], pads: [1; 4] };
    let first = net.push(
        "a",
        Kind::Conv(conv(moving, 1, 13, 24)),
        vec![0],
        Shape { channels: 24, ..shape },
    );
    let second = net.push("b", Kind::Conv(conv(moving, 1, 24, 13)), vec![first], shape);
    net.outputs.push(spec("out", shape, second));
    let algorithms = [Algorithm::Direct, Algorithm::Winograd4];
    let layout = lay_out(&net, &algorithms);
    let (plan, weights) = emit(&net, &algorithms, layout, usize::MAX);
    let model = model_of(&plan, weights);
    let mut workspace = Workspace::new(&model);
    let pool = Pool::new(2);
    let count = shape.pixels() * shape.channels;
    let (one, other) = (noise(1, count), noise(2, count));
    let mut run =
        |v: &[f32]| model.run(&mut workspace, &pool, &[("in0", TensorRef::F32(v))]).unwrap();
    let before = run(&one);
    run(&other);
    assert_eq!(before, run(&one));
}
