//! Layers that write bytes themselves: bit for bit what separate roundings give, on every back end; and
//! forged plans.

use proptest::prelude::*;

use super::sums::{bytes_of, emitted, outputs, refuse, whole_conv};
use super::*;
use cellnet::internals::Layer;
use cellnet::internals::join;
use cellnet::plan::{Binary, Conv, Map, Rounding};

/// A convolution on integers with factors that spread its sums over the range of bytes.
fn scaled(moving: Moving, input: Shape, outputs: usize, zero: u8) -> ConvLayer {
    let mut layer = whole_conv(moving, input, outputs, zero, false);
    layer.bias = noise(8, outputs);
    let sums = layer.sums.as_mut().unwrap();
    sums.factors = noise(9, outputs).iter().map(|f| (f.abs() + 0.01) * 1e-4).collect();
    layer
}

/// Adds a convolution on integers that shows the bytes of a value: each channel of the last one.
fn shown(net: &mut Net, bytes: usize, zero: u8) -> usize {
    let shape = net.values[bytes];
    let mut layer = whole_conv(Moving::POINT, shape, shape.channels, zero, true);
    let channels = shape.channels;
    layer.weights = (0..channels * channels)
        .map(|i| f32::from(u8::from(i / channels == i % channels)))
        .collect();
    net.push("shown", Kind::Conv(layer), vec![bytes], shape)
}

/// The outputs on all back ends with separate roundings, and with as many fewer layers as can be joined.
fn both(net: &Net, given: &[f32], fewer: usize) -> [Vec<(&'static str, Vec<f32>)>; 2] {
    let mut joined = net.clone();
    join(&mut joined);
    assert_eq!(joined.layers.len() + fewer, net.layers.len());
    [outputs(net, given), outputs(&joined, given)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn convolutions_that_write_bytes(
        input in shape(), moving in moving(), channels in channels(), zeros in any::<[u8; 2]>(),
        kept in any::<bool>(), residual in any::<bool>(), last in any::<bool>(),
        activation in prop::sample::select(vec![
            Activation::None, Activation::RELU, Activation::Silu, Activation::HardSwish,
        ]),
    ) {
        let Some(shape) = output_shape(input, &moving, channels) else { return Ok(()) };
        let mut net = net_of(&[input]);
        let first = bytes_of(&mut net, 0, zeros[0]);
        let mut layer = scaled(moving, input, channels, zeros[0]);
        if residual {
            let other = whole_conv(moving, input, channels, zeros[0], false);
            layer.residual = Some(net.push("other", Kind::Conv(other), vec![first], shape));
            layer.activate_last = last;
        }
        layer.activation = activation;
        let value = net.push("conv", Kind::Conv(layer), vec![first], shape);
        let bytes = bytes_of(&mut net, value, zeros[1]);
        let mut result = shown(&mut net, bytes, zeros[1]);
        // The short SiLU differs by a step of a byte at most, which a product with its value would hide.
        if kept && activation != Activation::Silu {
            let (a, b) = (Arg::Value(value), Arg::Value(result));
            let kind = Kind::Binary { op: BinaryOp::Mul, a, b, activation: Activation::None };
            result = net.push("both", kind, vec![], shape);
        }
        net.outputs.push(spec("out", shape, result));
        let given = noise(7, input.pixels() * input.channels);
        let [apart, joined] = both(&net, &given, 1);
        if activation == Activation::Silu {
            let close = |(a, b): &(&f32, &f32)| (*a - *b).abs() <= 1.0 + 2e-2 * a.abs();
            for ((isa, apart), (_, joined)) in apart.iter().zip(&joined) {
                let off = apart.iter().zip(joined).find(|pair| !close(pair));
                prop_assert!(off.is_none(), "{}: {:?}", isa, off);
            }
            // In integers, unless floats are written too.
            let is_fixed = !kept && !residual;
            prop_assert!(!is_fixed || joined.iter().all(|(_, got)| *got == joined[0].1));
        } else {
            prop_assert_eq!(apart, joined);
        }
    }

    #[test]
    fn gates_that_write_bytes(input in shape(), zero in any::<u8>(), column in any::<bool>()) {
        let gate = if column { Shape::vector(input.channels) } else { input };
        let mut net = net_of(&[input]);
        let gates = Arg::Constant { shape: gate, values: noise(3, gate.pixels() * gate.channels) };
        let kind = Kind::Binary {
            op: BinaryOp::Mul, a: Arg::Value(0), b: gates, activation: Activation::None,
        };
        let value = net.push("gate", kind, vec![], input);
        let bytes = bytes_of(&mut net, value, zero);
        let result = shown(&mut net, bytes, zero);
        net.outputs.push(spec("out", input, result));
        let given = noise(7, input.pixels() * input.channels);
        let [apart, joined] = both(&net, &given, 1);
        prop_assert_eq!(apart, joined);
    }
}

#[test]
fn short_activations_are_as_close_as_promised() {
    let shape = Shape { height: 1, width: 500, channels: 16 };
    let mut net = net_of(&[shape]);
    let kind = Kind::Affine { scale: vec![], bias: vec![], activation: Activation::ShortSilu };
    let value = net.push("silu", kind, vec![0], shape);
    net.outputs.push(spec("out", shape, value));
    let given: Vec<f32> = (-4000..4000).map(|n| n as f32 * 0.025).collect();
    for (isa, got) in outputs(&net, &given) {
        for (x, got) in given.iter().zip(got) {
            let want = f64::from(*x) / (1.0 + (-f64::from(*x)).exp());
            let off = (f64::from(got) - want).abs();
            assert!(off <= want.abs() / 4000.0 + 1e-30, "{isa}: {got} for {x}, not {want}");
        }
    }
}

/// SiLU of every sum of two bytes, as the bytes that are written.
fn silu_bytes(scale: f32, zero: u8) -> Net {
    let shape = Shape { height: 256, width: 256, channels: 2 };
    let mut net = net_of(&[shape]);
    let given = bytes_of(&mut net, 0, 128);
    let mut layer = whole_conv(Moving::POINT, shape, 1, 128, false);
    // From -16 to 16 in steps of 1/1016.
    layer.weights = vec![1.0, 127.0];
    layer.sums.as_mut().unwrap().factors = vec![1.0 / 1016.0];
    layer.activation = Activation::Silu;
    let shape = Shape { channels: 1, ..shape };
    let value = net.push("conv", Kind::Conv(layer), vec![given], shape);
    let bytes = net.push("rounded", Kind::Quantize { scale, zero }, vec![value], shape);
    let result = shown(&mut net, bytes, zero);
    net.outputs.push(spec("out", shape, result));
    join(&mut net);
    net
}

#[test]
fn silu_in_integers_is_within_a_step_and_the_same_everywhere() {
    let all = || (-128..128i32).flat_map(|a| (-128..128i32).map(move |b| (b, a)));
    let given: Vec<f32> =
        all().flat_map(|(a, b)| [a as f32, b as f32]).map(|x| x / 128.0).collect();
    for (scale, zero) in [(0.006, 47), (0.02, 14), (0.05, 6), (0.12, 3), (0.3, 0), (0.1, 255)] {
        let net = silu_bytes(scale, zero);
        let is_fixed = |layer: &Layer| matches!(&layer.kind, Kind::Conv(conv) if matches!(conv.activation, Activation::FixedSilu { .. }));
        assert!(net.layers.iter().any(is_fixed), "{scale}");
        let outputs = outputs(&net, &given);
        for (isa, got) in &outputs {
            assert!(*got == outputs[0].1, "{isa}, {scale}");
            for ((a, b), got) in all().zip(got) {
                let x = f64::from(a + 127 * b) / 1016.0;
                let want = x / (1.0 + (-x).exp()) / f64::from(scale);
                let zero = f64::from(zero);
                let off = f64::from(*got) - want.clamp(-zero, 255.0 - zero);
                assert!(off.abs() <= 1.05, "{isa}, {scale}: {got} for {x}, not {want}");
            }
        }
    }
}

#[test]
fn forged_activations_in_integers_are_refused() {
    refuse(
        &silu_bytes(0.05, 6),
        &[
            &|plan| conv_of(plan).activation = Activation::FixedSilu { bits: 5 },
            &|plan| conv_of(plan).activation = Activation::FixedSilu { bits: 13 },
            &|plan| conv_of(plan).activation = Activation::FixedSilu { bits: 255 },
            &|plan| rounding(plan).scale = 1e-3,
            &|plan| rounding(plan).scale = 100.0,
            &|plan| rounding(plan).scale = f32::NAN,
            &|plan| conv_of(plan).rounding = None,
            &|plan| conv_of(plan).residual = Some(conv_of(plan).output),
        ],
    );
}

#[test]
fn a_residual_is_overwritten_by_sums_of_bytes_only() {
    let shape = Shape { height: 3, width: 4, channels: 16 };
    let mut net = net_of(&[shape]);
    let first = bytes_of(&mut net, 0, 7);
    let residual =
        net.push("a", Kind::Conv(scaled(Moving::POINT, shape, 16, 7)), vec![first], shape);
    let layer = ConvLayer { residual: Some(residual), ..scaled(Moving::POINT, shape, 16, 7) };
    let value = net.push("b", Kind::Conv(layer), vec![first], shape);
    net.outputs.push(spec("out", shape, value));
    let (plan, _) = emitted(&net);
    let Some(Step::Conv(last)) = plan.steps.last() else { panic!("no convolution") };
    assert_eq!(last.residual, Some(last.output));
    let shifted = |plan: &mut Plan| {
        let Some(Step::Conv(last)) = plan.steps.last_mut() else { panic!("no convolution") };
        let map = plan.maps[last.output as usize];
        plan.maps.push(Map { offset: map.offset + 16, ..map });
        plan.arena += 16;
        last.output = plan.maps.len() as u32 - 1;
    };
    refuse(&net, &[&shifted]);
}

fn conv_of(plan: &mut Plan) -> &mut Conv {
    let conv = plan.steps.iter_mut().find_map(|step| match step {
        Step::Conv(conv) if conv.rounding.is_some() => Some(conv),
        _ => None,
    });
    conv.unwrap()
}

fn rounding(plan: &mut Plan) -> &mut Rounding {
    conv_of(plan).rounding.as_mut().unwrap()
}

fn binary_of(plan: &mut Plan) -> &mut Binary {
    let binary = plan.steps.iter_mut().find_map(|step| match step {
        Step::Binary(binary) => Some(binary),
        _ => None,
    });
    binary.unwrap()
}

#[test]
fn forged_roundings_are_refused() {
    let shape = Shape { height: 4, width: 4, channels: 16 };
    let mut net = net_of(&[shape]);
    let first = bytes_of(&mut net, 0, 7);
    let layer = scaled(Moving::POINT, shape, 16, 7);
    let value = net.push("conv", Kind::Conv(layer), vec![first], shape);
    let bytes = bytes_of(&mut net, value, 3);
    let result = shown(&mut net, bytes, 3);
    let (a, b) = (Arg::Value(value), Arg::Value(result));
    let kind = Kind::Binary { op: BinaryOp::Mul, a, b, activation: Activation::None };
    let gated = net.push("gate", kind, vec![], shape);
    let gated = bytes_of(&mut net, gated, 5);
    let result = shown(&mut net, gated, 5);
    net.outputs.push(spec("out", shape, result));
    join(&mut net);
    refuse(
        &net,
        &[
            &|plan| rounding(plan).scale = 0.0,
            &|plan| rounding(plan).scale = -1.0,
            &|plan| rounding(plan).scale = f32::NAN,
            &|plan| rounding(plan).scale = 2e38,
            &|plan| rounding(plan).output = 1000,
            &|plan| rounding(plan).output = conv_of(plan).input,
            &|plan| conv_of(plan).output = rounding(plan).output + 1000,
            &|plan| {
                conv_of(plan).rounding = Some(Rounding { output: conv_of(plan).output, scale: 1.0 })
            },
            &|plan| (conv_of(plan).output, conv_of(plan).rounding) = (rounding(plan).output, None),
            &|plan| conv_of(plan).sums = None,
            &|plan| binary_of(plan).scale = None,
            &|plan| binary_of(plan).scale = Some(0.0),
            &|plan| binary_of(plan).output = conv_of(plan).output,
            &|plan| {
                let bytes = rounding(plan).output as usize;
                plan.maps[bytes].stride = 5;
            },
        ],
    );
}
