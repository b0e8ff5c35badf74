//! Norms over groups of channels and all pixels: `GroupNormalization`, `InstanceNormalization`, and the forms
//! in which PyTorch and Keras write the former: an `InstanceNormalization` between two reshapes, and means
//! over the pixels and the channels of a group, which have axes of their own.

use rten_onnx::onnx::NodeProto;

use super::super::net::Shape;
use super::super::parts::{Along, Part, parts_of, split};
use super::super::source::Attributes;
use super::super::view::{Axis, View, in_words};
use super::{Lowerer, Refused, Tensor};
use crate::plan::{Activation, BinaryOp, Pooling};

/// A map whose dimensions are `[1, groups, elements of a group]`, in an order that no view has.
#[derive(Debug, Clone)]
pub(super) struct Grouped {
    view: View,
    groups: usize,
}

impl Grouped {
    /// A map under these dimensions, if they are such.
    pub(super) fn new(view: &View, dims: &[usize]) -> Option<Self> {
        let [1, groups, each] = *dims else { return None };
        let channels = view.shape.channels;
        let fits = groups > 0
            && channels.is_multiple_of(groups)
            && groups * each == channels * view.shape.pixels();
        let is_plain = matches!(view.axes.as_slice(), [Axis::One, Axis::Channel, ..]);
        let nothing_pends = ([0; 4], [0; 2], 1.0) == (view.pads, view.roll, view.factor);
        let is_plain = is_plain && nothing_pends;
        (fits && is_plain).then(|| Self { view: view.clone(), groups })
    }

    /// The map, if these are its own dimensions.
    pub(super) fn ungrouped(&self, dims: &[usize]) -> Option<View> {
        (self.view.dims() == dims).then(|| self.view.clone())
    }

    pub(super) fn dims(&self) -> Vec<usize> {
        let elements = self.view.shape.channels * self.view.shape.pixels();
        vec![1, self.groups, elements / self.groups]
    }
}

/// Batch, channels, height and width.
fn plain_axes() -> Vec<Axis> {
    vec![Axis::One, Axis::Channel, Axis::Height, Axis::Width]
}

/// The dimensions of a computed tensor or a constant; none for others.
fn dims_of(tensor: &Tensor) -> Vec<usize> {
    match tensor {
        Tensor::View(view) => view.dims(),
        Tensor::Constant(constant) => constant.dims.clone(),
        _ => Vec::new(),
    }
}

/// Whether a vector of the means of groups, `[…, groups, 1]`, meets a tensor
/// `[…, groups, channels of a group]`, or a vector `[…, groups, channels of a group]` a constant as long: for
/// four groups of eight channels, `[1, 4, 1]` meets `[1, 4, 8]`.
fn is_of_groups(view: &View, other: &Tensor) -> bool {
    let (dims, given) = (view.dims(), dims_of(other));
    let ([.., groups, one], [lead @ .., same, each]) = (&dims[..], &given[..]) else {
        return false;
    };
    let is_vector = view.shape.pixels() == 1 && view.pads == [0; 4] && view.is_split();
    let fits = is_vector && dims.len() == given.len() && groups == same && *same > 1 && *each > 1;
    let is_line = lead.iter().all(|dim| *dim == 1) && matches!(other, Tensor::Constant(_));
    if *one == 1 {
        let is_map = matches!(other, Tensor::View(_));
        return fits && view.shape.channels == *groups && (is_line || is_map);
    }
    fits && is_line && one == each && in_groups(view, &dims).is_some_and(|of| of.axes == view.axes)
}

/// The channels of a vector under these dimensions.
fn in_groups(view: &View, dims: &[usize]) -> Option<View> {
    View::new(view.value, view.shape, vec![Axis::One, Axis::Channel]).reshape(dims)
}

/// How many groups of channels an axis tells apart, if it does nothing else.
fn groups_of(axis: Axis, shape: &Shape) -> Option<usize> {
    match parts_of(axis, shape).as_slice() {
        [] => Some(1),
        [Part { along: Along::Channels, size, step }] => {
            (size * step == shape.channels).then_some(*size)
        }
        _ => None,
    }
}

/// `[group][channel]`: `value` for the `each` channels of the group, else 0.
pub(super) fn members(groups: usize, each: usize, value: f32) -> Vec<f32> {
    let channels = groups * each;
    let of = |i: usize| if i % channels / each == i / channels { value } else { 0.0 };
    (0..groups * channels).map(of).collect()
}

/// `[channel][group]`: 1 for the group of the channel, else 0.
pub(super) fn groups_of_channels(groups: usize, each: usize) -> Vec<f32> {
    let of = |i: usize| if i % groups == i / groups / each { 1.0 } else { 0.0 };
    (0..groups * groups * each).map(of).collect()
}

impl Lowerer {
    /// `InstanceNormalization` and `GroupNormalization`.
    pub(super) fn group_norm(&mut self, node: &NodeProto) -> Result<Tensor, Refused> {
        let attributes = Attributes(node);
        let epsilon = attributes.float("epsilon", 1e-5);
        let given = self.tensor(node, 0)?.clone();
        let (view, groups) = match &given {
            Tensor::Grouped(grouped) => (grouped.view.clone(), Some(grouped.groups)),
            _ => {
                let view = self.view(node, 0)?;
                let own = view.axes.get(1).and_then(|axis| groups_of(*axis, &view.shape));
                let groups = match attributes.int("num_groups", 0) {
                    0 => own,
                    said => {
                        let of_channels = own == Some(view.shape.channels);
                        usize::try_from(said).ok().filter(|_| of_channels)
                    }
                };
                (view, groups)
            }
        };
        let channels = view.shape.channels;
        let groups = groups.filter(|groups| channels.is_multiple_of(*groups) && epsilon > 0.0);
        let groups = groups
            .ok_or_else(|| format!("its axes are {}, epsilon {epsilon}", in_words(&view.axes)))?;
        let list = |values: Option<Vec<f32>>, default: f32| {
            let values = values.unwrap_or_else(|| vec![default]);
            let count = values.len();
            let each = (0..channels).map(|channel| values[channel * count / channels]);
            let fits = [1, groups, channels].contains(&count);
            fits.then(|| each.collect()).ok_or_else(|| format!("{count} factors or summands"))
        };
        let scale: Vec<f32> = list(self.maybe_floats(node, 1)?, 1.0)?;
        let bias: Vec<f32> = list(self.maybe_floats(node, 2)?, 0.0)?;
        let normed = View::new(view.value, view.shape, plain_axes());
        let normed = self.normed(node, &normed, groups, epsilon)?;
        let normed = self.affine(&super::label(node), &normed, scale, bias, Activation::None);
        let normed = view.with(normed.value, view.shape);
        Ok(match given {
            Tensor::Grouped(_) => Tensor::Grouped(Grouped { view: normed, groups }),
            _ => Tensor::View(normed),
        })
    }

    /// `(x − mean) / √(variance + epsilon)`, each of a group of channels.
    fn normed(
        &mut self,
        node: &NodeProto,
        view: &View,
        groups: usize,
        epsilon: f32,
    ) -> Result<View, Refused> {
        let label = super::label(node);
        let mean = self.mean_of_groups(node, view, groups)?;
        let centred = self.joined_view(&label, BinaryOp::Sub, view, &mean)?;
        let squares = self.squared(node, &centred)?;
        let variance = self.mean_of_groups(node, &squares, groups)?;
        let plus = vec![epsilon; variance.shape.channels];
        let deviation = self.affine(&label, &variance, Vec::new(), plus, Activation::Sqrt);
        self.joined_view(&label, BinaryOp::Div, &centred, &deviation)
    }

    /// The mean of each channel's group over its pixels, for each channel; for one group, one channel.
    fn mean_of_groups(
        &mut self,
        node: &NodeProto,
        view: &View,
        groups: usize,
    ) -> Result<View, Refused> {
        let means = self.group_means(node, view, groups)?;
        let channels = view.shape.channels;
        if groups == channels || groups == 1 {
            return Ok(means);
        }
        self.repeated(node, &means, channels / groups)
    }

    /// The mean of each group of channels over its pixels, a channel for each group.
    fn group_means(
        &mut self,
        node: &NodeProto,
        view: &View,
        groups: usize,
    ) -> Result<View, Refused> {
        let means = self.reduced(node, view, Pooling::Mean);
        let channels = view.shape.channels;
        if groups == channels {
            return Ok(means);
        }
        let each = channels / groups;
        self.dense_pixels(node, &means, members(groups, each, 1.0 / each as f32))
    }

    /// Each channel of a map as `each` channels.
    pub(super) fn repeated(
        &mut self,
        node: &NodeProto,
        view: &View,
        each: usize,
    ) -> Result<View, Refused> {
        self.dense_pixels(node, view, groups_of_channels(view.shape.channels, each))
    }

    /// A `ReduceMean` over the pixels and the channels of each group; `None` for another one.
    pub(super) fn mean_within_groups(
        &mut self,
        node: &NodeProto,
    ) -> Result<Option<Tensor>, Refused> {
        let Ok(Tensor::View(view)) = self.tensor(node, 0) else { return Ok(None) };
        let (dims, rank) = (view.dims(), view.axes.len());
        let Some(axes) = self.ints(node, "axes", 1)? else { return Ok(None) };
        let gone: Option<Vec<usize>> = axes.iter().map(|axis| view.index(*axis)).collect();
        let gone = gone.unwrap_or_default();
        let kept: Vec<usize> =
            (0..rank).filter(|axis| dims[*axis] > 1 && !gone.contains(axis)).collect();
        let [outer] = kept[..] else { return Ok(None) };
        let Axis::Split(parts) = view.axes[outer] else { return Ok(None) };
        let Some((groups, _)) = parts.of_channels(view.shape.channels) else { return Ok(None) };
        // Named a part of the channels still, so that it is known by that.
        let own = split(&[Part { along: Along::Channels, size: groups, step: 1 }]);
        let own = own.ok_or("groups of channels")?;
        let view = self.view(node, 0)?;
        let plain = View::new(view.value, view.shape, plain_axes());
        let means = self.group_means(node, &plain, groups)?;
        let keeps = Attributes(node).int("keepdims", 1) != 0;
        let axes = (0..rank).filter(|axis| keeps || !gone.contains(axis));
        let axes = axes.map(|axis| if axis == outer { own } else { Axis::One });
        Ok(Some(Tensor::View(View::new(means.value, means.shape, axes.collect()))))
    }

    /// An elementwise operator of a vector and what has each of its channels several times, along the next
    /// axis; or of the elements of such an axis and constants. `None` for other operands. In a group norm
    /// written as single operators, `[1, 4, 8] - [1, 4, 1]` takes from each channel the mean of its group.
    pub(super) fn binary_of_groups(
        &mut self,
        node: &NodeProto,
        op: BinaryOp,
        sides: &(Tensor, Tensor),
    ) -> Result<Option<Tensor>, Refused> {
        let label = super::label(node);
        let (small, other, is_first) = match sides {
            (Tensor::View(a), b) if is_of_groups(a, b) => (a, b, true),
            (a, Tensor::View(b)) if is_of_groups(b, a) => (b, a, false),
            _ => return Ok(None),
        };
        let dims = dims_of(other);
        let long: Vec<usize> = dims.iter().rev().take(2).copied().collect();
        let mut vector = View::new(small.value, small.shape, plain_axes());
        if small.dims().last() == Some(&1) {
            vector = self.repeated(node, &vector, long[0])?;
        }
        let mut shape = vec![1; dims.len()];
        shape[dims.len() - 2..].copy_from_slice(&[long[1], long[0]]);
        let back = |view: &View| {
            in_groups(view, &shape).ok_or_else(|| format!("{:?} as {shape:?}", view.dims()))
        };
        let ordered = |a, b| if is_first { (a, b) } else { (b, a) };
        let Tensor::Constant(constant) = other else {
            let sides = ordered(Tensor::View(back(&vector)?), other.clone());
            return self.apply(&label, op, sides).map(Some);
        };
        let line = constant.reshape(&[1, -1, 1, 1]).ok_or("its constant has no elements")?;
        let sides = ordered(Tensor::View(vector), Tensor::Constant(line));
        match self.apply(&label, op, sides)? {
            Tensor::View(view) => Ok(Some(Tensor::View(back(&view)?))),
            _ => Ok(None),
        }
    }

    /// An elementwise operator of two views.
    pub(super) fn joined_view(
        &mut self,
        label: &str,
        op: BinaryOp,
        a: &View,
        b: &View,
    ) -> Result<View, Refused> {
        match self.apply(label, op, (Tensor::View(a.clone()), Tensor::View(b.clone())))? {
            Tensor::View(view) => Ok(view),
            _ => Err("its result is no map".to_owned()),
        }
    }
}
