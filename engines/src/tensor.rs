//! Tensors that engines take and return: dimensions, a type, and little-endian bytes, last axis fastest.
//!
//! Tensors come from untrusted callers; their dimensions and lengths are checked here, once for all
//! engines.

use std::borrow::Cow;

/// Largest number of dimensions a tensor may have.
pub const MAX_RANK: usize = 8;

/// Element type, one of those in wasi-nn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// IEEE 754 half precision.
    F16,
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 double precision.
    F64,
    /// The upper half of a single-precision number (bfloat16).
    Bf16,
    /// Unsigned byte.
    U8,
    /// Signed, four bytes.
    I32,
    /// Signed, eight bytes.
    I64,
}

impl Dtype {
    /// Bytes of one element.
    #[must_use]
    pub fn bytes(self) -> u64 {
        match self {
            Self::U8 => 1,
            Self::F16 | Self::Bf16 => 2,
            Self::F32 | Self::I32 => 4,
            Self::F64 | Self::I64 => 8,
        }
    }
}

impl std::fmt::Display for Dtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::F16 => "f16",
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::Bf16 => "bf16",
            Self::U8 => "u8",
            Self::I32 => "i32",
            Self::I64 => "i64",
        })
    }
}

/// Implements conversions between [`Dtype`] and the `tensor-type` generated from wasi-nn's WIT.
#[macro_export]
macro_rules! convert_tensor_type {
    ($($segment:ident)::+) => {
        const _: () = {
            use $($segment)::+ as Wit;
            use $crate::Dtype;

            impl From<Wit> for Dtype {
                fn from(ty: Wit) -> Self {
                    match ty {
                        Wit::Fp16 => Self::F16,
                        Wit::Fp32 => Self::F32,
                        Wit::Fp64 => Self::F64,
                        Wit::Bf16 => Self::Bf16,
                        Wit::U8 => Self::U8,
                        Wit::I32 => Self::I32,
                        Wit::I64 => Self::I64,
                    }
                }
            }

            impl From<Dtype> for Wit {
                fn from(dtype: Dtype) -> Self {
                    match dtype {
                        Dtype::F16 => Self::Fp16,
                        Dtype::F32 => Self::Fp32,
                        Dtype::F64 => Self::Fp64,
                        Dtype::Bf16 => Self::Bf16,
                        Dtype::U8 => Self::U8,
                        Dtype::I32 => Self::I32,
                        Dtype::I64 => Self::I64,
                    }
                }
            }
        };
    };
}

/// A tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Length of each axis, outermost first.
    pub dimensions: Vec<u32>,
    /// Type of the elements.
    pub dtype: Dtype,
    /// The elements, little-endian, last axis fastest.
    pub data: Vec<u8>,
}

/// A tensor and the name of the input or output it belongs to.
pub type NamedTensor = (String, Tensor);

/// Why a tensor is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// The tensor has too many axes.
    #[error("has {0} dimensions; at most {MAX_RANK} are taken")]
    Rank(usize),
    /// The number of bytes does not match the dimensions.
    #[error("dimensions {dimensions:?} need {needed} bytes, there are {actual}")]
    Length {
        /// The tensor's dimensions.
        dimensions: Vec<u32>,
        /// Bytes they imply; `u64::MAX` when the product overflows.
        needed: u64,
        /// Bytes given.
        actual: usize,
    },
    /// The dimensions are not the model's.
    #[error("has dimensions {given:?}; the model takes {taken:?}")]
    Shape {
        /// The tensor's dimensions.
        given: Vec<u32>,
        /// The model's.
        taken: Vec<u32>,
    },
    /// The engine does not support the element type.
    #[error("elements of type {given} are not taken here; use {taken}")]
    Dtype {
        /// The tensor's element type.
        given: Dtype,
        /// The types that the engine takes, as a list for users.
        taken: &'static str,
    },
    /// The engine keeps 32 bits of an integer, and this one has more.
    #[error("the element {0} does not fit into the 32 bits that are kept of it here")]
    Wide(i64),
}

impl Tensor {
    /// A tensor of these parts, unchecked.
    #[must_use]
    pub fn new(dimensions: Vec<u32>, dtype: Dtype, data: Vec<u8>) -> Self {
        Self { dimensions, dtype, data }
    }

    /// A tensor of `values`.
    pub(crate) fn of<T: bytemuck::NoUninit>(
        dimensions: Vec<u32>,
        dtype: Dtype,
        values: &[T],
    ) -> Self {
        Self { dimensions, dtype, data: bytemuck::cast_slice(values).to_vec() }
    }

    /// Checks that dimensions, type and number of bytes agree, and returns the dimensions.
    ///
    /// # Errors
    /// [`TensorError::Rank`] or [`TensorError::Length`].
    pub fn checked_shape(&self) -> Result<Vec<usize>, TensorError> {
        if self.dimensions.len() > MAX_RANK {
            return Err(TensorError::Rank(self.dimensions.len()));
        }
        let mut sizes = self.dimensions.iter().map(|size| u64::from(*size));
        let elements = sizes.try_fold(1_u64, u64::checked_mul);
        let needed = elements.and_then(|n| n.checked_mul(self.dtype.bytes())).unwrap_or(u64::MAX);
        if needed == self.data.len() as u64 {
            return Ok(self.dimensions.iter().map(|size| *size as usize).collect());
        }
        let (dimensions, actual) = (self.dimensions.clone(), self.data.len());
        Err(TensorError::Length { dimensions, needed, actual })
    }

    /// The elements of an `f32` tensor; `None` for any other type.
    #[must_use]
    pub fn to_f32(&self) -> Option<Vec<f32>> {
        (self.dtype == Dtype::F32).then(|| self.elements::<f32>().into_owned())
    }

    /// The elements, copied only if the bytes are not aligned for them. An incomplete last element is left
    /// out.
    pub(crate) fn elements<T: bytemuck::AnyBitPattern>(&self) -> Cow<'_, [T]> {
        bytemuck::try_cast_slice(&self.data).map_or_else(
            |_| {
                let elements = self.data.chunks_exact(size_of::<T>());
                Cow::Owned(elements.map(bytemuck::pod_read_unaligned).collect())
            },
            Cow::Borrowed,
        )
    }
}

#[cfg(target_endian = "big")]
compile_error!(
    "tensors are little-endian and used without conversion; big-endian targets are not supported"
);

#[cfg(test)]
mod tests {
    use super::{Dtype, Tensor, TensorError};

    #[test]
    fn dimensions_must_match_type_and_bytes() {
        let shape = |dimensions: &[u32], dtype, bytes| {
            Tensor::new(dimensions.to_vec(), dtype, vec![0; bytes]).checked_shape()
        };
        assert_eq!(shape(&[1, 3], Dtype::F32, 12), Ok(vec![1, 3]));
        assert_eq!(shape(&[], Dtype::U8, 1), Ok(vec![]));
        assert_eq!(shape(&[0, 9], Dtype::I64, 0), Ok(vec![0, 9]));
        assert_eq!(shape(&[1; 9], Dtype::U8, 1), Err(TensorError::Rank(9)));
        let cases = [
            (vec![2], Dtype::F16, 3, 4),
            (vec![u32::MAX, u32::MAX, 2], Dtype::F32, 0, u64::MAX),
            (vec![u32::MAX, u32::MAX], Dtype::F64, 8, u64::MAX),
        ];
        for (dimensions, dtype, actual, needed) in cases {
            let error = TensorError::Length { dimensions: dimensions.clone(), needed, actual };
            assert_eq!(shape(&dimensions, dtype, actual), Err(error));
        }
    }

    #[test]
    fn elements_of_f32_tensors_are_returned() {
        let values = [1.5_f32, -2.0, f32::MAX];
        let tensor = Tensor::of(vec![3], Dtype::F32, &values);
        assert_eq!(tensor.elements::<f32>(), values.as_slice());
        assert_eq!(tensor.to_f32(), Some(values.to_vec()));
        assert_eq!(Tensor { dtype: Dtype::I32, ..tensor }.to_f32(), None);
    }
}
