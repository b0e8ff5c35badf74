//! Builds expressions over tensors of known shapes. The rules of `general` are written with it.
//!
//! Each method appends one ordinary ONNX operator to the graph, or nothing if it would not change the value.
//! A gradient has the shape `[S, axes of the tensor]`, with the axis of the seeds first. An axis along which
//! a gradient is constant may have length 1.

use rten_onnx::onnx::AttributeProto;

use super::closed::name;
use crate::onnx::graph::{Graph, broadcast, int_attribute, ints_attribute};
use skincell_onnx::Constant;

/// A float32 value of the graph and its shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Val {
    pub(super) name: String,
    pub(super) dims: Vec<usize>,
}

impl Val {
    pub(super) fn new(name: &str, dims: &[usize]) -> Self {
        Self { name: name.to_owned(), dims: dims.to_vec() }
    }

    /// The length of an axis; 1 for an axis beyond the last.
    pub(super) fn side(&self, axis: usize) -> usize {
        self.dims.get(axis).copied().unwrap_or(1)
    }
}

/// Appends expressions to a graph.
pub(super) struct Sheet<'g> {
    pub(super) graph: &'g mut Graph,
}

fn as_i64(sides: &[usize]) -> Vec<i64> {
    sides.iter().map(|s| i64::try_from(*s).unwrap_or(i64::MAX)).collect()
}

impl Sheet<'_> {
    fn emit(
        &mut self,
        operator: &str,
        inputs: &[&str],
        attributes: Vec<AttributeProto>,
        dims: Vec<usize>,
    ) -> Val {
        let base = name(&operator.to_lowercase());
        Val { name: self.graph.emit(&base, operator, inputs, attributes), dims }
    }

    pub(super) fn constant(&mut self, tensor: Constant) -> Val {
        let dims = tensor.dims.clone();
        Val { name: self.graph.add_constant(&name("constant"), tensor), dims }
    }

    fn list(&mut self, values: &[i64]) -> String {
        self.graph.add_constant(&name("list"), Constant::i64_list(values))
    }

    /// An elementwise operator.
    pub(super) fn unary(&mut self, operator: &str, x: &Val) -> Val {
        self.emit(operator, &[&x.name], vec![], x.dims.clone())
    }

    /// An operator of two tensors that broadcast.
    pub(super) fn binary(&mut self, operator: &str, a: &Val, b: &Val) -> Result<Val, String> {
        let dims = broadcast(&a.dims, &b.dims)
            .ok_or_else(|| format!("{:?} and {:?} do not broadcast", a.dims, b.dims))?;
        Ok(self.emit(operator, &[&a.name, &b.name], vec![], dims))
    }

    pub(super) fn times(&mut self, x: &Val, factor: f32) -> Val {
        if factor == 1.0 {
            return x.clone();
        }
        let factor = self.constant(Constant::scalar(factor));
        self.emit("Mul", &[&x.name, &factor.name], vec![], x.dims.clone())
    }

    pub(super) fn plus(&mut self, x: &Val, term: f32) -> Val {
        let term = self.constant(Constant::scalar(term));
        self.emit("Add", &[&x.name, &term.name], vec![], x.dims.clone())
    }

    pub(super) fn reshape(&mut self, x: &Val, dims: &[usize]) -> Val {
        if x.dims == dims {
            return x.clone();
        }
        let shape = self.list(&as_i64(dims));
        self.emit("Reshape", &[&x.name, &shape], vec![], dims.to_vec())
    }

    pub(super) fn transpose(&mut self, x: &Val, perm: &[usize]) -> Val {
        let dims: Vec<usize> = perm.iter().map(|p| x.side(*p)).collect();
        // Moving axes of length 1 moves no element.
        let long =
            |axes: &mut dyn Iterator<Item = usize>| axes.filter(|a| x.side(*a) != 1).collect();
        let (before, after): (Vec<usize>, Vec<usize>) =
            (long(&mut (0..x.dims.len())), long(&mut perm.iter().copied()));
        if before == after {
            return self.reshape(x, &dims);
        }
        self.emit("Transpose", &[&x.name], vec![ints_attribute("perm", &as_i64(perm))], dims)
    }

    /// Repeats axes of length 1.
    pub(super) fn expand(&mut self, x: &Val, dims: &[usize]) -> Val {
        if x.dims == dims {
            return x.clone();
        }
        let shape = self.list(&as_i64(dims));
        self.emit("Expand", &[&x.name, &shape], vec![], dims.to_vec())
    }

    /// The sum along some axes, which stay with length 1.
    pub(super) fn sum(&mut self, x: &Val, axes: &[usize]) -> Val {
        self.reduce("ReduceSum", 13, x, axes)
    }

    /// The mean along some axes, which stay with length 1.
    pub(super) fn mean(&mut self, x: &Val, axes: &[usize]) -> Val {
        self.reduce("ReduceMean", 18, x, axes)
    }

    fn reduce(&mut self, operator: &str, input_since: i64, x: &Val, axes: &[usize]) -> Val {
        let axes: Vec<usize> = axes.iter().copied().filter(|a| x.side(*a) != 1).collect();
        if axes.is_empty() {
            return x.clone();
        }
        let mut dims = x.dims.clone();
        axes.iter().for_each(|a| dims[*a] = 1);
        let keep = int_attribute("keepdims", 1);
        if self.graph.opset() < input_since {
            let attributes = vec![ints_attribute("axes", &as_i64(&axes)), keep];
            return self.emit(operator, &[&x.name], attributes, dims);
        }
        let axes = self.list(&as_i64(&axes));
        self.emit(operator, &[&x.name, &axes], vec![keep], dims)
    }

    /// The `count` elements `from`, `from + step`, … along an axis.
    pub(super) fn slice(
        &mut self,
        x: &Val,
        axis: usize,
        (from, step, count): (usize, usize, usize),
    ) -> Val {
        if from == 0 && step == 1 && count == x.side(axis) {
            return x.clone();
        }
        let mut dims = x.dims.clone();
        dims[axis] = count;
        let end = from + step * count.saturating_sub(1) + 1;
        let bounds = [from, end, axis, step].map(|v| self.list(&as_i64(&[v])));
        let [from, end, axis, step] = &bounds;
        self.emit("Slice", &[&x.name, from, end, axis, step], vec![], dims)
    }

    /// Concatenates tensors along an axis.
    pub(super) fn concat(&mut self, parts: &[Val], axis: usize) -> Val {
        let [first, rest @ ..] = parts else { return Val::new("", &[]) };
        if rest.is_empty() {
            return first.clone();
        }
        let mut dims = first.dims.clone();
        dims[axis] = parts.iter().map(|p| p.side(axis)).sum();
        let names: Vec<&str> = parts.iter().map(|p| p.name.as_str()).collect();
        let axis = i64::try_from(axis).unwrap_or(0);
        self.emit("Concat", &names, vec![int_attribute("axis", axis)], dims)
    }

    /// The matrix product over the last two axes; the axes before them broadcast.
    pub(super) fn mat_mul(&mut self, a: &Val, b: &Val) -> Result<Val, String> {
        let split = |v: &Val| v.dims.len().checked_sub(2).map(|n| (v.dims[..n].to_vec(), n));
        let (Some((lead_a, at_a)), Some((lead_b, at_b))) = (split(a), split(b)) else {
            return Err("it multiplies vectors".to_owned());
        };
        let lead = broadcast(&lead_a, &lead_b).filter(|_| a.dims[at_a + 1] == b.dims[at_b]);
        let Some(mut dims) = lead else {
            return Err(format!("{:?} times {:?} does not fit", a.dims, b.dims));
        };
        dims.extend([a.dims[at_a], b.dims[at_b + 1]]);
        Ok(self.emit("MatMul", &[&a.name, &b.name], vec![], dims))
    }

    /// `x · W` over the last axis of x, with the constant W `[inner, columns]`, or `[columns, inner]` if
    /// `flipped`. The constant is used as stored, without a transposed copy.
    pub(super) fn dense(&mut self, x: &Val, weights: &Val, flipped: bool) -> Result<Val, String> {
        let [rows, columns] = weights.dims[..] else {
            return Err("its weights are not a matrix".to_owned());
        };
        let (inner, columns) = if flipped { (columns, rows) } else { (rows, columns) };
        let Some((last, lead)) = x.dims.split_last().filter(|(last, _)| **last == inner) else {
            return Err(format!("{:?} does not fit a matrix of {inner} rows", x.dims));
        };
        let flat = self.reshape(x, &[lead.iter().product(), *last]);
        let dims = vec![flat.dims[0], columns];
        let flips = vec![int_attribute("transB", i64::from(flipped))];
        let product = self.emit("Gemm", &[&flat.name, &weights.name], flips, dims);
        let mut dims = lead.to_vec();
        dims.push(columns);
        Ok(self.reshape(&product, &dims))
    }

    /// Any operator with attributes; the caller gives the shape of the result.
    pub(super) fn call(
        &mut self,
        operator: &str,
        inputs: &[&Val],
        attributes: Vec<AttributeProto>,
        dims: &[usize],
    ) -> Val {
        let names: Vec<&str> = inputs.iter().map(|v| v.name.as_str()).collect();
        self.emit(operator, &names, attributes, dims.to_vec())
    }
}
