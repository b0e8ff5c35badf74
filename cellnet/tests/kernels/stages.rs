//! Which steps make a pair, and which must not.

use super::*;

#[test]
fn steps_are_paired_only_if_no_other_step_reads_the_map_between() {
    let shape = |channels, side| Shape { height: side, width: side, channels };
    let same = Moving { kernel: [3, 3], stride: [1, 1], pads: [1; 4] };
    let alone = |count| (0..count).map(|step| Stage { step, slice: None }).collect::<Vec<_>>();
    let pair = |side| {
        let mut net = net_of(&[shape(8, side)]);
        let expand = Kind::Conv(conv(Moving::POINT, 1, 8, 48));
        let expanded = net.push("expand", expand, vec![0], shape(48, side));
        let depthwise = Kind::Conv(conv(same, 48, 1, 48));
        let value = net.push("depthwise", depthwise, vec![expanded], shape(48, side));
        net.outputs.push(spec("out", shape(48, side), value));
        (net, expanded, value)
    };
    let (net, ..) = pair(30);
    assert_eq!(stages_of(&net), [Stage { step: 0, slice: Some(32) }]);
    let (net, ..) = pair(60);
    assert_eq!(
        stages_of(&net),
        [Stage { step: 0, slice: Some(16) }],
        "narrower slices of a larger map"
    );
    let (net, ..) = pair(80);
    assert_eq!(stages_of(&net), alone(2), "a map too large for the cache");
    let (mut net, expanded, _) = pair(30);
    net.outputs.push(spec("expanded", shape(48, 30), expanded));
    assert_eq!(stages_of(&net), alone(2), "the map between is an output");
    let (mut net, expanded, value) = pair(30);
    let add = Kind::Binary {
        op: BinaryOp::Add,
        a: Arg::Value(expanded),
        b: Arg::Value(value),
        activation: Activation::None,
    };
    net.push("add", add, Vec::new(), shape(48, 30));
    assert_eq!(stages_of(&net), alone(3), "the map between is read again");
}

#[test]
fn steps_are_not_paired_if_the_second_overwrites_the_input_of_the_first() {
    let shape = |channels| Shape { height: 9, width: 9, channels };
    let mut net = net_of(&[shape(40)]);
    let expand = Kind::Conv(conv(Moving::POINT, 1, 40, 40));
    let expanded = net.push("expand", expand, vec![0], shape(40));
    let depthwise = Kind::Conv(conv(Moving::POINT, 40, 1, 40));
    let value = net.push("depthwise", depthwise, vec![expanded], shape(40));
    net.outputs.push(spec("out", shape(40), value));
    let algorithms = [Algorithm::Direct; 2];
    let (mut plan, _) = emit(&net, &algorithms, lay_out(&net, &algorithms), usize::MAX);
    assert_eq!(stages(&plan).len(), 1);
    let input = plan.maps[plan.inputs[0].map as usize].offset;
    plan.maps[plan.outputs[0].map as usize].offset = input;
    assert_eq!(stages(&plan).len(), 2);
}
