//! Constants of a graph, and the arithmetic that exporters do on them, mostly on shapes.
//!
//! Everything is computed in `f64`, which represents `f32` values and the integers of shapes exactly.

/// A constant tensor.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Constant {
    pub(super) dims: Vec<usize>,
    pub(super) data: Data,
    /// Whether 16 bits hold the elements, which `data` may have as `f32`: the file has them in half
    /// precision, or as 8-bit integers and scales.
    pub(super) is_half: bool,
}

/// Elements; booleans are integers 0 and 1.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Data {
    Float(Vec<f32>),
    Int(Vec<i64>),
}

impl Constant {
    pub(super) fn ints(dims: Vec<usize>, values: Vec<i64>) -> Self {
        Self { dims, data: Data::Int(values), is_half: false }
    }

    pub(super) fn floats(dims: Vec<usize>, values: Vec<f32>) -> Self {
        Self { dims, data: Data::Float(values), is_half: false }
    }

    pub(super) fn len(&self) -> usize {
        match &self.data {
            Data::Float(v) => v.len(),
            Data::Int(v) => v.len(),
        }
    }

    /// Largest difference of two 8-bit integers.
    pub(super) const MOST_HALVED: u64 = 255;

    /// The same, with [`Self::is_half`] if all elements may be differences of two 8-bit integers.
    pub(super) fn halved_if_whole(mut self) -> Self {
        let is_whole = |v: &f32| v.abs() <= Self::MOST_HALVED as f32 && v.fract() == 0.0;
        self.is_half |= self.to_floats().iter().all(is_whole);
        self
    }

    /// The elements as `f32`.
    pub(super) fn to_floats(&self) -> Vec<f32> {
        match &self.data {
            Data::Float(v) => v.clone(),
            Data::Int(v) => v.iter().map(|i| *i as f32).collect(),
        }
    }

    /// The elements if they are integers.
    pub(super) fn as_ints(&self) -> Option<&[i64]> {
        match &self.data {
            Data::Int(v) => Some(v),
            Data::Float(_) => None,
        }
    }

    /// The element of a constant that has exactly one.
    pub(super) fn single(&self) -> Option<f32> {
        if self.len() == 1 { self.to_floats().first().copied() } else { None }
    }

    fn wide(&self) -> Vec<f64> {
        match &self.data {
            Data::Float(v) => v.iter().map(|x| f64::from(*x)).collect(),
            Data::Int(v) => v.iter().map(|x| *x as f64).collect(),
        }
    }

    fn like(&self, dims: Vec<usize>, values: Vec<f64>) -> Self {
        let data = match self.data {
            Data::Float(_) => Data::Float(values.into_iter().map(|v| v as f32).collect()),
            Data::Int(_) => Data::Int(values.into_iter().map(|v| v as i64).collect()),
        };
        Self { dims, data, is_half: self.is_half }
    }

    fn pick(&self, dims: Vec<usize>, indices: impl Iterator<Item = usize>) -> Option<Self> {
        let data = match &self.data {
            Data::Float(v) => {
                Data::Float(indices.map(|i| v.get(i).copied()).collect::<Option<_>>()?)
            }
            Data::Int(v) => Data::Int(indices.map(|i| v.get(i).copied()).collect::<Option<_>>()?),
        };
        Some(Self { dims, data, is_half: self.is_half })
    }

    /// The same elements with other dimensions; 0 and -1 as in ONNX.
    pub(super) fn reshape(&self, target: &[i64]) -> Option<Self> {
        let dims = resolve(&self.dims, target)?;
        Some(Self { dims, data: self.data.clone(), is_half: self.is_half })
    }

    /// Axis `i` of the result is axis `perm[i]` of this.
    pub(super) fn transpose(&self, perm: &[usize]) -> Option<Self> {
        if perm.len() != self.dims.len() {
            return None;
        }
        let dims = perm.iter().map(|p| self.dims.get(*p).copied()).collect::<Option<Vec<_>>>()?;
        let strides = strides(&self.dims);
        let strides: Vec<usize> = perm.iter().map(|p| strides[*p]).collect();
        let indices = (0..self.len()).map(|i| offset(i, &dims, &strides));
        self.pick(dims.clone(), indices)
    }

    /// Elements `indices` along `axis`; a scalar index removes the axis.
    pub(super) fn gather(&self, indices: &Self, axis: usize) -> Option<Self> {
        let size = *self.dims.get(axis)?;
        let wanted = indices
            .as_ints()?
            .iter()
            .map(|i| usize::try_from(if *i < 0 { *i + size as i64 } else { *i }).ok())
            .collect::<Option<Vec<_>>>()?;
        let outer: usize = self.dims[..axis].iter().product();
        let inner: usize = self.dims[axis + 1..].iter().product();
        let mut dims = self.dims[..axis].to_vec();
        dims.extend(&indices.dims);
        dims.extend(&self.dims[axis + 1..]);
        let mut picked = Vec::new();
        for o in 0..outer {
            for w in &wanted {
                picked.extend((0..inner).map(|i| (o * size + w) * inner + i));
            }
        }
        self.pick(dims, picked.into_iter())
    }

    /// Elements `start..end` of the first axis of a vector.
    pub(super) fn slice(&self, start: i64, end: i64) -> Option<Self> {
        let [size] = *self.dims.as_slice() else { return None };
        let clamp =
            |i: i64| (if i < 0 { i + size as i64 } else { i }).clamp(0, size as i64) as usize;
        let (start, end) = (clamp(start), clamp(end));
        self.pick(vec![end.saturating_sub(start)], start..end)
    }

    /// Concatenates vectors.
    pub(super) fn concat(parts: &[&Self]) -> Option<Self> {
        let first = parts.first()?;
        if parts.iter().any(|p| p.dims.len() != 1) {
            return None;
        }
        let values: Vec<f64> = parts.iter().flat_map(|p| p.wide()).collect();
        Some(first.like(vec![values.len()], values))
    }

    /// `op` of both constants, broadcast to a common shape.
    pub(super) fn zip(&self, other: &Self, op: impl Fn(f64, f64) -> f64) -> Option<Self> {
        let dims = broadcast(&self.dims, &other.dims)?;
        let (a, b) = (self.wide(), other.wide());
        let (sa, sb) = (repeated(&self.dims, &dims), repeated(&other.dims, &dims));
        let count = dims.iter().product();
        let values = (0..count).map(|i| op(a[offset(i, &dims, &sa)], b[offset(i, &dims, &sb)]));
        let values = values.collect();
        Some(self.like(dims, values))
    }

    /// The product of two matrices of floats.
    pub(super) fn product(&self, other: &Self) -> Option<Self> {
        let ([rows, inner], [also_inner, columns]) = (&self.dims[..], &other.dims[..]) else {
            return None;
        };
        if inner != also_inner || self.as_ints().or(other.as_ints()).is_some() {
            return None;
        }
        let (a, b) = (self.wide(), other.wide());
        let mut values = Vec::with_capacity(rows * columns);
        for row in 0..*rows {
            let mut sums = vec![0.0; *columns];
            for k in 0..*inner {
                let factor = a[row * inner + k];
                let terms = &b[k * columns..(k + 1) * columns];
                sums.iter_mut().zip(terms).for_each(|(sum, term)| *sum += factor * term);
            }
            values.extend(sums.into_iter().map(|sum| sum as f32));
        }
        Some(Self::floats(vec![*rows, *columns], values))
    }

    /// `op` of each element.
    pub(super) fn map(&self, op: impl Fn(f64) -> f64) -> Self {
        self.like(self.dims.clone(), self.wide().into_iter().map(op).collect())
    }
}

/// The dimensions after reshaping `dims` to `target`.
pub(super) fn resolve(dims: &[usize], target: &[i64]) -> Option<Vec<usize>> {
    let total: usize = dims.iter().product();
    let mut out = Vec::new();
    for (i, t) in target.iter().enumerate() {
        out.push(match t {
            0 => *dims.get(i)?,
            -1 => 1,
            t => usize::try_from(*t).ok()?,
        });
    }
    let known = out.iter().try_fold(1usize, |n, d| n.checked_mul(*d))?;
    if let Some(open) = target.iter().position(|t| *t == -1) {
        if known == 0 || !total.is_multiple_of(known) {
            return None;
        }
        out[open] = total / known;
    }
    (out.iter().product::<usize>() == total).then_some(out)
}

/// The common shape of two shapes under broadcasting.
pub(super) fn broadcast(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let rank = a.len().max(b.len());
    let at = |d: &[usize], i: usize| if i + d.len() < rank { 1 } else { d[i + d.len() - rank] };
    (0..rank)
        .map(|i| match (at(a, i), at(b, i)) {
            (x, y) if x == y => Some(x),
            (1, y) => Some(y),
            (x, 1) => Some(x),
            _ => None,
        })
        .collect()
}

fn strides(dims: &[usize]) -> Vec<usize> {
    (0..dims.len()).map(|i| dims[i + 1..].iter().product()).collect()
}

/// Strides of `dims` broadcast to `full`: 0 for a repeated axis.
fn repeated(dims: &[usize], full: &[usize]) -> Vec<usize> {
    let own = strides(dims);
    let missing = full.len() - dims.len();
    (0..full.len())
        .map(|i| if i < missing || dims[i - missing] == 1 { 0 } else { own[i - missing] })
        .collect()
}

fn offset(mut index: usize, dims: &[usize], strides: &[usize]) -> usize {
    let mut at = 0;
    for (d, s) in dims.iter().zip(strides).rev() {
        at += index % d * s;
        index /= d;
    }
    at
}
