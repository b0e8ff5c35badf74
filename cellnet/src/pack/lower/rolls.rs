//! Rows and columns moved around the edge, as Swin moves its windows; every n-th row or column; and pixels
//! that become channels, as where Swin joins four pixels.

use rten_onnx::onnx::NodeProto;

use super::super::net::{Kind, Moving, Shape};
use super::super::parts::{Along, Part, parts_of};
use super::super::source::Attributes;
use super::super::view::{Axis, View, in_words};
use super::{Lowerer, Refused, Tensor};

/// Most rows or columns that become channels.
const LONGEST: usize = 8;

/// Some rows or columns of a map, which only the other ones may follow.
#[derive(Debug, Clone)]
pub(super) struct Cut {
    pub(super) view: View,
    pub(super) axis: usize,
    pub(super) from: usize,
    pub(super) to: usize,
}

impl Cut {
    pub(super) fn dims(&self) -> Vec<usize> {
        let mut dims = self.view.dims();
        dims[self.axis] = self.to - self.from;
        dims
    }
}

impl Lowerer {
    /// A view with the zeros around it that pend; the view itself if there are none.
    pub(super) fn with_zeros(&mut self, node: &NodeProto, view: View) -> Result<View, Refused> {
        if view.pads == [0; 4] {
            return Ok(view);
        }
        if view.roll != [0; 2] {
            return Err(super::PADDED.to_owned());
        }
        let view = self.whole(node, view);
        let moving = Moving { pads: view.pads, ..Moving::POINT };
        let (height, width) = (view.pads[0] + view.pads[2], view.pads[1] + view.pads[3]);
        let (height, width) = (view.shape.height + height, view.shape.width + width);
        let shape = Shape { height, width, ..view.shape };
        Ok(self.one_hot(node, &view, moving, [0, 0], shape))
    }

    /// The concatenation of the last rows or columns of a map and the first: the map, moved around its edge.
    pub(super) fn rolled(&self, node: &NodeProto) -> Result<Option<Tensor>, Refused> {
        let inputs = (0..node.input.len()).map(|index| self.tensor(node, index));
        let inputs: Vec<&Tensor> = inputs.collect::<Result<_, _>>()?;
        // A map that is moved by nothing, or by a whole side, is joined with no rows or columns.
        let is_empty = |tensor: &&Tensor| matches!(tensor, Tensor::Cut(cut) if cut.from == cut.to);
        let full: Vec<&Tensor> =
            inputs.iter().copied().filter(|tensor| !is_empty(tensor)).collect();
        if let &[only] = full.as_slice()
            && inputs.len() > 1
        {
            return Ok(Some(only.clone()));
        }
        let Ok(Tensor::Cut(last)) = self.tensor(node, 0) else { return Ok(None) };
        let refuse = || "it joins other rows or columns than all of one map".to_owned();
        let Tensor::Cut(first) = self.tensor(node, 1)? else { return Err(refuse()) };
        let axis = last.view.index(Attributes(node).int("axis", 0));
        let size = last.view.dims()[last.axis];
        let is_whole = (first.from, first.to, last.to) == (0, last.from, size);
        let is_one = first.view == last.view && [first.axis, last.axis].map(Some) == [axis; 2];
        if node.input.len() != 2 || !is_whole || !is_one {
            return Err(refuse());
        }
        let mut view = last.view.clone();
        let side = usize::from(view.axes[last.axis] == Axis::Width);
        view.roll[side] = (view.roll[side] + last.from) % size;
        Ok(Some(Tensor::View(view)))
    }

    /// Copies rows or columns that an operator of two sides reads, for it and all their readers.
    pub(super) fn copy_cuts(&mut self, node: &NodeProto) -> Result<(), Refused> {
        for index in 0..2 {
            if let Tensor::Cut(_) = self.tensor(node, index)? {
                self.any_view(node, index)?;
            }
        }
        Ok(())
    }

    /// Some rows or columns, copied: a convolution of each channel with a window as long as what is left out,
    /// which is 1 at one place.
    pub(super) fn cut_out(&mut self, node: &NodeProto, cut: &Cut) -> Result<View, Refused> {
        let view = self.whole(node, cut.view.clone());
        let size = view.dims()[cut.axis];
        let (kept, left) = (cut.to - cut.from, size - (cut.to - cut.from));
        if left >= LONGEST || kept == 0 || view.roll != [0; 2] || view.pads != [0; 4] {
            return Err(format!("{}..{} of {}", cut.from, cut.to, in_words(&view.axes)));
        }
        let is_rows = view.axes[cut.axis] == Axis::Height;
        let (kernel, place, shape) = if is_rows {
            ([left + 1, 1], [cut.from, 0], Shape { height: kept, ..view.shape })
        } else {
            ([1, left + 1], [0, cut.from], Shape { width: kept, ..view.shape })
        };
        let moving = Moving { kernel, ..Moving::POINT };
        Ok(self.one_hot(node, &view, moving, place, shape))
    }

    /// Each `step`-th row or column of `from..to`.
    pub(super) fn every(
        &mut self,
        node: &NodeProto,
        view: &View,
        axis: usize,
        (from, to): (usize, usize),
        step: i64,
    ) -> Result<View, Refused> {
        let refuse = || format!("a step of {step} along {}", in_words(&view.axes));
        let side = match view.axes[axis] {
            Axis::Height => 0,
            Axis::Width => 1,
            _ => return Err(refuse()),
        };
        let step = usize::try_from(step).ok().filter(|step| (2..=LONGEST).contains(step));
        let step = step.ok_or_else(refuse)?;
        let size = view.dims()[axis];
        if to != size || from >= step || view.roll != [0; 2] {
            return Err(refuse());
        }
        let (mut moving, mut place) = (Moving::POINT, [0, 0]);
        (moving.kernel[side], moving.stride[side], place[side]) = (from + 1, step, from);
        let mut sides = [view.shape.height, view.shape.width];
        sides[side] = (size - from).div_ceil(step);
        let view = self.whole(node, view.clone());
        let shape = Shape { height: sides[0], width: sides[1], ..view.shape };
        Ok(self.one_hot(node, &view, moving, place, shape))
    }

    /// The pixel at `place` of each block of `kernel` rows and columns.
    fn picked(
        &mut self,
        node: &NodeProto,
        view: &View,
        kernel: [usize; 2],
        place: [usize; 2],
    ) -> View {
        let moving = Moving { kernel, stride: kernel, pads: [0; 4] };
        let (height, width) = (view.shape.height / kernel[0], view.shape.width / kernel[1]);
        self.one_hot(node, view, moving, place, Shape { height, width, ..view.shape })
    }

    /// A convolution of each channel with a window that is 1 at `place` and else 0.
    fn one_hot(
        &mut self,
        node: &NodeProto,
        view: &View,
        moving: Moving,
        place: [usize; 2],
        shape: Shape,
    ) -> View {
        let [rows, columns] = moving.kernel;
        let (size, at) = (rows * columns, place[0] * columns + place[1]);
        let channels = shape.channels;
        let weights = (0..channels * size).map(|i| if i % size == at { 1.0 } else { 0.0 });
        let bias = vec![0.0; channels];
        let layer = super::linear::conv_layer(moving, channels, 1, weights.collect(), bias);
        let value = self.net.push(&super::label(node), Kind::Conv(layer), vec![view.value], shape);
        view.with(value, shape)
    }

    /// As [`Lowerer::unfolded`], for an input and all its readers.
    pub(super) fn unfolded_input(&mut self, node: &NodeProto, view: View) -> Result<View, Refused> {
        let unfolded = self.unfolded(node, view.clone())?;
        if unfolded != view
            && let Some(name) = node.input.first()
        {
            self.tensors.insert(name.clone(), Tensor::View(unfolded.clone()));
        }
        Ok(unfolded)
    }

    /// A view whose last axis is the rows and columns of small blocks and their channels, as a map of such
    /// channels; any other view as it is.
    pub(super) fn unfolded(&mut self, node: &NodeProto, view: View) -> Result<View, Refused> {
        let Some([blocks, outer]) = folded(&view) else { return Ok(view) };
        let refuse = || format!("its input's axes are {}", in_words(&view.axes));
        if view.roll != [0; 2] || view.pads != [0; 4] {
            return Err(refuse());
        }
        let mut kernel = [1, 1];
        for part in &blocks {
            kernel[usize::from(part.step == 1)] = part.size;
        }
        let whole = self.whole(node, view.clone());
        let (mut parts, count) = (Vec::new(), kernel[0] * kernel[1]);
        for index in 0..count {
            let (mut left, mut place) = (index, [0, 0]);
            for part in blocks.iter().rev() {
                place[usize::from(part.step == 1)] = left % part.size;
                left /= part.size;
            }
            parts.push(self.picked(node, &whole, kernel, place));
        }
        let sides = parts.first().map(|part| part.shape).ok_or_else(refuse)?;
        let shape = Shape { channels: sides.channels * count, ..sides };
        let inputs = parts.iter().map(|part| part.value).collect();
        let value = self.joined_channels(&super::label(node), inputs, shape);
        let axes = named(&view.axes, &outer, &view.shape).ok_or_else(refuse)?;
        Ok(View::new(value, shape, axes))
    }
}

/// The rows and columns in a view's last axis, before all channels, and the parts of the other axes.
fn folded(view: &View) -> Option<[Vec<Part>; 2]> {
    let (last, outer) = view.axes.split_last()?;
    let parts = parts_of(*last, &view.shape);
    let (channels, blocks) = parts.split_last()?;
    let all = Part { along: Along::Channels, size: view.shape.channels, step: 1 };
    let (width, height) = (view.shape.width, view.shape.height);
    let is_block = |part: &Part| {
        let side = if part.step == 1 { width } else { height };
        let step = part.step == 1 || part.step == width;
        let fits = part.size <= LONGEST && side.is_multiple_of(part.size);
        part.along == Along::Pixels && step && fits
    };
    let distinct = blocks.len() == 1 || (blocks.len() == 2 && blocks[0].step != blocks[1].step);
    if *channels != all || !distinct || !blocks.iter().all(is_block) || width == 1 {
        return None;
    }
    let size = |step| blocks.iter().find(|part| part.step == step).map_or(1, |part| part.size);
    let (rows, columns) = (size(width), size(1));
    let part = |size, step| Part { along: Along::Pixels, size, step };
    let wanted = [part(height / rows, rows * width), part(width / columns, columns)];
    let outer: Vec<Part> = outer.iter().flat_map(|axis| parts_of(*axis, &view.shape)).collect();
    let is_grid = outer.iter().eq(wanted.iter().filter(|part| part.size > 1))
        || (rows == 1 && outer == [part(height * width / columns, columns)]);
    is_grid.then(|| [blocks.to_vec(), outer])
}

/// The axes of the map of blocks: rows and columns, or both in one.
fn named(axes: &[Axis], outer: &[Part], shape: &Shape) -> Option<Vec<Axis>> {
    let (_, before) = axes.split_last()?;
    let mut named = Vec::new();
    for axis in before {
        named.push(match parts_of(*axis, shape).as_slice() {
            [] => Axis::One,
            [part] if outer.len() == 1 && part.size * part.step == shape.pixels() => Axis::Pixels,
            [part] if part.step >= shape.width => Axis::Height,
            [_] => Axis::Width,
            [_, _] => Axis::Pixels,
            _ => return None,
        });
    }
    named.push(Axis::Channel);
    Some(named)
}
