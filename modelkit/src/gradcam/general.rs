//! The general reverse rules of all operators, for gradients of shape `[S, axes of the tensor]` (see
//! `sheet`).
//!
//! They are used where the closed form of `closed` does not apply: norms, attention, gates, softmax inside
//! the network. A rule takes the gradient of a node's output and returns those of the inputs that depend on
//! the target.

use rten_onnx::onnx::NodeProto;

use super::derivative::{Derivative, derivative};
use super::refusal::Reason;
use super::sheet::{Sheet, Val};
use super::tokens::Span;
use crate::onnx::graph::{Graph, float, input, int, ints, op, output};
use skincell_onnx::Constant;

/// Names of tensors and their gradients.
pub(super) type Gradients = Vec<(String, Val)>;

/// The information that rules use: shapes for one photo, and the values that depend on the target.
pub(super) trait Context {
    fn shape(&self, value: &str) -> Result<Vec<usize>, String>;
    fn is_relevant(&self, value: &str) -> bool;
    /// The places along an axis, if only the sum of a value's gradient over them is needed.
    fn summed(&self, value: &str) -> Option<Span>;
}

/// Applies the rule of a node whose output has the gradient `y`.
pub(super) fn rule(
    graph: &mut Graph,
    at: &dyn Context,
    node: &NodeProto,
    y: &Val,
) -> Result<Gradients, Reason> {
    let mut step = Step { sheet: Sheet { graph }, at, node, y };
    Ok(match op(node) {
        "Gemm" | "MatMul" => step.product()?,
        "Add" | "Sum" => step.add(false)?,
        "Sub" => step.add(true)?,
        "Mul" => step.mul()?,
        "Div" => step.div()?,
        "Softmax" => step.softmax()?,
        "LogSoftmax" => step.log_softmax()?,
        "LayerNormalization" => step.layer_norm()?,
        "InstanceNormalization" => step.instance_norm()?,
        "BatchNormalization" => step.batch_norm()?,
        "Flatten" | "Reshape" | "Squeeze" | "Unsqueeze" => step.reshaped()?,
        "Transpose" => step.transpose()?,
        "Concat" => step.concat()?,
        "Expand" => step.expanded()?,
        "GlobalAveragePool" | "ReduceMean" | "ReduceSum" => step.mean()?,
        "ReduceMax" | "GlobalMaxPool" => step.max()?,
        "ReduceL2" => step.length()?,
        "ReduceSumSquare" => step.squares()?,
        "Slice" | "Gather" => step.part()?,
        "Pad" => step.padded()?,
        "Conv" => step.convolution()?,
        "Where" => step.chosen()?,
        _ => step.elementwise()?,
    })
}

pub(super) struct Step<'a> {
    pub(super) sheet: Sheet<'a>,
    pub(super) at: &'a dyn Context,
    pub(super) node: &'a NodeProto,
    pub(super) y: &'a Val,
}

impl Step<'_> {
    fn name(&self, index: usize) -> Result<String, String> {
        input(self.node, index).map(str::to_owned).ok_or_else(|| format!("it lacks input {index}"))
    }

    /// Input `index`, which may be a constant, as a value.
    pub(super) fn operand(&self, index: usize) -> Result<Val, String> {
        let name = self.name(index)?;
        let dims = self.at.shape(&name)?;
        Ok(Val { name, dims })
    }

    pub(super) fn relevant(&self, index: usize) -> bool {
        input(self.node, index).is_some_and(|name| self.at.is_relevant(name))
    }

    pub(super) fn first(&self) -> Result<Val, String> {
        let extra = (1..self.node.input.len()).any(|i| self.relevant(i));
        if extra {
            return Err("only its first input may depend on the feature map".to_owned());
        }
        self.operand(0)
    }

    pub(super) fn y_shape(&self) -> Result<Vec<usize>, String> {
        self.at.shape(output(self.node))
    }

    /// The gradient of an operand of shape `x` that was broadcast to `y`.
    pub(super) fn fit(&mut self, gradient: &Val, y: &[usize], x: &[usize]) -> Val {
        let extra = y.len() - x.len().min(y.len());
        let (mut axes, mut factor) = ((1..=extra).collect::<Vec<_>>(), 1.0);
        axes.extend((extra..y.len()).filter(|a| x[a - extra] == 1 && y[*a] != 1).map(|a| a + 1));
        for axis in &axes {
            if gradient.side(*axis) == 1 {
                factor *= y[axis - 1] as f32;
            }
        }
        let sum = self.sheet.sum(gradient, &axes);
        let sum = self.sheet.times(&sum, factor);
        let mut dims = vec![sum.side(0)];
        dims.extend(&sum.dims[1 + extra..]);
        self.sheet.reshape(&sum, &dims)
    }

    /// The gradient expanded to the full length of every axis.
    fn full(&mut self, gradient: &Val, shape: &[usize]) -> Val {
        let mut dims = vec![gradient.side(0)];
        dims.extend(shape);
        self.sheet.expand(gradient, &dims)
    }

    fn elementwise(&mut self) -> Result<Gradients, Reason> {
        let x = self.first()?;
        let gradient = match derivative(self.sheet.graph, self.node) {
            None => return Err(Reason::NoRule),
            Some(Derivative::One) => self.y.clone(),
            Some(Derivative::Value(value)) => {
                // A constant derivative has no axes.
                let dims = self.sheet.graph.constants.get(&value).map(|t| t.dims.clone());
                let dims = dims.unwrap_or_else(|| x.dims.clone());
                self.sheet.binary("Mul", self.y, &Val { name: value, dims })?
            }
        };
        Ok(vec![(x.name, gradient)])
    }

    fn add(&mut self, subtract: bool) -> Result<Gradients, String> {
        let shape = self.y_shape()?;
        let mut found = Gradients::new();
        for index in (0..self.node.input.len()).filter(|i| self.relevant(*i)).collect::<Vec<_>>() {
            let x = self.operand(index)?;
            let y = self.y.clone();
            let y = if subtract && index == 1 { self.sheet.unary("Neg", &y) } else { y };
            found.push((x.name, self.fit(&y, &shape, &x.dims)));
        }
        Ok(found)
    }

    fn mul(&mut self) -> Result<Gradients, String> {
        let shape = self.y_shape()?;
        let mut found = Gradients::new();
        for index in [0, 1].into_iter().filter(|i| self.relevant(*i)).collect::<Vec<_>>() {
            let (x, other) = (self.operand(index)?, self.operand(1 - index)?);
            let product = self.sheet.binary("Mul", self.y, &other)?;
            found.push((x.name, self.fit(&product, &shape, &x.dims)));
        }
        Ok(found)
    }

    /// y = a / b: `1/b` and `−y/b`.
    fn div(&mut self) -> Result<Gradients, String> {
        let shape = self.y_shape()?;
        let (a, b) = (self.operand(0)?, self.operand(1)?);
        let quotient = self.sheet.binary("Div", self.y, &b)?;
        let mut found = Gradients::new();
        if self.relevant(0) {
            found.push((a.name.clone(), self.fit(&quotient, &shape, &a.dims)));
        }
        if self.relevant(1) {
            let value = Val::new(output(self.node), &shape);
            let product = self.sheet.binary("Mul", &quotient, &value)?;
            let product = self.sheet.unary("Neg", &product);
            found.push((b.name.clone(), self.fit(&product, &shape, &b.dims)));
        }
        Ok(found)
    }

    /// Where(c, a, b): a and b each get the gradient of the elements taken from them.
    fn chosen(&mut self) -> Result<Gradients, String> {
        let shape = self.y_shape()?;
        let condition = self.operand(0)?;
        let zero = self.sheet.constant(Constant::scalar(0.0));
        let mut found = Gradients::new();
        for index in [1, 2].into_iter().filter(|i| self.relevant(*i)).collect::<Vec<_>>() {
            let x = self.operand(index)?;
            let dims = crate::onnx::graph::broadcast(&self.y.dims, &condition.dims)
                .ok_or("its condition does not fit")?;
            let (yes, no) = if index == 1 { (self.y, &zero) } else { (&zero, self.y) };
            let part = self.sheet.call("Where", &[&condition, yes, no], vec![], &dims);
            found.push((x.name, self.fit(&part, &shape, &x.dims)));
        }
        Ok(found)
    }

    fn axis(&self, default: i64, rank: usize) -> Result<usize, String> {
        let axis = int(self.node, "axis", default);
        let axis = if axis < 0 { axis + i64::try_from(rank).unwrap_or(0) } else { axis };
        usize::try_from(axis)
            .ok()
            .filter(|a| *a < rank)
            .ok_or_else(|| format!("its axis is {axis}"))
    }

    /// `y ∘ (v − Σ v∘y)` along the axis.
    fn softmax(&mut self) -> Result<Gradients, String> {
        let x = self.first()?;
        let since_13 = self.sheet.graph.opset() >= 13;
        let axis = self.axis(if since_13 { -1 } else { 1 }, x.dims.len())?;
        if !since_13 && x.dims[axis + 1..].iter().any(|s| *s != 1) {
            return Err("it normalises over several axes".to_owned());
        }
        let value = Val::new(output(self.node), &x.dims);
        let product = self.sheet.binary("Mul", self.y, &value)?;
        let sum = self.sheet.sum(&product, &[axis + 1]);
        let less = self.sheet.binary("Sub", self.y, &sum)?;
        Ok(vec![(x.name, self.sheet.binary("Mul", &less, &value)?)])
    }

    /// `v − e^y · Σ v`.
    fn log_softmax(&mut self) -> Result<Gradients, String> {
        let x = self.first()?;
        let axis = self.axis(if self.sheet.graph.opset() >= 13 { -1 } else { 1 }, x.dims.len())?;
        let y = self.full(&self.y.clone(), &x.dims);
        let value = self.sheet.unary("Exp", &Val::new(output(self.node), &x.dims));
        let sum = self.sheet.sum(&y, &[axis + 1]);
        let part = self.sheet.binary("Mul", &sum, &value)?;
        Ok(vec![(x.name, self.sheet.binary("Sub", &y, &part)?)])
    }

    fn layer_norm(&mut self) -> Result<Gradients, String> {
        let x = self.first()?;
        let from = self.axis(-1, x.dims.len())?;
        let scale = self.operand(1)?;
        self.normed(&x, from, &scale)
    }

    /// Each channel is normalised over its places.
    fn instance_norm(&mut self) -> Result<Gradients, String> {
        let (x, scale) = (self.first()?, self.operand(1)?);
        let mut dims = vec![1; x.dims.len().saturating_sub(1)];
        *dims.first_mut().ok_or("its input has one axis")? = scale.dims.iter().product();
        let scale = self.sheet.reshape(&scale, &dims);
        self.normed(&x, 2, &scale)
    }

    /// With n = (x − mean)/σ over the axes from `from` on, and V = v·γ: `(V − mean V − n·mean(V·n))/σ`.
    fn normed(&mut self, x: &Val, from: usize, scale: &Val) -> Result<Gradients, String> {
        let axes: Vec<usize> = (from..x.dims.len()).collect();
        let mean = self.sheet.mean(x, &axes);
        let moved = self.sheet.binary("Sub", x, &mean)?;
        let square = self.sheet.binary("Mul", &moved, &moved)?;
        let variance = self.sheet.mean(&square, &axes);
        let variance = self.sheet.plus(&variance, float(self.node, "epsilon", 1e-5));
        let deviation = self.sheet.unary("Sqrt", &variance);
        let normal = self.sheet.binary("Div", &moved, &deviation)?;
        let v = self.sheet.binary("Mul", self.y, scale)?;
        let inner: Vec<usize> = axes.iter().map(|a| a + 1).collect();
        let product = self.sheet.binary("Mul", &v, &normal)?;
        let along = self.sheet.mean(&product, &inner);
        let along = self.sheet.binary("Mul", &along, &normal)?;
        let mean = self.sheet.mean(&v, &inner);
        let less = self.sheet.binary("Sub", &v, &mean)?;
        let less = self.sheet.binary("Sub", &less, &along)?;
        Ok(vec![(x.name.clone(), self.sheet.binary("Div", &less, &deviation)?)])
    }

    fn batch_norm(&mut self) -> Result<Gradients, String> {
        let x = self.first()?;
        let list = |step: &Self, index| {
            let constant = step.sheet.graph.constants.get(input(step.node, index)?);
            constant?.to_f32()
        };
        let (Some(gamma), Some(variance)) = (list(self, 1), list(self, 4)) else {
            return Err("its scale or variance is not constant".to_owned());
        };
        let epsilon = float(self.node, "epsilon", 1e-5);
        let factors: Vec<f32> =
            gamma.iter().zip(&variance).map(|(g, v)| g / (v + epsilon).sqrt()).collect();
        let shape = super::closed::channel_shape(x.dims.len(), 1, factors.len());
        let factors = self.sheet.constant(Constant::f32(&shape, &factors));
        Ok(vec![(x.name, self.sheet.binary("Mul", self.y, &factors)?)])
    }

    /// The same elements with other dimensions.
    fn reshaped(&mut self) -> Result<Gradients, String> {
        let x = self.first()?;
        let shape = self.y_shape()?;
        let long = |dims: &[usize]| dims.iter().copied().filter(|d| *d != 1).collect::<Vec<_>>();
        let mut dims = vec![self.y.side(0)];
        let gradient = if self.y.dims[1..].iter().all(|d| *d == 1) {
            dims.resize(x.dims.len() + 1, 1);
            self.y.clone()
        } else if long(&shape) == long(&x.dims) {
            // Only axes of length 1 are added or removed.
            let mut held = shape.iter().zip(&self.y.dims[1..]).filter(|(s, _)| **s != 1);
            for side in &x.dims {
                dims.push(if *side == 1 { 1 } else { held.next().map_or(1, |(_, held)| *held) });
            }
            self.y.clone()
        } else {
            dims.extend(&x.dims);
            self.full(&self.y.clone(), &shape)
        };
        Ok(vec![(x.name, self.sheet.reshape(&gradient, &dims))])
    }

    fn transpose(&mut self) -> Result<Gradients, String> {
        let x = self.first()?;
        let rank = x.dims.len();
        let perm: Vec<usize> = match ints(self.node, "perm") {
            Some(perm) => perm.iter().filter_map(|p| usize::try_from(*p).ok()).collect(),
            None => (0..rank).rev().collect(),
        };
        let back = (0..rank).map(|axis| perm.iter().position(|p| *p == axis).map(|at| at + 1));
        let mut inverse = vec![0];
        inverse.extend(back.collect::<Option<Vec<_>>>().ok_or("its permutation does not fit")?);
        Ok(vec![(x.name, self.sheet.transpose(self.y, &inverse))])
    }

    fn concat(&mut self) -> Result<Gradients, String> {
        let rank = self.y_shape()?.len();
        let axis = self.axis(0, rank)?;
        let (mut found, mut from) = (Gradients::new(), 0);
        for index in 0..self.node.input.len() {
            let x = self.operand(index)?;
            let width = x.side(axis);
            if self.relevant(index) {
                let whole = self.y.side(axis + 1) == 1;
                let count = if whole { 1 } else { width };
                let from = if whole { 0 } else { from };
                let part = self.sheet.slice(self.y, axis + 1, (from, 1, count));
                found.push((x.name, part));
            }
            from += width;
        }
        Ok(found)
    }

    fn expanded(&mut self) -> Result<Gradients, String> {
        let (x, shape) = (self.first()?, self.y_shape()?);
        let gradient = self.fit(&self.y.clone(), &shape, &x.dims);
        Ok(vec![(x.name, gradient)])
    }

    /// The axes of a reduction.
    fn reduced(&self, rank: usize) -> Result<Vec<usize>, String> {
        if op(self.node).starts_with("Global") {
            return Ok((2..rank).collect());
        }
        super::axes::reduced_axes(self.sheet.graph, self.node, rank)
            .ok_or_else(|| "its axes are computed".to_owned())
    }

    /// The gradient with the reduced axes restored at length 1.
    fn kept(&mut self, rank: usize, axes: &[usize]) -> Val {
        let mut held = self.y.dims[1..].iter().copied();
        let mut dims = vec![self.y.side(0)];
        let keeps = self.y.dims.len() == rank + 1;
        for axis in 0..rank {
            let gone = axes.contains(&axis);
            let side = if gone && !keeps { Some(1) } else { held.next() };
            dims.push(side.unwrap_or(1));
        }
        self.sheet.reshape(self.y, &dims)
    }

    fn mean(&mut self) -> Result<Gradients, String> {
        let x = self.first()?;
        let axes = self.reduced(x.dims.len())?;
        let count: usize = axes.iter().map(|a| x.side(*a)).product();
        let gradient = self.kept(x.dims.len(), &axes);
        let factor = if op(self.node) == "ReduceSum" { 1.0 } else { 1.0 / count as f32 };
        Ok(vec![(x.name, self.sheet.times(&gradient, factor))])
    }

    /// y = Σ x²: `2x`.
    fn squares(&mut self) -> Result<Gradients, String> {
        let x = self.first()?;
        let axes = self.reduced(x.dims.len())?;
        let gradient = self.kept(x.dims.len(), &axes);
        let product = self.sheet.binary("Mul", &gradient, &x)?;
        Ok(vec![(x.name, self.sheet.times(&product, 2.0))])
    }

    /// y = √(Σ x²): `x / y`, and 0 where y is 0, as PyTorch has it.
    fn length(&mut self) -> Result<Gradients, String> {
        let x = self.first()?;
        let axes = self.reduced(x.dims.len())?;
        let gradient = self.kept(x.dims.len(), &axes);
        let mut dims = x.dims.clone();
        axes.iter().for_each(|a| dims[*a] = 1);
        let value = Val::new(output(self.node), &self.y_shape()?);
        let value = self.sheet.reshape(&value, &dims);
        let zero = self.sheet.constant(Constant::scalar(0.0));
        let above = self.sheet.binary("Greater", &value, &zero)?;
        let above = as_floats(&mut self.sheet, &above);
        let one = self.sheet.constant(Constant::scalar(1.0));
        let none = self.sheet.binary("Sub", &one, &above)?;
        let below = self.sheet.binary("Add", &value, &none)?;
        let share = self.sheet.binary("Div", &x, &below)?;
        Ok(vec![(x.name, self.sheet.binary("Mul", &gradient, &share)?)])
    }

    /// The gradient goes to the place of the maximum, in equal parts if several places are maximal.
    fn max(&mut self) -> Result<Gradients, String> {
        let x = self.first()?;
        let axes = self.reduced(x.dims.len())?;
        let gradient = self.kept(x.dims.len(), &axes);
        let mut dims = x.dims.clone();
        axes.iter().for_each(|a| dims[*a] = 1);
        let most = Val::new(output(self.node), &self.y_shape()?);
        let most = self.sheet.reshape(&most, &dims);
        let winners = winners(&mut self.sheet, &x, &most)?;
        let count = self.sheet.sum(&winners, &axes);
        let share = self.sheet.binary("Div", &winners, &count)?;
        Ok(vec![(x.name, self.sheet.binary("Mul", &gradient, &share)?)])
    }

    /// Pad: the gradient of the elements that are not added.
    fn padded(&mut self) -> Result<Gradients, String> {
        let x = self.first()?;
        let pads = super::axes::padding(self.sheet.graph, self.node, x.dims.len())?;
        let mut y = self.y.clone();
        for (axis, (before, after)) in pads.into_iter().enumerate() {
            // A gradient of length 1 is that of each element.
            if before + after > 0 && y.side(axis + 1) != 1 {
                y = self.sheet.slice(&y, axis + 1, (before, 1, x.side(axis)));
            }
        }
        Ok(vec![(x.name, y)])
    }

    /// Slice and Gather: the gradient is 0 at elements that are not taken.
    fn part(&mut self) -> Result<Gradients, String> {
        let x = self.first()?;
        let (axis, places, drops) = super::axes::taken(self.sheet.graph, self.node, &x.dims)
            .ok_or("its indices are computed, or not consecutive")?;
        let mut y = self.y.clone();
        if drops {
            let mut dims = y.dims.clone();
            dims.insert(axis + 1, 1);
            y = self.sheet.reshape(&y, &dims);
        }
        let (from, count) = places;
        let mut dims = y.dims.clone();
        dims[axis + 1] = count;
        let y = self.sheet.expand(&y, &dims);
        let mut parts = Vec::new();
        let zeros = |step: &mut Self, count: usize| {
            let mut dims = dims.clone();
            dims[axis + 1] = count;
            let zero = vec![0.0; dims.iter().product()];
            (count > 0).then(|| step.sheet.constant(Constant::f32(&dims, &zero)))
        };
        parts.extend(zeros(self, from));
        parts.push(y);
        parts.extend(zeros(self, x.side(axis) - from - count));
        Ok(vec![(x.name, self.sheet.concat(&parts, axis + 1))])
    }
}

/// The sum of a gradient over the places of `span` along `axis`. A gradient of length 1 there is that of each
/// place.
pub(super) fn sum_of(sheet: &mut Sheet, y: &Val, axis: usize, span: Span) -> Val {
    if y.side(axis) == 1 {
        return sheet.times(y, span.count() as f32);
    }
    let part = sheet.slice(y, axis, (span.from, 1, span.count()));
    sheet.sum(&part, &[axis])
}

/// The first operator set with `GreaterOrEqual`.
const COMPARES_EQUAL: i64 = 12;

/// 1 where x reaches its maximum, 0 elsewhere.
pub(super) fn winners(sheet: &mut Sheet, x: &Val, most: &Val) -> Result<Val, String> {
    let reached = if sheet.graph.opset() < COMPARES_EQUAL {
        let below = sheet.binary("Less", x, most)?;
        let dims = below.dims.clone();
        sheet.call("Not", &[&below], vec![], &dims)
    } else {
        sheet.binary("GreaterOrEqual", x, most)?
    };
    Ok(as_floats(sheet, &reached))
}

/// 1 where the condition holds, 0 elsewhere.
fn as_floats(sheet: &mut Sheet, condition: &Val) -> Val {
    let to = i64::from(rten_onnx::onnx::DataType::FLOAT.0);
    let to = vec![crate::onnx::graph::int_attribute("to", to)];
    sheet.call("Cast", &[condition], to, &condition.dims)
}
