//! Runs a graph in rten to find the shapes of its values and to compare graphs.
//!
//! A model is loaded from memory, run on one photo at a time and dropped. Serving uses
//! `skincell_engines` instead.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use rten::{Model, ModelOptions, NodeId, Value, ValueOrView};
use rten_onnx::onnx::NodeProto;
use rten_tensor::Tensor;
use rten_tensor::prelude::*;
use thiserror::Error;

use crate::onnx::external;
use crate::onnx::graph::Graph;

/// Why a graph cannot be run.
#[derive(Debug, Error)]
pub enum EngineError {
    /// rten cannot load it.
    #[error("the engine rten cannot load this model: {0}")]
    Load(String),
    /// rten fails while running it.
    #[error("the engine rten cannot run this model: {0}")]
    Run(String),
    /// A node would make a value that is too large to compute.
    #[error(
        "{node} would make a value of {elements} elements, beside {others} of other values; one of its sizes \
         is probably damaged: export the model again, or prepare it for smaller photos with --size"
    )]
    Large {
        /// The node.
        node: String,
        /// Elements of its output.
        elements: u64,
        /// Elements of the other values that are needed at the same time.
        others: u64,
    },
    /// The graph does not have exactly one input.
    #[error("the model takes {inputs} inputs, but a classifier of photos takes one")]
    Inputs {
        /// Number of its inputs.
        inputs: usize,
    },
}

/// Runs `work` in the engine and turns a panic into an error: some invalid graphs make rten panic.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, EngineError>) -> Result<T, EngineError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        Err(EngineError::Run("it panicked inside an operator; export the model again".to_owned()))
    })
}

fn run_error(error: impl std::fmt::Display) -> EngineError {
    EngineError::Run(error.to_string())
}

/// A loaded graph with one input.
pub(crate) struct GraphEngine {
    model: Model,
    input: NodeId,
}

impl GraphEngine {
    /// Loads a graph without rten's optimisations, which would remove intermediate values.
    pub(crate) fn load(graph: &Graph) -> Result<Self, EngineError> {
        Self::load_with(graph, false)
    }

    /// Loads a graph as a server does, with its operators fused where the engine knows a faster one. A wrong
    /// fusion shows in what it gives.
    pub(crate) fn load_as_served(graph: &Graph) -> Result<Self, EngineError> {
        Self::load_with(graph, true)
    }

    fn load_with(graph: &Graph, fused: bool) -> Result<Self, EngineError> {
        let bytes = external::in_one_piece(graph).map_err(|e| EngineError::Load(e.to_string()))?;
        let mut options = ModelOptions::with_all_ops();
        options.enable_optimization(fused);
        let model = guarded(|| options.load(bytes).map_err(|e| EngineError::Load(e.to_string())))?;
        match *model.input_ids() {
            [input] => Ok(Self { model, input }),
            ref inputs => Err(EngineError::Inputs { inputs: inputs.len() }),
        }
    }

    /// Runs the graph on `input` and returns the values named in `wanted`.
    fn values(&self, input: ValueOrView, wanted: &[&str]) -> Result<Vec<Value>, EngineError> {
        let ids: Result<Vec<NodeId>, _> = wanted.iter().map(|w| self.model.node_id(w)).collect();
        let ids = ids.map_err(run_error)?;
        guarded(|| self.model.run(vec![(self.input, input)], &ids, None).map_err(run_error))
    }

    /// Runs the graph on `input` and returns the float32 values named in `wanted`.
    pub(crate) fn run(
        &self,
        input: ValueOrView,
        wanted: &[&str],
    ) -> Result<Vec<Tensor<f32>>, EngineError> {
        let values = self.values(input, wanted)?;
        let tensors = values.into_iter().zip(wanted).map(|(value, name)| match value {
            Value::FloatTensor(tensor) => Ok(tensor),
            _ => Err(run_error(format!(
                "the value {name:?} is not float32; if the model rounds its scores, name the value that they \
                 are made from with --scores"
            ))),
        });
        tensors.collect()
    }
}

/// Dimensions and elements of a value that is the same for every photo.
pub(crate) enum Fixed {
    /// float32.
    Floats(Vec<usize>, Vec<f32>),
    /// Integers or booleans, which rten holds in 32 bits.
    Integers(Vec<usize>, Vec<i32>),
}

/// Finds and remembers the shapes of values by running the graph on one photo of zeros.
pub(crate) struct Probe {
    engine: GraphEngine,
    photo: Tensor<f32>,
    known: HashMap<String, Vec<usize>>,
}

impl Probe {
    /// Loads the graph to run it on a photo of the given shape, float32.
    pub(crate) fn new(graph: &Graph, input_shape: &[usize]) -> Result<Self, EngineError> {
        let photo = Tensor::zeros(input_shape);
        let names = graph.inputs.iter().filter_map(|input| input.name.clone());
        let known = names.map(|name| (name, input_shape.to_vec())).collect();
        Ok(Self { engine: GraphEngine::load(graph)?, photo, known })
    }

    /// The values named; `None` for each that is neither float32 nor int32.
    pub(crate) fn fixed(&self, names: &[&str]) -> Result<Vec<Option<Fixed>>, EngineError> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let values = self.engine.values(self.photo.view().into(), names)?;
        let element = |value| match value {
            Value::FloatTensor(t) => Some(Fixed::Floats(t.shape().to_vec(), t.to_vec())),
            Value::Int32Tensor(t) => Some(Fixed::Integers(t.shape().to_vec(), t.to_vec())),
            _ => None,
        };
        Ok(values.into_iter().map(element).collect())
    }

    /// Finds the shapes of all outputs of these nodes.
    pub(crate) fn learn_made<'n>(
        &mut self,
        nodes: impl IntoIterator<Item = &'n NodeProto>,
    ) -> Result<&HashMap<String, Vec<usize>>, EngineError> {
        let made = nodes.into_iter().flat_map(|n| n.output.iter().map(String::as_str));
        self.learn(&made.filter(|o| !o.is_empty()).collect::<Vec<_>>())
    }

    /// Finds the shapes of the values named; returns all shapes known.
    pub(crate) fn learn(
        &mut self,
        names: &[&str],
    ) -> Result<&HashMap<String, Vec<usize>>, EngineError> {
        let mut new: Vec<&str> =
            names.iter().filter(|n| !self.known.contains_key(**n)).copied().collect();
        new.sort_unstable();
        new.dedup();
        if !new.is_empty() {
            let values = self.engine.values(self.photo.view().into(), &new)?;
            for (name, value) in new.into_iter().zip(values) {
                self.known.insert(name.to_owned(), shape(&value));
            }
        }
        Ok(&self.known)
    }
}

fn shape(value: &Value) -> Vec<usize> {
    match value {
        Value::FloatTensor(t) => t.shape().to_vec(),
        Value::Int32Tensor(t) => t.shape().to_vec(),
        Value::Int8Tensor(t) => t.shape().to_vec(),
        Value::UInt8Tensor(t) => t.shape().to_vec(),
        _ => Vec::new(),
    }
}
