//! A constant tensor of a graph: element type, dimensions, little-endian bytes.
//!
//! Only what rewriting a graph needs; arithmetic on whole networks is the engines' business.

use half::{bf16, f16};
use rten_onnx::onnx::DataType;

/// A constant. `bytes` is row-major, little-endian, and exactly as long as type and dimensions say.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Constant {
    pub(crate) dtype: DataType,
    pub(crate) dims: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

/// Bytes an element takes, or `None` for types that do not have whole bytes or are not numbers.
pub(crate) fn element_size(dtype: DataType) -> Option<usize> {
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
    pub(crate) fn f32(dims: &[usize], values: &[f32]) -> Self {
        debug_assert_eq!(dims.iter().product::<usize>(), values.len());
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self { dtype: DataType::FLOAT, dims: dims.to_vec(), bytes }
    }

    /// A float32 number without dimensions.
    pub(crate) fn scalar(value: f32) -> Self {
        Self::f32(&[], &[value])
    }

    /// A list of int64, as shapes and axes are given.
    pub(crate) fn i64_list(values: &[i64]) -> Self {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self { dtype: DataType::INT64, dims: vec![values.len()], bytes }
    }

    /// The elements, if the type is float32.
    pub(crate) fn to_f32(&self) -> Option<Vec<f32>> {
        if self.dtype != DataType::FLOAT {
            return None;
        }
        let (elements, _) = self.bytes.as_chunks::<4>();
        Some(elements.iter().map(|b| f32::from_le_bytes(*b)).collect())
    }

    /// The elements as float32, of any type of floating point that is no wider.
    pub(crate) fn float_values(&self) -> Option<Vec<f32>> {
        let pairs = || self.bytes.as_chunks::<2>().0.iter().copied();
        match self.dtype {
            DataType::FLOAT16 => Some(pairs().map(|b| f16::from_le_bytes(b).to_f32()).collect()),
            DataType::BFLOAT16 => Some(pairs().map(|b| bf16::from_le_bytes(b).to_f32()).collect()),
            _ => self.to_f32(),
        }
    }

    /// The elements, if the type is int64 or int32.
    pub(crate) fn to_i64(&self) -> Option<Vec<i64>> {
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

    /// The one element of a float32 tensor that has just one, whatever its dimensions.
    pub(crate) fn to_scalar(&self) -> Option<f32> {
        match self.to_f32()?[..] {
            [value] => Some(value),
            _ => None,
        }
    }

    /// Number of elements.
    pub(crate) fn len(&self) -> usize {
        self.dims.iter().product()
    }
}
