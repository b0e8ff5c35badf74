//! The general reverse rules of products: dense layers, matrix products of two computed tensors, 1×1
//! convolutions.

use super::general::{Gradients, Step, sum_of};
use super::refusal::Reason;
use super::sheet::Val;
use super::tokens::Span;
use crate::onnx::graph::{float, int, ints, op};
use skincell_onnx::Constant;

impl Step<'_> {
    /// A convolution whose window is the whole map, all channels together or each alone, is a dense layer.
    /// So is a 1×1 convolution, at each place.
    pub(super) fn convolution(&mut self) -> Result<Gradients, Reason> {
        let (x, weights) = (self.first()?, self.operand(1)?);
        let (shape, channels) = (self.y_shape()?, x.dims[1]);
        let window: usize = weights.dims[2..].iter().product();
        let plain = |name: &str, value: i64| {
            ints(self.node, name).is_none_or(|list| list.iter().all(|v| *v == value))
        };
        let whole = weights.dims[2..] == x.dims[2..]
            && shape[2..].iter().all(|side| *side == 1)
            && plain("pads", 0)
            && plain("dilations", 1);
        if !whole || window == 1 {
            return self.pointwise(&x, &weights);
        }
        let mut dims = self.y.dims.clone();
        dims[2] = shape[1];
        let y = self.sheet.expand(self.y, &dims);
        let groups = usize::try_from(int(self.node, "group", 1)).unwrap_or(1);
        if weights.dims[..2] == [channels, 1] && groups == channels {
            let weights = self.shaped(&weights, [&[1, 1, channels], &x.dims[2..]].concat());
            return Ok(vec![(x.name, self.sheet.binary("Mul", &y, &weights)?)]);
        }
        if weights.dims[..2] != [shape[1], channels] {
            return Err(Reason::Convolution);
        }
        let rows = self.sheet.reshape(&y, &[y.side(0), shape[1]]);
        let matrix = self.shaped(&weights, vec![shape[1], channels * window]);
        let found = self.sheet.dense(&rows, &matrix, false)?;
        let dims = [&[y.side(0)], &x.dims[..]].concat();
        Ok(vec![(x.name, self.sheet.reshape(&found, &dims))])
    }

    /// The same weights with other dimensions.
    fn shaped(&mut self, weights: &Val, dims: Vec<usize>) -> Val {
        match self.sheet.graph.constants.get(&weights.name) {
            // The same bytes, which the file stores once.
            Some(held) => self.sheet.constant(Constant { dims, ..held.clone() }),
            None => self.sheet.reshape(weights, &dims),
        }
    }

    fn pointwise(&mut self, x: &Val, weights: &Val) -> Result<Gradients, Reason> {
        let plain = int(self.node, "group", 1) == 1 && weights.dims[2..].iter().all(|s| *s == 1);
        let shape = self.y_shape()?;
        if !plain || x.dims[2..] != shape[2..] {
            return Err(Reason::Convolution);
        }
        let matrix = self.shaped(weights, weights.dims[..2].to_vec());
        let rank = x.dims.len();
        let mut dims = self.y.dims.clone();
        dims[2] = shape[1];
        let y = self.sheet.expand(self.y, &dims);
        let mut last: Vec<usize> = (0..=rank).filter(|a| *a != 2).collect();
        last.push(2);
        let rows = self.sheet.transpose(&y, &last);
        let rows = self.sheet.dense(&rows, &matrix, false)?;
        let mut back: Vec<usize> = vec![0, 1, rank];
        back.extend(2..rank);
        Ok(vec![(x.name.clone(), self.sheet.transpose(&rows, &back))])
    }

    /// Gemm and MatMul.
    pub(super) fn product(&mut self) -> Result<Gradients, String> {
        let (a, b) = (self.operand(0)?, self.operand(1)?);
        let gemm = op(self.node) == "Gemm";
        if gemm && int(self.node, "transA", 0) != 0 {
            return Err("it transposes its first input".to_owned());
        }
        let flipped = gemm && int(self.node, "transB", 0) != 0;
        if a.dims.len() < 2 || b.dims.len() < 2 || (flipped && self.relevant(1)) {
            return Err("it multiplies vectors or transposes a computed input".to_owned());
        }
        let y = self.y.clone();
        let y = if gemm { self.sheet.times(&y, float(self.node, "alpha", 1.0)) } else { y };
        // Weights: constants, or what a node makes of constants.
        let fixed = !self.relevant(1) && b.dims.len() == 2;
        let shape = self.y_shape()?;
        let mut found = Gradients::new();
        if self.relevant(0) {
            let gradient = if fixed {
                let mut dims = y.dims.clone();
                if let (Some(last), Some(side)) = (dims.last_mut(), shape.last()) {
                    *last = *side;
                }
                let y = self.sheet.expand(&y, &dims);
                self.sheet.dense(&y, &b, !flipped)?
            } else {
                self.left(&y, &shape, &a, &b)?
            };
            let rows = !fixed && b.dims.len() >= 2;
            let done = |axis: usize| rows && axis + 2 == a.dims.len();
            let gradient = self.all_summed(gradient, &a, done);
            found.push((a.name.clone(), gradient));
        }
        if self.relevant(1) {
            let gradient = self.right(&y, &shape, &a, &b)?;
            let gradient = self.all_summed(gradient, &b, |axis| axis + 2 >= b.dims.len());
            found.push((b.name.clone(), gradient));
        }
        Ok(found)
    }

    /// The gradient with respect to A, `v · Bᵀ`. If only the sum over the rows is needed, `v` is summed
    /// first.
    fn left(&mut self, y: &Val, shape: &[usize], a: &Val, b: &Val) -> Result<Val, String> {
        let rank = y.dims.len();
        let rows = self.at.summed(&a.name).filter(|span| span.axis + 2 == a.dims.len());
        let y = match rows {
            Some(span) => self.summed(y, rank - 2, span),
            None => y.clone(),
        };
        let end = b.dims.len();
        let mut perm: Vec<usize> = (0..end).collect();
        perm.swap(end - 2, end - 1);
        let mut flipped = self.sheet.transpose(b, &perm);
        if y.side(rank - 1) == 1 && flipped.side(end - 2) != 1 {
            flipped = self.sheet.sum(&flipped, &[end - 2]);
        }
        let product = self.sheet.mat_mul(&y, &flipped)?;
        let mut wide = shape.to_vec();
        let last = wide.len() - 1;
        wide[last] = a.side(a.dims.len() - 1);
        let mut narrow = a.dims.clone();
        if rows.is_some() {
            wide[last - 1] = 1;
            let at = narrow.len() - 2;
            narrow[at] = 1;
        }
        Ok(self.fit(&product, &wide, &narrow))
    }

    /// The gradient with respect to B, `Aᵀ · v`, summed first in the same way.
    fn right(&mut self, y: &Val, shape: &[usize], a: &Val, b: &Val) -> Result<Val, String> {
        let (rank, end) = (y.dims.len(), a.dims.len());
        let mut a = a.clone();
        let mut y = y.clone();
        let mut narrow = b.dims.clone();
        let mut wide = shape.to_vec();
        let last = wide.len() - 1;
        wide[last - 1] = b.side(b.dims.len() - 2);
        if let Some(span) = self.at.summed(&b.name) {
            let axis = span.axis;
            if axis + 2 == b.dims.len() {
                let part = self.sheet.slice(&a, end - 1, (span.from, 1, span.count()));
                a = self.sheet.sum(&part, &[end - 1]);
                wide[last - 1] = 1;
                narrow[axis] = 1;
            } else if axis + 1 == b.dims.len() {
                y = self.summed(&y, rank - 1, span);
                wide[last] = 1;
                narrow[axis] = 1;
            }
        }
        if y.side(rank - 2) == 1 && a.side(end - 2) != 1 {
            a = self.sheet.sum(&a, &[end - 2]);
        }
        let mut perm: Vec<usize> = (0..end).collect();
        perm.swap(end - 2, end - 1);
        let flipped = self.sheet.transpose(&a, &perm);
        let product = self.sheet.mat_mul(&flipped, &y)?;
        Ok(self.fit(&product, &wide, &narrow))
    }

    /// The sum of the gradient over the places if only that is needed and the product has not summed already.
    fn all_summed(&mut self, gradient: Val, x: &Val, done: impl Fn(usize) -> bool) -> Val {
        match self.at.summed(&x.name).filter(|span| !done(span.axis)) {
            Some(span) => self.summed(&gradient, span.axis + 1, span),
            None => gradient,
        }
    }

    fn summed(&mut self, y: &Val, axis: usize, span: Span) -> Val {
        sum_of(&mut self.sheet, y, axis, span)
    }
}
