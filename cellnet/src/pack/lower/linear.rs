//! Convolutions, dense layers, matrix products and batch norm.

use rten_onnx::onnx::NodeProto;

use super::super::constant::Constant;
use super::super::net::{ConvLayer, Kind, Moving, Shape, SumsLayer};
use super::super::parts::{Along, parts_of};
use super::super::source::Attributes;
use super::super::view::{Axis, View, in_words};
use super::windows::moving;
use super::{Lowerer, Refused, Tensor};
use crate::plan::Activation;

/// A constant matrix `[rows][columns]`.
#[derive(Clone)]
struct Matrix {
    rows: usize,
    columns: usize,
    values: Vec<f32>,
    is_half: bool,
}

impl Matrix {
    fn new(constant: &Constant, transposed: bool) -> Option<Self> {
        let long: Vec<usize> = constant.dims.clone();
        let [ones @ .., rows, columns] = long.as_slice() else { return None };
        if ones.iter().any(|d| *d != 1) {
            return None;
        }
        let (values, is_half) = (constant.to_floats(), constant.is_half);
        let matrix = Self { rows: *rows, columns: *columns, values, is_half };
        Some(if transposed { matrix.transposed() } else { matrix })
    }

    fn transposed(&self) -> Self {
        let mut values = Vec::with_capacity(self.values.len());
        for c in 0..self.columns {
            values.extend((0..self.rows).map(|r| self.values[r * self.columns + c]));
        }
        Self { rows: self.columns, columns: self.rows, values, is_half: self.is_half }
    }
}

impl Lowerer {
    pub(super) fn conv(&mut self, node: &NodeProto) -> Result<Tensor, Refused> {
        let view = self.padded_view(node, 0)?;
        let bias = self.maybe_floats(node, 2)?;
        if let Some((view, weights, sums)) = self.on_integers(node, &view) {
            return self.convolution(node, &view, &weights, bias, Some(sums));
        }
        if let Some(tensor) = self.conv_along_channels(node, &view, bias.as_deref())? {
            return Ok(tensor);
        }
        let weights = self.constant(node, 1)?.clone();
        self.convolution(node, &view, &weights, bias, None)
    }

    /// A convolution of `view`, with window and groups from the node's attributes.
    pub(super) fn convolution(
        &mut self,
        node: &NodeProto,
        view: &View,
        weights: &Constant,
        bias: Option<Vec<f32>>,
        sums: Option<SumsLayer>,
    ) -> Result<Tensor, Refused> {
        if !view.is_channels_first() {
            return Err(format!("its input's axes are {}", in_words(&view.axes)));
        }
        let [outputs, group_inputs, ky, kx] = *weights.dims.as_slice() else {
            return Err(format!("its weights are {:?}", weights.dims));
        };
        let (weights, is_half) = (weights.to_floats(), weights.is_half);
        let groups = usize::try_from(Attributes(node).int("group", 1)).unwrap_or(0);
        let channels = groups.checked_mul(group_inputs) == Some(view.shape.channels);
        if !channels || groups == 0 || !outputs.is_multiple_of(groups) || ky * kx == 0 {
            let shape = [outputs, group_inputs, ky, kx];
            return Err(format!(
                "{groups} groups of {shape:?} on {} channels",
                view.shape.channels
            ));
        }
        let bias = bias.unwrap_or_else(|| vec![0.0; outputs]);
        if bias.len() != outputs {
            return Err(format!("{} biases for {outputs} outputs", bias.len()));
        }
        let (mut moving, [height, width]) = moving(node, view, [ky, kx])?;
        for (pad, more) in moving.pads.iter_mut().zip(view.pads) {
            *pad += more;
        }
        let shape = Shape { height, width, channels: outputs };
        let layer = conv_layer(moving, groups, group_inputs, weights, bias);
        let layer = ConvLayer { sums, is_half, ..layer };
        let value = self.net.push(&super::label(node), Kind::Conv(layer), vec![view.value], shape);
        Ok(Tensor::View(view.with(value, shape)))
    }

    /// `x · weights + bias` over the channels of every pixel; the matrix is `[outputs][inputs]`.
    fn dense(
        &mut self,
        node: &NodeProto,
        view: &View,
        matrix: Matrix,
        bias: Option<Vec<f32>>,
    ) -> Result<View, Refused> {
        let (outputs, is_half) = (matrix.rows, matrix.is_half);
        let bias = match bias {
            Some(bias) if bias.len() == 1 => vec![bias[0]; outputs],
            Some(bias) if bias.len() != outputs => {
                return Err(format!("{} biases for {outputs} outputs", bias.len()));
            }
            Some(bias) => bias,
            None => vec![0.0; outputs],
        };
        let shape = Shape { channels: outputs, ..view.shape };
        let layer = conv_layer(Moving::POINT, 1, view.shape.channels, matrix.values, bias);
        let layer = ConvLayer { is_half, ..layer };
        let value = self.net.push(&super::label(node), Kind::Conv(layer), vec![view.value], shape);
        Ok(view.with(value, shape))
    }

    /// A dense layer of our own over the channels of every pixel, weights `[outputs][inputs]`.
    pub(super) fn dense_pixels(
        &mut self,
        node: &NodeProto,
        view: &View,
        values: Vec<f32>,
    ) -> Result<View, Refused> {
        let columns = view.shape.channels;
        let rows = values.len() / columns.max(1);
        self.dense(node, view, Matrix { rows, columns, values, is_half: false }, None)
    }

    /// A dense layer over all elements of a map: a convolution whose kernel is as large as the map.
    fn flattened(
        &mut self,
        node: &NodeProto,
        view: &View,
        matrix: Matrix,
        bias: &Option<Vec<f32>>,
    ) -> Result<Option<View>, Refused> {
        let [ones @ .., last] = view.axes.as_slice() else { return Ok(None) };
        let Axis::Split(_) = *last else { return Ok(None) };
        let shape = view.shape;
        let elements = shape.pixels() * shape.channels;
        let parts = parts_of(*last, &shape);
        let fits = ones.iter().all(|axis| *axis == Axis::One)
            && parts.iter().map(|part| part.size).product::<usize>() == elements
            && matrix.columns == elements
            && view.roll == [0; 2]
            && shape.height.max(shape.width) <= 255;
        if !fits {
            return Ok(None);
        }
        let outputs = matrix.rows;
        let mut weights = vec![0.0; matrix.values.len()];
        for element in 0..elements {
            let (mut left, mut channel, mut pixel) = (element, 0, 0);
            for part in parts.iter().rev() {
                let steps = left % part.size * part.step;
                left /= part.size;
                match part.along {
                    Along::Channels => channel += steps,
                    Along::Pixels => pixel += steps,
                }
            }
            let to = channel * shape.pixels() + pixel;
            for output in 0..outputs {
                weights[output * elements + to] = matrix.values[output * elements + element];
            }
        }
        let bias = bias.clone().unwrap_or_else(|| vec![0.0; outputs]);
        if bias.len() != outputs {
            return Err(format!("{} biases for {outputs} outputs", bias.len()));
        }
        let moving = Moving { kernel: [shape.height, shape.width], ..Moving::POINT };
        let layer = conv_layer(moving, 1, shape.channels, weights, bias);
        let layer = ConvLayer { is_half: matrix.is_half, ..layer };
        let shape = Shape::vector(outputs);
        let value = self.net.push(&super::label(node), Kind::Conv(layer), vec![view.value], shape);
        let mut axes = view.axes.clone();
        if let Some(last) = axes.last_mut() {
            *last = Axis::Channel;
        }
        Ok(Some(View::new(value, shape, axes)))
    }

    pub(super) fn gemm(&mut self, node: &NodeProto) -> Result<Tensor, Refused> {
        let attributes = Attributes(node);
        let (alpha, beta) = (attributes.float("alpha", 1.0), attributes.float("beta", 1.0));
        let flips = [attributes.int("transA", 0) != 0, attributes.int("transB", 0) != 0];
        let bias = self.maybe_floats(node, 2)?;
        let bias = bias.map(|b| b.into_iter().map(|v| v * beta).collect::<Vec<_>>());
        self.product(node, flips, alpha, bias)
    }

    pub(super) fn mat_mul(&mut self, node: &NodeProto) -> Result<Tensor, Refused> {
        self.product(node, [false, false], 1.0, None)
    }

    /// `alpha · A · B + bias`, with one constant side or none.
    fn product(
        &mut self,
        node: &NodeProto,
        flips: [bool; 2],
        alpha: f32,
        bias: Option<Vec<f32>>,
    ) -> Result<Tensor, Refused> {
        let refuse = || "its weights are not a matrix".to_owned();
        let scaled = |m: Matrix| {
            let values = m.values.iter().map(|v| v * alpha).collect();
            Matrix { values, ..m }
        };
        let flipped = |view: View, flip: bool| {
            let rank = view.axes.len();
            let mut perm: Vec<usize> = (0..rank).collect();
            if flip && rank >= 2 {
                perm.swap(rank - 1, rank - 2);
            }
            view.transpose(&perm).unwrap_or(view)
        };
        self.copy_cuts(node)?;
        match (self.tensor(node, 0)?.clone(), self.tensor(node, 1)?.clone()) {
            (Tensor::View(a), Tensor::Constant(b)) => {
                let a = flipped(self.whole(node, a), flips[0]);
                let a = self.unfolded(node, a)?;
                let b = Matrix::new(&b, flips[1]).ok_or_else(refuse)?.transposed();
                if let Some(view) = self.flattened(node, &a, scaled(b.clone()), &bias)? {
                    return Ok(Tensor::View(view));
                }
                check_inner(&a, a.axes.last().copied(), b.columns)?;
                let mut view = self.dense(node, &a, scaled(b), bias)?;
                if let Some(last) = view.axes.last_mut() {
                    *last = Axis::Channel;
                }
                Ok(Tensor::View(view))
            }
            (Tensor::Constant(a), Tensor::View(b)) if bias.is_none() => {
                let b = flipped(self.whole(node, b), flips[1]);
                let a = Matrix::new(&a, flips[0]).ok_or_else(refuse)?;
                let inner = b.axes.len().checked_sub(2);
                let inner = inner.ok_or_else(refuse)?;
                check_inner(&b, b.axes.get(inner).copied(), a.columns)?;
                let mut view = self.dense(node, &b, scaled(a), None)?;
                view.axes[inner] = Axis::Channel;
                Ok(Tensor::View(view))
            }
            (Tensor::View(a), Tensor::View(b)) if bias.is_none() && alpha == 1.0 => {
                let (a, b) = (flipped(a, flips[0]), flipped(b, flips[1]));
                if let Some(scores) = self.scores(&a, &b) {
                    return Ok(scores);
                }
                let (a, b) = (self.whole(node, a), self.whole(node, b));
                if let Some(map) = self.product_by_heads(node, &a, &b) {
                    return Ok(Tensor::View(map));
                }
                if let Some(map) = self.numbers_by_heads(node, &a, &b)? {
                    return Ok(Tensor::View(map));
                }
                self.computed(node, &a, &b)
            }
            (Tensor::Scores(scores), Tensor::View(value)) => self.attend(node, &scores, &value),
            _ => Err("its bias or factor is not supported".to_owned()),
        }
    }

    /// The product of two computed sides: `[rows, channels] · [channels, pixels]`.
    fn computed(&mut self, node: &NodeProto, a: &View, b: &View) -> Result<Tensor, Refused> {
        let rows = a.shape.pixels();
        let fits = a.shape.channels == b.shape.channels
            && a.dims() == [rows, a.shape.channels]
            && a.axes.last() == Some(&Axis::Channel)
            && b.dims() == [b.shape.channels, b.shape.pixels()]
            && b.axes.first() == Some(&Axis::Channel);
        let is_plain = |view: &View| !view.is_split() && view.pads == [0; 4] && view.roll == [0; 2];
        if !fits || !is_plain(a) || !is_plain(b) {
            return Err(format!(
                "a product of computed {} and {}",
                in_words(&a.axes),
                in_words(&b.axes)
            ));
        }
        let shape = Shape { channels: rows, ..b.shape };
        let inputs = vec![a.value, b.value];
        let value = self.net.push(&super::label(node), Kind::Product, inputs, shape);
        Ok(Tensor::View(b.with(value, shape)))
    }

    pub(super) fn batch_norm(&mut self, node: &NodeProto) -> Result<Tensor, Refused> {
        let view = self.view(node, 0)?;
        if !matches!(view.axes.get(1), Some(Axis::Channel)) && view.shape.channels != 1 {
            return Err(format!("its input's axes are {}", in_words(&view.axes)));
        }
        let mut parts = Vec::new();
        for i in 1..5 {
            let values = self.constant(node, i)?.to_floats();
            if values.len() != view.shape.channels {
                return Err(format!(
                    "{} values for {} channels",
                    values.len(),
                    view.shape.channels
                ));
            }
            parts.push(values);
        }
        let epsilon = f64::from(Attributes(node).float("epsilon", 1e-5));
        let (mut scale, mut bias) = (Vec::new(), Vec::new());
        let [gamma, beta, mean, variance] = parts.as_slice() else { return Ok(Tensor::View(view)) };
        for (((gamma, beta), mean), variance) in gamma.iter().zip(beta).zip(mean).zip(variance) {
            let [gamma, beta, mean, variance] =
                [gamma, beta, mean, variance].map(|v| f64::from(*v));
            let factor = gamma / (variance + epsilon).sqrt();
            scale.push(factor as f32);
            bias.push((beta - mean * factor) as f32);
        }
        Ok(Tensor::View(self.affine(&super::label(node), &view, scale, bias, Activation::None)))
    }
}

/// Checks that a product runs over the channels, and that the matrix has as many rows.
fn check_inner(view: &View, axis: Option<Axis>, inner: usize) -> Result<(), Refused> {
    let channels = view.shape.channels;
    let over = axis == Some(Axis::Channel) || (channels == 1 && axis == Some(Axis::One));
    if over && channels == inner && view.pads == [0; 4] {
        return Ok(());
    }
    let axes = in_words(&view.axes);
    Err(format!("{axes} of {:?} against {inner} rows of weights", view.dims()))
}

pub(super) fn conv_layer(
    moving: Moving,
    groups: usize,
    group_inputs: usize,
    weights: Vec<f32>,
    bias: Vec<f32>,
) -> ConvLayer {
    ConvLayer {
        moving,
        groups,
        group_inputs,
        outputs: bias.len(),
        weights,
        is_half: false,
        bias,
        sums: None,
        residual: None,
        activation: Activation::None,
        activate_last: false,
        means: None,
    }
}
