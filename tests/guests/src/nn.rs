//! Excessive use of wasi-nn: as many contexts, runs and tensors as the host allows.

use bindings::wasi::nn::errors::Error;
use bindings::wasi::nn::graph::{ExecutionTarget, GraphEncoding, load, load_by_name};
use bindings::wasi::nn::tensor::{Tensor, TensorType};

#[allow(warnings, unsafe_code, clippy::all, clippy::too_many_lines, reason = "generated")]
pub(crate) mod bindings {
    spin_sdk::wit_bindgen::generate!({
        path: "../../wit/wasi-nn.wit",
        world: "ml",
        runtime_path: "::spin_sdk::wit_bindgen::rt",
    });
}

fn code(error: &Error) -> String {
    format!("{:?}", error.code())
}

/// Makes an execution context of `model`.
pub(crate) fn context(model: &str) -> String {
    let context = load_by_name(model).and_then(|graph| graph.init_execution_context());
    context.map_or_else(|error| code(&error), |_| "ready".to_owned())
}

/// Makes up to 10,000 execution contexts of `model` and keeps them; returns their number and the error that
/// ended it.
pub(crate) fn contexts(model: &str) -> String {
    let graph = match load_by_name(model) {
        Ok(graph) => graph,
        Err(error) => return code(&error),
    };
    let mut held = Vec::new();
    for _ in 0..10_000 {
        match graph.init_execution_context() {
            Ok(context) => held.push(context),
            Err(error) => return format!("{} {}", held.len(), code(&error)),
        }
    }
    held.len().to_string()
}

/// Runs `model` up to 10,000 times without inputs; returns the number of attempts and the error that ended
/// it.
pub(crate) fn computes(model: &str) -> String {
    let context = load_by_name(model).and_then(|graph| graph.init_execution_context());
    let context = match context {
        Ok(context) => context,
        Err(error) => return code(&error),
    };
    for tried in 0..10_000 {
        // A run without inputs is refused, but counted.
        match context.compute(Vec::new()).map_err(|error| code(&error)) {
            Err(kind) if kind.contains("RuntimeError") => {}
            Err(kind) => return format!("{tried} {kind}"),
            Ok(_) => return "it ran on nothing".to_owned(),
        }
    }
    "without end".to_owned()
}

/// Loads a model from bytes and makes a context of it.
pub(crate) fn load_bytes(model: Vec<u8>) -> String {
    let context = load(&[model], GraphEncoding::Onnx, ExecutionTarget::Cpu)
        .and_then(|graph| graph.init_execution_context());
    match context {
        Ok(_) => "loaded".to_owned(),
        Err(error) => code(&error),
    }
}

/// Loads a model by name.
pub(crate) fn load_name(name: &str) -> String {
    match load_by_name(name) {
        Ok(_) => "loaded".to_owned(),
        Err(error) => code(&error),
    }
}

/// Passes tensors of `bytes` to the host and never drops one.
pub(crate) fn leak_tensors(bytes: u32) -> ! {
    let data = vec![7; bytes as usize];
    loop {
        std::mem::forget(Tensor::new(&[bytes], TensorType::U8, &data));
    }
}

/// Passes `count` tensors of `bytes` to the host one after the other and reads each back; returns the bytes
/// read.
pub(crate) fn move_tensors(bytes: u32, count: u32) -> String {
    let data = vec![7; bytes as usize];
    let there_and_back = |_| Tensor::new(&[bytes], TensorType::U8, &data).data().len();
    (0..count).map(there_and_back).sum::<usize>().to_string()
}
