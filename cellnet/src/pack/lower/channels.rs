//! Convolutions along the channels of a vector, as in Efficient Channel Attention (ECA): the channels are
//! moved by each place of the kernel, multiplied by its weight, and added. Other such convolutions are
//! refused.

use rten_onnx::onnx::NodeProto;

use super::super::constant::Constant;
use super::super::net::{Kind, Shape};
use super::super::source::Attributes;
use super::super::view::{Axis, View};
use super::windows::same;
use super::{Lowerer, Refused, Tensor};
use crate::plan::{Activation, BinaryOp};

/// Longest kernel; each place of it is a layer.
const LONGEST: usize = 16;

impl Lowerer {
    /// A `Conv` of one filter along the channels, which the view has in place of height or width; `None` for
    /// any other.
    pub(super) fn conv_along_channels(
        &mut self,
        node: &NodeProto,
        view: &View,
        bias: Option<&[f32]>,
    ) -> Result<Option<Tensor>, Refused> {
        let Some(along) = along(view) else { return Ok(None) };
        let kernel = self.constant(node, 1)?;
        let (before, after) = match padding(node, kernel, along, view.shape.channels) {
            Some(padding) if view.pads == [0; 4] => padding,
            _ => return Err(format!("a kernel of {:?} along the channels", kernel.dims)),
        };
        let (weights, bias) = (kernel.to_floats(), bias.map_or(0.0, |b| b.iter().sum()));
        let (label, view) = (super::label(node), self.whole(node, view.clone()));
        let channels = view.shape.channels;
        let mut parts = vec![view.value];
        if before > 0 {
            parts.insert(0, self.zeros(&label, &view, before));
        }
        if after > 0 {
            parts.push(self.zeros(&label, &view, after));
        }
        let padded = Shape { channels: channels + before + after, ..view.shape };
        let padded = self.joined_channels(&label, parts, padded);
        let mut sum: Option<Tensor> = None;
        for (first, weight) in weights.into_iter().enumerate() {
            let kind = Kind::Slice { first };
            let moved = self.net.push(&label, kind, vec![padded], view.shape);
            let plus = if first == 0 { vec![bias; channels] } else { Vec::new() };
            let moved = view.with(moved, view.shape);
            let times = vec![weight; channels];
            let moved = Tensor::View(self.affine(&label, &moved, times, plus, Activation::None));
            sum = Some(match sum {
                None => moved,
                Some(sum) => self.apply(&label, BinaryOp::Add, (sum, moved))?,
            });
        }
        Ok(sum)
    }

    /// A vector of zeros, made from the view's.
    pub(super) fn zeros(&mut self, label: &str, view: &View, channels: usize) -> usize {
        let shape = Shape { channels, ..view.shape };
        let part = self.net.push(label, Kind::Slice { first: 0 }, vec![view.value], shape);
        let (scale, bias) = (vec![0.0; channels], Vec::new());
        self.affine(label, &view.with(part, shape), scale, bias, Activation::None).value
    }
}

/// The axis of the channels of a vector, if it is one that a convolution moves along.
fn along(view: &View) -> Option<usize> {
    let along = view.axes.iter().position(|axis| *axis == Axis::Channel)?;
    (along >= 2 && view.shape.pixels() == 1 && view.shape.channels > 1).then_some(along)
}

/// Zeros before and after the channels, for one filter whose result is as long as its input.
fn padding(
    node: &NodeProto,
    kernel: &Constant,
    along: usize,
    channels: usize,
) -> Option<(usize, usize)> {
    let attributes = Attributes(node);
    let length = *kernel.dims.get(along)?;
    let ones = |name| attributes.ints(name).is_none_or(|list| list.iter().all(|n| *n == 1));
    let plain = ones("strides") && ones("dilations") && attributes.int("group", 1) == 1;
    if !plain || kernel.len() != length || length > LONGEST.min(channels) {
        return None;
    }
    let all = length.checked_sub(1)?;
    let (before, after) = match (attributes.text("auto_pad"), attributes.ints("pads")) {
        (mode @ ("SAME_UPPER" | "SAME_LOWER"), _) => same(mode, all),
        ("" | "NOTSET" | "VALID", pads) => {
            let pads = pads.filter(|_| attributes.text("auto_pad") != "VALID");
            let at = |index: usize| match pads {
                Some(pads) => usize::try_from(*pads.get(index)?).ok(),
                None => Some(0),
            };
            let spatial = kernel.dims.len() - 2;
            (at(along - 2)?, at(along - 2 + spatial)?)
        }
        _ => return None,
    };
    let others =
        attributes.ints("pads").is_none_or(|pads| pads.iter().sum::<i64>() as usize == all);
    (before + after == all && others).then_some((before, after))
}
