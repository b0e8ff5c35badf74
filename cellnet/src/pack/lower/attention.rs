//! Attention: the product of queries and keys, summands and factors of it, its softmax, and the product with
//! values. They become one layer, because the scores are as many as pairs of pixels. `single.rs` has those of
//! one query, which other operators may read.

use rten_onnx::onnx::NodeProto;

use super::super::constant::Constant;
use super::super::net::{AttentionLayer, Kind, Shape};
use super::super::parts::{Along, Part, merged, parts_of};
use super::super::source::Attributes;
use super::super::view::{Axis, View, in_words};
use super::{Lowerer, Refused, Tensor};

/// Most scores of a layer whose summands are kept.
const MOST: usize = 1 << 24;

/// Products of queries and keys, which only factors, summands, a softmax and the product with values may
/// follow.
#[derive(Debug, Clone)]
pub(super) struct Scores {
    pub(super) query: View,
    pub(super) key: View,
    pub(super) heads: Heads,
    /// Dimensions of the tensor: those of heads and groups, and at last queries and keys.
    pub(super) dims: Vec<usize>,
    pub(super) scale: f32,
    /// See [`AttentionLayer`].
    pub(super) bias: Vec<f32>,
    pub(super) mask: Vec<f32>,
    pub(super) is_softmax: bool,
}

/// How channels are divided into heads, and pixels into groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Heads {
    pub(super) heads: usize,
    pub(super) groups: [usize; 2],
    is_near: bool,
}

/// The axes of one side of attention: heads and groups, tokens, and the channels of a head.
pub(super) fn last_two(view: &View) -> Option<(&[Axis], Axis, Axis)> {
    let [outer @ .., a, b] = view.axes.as_slice() else { return None };
    Some((outer, *a, *b))
}

/// The channels of one head, if this axis is them.
pub(super) fn head_of(axis: Axis, shape: &Shape) -> Option<usize> {
    match parts_of(axis, shape).as_slice() {
        [] => Some(1),
        [Part { along: Along::Channels, size, step: 1 }] => Some(*size),
        _ => None,
    }
}

/// The parts of the axes of heads and groups, in their order, without the channels that a head has.
fn order(outer: &[Axis], shape: &Shape) -> Vec<Part> {
    let parts = outer.iter().flat_map(|axis| parts_of(*axis, shape));
    let of_heads = |part: Part| match part.along {
        Along::Channels => Part { step: 0, ..part },
        Along::Pixels => part,
    };
    parts.map(of_heads).collect()
}

impl Heads {
    /// Those of queries, keys or values, from the axes before the last two, those of the tokens, and the
    /// channels of a head.
    pub(super) fn of(outer: &[Axis], tokens: Axis, shape: &Shape, head: usize) -> Option<Self> {
        let (mut heads, mut groups) = (1, [1, 1]);
        for part in outer.iter().flat_map(|axis| parts_of(*axis, shape)) {
            match part.along {
                Along::Channels if heads == 1 && part.step == head => heads = part.size,
                Along::Channels => return None,
                Along::Pixels if part.step >= shape.width && shape.height > 1 => {
                    groups[0] *= part.size;
                }
                Along::Pixels => groups[1] *= part.size,
            }
        }
        let of_outer = outer.iter().flat_map(|axis| parts_of(*axis, shape));
        let pixels = |part: &Part| part.along == Along::Pixels;
        let (of_outer, of_tokens) =
            (merged(of_outer.filter(pixels)), merged(parts_of(tokens, shape)));
        let fits = |near: bool| {
            let (outer, tokens) = divided(groups, near, shape)?;
            (outer == of_outer && tokens == of_tokens).then_some(near)
        };
        let is_near = fits(false).or_else(|| fits(true))?;
        (heads * head == shape.channels).then_some(Self { heads, groups, is_near })
    }

    fn count(&self) -> usize {
        self.groups.iter().product()
    }

    /// Head and group of each element of the axes before the last two, in their order.
    fn places(&self, outer: &[Axis], shape: &Shape) -> Vec<(usize, usize)> {
        let mut places = vec![(0, 0)];
        for part in outer.iter().flat_map(|axis| parts_of(*axis, shape)) {
            let add = |(head, group): (usize, usize), index: usize| match part.along {
                Along::Channels => (index, group),
                Along::Pixels if part.step >= shape.width && shape.height > 1 => {
                    (head, group + index * self.groups[1])
                }
                Along::Pixels => (head, group + index),
            };
            let all = places.into_iter();
            places = all.flat_map(|at| (0..part.size).map(move |index| add(at, index))).collect();
        }
        places
    }
}

/// The parts of the pixels that are groups, and those that are a group's tokens.
fn divided(groups: [usize; 2], near: bool, shape: &Shape) -> Option<(Vec<Part>, Vec<Part>)> {
    let sides = [(shape.height, shape.width), (shape.width, 1)];
    let (mut outer, mut tokens) = (Vec::new(), Vec::new());
    for ((side, step), count) in sides.into_iter().zip(groups) {
        let each = side.is_multiple_of(count).then(|| side / count)?;
        let part = |size, by: usize| Part { along: Along::Pixels, size, step: step * by };
        outer.push(part(count, if near { each } else { 1 }));
        tokens.push(part(each, if near { 1 } else { count }));
    }
    let long = |parts: Vec<Part>| merged(parts.into_iter().filter(|part| part.size > 1));
    Some((long(outer), long(tokens)))
}

impl Scores {
    /// Multiplies them; false if it is too late.
    pub(super) fn scale(&mut self, factor: f32) -> bool {
        self.scale *= factor;
        self.bias.iter_mut().chain(&mut self.mask).for_each(|summand| *summand *= factor);
        !self.is_softmax
    }

    /// Dimensions of the tensor.
    pub(super) fn dims(&self) -> Vec<usize> {
        self.dims.clone()
    }

    /// The same scores with other axes of heads and groups.
    pub(super) fn reshaped(&self, dims: &[usize]) -> Option<Self> {
        // Axes of length one may follow or come between, until another reshape drops them.
        let last = |dims: &[usize]| dims.len().checked_sub(2).map(|at| dims[at..].to_vec());
        let long = |dims: &[usize]| dims.iter().copied().filter(|dim| *dim > 1).collect::<Vec<_>>();
        let count = |dims: &[usize]| dims.iter().product::<usize>();
        let is_same = last(dims)? == last(&self.dims)?;
        let has_queries = self.query.shape.pixels() > self.heads.count();
        let is_same = is_same || (has_queries && last(&long(dims)) == last(&long(&self.dims)));
        let fits = is_same && count(dims) == count(&self.dims);
        fits.then(|| Self { dims: dims.to_vec(), ..self.clone() })
    }

    /// Adds `sign` times a constant.
    pub(super) fn add(&mut self, constant: &Constant, sign: f32) -> Result<(), Refused> {
        let refused = format!("it adds {:?} to scores of {:?}", constant.dims, self.dims);
        let refuse = || refused.clone();
        let all: usize = self.dims.iter().product();
        let missing = self.dims.len().checked_sub(constant.dims.len()).ok_or_else(refuse)?;
        let given = constant.to_floats();
        let mut steps = vec![0; missing];
        let mut step = given.len();
        for (own, dim) in constant.dims.iter().zip(&self.dims[missing..]) {
            step /= (*own).max(1);
            steps.push(if *own == 1 { 0 } else { step });
            if *own != 1 && own != dim {
                return Err(refuse());
            }
        }
        if self.is_softmax || all > MOST {
            return Err(refuse());
        }
        let at = |index: usize| {
            let mut left = index;
            let places = self.dims.iter().zip(&steps).rev().map(|(dim, step)| {
                let own = left % dim;
                left /= dim;
                own * step
            });
            let value = given.get(places.sum::<usize>()).copied().unwrap_or(0.0) * sign;
            // A token is left out by a summand of minus infinity, or by the least number.
            if value == f32::NEG_INFINITY { f32::MIN } else { value }
        };
        let values: Vec<f32> = (0..all).map(at).collect();
        if values.iter().any(|value| !value.is_finite()) {
            return Err(format!("{}, which are not all finite", refuse()));
        }
        self.keep(&values).ok_or_else(refuse)
    }

    /// Keeps summands of all scores, if they differ by the head or by the group, but not by both.
    fn keep(&mut self, values: &[f32]) -> Option<()> {
        let (outer, ..) = last_two(&self.query)?;
        let places = self.heads.places(outer, &self.query.shape);
        let each = values.len() / places.len().max(1);
        let parts: Vec<&[f32]> = values.chunks(each.max(1)).collect();
        if parts.len() != places.len() {
            return None;
        }
        let by = |count: usize, of: fn(&(usize, usize)) -> usize| -> Option<Vec<f32>> {
            let mut kept: Vec<Option<&[f32]>> = vec![None; count];
            for (part, place) in parts.iter().zip(&places) {
                let slot = kept.get_mut(of(place))?;
                if slot.is_some_and(|held| held != *part) {
                    return None;
                }
                *slot = Some(part);
            }
            Some(kept.into_iter().flatten().flatten().copied().collect())
        };
        let add = |to: &mut Vec<f32>, values: Vec<f32>| {
            to.resize(values.len(), 0.0);
            to.iter_mut().zip(values).for_each(|(to, value)| *to += value);
        };
        match by(self.heads.heads, |place| place.0) {
            Some(bias) => add(&mut self.bias, bias),
            None => add(&mut self.mask, by(self.heads.count(), |place| place.1)?),
        }
        Some(())
    }
}

impl Lowerer {
    /// Queries times keys, if the axes say so.
    pub(super) fn scores(&self, query: &View, key: &View) -> Option<Tensor> {
        let (outer, tokens, channels) = last_two(query)?;
        let (key_outer, key_channels, key_tokens) = last_two(key)?;
        let head = head_of(channels, &query.shape)?;
        let heads = Heads::of(outer, tokens, &query.shape, head)?;
        let is_apart = heads.groups == [1, 1] && !outer.is_empty() && query.roll == [0; 2];
        let fits = head_of(key_channels, &key.shape) == Some(head)
            && Heads::of(key_outer, key_tokens, &key.shape, head) == Some(heads)
            && query.dims()[..outer.len()] == key.dims()[..key_outer.len()]
            && order(outer, &query.shape) == order(key_outer, &key.shape)
            && (query.shape == key.shape || is_apart)
            && key.shape.pixels() > 1
            && query.roll == key.roll
            && [query.pads, key.pads] == [[0; 4]; 2];
        let mut dims = query.dims();
        *dims.last_mut()? = size_of(key, key_tokens);
        let scale = query.factor * key.factor;
        let (query, key) = (query.clone(), key.clone());
        let (bias, mask, is_softmax) = (Vec::new(), Vec::new(), false);
        let scores = Scores { query, key, heads, dims, scale, bias, mask, is_softmax };
        fits.then(|| Tensor::Scores(Box::new(scores)))
    }

    /// The softmax of scores over their last axis.
    pub(super) fn softmax_of(&self, node: &NodeProto, scores: &Scores) -> Result<Tensor, Refused> {
        let rank = scores.dims.len() as i64;
        // Before operator set 13 it was over all axes from this one on, which is the same for the last.
        let axis = Attributes(node).int("axis", if self.opset < 13 { 1 } else { -1 });
        let keys = scores.key.shape.pixels() / scores.heads.count();
        let is_last = (axis == -1 || axis == rank - 1) && scores.dims.last() == Some(&keys);
        if scores.is_softmax || !is_last {
            return Err(format!("it is not over the last axis of {:?}", scores.dims()));
        }
        Ok(Tensor::Scores(Box::new(Scores { is_softmax: true, ..scores.clone() })))
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
        let value_head = head_of(channels, &value.shape).ok_or_else(refuse)?;
        let (query, key, heads) = (&scores.query, &scores.key, scores.heads);
        let (own, own_tokens, own_channels) = last_two(query).ok_or_else(refuse)?;
        let head = head_of(own_channels, &query.shape).ok_or_else(refuse)?;
        let sides = |shape: Shape| (shape.height, shape.width);
        let fits = scores.is_softmax
            && Heads::of(outer, tokens, &value.shape, value_head) == Some(heads)
            && order(outer, &value.shape) == order(own, &query.shape)
            && sides(value.shape) == sides(key.shape)
            && value.dims()[..outer.len()] == scores.dims[..scores.dims.len() - 2]
            && value.factor == 1.0
            && value.roll == query.roll
            && value.pads == [0; 4];
        if !fits {
            return Err(refuse());
        }
        let views = [query, key, value];
        let layer = AttentionLayer {
            first: views.map(|view| view.first),
            heads: heads.heads,
            head,
            value_head,
            scale: scores.scale,
            groups: heads.groups,
            is_near: heads.is_near,
            shift: query.roll,
            bias: scores.bias.clone(),
            mask: scores.mask.clone(),
        };
        let inputs = views.map(|view| view.value).to_vec();
        let shape = Shape { channels: value.shape.channels, ..query.shape };
        let mut axes = value.axes.clone();
        axes[outer.len()] = own_tokens;
        let output = self.net.push(&super::label(node), Kind::Attention(layer), inputs, shape);
        Ok(Tensor::View(View { roll: query.roll, ..View::new(output, shape, axes) }))
    }
}

/// Elements along an axis of a view.
pub(super) fn size_of(view: &View, axis: Axis) -> usize {
    super::super::view::size(&view.shape, axis)
}
