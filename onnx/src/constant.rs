//! A constant tensor of a graph: element type, dimensions, little-endian bytes.
//!
//! It holds and converts values for reading and rewriting a graph. It does no arithmetic.

use half::{bf16, f16};
use rten_onnx::onnx::DataType;

/// A constant. `bytes` is row-major, little-endian, and exactly as long as type and dimensions say.
#[derive(Debug, Clone, PartialEq)]
pub struct Constant {
    /// Element type; [`element_size`] is `Some` for it.
    pub dtype: DataType,
    /// Dimensions, the last running fastest; empty for a scalar.
    pub dims: Vec<usize>,
    /// The elements.
    pub bytes: Vec<u8>,
}

/// Bytes of one element, or `None` for types smaller than a byte and types that are not numbers.
#[must_use]
pub fn element_size(dtype: DataType) -> Option<usize> {
    match dtype {
        DataType::BOOL | DataType::INT8 | DataType::UINT8 => Some(1),
        DataType::FLOAT16 | DataType::BFLOAT16 | DataType::INT16 | DataType::UINT16 => Some(2),
        DataType::FLOAT | DataType::INT32 | DataType::UINT32 => Some(4),
        DataType::DOUBLE | DataType::INT64 | DataType::UINT64 => Some(8),
        _ => None,
    }
}

impl Constant {
    /// A float32 tensor; `values` has the product of `dims` elements.
    #[must_use]
    pub fn f32(dims: &[usize], values: &[f32]) -> Self {
        debug_assert_eq!(dims.iter().product::<usize>(), values.len());
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self { dtype: DataType::FLOAT, dims: dims.to_vec(), bytes }
    }

    /// A float32 scalar.
    #[must_use]
    pub fn scalar(value: f32) -> Self {
        Self::f32(&[], &[value])
    }

    /// A one-dimensional int64 tensor, the form of shapes and axes.
    #[must_use]
    pub fn i64_list(values: &[i64]) -> Self {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self { dtype: DataType::INT64, dims: vec![values.len()], bytes }
    }

    /// The elements if the type is float32.
    #[must_use]
    pub fn to_f32(&self) -> Option<Vec<f32>> {
        if self.dtype != DataType::FLOAT {
            return None;
        }
        let (elements, _) = self.bytes.as_chunks::<4>();
        Some(elements.iter().map(|b| f32::from_le_bytes(*b)).collect())
    }

    /// The elements as float32 if the type is float32, float16, bfloat16 or double.
    #[must_use]
    pub fn float_values(&self) -> Option<Vec<f32>> {
        let pairs = || self.bytes.as_chunks::<2>().0.iter().copied();
        match self.dtype {
            DataType::FLOAT16 => Some(pairs().map(|b| f16::from_le_bytes(b).to_f32()).collect()),
            DataType::BFLOAT16 => Some(pairs().map(|b| bf16::from_le_bytes(b).to_f32()).collect()),
            DataType::DOUBLE => {
                let (elements, _) = self.bytes.as_chunks::<8>();
                Some(elements.iter().map(|b| f64::from_le_bytes(*b) as f32).collect())
            }
            _ => self.to_f32(),
        }
    }

    /// Index of the first element that is NaN.
    #[must_use]
    pub fn first_nan(&self) -> Option<usize> {
        self.float_values()?.iter().position(|value| value.is_nan())
    }

    /// The elements if the type is int64 or int32.
    #[must_use]
    pub fn to_i64(&self) -> Option<Vec<i64>> {
        match self.dtype {
            DataType::INT64 => {
                let (elements, _) = self.bytes.as_chunks::<8>();
                Some(elements.iter().map(|b| i64::from_le_bytes(*b)).collect())
            }
            DataType::INT32 => {
                let (elements, _) = self.bytes.as_chunks::<4>();
                Some(elements.iter().map(|b| i64::from(i32::from_le_bytes(*b))).collect())
            }
            _ => None,
        }
    }

    /// The element of a float32 tensor that has exactly one, with any number of dimensions.
    #[must_use]
    pub fn to_scalar(&self) -> Option<f32> {
        match self.to_f32()?[..] {
            [value] => Some(value),
            _ => None,
        }
    }

    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.dims.iter().product()
    }

    /// Whether there are no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
