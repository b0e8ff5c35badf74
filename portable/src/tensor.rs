//! Tensors as wasi-nn has them: dimensions, a type, and little-endian bytes, last axis fastest. What a
//! caller says about one is checked here, once for both engines, with the runner's limits.

use std::borrow::Cow;

/// Largest number of dimensions a tensor may have.
pub const MAX_RANK: usize = 8;

/// Type of the elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// IEEE 754 half precision.
    Fp16,
    /// IEEE 754 single precision.
    Fp32,
    /// IEEE 754 double precision.
    Fp64,
    /// Upper half of a single.
    Bf16,
    /// Unsigned byte.
    U8,
    /// Signed, four bytes.
    I32,
    /// Signed, eight bytes.
    I64,
}

impl Type {
    /// Bytes of one element.
    #[must_use]
    pub fn bytes(self) -> u64 {
        match self {
            Self::U8 => 1,
            Self::Fp16 | Self::Bf16 => 2,
            Self::Fp32 | Self::I32 => 4,
            Self::Fp64 | Self::I64 => 8,
        }
    }
}

/// A tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Length of each axis, outermost first.
    pub dimensions: Vec<u32>,
    /// Type of the elements.
    pub ty: Type,
    /// The elements.
    pub data: Vec<u8>,
}

/// What can be wrong with a tensor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// Too many axes.
    #[error("has {0} dimensions; at most {MAX_RANK} are taken")]
    Rank(usize),
    /// Bytes and dimensions contradict each other.
    #[error("dimensions {dimensions:?} need {needed} bytes, there are {actual}")]
    Length {
        /// The tensor's dimensions.
        dimensions: Vec<u32>,
        /// Bytes they imply; `u64::MAX` when the product overflows.
        needed: u64,
        /// Bytes given.
        actual: usize,
    },
    /// Dimensions the model does not take.
    #[error("has dimensions {given:?}; the model takes {taken:?}")]
    Shape {
        /// The tensor's dimensions.
        given: Vec<u32>,
        /// The model's.
        taken: Vec<u32>,
    },
    /// An element type the engine does not have.
    #[error("elements of type {0:?} are not taken; use f32, u8 or i32")]
    Type(Type),
}

impl Tensor {
    /// The dimensions as sizes, after checking that they agree with the type and the bytes.
    ///
    /// # Errors
    /// [`TensorError::Rank`] or [`TensorError::Length`].
    pub fn checked_shape(&self) -> Result<Vec<usize>, TensorError> {
        if self.dimensions.len() > MAX_RANK {
            return Err(TensorError::Rank(self.dimensions.len()));
        }
        let mut sizes = self.dimensions.iter().map(|size| u64::from(*size));
        let elements = sizes.try_fold(1_u64, u64::checked_mul);
        let needed = elements.and_then(|n| n.checked_mul(self.ty.bytes())).unwrap_or(u64::MAX);
        if needed == self.data.len() as u64 {
            return Ok(self.dimensions.iter().map(|size| *size as usize).collect());
        }
        let (dimensions, actual) = (self.dimensions.clone(), self.data.len());
        Err(TensorError::Length { dimensions, needed, actual })
    }

    /// Elements in place where the bytes are aligned for them, copied where they are not.
    pub(crate) fn elements<T: bytemuck::AnyBitPattern>(&self) -> Cow<'_, [T]> {
        bytemuck::try_cast_slice(&self.data).map_or_else(
            |_| {
                let elements = self.data.chunks_exact(size_of::<T>());
                Cow::Owned(elements.map(bytemuck::pod_read_unaligned).collect())
            },
            Cow::Borrowed,
        )
    }

    /// A tensor of `values`.
    pub(crate) fn of<T: bytemuck::NoUninit>(dimensions: Vec<u32>, ty: Type, values: &[T]) -> Self {
        Self { dimensions, ty, data: bytemuck::cast_slice(values).to_vec() }
    }
}

#[cfg(target_endian = "big")]
compile_error!("wasi-nn tensors are little-endian and are used here without conversion");

#[cfg(test)]
mod tests {
    use super::{Tensor, TensorError, Type};

    #[test]
    fn what_a_caller_says_of_a_tensor_is_checked() {
        let shape = |dimensions: &[u32], ty, bytes| {
            Tensor { dimensions: dimensions.to_vec(), ty, data: vec![0; bytes] }.checked_shape()
        };
        assert_eq!(shape(&[1, 3], Type::Fp32, 12), Ok(vec![1, 3]));
        assert_eq!(shape(&[], Type::U8, 1), Ok(vec![]));
        assert_eq!(shape(&[0, 9], Type::I64, 0), Ok(vec![0, 9]));
        assert_eq!(shape(&[1; 9], Type::U8, 1), Err(TensorError::Rank(9)));
        let cases = [
            (vec![2], Type::Fp16, 3, 4),
            (vec![u32::MAX, u32::MAX, 2], Type::Fp32, 0, u64::MAX),
            (vec![u32::MAX, u32::MAX], Type::Fp64, 8, u64::MAX),
        ];
        for (dimensions, ty, actual, needed) in cases {
            let error = TensorError::Length { dimensions: dimensions.clone(), needed, actual };
            assert_eq!(shape(&dimensions, ty, actual), Err(error));
        }
    }
}
