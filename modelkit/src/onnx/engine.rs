//! Runs a graph in rten: to learn the shapes its values have, and to compare graphs.
//!
//! Serving is the runner's business; here a model is loaded from memory, run on one tensor, dropped.

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
    /// rten does not load it.
    #[error("the engine rten cannot load this model: {0}")]
    Load(String),
    /// rten does not get to its end.
    #[error("the engine rten cannot run this model: {0}")]
    Run(String),
    /// It asks for what is not given here.
    #[error("the model takes {inputs} inputs, and a classifier of photos takes one")]
    Inputs {
        /// How many it takes.
        inputs: usize,
    },
}

/// Runs `work` of the engine's, in which a graph that fits no operator may panic.
fn guarded<T>(work: impl FnOnce() -> Result<T, EngineError>) -> Result<T, EngineError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        Err(EngineError::Run("it broke off inside an operator; export the model again".to_owned()))
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
    /// Loads a graph as it stands, its values in between kept, so that they can be asked for.
    pub(crate) fn load(graph: &Graph) -> Result<Self, EngineError> {
        let bytes = external::in_one_piece(graph).map_err(|e| EngineError::Load(e.to_string()))?;
        let mut options = ModelOptions::with_all_ops();
        options.enable_optimization(false);
        let model = guarded(|| options.load(bytes).map_err(|e| EngineError::Load(e.to_string())))?;
        match *model.input_ids() {
            [input] => Ok(Self { model, input }),
            ref inputs => Err(EngineError::Inputs { inputs: inputs.len() }),
        }
    }

    /// The values named, after a run on `input`.
    fn values(&self, input: ValueOrView, wanted: &[&str]) -> Result<Vec<Value>, EngineError> {
        let ids: Result<Vec<NodeId>, _> = wanted.iter().map(|w| self.model.node_id(w)).collect();
        let ids = ids.map_err(run_error)?;
        guarded(|| self.model.run(vec![(self.input, input)], &ids, None).map_err(run_error))
    }

    /// The float32 values named, after a run on `input`.
    pub(crate) fn run(
        &self,
        input: ValueOrView,
        wanted: &[&str],
    ) -> Result<Vec<Tensor<f32>>, EngineError> {
        let values = self.values(input, wanted)?;
        let tensors = values.into_iter().map(|value| match value {
            Value::FloatTensor(tensor) => Ok(tensor),
            _ => Err(run_error("a value that should be float32 is not")),
        });
        tensors.collect()
    }
}

/// The elements of a value that is the same for every photo, behind its dimensions.
pub(crate) enum Fixed {
    /// float32.
    Floats(Vec<usize>, Vec<f32>),
    /// Integers or conditions, in the engine's 32 bits.
    Integers(Vec<usize>, Vec<i32>),
}

/// Answers which shape a value has when the graph runs on one photo, each value asked for once.
pub(crate) struct Probe {
    engine: GraphEngine,
    photo: Tensor<f32>,
    known: HashMap<String, Vec<usize>>,
}

impl Probe {
    /// Loads the graph to run it on a photo of the given shape, float32.
    pub(crate) fn new(graph: &Graph, input_shape: &[usize]) -> Result<Self, EngineError> {
        let photo = Tensor::zeros(input_shape);
        Ok(Self { engine: GraphEngine::load(graph)?, photo, known: HashMap::new() })
    }

    /// The values named, where they are float32 or integers.
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

    /// Learns the shapes of all that these nodes make.
    pub(crate) fn learn_made<'n>(
        &mut self,
        nodes: impl IntoIterator<Item = &'n NodeProto>,
    ) -> Result<&HashMap<String, Vec<usize>>, EngineError> {
        let made = nodes.into_iter().flat_map(|n| n.output.iter().map(String::as_str));
        self.learn(&made.filter(|o| !o.is_empty()).collect::<Vec<_>>())
    }

    /// Learns the shapes of some values.
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
