//! The geometry of moving windows (kernel, stride, padding), and the operators pooling, reduction and
//! softmax. The windows of Swin's attention are in [`rolls`](super::rolls).

use rten_onnx::onnx::NodeProto;

use super::super::constant::Constant;
use super::super::net::{Kind, Moving, Shape};
use super::super::source::Attributes;
use super::super::view::{Axis, View, in_words, size};
use super::{Lowerer, Refused, Tensor};
use crate::plan::{Activation, BinaryOp, Pooling};

/// The parts of a padding of `total` before and after an axis, for an `auto_pad` of `SAME_UPPER`, or else of
/// `SAME_LOWER`.
pub(super) fn same(mode: &str, total: usize) -> (usize, usize) {
    let less = total / 2;
    if mode == "SAME_UPPER" { (less, total - less) } else { (total - less, less) }
}

/// Kernel, stride and padding from a node's attributes, and the size of its output.
pub(super) fn moving(
    node: &NodeProto,
    view: &View,
    kernel: [usize; 2],
) -> Result<(Moving, [usize; 2]), Refused> {
    let attributes = Attributes(node);
    let pair = |name: &str| -> Result<[usize; 2], Refused> {
        match attributes.ints(name) {
            None => Ok([1, 1]),
            Some([y, x]) if *y > 0 && *x > 0 => Ok([*y as usize, *x as usize]),
            Some(other) => Err(format!("{name} {other:?}")),
        }
    };
    let stride = pair("strides")?;
    if pair("dilations")? != [1, 1] {
        return Err(format!("dilations {:?}", attributes.ints("dilations")));
    }
    // What the node reads: the map within the zeros of a padding node before it.
    let size = [
        view.pads[0] + view.shape.height + view.pads[2],
        view.pads[1] + view.shape.width + view.pads[3],
    ];
    let mut pads = match attributes.ints("pads") {
        None => [0; 4],
        Some([a, b, c, d]) if [a, b, c, d].iter().all(|p| **p >= 0) => {
            [*a as usize, *b as usize, *c as usize, *d as usize]
        }
        Some(other) => return Err(format!("pads {other:?}")),
    };
    match attributes.text("auto_pad") {
        "" | "NOTSET" => {}
        "VALID" => pads = [0; 4],
        mode @ ("SAME_UPPER" | "SAME_LOWER") => {
            for axis in 0..2 {
                let outputs = size[axis].div_ceil(stride[axis]);
                let reads = (outputs - 1) * stride[axis] + kernel[axis];
                (pads[axis], pads[axis + 2]) = same(mode, reads.saturating_sub(size[axis]));
            }
        }
        mode => return Err(format!("auto_pad {mode}")),
    }
    let ceil = attributes.int("ceil_mode", 0) != 0;
    let mut outputs = [0; 2];
    for axis in 0..2 {
        let whole = pads[axis] + size[axis] + pads[axis + 2];
        let free = whole.checked_sub(kernel[axis]);
        let free =
            free.ok_or_else(|| format!("kernel {kernel:?} on {size:?} with pads {pads:?}"))?;
        outputs[axis] = 1 + if ceil { free.div_ceil(stride[axis]) } else { free / stride[axis] };
        // The last window must begin inside the map or its leading padding.
        if ceil && (outputs[axis] - 1) * stride[axis] >= size[axis] + pads[axis] {
            outputs[axis] -= 1;
        }
    }
    Ok((Moving { kernel, stride, pads }, outputs))
}

/// A mask `[1, 1, height, width]` of a pooled map of this shape: 0 where the window reads a zero of the
/// padding node before it, else the least number, so that the larger of mask and pooled map counts those
/// zeros. The node's `zeros` (top, left, bottom, right) lie next to the map of this `size`; the pooling's own
/// padding lies outside them, and `moving.pads` is the sum of both.
fn zeros_read(moving: &Moving, size: [usize; 2], zeros: [usize; 4], shape: Shape) -> Constant {
    let reads = |axis: usize, output: usize| {
        let from = output * moving.stride[axis];
        let to = from + moving.kernel[axis];
        let (first, last) = (moving.pads[axis], moving.pads[axis] + size[axis]);
        let any = |begin: usize, end: usize| begin < end && from < end && to > begin;
        any(first - zeros[axis], first) || any(last, last + zeros[axis + 2])
    };
    let pixels = (0..shape.height).flat_map(|y| (0..shape.width).map(move |x| (y, x)));
    let value = |(y, x)| if reads(0, y) || reads(1, x) { 0.0 } else { f32::MIN };
    Constant::floats(vec![1, 1, shape.height, shape.width], pixels.map(value).collect())
}

impl Lowerer {
    pub(super) fn pool(&mut self, node: &NodeProto) -> Result<Tensor, Refused> {
        let mut view = self.padded_view(node, 0)?;
        if !view.is_channels_first() {
            return Err(format!("its input's axes are {}", in_words(&view.axes)));
        }
        let attributes = Attributes(node);
        let kernel = match attributes.ints("kernel_shape") {
            Some([y, x]) if *y > 0 && *x > 0 => [*y as usize, *x as usize],
            other => return Err(format!("kernel {other:?}")),
        };
        let max = node.op_type.as_deref() == Some("MaxPool");
        if node.output.len() > 1 {
            return Err("its second output, the indices, is not supported".to_owned());
        }
        if !max {
            // The zeros of a padding node count in a mean, and those of its own padding may not.
            view = self.with_zeros(node, view)?;
        }
        let zeros = view.pads;
        let reads_zeros = zeros != [0; 4] && !self.is_never_negative(&view);
        let (mut moving, [height, width]) = moving(node, &view, kernel)?;
        for (pad, more) in moving.pads.iter_mut().zip(view.pads) {
            *pad += more;
        }
        let beside = (0..4).any(|side| moving.pads[side] >= kernel[side % 2]);
        if beside {
            return Err(format!("padding {:?} as wide as its window {kernel:?}", moving.pads));
        }
        view.pads = [0; 4];
        let padded = moving.pads != [0; 4] && attributes.int("count_include_pad", 0) != 0;
        let pooling = match (max, padded) {
            (true, _) => Pooling::Max,
            (false, true) => Pooling::MeanWithPadding,
            (false, false) => Pooling::Mean,
        };
        if pooling == Pooling::MeanWithPadding && attributes.int("ceil_mode", 0) != 0 {
            return Err("count_include_pad together with ceil_mode".to_owned());
        }
        let shape = Shape { height, width, channels: view.shape.channels };
        let kind = Kind::Pool { moving, pooling };
        let value = self.net.push(&super::label(node), kind, vec![view.value], shape);
        let pooled = Tensor::View(view.with(value, shape));
        if !reads_zeros {
            return Ok(pooled);
        }
        let mask = zeros_read(&moving, [view.shape.height, view.shape.width], zeros, shape);
        self.apply(&super::label(node), BinaryOp::Max, (pooled, Tensor::Constant(mask)))
    }

    /// Whether a value is never negative, so that zeros around it do not change a maximum.
    fn is_never_negative(&self, view: &View) -> bool {
        let layer = self.net.producer(view.value).and_then(|l| self.net.layers.get(l));
        let activation = match layer.map(|l| &l.kind) {
            Some(Kind::Affine { activation, .. } | Kind::Binary { activation, .. }) => *activation,
            _ => return false,
        };
        match activation {
            Activation::Clip { low, .. } | Activation::Quantize { low, .. } => low >= 0.0,
            other => other == Activation::Sigmoid,
        }
    }

    pub(super) fn global_pool(&mut self, node: &NodeProto) -> Result<Tensor, Refused> {
        let view = self.view(node, 0)?;
        let is_mean = node.op_type.as_deref() == Some("GlobalAveragePool");
        if let [_, rows, Axis::Channel] = view.axes.as_slice()
            && *rows != Axis::Channel
            && is_mean
        {
            // As Keras writes the mean of a layer norm over tokens.
            let mut mean = self.over_channels(node, &view, Pooling::Mean)?;
            mean.axes[2] = Axis::One;
            return Ok(Tensor::View(mean));
        }
        let is_of_tokens = matches!(view.axes.as_slice(), [_, Axis::Channel, tokens] if {
            size(&view.shape, *tokens) == view.shape.pixels()
        });
        if !is_of_tokens && !view.is_channels_first() {
            return Err(format!("its input's axes are {}", in_words(&view.axes)));
        }
        let pooling = if is_mean { Pooling::Mean } else { Pooling::Max };
        Ok(Tensor::View(self.reduced(node, &view, pooling)))
    }

    pub(super) fn reduced(&mut self, node: &NodeProto, view: &View, pooling: Pooling) -> View {
        let shape = Shape::vector(view.shape.channels);
        let kind = Kind::Reduce { pooling, activation: Activation::None };
        let value = self.net.push(&super::label(node), kind, vec![view.value], shape);
        view.with(value, shape)
    }

    /// `ReduceMean`, `ReduceSum`, `ReduceMax`, `ReduceL2` and `ReduceSumSquare` over the pixels, and all but
    /// the maximum over the channels.
    pub(super) fn reduce(&mut self, node: &NodeProto) -> Result<Tensor, Refused> {
        if let Some(sums) = self.sums_of_heads(node)? {
            return Ok(sums);
        }
        let view = self.rolled_view(node, 0)?;
        let view = self.unfolded_input(node, view)?;
        let rank = view.axes.len() as i64;
        let axes = self.ints(node, "axes", 1)?.unwrap_or_else(|| (0..rank).collect());
        let gone: Option<Vec<usize>> = axes.iter().map(|a| view.index(*a)).collect();
        let gone = gone.ok_or_else(|| format!("axes {axes:?} of {:?}", view.dims()))?;
        let dims = view.dims();
        let long = |i: &usize| dims.get(*i).is_some_and(|d| *d > 1);
        let over: Vec<Axis> = gone.iter().filter(|i| long(i)).map(|i| view.axes[*i]).collect();
        let operator = node.op_type.as_deref().unwrap_or_default();
        let channels = over.contains(&Axis::Channel) && operator != "ReduceMax";
        let spatial = [Axis::Height, Axis::Width, Axis::Pixels];
        let known = |axis: &Axis| spatial.contains(axis) || (channels && *axis == Axis::Channel);
        let pixels: usize =
            gone.iter().filter(|i| view.axes[**i] != Axis::Channel).map(|i| dims[*i]).product();
        let all = pixels == view.shape.pixels() || pixels == 1;
        if !over.iter().all(known) || !all {
            return Err(format!("axes {axes:?} of {dims:?} are not all pixels, nor the channels"));
        }
        let mut reduced = match operator {
            "ReduceL2" | "ReduceSumSquare" => self.squared(node, &view)?,
            _ => view,
        };
        let pooling = match operator {
            "ReduceMean" => Pooling::Mean,
            "ReduceMax" => Pooling::Max,
            _ => Pooling::Sum,
        };
        if pixels > 1 {
            reduced = self.reduced(node, &reduced, pooling);
        }
        if channels {
            reduced = self.over_channels(node, &reduced, pooling)?;
        }
        if operator == "ReduceL2" {
            let label = super::label(node);
            reduced = self.affine(&label, &reduced, vec![], vec![], Activation::Sqrt);
        }
        if Attributes(node).int("keepdims", 1) == 0 {
            let kept = reduced.axes.iter().enumerate().filter(|(i, _)| !gone.contains(i));
            reduced.axes = kept.map(|(_, a)| *a).collect();
        } else {
            for i in gone {
                reduced.axes[i] = Axis::One;
            }
        }
        Ok(Tensor::View(reduced))
    }

    pub(super) fn squared(&mut self, node: &NodeProto, view: &View) -> Result<View, Refused> {
        self.joined_view(&super::label(node), BinaryOp::Mul, view, view)
    }

    /// The mean or sum of each pixel's channels, as a dense layer of one output.
    fn over_channels(
        &mut self,
        node: &NodeProto,
        view: &View,
        pooling: Pooling,
    ) -> Result<View, Refused> {
        let channels = view.shape.channels;
        let weight = if pooling == Pooling::Mean { 1.0 / channels as f32 } else { 1.0 };
        self.dense_pixels(node, view, vec![weight; channels])
    }

    pub(super) fn softmax(&mut self, node: &NodeProto) -> Result<Tensor, Refused> {
        if let Tensor::Scores(scores) = self.tensor(node, 0)? {
            return self.softmax_of(node, scores);
        }
        let view = self.view(node, 0)?;
        let axis = Attributes(node).int("axis", if self.opset < 13 { 1 } else { -1 });
        let axis = view.index(axis);
        let is_last = axis == view.axes.len().checked_sub(1);
        let axis = axis.and_then(|a| view.axes.get(a)).copied();
        let vector = view.shape.pixels() == 1;
        if !(axis == Some(Axis::Channel) && (vector || is_last || self.opset >= 13)) {
            return Err(format!("it is not over the channels of {:?}", view.dims()));
        }
        let value = self.net.push(&super::label(node), Kind::Softmax, vec![view.value], view.shape);
        Ok(Tensor::View(view.with(value, view.shape)))
    }
}
