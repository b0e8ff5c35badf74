//! Weights of 16 bits: their error, and forged lengths. That kernels compute with them exactly is part of
//! every property in the parent module.

use super::{Blob, Kind, Model, Moving, Shape, Step, conv, net_of, noise, spec};
use cellnet::OpenError;
use cellnet::format;
use cellnet::internals::{emit, halve, lay_out};
use cellnet::plan::{Algorithm, Conv};

#[test]
fn errors_of_halved_weights_have_no_sum() {
    let (inputs, panel, positions) = (5, 8, 3);
    let mut packed = noise(6, positions * inputs * panel);
    // A lane without weights, one of large ones, and one of small ones.
    for row in packed.chunks_mut(panel) {
        (row[1], row[2], row[3]) = (0.0, row[2] * 1e4, row[3] * 1e-6);
    }
    let halved = halve(&packed, inputs, panel);
    assert_eq!((halved.weights.len() * 2, halved.scales.len()), (packed.len(), positions * panel));
    let bytes: Vec<u8> = halved.weights.iter().flat_map(|pair| pair.to_le_bytes()).collect();
    let mut sums = vec![0.0; positions * panel];
    for (i, (bytes, weight)) in bytes.as_chunks().0.iter().zip(&packed).enumerate() {
        let (position, lane) = (i / (inputs * panel), i % panel);
        let own = packed[position * inputs * panel..].iter().skip(lane).step_by(panel).take(inputs);
        let largest = own.fold(0.0f64, |m, w| f64::from(w.abs()).max(m));
        let scale = halved.scales[position * panel + lane];
        let back = f64::from(i16::from_le_bytes(*bytes)) * f64::from(scale);
        // Half a step for the sum so far, and the rounding of scale and quotient.
        let (step, error) = (largest / 32767.0, back - f64::from(*weight));
        let sum: &mut f64 = &mut sums[position * panel + lane];
        *sum += error;
        assert!(sum.abs() <= step * 0.5 + largest * 1e-6, "{i}: {sum} of steps of {step}");
        assert!(error.abs() <= step + largest * 4e-7, "{i}: {weight} becomes {back}");
    }
}

/// Differences of two 8-bit integers times a scale are rounded by no more than float32 rounds the scales.
#[test]
fn weights_of_eight_bits_stay_what_they_were() {
    let (inputs, panel, positions) = (40, 8, 2);
    let mut packed = Vec::new();
    for (row, at) in (0..positions * inputs).flat_map(|row| (0..panel).map(move |lane| (row, lane)))
    {
        let most = [255, 254, 127, 113, 64, 7, 1, 0][at];
        let whole = (row * 61 + at * 17) as i32 % (2 * most + 1) - most;
        packed.push(whole as f32 * (0.0007 + at as f32 * 0.000_13));
    }
    let halved = halve(&packed, inputs, panel);
    let bytes: Vec<u8> = halved.weights.iter().flat_map(|pair| pair.to_le_bytes()).collect();
    for (i, (bytes, weight)) in bytes.as_chunks().0.iter().zip(&packed).enumerate() {
        let scale = halved.scales[i / (inputs * panel) * panel + i % panel];
        let back = f64::from(i16::from_le_bytes(*bytes)) * f64::from(scale);
        let error = (back - f64::from(*weight)).abs();
        // The rounding of the product, of its scale, and of the quotient.
        assert!(error <= 2e-7 * f64::from(weight.abs()), "{i}: {weight} becomes {back}");
    }
}

#[test]
fn forged_scales_are_refused() {
    let shape = Shape { height: 4, width: 4, channels: 16 };
    let mut net = net_of(&[shape]);
    let value = net.push("conv", Kind::Conv(conv(Moving::POINT, 1, 16, 16)), vec![0], shape);
    net.outputs.push(spec("out", shape, value));
    let algorithms = [Algorithm::Direct];
    let (plan, mut section) = emit(&net, &algorithms, lay_out(&net, &algorithms), 0);
    section.resize(section.len().next_multiple_of(16), 0.0);
    let opened = |forge: fn(&mut Conv)| {
        let mut plan = plan.clone();
        let Some(Step::Conv(conv)) = plan.steps.first_mut() else { panic!("no convolution") };
        forge(conv);
        Model::from_bytes(&format::write(&plan, &section).unwrap())
    };
    opened(|_| {}).unwrap();
    let forgeries: [fn(&mut Conv); 5] = [
        |conv| conv.scales = None,
        |conv| conv.scales = Some(Blob { len: 15, ..conv.scales.unwrap() }),
        |conv| conv.scales = Some(Blob { offset: u64::MAX - 15, ..conv.scales.unwrap() }),
        |conv| conv.scales = Some(Blob { offset: 1 << 20, ..conv.scales.unwrap() }),
        |conv| conv.weights.len *= 2,
    ];
    for (i, forge) in forgeries.into_iter().enumerate() {
        assert!(matches!(opened(forge), Err(OpenError::Plan { .. })), "forgery {i}");
    }
}
