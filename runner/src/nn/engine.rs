//! The seam to an inference engine: load a model folder, run named tensors through it.
//!
//! Tensors cross as wasi-nn has them: little-endian bytes with dimensions and a type. What a guest says
//! about a tensor is checked here, once for all engines.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use wasmtime_wasi_nn::Tensor;
use wasmtime_wasi_nn::wit::TensorType;

/// Something that runs models.
pub trait Engine: Send + Sync {
    /// Its name in logs and in `/memory`.
    fn name(&self) -> &'static str;

    /// Whether `folder` holds what this engine loads. Looks at names only.
    fn takes(&self, folder: &Path) -> bool;

    /// Loads the model in `folder`. May take a while; called by one thread at a time for one model.
    ///
    /// # Errors
    /// [`LoadError`], with the file and what is wrong with it.
    fn load(&self, folder: &Path) -> Result<Box<dyn LoadedModel>, LoadError>;

    /// Loads an ONNX model from these bytes, which may refer to no file.
    ///
    /// # Errors
    /// What is wrong with it, in the engine's own words, or that this engine does not do that.
    fn load_onnx(&self, _bytes: Vec<u8>) -> Result<Box<dyn LoadedModel>, String> {
        Err(format!("{} loads no models from bytes", self.name()))
    }
}

/// A model in memory, run by any number of threads at once.
pub trait LoadedModel: Send + Sync {
    /// Runs the model on `inputs` and gives all its outputs by name.
    ///
    /// # Errors
    /// [`RunError`] for inputs that do not fit the model, or when the engine fails.
    fn run(&self, inputs: Vec<(String, Tensor)>) -> Result<Vec<(String, Tensor)>, RunError>;

    /// What a run takes beside its outputs, in bytes, and the model then keeps for the next one; `None`
    /// where the engine does not know beforehand and it has to be measured.
    fn workspace_bytes(&self) -> Option<u64> {
        None
    }

    /// Has the weights read in, so that the first run finds its pages and does not fetch them one by one.
    /// Called in the background.
    fn read_ahead(&self) {}
}

/// Why a model cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// There is no model file.
    #[error("there is no {0}; make it with `skincell model prepare`")]
    Missing(PathBuf),
    /// The engine does not take it.
    #[error("{engine} cannot load {path}: {reason}")]
    Refused {
        /// The engine's name.
        engine: &'static str,
        /// The model file.
        path: PathBuf,
        /// The engine's own words.
        reason: String,
    },
    /// Its files are not what they were while they were read.
    #[error("the files of the model changed while it was loaded; replace them by rename")]
    Changed,
}

impl LoadError {
    /// The reason without the paths of this machine.
    #[must_use]
    pub fn in_short(&self) -> String {
        match self {
            Self::Missing(_) => "there is no model file".to_owned(),
            Self::Refused { engine, .. } => {
                format!("{engine} cannot load it; the log has the reason")
            }
            Self::Changed => self.to_string(),
        }
    }
}

/// Why a model did not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A tensor that contradicts itself or that the engine has no type for.
    #[error("input {name:?}: {source}")]
    Tensor {
        /// The input's name.
        name: String,
        /// What is wrong.
        source: TensorError,
    },
    /// A name the model does not have.
    #[error("the model has no input {name:?}; it has {known:?}")]
    UnknownInput {
        /// The name given.
        name: String,
        /// The names there are.
        known: Vec<String>,
    },
    /// Too few inputs.
    #[error("the input {0:?} is missing")]
    MissingInput(String),
    /// The same input twice: engines differ in which they would take.
    #[error("the input {0:?} was given more than once")]
    RepeatedInput(String),
    /// The model's files were changed under it.
    #[error("{0}; the model is loaded again for the next request: replace files by rename")]
    Damaged(String),
    /// The engine's own error.
    #[error("the engine failed: {0}")]
    Engine(String),
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
    #[error("elements of type {0} are not taken; use f32, u8 or i32")]
    Type(&'static str),
}

/// Largest number of dimensions a tensor may have.
pub(super) const MAX_RANK: usize = 8;

/// The dimensions of `tensor` as sizes, after checking that they agree with its type and bytes.
///
/// # Errors
/// [`TensorError::Rank`] or [`TensorError::Length`].
pub(crate) fn checked_shape(tensor: &Tensor) -> Result<Vec<usize>, TensorError> {
    if tensor.dimensions.len() > MAX_RANK {
        return Err(TensorError::Rank(tensor.dimensions.len()));
    }
    let elements = tensor
        .dimensions
        .iter()
        .try_fold(1_u64, |product, &size| product.checked_mul(u64::from(size)));
    let needed = elements.and_then(|n| n.checked_mul(element_bytes(tensor.ty))).unwrap_or(u64::MAX);
    if needed != tensor.data.len() as u64 {
        return Err(TensorError::Length {
            dimensions: tensor.dimensions.clone(),
            needed,
            actual: tensor.data.len(),
        });
    }
    Ok(tensor.dimensions.iter().map(|&size| size as usize).collect())
}

/// Bytes of one element.
fn element_bytes(ty: TensorType) -> u64 {
    match ty {
        TensorType::U8 => 1,
        TensorType::Fp16 | TensorType::Bf16 => 2,
        TensorType::Fp32 | TensorType::I32 => 4,
        TensorType::Fp64 | TensorType::I64 => 8,
    }
}

/// Elements in place where the bytes are aligned for them, copied where they are not. Little-endian, as
/// this runner is built for little-endian machines only.
pub(crate) fn aligned<T: bytemuck::AnyBitPattern>(bytes: &[u8]) -> Cow<'_, [T]> {
    match bytemuck::try_cast_slice(bytes) {
        Ok(elements) => Cow::Borrowed(elements),
        Err(_) => {
            let size = size_of::<T>();
            Cow::Owned(bytes.chunks_exact(size).map(bytemuck::pod_read_unaligned).collect())
        }
    }
}

#[cfg(target_endian = "big")]
compile_error!("wasi-nn tensors are little-endian and are used here without conversion");

/// The type's name in wasi-nn.
pub(crate) fn type_name(ty: TensorType) -> &'static str {
    match ty {
        TensorType::U8 => "u8",
        TensorType::Fp16 => "fp16",
        TensorType::Bf16 => "bf16",
        TensorType::Fp32 => "fp32",
        TensorType::I32 => "i32",
        TensorType::Fp64 => "fp64",
        TensorType::I64 => "i64",
    }
}

#[cfg(test)]
mod tests {
    use super::{TensorError, checked_shape};
    use wasmtime_wasi_nn::Tensor;
    use wasmtime_wasi_nn::wit::TensorType;

    #[test]
    fn what_a_guest_says_of_a_tensor_is_checked() {
        let shape = |dimensions: &[u32], ty, bytes| {
            checked_shape(&Tensor::new(dimensions.to_vec(), ty, vec![0; bytes]))
        };
        assert_eq!(shape(&[1, 3], TensorType::Fp32, 12), Ok(vec![1, 3]));
        assert_eq!(shape(&[], TensorType::U8, 1), Ok(vec![]));
        assert_eq!(shape(&[0, 9], TensorType::I64, 0), Ok(vec![0, 9]));
        assert_eq!(shape(&[1; 9], TensorType::U8, 1), Err(TensorError::Rank(9)));
        let cases = [
            (vec![2], TensorType::Fp16, 3, 4),
            (vec![u32::MAX, u32::MAX, 2], TensorType::Fp32, 0, u64::MAX),
            (vec![u32::MAX, u32::MAX], TensorType::Fp64, 8, u64::MAX),
        ];
        for (dimensions, ty, actual, needed) in cases {
            let error = TensorError::Length { dimensions: dimensions.clone(), needed, actual };
            assert_eq!(shape(&dimensions, ty, actual), Err(error));
        }
    }
}
