//! An opened model, the workspace of a run, and the run itself.

use std::path::Path;
use std::sync::Arc;

use crate::error::{InferenceError, OpenError};
use crate::kernels::{Arena, Execution, Isa, workspace_floats};
use crate::mapping::Bytes;
use crate::packed::Packed;
use crate::plan::{Order, Plan, TensorSpec};
use crate::tensors::{self, TensorRef};
use crate::threads::Pool;

/// A model: a plan and mapped weights. Cheap to clone and to share between threads; a run changes only its
/// [`Workspace`].
#[derive(Debug, Clone)]
pub struct Model {
    packed: Arc<Packed>,
}

/// An output of a run, `f32`.
#[derive(Debug, Clone, PartialEq)]
pub struct OutputTensor {
    /// Dimensions as in the ONNX graph.
    pub dims: Vec<u32>,
    /// Elements, the last dimension running fastest.
    pub values: Vec<f32>,
}

/// The memory of one run, reused by the next.
#[derive(Debug)]
pub struct Workspace {
    packed: Arc<Packed>,
    arena: Option<Arena>,
    isa: Isa,
}

impl Workspace {
    /// A workspace for runs of `model` with the machine's best instruction set. The first run allocates its
    /// memory.
    #[must_use]
    pub fn new(model: &Model) -> Self {
        Self::with_isa(model, Isa::detect())
    }

    /// A workspace whose runs use this instruction set.
    #[must_use]
    pub fn with_isa(model: &Model, isa: Isa) -> Self {
        Self { packed: Arc::clone(&model.packed), arena: None, isa }
    }

    /// Bytes held now.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.arena.as_ref().map_or(0, |a| a.len() * 4)
    }

    /// Frees the memory; the next run allocates it again.
    pub fn release(&mut self) {
        self.arena = None;
    }
}

impl Model {
    /// Maps a `model.cell` and checks header and plan, without reading any weights.
    ///
    /// The file must not be written to while it is mapped: replace it by renaming a new one over it.
    ///
    /// # Errors
    /// [`OpenError`] with the reason.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        let path = path.as_ref();
        let bytes = Bytes::open(path)
            .map_err(|source| OpenError::Io { path: path.to_path_buf(), source })?;
        Ok(Self { packed: Arc::new(Packed::new(bytes)?) })
    }

    /// A model from the bytes of a `model.cell`, which are copied.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, OpenError> {
        Ok(Self { packed: Arc::new(Packed::new(Bytes::hold(bytes))?) })
    }

    /// A model from the bytes of a `model.cell` compiled into the program, used in place.
    ///
    /// # Errors
    /// As [`Model::open`], and if the bytes are not aligned to four.
    pub fn from_static(bytes: &'static [u8]) -> Result<Self, OpenError> {
        Ok(Self { packed: Arc::new(Packed::new(Bytes::Static(bytes))?) })
    }

    /// The model's inputs.
    #[must_use]
    pub fn inputs(&self) -> &[TensorSpec] {
        &self.packed.plan().inputs
    }

    /// The model's outputs.
    #[must_use]
    pub fn outputs(&self) -> &[TensorSpec] {
        &self.packed.plan().outputs
    }

    /// The plan, for inspection.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        self.packed.plan()
    }

    /// Bytes of weights in the file.
    #[must_use]
    pub fn weights_bytes(&self) -> usize {
        self.packed.weights_bytes().len()
    }

    /// Whether the weights are pages of the file, not a copy.
    #[must_use]
    pub fn is_mapped(&self) -> bool {
        self.packed.bytes().is_mapped()
    }

    /// Bytes a [`Workspace`] takes for a run by this many threads; `usize::MAX` if that overflows.
    #[must_use]
    pub fn workspace_bytes(&self, threads: usize) -> usize {
        workspace_floats(&self.packed, threads.max(1)).map_or(usize::MAX, |n| n.saturating_mul(4))
    }

    /// Reads the weights ahead, so that the first run does not wait for the disk page by page. Blocks until
    /// all pages are read: call it in the background.
    pub fn touch(&self) {
        self.packed.bytes().will_need();
        let page = 4096 / size_of::<f32>();
        let sum = self.packed.weights().iter().step_by(page).fold(0, |n, w| n ^ w.to_bits());
        std::hint::black_box(sum);
    }

    /// Compares the weights with their checksum; opening a model does not.
    ///
    /// # Errors
    /// [`OpenError::Checksum`] if they differ.
    pub fn verify(&self) -> Result<(), OpenError> {
        let found = crc32fast::hash(self.packed.weights_bytes());
        let expected = self.packed.weights_crc();
        if found == expected {
            return Ok(());
        }
        Err(OpenError::Checksum { part: "weights", found, expected })
    }

    /// Runs the model once. On one instruction set, results are bit-identical for every run and number of
    /// threads. Elements of inputs are in the order of the ONNX dimensions, the last running fastest.
    ///
    /// # Errors
    /// [`InferenceError`] for a workspace of another model; an input that is missing, unknown, repeated, or
    /// of the wrong type or length; too little memory; a worker thread that failed.
    pub fn run(
        &self,
        workspace: &mut Workspace,
        pool: &Pool,
        inputs: &[(&str, TensorRef<'_>)],
    ) -> Result<Vec<(String, OutputTensor)>, InferenceError> {
        if !Arc::ptr_eq(&self.packed, &workspace.packed) {
            return Err(InferenceError::Workspace);
        }
        let plan = self.packed.plan();
        self.check_inputs(inputs)?;
        let mut arena = take_arena(workspace, &self.packed, pool.threads())?;
        for spec in &plan.inputs {
            if let Some((_, tensor)) = inputs.iter().find(|(name, _)| *name == spec.name) {
                tensors::load(arena.floats_mut(), &plan.maps, spec, *tensor);
            }
        }
        let packed = Arc::clone(&self.packed);
        let execution = Execution::new(packed, arena, workspace.isa, pool.threads())
            .ok_or(InferenceError::Worker)?;
        let (arena, done) = pool.run(execution).ok_or(InferenceError::Worker)?.into_arena();
        if !done {
            return Err(InferenceError::Worker);
        }
        let outputs = plan.outputs.iter().map(|spec| {
            let values = tensors::store(arena.floats(), &plan.maps, spec);
            (spec.name.clone(), OutputTensor { dims: spec.dims.clone(), values })
        });
        let outputs = outputs.collect();
        workspace.arena = Some(arena);
        Ok(outputs)
    }

    fn check_inputs(&self, inputs: &[(&str, TensorRef<'_>)]) -> Result<(), InferenceError> {
        let specs = self.inputs();
        let names = || specs.iter().map(|spec| spec.name.as_str()).collect::<Vec<_>>().join(", ");
        for (index, (name, _)) in inputs.iter().enumerate() {
            if inputs.iter().take(index).any(|(earlier, _)| earlier == name) {
                return Err(InferenceError::RepeatedInput { name: (*name).to_owned() });
            }
            if !specs.iter().any(|spec| spec.name == *name) {
                return Err(InferenceError::UnknownInput {
                    name: (*name).to_owned(),
                    expected: names(),
                });
            }
        }
        for spec in specs {
            let name = spec.name.clone();
            let Some((_, tensor)) = inputs.iter().find(|(n, _)| *n == spec.name) else {
                return Err(InferenceError::MissingInput { name, expected: names() });
            };
            if tensor.dtype() != spec.dtype {
                return Err(InferenceError::Dtype {
                    name,
                    found: tensor.dtype(),
                    expected: spec.dtype,
                });
            }
            let expected = spec.dims.iter().map(|d| *d as usize).product();
            if tensor.len() != expected {
                let (found, dims) = (tensor.len(), spec.dims.clone());
                return Err(InferenceError::Length { name, found, expected, dims });
            }
        }
        Ok(())
    }
}

/// The workspace's arena, or a new one if it has none or it is too small.
fn take_arena(
    workspace: &mut Workspace,
    packed: &Packed,
    threads: usize,
) -> Result<Arena, InferenceError> {
    let Some(needed) = workspace_floats(packed, threads) else {
        return Err(InferenceError::Memory { bytes: usize::MAX });
    };
    match workspace.arena.take() {
        Some(arena) if arena.len() >= needed => Ok(arena),
        _ => Arena::new(needed).ok_or(InferenceError::Memory { bytes: needed.saturating_mul(4) }),
    }
}

impl TensorSpec {
    /// Elements of the tensor.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.dims.iter().map(|d| *d as usize).product()
    }

    /// Whether channels come before height and width.
    #[must_use]
    pub fn channels_first(&self) -> bool {
        self.order == Order::ChannelsFirst
    }
}
