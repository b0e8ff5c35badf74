//! Elementwise operators with one, two and three operands.

use rten_onnx::onnx::{DataType, NodeProto};

use super::super::constant::Constant;
use super::super::net::{Arg, Kind, NetTensor, Shape};
use super::super::source::Attributes;
use super::super::view::{Axis, View, in_words, size};
use super::{Lowerer, Refused, Tensor};
use crate::plan::{Activation, BinaryOp, Dtype};

impl Lowerer {
    pub(super) fn unary(&mut self, node: &NodeProto, op: &str) -> Result<Tensor, Refused> {
        let attributes = Attributes(node);
        let activation = match op {
            "Relu" => Activation::RELU,
            "Clip" => {
                let bound = |i: usize, name: &str, default: f32| -> Result<f32, Refused> {
                    let given = self.maybe_floats(node, i)?.and_then(|v| v.first().copied());
                    Ok(given.or(attributes.maybe_float(name)).unwrap_or(default))
                };
                let low = bound(1, "min", f32::NEG_INFINITY)?;
                Activation::Clip { low, high: bound(2, "max", f32::INFINITY)? }
            }
            "Sigmoid" => Activation::Sigmoid,
            "HardSigmoid" => Activation::HardSigmoid {
                alpha: attributes.float("alpha", 0.2),
                beta: attributes.float("beta", 0.5),
            },
            "HardSwish" => Activation::HardSwish,
            "Swish" if attributes.float("alpha", 1.0) == 1.0 => Activation::Silu,
            "Gelu" if !matches!(attributes.text("approximate"), "" | "none") => {
                return Err("its approximation is not supported".to_owned());
            }
            "Gelu" => Activation::Gelu,
            "Erf" => Activation::Erf,
            "Tanh" => Activation::Tanh,
            "Exp" => Activation::Exp,
            "Abs" => Activation::Abs,
            "Sqrt" => Activation::Sqrt,
            "Reciprocal" => Activation::Reciprocal,
            "LeakyRelu" => Activation::LeakyRelu { slope: attributes.float("alpha", 0.01) },
            "Elu" => Activation::Elu { alpha: attributes.float("alpha", 1.0), scale: 1.0 },
            // ONNX's defaults, those of the paper (Klambauer et al., 2017).
            "Selu" => Activation::Elu {
                alpha: attributes.float("alpha", 1.673_263_2),
                scale: attributes.float("gamma", 1.050_701),
            },
            "Neg" | "Not" => Activation::None,
            _ => return Err("the engine does not support it".to_owned()),
        };
        let view = self.rolled_view(node, 0)?;
        let channels = view.shape.channels;
        let (scale, bias) = match op {
            "Neg" => (vec![-1.0; channels], Vec::new()),
            "Not" => (vec![-1.0; channels], vec![1.0; channels]),
            _ => (Vec::new(), Vec::new()),
        };
        Ok(Tensor::View(self.affine(&super::label(node), &view, scale, bias, activation)))
    }

    /// `PRelu`, a slope for each channel or pixel: `max(x, 0) + slope · min(x, 0)`.
    pub(super) fn prelu(&mut self, node: &NodeProto) -> Result<Tensor, Refused> {
        let label = super::label(node);
        let (view, slope) = (self.view(node, 0)?, self.tensor(node, 1)?.clone());
        let slope = self.whole_tensor(node, slope);
        let mut half = |activation| self.affine(&label, &view, vec![], vec![], activation);
        let above = half(Activation::RELU);
        let below = half(Activation::Clip { low: f32::NEG_INFINITY, high: 0.0 });
        let below = self.apply(&label, BinaryOp::Mul, (Tensor::View(below), slope))?;
        self.apply(&label, BinaryOp::Add, (Tensor::View(above), below))
    }

    /// `Cast`. Every number is a float32 here, so another float type changes nothing but the rounding that it
    /// would do; an integer type would cut fractions off.
    pub(super) fn cast(&mut self, node: &NodeProto) -> Result<Tensor, Refused> {
        const INTEGERS: [DataType; 8] = [
            DataType::UINT8,
            DataType::INT8,
            DataType::UINT16,
            DataType::INT16,
            DataType::INT32,
            DataType::INT64,
            DataType::UINT32,
            DataType::UINT64,
        ];
        let to = Attributes(node).int("to", 1);
        let cuts = INTEGERS.iter().any(|dtype| i64::from(dtype.0) == to);
        if let Tensor::Scores(scores) = self.tensor(node, 0)?
            && !cuts
            && i64::from(DataType::BOOL.0) != to
        {
            return Ok(Tensor::Scores(scores.clone()));
        }
        let view = self.rolled_view(node, 0)?;
        let is_whole = |input: &NetTensor| input.value == view.value && input.dtype == Dtype::U8;
        if cuts && !self.net.inputs.iter().any(is_whole) {
            return Err(format!("it rounds to integers (type {to})"));
        }
        Ok(Tensor::View(view))
    }

    pub(super) fn binary(&mut self, node: &NodeProto) -> Result<Tensor, Refused> {
        let name = node.op_type.as_deref().unwrap_or_default();
        self.copy_cuts(node)?;
        self.write_scores_beside_maps(node)?;
        let mut sides = (self.tensor(node, 0)?.clone(), self.tensor(node, 1)?.clone());
        if node.input.len() != 2 {
            return Err(format!("{} inputs", node.input.len()));
        }
        let op = match name {
            "Add" | "Sum" => BinaryOp::Add,
            "Sub" => BinaryOp::Sub,
            "Mul" | "And" => BinaryOp::Mul,
            "Div" => BinaryOp::Div,
            "Max" | "Or" => BinaryOp::Max,
            "Min" => BinaryOp::Min,
            "Greater" => BinaryOp::Greater,
            "GreaterOrEqual" => BinaryOp::GreaterOrEqual,
            "Less" => {
                sides = (sides.1, sides.0);
                BinaryOp::Greater
            }
            "LessOrEqual" => {
                sides = (sides.1, sides.0);
                BinaryOp::GreaterOrEqual
            }
            _ => {
                let sides = (self.whole_tensor(node, sides.0), self.whole_tensor(node, sides.1));
                return self.power(node, sides);
            }
        };
        if let Some(scaled) = pending(op, &sides) {
            return Ok(scaled);
        }
        if let (BinaryOp::Mul, (Tensor::Scores(scores), Tensor::Constant(constant)))
        | (BinaryOp::Mul, (Tensor::Constant(constant), Tensor::Scores(scores))) = (op, &sides)
            && let Some(scaled) = self.scaled_heads(node, scores, constant)
        {
            return Ok(scaled);
        }
        let sides = (self.whole_tensor(node, sides.0), self.whole_tensor(node, sides.1));
        let sides = self.repeated_by_head(node, sides)?;
        match self.binary_of_groups(node, op, &sides)? {
            Some(made) => Ok(made),
            None => self.apply(&super::label(node), op, sides),
        }
    }

    fn whole_tensor(&mut self, node: &NodeProto, tensor: Tensor) -> Tensor {
        match tensor {
            Tensor::View(view) => {
                let view = self.whole(node, view);
                // Refused, with its reason, if it is left as it is.
                Tensor::View(self.with_zeros(node, view.clone()).unwrap_or(view))
            }
            other => other,
        }
    }

    fn power(&mut self, node: &NodeProto, sides: (Tensor, Tensor)) -> Result<Tensor, Refused> {
        let label = super::label(node);
        let (Tensor::View(_), Tensor::Constant(exponent)) = &sides else {
            return Err("its exponent is not a constant".to_owned());
        };
        match exponent.single() {
            Some(2.0) => {
                let both = (sides.0.clone(), sides.0);
                self.apply(&label, BinaryOp::Mul, both)
            }
            Some(0.5) => {
                let view = self.view(node, 0)?;
                let none = Vec::new();
                Ok(Tensor::View(self.affine(&label, &view, none.clone(), none, Activation::Sqrt)))
            }
            other => Err(format!("exponent {other:?}")),
        }
    }

    /// `op` of two tensors, at least one of which is not constant.
    pub(super) fn apply(
        &mut self,
        label: &str,
        op: BinaryOp,
        sides: (Tensor, Tensor),
    ) -> Result<Tensor, Refused> {
        match sides {
            (Tensor::Scores(scores), Tensor::Constant(constant))
                if matches!(op, BinaryOp::Add | BinaryOp::Sub) =>
            {
                let mut scores = scores;
                scores.add(&constant, if op == BinaryOp::Sub { -1.0 } else { 1.0 })?;
                Ok(Tensor::Scores(scores))
            }
            (Tensor::Constant(constant), Tensor::Scores(scores)) if op == BinaryOp::Add => {
                let mut scores = scores;
                scores.add(&constant, 1.0)?;
                Ok(Tensor::Scores(scores))
            }
            (Tensor::Scores(_), _) | (_, Tensor::Scores(_)) => {
                Err("it joins attention's scores with computed values, or multiplies them by more \
                     than one number"
                    .to_owned())
            }
            (Tensor::View(a), Tensor::View(b)) => {
                let (axes, shape) = joined(&a, &b)?;
                let args = (Arg::Value(a.value), Arg::Value(b.value));
                let roll = if a.shape.pixels() > 1 { a.roll } else { b.roll };
                let like = View { roll, ..View::new(0, shape, axes) };
                Ok(self.pushed(label, op, args, like))
            }
            (Tensor::View(a), Tensor::Constant(b)) => {
                if let Some(clip) = self.bounded(label, op, &a, &b) {
                    return Ok(clip);
                }
                let (axes, shape, constant) = aligned(&a, &b)?;
                if let Some(affine) = as_affine(op, &constant, shape, a.shape, false) {
                    return Ok(self.scaled(label, &a, affine));
                }
                let (shape_b, values) = constant;
                let args = (Arg::Value(a.value), Arg::Constant { shape: shape_b, values });
                let like = View { roll: a.roll, ..View::new(0, shape, axes) };
                Ok(self.pushed(label, op, args, like))
            }
            (Tensor::Constant(a), Tensor::View(b)) => {
                if let Some(clip) = self.bounded(label, op, &b, &a) {
                    return Ok(clip);
                }
                let (axes, shape, constant) = aligned(&b, &a)?;
                if let Some(affine) = as_affine(op, &constant, shape, b.shape, true) {
                    return Ok(self.scaled(label, &b, affine));
                }
                let (shape_a, values) = constant;
                let args = (Arg::Constant { shape: shape_a, values }, Arg::Value(b.value));
                let like = View { roll: b.roll, ..View::new(0, shape, axes) };
                Ok(self.pushed(label, op, args, like))
            }
            (Tensor::Constant(_), Tensor::Constant(_)) => {
                Err("both sides are constants".to_owned())
            }
            _ => {
                Err("a side is of groups of channels, or part of a dynamic quantization".to_owned())
            }
        }
    }

    /// A clip with one bound: a minimum or maximum with a constant.
    fn bounded(
        &mut self,
        label: &str,
        op: BinaryOp,
        view: &View,
        constant: &Constant,
    ) -> Option<Tensor> {
        let bound = constant.single()?;
        let activation = match op {
            BinaryOp::Max => Activation::Clip { low: bound, high: f32::INFINITY },
            BinaryOp::Min => Activation::Clip { low: f32::NEG_INFINITY, high: bound },
            _ => return None,
        };
        let fits = constant.dims.len() <= view.axes.len() && view.pads == [0; 4];
        fits.then(|| Tensor::View(self.affine(label, view, Vec::new(), Vec::new(), activation)))
    }

    fn scaled(&mut self, label: &str, view: &View, (scale, bias): (Vec<f32>, Vec<f32>)) -> Tensor {
        Tensor::View(self.affine(label, view, scale, bias, Activation::None))
    }

    fn pushed(&mut self, label: &str, op: BinaryOp, (a, b): (Arg, Arg), like: View) -> Tensor {
        let kind = Kind::Binary { op, a, b, activation: Activation::None };
        let value = self.net.push(label, kind, Vec::new(), like.shape);
        Tensor::View(like.with(value, like.shape))
    }

    /// `condition ? yes : no`, as `condition · yes + (1 - condition) · no`; the condition is 0 or 1.
    pub(super) fn choice(&mut self, node: &NodeProto) -> Result<Tensor, Refused> {
        let label = super::label(node);
        let condition = self.view(node, 0)?;
        let (yes, no) = (self.tensor(node, 1)?.clone(), self.tensor(node, 2)?.clone());
        let ones = vec![1.0; condition.shape.channels];
        let minus = vec![-1.0; condition.shape.channels];
        let (yes, no) = (self.whole_tensor(node, yes), self.whole_tensor(node, no));
        let otherwise =
            Tensor::View(self.affine(&label, &condition, minus, ones, Activation::None));
        let yes = self.apply(&label, BinaryOp::Mul, (Tensor::View(condition), yes))?;
        let no = self.apply(&label, BinaryOp::Mul, (otherwise, no))?;
        self.apply(&label, BinaryOp::Add, (yes, no))
    }
}

/// Axes and shape of two computed tensors under broadcasting.
fn joined(a: &View, b: &View) -> Result<(Vec<Axis>, Shape), Refused> {
    let refuse = || {
        let (of_a, of_b) = (in_words(&a.axes), in_words(&b.axes));
        format!("{of_a} of {:?} against {of_b} of {:?}", a.dims(), b.dims())
    };
    if a.pads != [0; 4] || b.pads != [0; 4] {
        return Err(super::PADDED.to_owned());
    }
    if a.roll != b.roll && a.shape.pixels() > 1 && b.shape.pixels() > 1 {
        return Err(super::MOVED.to_owned());
    }
    let rank = a.axes.len().max(b.axes.len());
    let (mut axes, mut dims) = (Vec::new(), Vec::new());
    for i in 0..rank {
        let at = |v: &View| -> (Axis, usize) {
            let missing = rank - v.axes.len();
            let axis = if i < missing { Axis::One } else { v.axes[i - missing] };
            (axis, size(&v.shape, axis))
        };
        let ((x, n), (y, m)) = (at(a), at(b));
        dims.push(n.max(m));
        axes.push(match (n, m) {
            (1, 1) => {
                if x == Axis::One {
                    y
                } else {
                    x
                }
            }
            (1, _) => y,
            (_, 1) => x,
            _ if x == y && n == m => x,
            _ => return Err(refuse()),
        });
    }
    let shape = Shape {
        height: a.shape.height.max(b.shape.height),
        width: a.shape.width.max(b.shape.width),
        channels: a.shape.channels.max(b.shape.channels),
    };
    Ok((of_lengths(&axes, &dims, &shape).ok_or_else(refuse)?, shape))
}

/// The axes, if those of a map of this shape have these lengths. An axis of length one may have been named by
/// one that is longer now.
fn of_lengths(axes: &[Axis], dims: &[usize], shape: &Shape) -> Option<Vec<Axis>> {
    let settled = |(axis, dim): (&Axis, &usize)| match size(shape, *axis) == *dim {
        true => Some(*axis),
        false => (*dim == 1).then_some(Axis::One),
    };
    axes.iter().zip(dims).map(settled).collect()
}

/// A number times attention's scores, queries or keys, which takes no layer of its own.
fn pending(op: BinaryOp, sides: &(Tensor, Tensor)) -> Option<Tensor> {
    let (tensor, constant) = match (op, sides) {
        (BinaryOp::Mul, (Tensor::Constant(constant), tensor))
        | (BinaryOp::Mul | BinaryOp::Div, (tensor, Tensor::Constant(constant))) => {
            (tensor, constant)
        }
        _ => return None,
    };
    let factor = constant.single()?;
    let factor = if op == BinaryOp::Div { 1.0 / factor } else { factor };
    match tensor {
        Tensor::Scores(scores) => {
            let mut scores = scores.clone();
            scores.scale(factor).then_some(Tensor::Scores(scores))
        }
        Tensor::View(view) if view.is_split() && constant.dims.len() <= view.axes.len() => {
            let mut view = view.clone();
            view.factor *= factor;
            Some(Tensor::View(view))
        }
        _ => None,
    }
}

/// A constant's shape on the map and its values in the map's order.
type OnMap = (Shape, Vec<f32>);

/// A constant's values in the order of a map of this shape; `strides` are its steps from row to row, from
/// column to column and from channel to channel.
fn on_map(shape: Shape, strides: [usize; 3], constant: &Constant) -> Vec<f32> {
    let given = constant.to_floats();
    let mut values = Vec::with_capacity(given.len());
    for y in 0..shape.height {
        for x in 0..shape.width {
            let pixel = y * strides[0] + x * strides[1];
            let of_pixel = (0..shape.channels).map(|c| given.get(pixel + c * strides[2]).copied());
            values.extend(of_pixel.map(|value| value.unwrap_or(0.0)));
        }
    }
    values
}

/// Axes and shape of a computed tensor and a constant under broadcasting, and the constant on that map.
fn aligned(view: &View, constant: &Constant) -> Result<(Vec<Axis>, Shape, OnMap), Refused> {
    let refuse = || {
        let axes = in_words(&view.axes);
        format!("{axes} of {:?} against a constant of {:?}", view.dims(), constant.dims)
    };
    if view.pads != [0; 4] {
        return Err(super::PADDED.to_owned());
    }
    let rank = view.axes.len().max(constant.dims.len());
    let is_one_channel = view.shape.channels == 1 && !view.axes.contains(&Axis::Channel);
    let is_map = view.shape.pixels() > 1;
    let mut shape = view.shape;
    let mut own = Shape::vector(1);
    let (mut axes, mut dims, mut strides) = (Vec::new(), Vec::new(), [0usize; 3]);
    for i in 0..rank {
        let missing = rank - view.axes.len();
        let axis = if i < missing { Axis::One } else { view.axes[i - missing] };
        let short = rank - constant.dims.len();
        let dim = if i < short { 1 } else { constant.dims[i - short] };
        let stride = constant.dims.iter().skip((i + 1).saturating_sub(short)).product();
        let have = size(&view.shape, axis);
        let axis = match (axis, dim) {
            (axis, 1) => axis,
            (axis, dim) if have == dim => axis,
            // The computed side is repeated: along its only channel, or along a new axis.
            (Axis::Channel, _) if have == 1 => Axis::Channel,
            (_, _) if have == 1 && is_one_channel && (i + 1 == rank || is_map) => Axis::Channel,
            (_, _) if have == 1 && shape.height == 1 => Axis::Height,
            (_, _) if have == 1 && shape.width == 1 => Axis::Width,
            _ => return Err(refuse()),
        };
        if dim > 1 {
            match axis {
                Axis::Channel => (own.channels, strides[2]) = (dim, stride),
                Axis::Height => (own.height, strides[0]) = (dim, stride),
                Axis::Width => (own.width, strides[1]) = (dim, stride),
                Axis::Pixels => {
                    (own.height, own.width) = (view.shape.height, view.shape.width);
                    (strides[0], strides[1]) = (stride * view.shape.width, stride);
                }
                Axis::One | Axis::Split(_) => return Err(refuse()),
            }
        }
        axes.push(axis);
        dims.push(have.max(dim));
    }
    shape.height = shape.height.max(own.height);
    shape.width = shape.width.max(own.width);
    shape.channels = shape.channels.max(own.channels);
    let axes = of_lengths(&axes, &dims, &shape).ok_or_else(refuse)?;
    if view.roll != [0; 2] && own.pixels() > 1 {
        return Err(super::MOVED.to_owned());
    }
    let values = on_map(own, strides, constant);
    Ok((axes, shape, (own, values)))
}

/// Scale and bias for each channel, if the operation is equivalent to them.
fn as_affine(
    op: BinaryOp,
    (own, values): &OnMap,
    result: Shape,
    view: Shape,
    constant_first: bool,
) -> Option<(Vec<f32>, Vec<f32>)> {
    if own.pixels() != 1 || result != view {
        return None;
    }
    let channels = view.channels;
    let each: Vec<f32> =
        (0..channels).map(|c| values[if own.channels == 1 { 0 } else { c }]).collect();
    match (op, constant_first) {
        (BinaryOp::Add, _) => Some((Vec::new(), each)),
        (BinaryOp::Mul, _) => Some((each, Vec::new())),
        (BinaryOp::Sub, false) => Some((Vec::new(), each.into_iter().map(|v| -v).collect())),
        (BinaryOp::Sub, true) => Some((vec![-1.0; channels], each)),
        (BinaryOp::Div, false) if each.iter().all(|v| *v != 0.0) => {
            Some((each.into_iter().map(|v| 1.0 / v).collect(), Vec::new()))
        }
        _ => None,
    }
}
