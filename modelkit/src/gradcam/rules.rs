//! The rules of operators that keep the closed form of a gradient: dense layers change its matrix,
//! elementwise operators its diagonal. If a rule returns an error, `general` handles the operator.

use rten_onnx::onnx::NodeProto;

use super::closed::{Closed, Diagonal, Matrix, channel_shape, name, reshape, slice_value};
use super::derivative::{Derivative, derivative};
use super::fold;
use super::refusal::Reason;
use super::reverse::Step;
use crate::onnx::graph::{float, input, int, ints, ints_attribute, op, output};
use skincell_onnx::Constant;

/// Names of tensors and their vjps.
type Found = Vec<(String, Closed)>;

impl Step<'_> {
    /// The rule of each operator that keeps the closed form.
    pub(super) fn closed_rule(&mut self, node: &NodeProto, y: &Closed) -> Result<Found, Reason> {
        Ok(match op(node) {
            "Gemm" => self.gemm(node, y)?,
            "MatMul" => self.mat_mul(node, y)?,
            "Conv" => self.pointwise(node, y)?,
            "Add" | "Sum" => self.add(node, y, false)?,
            "Sub" => self.add(node, y, true)?,
            "Mul" => self.mul(node, y)?,
            "Div" => self.div(node, y)?,
            "BatchNormalization" => self.batch_norm(node, y)?,
            "Flatten" | "Reshape" | "Squeeze" | "Unsqueeze" => self.reshaped(node, y)?,
            "Transpose" => self.transpose(node, y)?,
            "Concat" => self.concat(node, y)?,
            "Softmax" | "LogSoftmax" | "LayerNormalization" | "InstanceNormalization" | "Pad" => {
                return Err(Reason::NoRule);
            }
            _ => self.elementwise(node, y)?,
        })
    }

    pub(super) fn shape(&self, value: &str) -> Result<&[usize], String> {
        let shape = self.shapes.get(value);
        shape.map(Vec::as_slice).ok_or_else(|| format!("the shape of \"{value}\" is not known"))
    }

    /// The single input that depends on the target.
    pub(super) fn only_input(&self, node: &NodeProto) -> Result<String, String> {
        let mut inputs = node.input.iter().filter(|i| self.relevant.contains(*i));
        match (inputs.next(), inputs.next()) {
            (Some(only), None) => Ok(only.clone()),
            _ => Err("several of its inputs depend on the feature map".to_owned()),
        }
    }

    /// y = f(x) elementwise: the diagonal times f'(x).
    fn elementwise(&mut self, node: &NodeProto, y: &Closed) -> Result<Found, Reason> {
        let x = self.only_input(node)?;
        if node.input.first() != Some(&x) {
            return Err("only its first input may depend on the feature map".into());
        }
        let rank = self.shape(&x)?.len();
        let local = match derivative(self.graph, node) {
            None => return Err(Reason::NoRule),
            Some(Derivative::One) => Diagonal::One,
            Some(Derivative::Value(value)) => {
                match self.graph.constants.get(&value).and_then(Constant::to_scalar) {
                    Some(number) => Diagonal::Channels(vec![number]),
                    None => Diagonal::Value(value),
                }
            }
        };
        let diagonal = y.diagonal.times(&local, self.graph, rank, y.axis);
        Ok(vec![(x, Closed { diagonal, ..y.clone() })])
    }

    /// y = x₁ + x₂ (or x₁ − x₂): each gets y's vjp, the subtracted one negated.
    fn add(&mut self, node: &NodeProto, y: &Closed, subtract: bool) -> Result<Found, String> {
        let mut found = Found::new();
        for (index, x) in node.input.iter().enumerate() {
            if !self.relevant.contains(x) {
                continue;
            }
            self.same_shape(x, output(node))?;
            let rank = self.shape(x)?.len();
            let diagonal = if subtract && index == 1 {
                y.diagonal.times(&Diagonal::Channels(vec![-1.0]), self.graph, rank, y.axis)
            } else {
                y.diagonal.clone()
            };
            found.push((x.clone(), Closed { diagonal, ..y.clone() }));
        }
        Ok(found)
    }

    /// y = x₁ · x₂: the diagonal of each times the other.
    fn mul(&mut self, node: &NodeProto, y: &Closed) -> Result<Found, String> {
        let [a, b] = &node.input[..] else { return Err("it does not have two inputs".to_owned()) };
        let mut found = Found::new();
        for (x, other) in [(a, b), (b, a)] {
            if self.relevant.contains(x) {
                self.same_shape(x, output(node))?;
                let factor = self.factor(other, x, y.axis, |v| v)?;
                let rank = self.shape(x)?.len();
                let diagonal = y.diagonal.times(&factor, self.graph, rank, y.axis);
                found.push((x.clone(), Closed { diagonal, ..y.clone() }));
            }
        }
        Ok(found)
    }

    /// y = x / b, where b does not depend on the target: the diagonal divided by b.
    fn div(&mut self, node: &NodeProto, y: &Closed) -> Result<Found, String> {
        let x = self.only_input(node)?;
        let (Some(a), Some(b)) = (input(node, 0), input(node, 1)) else {
            return Err("it does not have two inputs".to_owned());
        };
        if a != x {
            return Err("its divisor depends on the feature map".to_owned());
        }
        self.same_shape(&x, output(node))?;
        let factor = match self.factor(b, &x, y.axis, |v| 1.0 / v)? {
            Diagonal::Value(value) => {
                Diagonal::Value(self.graph.emit(&name("factor"), "Reciprocal", &[&value], vec![]))
            }
            factor => factor,
        };
        let rank = self.shape(&x)?.len();
        let diagonal = y.diagonal.times(&factor, self.graph, rank, y.axis);
        Ok(vec![(x, Closed { diagonal, ..y.clone() })])
    }

    /// y = γ(x − μ)/√(σ² + ε) + β: the diagonal times γ/√(σ² + ε).
    fn batch_norm(&mut self, node: &NodeProto, y: &Closed) -> Result<Found, String> {
        let x = self.only_input(node)?;
        let list = |index| self.graph.constants.get(input(node, index)?)?.to_f32();
        let (Some(gamma), Some(variance)) = (list(1), list(4)) else {
            return Err("its scale or variance is not constant".to_owned());
        };
        if gamma.len() != variance.len() {
            return Err("its scale and variance differ in length".to_owned());
        }
        let epsilon = float(node, "epsilon", 1e-5);
        let factors = gamma.iter().zip(&variance).map(|(g, v)| g / (v + epsilon).sqrt());
        let factors = Diagonal::Channels(factors.collect());
        let rank = self.shape(&x)?.len();
        let diagonal = y.diagonal.times(&factors, self.graph, rank, y.axis);
        Ok(vec![(x, Closed { diagonal, ..y.clone() })])
    }

    /// y = α·x·W + c, or with Wᵀ: the matrix times the transposed weights.
    fn gemm(&mut self, node: &NodeProto, y: &Closed) -> Result<Found, String> {
        if int(node, "transA", 0) != 0 {
            return Err("it transposes its first input".to_owned());
        }
        let scale = Diagonal::Channels(vec![float(node, "alpha", 1.0)]);
        let scale = if scale == Diagonal::Channels(vec![1.0]) { Diagonal::One } else { scale };
        let weights = input(node, 1).unwrap_or_default().to_owned();
        self.dense(node, y, &scale, &weights, int(node, "transB", 0) == 0)
    }

    /// y = x·W: the matrix times Wᵀ.
    fn mat_mul(&mut self, node: &NodeProto, y: &Closed) -> Result<Found, String> {
        let weights = input(node, 1).unwrap_or_default().to_owned();
        self.dense(node, y, &Diagonal::One, &weights, true)
    }

    /// A 1×1 convolution of a 1×1 map is a dense layer.
    fn pointwise(&mut self, node: &NodeProto, y: &Closed) -> Result<Found, Reason> {
        let weights = input(node, 1).and_then(|w| self.graph.constants.get(w));
        let Some(weights) = weights else {
            return Err("its weights are not constant".into());
        };
        let ([outputs, inputs, 1, 1], 1) = (&weights.dims[..], int(node, "group", 1)) else {
            return Err(Reason::Convolution);
        };
        let matrix = Constant { dims: vec![*outputs, *inputs], ..weights.clone() };
        if self.shape(output(node))?.iter().skip(2).any(|side| *side != 1) {
            return Err(Reason::Convolution);
        }
        // The same bytes with other dimensions; the file stores them once.
        let alias = self.graph.add_constant(&name("weights"), matrix);
        Ok(self.dense(node, y, &Diagonal::One, &alias, false)?)
    }

    fn dense(
        &mut self,
        node: &NodeProto,
        y: &Closed,
        scale: &Diagonal,
        weights: &str,
        in_by_out: bool,
    ) -> Result<Found, String> {
        let x = self.only_input(node)?;
        let two = |t: &Constant| t.dims.len() == 2 && t.to_f32().is_some();
        if node.input.first() != Some(&x) || !self.graph.constants.get(weights).is_some_and(two) {
            return Err("its second factor is not a constant float32 matrix".to_owned());
        }
        let shape = self.shape(&x)?;
        let elements: usize = shape.iter().product();
        let axis = shape.iter().position(|side| *side == elements).unwrap_or(shape.len() - 1);
        if shape.get(axis) != Some(&elements) {
            return Err(format!("its input has shape {shape:?}, which is not a vector"));
        }
        let rank = self.shape(output(node))?.len();
        let factor = y.diagonal.times(scale, self.graph, rank, y.axis);
        let (x, weights, axis) =
            match fold::over_places(self.graph, self.shapes, self.region, &x, weights, in_by_out) {
                Some(folded) => folded,
                None => (x, weights.to_owned(), axis),
            };
        let matrix = match (y.matrix.scaled(&factor, self.graph), &factor) {
            (Some(matrix), _) => matrix.through(&weights, in_by_out, self.graph),
            // Before the first dense layer the rows of its weights are scaled.
            (None, Diagonal::Channels(list)) => {
                let outputs = Matrix::Held { name: weights.clone(), transposed: !in_by_out };
                let scaled = outputs.scaled(&Diagonal::Channels(list.clone()), self.graph);
                let Some(Matrix::Held { name, .. }) = scaled else { return Err(scaled_logits()) };
                Matrix::Held { name, transposed: in_by_out }
            }
            (None, _) => return Err(scaled_logits()),
        };
        Ok(vec![(x, Closed { matrix, diagonal: Diagonal::One, axis })])
    }

    /// y holds x's elements in the same order, and x is a vector.
    fn reshaped(&mut self, node: &NodeProto, y: &Closed) -> Result<Found, String> {
        let x = self.only_input(node)?;
        let from = self.shape(&x)?.to_vec();
        let elements: usize = from.iter().product();
        let Some(axis) = from.iter().position(|side| *side == elements) else {
            return Err(format!(
                "it flattens a map of {from:?} without pooling, so that each pixel has separate weights"
            ));
        };
        let diagonal = match &y.diagonal {
            Diagonal::Value(value) => {
                let shape: Vec<i64> = from.iter().filter_map(|d| i64::try_from(*d).ok()).collect();
                Diagonal::Value(reshape(self.graph, "derivative", value, &shape))
            }
            other => other.clone(),
        };
        Ok(vec![(x, Closed { matrix: y.matrix.clone(), diagonal, axis })])
    }

    /// Axis `i` of y is axis `perm[i]` of x.
    fn transpose(&mut self, node: &NodeProto, y: &Closed) -> Result<Found, String> {
        let x = self.only_input(node)?;
        let rank = self.shape(&x)?.len();
        let perm: Vec<usize> = match ints(node, "perm") {
            Some(perm) => perm.iter().filter_map(|p| usize::try_from(*p).ok()).collect(),
            None => (0..rank).rev().collect(),
        };
        let back = |axis: usize| perm.iter().position(|p| *p == axis);
        let (Some(axis), true) = (perm.get(y.axis).copied(), perm.len() == rank) else {
            return Err("its permutation does not fit".to_owned());
        };
        let diagonal = match &y.diagonal {
            Diagonal::Value(value) => {
                let inverse: Vec<i64> =
                    (0..rank).filter_map(back).filter_map(|p| i64::try_from(p).ok()).collect();
                let perm = vec![ints_attribute("perm", &inverse)];
                Diagonal::Value(self.graph.emit(&name("derivative"), "Transpose", &[value], perm))
            }
            other => other.clone(),
        };
        Ok(vec![(x, Closed { matrix: y.matrix.clone(), diagonal, axis })])
    }

    /// y holds the channels of its inputs one after the other: each input gets its part.
    fn concat(&mut self, node: &NodeProto, y: &Closed) -> Result<Found, String> {
        let rank = self.shape(output(node))?.len();
        let axis = int(node, "axis", 0);
        let axis = if axis < 0 { axis + i64::try_from(rank).unwrap_or(0) } else { axis };
        if usize::try_from(axis).ok() != Some(y.axis) {
            return Err("it joins along an axis other than the channels'".to_owned());
        }
        let mut found = Found::new();
        let mut from = 0;
        for x in &node.input {
            let width = self.channels_of_part(x, y.axis)?;
            let to = from + width;
            if self.relevant.contains(x) {
                let matrix = y.matrix.columns(from, to, self.graph);
                let matrix = matrix.ok_or("it is joined to classes, not to channels")?;
                let diagonal = match &y.diagonal {
                    Diagonal::Channels(factors) if factors.len() > 1 => {
                        let part = factors.get(from..to).ok_or("its parts do not fit")?;
                        Diagonal::Channels(part.to_vec())
                    }
                    Diagonal::Value(v) => {
                        Diagonal::Value(slice_value(self.graph, v, y.axis, from, to))
                    }
                    other => other.clone(),
                };
                found.push((x.clone(), Closed { matrix, diagonal, axis: y.axis }));
            }
            from = to;
        }
        Ok(found)
    }

    fn channels_of_part(&self, x: &str, axis: usize) -> Result<usize, String> {
        let constant = self.graph.constants.get(x).map(|t| &t.dims[..]);
        let shape = constant.map_or_else(|| self.shape(x), Ok)?;
        shape.get(axis).copied().ok_or_else(|| format!("\"{x}\" lacks the axis of the channels"))
    }

    fn same_shape(&self, x: &str, y: &str) -> Result<(), String> {
        let (from, to) = (self.shape(x)?, self.shape(y)?);
        if from == to {
            return Ok(());
        }
        Err(format!("it broadcasts {from:?} to {to:?}"))
    }

    /// `other` as a factor for the tensor x: a number for each channel if it is such a constant.
    fn factor(
        &mut self,
        other: &str,
        x: &str,
        axis: usize,
        change: impl Fn(f32) -> f32,
    ) -> Result<Diagonal, String> {
        let shape = self.shape(x)?;
        let Some(tensor) = self.graph.constants.get(other) else {
            return Ok(Diagonal::Value(other.to_owned()));
        };
        let values = tensor.to_f32().ok_or("its factor is not float32")?;
        let channels = shape.get(axis).copied().unwrap_or(1);
        let wanted = channel_shape(shape.len(), axis, channels);
        let lacking = shape.len().saturating_sub(tensor.dims.len());
        let padded: Vec<usize> =
            std::iter::repeat_n(1, lacking).chain(tensor.dims.iter().copied()).collect();
        if values.len() == 1 || padded == wanted {
            return Ok(Diagonal::Channels(values.into_iter().map(change).collect()));
        }
        Ok(Diagonal::Value(other.to_owned()))
    }
}

fn scaled_logits() -> String {
    "a computed factor follows the last dense layer, before the scores".to_owned()
}
