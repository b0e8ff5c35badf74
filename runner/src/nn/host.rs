//! Implements `wasi:nn` for guests: handles in the instance's own table, every call bounded, errors of the
//! standard's kinds. Calls that may take long first move the guest to a thread of its own (`migration`).
//!
//! Written against the standard's WIT instead of using the crate wasmtime-wasi-nn, which does not bound the
//! tensors that a guest can make the host hold, and has one error kind for everything. Loading and running
//! models is left to `model`.

use super::model::{Loaded, Model, RunFailure};
use super::registry::{Grants, GuestModels};
use crate::account::{Charge, Charged, InstanceAccount};
use crate::migration::Migration;
use skincell_engines::{Model as LoadedModel, NamedTensor, Source, Tensor};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use wasmtime::component::{HasData, Linker, Resource, ResourceTable};

mod generated {
    wasmtime::component::bindgen!({
        path: "../wit/wasi-nn.wit",
        world: "ml",
        imports: {
            "wasi:nn/graph.load": async | trappable,
            "wasi:nn/graph.[method]graph.init-execution-context": async | trappable,
            "wasi:nn/inference.[method]graph-execution-context.compute": async | trappable,
            default: trappable,
        },
        with: {
            "wasi:nn/tensor.tensor": super::ChargedTensor,
            "wasi:nn/graph.graph": super::GraphHandle,
            "wasi:nn/inference.graph-execution-context": super::ContextHandle,
            "wasi:nn/errors.error": super::NnError,
        },
    });
}
use generated::wasi::nn::{errors, graph, inference, tensor};

pub use errors::ErrorCode;

skincell_engines::convert_tensor_type!(tensor::TensorType);

/// A guest's tensor, with its charge to the guest's account.
pub type ChargedTensor = Charged<Tensor>;

/// Most runs of models in one request. Chosen: the component makes one for each photo, and takes at most 64
/// photos in a request.
const MAX_COMPUTES: u32 = 100;
/// Most execution contexts of one request. Chosen: one for each run.
const MAX_CONTEXTS: u32 = 100;
/// Longest name quoted in an error, in characters.
const MAX_NAME: usize = 200;
/// Longest error about a run, in characters.
const MAX_WORDS: usize = 500;
/// Most inputs, and dimensions of one, that are quoted in an error.
const MAX_INPUTS_NAMED: usize = 8;

/// A model that was found by its name, or that the guest loaded from bytes.
#[derive(Clone)]
pub enum GraphHandle {
    /// Of this host; loaded when a context is made.
    Named(Arc<Model>),
    /// The guest's own, loaded already.
    Own(Arc<dyn LoadedModel>),
}

/// A loaded model; it stays loaded while this lives.
#[derive(Clone)]
pub enum ContextHandle {
    /// Of this host.
    Named(Arc<Model>, Arc<Loaded>),
    /// The guest's own.
    Own(Arc<dyn LoadedModel>),
}

impl ContextHandle {
    fn run(&self, inputs: &[NamedTensor]) -> Result<Vec<NamedTensor>, (String, RunFailure)> {
        match self {
            Self::Named(model, loaded) => {
                model.run(loaded, inputs).map_err(|error| (model.name().to_owned(), error))
            }
            Self::Own(model) => {
                model.run(inputs).map_err(|error| ("a guest's own".to_owned(), error.into()))
            }
        }
    }
}

/// An error that the guest can read.
#[derive(Debug)]
pub struct NnError {
    code: ErrorCode,
    words: String,
}

/// When a request must end, and whether its client still waits for it.
#[derive(Debug)]
pub(crate) struct Deadline {
    at: Instant,
    is_cancelled: AtomicBool,
}

impl Deadline {
    pub(crate) fn until(deadline: Instant) -> Self {
        Self { at: deadline, is_cancelled: AtomicBool::new(false) }
    }

    /// Lets no further call begin for this request.
    pub(crate) fn cancel(&self) {
        self.is_cancelled.store(true, Ordering::Release);
    }

    /// Why no further call may begin, if so.
    fn over(&self) -> Option<&'static str> {
        if self.is_cancelled.load(Ordering::Acquire) {
            return Some("the client has disconnected");
        }
        (Instant::now() >= self.at).then_some("the request's deadline has passed")
    }
}

/// The wasi-nn state of one instance.
pub(crate) struct NnState {
    grants: Grants,
    deadline: Arc<Deadline>,
    migration: Migration,
    computes: u32,
    contexts: u32,
    model_bytes: u64,
}

impl NnState {
    /// The state for one request.
    pub(crate) fn new(grants: Grants, deadline: Arc<Deadline>, migration: Migration) -> Self {
        Self { grants, deadline, migration, computes: 0, contexts: 0, model_bytes: 0 }
    }
}

/// The instance's wasi-nn state and its account, as the calls below need them.
pub(crate) struct NnView<'a> {
    pub(crate) state: &'a mut NnState,
    pub(crate) account: &'a mut InstanceAccount,
}

struct HasNn;

impl HasData for HasNn {
    type Data<'a> = NnView<'a>;
}

/// Adds `wasi:nn` to a linker.
///
/// # Errors
/// When the linker has it already.
pub(crate) fn add_to_linker<T: Send + 'static>(
    linker: &mut Linker<T>,
    view: fn(&mut T) -> NnView<'_>,
) -> wasmtime::Result<()> {
    tensor::add_to_linker::<_, HasNn>(linker, view)?;
    graph::add_to_linker::<_, HasNn>(linker, view)?;
    inference::add_to_linker::<_, HasNn>(linker, view)?;
    errors::add_to_linker::<_, HasNn>(linker, view)
}

/// The outer error traps the guest; the inner one is a handle that it can read.
type Answer<T> = wasmtime::Result<Result<T, Resource<NnError>>>;

impl NnView<'_> {
    fn table(&mut self) -> &mut ResourceTable {
        self.account.table()
    }

    fn fail<T>(&mut self, code: ErrorCode, words: impl Into<String>) -> Answer<T> {
        Ok(Err(self.table().push(NnError { code, words: words.into() })?))
    }

    /// Charges a new tensor. An overdrawn account traps, because the standard's constructor cannot fail.
    fn hold(&mut self, tensor: Tensor) -> wasmtime::Result<Resource<ChargedTensor>> {
        let charge = self.account.charge(size(&tensor))?;
        Ok(self.table().push(Charged { value: tensor, charge })?)
    }

    /// The inputs of a run by name, and their charges, held until it has ended.
    fn inputs(&mut self, inputs: Vec<inference::NamedTensor>) -> wasmtime::Result<Inputs> {
        let mut named: Inputs =
            (Vec::with_capacity(inputs.len()), Vec::with_capacity(inputs.len()));
        for (name, handle) in inputs {
            let Charged { value, charge } = self.table().delete(handle)?;
            named.0.push((name, value));
            named.1.push(charge);
        }
        Ok(named)
    }
}

/// Tensors by name, and their charges.
type Inputs = (Vec<NamedTensor>, Vec<Charge>);

/// Why a run failed, in names and numbers of the guest's own request, and no longer than [`MAX_WORDS`]: names
/// are as long as the guest makes them.
fn words_for_guest(error: &RunFailure, inputs: &[NamedTensor]) -> String {
    let words = match error {
        RunFailure::NoRoom { inputs, .. } => {
            format!("there is no memory for a run on {inputs} bytes of inputs")
        }
        RunFailure::Engine(error) => error.of_the_request().unwrap_or_else(|| {
            let given = inputs.iter().take(MAX_INPUTS_NAMED).map(|(name, tensor)| {
                let name: String = name.chars().take(MAX_NAME).collect();
                let dimensions = tensor.dimensions.get(..MAX_INPUTS_NAMED);
                let dimensions = dimensions.unwrap_or(&tensor.dimensions);
                format!("{name:?} {:?} {dimensions:?}", tensor.dtype)
            });
            let given: Vec<_> = given.collect();
            format!("the model did not run on these inputs: {}", given.join(", "))
        }),
    };
    words.chars().take(MAX_WORDS).collect()
}

/// Bytes of a tensor, including its dimensions: a guest may send many without elements.
fn size(tensor: &Tensor) -> u64 {
    (tensor.data.len() as u64).saturating_add(tensor.dimensions.len() as u64 * 4)
}

impl graph::Host for NnView<'_> {
    /// Loads a model from bytes, if that is allowed and the request's limit has room: such models are private
    /// memory. Models are normally loaded by name.
    async fn load(
        &mut self,
        builders: Vec<graph::GraphBuilder>,
        encoding: graph::GraphEncoding,
        _target: graph::ExecutionTarget,
    ) -> Answer<Resource<GraphHandle>> {
        let Some(GuestModels { engine, limit }) = self.state.grants.guest_models().cloned() else {
            let words = "models are loaded by name (load-by-name), not from a guest's bytes, unless the \
                         runner is started with --allow-guest-models";
            return self.fail(ErrorCode::UnsupportedOperation, words);
        };
        if encoding != graph::GraphEncoding::Onnx {
            return self.fail(ErrorCode::InvalidEncoding, "only ONNX is loaded from bytes");
        }
        let Ok([bytes]) = <[_; 1]>::try_from(builders) else {
            let words = "an ONNX model must be one builder that contains its weights";
            return self.fail(ErrorCode::InvalidArgument, words);
        };
        self.state.model_bytes = self.state.model_bytes.saturating_add(bytes.len() as u64);
        if self.state.model_bytes > limit {
            let words = format!("the models of a request exceed the limit of {limit} bytes");
            return self.fail(ErrorCode::TooLarge, words);
        }
        self.state.migration.migrated().await;
        if let Some(why) = self.state.deadline.over() {
            return self.fail(ErrorCode::Timeout, why);
        }
        match engine.load(Source::Bytes(bytes)) {
            Ok(model) => Ok(Ok(self.table().push(GraphHandle::Own(model.into()))?)),
            Err(error) => self.fail(ErrorCode::InvalidArgument, error.to_string()),
        }
    }

    fn load_by_name(&mut self, name: String) -> Answer<Resource<GraphHandle>> {
        match self.state.grants.find(&name) {
            Some(model) => Ok(Ok(self.table().push(GraphHandle::Named(model))?)),
            None => {
                let name: String = name.chars().take(MAX_NAME).collect();
                self.fail(ErrorCode::NotFound, format!("no model {name:?} is granted"))
            }
        }
    }
}

impl graph::HostGraph for NnView<'_> {
    /// Loads the model, if it is not loaded yet. The reason of a failure goes to the log only, because it may
    /// contain paths of this machine.
    async fn init_execution_context(
        &mut self,
        graph: Resource<GraphHandle>,
    ) -> Answer<Resource<ContextHandle>> {
        // A clone, because the table cannot be borrowed across the wait below.
        let graph = self.table().get(&graph)?.clone();
        self.state.contexts = self.state.contexts.saturating_add(1);
        if self.state.contexts > MAX_CONTEXTS {
            let words = format!(
                "a request may make at most {MAX_CONTEXTS} execution contexts; send the rest in another \
                 request"
            );
            return self.fail(ErrorCode::TooLarge, words);
        }
        self.state.migration.migrated().await;
        if let Some(why) = self.state.deadline.over() {
            return self.fail(ErrorCode::Timeout, why);
        }
        let model = match graph {
            GraphHandle::Named(model) => model,
            GraphHandle::Own(own) => return Ok(Ok(self.table().push(ContextHandle::Own(own))?)),
        };
        match model.acquire() {
            Ok(loaded) => Ok(Ok(self.table().push(ContextHandle::Named(model, loaded))?)),
            Err(error) => {
                // `Model` logs the reason, once.
                tracing::debug!(model = model.name(), "{error}");
                self.fail(ErrorCode::RuntimeError, error.to_clients())
            }
        }
    }

    fn drop(&mut self, graph: Resource<GraphHandle>) -> wasmtime::Result<()> {
        self.table().delete(graph).map(drop).map_err(Into::into)
    }
}

impl inference::HostGraphExecutionContext for NnView<'_> {
    async fn compute(
        &mut self,
        context: Resource<ContextHandle>,
        inputs: Vec<inference::NamedTensor>,
    ) -> Answer<Vec<inference::NamedTensor>> {
        let (inputs, charges) = self.inputs(inputs)?;
        self.state.computes = self.state.computes.saturating_add(1);
        if self.state.computes > MAX_COMPUTES {
            let words = format!(
                "a request may make at most {MAX_COMPUTES} runs; send the rest in another request"
            );
            return self.fail(ErrorCode::TooLarge, words);
        }
        self.state.migration.migrated().await;
        if let Some(why) = self.state.deadline.over() {
            return self.fail(ErrorCode::Timeout, why);
        }
        let context = self.table().get(&context)?.clone();
        let outcome = context.run(&inputs).map_err(|(model, error)| {
            let words = words_for_guest(&error, &inputs);
            (model, error, words)
        });
        drop((inputs, charges));
        match outcome {
            Ok(outputs) => {
                let outputs = outputs.into_iter();
                let outputs = outputs.map(|(name, tensor)| Ok((name, self.hold(tensor)?)));
                outputs.collect::<wasmtime::Result<_>>().map(Ok)
            }
            Err((model, error, words)) => {
                tracing::warn!(model, "{error}");
                let code = match error {
                    RunFailure::NoRoom { .. } => ErrorCode::TooLarge,
                    RunFailure::Engine(_) => ErrorCode::RuntimeError,
                };
                self.fail(code, words)
            }
        }
    }

    fn drop(&mut self, context: Resource<ContextHandle>) -> wasmtime::Result<()> {
        self.table().delete(context).map(drop).map_err(Into::into)
    }
}

impl tensor::HostTensor for NnView<'_> {
    fn new(
        &mut self,
        dimensions: Vec<u32>,
        ty: tensor::TensorType,
        data: Vec<u8>,
    ) -> wasmtime::Result<Resource<ChargedTensor>> {
        self.hold(Tensor { dimensions, dtype: ty.into(), data })
    }

    fn dimensions(&mut self, tensor: Resource<ChargedTensor>) -> wasmtime::Result<Vec<u32>> {
        Ok(self.table().get(&tensor)?.value.dimensions.clone())
    }

    fn ty(&mut self, tensor: Resource<ChargedTensor>) -> wasmtime::Result<tensor::TensorType> {
        Ok(self.table().get(&tensor)?.value.dtype.into())
    }

    fn data(&mut self, tensor: Resource<ChargedTensor>) -> wasmtime::Result<Vec<u8>> {
        Ok(self.table().get(&tensor)?.value.data.clone())
    }

    fn drop(&mut self, tensor: Resource<ChargedTensor>) -> wasmtime::Result<()> {
        self.table().delete(tensor).map(drop).map_err(Into::into)
    }
}

impl errors::HostError for NnView<'_> {
    fn code(&mut self, error: Resource<NnError>) -> wasmtime::Result<ErrorCode> {
        Ok(self.table().get(&error)?.code)
    }

    fn data(&mut self, error: Resource<NnError>) -> wasmtime::Result<String> {
        Ok(self.table().get(&error)?.words.clone())
    }

    fn drop(&mut self, error: Resource<NnError>) -> wasmtime::Result<()> {
        self.table().delete(error).map(drop).map_err(Into::into)
    }
}

impl tensor::Host for NnView<'_> {}
impl inference::Host for NnView<'_> {}
impl errors::Host for NnView<'_> {}
