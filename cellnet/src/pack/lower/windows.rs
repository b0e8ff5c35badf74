//! Windows, and the operators pooling, reduction and softmax.

use rten_onnx::onnx::NodeProto;

use super::super::net::{Kind, Moving, Shape};
use super::super::source::Attributes;
use super::super::view::{Axis, View, in_words};
use super::{Lowerer, Refused, Tensor};
use crate::plan::{Activation, Pooling};

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
    let size = [view.shape.height, view.shape.width];
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
                let total = reads.saturating_sub(size[axis]);
                let less = total / 2;
                let before = if mode == "SAME_UPPER" { less } else { total - less };
                (pads[axis], pads[axis + 2]) = (before, total - before);
            }
        }
        mode => return Err(format!("auto_pad {mode}")),
    }
    let ceil = attributes.int("ceil_mode", 0) != 0;
    let mut outputs = [0; 2];
    for axis in 0..2 {
        let whole =
            view.pads[axis] + pads[axis] + size[axis] + pads[axis + 2] + view.pads[axis + 2];
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
        if view.pads != [0; 4] && !(max && self.is_positive(&view)) {
            return Err("padding with zeros would change its result".to_owned());
        }
        let (mut moving, [height, width]) = moving(node, &view, kernel)?;
        for (pad, more) in moving.pads.iter_mut().zip(view.pads) {
            *pad += more;
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
        Ok(Tensor::View(view.with(value, shape)))
    }

    /// Whether a value is never negative, so that zeros around it do not change a maximum.
    fn is_positive(&self, view: &View) -> bool {
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
        if !view.is_channels_first() {
            return Err(format!("its input's axes are {}", in_words(&view.axes)));
        }
        let max = node.op_type.as_deref() == Some("GlobalMaxPool");
        let pooling = if max { Pooling::Max } else { Pooling::Mean };
        Ok(Tensor::View(self.reduced(node, &view, pooling)))
    }

    fn reduced(&mut self, node: &NodeProto, view: &View, pooling: Pooling) -> View {
        let shape = Shape::vector(view.shape.channels);
        let kind = Kind::Reduce { pooling, activation: Activation::None };
        let value = self.net.push(&super::label(node), kind, vec![view.value], shape);
        view.with(value, shape)
    }

    pub(super) fn reduce(&mut self, node: &NodeProto) -> Result<Tensor, Refused> {
        let view = self.view(node, 0)?;
        let rank = view.axes.len() as i64;
        let axes = self.ints(node, "axes", 1)?.unwrap_or_else(|| (0..rank).collect());
        let gone: Option<Vec<usize>> = axes.iter().map(|a| view.index(*a)).collect();
        let gone = gone.ok_or_else(|| format!("axes {axes:?} of {:?}", view.dims()))?;
        let dims = view.dims();
        let long = |i: &usize| dims.get(*i).is_some_and(|d| *d > 1);
        let over: Vec<Axis> = gone.iter().filter(|i| long(i)).map(|i| view.axes[*i]).collect();
        let spatial = [Axis::Height, Axis::Width, Axis::Pixels];
        let elements: usize = gone.iter().map(|i| dims[*i]).product();
        let all = elements == view.shape.pixels();
        if !over.iter().all(|a| spatial.contains(a)) || !all {
            return Err(format!("axes {axes:?} of {dims:?} are not height and width"));
        }
        let pooling = match node.op_type.as_deref() {
            Some("ReduceMean") => Pooling::Mean,
            Some("ReduceMax") => Pooling::Max,
            _ => Pooling::Sum,
        };
        let mut reduced = if over.is_empty() { view } else { self.reduced(node, &view, pooling) };
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

    pub(super) fn softmax(&mut self, node: &NodeProto) -> Result<Tensor, Refused> {
        if let Tensor::Scores(scores) = self.tensor(node, 0)? {
            return self.softmax_of(node, scores);
        }
        let view = self.view(node, 0)?;
        let axis = Attributes(node).int("axis", if self.opset < 13 { 1 } else { -1 });
        let axis = view.index(axis).and_then(|a| view.axes.get(a)).copied();
        let vector = view.shape.pixels() == 1;
        if !(axis == Some(Axis::Channel) && (vector || self.opset >= 13)) {
            return Err(format!("it is not over the channels of {:?}", view.dims()));
        }
        let value = self.net.push(&super::label(node), Kind::Softmax, vec![view.value], view.shape);
        Ok(Tensor::View(view.with(value, view.shape)))
    }
}
