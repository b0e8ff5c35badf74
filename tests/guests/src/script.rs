//! Makes calls of wasi-nn in any order, by a script of bytes from a fuzzer.
//!
//! A byte is a call, and the next ones are its arguments. Handles are kept in lists and picked by number,
//! so that they are used, dropped and leaked in any order.

use crate::nn::bindings::wasi::nn::graph::{
    ExecutionTarget, Graph, GraphEncoding, load, load_by_name,
};
use crate::nn::bindings::wasi::nn::inference::GraphExecutionContext;
use crate::nn::bindings::wasi::nn::tensor::{Tensor, TensorType};

/// Names a script may pick; it spells out any other name.
const NAMES: [&str; 6] = ["colours", "photo", "", "../colours", "scores", "broken"];
const TYPES: [TensorType; 7] = [
    TensorType::Fp16,
    TensorType::Fp32,
    TensorType::Fp64,
    TensorType::Bf16,
    TensorType::U8,
    TensorType::I32,
    TensorType::I64,
];
const SIZES: [u32; 8] = [0, 1, 2, 3, 8, 1 << 16, i32::MAX as u32, u32::MAX];

#[derive(Default)]
struct Handles {
    tensors: Vec<Tensor>,
    graphs: Vec<Graph>,
    contexts: Vec<GraphExecutionContext>,
    errors: usize,
    ran: usize,
}

/// The rest of the script.
struct Script<'a>(std::slice::Iter<'a, u8>);

impl Script<'_> {
    fn byte(&mut self) -> Option<u8> {
        self.0.next().copied()
    }

    fn name(&mut self) -> Option<String> {
        let first = self.byte()?;
        if let Some(name) = NAMES.get(usize::from(first)) {
            return Some((*name).to_owned());
        }
        let letters: Vec<u8> = (0..first % 32).map_while(|_| self.byte()).collect();
        Some(String::from_utf8_lossy(&letters).into_owned())
    }

    /// A tensor with the shape of the model's input, or with a shape from the script.
    fn tensor(&mut self) -> Option<Tensor> {
        let ty = TYPES[usize::from(self.byte()? % 7)];
        let shape = self.byte()?;
        if shape >= 128 {
            return Some(Tensor::new(&[1, 3, 8, 8], ty, &vec![shape; 3 * 8 * 8 * 4]));
        }
        let dimensions: Vec<u32> =
            (0..shape % 12).map_while(|_| Some(SIZES[usize::from(self.byte()? % 8)])).collect();
        let length = usize::from(self.byte()?) << (shape % 14);
        Some(Tensor::new(&dimensions, ty, &vec![shape; length]))
    }
}

fn pick<T>(list: &[T], number: u8) -> Option<&T> {
    list.get(usize::from(number).checked_rem(list.len())?)
}

fn take<T>(list: &mut Vec<T>, number: u8) -> Option<T> {
    let place = usize::from(number).checked_rem(list.len())?;
    Some(list.swap_remove(place))
}

/// Runs the script; returns the numbers of failed calls and of successful runs.
pub(crate) fn run(script: &[u8]) -> String {
    let (mut script, mut handles) = (Script(script.iter()), Handles::default());
    while step(&mut script, &mut handles).is_some() {}
    format!("{} errors, {} runs", handles.errors, handles.ran)
}

fn step(script: &mut Script<'_>, handles: &mut Handles) -> Option<()> {
    match script.byte()? % 10 {
        0 | 1 => handles.tensors.push(script.tensor()?),
        2 => {
            if let Some(tensor) = pick(&handles.tensors, script.byte()?) {
                let _ = (tensor.dimensions(), tensor.ty(), tensor.data());
            }
        }
        3 => drop(take(&mut handles.tensors, script.byte()?)),
        4 => match load_by_name(&script.name()?) {
            Ok(graph) => handles.graphs.push(graph),
            Err(error) => note(handles, &error),
        },
        5 => {
            let number = script.byte()?;
            match pick(&handles.graphs, number).map(Graph::init_execution_context) {
                Some(Ok(context)) => handles.contexts.push(context),
                Some(Err(error)) => note(handles, &error),
                None => {}
            }
        }
        6 => compute(script, handles)?,
        7 => drop(take(&mut handles.graphs, script.byte()?)),
        8 => drop(take(&mut handles.contexts, script.byte()?)),
        _ => {
            let length = usize::from(script.byte()?);
            let bytes: Vec<u8> = (0..length).map_while(|_| script.byte()).collect();
            match load(&[bytes], GraphEncoding::Onnx, ExecutionTarget::Cpu) {
                Ok(graph) => handles.graphs.push(graph),
                Err(error) => note(handles, &error),
            }
        }
    }
    Some(())
}

fn compute(script: &mut Script<'_>, handles: &mut Handles) -> Option<()> {
    let (context, inputs) = (script.byte()?, script.byte()? % 4);
    let mut named = Vec::new();
    for _ in 0..inputs {
        let name = script.name()?;
        let number = script.byte()?;
        named.extend(take(&mut handles.tensors, number).map(|tensor| (name, tensor)));
    }
    match pick(&handles.contexts, context).map(|context| context.compute(named)) {
        Some(Ok(outputs)) => {
            handles.ran += 1;
            handles.tensors.extend(outputs.into_iter().map(|(_, tensor)| tensor));
        }
        Some(Err(error)) => note(handles, &error),
        None => {}
    }
    Some(())
}

fn note(handles: &mut Handles, error: &crate::nn::bindings::wasi::nn::errors::Error) {
    let _ = (error.code(), error.data());
    handles.errors += 1;
}
