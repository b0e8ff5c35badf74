//! Norms, means over channels, and convolutions along them, which no kernel computes in one piece, against
//! their definitions in double precision.
#![allow(clippy::unwrap_used, reason = "a test that cannot pack its graph has failed")]

use cellnet::pack::{Options, pack};
use cellnet::{Model, Pool, TensorRef, Workspace};
use rten_onnx::onnx::{AttributeProto, NodeProto, TensorProto};

mod common;
use common::{declared, float, int, integers, ints, model, node, tensor, text};

const CHANNELS: usize = 12;
const HEIGHT: usize = 6;
const WIDTH: usize = 8;
const PIXELS: usize = HEIGHT * WIDTH;

fn photo() -> Vec<f32> {
    (0..CHANNELS * PIXELS)
        .map(|i| (i * 37 % 101) as f32 * 0.05 - 1.7 + (i / PIXELS) as f32)
        .collect()
}

/// The output "y" of a graph of the photo "x", `[1, CHANNELS, HEIGHT, WIDTH]`.
fn answer(nodes: Vec<NodeProto>, held: Vec<TensorProto>) -> Result<Vec<f32>, String> {
    let dims = [1, CHANNELS as i64, HEIGHT as i64, WIDTH as i64];
    let graph = model(nodes, held, vec![declared("x", &dims)], &["y"]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    std::fs::write(&path, graph.write_buf().unwrap()).unwrap();
    let bytes = pack(&path, &Options::default()).map_err(|error| error.to_string())?;
    let model = Model::from_bytes(&bytes).unwrap();
    let photo = photo();
    let inputs = [("x", TensorRef::F32(&photo))];
    let outputs = model.run(&mut Workspace::new(&model), &Pool::new(1), &inputs).unwrap();
    Ok(outputs[0].1.values.to_vec())
}

fn assert_close(found: &[f32], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    for (index, (found, want)) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(*found) - want).abs();
        assert!(error <= 2e-6 * largest, "{index}: {found}, not {want}");
    }
}

/// The photo with each group of channels normed, times `scale` and plus `bias` of the channel.
fn normed(groups: usize, scale: impl Fn(usize) -> f32, bias: impl Fn(usize) -> f32) -> Vec<f64> {
    let photo: Vec<f64> = photo().into_iter().map(f64::from).collect();
    let each = CHANNELS / groups * PIXELS;
    let of = |group: &[f64]| {
        let mean = group.iter().sum::<f64>() / each as f64;
        let variance = group.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / each as f64;
        let by = (variance + 1e-3).sqrt();
        group.iter().map(|x| (x - mean) / by).collect::<Vec<_>>()
    };
    let all = photo.chunks(each).flat_map(of);
    let channel = |index: usize| index / PIXELS;
    all.enumerate()
        .map(|(i, x)| x * f64::from(scale(channel(i))) + f64::from(bias(channel(i))))
        .collect()
}

fn scale(channel: usize) -> f32 {
    0.5 + channel as f32 * 0.1
}

fn bias(channel: usize) -> f32 {
    channel as f32 * 0.2 - 1.0
}

fn epsilon() -> AttributeProto {
    float("epsilon", 1e-3)
}

fn of_channels(dims: &[i64]) -> Vec<TensorProto> {
    vec![tensor("scale", dims, scale), tensor("bias", dims, bias)]
}

#[test]
fn each_group_of_channels_has_its_norm() {
    for groups in [1, 3, CHANNELS] {
        let attributes = vec![int("num_groups", groups as i64), epsilon()];
        let whole = node("GroupNormalization", &["x", "scale", "bias"], "y", attributes);
        let found = answer(vec![whole], of_channels(&[CHANNELS as i64])).unwrap();
        assert_close(&found, &normed(groups, scale, bias));
        // As PyTorch's exporter writes it, with factors and summands of the groups before those of the
        // channels.
        let nodes = vec![
            node("Reshape", &["x", "grouped"], "g", vec![]),
            node("InstanceNormalization", &["g", "scales", "biases"], "n", vec![epsilon()]),
            node("Reshape", &["n", "map"], "m", vec![]),
            node("Mul", &["m", "scale"], "s", vec![]),
            node("Add", &["s", "bias"], "y", vec![]),
        ];
        let mut held = of_channels(&[CHANNELS as i64, 1, 1]);
        held.extend([
            integers("grouped", &[0, groups as i64, -1]),
            integers("map", &[1, CHANNELS as i64, HEIGHT as i64, WIDTH as i64]),
            tensor("scales", &[groups as i64], |group| 1.0 + group as f32),
            tensor("biases", &[groups as i64], |group| group as f32 * 0.5),
        ]);
        let group = |channel: usize| channel * groups / CHANNELS;
        let inner = normed(groups, |c| 1.0 + group(c) as f32, |c| group(c) as f32 * 0.5);
        let outer = inner
            .iter()
            .enumerate()
            .map(|(i, x)| x * f64::from(scale(i / PIXELS)) + f64::from(bias(i / PIXELS)));
        assert_close(&answer(nodes, held).unwrap(), &outer.collect::<Vec<_>>());
    }
    let instance = node("InstanceNormalization", &["x", "scale", "bias"], "y", vec![epsilon()]);
    let found = answer(vec![instance], of_channels(&[CHANNELS as i64])).unwrap();
    assert_close(&found, &normed(CHANNELS, scale, bias));
}

/// As tf2onnx writes Keras's group norm: means over the pixels and the channels of a group, which have axes
/// of their own, and factors and summands of all channels.
#[test]
fn means_of_groups_meet_all_channels() {
    let (channels, height, width) = (CHANNELS as i64, HEIGHT as i64, WIDTH as i64);
    for groups in [2, 4, 6] {
        let each = channels / groups;
        let mean = |x, y| node("ReduceMean", &[x, "inside"], y, vec![int("keepdims", 1)]);
        let perm = |x, y, perm: &[i64]| node("Transpose", &[x], y, vec![ints("perm", perm)]);
        let nodes = vec![
            node("Conv", &["x", "identity"], "i", vec![]),
            perm("i", "last", &[0, 2, 3, 1]),
            node("Reshape", &["last", "grouped"], "g", vec![]),
            mean("g", "means"),
            node("Neg", &["means"], "less", vec![]),
            node("Sub", &["g", "means"], "moved", vec![]),
            node("Mul", &["moved", "moved"], "squares", vec![]),
            mean("squares", "variances"),
            node("Add", &["variances", "epsilon"], "plus", vec![]),
            node("Sqrt", &["plus"], "root", vec![]),
            node("Reciprocal", &["root"], "by", vec![]),
            node("Mul", &["by", "scale"], "factors", vec![]),
            node("Mul", &["g", "factors"], "scaled", vec![]),
            node("Mul", &["less", "factors"], "shifts", vec![]),
            node("Add", &["shifts", "bias"], "summands", vec![]),
            node("Add", &["scaled", "summands"], "n", vec![]),
            node("Reshape", &["n", "map"], "m", vec![]),
            perm("m", "y", &[0, 3, 1, 2]),
        ];
        let mut held = of_channels(&[1, 1, 1, groups, each]);
        held.extend([
            integers("grouped", &[-1, height, width, groups, each]),
            integers("map", &[1, height, width, channels]),
            integers("inside", &[1, 2, 4]),
            tensor("epsilon", &[], |_| 1e-3),
            tensor("identity", &[channels, channels, 1, 1], |i| {
                f32::from(u8::from(i % (CHANNELS + 1) == 0))
            }),
        ]);
        let found = answer(nodes, held).unwrap();
        assert_close(&found, &normed(groups as usize, scale, bias));
    }
}

/// As MobileViTv2 norms its patches of 2 by 2 pixels: all pixels of one place in a patch, then those of the
/// next.
fn in_patches(after: Vec<NodeProto>) -> (Vec<NodeProto>, Vec<TensorProto>) {
    let mut nodes = vec![
        // Channels come first, as before any convolution.
        node("Conv", &["x", "identity"], "i", vec![]),
        node("Reshape", &["i", "pairs"], "p", vec![]),
        node("Transpose", &["p"], "t", vec![ints("perm", &[0, 1, 3, 5, 2, 4])]),
        node("Reshape", &["t", "patches"], "u", vec![]),
    ];
    nodes.extend(after);
    let (channels, quarter) = (CHANNELS as i64, PIXELS as i64 / 4);
    let (rows, columns) = (HEIGHT as i64 / 2, WIDTH as i64 / 2);
    let held = vec![
        integers("pairs", &[1, channels, rows, 2, columns, 2]),
        integers("patches", &[1, channels, 4, quarter]),
        integers("folded", &[1, channels, 2, 2, rows, columns]),
        integers("map", &[1, channels, HEIGHT as i64, WIDTH as i64]),
        integers("grouped", &[1, 3, -1]),
        integers("other", &[1, 3, 4, -1]),
        tensor("identity", &[channels, channels, 1, 1], |i| {
            f32::from(u8::from(i % (CHANNELS + 1) == 0))
        }),
        tensor("scales", &[3], |group| 1.0 + group as f32),
        tensor("biases", &[3], |group| group as f32 * 0.5),
    ];
    (nodes, held)
}

#[test]
fn groups_in_another_order_of_pixels_have_their_norm() {
    let (nodes, held) = in_patches(vec![
        node("Reshape", &["u", "grouped"], "g", vec![]),
        node("InstanceNormalization", &["g", "scales", "biases"], "n", vec![epsilon()]),
        node("Reshape", &["n", "patches"], "v", vec![]),
        node("Reshape", &["v", "folded"], "w", vec![]),
        node("Transpose", &["w"], "b", vec![ints("perm", &[0, 1, 4, 2, 5, 3])]),
        node("Reshape", &["b", "map"], "y", vec![]),
    ]);
    let expected = normed(3, |c| 1.0 + (c / 4) as f32, |c| (c / 4) as f32 * 0.5);
    assert_close(&answer(nodes, held).unwrap(), &expected);
}

#[test]
fn groups_in_another_order_are_refused_if_they_stay_so() {
    for last in [
        node("Relu", &["g"], "y", vec![]),
        node("Mul", &["g", "g"], "y", vec![]),
        node("Reshape", &["g", "other"], "y", vec![]),
        node("Identity", &["g"], "y", vec![]),
    ] {
        let op = last.op_type.clone();
        let (nodes, held) = in_patches(vec![node("Reshape", &["u", "grouped"], "g", vec![]), last]);
        let error = answer(nodes, held).unwrap_err();
        assert!(error.contains("groups of channels"), "{op:?}: {error}");
    }
}

/// Sum, square sum and their like over axes of the photo, for each element that is left.
fn reduced(axes: [bool; 3], of: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let photo = photo();
    let sides = [CHANNELS, HEIGHT, WIDTH];
    let kept = axes.iter().zip(sides).map(|(gone, side)| if *gone { 1 } else { side });
    let kept: Vec<usize> = kept.collect();
    let mut groups = vec![Vec::new(); kept.iter().product()];
    for (index, value) in photo.into_iter().enumerate() {
        let at = [index / PIXELS, index / WIDTH % HEIGHT, index % WIDTH];
        let at: Vec<usize> =
            at.iter().zip(&axes).map(|(i, gone)| if *gone { 0 } else { *i }).collect();
        groups[(at[0] * kept[1] + at[1]) * kept[2] + at[2]].push(f64::from(value));
    }
    groups.iter().map(|group| of(group)).collect()
}

#[test]
fn channels_and_pixels_are_reduced() {
    type Of = fn(&[f64]) -> f64;
    let cases: [(&str, Of); 4] = [
        ("ReduceMean", |all| all.iter().sum::<f64>() / all.len() as f64),
        ("ReduceSum", |all| all.iter().sum()),
        ("ReduceL2", |all| all.iter().map(|x| x * x).sum::<f64>().sqrt()),
        ("ReduceSumSquare", |all| all.iter().map(|x| x * x).sum()),
    ];
    for (op, of) in cases {
        for axes in [[true, false, false], [false, true, true], [true, true, true]] {
            let list: Vec<i64> =
                (1..).zip(axes).filter(|(_, gone)| *gone).map(|(i, _)| i).collect();
            for keeps in [0, 1] {
                let attributes = vec![int("keepdims", keeps)];
                let nodes = vec![node(op, &["x", "axes"], "y", attributes)];
                let found = answer(nodes, vec![integers("axes", &list)]).unwrap();
                assert_close(&found, &reduced(axes, of));
            }
        }
    }
    for (op, list) in [("ReduceMax", vec![1]), ("ReduceMean", vec![2]), ("ReduceMean", vec![1, 3])]
    {
        let nodes = vec![node(op, &["x", "axes"], "y", vec![])];
        let error = answer(nodes, vec![integers("axes", &list)]).unwrap_err();
        assert!(error.contains("not all pixels"), "{op} {list:?}: {error}");
    }
}

/// As Keras writes a layer norm: a number of each pixel times the factors of the channels.
#[test]
fn a_number_of_each_pixel_is_repeated_for_the_factors_of_channels() {
    let nodes = vec![
        node("ReduceMean", &["x", "one"], "m", vec![]),
        node("Mul", &["m", "scale"], "s", vec![]),
        node("Sub", &["bias", "s"], "y", vec![]),
    ];
    let mut held = of_channels(&[1, CHANNELS as i64, 1, 1]);
    held.push(integers("one", &[1]));
    let means = reduced([true, false, false], |all| all.iter().sum::<f64>() / CHANNELS as f64);
    let value = |(channel, pixel): (usize, usize)| {
        f64::from(bias(channel)) - means[pixel] * f64::from(scale(channel))
    };
    let all = (0..CHANNELS).flat_map(|channel| (0..PIXELS).map(move |pixel| (channel, pixel)));
    let expected: Vec<f64> = all.map(value).collect();
    assert_close(&answer(nodes, held).unwrap(), &expected);
}

#[test]
fn a_kernel_moves_along_the_channels() {
    let cases: [(&[i64], usize, Vec<AttributeProto>, usize); 5] = [
        (&[1, 1, 3], 3, vec![ints("pads", &[1, 1])], 1),
        (&[1, 1, 5], 5, vec![ints("pads", &[1, 3])], 1),
        (&[1, 1, 1], 1, vec![], 0),
        (&[1, 1, 1, 4], 4, vec![text("auto_pad", "SAME_UPPER")], 1),
        (&[1, 1, 5, 1], 5, vec![ints("pads", &[2, 0, 2, 0])], 2),
    ];
    let means: Vec<f64> =
        reduced([false, true, true], |all| all.iter().sum::<f64>() / PIXELS as f64);
    for (dims, length, attributes, before) in cases {
        let channels = CHANNELS as i64;
        let shape: Vec<i64> = dims.iter().map(|d| if *d > 1 { channels } else { 1 }).collect();
        let shape = if length == 1 { vec![1, 1, channels] } else { shape };
        let nodes = vec![
            node("GlobalAveragePool", &["x"], "p", vec![]),
            node("Reshape", &["p", "line"], "l", vec![]),
            node("Conv", &["l", "kernel", "one"], "c", attributes),
            node("Reshape", &["c", "map"], "y", vec![]),
        ];
        let weight = |i: usize| (i * i) as f32 * 0.3 - 0.7;
        let held = vec![
            integers("line", &shape),
            integers("map", &[1, channels, 1, 1]),
            tensor("kernel", dims, weight),
            tensor("one", &[1], |_| 0.25),
        ];
        let at = |channel: usize, place: usize| {
            let from = (channel + place).checked_sub(before)?;
            Some(means.get(from)? * f64::from(weight(place)))
        };
        let sum = |channel| 0.25 + (0..length).filter_map(|place| at(channel, place)).sum::<f64>();
        let expected: Vec<f64> = (0..CHANNELS).map(sum).collect();
        assert_close(&answer(nodes, held).unwrap(), &expected);
    }
}

#[test]
fn a_maximum_reads_zeros_around_values_below_zero() {
    let nodes = vec![
        node("Sub", &["x", "ten"], "below", vec![]),
        node("Pad", &["below", "around"], "padded", vec![]),
        node(
            "MaxPool",
            &["padded"],
            "y",
            vec![ints("kernel_shape", &[2, 2]), ints("pads", &[1, 0, 0, 0])],
        ),
    ];
    let held = vec![tensor("ten", &[1], |_| 20.0), integers("around", &[0, 0, 0, 0, 0, 0, 1, 1])];
    let found = answer(nodes, held).unwrap();
    let photo = photo();
    let (height, width) = (HEIGHT + 1, WIDTH);
    assert_eq!(found.len(), CHANNELS * height * width);
    for (index, found) in found.iter().enumerate() {
        let (channel, y, x) = (index / (height * width), index / width % height, index % width);
        // One row above is no part of the maximum; rows below and columns to the right are 0.
        let mut most = f32::MIN;
        for (y, x) in (0..2).flat_map(|dy| (0..2).map(move |dx| (y + dy, x + dx))) {
            let Some(y) = y.checked_sub(1) else { continue };
            let inside = y < HEIGHT && x < WIDTH;
            let value = photo.get((channel * HEIGHT + y) * WIDTH + x).filter(|_| inside);
            most = most.max(value.map_or(0.0, |value| value - 20.0));
        }
        assert_eq!(*found, most, "channel {channel}, {y} {x}: {:?}", &photo[..9]);
    }
}

/// `SAME` divides the padding that the padded size needs, not that of the map before the zeros of `Pad`.
#[test]
fn automatic_padding_counts_the_zeros_of_a_pad_before_it() {
    let channels = CHANNELS as i64;
    let attributes =
        |mode| vec![int("group", channels), ints("strides", &[2, 2]), text("auto_pad", mode)];
    let nodes = |mode| {
        let convolution = node("Conv", &["padded", "kernel"], "y", attributes(mode));
        vec![node("Pad", &["x", "below"], "padded", vec![]), convolution]
    };
    let weight = |i: usize| (i % 9 * 7 % 5) as f32 * 0.4 - 0.7;
    let held = || {
        let kernel = tensor("kernel", &[channels, 1, 3, 3], weight);
        vec![integers("below", &[0, 0, 0, 0, 0, 0, 1, 2]), kernel]
    };
    // A height of 7 takes 2 rows more, 1 before it; a width of 10 takes 1 column more.
    for (mode, [top, left]) in [("SAME_UPPER", [1, 0]), ("SAME_LOWER", [1, 1])] {
        let photo = photo();
        let at = |channel: usize, y: usize, x: usize| {
            let (y, x) = (y.checked_sub(top)?, x.checked_sub(left)?);
            (y < HEIGHT && x < WIDTH).then(|| photo[channel * PIXELS + y * WIDTH + x])
        };
        let value = |channel: usize, y: usize, x: usize| -> f64 {
            let taps = (0..9).filter_map(|tap| {
                let found = at(channel, 2 * y + tap / 3, 2 * x + tap % 3)?;
                Some(f64::from(found) * f64::from(weight(tap)))
            });
            taps.sum()
        };
        let places = (0..CHANNELS * 4 * 5).map(|i| (i / 20, i / 5 % 4, i % 5));
        let expected: Vec<f64> = places.map(|(channel, y, x)| value(channel, y, x)).collect();
        assert_close(&answer(nodes(mode), held()).unwrap(), &expected);
    }
}
