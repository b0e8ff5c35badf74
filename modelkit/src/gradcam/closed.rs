//! The closed form of the gradient ∂logits/∂t for a tensor t of a classifier's head, and arithmetic on it.
//!
//! For every class `c` and every element `x` of t, which belongs to channel `k`: `∂logit_c/∂t[x] = matrix[c,
//! k] · diagonal[x]`. Dense layers change the matrix. Elementwise operators change only the diagonal.
//! Products of constants are computed here; all others become operators of the graph. The rules of the
//! operators are in `rules`.

use crate::onnx::graph::{Graph, int_attribute, ints_attribute};
use skincell_onnx::Constant;

/// The prefix of every value and constant that belongs to the Grad-CAM output.
pub(crate) const PREFIX: &str = "cam/";

/// A matrix `[classes, width]` that is a value or constant of the graph.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Matrix {
    /// Before the first dense layer: one row for each class, `1` at itself.
    Identity,
    /// A tensor of the graph: `[classes, width]`, or `[width, classes]` if `transposed`.
    Held {
        /// Its name.
        name: String,
        /// Whether its columns are the classes.
        transposed: bool,
    },
}

/// A factor for each element.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Diagonal {
    /// 1 everywhere.
    One,
    /// One number for each channel, or a single one for all.
    Channels(Vec<f32>),
    /// A tensor of the graph that broadcasts to the element's tensor.
    Value(String),
}

/// ∂logits/∂t of a tensor t.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Closed {
    pub(crate) matrix: Matrix,
    pub(crate) diagonal: Diagonal,
    /// The axis of t's channels.
    pub(crate) axis: usize,
}

/// The shape of a constant with one number for each channel, for a tensor of `rank` axes.
pub(crate) fn channel_shape(rank: usize, axis: usize, channels: usize) -> Vec<usize> {
    let mut shape = vec![1; rank];
    if let Some(side) = shape.get_mut(axis) {
        *side = channels;
    }
    shape
}

impl Diagonal {
    /// The factor as a tensor of the graph, for a tensor of `rank` axes; `None` if it is 1.
    pub(crate) fn held(&self, graph: &mut Graph, rank: usize, axis: usize) -> Option<String> {
        match self {
            Self::One => None,
            Self::Channels(factors) => {
                let shape = channel_shape(rank, axis, factors.len());
                Some(graph.add_constant(&name("factor"), Constant::f32(&shape, factors)))
            }
            Self::Value(value) => Some(value.clone()),
        }
    }

    /// `self · other`, both for a tensor of `rank` axes.
    pub(crate) fn times(&self, other: &Self, graph: &mut Graph, rank: usize, axis: usize) -> Self {
        match (self, other) {
            (Self::One, factor) | (factor, Self::One) => factor.clone(),
            (Self::Channels(a), Self::Channels(b)) => Self::Channels(each(a, b, |a, b| a * b)),
            _ => self.joined("Mul", "derivative", other, graph, rank, axis),
        }
    }

    /// `self + other`, both for a tensor of `rank` axes.
    pub(crate) fn plus(&self, other: &Self, graph: &mut Graph, rank: usize, axis: usize) -> Self {
        let list = |d: &Self| match d {
            Self::One => Some(vec![1.0]),
            Self::Channels(factors) => Some(factors.clone()),
            Self::Value(_) => None,
        };
        match (list(self), list(other)) {
            (Some(a), Some(b)) => Self::Channels(each(&a, &b, |a, b| a + b)),
            (Some(a), None) => Self::Channels(a).joined("Add", "sum", other, graph, rank, axis),
            (None, Some(b)) => self.joined("Add", "sum", &Self::Channels(b), graph, rank, axis),
            (None, None) => self.joined("Add", "sum", other, graph, rank, axis),
        }
    }

    fn joined(
        &self,
        operator: &str,
        base: &str,
        other: &Self,
        graph: &mut Graph,
        rank: usize,
        axis: usize,
    ) -> Self {
        let (Some(a), Some(b)) = (self.held(graph, rank, axis), other.held(graph, rank, axis))
        else {
            return Self::One;
        };
        Self::Value(graph.emit(&name(base), operator, &[&a, &b], vec![]))
    }
}

/// A name with the prefix of the Grad-CAM output.
pub(crate) fn name(base: &str) -> String {
    format!("{PREFIX}{base}")
}

/// Joins two lists with a number for each channel; a list of length 1 applies to all channels.
fn each(a: &[f32], b: &[f32], join: impl Fn(f32, f32) -> f32) -> Vec<f32> {
    let length = a.len().max(b.len());
    let at = |list: &[f32], i: usize| match list {
        [only] => *only,
        _ => list.get(i).copied().unwrap_or_default(),
    };
    (0..length).map(|i| join(at(a, i), at(b, i))).collect()
}

impl Matrix {
    /// The constant that holds the matrix, if it is constant.
    fn constant<'g>(&self, graph: &'g Graph) -> Option<&'g Constant> {
        match self {
            Self::Held { name, .. } => graph.constants.get(name),
            Self::Identity => None,
        }
    }

    /// `matrix · diag(factor)`.
    ///
    /// `None` for a factor before the first dense layer, because there is no matrix to scale.
    pub(crate) fn scaled(&self, factor: &Diagonal, graph: &mut Graph) -> Option<Self> {
        let Self::Held { name: held, transposed } = self else {
            return match factor {
                Diagonal::One => Some(Self::Identity),
                // A factor for each class, such as a temperature.
                Diagonal::Channels(_) | Diagonal::Value(_) => None,
            };
        };
        let scaled = match factor {
            Diagonal::One => return Some(self.clone()),
            Diagonal::Channels(factors) => {
                let shape = if *transposed { [factors.len(), 1] } else { [1, factors.len()] };
                if let Some(tensor) = self.constant(graph) {
                    let product = scale(tensor, factors, *transposed)?;
                    graph.add_constant(&name("matrix"), product)
                } else {
                    let factor = Constant::f32(&shape, factors);
                    let factor = graph.add_constant(&name("factor"), factor);
                    graph.emit(&name("matrix"), "Mul", &[held, &factor], vec![])
                }
            }
            Diagonal::Value(value) => {
                let shape = if *transposed { [-1, 1] } else { [1, -1] };
                let row = reshape(graph, "slope_row", value, &shape);
                graph.emit(&name("matrix"), "Mul", &[held, &row], vec![])
            }
        };
        Some(Self::Held { name: scaled, transposed: *transposed })
    }

    /// The matrix as a value `[classes, width]` of the graph; `None` for the identity.
    pub(crate) fn rows(&self, graph: &mut Graph) -> Option<String> {
        let Self::Held { name: held, transposed } = self else { return None };
        if !transposed {
            return Some(held.clone());
        }
        if let Some(turned) = self.constant(graph).and_then(turned) {
            return Some(graph.add_constant(&name("matrix"), turned));
        }
        let perm = vec![ints_attribute("perm", &[1, 0])];
        Some(graph.emit(&name("matrix"), "Transpose", &[held], perm))
    }

    /// The sum of two matrices of the same size, neither of them the identity.
    pub(crate) fn plus(&self, other: &Self, graph: &mut Graph) -> Option<Self> {
        let (a, b) = (self.rows(graph)?, other.rows(graph)?);
        let sum = match (graph.constants.get(&a), graph.constants.get(&b)) {
            (Some(a), Some(b)) if a.dims == b.dims => {
                let pairs = a.to_f32()?.into_iter().zip(b.to_f32()?);
                Some(Constant::f32(&a.dims, &pairs.map(|(a, b)| a + b).collect::<Vec<_>>()))
            }
            _ => None,
        };
        let name = match sum {
            Some(sum) => graph.add_constant(&name("matrix"), sum),
            None => graph.emit(&name("matrix"), "Add", &[&a, &b], vec![]),
        };
        Some(Self::Held { name, transposed: false })
    }

    /// `matrix · weights`: the reverse step through a dense layer, from its output to its input. `weights` is
    /// the constant `[out, in]`, or `[in, out]` if `in_by_out`.
    pub(crate) fn through(&self, weights: &str, in_by_out: bool, graph: &mut Graph) -> Self {
        let Self::Held { name: held, transposed } = self else {
            return Self::Held { name: weights.to_owned(), transposed: in_by_out };
        };
        let product = match (self.constant(graph), graph.constants.get(weights)) {
            (Some(a), Some(b)) => multiply(a, *transposed, b, in_by_out),
            _ => None,
        };
        let name = match product {
            Some(product) => graph.add_constant(&name("matrix"), product),
            None => {
                let flips = vec![
                    int_attribute("transA", i64::from(*transposed)),
                    int_attribute("transB", i64::from(in_by_out)),
                ];
                graph.emit(&name("matrix"), "Gemm", &[held, weights], flips)
            }
        };
        Self::Held { name, transposed: false }
    }

    /// The columns of the channels `from` to `to`.
    pub(crate) fn columns(&self, from: usize, to: usize, graph: &mut Graph) -> Option<Self> {
        let Self::Held { name: held, transposed } = self else { return None };
        let axis = usize::from(!*transposed);
        let part = match self.constant(graph) {
            Some(tensor) => {
                let part = slice(tensor, axis, from, to)?;
                graph.add_constant(&name("matrix"), part)
            }
            None => slice_value(graph, held, axis, from, to),
        };
        Some(Self::Held { name: part, transposed: *transposed })
    }
}

/// Emits a `Reshape` to a fixed shape.
pub(crate) fn reshape(graph: &mut Graph, base: &str, value: &str, shape: &[i64]) -> String {
    let shape = graph.add_constant(&name("shape"), Constant::i64_list(shape));
    graph.emit(&name(base), "Reshape", &[value, &shape], vec![])
}

/// Emits a `Slice` of neighbouring elements along one axis.
pub(crate) fn slice_value(
    graph: &mut Graph,
    value: &str,
    axis: usize,
    from: usize,
    to: usize,
) -> String {
    let mut bound = |at: usize| {
        graph.add_constant(&name("bound"), Constant::i64_list(&[i64::try_from(at).unwrap_or(0)]))
    };
    let (from, to, axis) = (bound(from), bound(to), bound(axis));
    graph.emit(&name("part"), "Slice", &[value, &from, &to, &axis], vec![])
}

/// Emits the mean over all axes of a map except those of the batch and the channels.
pub(crate) fn mean_of_map(graph: &mut Graph, value: &str, rank: usize, axis: usize) -> String {
    if axis == 1 {
        return graph.emit(&name("mean"), "GlobalAveragePool", &[value], vec![]);
    }
    let axes: Vec<i64> =
        (1..rank).filter(|a| *a != axis).filter_map(|a| i64::try_from(a).ok()).collect();
    if graph.opset() < 18 {
        let attributes = vec![ints_attribute("axes", &axes), int_attribute("keepdims", 1)];
        return graph.emit(&name("mean"), "ReduceMean", &[value], attributes);
    }
    let axes = graph.add_constant(&name("axes"), Constant::i64_list(&axes));
    let keep = vec![int_attribute("keepdims", 1)];
    graph.emit(&name("mean"), "ReduceMean", &[value, &axes], keep)
}

/// Scales the columns of `[rows, columns]`, or the rows if they are the channels.
fn scale(tensor: &Constant, factors: &[f32], channels_are_rows: bool) -> Option<Constant> {
    let [rows, columns] = tensor.dims[..] else { return None };
    let channels = if channels_are_rows { rows } else { columns };
    if factors.len() != 1 && factors.len() != channels {
        return None;
    }
    let mut values = tensor.to_f32()?;
    for (index, value) in values.iter_mut().enumerate() {
        let channel = if channels_are_rows { index / columns } else { index % columns };
        *value *= factors.get(channel).or(factors.first()).copied().unwrap_or(1.0);
    }
    Some(Constant::f32(&tensor.dims, &values))
}

/// `a · b` of two constants, each transposed if `flip_…`; summed in f64.
fn multiply(a: &Constant, flip_a: bool, b: &Constant, flip_b: bool) -> Option<Constant> {
    let ([a_rows, a_columns], [b_rows, b_columns]) = (&a.dims[..], &b.dims[..]) else {
        return None;
    };
    let (rows, inner) = if flip_a { (*a_columns, *a_rows) } else { (*a_rows, *a_columns) };
    let (same, columns) = if flip_b { (*b_columns, *b_rows) } else { (*b_rows, *b_columns) };
    if inner != same {
        return None;
    }
    let (left, right) = (a.to_f32()?, b.to_f32()?);
    let mut product = Vec::with_capacity(rows * columns);
    let mut sums = vec![0_f64; columns];
    for row in 0..rows {
        sums.fill(0.0);
        for k in 0..inner {
            let x = f64::from(left[if flip_a { k * rows + row } else { row * inner + k }]);
            for (column, sum) in sums.iter_mut().enumerate() {
                let at = if flip_b { column * inner + k } else { k * columns + column };
                *sum += x * f64::from(right[at]);
            }
        }
        product.extend(sums.iter().map(|s| *s as f32));
    }
    Some(Constant::f32(&[rows, columns], &product))
}

/// The transposed matrix.
fn turned(tensor: &Constant) -> Option<Constant> {
    let [rows, columns] = tensor.dims[..] else { return None };
    let values = tensor.to_f32()?;
    let of = |at: usize| values[(at % rows) * columns + at / rows];
    Some(Constant::f32(&[columns, rows], &(0..values.len()).map(of).collect::<Vec<_>>()))
}

/// Neighbouring rows or columns of `[rows, columns]`.
fn slice(tensor: &Constant, axis: usize, from: usize, to: usize) -> Option<Constant> {
    let [rows, columns] = tensor.dims[..] else { return None };
    let side = if axis == 0 { rows } else { columns };
    if from > to || to > side {
        return None;
    }
    let values = tensor.to_f32()?;
    if axis == 0 {
        return Some(Constant::f32(
            &[to - from, columns],
            values.get(from * columns..to * columns)?,
        ));
    }
    let part: Vec<f32> = values
        .chunks(columns)
        .flat_map(|row| row.iter().skip(from).take(to - from))
        .copied()
        .collect();
    Some(Constant::f32(&[rows, to - from], &part))
}
