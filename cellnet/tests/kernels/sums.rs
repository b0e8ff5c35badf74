//! Convolutions on bytes: sums against exact integers, bit by bit on every back end; what follows the sums
//! against double precision; and forged plans.

use proptest::prelude::*;

use super::*;
use cellnet::OpenError;
use cellnet::internals::SumsLayer;
use cellnet::plan::{Conv, Map, Quantize};

/// A power of two, so that quotients are exact.
const SCALE: f32 = 1.0 / 128.0;

/// Adds the bytes of a value, and returns them.
pub(super) fn bytes_of(net: &mut Net, value: usize, zero: u8) -> usize {
    let shape = net.values[value];
    net.push("quantize", Kind::Quantize { scale: SCALE, zero }, vec![value], shape)
}

/// Whole weights up to the largest, many of them extreme.
pub(super) fn whole_conv(
    moving: Moving,
    shape: Shape,
    outputs: usize,
    zero: u8,
    narrow: bool,
) -> ConvLayer {
    let mut layer = conv(moving, 1, shape.channels, outputs);
    let (low, high) = if narrow { (-64.0, 64.0) } else { (-128.0, 127.0) };
    let largest = |w: f32| (w * 300.0).round().clamp(low, high);
    layer.weights.iter_mut().for_each(|w| *w = largest(*w));
    layer.bias = vec![0.0; outputs];
    layer.sums = Some(SumsLayer { zero, factors: vec![1.0; outputs] });
    layer
}

/// The sums of a layer by their definition, in 64 bits.
fn sums(input: &[f32], shape: Shape, layer: &ConvLayer, output: Shape) -> Vec<i64> {
    let zero = layer.sums.as_ref().map_or(0, |sums| i64::from(sums.zero));
    let byte = |x: f32| ((x / SCALE).round_ties_even() as i64 + zero).clamp(0, 255);
    let [ky, kx] = layer.moving.kernel;
    let mut sums = Vec::new();
    for (y, x) in (0..output.height).flat_map(|y| (0..output.width).map(move |x| (y, x))) {
        for o in 0..output.channels {
            let mut sum = 0;
            for (i, dy, dx) in (0..shape.channels)
                .flat_map(|i| (0..ky).flat_map(move |dy| (0..kx).map(move |dx| (i, dy, dx))))
            {
                let iy = (y * layer.moving.stride[0] + dy).checked_sub(layer.moving.pads[0]);
                let ix = (x * layer.moving.stride[1] + dx).checked_sub(layer.moving.pads[1]);
                let (Some(iy), Some(ix)) = (iy, ix) else { continue };
                if iy >= shape.height || ix >= shape.width {
                    continue;
                }
                let weight = layer.weights[((o * shape.channels + i) * ky + dy) * kx + dx] as i64;
                let at = (iy * shape.width + ix) * shape.channels + i;
                sum += weight * (byte(input[at]) - zero);
            }
            sums.push(sum);
        }
    }
    sums
}

pub(super) fn emitted(net: &Net) -> (Plan, Vec<f32>) {
    let algorithms = vec![Algorithm::Direct; net.layers.len()];
    emit(net, &algorithms, lay_out(net, &algorithms), usize::MAX)
}

/// The net's only output for its only input, for each instruction set and number of threads.
pub(super) fn outputs(net: &Net, input: &[f32]) -> Vec<(&'static str, Vec<f32>)> {
    let (plan, weights) = emitted(net);
    let model = model_of(&plan, weights);
    let runs = Isa::available().into_iter().flat_map(|isa| [(isa, 1), (isa, 3)]);
    runs.map(|(isa, threads)| {
        let mut workspace = Workspace::with_isa(&model, isa);
        let tensors = [("in0", TensorRef::F32(input))];
        let mut got = model.run(&mut workspace, &Pool::new(threads), &tensors).unwrap();
        (isa.name(), got.remove(0).1.values)
    })
    .collect()
}

/// Checks that a layer of bytes has the exact sums for the input, on every back end.
fn are_exact(
    (mut net, bytes): (Net, usize),
    layer: ConvLayer,
    input: Shape,
    shape: Shape,
    given: &[f32],
) -> Result<(), TestCaseError> {
    let expected = sums(given, input, &layer, shape);
    let value = net.push("conv", Kind::Conv(layer), vec![bytes], shape);
    net.outputs.push(spec("out", shape, value));
    for (isa, got) in outputs(&net, given) {
        for (got, want) in got.iter().zip(&expected) {
            prop_assert!(*got == *want as f32, "{}: {} instead of {}", isa, got, want);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sums_are_exact_and_the_same_on_every_back_end(
        input in shape(), moving in moving(), outputs_of in channels(), zero in any::<u8>(), narrow in any::<bool>(),
    ) {
        let Some(shape) = output_shape(input, &moving, outputs_of) else { return Ok(()) };
        let mut net = net_of(&[input]);
        let bytes = bytes_of(&mut net, 0, zero);
        let layer = whole_conv(moving, input, outputs_of, zero, narrow);
        // Bytes of the whole range and beyond it.
        let given: Vec<f32> =
            noise(7, input.pixels() * input.channels).iter().map(|x| x * 4.0).collect();
        are_exact((net, bytes), layer, input, shape, &given)?;
    }

    #[test]
    fn sums_of_3x3_are_exact_on_maps_of_many_squares(
        height in 6..SIDE + 14, width in 6..SIDE + 14, pads in any::<[bool; 4]>(), most in any::<bool>(),
        inputs in prop::sample::select(vec![12usize, 13, 16, 24, 25, 67]), outputs_of in channels(),
        zero in any::<u8>(),
    ) {
        let input = Shape { height, width, channels: inputs };
        let moving = Moving { kernel: [3, 3], stride: [1, 1], pads: pads.map(usize::from) };
        let Some(shape) = output_shape(input, &moving, outputs_of) else { return Ok(()) };
        let mut net = net_of(&[input]);
        let bytes = bytes_of(&mut net, 0, zero);
        let mut layer = whole_conv(moving, input, outputs_of, zero, false);
        let mut given: Vec<f32> =
            noise(7, input.pixels() * input.channels).iter().map(|x| x * 4.0).collect();
        if most {
            layer.weights.fill(-128.0);
            given.fill(9.0);
        }
        are_exact((net, bytes), layer, input, shape, &given)?;
    }

    #[test]
    fn scales_activations_and_residuals_follow_the_sums(
        input in shape(), moving in moving(), outputs in channels(), activation in activation(),
        residual in any::<bool>(), last in any::<bool>(), zero in any::<u8>(),
    ) {
        let Some(shape) = output_shape(input, &moving, outputs) else { return Ok(()) };
        let mut net = net_of(&[input, shape]);
        let bytes = bytes_of(&mut net, 0, zero);
        let mut layer = whole_conv(moving, input, outputs, zero, false);
        layer.bias = noise(8, outputs);
        let factors = noise(9, outputs).iter().map(|f| (f.abs() + 0.01) * 1e-4).collect();
        layer.sums = Some(SumsLayer { zero, factors });
        layer.activation = activation;
        layer.residual = residual.then_some(1);
        layer.activate_last = residual && last;
        let value = net.push("conv", Kind::Conv(layer), vec![bytes], shape);
        check(&mut net, &[value], Algorithm::Direct, 2e-6);
    }

    #[test]
    fn pairs_of_a_convolution_of_bytes_and_a_depthwise_one(
        input in shape(), first in moving(), second in moving(), zero in any::<u8>(),
        expanded in prop::sample::select(vec![3usize, 24, 40, 67, CHANNELS]),
    ) {
        let Some(between) = output_shape(input, &first, expanded) else { return Ok(()) };
        let Some(shape) = output_shape(between, &second, expanded) else { return Ok(()) };
        let mut net = net_of(&[input]);
        let bytes = bytes_of(&mut net, 0, zero);
        let mut layer = whole_conv(first, input, expanded, zero, true);
        layer.activation = Activation::RELU;
        let map = net.push("expand", Kind::Conv(layer), vec![bytes], between);
        let layer = conv(second, expanded, 1, expanded);
        let value = net.push("depthwise", Kind::Conv(layer), vec![map], shape);
        prop_assert_eq!(stages_of(&net)[1], Stage { step: 1, slice: Some(32) });
        check(&mut net, &[value], Algorithm::Direct, 4e-6);
    }
}

#[test]
fn the_largest_sums_do_not_saturate() {
    let input = Shape { height: 2, width: 3, channels: 4096 };
    for (x, weight, zero) in
        [(9.0, 127.0, 0), (9.0, -128.0, 0), (-9.0, -128.0, 255), (9.0, 64.0, 0)]
    {
        let mut net = net_of(&[input]);
        let bytes = bytes_of(&mut net, 0, zero);
        let mut layer = whole_conv(Moving::POINT, input, 19, zero, true);
        layer.weights.fill(weight);
        let shape = Shape { channels: 19, ..input };
        let given = vec![x; input.pixels() * input.channels];
        let expected = sums(&given, input, &layer, shape);
        assert_eq!(expected[0].abs(), 4096 * 255 * (weight as i64).abs());
        let value = net.push("conv", Kind::Conv(layer), vec![bytes], shape);
        net.outputs.push(spec("out", shape, value));
        for (isa, got) in outputs(&net, &given) {
            assert!(got.iter().all(|got| *got == expected[0] as f32), "{isa}: {got:?}");
        }
    }
}

#[test]
fn the_largest_sums_of_3x3_fit_four_times() {
    let input = Shape { height: 8, width: 8, channels: 1024 };
    let moving = Moving { kernel: [3, 3], stride: [1, 1], pads: [1; 4] };
    for (x, weight, zero) in [(9.0, 127.0, 0), (9.0, -128.0, 0), (-9.0, -128.0, 255)] {
        let mut net = net_of(&[input]);
        let bytes = bytes_of(&mut net, 0, zero);
        let mut layer = whole_conv(moving, input, 3, zero, false);
        layer.weights.fill(weight);
        let shape = Shape { channels: 3, ..input };
        let given = vec![x; input.pixels() * input.channels];
        let expected = sums(&given, input, &layer, shape);
        let inner = expected.iter().map(|sum| sum.abs()).max();
        assert_eq!(inner, Some(9 * 1024 * 255 * (weight as i64).abs()));
        let value = net.push("conv", Kind::Conv(layer), vec![bytes], shape);
        net.outputs.push(spec("out", shape, value));
        for (isa, got) in outputs(&net, &given) {
            assert!(got.iter().zip(&expected).all(|(got, want)| *got == *want as f32), "{isa}");
        }
    }
}

#[test]
fn halves_are_rounded_to_even_before_the_zero_is_added() {
    let shape = Shape { height: 1, width: 1, channels: 9 };
    for (zero, expected) in
        [(0, [0, 0, 2, 2, 4, 0, 255, 0, 255]), (1, [1, 1, 3, 3, 5, 1, 255, 0, 255])]
    {
        let steps = [0.0, 0.5, 1.5, 2.5, 3.5, -0.5, 1e9, -1e9, f32::INFINITY];
        let mut net = net_of(&[shape]);
        let bytes = bytes_of(&mut net, 0, zero);
        let mut layer = whole_conv(Moving::POINT, shape, 9, zero, true);
        layer.weights = (0..81).map(|i| f32::from(u8::from(i % 10 == 0))).collect();
        let value = net.push("conv", Kind::Conv(layer), vec![bytes], shape);
        net.outputs.push(spec("out", shape, value));
        for (isa, got) in outputs(&net, &steps.map(|step| step * SCALE)) {
            let got: Vec<i32> = got.iter().map(|x| *x as i32 + i32::from(zero)).collect();
            assert_eq!(got, expected, "{isa}, zero {zero}");
        }
    }
}

fn step(plan: &mut Plan) -> &mut Conv {
    let conv = plan.steps.iter_mut().find_map(|step| match step {
        Step::Conv(conv) => Some(conv),
        _ => None,
    });
    conv.unwrap()
}

fn rounding(plan: &mut Plan) -> &mut Quantize {
    let Some(Step::Quantize(step)) = plan.steps.first_mut() else { panic!("no rounding") };
    step
}

fn of_bytes(plan: &mut Plan) -> &mut Map {
    plan.maps.iter_mut().find(|map| map.zero.is_some()).unwrap()
}

/// Asserts that the net's plan is opened as it is, and refused after each of the forgeries.
pub(super) fn refuse(net: &Net, forgeries: &[&dyn Fn(&mut Plan)]) {
    let (plan, mut section) = emitted(net);
    section.resize(section.len().next_multiple_of(16), 0.0);
    let opened = |forge: &dyn Fn(&mut Plan)| {
        let mut plan = plan.clone();
        forge(&mut plan);
        Model::from_bytes(&format::write(&plan, &section).unwrap())
    };
    opened(&|_| {}).unwrap();
    for (i, forge) in forgeries.iter().enumerate() {
        assert!(matches!(opened(forge), Err(OpenError::Plan { .. })), "forgery {i}");
    }
}

#[test]
fn forged_sums_are_refused() {
    let shape = Shape { height: 4, width: 4, channels: 16 };
    let mut net = net_of(&[shape]);
    let bytes = bytes_of(&mut net, 0, 7);
    let layer = whole_conv(Moving::POINT, shape, 16, 7, true);
    let value = net.push("conv", Kind::Conv(layer), vec![bytes], shape);
    net.outputs.push(spec("out", shape, value));
    refuse(
        &net,
        &[
            &|plan| step(plan).sums = None,
            &|plan| step(plan).sums.as_mut().unwrap().start.len = 15,
            &|plan| step(plan).sums.as_mut().unwrap().factors.offset = u64::MAX - 15,
            &|plan| step(plan).sums.as_mut().unwrap().factors.offset = 1 << 20,
            &|plan| step(plan).weights.len *= 4,
            &|plan| step(plan).scales = Some(step(plan).bias),
            &|plan| step(plan).algorithm = Algorithm::Winograd2,
            &|plan| rounding(plan).scale = 0.0,
            &|plan| rounding(plan).scale = -1.0,
            &|plan| rounding(plan).scale = f32::NAN,
            &|plan| of_bytes(plan).zero = None,
            &|plan| of_bytes(plan).stride = 5,
            &|plan| plan.maps.iter_mut().for_each(|map| map.zero = Some(0)),
        ],
    );
}
