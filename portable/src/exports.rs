//! The glue: wasi-nn's resources and functions over [`crate::store`].
//!
//! Error codes and limits are those of the runner's native side, held there by one suite
//! (`tests/cases/conformance.rs`): an unknown name is `not-found`, a graph from bytes
//! `unsupported-operation`, whatever goes wrong in loading or running a model `runtime-error`, and more
//! contexts or runs than one request may have `too-large`.

use std::cell::Cell;
use std::rc::Rc;
use std::thread::LocalKey;

use bindings::exports::wasi::nn::errors::{self, ErrorCode};
use bindings::exports::wasi::nn::graph::{self, ExecutionTarget, GraphBuilder, GraphEncoding};
use bindings::exports::wasi::nn::inference::{self, NamedTensor};
use bindings::exports::wasi::nn::tensor::{self, TensorType};

use skincell_engines::{Model, Tensor};

use crate::store::{FOLDER, FOLDER_VARIABLE, Place, Store};

/// What wit-bindgen makes of `wit/wasi-nn.wit`, exported.
#[allow(warnings, unsafe_code, clippy::all, clippy::too_many_lines, reason = "generated")]
mod bindings {
    use super::Component;

    wit_bindgen::generate!({
        inline: "
            package skincell:portable;
            world provider {
                export wasi:nn/tensor@0.2.0-rc-2024-10-28;
                export wasi:nn/graph@0.2.0-rc-2024-10-28;
                export wasi:nn/inference@0.2.0-rc-2024-10-28;
                export wasi:nn/errors@0.2.0-rc-2024-10-28;
            }
        ",
        path: "../wit",
        world: "skincell:portable/provider",
    });
    export!(Component);
}

skincell_engines::convert_tensor_type!(tensor::TensorType);

/// Execution contexts one instance may make, which serves one request.
const MAX_CONTEXTS: u32 = 100;
/// Runs it may ask for.
const MAX_COMPUTES: u32 = 100;

thread_local! {
    /// The models of this instance.
    static STORE: Store = {
        let baked = crate::baked::archive();
        // Who brings models along looks for no others.
        let folder = baked.is_empty().then(|| std::env::var_os(FOLDER_VARIABLE)).flatten();
        Store::new(folder.unwrap_or_else(|| FOLDER.into()), baked)
    };
    static CONTEXTS: Cell<u32> = const { Cell::new(0) };
    static COMPUTES: Cell<u32> = const { Cell::new(0) };
}

/// Counts one more; refuses it when there have been `most`.
fn count(
    counter: &'static LocalKey<Cell<u32>>,
    most: u32,
    what: &str,
) -> Result<(), errors::Error> {
    let number = counter.get().saturating_add(1);
    counter.set(number);
    match number <= most {
        true => Ok(()),
        false => Err(failure(ErrorCode::TooLarge, format!("at most {most} {what} a request"))),
    }
}

struct Component;

/// A model by name, not yet loaded.
struct Granted {
    name: String,
    place: Place,
}

/// A model ready to run.
struct Context(Rc<dyn Model>);

/// A failure.
struct Failure {
    code: ErrorCode,
    words: String,
}

fn failure(code: ErrorCode, words: impl ToString) -> errors::Error {
    errors::Error::new(Failure { code, words: words.to_string() })
}

impl tensor::Guest for Component {
    type Tensor = Tensor;
}

impl tensor::GuestTensor for Tensor {
    fn new(dimensions: Vec<u32>, ty: TensorType, data: Vec<u8>) -> Self {
        Self { dimensions, dtype: ty.into(), data }
    }

    fn dimensions(&self) -> Vec<u32> {
        self.dimensions.clone()
    }

    fn ty(&self) -> TensorType {
        self.dtype.into()
    }

    fn data(&self) -> Vec<u8> {
        self.data.clone()
    }
}

impl graph::Guest for Component {
    type Graph = Granted;

    fn load(
        _: Vec<GraphBuilder>,
        _: GraphEncoding,
        _: ExecutionTarget,
    ) -> Result<graph::Graph, errors::Error> {
        let words = "models come by name (load-by-name), not from a guest's bytes";
        Err(failure(ErrorCode::UnsupportedOperation, words))
    }

    fn load_by_name(name: String) -> Result<graph::Graph, errors::Error> {
        match STORE.with(|store| store.find(&name)) {
            Some(place) => Ok(graph::Graph::new(Granted { name, place })),
            None => {
                let words = format!("no model is mounted as {name:?}");
                Err(failure(ErrorCode::NotFound, words))
            }
        }
    }
}

impl graph::GuestGraph for Granted {
    fn init_execution_context(&self) -> Result<inference::GraphExecutionContext, errors::Error> {
        count(&CONTEXTS, MAX_CONTEXTS, "execution contexts")?;
        let model = STORE.with(|store| store.load(&self.name, &self.place));
        let model = model.map_err(|error| failure(ErrorCode::RuntimeError, error))?;
        Ok(inference::GraphExecutionContext::new(Context(model)))
    }
}

impl inference::Guest for Component {
    type GraphExecutionContext = Context;
}

impl inference::GuestGraphExecutionContext for Context {
    fn compute(&self, inputs: Vec<NamedTensor>) -> Result<Vec<NamedTensor>, errors::Error> {
        let taken = |(name, tensor): NamedTensor| (name, tensor.into_inner::<Tensor>());
        let inputs: Vec<_> = inputs.into_iter().map(taken).collect();
        count(&COMPUTES, MAX_COMPUTES, "runs")?;
        let outputs = self.0.run(&inputs);
        let outputs = outputs.map_err(|error| failure(ErrorCode::RuntimeError, error))?;
        let given = |(name, output)| (name, tensor::Tensor::new(output));
        Ok(outputs.into_iter().map(given).collect())
    }
}

impl errors::Guest for Component {
    type Error = Failure;
}

impl errors::GuestError for Failure {
    fn code(&self) -> ErrorCode {
        self.code
    }

    fn data(&self) -> String {
        self.words.clone()
    }
}
