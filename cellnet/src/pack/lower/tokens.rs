//! Layer norm, parts of a tensor, and tokens put before others.

use rten_onnx::onnx::NodeProto;

use super::super::net::{Kind, Shape};
use super::super::parts::{Along, Part, axis_of, parts_of};
use super::super::source::Attributes;
use super::super::view::{Axis, View, in_words};
use super::rolls::Cut;
use super::{Lowerer, Refused, Tensor};
use crate::plan::{Activation, Pooling};

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
        if let Some(part) = self.part_of_heads(node, view, axis, (from, to)) {
            return Some(part);
        }
        if to.checked_sub(from) != Some(1) || view.axes.get(axis) == Some(&Axis::Channel) {
            return view.channels(axis, from, to);
        }
        let mut part = view.element(axis, from)?;
        part.axes.insert(axis, Axis::One);
        Some(part)
    }

    /// Some of each head's channels, if `axis` is the channels of a head and another axis the heads: copied,
    /// so that they follow each other.
    fn part_of_heads(
        &mut self,
        node: &NodeProto,
        view: &View,
        axis: usize,
        (from, to): (usize, usize),
    ) -> Option<View> {
        let along = |axis: &Axis| {
            let parts = parts_of(*axis, &view.shape).into_iter();
            parts.filter(|part| part.along == Along::Channels).collect::<Vec<_>>()
        };
        let own = parts_of(*view.axes.get(axis)?, &view.shape);
        let &[head] = own.as_slice() else { return None };
        let all: Vec<Part> = view.axes.iter().flat_map(along).filter(|p| *p != head).collect();
        let &[heads] = all.as_slice() else { return None };
        let count = to.checked_sub(from).filter(|count| *count > 0 && to <= head.size)?;
        let fits = (head.along, head.step, heads.step) == (Along::Channels, 1, head.size)
            && heads.size * head.size == view.shape.channels;
        if !fits {
            return None;
        }
        let whole = self.whole(node, view.clone());
        let label = super::label(node);
        let own = Shape { channels: count, ..view.shape };
        let parts = (0..heads.size).map(|index| {
            let kind = Kind::Slice { first: index * head.size + from };
            self.net.push(&label, kind, vec![whole.value], own)
        });
        let parts: Vec<_> = parts.collect();
        let shape = Shape { channels: heads.size * count, ..view.shape };
        let value = self.joined_channels(&label, parts, shape);
        let part = |size, step| [Part { along: Along::Channels, size, step }];
        let axes = whole.axes.iter().enumerate().map(|(index, other)| match along(other).first() {
            _ if index == axis => axis_of(&part(count, 1), &shape),
            Some(_) => axis_of(&part(heads.size, count), &shape),
            None => Some(*other),
        });
        Some(View { value, shape, axes: axes.collect::<Option<_>>()?, ..whole })
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
        let view = self.rolled_view(node, 0)?;
        let view = self.unfolded_input(node, view)?;
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

    /// The parts of a tensor along its channels.
    pub(super) fn split(&mut self, node: &NodeProto) -> Result<Vec<Tensor>, Refused> {
        let view = self.rolled_part(node, 0)?;
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
        let mut view = self.rolled_part(node, 0)?;
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
                view = self.every(node, &view, index, (from, to), *step)?;
                continue;
            }
            if (from, to) == (0, size as usize) {
                continue;
            }
            if (from, to) == (0, 1) && is_all_pixels(&view, index) {
                view = self.first_pixel(node, &view);
                view.axes[index] = Axis::One;
                continue;
            }
            let is_side = matches!(view.axes[index], Axis::Height | Axis::Width);
            if is_side && starts.len() == 1 && from <= to {
                return Ok(Tensor::Cut(Cut { view, axis: index, from, to }));
            }
            let part = self.part_of(node, &view, index, (from, to));
            view = part
                .ok_or_else(|| format!("{from}..{to} of {} along {axis}", in_words(&view.axes)))?;
        }
        Ok(Tensor::View(view))
    }

    /// One element of an axis: a part of the channels, or the first pixel.
    pub(super) fn gather(&mut self, node: &NodeProto) -> Result<Tensor, Refused> {
        let view = self.rolled_part(node, 0)?;
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
        let mut part = if is_all_pixels(&view, axis) && index == 0 {
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
        let moving = super::super::net::Moving {
            kernel: [1, 1],
            stride: [view.shape.height, view.shape.width],
            pads: [0; 4],
        };
        let kind = Kind::Pool { moving, pooling: Pooling::Max };
        let shape = Shape::vector(self.net.values[view.value].channels);
        let value = self.net.push(&super::label(node), kind, vec![view.value], shape);
        View { value, shape: Shape::vector(view.shape.channels), ..view.clone() }
    }

    /// Constant tokens before those of a tensor.
    pub(super) fn prepend(&mut self, node: &NodeProto) -> Result<Option<Tensor>, Refused> {
        let Some(last) = node.input.len().checked_sub(1).filter(|last| *last > 0) else {
            return Ok(None);
        };
        let Tensor::View(view) = self.tensor(node, last)?.clone() else { return Ok(None) };
        let channels = view.shape.channels;
        let mut head = Vec::new();
        for index in 0..last {
            match self.tensor(node, index)? {
                Tensor::Constant(constant) if matches!(constant.dims.as_slice(), [1, _, c] if *c == channels) =>
                {
                    head.extend(constant.to_floats());
                }
                _ => return Ok(None),
            }
        }
        let axis = view.index(Attributes(node).int("axis", 0));
        let [Axis::One, _, Axis::Channel] = view.axes.as_slice() else { return Ok(None) };
        if axis != Some(1) || !is_all_pixels(&view, 1) || view.pads != [0; 4] {
            return Ok(None);
        }
        let view = self.whole(node, view);
        let width = head.len() / channels + view.shape.pixels();
        let shape = Shape { height: 1, width, ..view.shape };
        let kind = Kind::Prepend { head };
        let value = self.net.push(&super::label(node), kind, vec![view.value], shape);
        let axes = vec![Axis::One, Axis::Width, Axis::Channel];
        Ok(Some(Tensor::View(View::new(value, shape, axes))))
    }
}

/// Whether an axis is all pixels in their order.
fn is_all_pixels(view: &View, axis: usize) -> bool {
    let all = [Part { along: Along::Pixels, size: view.shape.pixels(), step: 1 }];
    parts_of(view.axes[axis], &view.shape) == all && view.roll == [0; 2]
}
