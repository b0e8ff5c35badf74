//! Norms over groups of channels and all pixels: `GroupNormalization`, `InstanceNormalization`, and the form
//! in which PyTorch writes the former, an `InstanceNormalization` between two reshapes.

use rten_onnx::onnx::NodeProto;

use super::super::net::Shape;
use super::super::parts::{Along, Part, parts_of};
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
        let is_plain = is_plain && view.pads == [0; 4] && view.factor == 1.0;
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
        let plain = vec![Axis::One, Axis::Channel, Axis::Height, Axis::Width];
        let normed = View::new(view.value, view.shape, plain);
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
        let means = self.reduced(node, view, Pooling::Mean);
        let channels = view.shape.channels;
        if groups == channels {
            return Ok(means);
        }
        let each = channels / groups;
        // `[groups][channels]`, then back, `[channels][groups]`.
        let share =
            |i: usize| if i % channels / each == i / channels { 1.0 / each as f32 } else { 0.0 };
        let grouped =
            self.dense_pixels(node, &means, (0..groups * channels).map(share).collect())?;
        if groups == 1 {
            return Ok(grouped);
        }
        let back = |i: usize| if i % groups == i / groups / each { 1.0 } else { 0.0 };
        self.dense_pixels(node, &grouped, (0..groups * channels).map(back).collect())
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
