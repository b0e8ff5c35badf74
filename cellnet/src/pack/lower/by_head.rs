//! Numbers for each head beside the channels of the heads, as where queries and keys are divided by their
//! lengths: sums over each head's channels, products with such numbers, and factors of the scores.

use rten_onnx::onnx::NodeProto;

use super::super::constant::Constant;
use super::super::net::Shape;
use super::super::parts::{Along, Part, parts_of};
use super::super::source::Attributes;
use super::super::view::{Axis, View};
use super::attention::Scores;
use super::norms::members;
use super::{Lowerer, Refused, Tensor};
use crate::plan::Activation;

/// The axis of the heads and the channels of one, if `axis` is these channels.
fn heads_beside(view: &View, axis: usize) -> Option<(usize, usize)> {
    let single = |axis: &Axis| match parts_of(*axis, &view.shape).as_slice() {
        [part @ Part { along: Along::Channels, .. }] => Some(*part),
        _ => None,
    };
    let own = single(view.axes.get(axis)?).filter(|part| part.step == 1)?;
    let heads = |axis: &Axis| {
        single(axis).is_some_and(|part| {
            part.step == own.size && part.size * own.size == view.shape.channels
        })
    };
    view.axes.iter().position(heads).map(|at| (at, own.size))
}

impl Lowerer {
    /// `ReduceSum`, `ReduceMean`, `ReduceL2` and `ReduceSumSquare` over the channels of each head; `None` for
    /// any other axes.
    pub(super) fn sums_of_heads(&mut self, node: &NodeProto) -> Result<Option<Tensor>, Refused> {
        let Ok(Tensor::View(view)) = self.tensor(node, 0) else { return Ok(None) };
        let view = view.clone();
        let Some(&[axis]) = self.ints(node, "axes", 1)?.as_deref() else { return Ok(None) };
        let Some(axis) = view.index(axis) else { return Ok(None) };
        let Some((at, head)) = heads_beside(&view, axis) else { return Ok(None) };
        let operator = node.op_type.as_deref().unwrap_or_default();
        if operator == "ReduceMax" {
            return Ok(None);
        }
        let value = if operator == "ReduceMean" { 1.0 / head as f32 } else { 1.0 };
        let mut summed = self.rolled_view(node, 0)?;
        if matches!(operator, "ReduceL2" | "ReduceSumSquare") {
            summed = self.squared(node, &summed)?;
        }
        let heads = view.shape.channels / head;
        summed = self.dense_pixels(node, &summed, members(heads, head, value))?;
        if operator == "ReduceL2" {
            let label = super::label(node);
            summed = self.affine(&label, &summed, Vec::new(), Vec::new(), Activation::Sqrt);
        }
        summed.axes[at] = Axis::Channel;
        summed.axes[axis] = Axis::One;
        if Attributes(node).int("keepdims", 1) == 0 {
            summed.axes.remove(axis);
        }
        Ok(Some(Tensor::View(summed)))
    }

    /// Both sides of an elementwise operator, with numbers for each head repeated for the channels of the
    /// head if the other side has these.
    pub(super) fn repeated_by_head(
        &mut self,
        node: &NodeProto,
        sides: (Tensor, Tensor),
    ) -> Result<(Tensor, Tensor), Refused> {
        let (Tensor::View(a), Tensor::View(b)) = &sides else { return Ok(sides) };
        let (a, b) = (a.clone(), b.clone());
        if let Some(view) = self.for_channels(node, &a, &b)? {
            return Ok((Tensor::View(view), sides.1));
        }
        if let Some(view) = self.for_channels(node, &b, &a)? {
            return Ok((sides.0, Tensor::View(view)));
        }
        Ok(sides)
    }

    /// `numbers`, one for each head, for each channel of `other`'s heads.
    fn for_channels(
        &mut self,
        node: &NodeProto,
        numbers: &View,
        other: &View,
    ) -> Result<Option<View>, Refused> {
        let Some(axis) = other.axes.len().checked_sub(1) else { return Ok(None) };
        let Some((at, head)) = heads_beside(other, axis) else { return Ok(None) };
        let heads = other.shape.channels / head;
        let sides = |shape: Shape| (shape.height, shape.width);
        let mut axes = other.axes.clone();
        (axes[at], axes[axis]) = (Axis::Channel, Axis::One);
        let fits = numbers.is(&axes)
            && numbers.shape.channels == heads
            && head > 1
            && sides(numbers.shape) == sides(other.shape)
            && numbers.pads == [0; 4];
        if !fits {
            return Ok(None);
        }
        let numbers = self.whole(node, numbers.clone());
        let repeated = self.repeated(node, &numbers, head)?;
        Ok(Some(View { axes: other.axes.clone(), ..repeated }))
    }

    /// Scores times a constant number for each head: the queries are multiplied. `None` if the constant is of
    /// another shape.
    pub(super) fn scaled_heads(
        &mut self,
        node: &NodeProto,
        scores: &Scores,
        constant: &Constant,
    ) -> Option<Tensor> {
        let dims = constant.dims.as_slice();
        let (heads, query) = (scores.heads.heads, &scores.query);
        let last = scores.dims.len().checked_sub(3)?;
        let (axis, head) = heads_beside(query, query.axes.len().checked_sub(1)?)?;
        let fits = matches!(dims, [ones @ .., own, 1, 1] if *own == heads && ones.iter().all(|n| *n == 1))
            && dims.len() <= scores.dims.len()
            && scores.dims == scores_dims_of(scores)
            && axis == last
            && !scores.is_softmax
            && scores.mask.is_empty();
        if !fits {
            return None;
        }
        let factors = constant.to_floats();
        let view = self.whole(node, View { factor: 1.0, ..query.clone() });
        let scale = (0..view.shape.channels).map(|channel| factors[channel / head]).collect();
        let label = super::label(node);
        let query = self.affine(&label, &view, scale, Vec::new(), Activation::None);
        let mut scores = Scores { query, ..scores.clone() };
        let each = scores.bias.len() / heads;
        for (index, summand) in scores.bias.iter_mut().enumerate() {
            *summand *= factors[index / each.max(1)];
        }
        Some(Tensor::Scores(Box::new(scores)))
    }
}

/// The dimensions that the scores had before any reshape.
fn scores_dims_of(scores: &Scores) -> Vec<usize> {
    let mut dims = scores.query.dims();
    if let (Some(to), Some(last)) = (dims.last_mut(), scores.dims.last()) {
        *to = *last;
    }
    dims
}
