//! Attention of a single query, such as a class token, with its scores as a map: a pixel for each head, a
//! channel for each key. The derivative of a heatmap reads them.

use rten_onnx::onnx::NodeProto;

use super::super::net::{Arg, Kind, Moving, Shape};
use super::super::parts::{Along, Part, parts_of};
use super::super::view::{Axis, View};
use super::attention::{Heads, Scores, head_of, last_two, size_of};
use super::norms::{groups_of_channels, members};
use super::{Lowerer, Refused, Tensor};
use crate::plan::{Activation, BinaryOp};

impl Lowerer {
    /// Writes the scores of a single query that an operator of two sides reads beside a map, for it and all
    /// their readers.
    pub(super) fn write_scores_beside_maps(&mut self, node: &NodeProto) -> Result<(), Refused> {
        for (own, other) in [(0, 1), (1, 0)] {
            if let (Tensor::Scores(_), Tensor::View(_)) =
                (self.tensor(node, own)?, self.tensor(node, other)?)
            {
                self.any_view(node, own)?;
            }
        }
        Ok(())
    }

    /// The scores of a single query, or their softmax, as a map: a pixel for each head, a channel for each
    /// key.
    pub(super) fn shares_of_one(
        &mut self,
        node: &NodeProto,
        scores: &Scores,
    ) -> Result<View, Refused> {
        // The scale holds the factors of both.
        let [query, key] = [&scores.query, &scores.key]
            .map(|view| self.whole(node, View { factor: 1.0, ..view.clone() }));
        let label = super::label(node);
        if scores.query.shape.pixels() != 1 || scores.heads.groups != [1, 1] {
            return Err("it reads attention's scores of more than one query".to_owned());
        }
        let mut map = self
            .product_by_heads(node, &query, &key)
            .filter(|map| map.dims() == scores.dims)
            .ok_or_else(|| format!("scores of {:?}", scores.dims))?;
        let keys = map.shape.channels;
        if scores.scale != 1.0 {
            let scale = vec![scores.scale; keys];
            map = self.affine(&label, &map, scale, Vec::new(), Activation::None);
        }
        for (summands, width) in [(&scores.bias, scores.heads.heads), (&scores.mask, 1)] {
            if !summands.is_empty() {
                let shape = Shape { height: 1, width, channels: keys };
                let constant = Arg::Constant { shape, values: summands.clone() };
                map = self.with_constant(&label, BinaryOp::Add, &map, constant, map.shape);
            }
        }
        if scores.is_softmax {
            let value = self.net.push(&label, Kind::Softmax, vec![map.value], map.shape);
            map = map.with(value, map.shape);
        }
        Ok(map)
    }

    /// `op` of a view and a constant, of `shape`.
    fn with_constant(
        &mut self,
        label: &str,
        op: BinaryOp,
        view: &View,
        constant: Arg,
        shape: Shape,
    ) -> View {
        let (a, activation) = (Arg::Value(view.value), Activation::None);
        let kind = Kind::Binary { op, a, b: constant, activation };
        let value = self.net.push(label, kind, Vec::new(), shape);
        view.with(value, shape)
    }

    /// The product of rows and keys, each head with its own channels: the channels of the other heads are set
    /// to 0 in a pixel for each head, and all channels of these are multiplied. `None` if the axes do not say
    /// so. The rows are those of one query, or of one for each class.
    pub(super) fn product_by_heads(
        &mut self,
        node: &NodeProto,
        rows: &View,
        key: &View,
    ) -> Option<View> {
        let (outer, tokens, channels) = last_two(rows)?;
        let (key_outer, key_channels, key_tokens) = last_two(key)?;
        let head = head_of(channels, &rows.shape).filter(|head| *head > 0)?;
        let heads = Heads::of(key_outer, key_tokens, &key.shape, head)?;
        let is_heads = |axis: &Axis| match parts_of(*axis, &rows.shape).as_slice() {
            [] => heads.heads == 1,
            parts => parts == [Part { along: Along::Channels, size: heads.heads, step: head }],
        };
        // One head has an axis of length one, the last of those.
        let at = outer.iter().rposition(is_heads)?;
        let others = outer.iter().enumerate().filter(|(index, _)| *index != at);
        let plain = |view: &View| view.pads == [0; 4] && view.roll == [0; 2] && view.first == 0;
        let fits = heads.groups == [1, 1]
            && head_of(key_channels, &key.shape) == Some(head)
            && key_outer
                .get((at + key_outer.len()).checked_sub(outer.len())?)
                .is_some_and(is_heads)
            && rows.shape.channels == key.shape.channels
            && rows.shape.width == 1
            && size_of(rows, tokens) == 1
            && others
                .into_iter()
                .all(|(_, axis)| *axis == Axis::Height || size_of(rows, *axis) == 1)
            && plain(rows)
            && plain(key);
        if !fits {
            return None;
        }
        let label = super::label(node);
        let spread = Shape { width: heads.heads, ..rows.shape };
        let own = Shape { height: 1, width: heads.heads, channels: rows.shape.channels };
        let values = members(heads.heads, head, 1.0);
        let constant = Arg::Constant { shape: own, values };
        let spread = self.with_constant(&label, BinaryOp::Mul, rows, constant, spread);
        let shape = Shape { channels: key.shape.pixels(), ..spread.shape };
        let inputs = vec![key.value, spread.value];
        let value = self.net.push(&label, Kind::Product, inputs, shape);
        let mut axes: Vec<Axis> = rows.axes.clone();
        axes[at] = Axis::Width;
        axes[outer.len()] = Axis::One;
        axes[outer.len() + 1] = Axis::Channel;
        Some(View::new(value, shape, axes))
    }

    /// The product of a number for each head and the channels of each head, whose inner dimension is 1.
    /// `None` if the axes do not say so.
    pub(super) fn numbers_by_heads(
        &mut self,
        node: &NodeProto,
        a: &View,
        b: &View,
    ) -> Result<Option<View>, Refused> {
        let is_number = |view: &View| {
            let at = view.axes.iter().position(|axis| *axis == Axis::Width);
            let single = view.shape.channels == 1 && view.shape.width > 1;
            at.filter(|at| single && at + 3 == view.axes.len())
        };
        let ((numbers, at), other) = match (is_number(a), is_number(b)) {
            (Some(at), None) => ((a, at), b),
            (None, Some(at)) => ((b, at), a),
            _ => return Ok(None),
        };
        let heads = numbers.shape.width;
        let Some(own) = other.axes.len().checked_sub(3) else { return Ok(None) };
        let head = other.shape.channels / heads;
        let part = Part { along: Along::Channels, size: heads, step: head };
        let inner = [a.axes.last(), b.axes.get(b.axes.len() - 2)];
        let inner = [(a, inner[0]), (b, inner[1])]
            .map(|(view, axis)| axis.map_or(0, |axis| size_of(view, *axis)));
        let fits = parts_of(other.axes[own], &other.shape) == [part]
            && heads * head == other.shape.channels
            && inner == [1, 1]
            && other.shape.width == 1
            && [numbers.roll, other.roll] == [[0; 2]; 2];
        if !fits {
            return Ok(None);
        }
        // A number for each channel: a convolution over all heads, which takes the channel's own.
        let (channels, weights) = (other.shape.channels, groups_of_channels(heads, head));
        let moving = Moving { kernel: [1, heads], ..Moving::POINT };
        let layer = super::linear::conv_layer(moving, 1, 1, weights, vec![0.0; channels]);
        let shape = Shape { width: 1, channels, ..numbers.shape };
        let label = super::label(node);
        let value = self.net.push(&label, Kind::Conv(layer), vec![numbers.value], shape);
        let mut axes = numbers.axes.clone();
        axes[at..].copy_from_slice(&other.axes[own..]);
        let spread = View::new(value, shape, axes);
        self.joined_view(&label, BinaryOp::Mul, &spread, other).map(Some)
    }
}
