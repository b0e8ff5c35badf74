//! Operators that move, merge or drop axes; concatenation and padding.

use rten_onnx::onnx::NodeProto;

use super::super::constant::{Constant, resolve};
use super::super::net::Shape;
use super::super::parts::{Along, Part, axis_of, parts_of};
use super::super::source::Attributes;
use super::super::view::{Axis, View, size};
use super::norms::Grouped;
use super::{Lowerer, Refused, Tensor};

/// Most rows or columns of zeros on one side.
const WIDEST: usize = 1 << 16;

/// Dimensions after removing (or, with `adds`, adding) axes of length one.
pub(super) fn squeezed(dims: &[usize], axes: Option<&[i64]>, adds: bool) -> Option<Vec<usize>> {
    let rank = if adds { dims.len() + axes?.len() } else { dims.len() };
    let listed = |i: usize| {
        let Some(axes) = axes else { return dims.get(i) == Some(&1) };
        axes.iter().any(|a| *a == i as i64 || *a + rank as i64 == i as i64)
    };
    if !adds {
        let keep = dims.iter().enumerate().filter(|(i, _)| !listed(*i)).map(|(_, d)| *d);
        return Some(keep.collect());
    }
    let mut left = dims.iter().copied();
    (0..rank).map(|i| if listed(i) { Some(1) } else { left.next() }).collect()
}

/// Dimensions after broadcasting with `shape`, if that adds nothing but axes of length one.
fn unrepeated(dims: &[usize], shape: &[i64]) -> Option<Vec<usize>> {
    let added = shape.len().saturating_sub(dims.len());
    let all: Vec<usize> = std::iter::repeat_n(1, added).chain(dims.iter().copied()).collect();
    let mut pairs = all.iter().rev().zip(shape.iter().rev());
    pairs.all(|(have, want)| *want == 1 || *want == *have as i64).then_some(all)
}

impl Lowerer {
    pub(super) fn moved(&mut self, node: &NodeProto) -> Result<Tensor, Refused> {
        // A transpose may stand between padding and convolution, because padding is kept by axis.
        let transposes = node.op_type.as_deref() == Some("Transpose");
        if let Some(map) = self.ungrouped(node)? {
            return Ok(Tensor::View(map));
        }
        if let Ok(Tensor::Scores(scores)) = self.tensor(node, 0) {
            let dims = scores.dims();
            let reshaped =
                if transposes { None } else { scores.reshaped(&self.target(node, &dims)?) };
            return reshaped
                .map(|scores| Tensor::Scores(Box::new(scores)))
                .ok_or_else(|| format!("it moves the axes of attention's scores, {dims:?}"));
        }
        let view = if transposes { self.any_view(node, 0)? } else { self.rolled_part(node, 0)? };
        let dims = view.dims();
        if transposes {
            let perm: Vec<usize> = match Attributes(node).ints("perm") {
                Some(perm) => perm.iter().map(|p| *p as usize).collect(),
                None => (0..dims.len()).rev().collect(),
            };
            let moved = view.transpose(&perm);
            return moved.map(Tensor::View).ok_or_else(|| format!("permutation {perm:?}"));
        }
        let target = self.target(node, &dims)?;
        if let Some(moved) = view.reshape(&target) {
            return Ok(Tensor::View(moved));
        }
        Grouped::new(&view, &target).map(Tensor::Grouped).ok_or_else(|| {
            format!("{dims:?} as {target:?} would mix channels with height or width")
        })
    }

    /// The dimensions that an operator gives to a tensor of `dims`, whose elements stay in their order.
    fn target(&self, node: &NodeProto, dims: &[usize]) -> Result<Vec<usize>, Refused> {
        let attributes = Attributes(node);
        let rank = dims.len() as i64;
        let target = match node.op_type.as_deref().unwrap_or_default() {
            "Reshape" => {
                let shape =
                    self.constant(node, 1)?.as_ints().map(<[i64]>::to_vec).unwrap_or_default();
                resolve(dims, &shape)
                    .ok_or_else(|| format!("{dims:?} does not become {shape:?}"))?
            }
            "Expand" => {
                let shape = self.constant(node, 1)?.as_ints().unwrap_or_default();
                unrepeated(dims, shape)
                    .ok_or_else(|| format!("{dims:?} as {shape:?} would repeat elements"))?
            }
            "Flatten" => {
                let at = attributes.int("axis", 1);
                let at = usize::try_from(if at < 0 { at + rank } else { at });
                let at = at.ok().filter(|at| *at <= dims.len());
                let at = at.ok_or_else(|| format!("an axis outside {dims:?}"))?;
                vec![dims[..at].iter().product(), dims[at..].iter().product()]
            }
            op => {
                let axes = self.ints(node, "axes", 1)?;
                squeezed(dims, axes.as_deref(), op == "Unsqueeze")
                    .ok_or_else(|| format!("axes {axes:?} of {dims:?}"))?
            }
        };
        Ok(target)
    }

    pub(super) fn concat(&mut self, node: &NodeProto) -> Result<Tensor, Refused> {
        if let Some(view) = self.stacked(node)? {
            return Ok(Tensor::View(view));
        }
        let views: Vec<View> =
            (0..node.input.len()).map(|i| self.view(node, i)).collect::<Result<_, _>>()?;
        let Some(first) = views.first() else { return Err("it has no inputs".to_owned()) };
        let axis = first.index(Attributes(node).int("axis", 1)).unwrap_or(0);
        let fits = |v: &View| {
            let mut axes = first.axes.clone();
            if let Some(a) = axes.get_mut(axis) {
                *a = Axis::Channel;
            }
            let same = (v.shape.height, v.shape.width) == (first.shape.height, first.shape.width);
            v.axes.get(axis).is_some_and(|a| *a == Axis::Channel || v.shape.channels == 1)
                && same
                && v.is(&axes)
        };
        if !views.iter().all(fits) {
            return Err(
                "only maps of equal height and width can be concatenated, along their channels"
                    .to_owned(),
            );
        }
        let channels = views.iter().map(|v| v.shape.channels).sum();
        let shape = Shape { channels, ..first.shape };
        let inputs = views.iter().map(|v| v.value).collect();
        let mut axes = first.axes.clone();
        if let Some(a) = axes.get_mut(axis) {
            *a = Axis::Channel;
        }
        let value = self.joined_channels(&super::label(node), inputs, shape);
        Ok(Tensor::View(View::new(value, shape, axes)))
    }

    /// The concatenation along an axis of length one, before those of the channels, as of the derivatives of
    /// queries, keys and values. A part may be a constant of zeros.
    fn stacked(&mut self, node: &NodeProto) -> Result<Option<View>, Refused> {
        let given: Vec<Tensor> = (0..node.input.len())
            .map(|i| self.tensor(node, i).cloned())
            .collect::<Result<_, _>>()?;
        let views = given.iter().filter_map(|tensor| match tensor {
            Tensor::View(view) => Some(view),
            _ => None,
        });
        let Some(like) = views.clone().next().cloned() else { return Ok(None) };
        let Some(at) = like.index(Attributes(node).int("axis", 1)) else { return Ok(None) };
        let shape = like.shape;
        let channels = |axis: &Axis| parts_of(*axis, &shape).into_iter();
        let is_last = like.axes[..at].iter().flat_map(channels).all(|p| p.along == Along::Pixels)
            && size(&shape, like.axes[at]) == 1
            && views.clone().all(|view| (view.shape, view.roll) == (shape, [0; 2]))
            && views.clone().all(|view| view.dims() == like.dims() && view.is(&like.axes));
        // How many parts a constant is, if they are zeros.
        let zeros = |constant: &Constant| {
            let mut dims = like.dims();
            let count = *constant.dims.get(at)?;
            *dims.get_mut(at)? = count;
            let fits = constant.dims == dims && constant.to_floats().iter().all(|v| *v == 0.0);
            fits.then_some(count)
        };
        if !is_last || shape.channels == 1 {
            return Ok(None);
        }
        let label = super::label(node);
        let mut parts = Vec::new();
        for tensor in given {
            match tensor {
                Tensor::View(view) => parts.push(self.whole(node, view).value),
                Tensor::Constant(constant) => {
                    let Some(count) = zeros(&constant) else { return Ok(None) };
                    let like = self.whole(node, like.clone());
                    let zeros = self.zeros(&label, &like, shape.channels);
                    parts.extend(std::iter::repeat_n(zeros, count));
                }
                _ => return Ok(None),
            }
        }
        let stacked = Shape { channels: shape.channels * parts.len(), ..shape };
        let part = Part { along: Along::Channels, size: parts.len(), step: shape.channels };
        let mut axes = Vec::new();
        for (index, axis) in like.axes.iter().enumerate() {
            let own = if index == at { vec![part] } else { parts_of(*axis, &shape) };
            let Some(axis) = axis_of(&own, &stacked) else { return Ok(None) };
            axes.push(axis);
        }
        let value = self.joined_channels(&label, parts, stacked);
        Ok(Some(View::new(value, stacked, axes)))
    }

    /// The map that a `Reshape` makes of groups of channels again, if its input is such.
    fn ungrouped(&self, node: &NodeProto) -> Result<Option<View>, Refused> {
        let Ok(Tensor::Grouped(grouped)) = self.tensor(node, 0) else { return Ok(None) };
        let (dims, op) = (grouped.dims(), node.op_type.as_deref().unwrap_or_default());
        let shape = if op == "Reshape" { self.constant(node, 1)?.as_ints() } else { None };
        let map = resolve(&dims, shape.unwrap_or_default()).and_then(|to| grouped.ungrouped(&to));
        map.map(Some).ok_or_else(|| format!("groups of channels, {dims:?}, do not become a map"))
    }

    /// Zeros around a map, added to the padding of the convolution that follows.
    pub(super) fn pad(&mut self, node: &NodeProto) -> Result<Tensor, Refused> {
        let attributes = Attributes(node);
        let mode = attributes.text("mode");
        if !matches!(mode, "" | "constant") {
            return Err(format!("mode {mode}"));
        }
        let value = self.maybe_floats(node, 2)?.and_then(|v| v.first().copied());
        if value.unwrap_or_else(|| attributes.float("value", 0.0)) != 0.0 {
            return Err("it pads with a value other than 0".to_owned());
        }
        let pads = self.ints(node, "pads", 1)?.unwrap_or_default();
        let is_nothing = !pads.is_empty() && pads.iter().all(|pad| *pad == 0);
        let mut view = if is_nothing { self.rolled_view(node, 0) } else { self.view(node, 0) }?;
        let rank = view.axes.len();
        if pads.len() != 2 * rank || Self::has(node, 3) {
            return Err(format!("pads {pads:?} of a tensor of {rank} axes"));
        }
        for (i, axis) in view.axes.clone().iter().enumerate() {
            let (before, after) = (pads[i], pads[i + rank]);
            let at = match axis {
                Axis::Height => 0,
                Axis::Width => 1,
                _ if before == 0 && after == 0 => continue,
                _ => return Err(format!("pads {pads:?} are not limited to height and width")),
            };
            let count = |pad: i64| {
                let count = usize::try_from(pad).ok().filter(|count| *count <= WIDEST);
                count.ok_or_else(|| format!("pads {pads:?}"))
            };
            (view.pads[at], view.pads[at + 2]) = (count(before)?, count(after)?);
        }
        Ok(Tensor::View(view))
    }
}
