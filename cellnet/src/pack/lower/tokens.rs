//! Operators of transformers: layer norm, attention, parts of a tensor, tokens put before others.

use rten_onnx::onnx::NodeProto;

use super::super::net::{AttentionLayer, Kind, Shape};
use super::super::parts::{Along, Part, axis_of, parts_of};
use super::super::source::Attributes;
use super::super::view::{Axis, View, in_words};
use super::{Lowerer, Refused, Tensor};
use crate::plan::{Activation, Pooling};

/// Products of queries and keys, which only a softmax and the product with values may follow.
#[derive(Debug, Clone)]
pub(super) struct Scores {
    query: View,
    key: View,
    scale: f32,
    is_softmax: bool,
}

impl Scores {
    /// Multiplies them; false if it is too late.
    pub(super) fn scale(&mut self, factor: f32) -> bool {
        self.scale *= factor;
        !self.is_softmax
    }

    /// Dimensions of the tensor.
    pub(super) fn dims(&self) -> Vec<usize> {
        let mut dims = self.query.dims();
        if let (Some(last), Some(keys)) = (dims.last_mut(), self.key.dims().last()) {
            *last = *keys;
        }
        dims
    }
}

/// The axes of one side of attention: heads and groups, tokens, and the channels of a head.
fn last_two(view: &View) -> Option<(&[Axis], Axis, Axis)> {
    let [outer @ .., a, b] = view.axes.as_slice() else { return None };
    Some((outer, *a, *b))
}

/// The channels of one head, if this axis is them.
fn head_of(axis: Axis, shape: &Shape) -> Option<usize> {
    match parts_of(axis, shape).as_slice() {
        [Part { along: Along::Channels, size, step: 1 }] => Some(*size),
        _ => None,
    }
}

/// What the axes before the last two say: number of heads, and the divisors of row and column by which pixels
/// form groups.
fn heads_and_window(outer: &[Axis], shape: &Shape, head: usize) -> Option<(usize, [usize; 2])> {
    let (mut heads, mut window) = (1, [1, 1]);
    for part in outer.iter().flat_map(|axis| parts_of(*axis, shape)) {
        match part.along {
            Along::Channels if heads == 1 && part.step == head => heads = part.size,
            Along::Pixels if part.step == shape.width && shape.height > 1 && window[0] == 1 => {
                window[0] = part.size;
            }
            Along::Pixels if part.step == 1 && window[1] == 1 => window[1] = part.size,
            _ => return None,
        }
    }
    (heads * head == shape.channels).then_some((heads, window))
}

/// The axis of the tokens of one group.
fn tokens_of(window: [usize; 2], shape: &Shape) -> Option<Axis> {
    let divided = |size: usize, by: usize| size.is_multiple_of(by).then_some(size / by);
    let part = |size, step| Part { along: Along::Pixels, size, step };
    let rows = part(divided(shape.height, window[0])?, window[0] * shape.width);
    let columns = part(divided(shape.width, window[1])?, window[1]);
    let parts: Vec<Part> = match rows.step == columns.size * columns.step {
        true => vec![part(rows.size * columns.size, columns.step)],
        false => vec![rows, columns],
    };
    let parts: Vec<Part> = parts.into_iter().filter(|part| part.size > 1).collect();
    axis_of(&parts, shape)
}

impl Lowerer {
    /// Elements `from..to` of an axis: channels, or one part of them.
    fn part_of(
        &mut self,
        node: &NodeProto,
        view: &View,
        axis: usize,
        (from, to): (usize, usize),
    ) -> Option<View> {
        match view.shuffled() {
            Some((shuffled, _)) if shuffled == axis => {
                return self.in_order(node, view.clone(), (from, to));
            }
            _ => {}
        }
        if to.checked_sub(from) != Some(1) || view.axes.get(axis) == Some(&Axis::Channel) {
            return view.channels(axis, from, to);
        }
        let mut part = view.element(axis, from)?;
        part.axes.insert(axis, Axis::One);
        Some(part)
    }

    /// Some of the channels of a shuffled view, copied.
    fn in_order(
        &mut self,
        node: &NodeProto,
        view: View,
        (from, to): (usize, usize),
    ) -> Option<View> {
        let mut view = self.unshared(node, view);
        let (axis, groups) = view.shuffled()?;
        let channels = to.checked_sub(from).filter(|count| *count > 0)?;
        if to > view.shape.channels {
            return None;
        }
        view.axes[axis] = Axis::Channel;
        view.shape.channels = channels;
        let kind = Kind::Shuffle { first: from, groups };
        view.value = self.net.push(&super::label(node), kind, vec![view.value], view.shape);
        Some(view)
    }

    /// A view of all channels of a value in its order, with no factor pending: the view itself, or a copy.
    pub(super) fn whole(&mut self, node: &NodeProto, view: View) -> View {
        let view = self.unshared(node, view);
        let all = (0, view.shape.channels);
        self.in_order(node, view.clone(), all).unwrap_or(view)
    }

    /// A view of all channels of a value, with no factor pending: the view itself, or a copy.
    fn unshared(&mut self, node: &NodeProto, view: View) -> View {
        let mut view = view;
        if view.first != 0 || view.shape.channels != self.net.values[view.value].channels {
            let kind = Kind::Slice { first: view.first };
            let value = self.net.push(&super::label(node), kind, vec![view.value], view.shape);
            view = View { value, first: 0, ..view };
        }
        if view.factor != 1.0 {
            let scale = vec![view.factor; view.shape.channels];
            view = self.affine(&super::label(node), &view, scale, Vec::new(), Activation::None);
        }
        view
    }

    pub(super) fn layer_norm(&mut self, node: &NodeProto) -> Result<Tensor, Refused> {
        let view = self.view(node, 0)?;
        let attributes = Attributes(node);
        let axis = view.index(attributes.int("axis", -1));
        let is_last = axis.is_some_and(|axis| {
            axis + 1 == view.axes.len() && view.axes.get(axis) == Some(&Axis::Channel)
        });
        if !is_last || node.output.iter().skip(1).any(|name| !name.is_empty()) {
            return Err(format!("it is not over the channels of {:?} alone", view.dims()));
        }
        let channels = view.shape.channels;
        let scale = self.maybe_floats(node, 1)?.unwrap_or_else(|| vec![1.0; channels]);
        let bias = self.maybe_floats(node, 2)?.unwrap_or_else(|| vec![0.0; channels]);
        let epsilon = attributes.float("epsilon", 1e-5);
        if scale.len() != channels || bias.len() != channels || epsilon <= 0.0 {
            return Err(format!("{} factors, {} summands", scale.len(), bias.len()));
        }
        let kind = Kind::Norm { epsilon, scale, bias };
        let value = self.net.push(&super::label(node), kind, vec![view.value], view.shape);
        Ok(Tensor::View(view.with(value, view.shape)))
    }

    /// Queries times keys, if the axes say so.
    pub(super) fn scores(&self, query: &View, key: &View) -> Option<Tensor> {
        let (outer, tokens, channels) = last_two(query)?;
        let (other, key_channels, key_tokens) = last_two(key)?;
        let shape = query.shape;
        let head = head_of(channels, &shape)?;
        let (_, window) = heads_and_window(outer, &shape, head)?;
        let fits = shape == key.shape
            && outer == other
            && tokens == key_tokens
            && channels == key_channels
            && Some(tokens) == tokens_of(window, &shape)
            && shape.pixels() > 1
            && query.pads == [0; 4]
            && key.pads == [0; 4];
        let scale = query.factor * key.factor;
        let (query, key) = (query.clone(), key.clone());
        fits.then_some(Tensor::Scores(Scores { query, key, scale, is_softmax: false }))
    }

    /// The softmax of scores over their last axis.
    pub(super) fn softmax_of(&self, node: &NodeProto, scores: &Scores) -> Result<Tensor, Refused> {
        let rank = scores.query.axes.len() as i64;
        let axis = Attributes(node).int("axis", -1);
        if scores.is_softmax || !(axis == -1 || axis == rank - 1) || self.opset < 13 {
            return Err(format!("it is not over the last axis of {:?}", scores.dims()));
        }
        Ok(Tensor::Scores(Scores { is_softmax: true, ..scores.clone() }))
    }

    /// Shares times values: attention.
    pub(super) fn attend(
        &mut self,
        node: &NodeProto,
        scores: &Scores,
        value: &View,
    ) -> Result<Tensor, Refused> {
        let refuse = || format!("values with the axes {}", in_words(&value.axes));
        let (outer, tokens, channels) = last_two(value).ok_or_else(refuse)?;
        let (own, own_tokens, own_channels) = last_two(&scores.query).ok_or_else(refuse)?;
        let shape = value.shape;
        let fits = scores.is_softmax
            && shape == scores.query.shape
            && (outer, tokens, channels) == (own, own_tokens, own_channels)
            && value.factor == 1.0
            && value.pads == [0; 4];
        let head = head_of(channels, &shape).filter(|_| fits).ok_or_else(refuse)?;
        let (heads, window) = heads_and_window(outer, &shape, head).ok_or_else(refuse)?;
        let views = [&scores.query, &scores.key, value];
        let layer = AttentionLayer {
            first: views.map(|view| view.first),
            heads,
            head,
            scale: scores.scale,
            window,
        };
        let inputs = views.map(|view| view.value).to_vec();
        let output = self.net.push(&super::label(node), Kind::Attention(layer), inputs, shape);
        Ok(Tensor::View(View::new(output, shape, value.axes.clone())))
    }

    /// The parts of a tensor along its channels.
    pub(super) fn split(&mut self, node: &NodeProto) -> Result<Vec<Tensor>, Refused> {
        let view = self.unpadded_part(node, 0)?;
        let axis = Attributes(node).int("axis", 0);
        let axis = view.index(axis).ok_or_else(|| format!("axis {axis}"))?;
        let size = view.dims()[axis];
        let count = node.output.len().max(1);
        let each = size.div_ceil(count) as i64;
        let sizes = self.ints(node, "split", 1)?;
        let sizes = sizes.unwrap_or_else(|| {
            (0..count as i64).map(|i| each.min(size as i64 - i * each)).collect()
        });
        let mut parts = Vec::new();
        let mut from = 0;
        for part in sizes {
            let to = from + usize::try_from(part).map_err(|_| format!("a part of {part}"))?;
            let part = self.part_of(node, &view, axis, (from, to));
            let part =
                part.ok_or_else(|| format!("part of {} along {axis}", in_words(&view.axes)))?;
            parts.push(Tensor::View(part));
            from = to;
        }
        Ok(parts)
    }

    /// Some of the channels, or everything.
    pub(super) fn slice(&mut self, node: &NodeProto) -> Result<Tensor, Refused> {
        let mut view = self.unpadded_part(node, 0)?;
        let (starts, ends) = (self.ints(node, "starts", 1)?, self.ints(node, "ends", 2)?);
        let (Some(starts), Some(ends)) = (starts, ends) else {
            return Err("its bounds are not constants".to_owned());
        };
        let axes =
            self.ints(node, "axes", 3)?.unwrap_or_else(|| (0..starts.len() as i64).collect());
        let steps = self.ints(node, "steps", 4)?.unwrap_or_else(|| vec![1; starts.len()]);
        for (((start, end), axis), step) in starts.iter().zip(&ends).zip(&axes).zip(&steps) {
            let index = view.index(*axis).ok_or_else(|| format!("axis {axis}"))?;
            let size = view.dims()[index] as i64;
            let bound = |at: i64| if at < 0 { at + size } else { at }.clamp(0, size) as usize;
            let (from, to) = (bound(*start), bound(*end));
            if *step != 1 {
                return Err(format!("a step of {step}"));
            }
            if (from, to) == (0, size as usize) {
                continue;
            }
            let part = self.part_of(node, &view, index, (from, to));
            view = part
                .ok_or_else(|| format!("{from}..{to} of {} along {axis}", in_words(&view.axes)))?;
        }
        Ok(Tensor::View(view))
    }

    /// One element of an axis: a part of the channels, or the first pixel.
    pub(super) fn gather(&mut self, node: &NodeProto) -> Result<Tensor, Refused> {
        let view = self.unpadded_part(node, 0)?;
        let axis = Attributes(node).int("axis", 0);
        let axis = view.index(axis).ok_or_else(|| format!("axis {axis}"))?;
        let indices = self.constant(node, 1)?;
        let (index, is_scalar) = (indices.as_ints().unwrap_or_default(), indices.dims.is_empty());
        let size = view.dims()[axis] as i64;
        if index.iter().copied().eq(0..size) {
            // All elements: the axis becomes those of the indices.
            let mut dims = view.dims();
            dims.splice(axis..=axis, indices.dims.iter().copied());
            let moved = view.reshape(&dims);
            return moved
                .map(Tensor::View)
                .ok_or_else(|| format!("its axes are {}", in_words(&view.axes)));
        }
        let &[index] = index else { return Err(format!("{} indices", index.len())) };
        let index = usize::try_from(if index < 0 { index + size } else { index });
        let index = index.map_err(|_| "a negative index".to_owned())?;
        let pixels = parts_of(view.axes[axis], &view.shape);
        let all = [Part { along: Along::Pixels, size: view.shape.pixels(), step: 1 }];
        let mut part = if pixels == all && index == 0 {
            let view = self.whole(node, view);
            let mut part = self.first_pixel(node, &view);
            part.axes.remove(axis);
            part
        } else {
            let refuse = || format!("element {index} of {} along {axis}", in_words(&view.axes));
            view.element(axis, index).ok_or_else(refuse)?
        };
        if !is_scalar {
            part.axes.insert(axis, Axis::One);
        }
        Ok(Tensor::View(part))
    }

    /// The first pixel: a window of one pixel whose step is beyond the map.
    fn first_pixel(&mut self, node: &NodeProto, view: &View) -> View {
        let shape = Shape { height: 1, width: 1, ..view.shape };
        let moving = super::super::net::Moving {
            kernel: [1, 1],
            stride: [view.shape.height, view.shape.width],
            pads: [0; 4],
        };
        let kind = Kind::Pool { moving, pooling: Pooling::Max };
        let value = self.net.push(&super::label(node), kind, vec![view.value], shape);
        view.with(value, shape)
    }

    /// Constant tokens before those of a tensor.
    pub(super) fn prepend(&mut self, node: &NodeProto) -> Result<Option<Tensor>, Refused> {
        let (Ok(Tensor::Constant(head)), Ok(Tensor::View(view))) =
            (self.tensor(node, 0), self.tensor(node, 1))
        else {
            return Ok(None);
        };
        let (head, view) = (head.clone(), view.clone());
        let axis = view.index(Attributes(node).int("axis", 0));
        let [Axis::One, tokens, Axis::Channel] = view.axes.as_slice() else { return Ok(None) };
        let pixels = [Part { along: Along::Pixels, size: view.shape.pixels(), step: 1 }];
        let fits = node.input.len() == 2
            && axis == Some(1)
            && parts_of(*tokens, &view.shape) == pixels
            && matches!(head.dims.as_slice(), [1, _, c] if *c == view.shape.channels);
        if !fits || view.pads != [0; 4] {
            return Ok(None);
        }
        let view = self.whole(node, view);
        let width = head.dims[1] + view.shape.pixels();
        let shape = Shape { height: 1, width, ..view.shape };
        let kind = Kind::Prepend { head: head.to_floats() };
        let value = self.net.push(&super::label(node), kind, vec![view.value], shape);
        let axes = vec![Axis::One, Axis::Width, Axis::Channel];
        Ok(Some(Tensor::View(View::new(value, shape, axes))))
    }
}
