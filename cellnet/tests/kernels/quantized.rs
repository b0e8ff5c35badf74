//! The rounding of quantized graphs, bit by bit.

use super::{Kind, Shape, model_of, net_of, spec};
use cellnet::internals::{emit, fuse, lay_out};
use cellnet::plan::{Activation, Algorithm, Step};
use cellnet::{Isa, Pool, TensorRef, Workspace};

/// `scale`, and the range of the integers with the zero point 115 subtracted.
const STEPS: Activation = Activation::Quantize { scale: 0.037, low: -115.0, high: 140.0 };

/// Values on, beside and between all steps, and far outside their range.
fn values() -> Vec<f32> {
    let mut values: Vec<f32> = (-1200..1600).map(|n| n as f32 * 0.0037).collect();
    values.extend((-130..150).map(|n| (n as f32 + 0.5) * 0.037));
    values.extend([0.0, -0.0, 1e30, -1e30, f32::MIN_POSITIVE, f32::INFINITY, f32::NEG_INFINITY]);
    values.resize(values.len().next_multiple_of(13), 1.0);
    values
}

#[test]
fn rounding_has_the_same_bits_on_every_back_end() {
    let values = values();
    let shape = Shape { height: values.len() / 13, width: 1, channels: 13 };
    let mut net = net_of(&[shape]);
    let kind = Kind::Affine { scale: Vec::new(), bias: Vec::new(), activation: STEPS };
    let value = net.push("quantize", kind, vec![0], shape);
    net.outputs.push(spec("out", shape, value));
    let algorithms = [Algorithm::Direct];
    let (plan, weights) = emit(&net, &algorithms, lay_out(&net, &algorithms), usize::MAX);
    let model = model_of(&plan, weights);
    // QuantizeLinear and DequantizeLinear as ONNX defines them, in bytes.
    let expected = values.iter().map(|x| {
        let byte = ((x / 0.037).round_ties_even() + 115.0).clamp(0.0, 255.0) as u8;
        (f32::from(byte) - 115.0) * 0.037
    });
    let expected: Vec<f32> = expected.collect();
    for isa in Isa::available() {
        let mut workspace = Workspace::with_isa(&model, isa);
        let input = [("in0", TensorRef::F32(&values))];
        let got = model.run(&mut workspace, &Pool::new(1), &input).unwrap();
        for ((got, want), x) in got[0].1.values.iter().zip(&expected).zip(&values) {
            assert!(got == want, "{x} on {}: {got}, not {want}", isa.name());
        }
    }
}

#[test]
fn rounding_takes_over_the_bounds_of_a_clip_before_it() {
    let shape = Shape { height: 1, width: 1, channels: 8 };
    let bounds = |low, high| {
        let mut net = net_of(&[shape]);
        let mut value = 0;
        for activation in [Activation::Clip { low, high }, STEPS] {
            let kind = Kind::Affine { scale: vec![2.0; 8], bias: Vec::new(), activation };
            let kind = if activation == STEPS {
                Kind::Affine { scale: Vec::new(), bias: Vec::new(), activation }
            } else {
                kind
            };
            value = net.push("affine", kind, vec![value], shape);
        }
        net.outputs.push(spec("out", shape, value));
        fuse(&mut net);
        let algorithms = vec![Algorithm::Direct; net.layers.len()];
        let layout = lay_out(&net, &algorithms);
        let (plan, _) = emit(&net, &algorithms, layout, usize::MAX);
        let [Step::Affine(step)] = plan.steps.as_slice() else { panic!("{:?}", plan.steps) };
        let Activation::Quantize { low, high, .. } = step.activation else { panic!("{step:?}") };
        (low, high)
    };
    assert_eq!(bounds(0.0, f32::INFINITY), (0.0, 140.0));
    assert_eq!(bounds(-0.1, 0.1), (-3.0, 3.0));
    // Bounds outside the integers' range leave one value.
    assert_eq!(bounds(6.0, 7.0), (140.0, 140.0));
    assert_eq!(bounds(-9.0, -8.0), (-115.0, -115.0));
}
