//! The engine ONNX Runtime over `model.onnx`, from a library that the user names. The library is not
//! linked; it is opened when the first model is loaded.
//!
//! If the allowance has room, the weights are private copies in the layout of its kernels, which is fast;
//! otherwise they stay pages of `model.onnx.data`. Concurrent runs share one session without a lock. Only the
//! CPU execution provider is supported. Models in the form QDQ are computed in float32 where the library's
//! sums of 8-bit products are wrong.

use std::borrow::Cow;
use std::ffi::{CStr, CString};
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::ptr::{self, NonNull};
use std::sync::OnceLock;

use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::{bf16, f16};
use ort::environment::Environment;
use ort::ep::CPU;
use ort::logging::LogLevel;
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use ort::value::{
    DynValue, DynValueRef, Outlet, PrimitiveTensorElementType, TensorElementType, TensorRef,
    ValueType,
};
use ort::{AsPointer, sys};
use skincell_onnx::{outline, regular};

use crate::error::{LoadError, RunError};
use crate::inputs::matched;
use crate::outline::{Graph, Place};
use crate::source::{GRAPH_FILE, Source, WEIGHTS_FILE};
use crate::tensor::{Dtype, NamedTensor, Tensor, TensorError};
use crate::{Engine, Model};

const NAME: &str = "onnxruntime";

/// Private bytes besides the weights: the library itself, the graph, one run's feature maps. Measured with
/// EfficientNetV2-S at 300×300: 40 MiB.
const BESIDE_WEIGHTS: u64 = 48 << 20;

/// Whether ONNX Runtime's sums of 8-bit products are exact on this processor. On x86 without VNNI it adds
/// pairs of products in 16 bits (`vpmaddubsw`), which cuts off what does not fit: probabilities of quantized
/// models are then wrong by up to 1. It says so itself, and advises weights of 7 bits:
/// <https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html>
fn adds_bytes_exactly() -> bool {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    return is_x86_feature_detected!("avx512vnni") || is_x86_feature_detected!("avxvnni");
    #[cfg(not(any(target_arch = "x86", target_arch = "x86_64")))]
    true
}

/// Whether the graph at `path` is quantized and is computed in float32 on this processor. A damaged graph is
/// not, and is refused later.
fn is_widened(path: &Path) -> bool {
    let bytes = || regular::read(path).unwrap_or_default();
    !adds_bytes_exactly() && outline::check(&bytes()).is_ok_and(|outline| outline.dequantizes)
}

/// The engine.
pub struct OnnxRuntime {
    library: PathBuf,
    threads: usize,
    /// Private bytes that one model may take; `None` means unlimited.
    allowance: Option<u64>,
    only_where_it_fits: bool,
}

/// The named library does not exist.
#[derive(Debug, thiserror::Error)]
#[error(
    "there is no ONNX Runtime library at {0}; name the file itself, such as \
     onnxruntime/capi/libonnxruntime.so.1.x of the Python package onnxruntime"
)]
pub struct NoLibrary(PathBuf);

struct OnnxRuntimeModel {
    session: Session,
    /// The inputs' names, and the same as C strings for the library.
    inputs: Vec<String>,
    input_names: Vec<CString>,
    outputs: Vec<CString>,
}

impl OnnxRuntime {
    /// An engine over the library at `library`, with `threads` threads for each model.
    ///
    /// # Errors
    /// [`NoLibrary`] if the file does not exist.
    pub fn new(library: &Path, threads: usize) -> Result<Self, NoLibrary> {
        if !library.is_file() {
            return Err(NoLibrary(library.to_path_buf()));
        }
        let library = library.canonicalize().unwrap_or_else(|_| library.to_path_buf());
        Ok(Self { library, threads: threads.max(1), allowance: None, only_where_it_fits: false })
    }

    /// Loads the library, which [`OnnxRuntime::new`] only looks for.
    ///
    /// # Errors
    /// What is wrong with the file, in words: it is not a library, not ONNX Runtime's, or too old.
    pub fn load_library(&self) -> Result<(), String> {
        environment(&self.library).map(drop)
    }

    /// Sets the private bytes that one model may take; `None` means unlimited. A model that needs more (48
    /// MiB and its two files twice, or eight times if they are quantized and computed in float32) keeps its
    /// weights mapped.
    #[must_use]
    pub fn with_allowance(mut self, bytes: Option<u64>) -> Self {
        self.allowance = bytes;
        self
    }

    /// Takes only models that fit into the allowance; others are left to engines that keep mapped weights
    /// without private copies.
    #[must_use]
    pub fn only_where_it_fits(mut self) -> Self {
        self.only_where_it_fits = true;
        self
    }

    /// Whether the allowance has room for private weights. The copy is as large as the file's weights in the
    /// type they are computed in; making it takes at most as much again.
    fn fits(&self, folder: &Path) -> bool {
        let size = |name| std::fs::metadata(folder.join(name)).map_or(0, |data| data.len());
        // Weights of 8 bits that are computed in float32 become four times as large.
        let copies = if is_widened(&folder.join(GRAPH_FILE)) { 2 * 4 } else { 2 };
        let needed = size(GRAPH_FILE).saturating_add(size(WEIGHTS_FILE)).saturating_mul(copies);
        self.allowance.is_none_or(|bytes| needed.saturating_add(BESIDE_WEIGHTS) <= bytes)
    }

    /// Loads an ONNX file of any name, with private weights.
    ///
    /// # Errors
    /// [`LoadError`] with the file and the reason.
    pub fn load_file(&self, path: &Path) -> Result<Box<dyn Model>, LoadError> {
        self.open(path.to_path_buf(), true)
    }

    fn open(&self, path: PathBuf, is_private: bool) -> Result<Box<dyn Model>, LoadError> {
        // The real path: ONNX Runtime looks for weights beside the real file, not beside a link.
        let Ok(real) = path.canonicalize() else { return Err(LoadError::Missing(path)) };
        let graph = Graph::file(real, NAME)?;
        let Place::File(real) = &graph.place else { return Err(LoadError::Missing(path)) };
        let opened = self.session(real, is_private).and_then(OnnxRuntimeModel::new);
        match opened {
            Ok(model) => Ok(Box::new(model)),
            Err(reason) => Err(graph.refused(NAME, reason)),
        }
    }

    fn session(&self, path: &Path, is_private: bool) -> Result<Session, String> {
        let words = |error: ort::Error| error.to_string();
        let level = match is_private {
            true => GraphOptimizationLevel::All,
            // Level 2 does not rewrite weights into another layout.
            false => GraphOptimizationLevel::Level2,
        };
        // Folding would make float32 copies of mapped weights of 8 bits.
        let folds = is_private || !is_widened(path);
        let environment = environment(&self.library)?;
        // An arena keeps a run's memory for the next run, so it is used only if there is room for private
        // weights. Spinning is off because spinning threads take the processor from others.
        let build = || {
            Session::builder(environment)?
                .with_execution_providers([CPU::default()
                    .with_arena_allocator(is_private)
                    .build()])?
                .with_log_level(LogLevel::Warning)?
                .with_intra_threads(self.threads)?
                .with_inter_threads(1)?
                .with_intra_op_spinning(false)?
                .with_memory_pattern(true)?
                .with_prepacking(is_private)?
                .with_optimization_level(level)?
                .with_quant_qdq(adds_bytes_exactly())?
                .with_disabled_optimizers(if folds { "" } else { "ConstantFolding" })?
                .commit_from_file(path)
        };
        build().map_err(words)
    }
}

/// The process's only environment: ONNX Runtime allows one environment and one library per process. The error
/// is text, because making an error of `ort` needs a library that is loaded.
fn environment(library: &Path) -> Result<&'static Environment, String> {
    static ENVIRONMENT: OnceLock<Result<(PathBuf, Environment), String>> = OnceLock::new();
    let made = ENVIRONMENT.get_or_init(|| {
        let builder = ort::init_from(library).map_err(|error| error.to_string())?;
        let environment = builder.with_name("skincell").with_telemetry(false).build();
        Ok((library.to_path_buf(), environment.map_err(|error| error.to_string())?))
    });
    match made {
        Ok((path, environment)) if path == library => Ok(environment),
        Ok((path, _)) => Err(format!(
            "{} was loaded first, and a process has one ONNX Runtime; start another process for this one",
            path.display()
        )),
        Err(words) => Err(words.clone()),
    }
}

impl Engine for OnnxRuntime {
    fn name(&self) -> &'static str {
        NAME
    }

    fn takes(&self, source: &Source<'_>) -> bool {
        let Source::Folder(folder) = source else { return false };
        source.has_graph() && (!self.only_where_it_fits || self.fits(folder))
    }

    fn load(&self, source: Source<'_>) -> Result<Box<dyn Model>, LoadError> {
        let path = source.path(GRAPH_FILE);
        let Source::Folder(folder) = source else {
            let (model, reason) =
                (path.display().to_string(), "onnxruntime loads model folders only".to_owned());
            return Err(LoadError::Refused { engine: NAME, model, reason });
        };
        self.open(path, self.fits(folder))
    }
}

impl Model for OnnxRuntimeModel {
    fn run(&self, inputs: &[NamedTensor]) -> Result<Vec<NamedTensor>, RunError> {
        let indices = matched(&self.inputs, inputs)?;
        let mut bound = Vec::with_capacity(inputs.len());
        for ((name, tensor), index) in inputs.iter().zip(indices) {
            let named = |source| RunError::Tensor { name: name.clone(), source };
            let elements = Elements::of(tensor).map_err(named)?;
            bound.push((self.input_names[index].as_c_str(), elements));
        }
        let views = bound.iter().map(|(name, elements)| Ok((*name, elements.view()?)));
        let views = views.collect::<ort::Result<Vec<_>>>().map_err(failed)?;
        let values = self.call(&views).map_err(failed)?;
        let named = self.outputs.iter().zip(values);
        named
            .map(|(name, value)| {
                let name = name.to_string_lossy().into_owned();
                let tensor = from_value(&name, &value)?;
                Ok((name, tensor))
            })
            .collect()
    }
}

fn failed(error: ort::Error) -> RunError {
    RunError::Engine(error.to_string())
}

impl OnnxRuntimeModel {
    fn new(session: Session) -> Result<Self, String> {
        let names = |outlets: &[Outlet]| {
            let names = outlets.iter().map(|outlet| CString::new(outlet.name()));
            names.collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())
        };
        let (input_names, outputs) = (names(session.inputs())?, names(session.outputs())?);
        let inputs = session.inputs().iter().map(|outlet| outlet.name().to_owned()).collect();
        Ok(Self { session, inputs, input_names, outputs })
    }

    /// Runs the session on all its inputs and returns all outputs.
    fn call(&self, inputs: &[(&CStr, DynValueRef<'_>)]) -> ort::Result<Vec<DynValue>> {
        let names: Vec<_> = inputs.iter().map(|(name, _)| name.as_ptr()).collect();
        let values: Vec<*const sys::OrtValue> = inputs.iter().map(|(_, v)| v.ptr()).collect();
        let wanted: Vec<_> = self.outputs.iter().map(|name| name.as_ptr()).collect();
        let mut outputs: Vec<*mut sys::OrtValue> = vec![ptr::null_mut(); wanted.len()];
        #[expect(unsafe_code, reason = "ort's own `run` needs exclusive access to the session")]
        // SAFETY: the session is alive. ONNX Runtime documents that several threads may call `Run` at once;
        // ort forbids it because of other execution providers, but this session has only the CPU provider,
        // whose allocators (malloc, and with private weights the arena, which has a lock) may be used by
        // several threads. Names are C strings that outlive the call, values are live, and each array has
        // the length that is passed with it.
        let status = unsafe {
            (ort::api().Run)(
                self.session.ptr().cast_mut(),
                ptr::null(),
                names.as_ptr(),
                values.as_ptr(),
                values.len(),
                wanted.as_ptr(),
                wanted.len(),
                outputs.as_mut_ptr(),
            )
        };
        #[expect(unsafe_code, reason = "ort has no other way to turn a status into an error")]
        // SAFETY: the status that was just returned, used once.
        unsafe { ort::Error::result_from_status(status) }?;
        let owned = outputs.into_iter().map(|output| {
            let output =
                NonNull::new(output).ok_or_else(|| ort::Error::new("an output is null"))?;
            #[expect(unsafe_code, reason = "takes ownership of a value from `Run`")]
            // SAFETY: a valid value from a successful `Run` of this session, which passes ownership to the
            // caller, with that session's allocator.
            Ok(unsafe { DynValue::from_ptr(output, Some(self.session.allocator())) })
        });
        owned.collect()
    }
}

/// An input's elements, copied only if they are not aligned.
struct Elements<'a> {
    shape: Vec<usize>,
    data: Data<'a>,
}

enum Data<'a> {
    U8(&'a [u8]),
    /// Bit patterns.
    F16(Cow<'a, [u16]>),
    /// Bit patterns.
    Bf16(Cow<'a, [u16]>),
    F32(Cow<'a, [f32]>),
    F64(Cow<'a, [f64]>),
    I32(Cow<'a, [i32]>),
    I64(Cow<'a, [i64]>),
}

impl<'a> Elements<'a> {
    /// Checks that `tensor` has the bytes its dimensions need. ONNX Runtime checks that it fits the graph.
    fn of(tensor: &'a Tensor) -> Result<Self, TensorError> {
        let shape = tensor.checked_shape()?;
        let data = match tensor.dtype {
            Dtype::U8 => Data::U8(&tensor.data),
            Dtype::F16 => Data::F16(tensor.elements()),
            Dtype::Bf16 => Data::Bf16(tensor.elements()),
            Dtype::F32 => Data::F32(tensor.elements()),
            Dtype::F64 => Data::F64(tensor.elements()),
            Dtype::I32 => Data::I32(tensor.elements()),
            Dtype::I64 => Data::I64(tensor.elements()),
        };
        Ok(Self { shape, data })
    }

    fn view(&self) -> ort::Result<DynValueRef<'_>> {
        fn of<'a, T>(shape: &'a [usize], data: &'a [T]) -> ort::Result<DynValueRef<'a>>
        where
            T: PrimitiveTensorElementType + Clone + Debug + 'static,
        {
            Ok(TensorRef::from_array_view((shape, data))?.into_dyn())
        }
        let shape = self.shape.as_slice();
        match &self.data {
            Data::U8(data) => of(shape, data),
            Data::F16(data) => of::<f16>(shape, data.reinterpret_cast()),
            Data::Bf16(data) => of::<bf16>(shape, data.reinterpret_cast()),
            Data::F32(data) => of(shape, data),
            Data::F64(data) => of(shape, data),
            Data::I32(data) => of(shape, data),
            Data::I64(data) => of(shape, data),
        }
    }
}

fn from_value(name: &str, value: &DynValue) -> Result<Tensor, RunError> {
    let no_type =
        || RunError::OutputType { name: name.to_owned(), found: value.dtype().to_string() };
    let ValueType::Tensor { ty: element, .. } = value.dtype() else { return Err(no_type()) };
    match element {
        TensorElementType::Uint8 => owned::<u8, _>(value, Dtype::U8, <[u8]>::as_ref),
        TensorElementType::Float16 => owned::<f16, _>(value, Dtype::F16, |e| e.reinterpret_cast()),
        TensorElementType::Bfloat16 => {
            owned::<bf16, _>(value, Dtype::Bf16, |e| e.reinterpret_cast())
        }
        TensorElementType::Float32 => owned::<f32, _>(value, Dtype::F32, <[f32]>::as_ref),
        TensorElementType::Float64 => owned::<f64, _>(value, Dtype::F64, <[f64]>::as_ref),
        TensorElementType::Int32 => owned::<i32, _>(value, Dtype::I32, <[i32]>::as_ref),
        TensorElementType::Int64 => owned::<i64, _>(value, Dtype::I64, <[i64]>::as_ref),
        _ => return Err(no_type()),
    }
    .map_err(failed)
}

/// Copies an output into a [`Tensor`]; `bits` views its elements as plain numbers.
fn owned<T: PrimitiveTensorElementType, B: bytemuck::NoUninit>(
    value: &DynValue,
    dtype: Dtype,
    bits: impl FnOnce(&[T]) -> &[B],
) -> ort::Result<Tensor> {
    let (shape, elements) = value.try_extract_tensor::<T>()?;
    // An output in memory has fewer than `u32::MAX` elements.
    let dimensions = shape.iter().map(|&size| size as u32).collect();
    Ok(Tensor::of(dimensions, dtype, bits(elements)))
}
