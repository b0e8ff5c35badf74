//! Layer norm, attention and copies of a part; and forged plans of them.

use proptest::prelude::*;

use super::*;
use crate::OpenError;
use crate::pack::net::AttentionLayer;

/// The plan and weights of a net with one output.
fn planned(net: &mut Net, value: usize) -> (Plan, Vec<f32>) {
    let output = spec("out", net.values[value], value);
    net.outputs.push(output);
    let algorithms = vec![Algorithm::Direct; net.layers.len()];
    emit::emit(net, &algorithms, layout::lay_out(net, &algorithms), usize::MAX)
}

fn attention(first: [usize; 3], heads: usize, head: usize, window: [usize; 2]) -> Kind {
    Kind::Attention(AttentionLayer { first, heads, head, scale: 0.3, window })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn layer_norms(input in shape()) {
        let mut net = net_of(&[input]);
        let (scale, bias) = (noise(6, input.channels), noise(7, input.channels));
        let kind = Kind::Norm { epsilon: 1e-3, scale, bias };
        let value = net.push("norm", kind, vec![0], input);
        check(&mut net, &[value], Algorithm::Direct, 4e-6);
    }

    #[test]
    fn attentions(
        rows in 1..SIDE.min(7), columns in 1..SIDE.min(9), window in (1usize..3, 1usize..3), heads in 1usize..4,
        head in prop::sample::select(vec![1usize, 4, 8, 13, 16, 24]), joined in any::<bool>(),
    ) {
        let window = [window.0, window.1];
        let channels = heads * head;
        let shape = Shape { height: rows * window[0], width: columns * window[1], channels };
        let all = if joined { Shape { channels: 3 * channels, ..shape } } else { shape };
        let mut net = net_of(&[all, all, all]);
        let first = if joined { [0, channels, 2 * channels] } else { [0; 3] };
        let inputs = if joined { vec![0; 3] } else { vec![0, 1, 2] };
        let value = net.push("attention", attention(first, heads, head, window), inputs, shape);
        check(&mut net, &[value], Algorithm::Direct, 4e-6);
    }

    #[test]
    fn parts_and_tokens(input in shape(), cut in any::<(u8, u8)>(), more in 1usize..4) {
        let first = cut.0 as usize % input.channels;
        let count = 1 + cut.1 as usize % (input.channels - first);
        let sliced = Shape { channels: count, ..input };
        let mut net = net_of(&[input]);
        let slice = net.push("slice", Kind::Slice { first }, vec![0], sliced);
        let row = Shape { height: 1, width: more + input.pixels(), channels: count };
        let head = noise(8, more * count);
        let value = net.push("prepend", Kind::Prepend { head }, vec![slice], row);
        check(&mut net, &[slice, value], Algorithm::Direct, 0.0);
    }
}

#[test]
fn forged_plans_are_refused() {
    let shape = Shape { height: 4, width: 6, channels: 24 };
    let all = Shape { channels: 72, ..shape };
    let row = Shape { height: 1, width: 26, channels: 24 };
    let kinds =
        [(attention([0, 24, 48], 3, 8, [2, 3]), shape, 3), (Kind::Slice { first: 40 }, shape, 1)];
    let refused = |plan: &Plan, weights: &[f32], forge: &dyn Fn(&mut Step)| {
        let mut forged = plan.clone();
        forge(&mut forged.steps[0]);
        assert_ne!(&forged, plan);
        let file = format::write(&forged, weights).unwrap();
        matches!(Model::from_bytes(&file), Err(OpenError::Plan { .. }))
    };
    for (kind, shape, inputs) in kinds {
        let mut net = net_of(&[all]);
        let value = net.push("step", kind, vec![0; inputs], shape);
        let (plan, mut weights) = planned(&mut net, value);
        weights.resize(16, 0.0);
        assert!(Model::from_bytes(&format::write(&plan, &weights).unwrap()).is_ok());
        assert!(refused(&plan, &weights, &|step| match step {
            Step::Attention(s) => s.first[2] = 49,
            Step::Slice(s) => s.first = 49,
            _ => {}
        }));
        if let Step::Attention(_) = plan.steps[0] {
            let forges: [fn(&mut crate::plan::Attention); 4] = [
                |s| s.window = [3, 3],
                |s| s.window = [0, 1],
                |s| s.heads = 4,
                |s| s.value = s.output,
            ];
            for forge in forges {
                assert!(refused(&plan, &weights, &|step| {
                    if let Step::Attention(s) = step {
                        forge(s);
                    }
                }));
            }
        }
    }
    let mut net = net_of(&[shape]);
    let (scale, bias) = (vec![1.0; 24], vec![0.0; 24]);
    let norm = net.push("norm", Kind::Norm { epsilon: 1e-5, scale, bias }, vec![0], shape);
    let value = net.push("prepend", Kind::Prepend { head: vec![0.5; 48] }, vec![norm], row);
    let (plan, mut weights) = planned(&mut net, value);
    weights.resize(weights.len().next_multiple_of(16), 0.0);
    assert!(Model::from_bytes(&format::write(&plan, &weights).unwrap()).is_ok());
    let shorter: fn(&mut Step) = |step| {
        if let Step::Norm(s) = step {
            s.scale.len -= 1;
        }
    };
    assert!(refused(&plan, &weights, &shorter));
    assert!(refused(&plan, &weights, &|step| {
        if let Step::Norm(s) = step {
            s.epsilon = f32::NAN;
        }
    }));
    let mut forged = plan.clone();
    if let Step::Prepend(s) = &mut forged.steps[1] {
        s.head.len -= 24;
    }
    let file = format::write(&forged, &weights).unwrap();
    assert!(matches!(Model::from_bytes(&file), Err(OpenError::Plan { .. })));
}
