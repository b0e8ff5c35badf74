//! Layer norm, attention and copies of a part; and forged plans of them.

use proptest::prelude::*;

use super::*;
use cellnet::OpenError;
use cellnet::internals::AttentionLayer;

/// The plan and weights of a net with one output.
fn planned(net: &mut Net, value: usize) -> (Plan, Vec<f32>) {
    let output = spec("out", net.values[value], value);
    net.outputs.push(output);
    let algorithms = vec![Algorithm::Direct; net.layers.len()];
    emit(net, &algorithms, lay_out(net, &algorithms), usize::MAX)
}

/// Attention whose values are as wide as its keys, in groups `[rows, columns]` that lie apart.
fn attention(first: [usize; 3], heads: usize, head: usize, groups: [usize; 2]) -> AttentionLayer {
    AttentionLayer {
        first,
        heads,
        head,
        value_head: head,
        scale: 0.3,
        groups,
        is_near: false,
        shift: [0; 2],
        bias: Vec::new(),
        mask: Vec::new(),
    }
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
        let kind = Kind::Attention(attention(first, heads, head, window));
        let value = net.push("attention", kind, inputs, shape);
        check(&mut net, &[value], Algorithm::Direct, 4e-6);
    }

    #[test]
    fn attentions_within_windows(
        rows in 1usize..5, columns in 1usize..6, groups in (1usize..4, 1usize..3), is_near in any::<bool>(),
        heads in 1usize..4, head in 1usize..20, value_head in 1usize..36, moved in any::<(u8, u8)>(),
        summands in any::<(bool, bool)>(),
    ) {
        let groups = [groups.0, groups.1];
        let (height, width) = (rows * groups[0], columns * groups[1]);
        let of = |head: usize| Shape { height, width, channels: heads * head };
        let mut net = net_of(&[of(head), of(head), of(value_head)]);
        let scores = (rows * columns) * (rows * columns);
        let given = |is: bool, of: usize, seed| if is { noise(seed, of * scores) } else { Vec::new() };
        let layer = AttentionLayer {
            value_head,
            is_near,
            shift: [moved.0 as usize % height, moved.1 as usize % width],
            bias: given(summands.0, heads, 9),
            mask: given(summands.1, groups[0] * groups[1], 10),
            ..attention([0; 3], heads, head, groups)
        };
        let value = net.push("attention", Kind::Attention(layer), vec![0, 1, 2], of(value_head));
        check(&mut net, &[value], Algorithm::Direct, 4e-6);
    }

    #[test]
    fn attentions_of_few_queries_to_many_keys(
        queries in 1usize..40, keys in 1usize..70, heads in 1usize..4, head in 1usize..20, has_bias in any::<bool>(),
    ) {
        let of = |width: usize| Shape { height: 1, width, channels: heads * head };
        let mut net = net_of(&[of(queries), of(keys), of(keys)]);
        let bias = if has_bias { noise(9, heads * queries * keys) } else { Vec::new() };
        let layer = AttentionLayer { bias, ..attention([0; 3], heads, head, [1, 1]) };
        let value = net.push("attention", Kind::Attention(layer), vec![0, 1, 2], of(queries));
        check(&mut net, &[value], Algorithm::Direct, 4e-6);
    }

    /// Every token of the first group is left out, by numbers so small that the scores do not change them,
    /// and one token of the second. The lanes beyond the last token counted then.
    #[test]
    fn attentions_of_tokens_that_are_left_out(
        tokens in 2usize..20, heads in 1usize..3, least in prop::sample::select(vec![-100.0, -1e9, -1e31, f32::MIN]),
    ) {
        let shape = Shape { height: 1, width: 2 * tokens, channels: heads * 4 };
        let mut net = net_of(&[shape; 3]);
        let each = tokens * tokens;
        let is_out = |i: usize| i < each || i % tokens == 1;
        let mask = (0..2 * each).map(|i| if is_out(i) { least } else { 0.0 }).collect();
        let layer = AttentionLayer { is_near: true, mask, ..attention([0; 3], heads, 4, [1, 2]) };
        let value = net.push("attention", Kind::Attention(layer), vec![0, 1, 2], shape);
        let bound = if least < -1e8 { 4e-6 } else { 1e-4 };
        check(&mut net, &[value], Algorithm::Direct, bound);
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

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn one_channel_of_each_group_in_turn(input in shape(), groups in 1usize..5, cut in any::<(u8, u8)>()) {
        let input = Shape { channels: input.channels * groups, ..input };
        let first = cut.0 as usize % input.channels;
        let count = 1 + cut.1 as usize % (input.channels - first);
        let mut net = net_of(&[input]);
        let shape = Shape { channels: count, ..input };
        let value = net.push("shuffle", Kind::Shuffle { first, groups }, vec![0], shape);
        check(&mut net, &[value], Algorithm::Direct, 0.0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn steps_between_the_least_and_the_greatest(input in shape()) {
        let mut net = net_of(&[input]);
        let value = net.push("rounded", Kind::DynamicQuantize, vec![0], input);
        check(&mut net, &[value], Algorithm::Direct, 0.0);
    }
}

/// The index of a step, and a change of it.
type Forgery = (usize, fn(&mut Step));

/// Whether the plan opens, and none of its forgeries of the step at an index does.
fn are_refused(net: &mut Net, value: usize, forgeries: &[Forgery]) {
    let (plan, mut weights) = planned(net, value);
    weights.resize(weights.len().next_multiple_of(16).max(16), 0.0);
    let open = |plan: &Plan| Model::from_bytes(&format::write(plan, &weights).unwrap());
    assert!(open(&plan).is_ok());
    for (i, (at, forge)) in forgeries.iter().enumerate() {
        let mut forged = plan.clone();
        forge(&mut forged.steps[*at]);
        assert!(matches!(open(&forged), Err(OpenError::Plan { .. })), "forgery {i}");
    }
}

/// The step's part of its kind.
macro_rules! forged {
    ($kind:ident, |$s:ident| $change:expr) => {
        |step: &mut Step| match step {
            Step::$kind($s) => $change,
            other => panic!("{other:?}"),
        }
    };
}

#[test]
fn forged_parts_of_channels_are_refused() {
    let all = Shape { height: 4, width: 6, channels: 72 };
    let shape = Shape { channels: 24, ..all };
    let mut net = net_of(&[all]);
    let mut layer = attention([0, 24, 48], 3, 8, [2, 3]);
    (layer.bias, layer.mask) = (noise(9, 3 * 4 * 4), noise(10, 6 * 4 * 4));
    let value = net.push("attention", Kind::Attention(layer), vec![0; 3], shape);
    let forgeries: [Forgery; 13] = [
        (0, forged!(Attention, |s| s.first[2] = 49)),
        (0, forged!(Attention, |s| s.first[0] = u32::MAX)),
        (0, forged!(Attention, |s| s.groups = [3, 3])),
        (0, forged!(Attention, |s| s.groups = [0, 1])),
        (0, forged!(Attention, |s| s.groups = [4, 6])),
        (0, forged!(Attention, |s| s.shift = [4, 0])),
        (0, forged!(Attention, |s| s.shift = [0, u32::MAX])),
        (0, forged!(Attention, |s| s.value_head = 0)),
        (0, forged!(Attention, |s| s.value_head = 9)),
        (0, forged!(Attention, |s| s.bias = s.mask)),
        (0, forged!(Attention, |s| s.mask = s.bias)),
        (0, forged!(Attention, |s| s.heads = 4)),
        (0, forged!(Attention, |s| s.value = s.output)),
    ];
    are_refused(&mut net, value, &forgeries);
    let mut net = net_of(&[all]);
    let value = net.push("slice", Kind::Slice { first: 40 }, vec![0], shape);
    are_refused(&mut net, value, &[(0, forged!(Slice, |s| s.first = 49))]);
    let mut net = net_of(&[all]);
    let value = net.push("shuffle", Kind::Shuffle { first: 40, groups: 3 }, vec![0], shape);
    let forgeries: [Forgery; 4] = [
        (0, forged!(Shuffle, |s| s.first = 49)),
        (0, forged!(Shuffle, |s| s.groups = 0)),
        (0, forged!(Shuffle, |s| s.groups = 5)),
        (0, forged!(Shuffle, |s| s.input = s.output)),
    ];
    are_refused(&mut net, value, &forgeries);
    let mut net = net_of(&[all]);
    let value = net.push("rounded", Kind::DynamicQuantize, vec![0], all);
    are_refused(&mut net, value, &[(0, forged!(DynamicQuantize, |s| s.input = s.output))]);
}

#[test]
fn forged_norms_and_tokens_are_refused() {
    let shape = Shape { height: 4, width: 6, channels: 24 };
    let row = Shape { height: 1, width: 26, channels: 24 };
    let mut net = net_of(&[shape]);
    let (scale, bias) = (vec![1.0; 24], vec![0.0; 24]);
    let norm = net.push("norm", Kind::Norm { epsilon: 1e-5, scale, bias }, vec![0], shape);
    let value = net.push("prepend", Kind::Prepend { head: vec![0.5; 48] }, vec![norm], row);
    let forgeries: [Forgery; 4] = [
        (0, forged!(Norm, |s| s.scale.len -= 1)),
        (0, forged!(Norm, |s| s.bias.offset = u64::MAX - 15)),
        (0, forged!(Norm, |s| s.epsilon = f32::NAN)),
        (1, forged!(Prepend, |s| s.head.len -= 24)),
    ];
    are_refused(&mut net, value, &forgeries);
}
