//! `GET /alike/<model>?left=1,2,3&right=4,5,6` runs a model of two inputs, `left` and `right`, and prints
//! its outputs. It shows that the runner serves any Spin application with wasi-nn.

#![cfg(target_family = "wasm")]
#![allow(
    unsafe_code,
    unreachable_pub,
    clippy::too_many_lines,
    reason = "`http_component` generates the bindings of the handler in here"
)]

use bindings::wasi::nn::errors::Error;
use bindings::wasi::nn::graph::load_by_name;
use bindings::wasi::nn::tensor::{Tensor, TensorType};
use spin_sdk::http::{IntoResponse, Request, Response};
use spin_sdk::http_component;

#[allow(warnings, unsafe_code, clippy::all, clippy::too_many_lines, reason = "generated")]
mod bindings {
    spin_sdk::wit_bindgen::generate!({
        path: "../../../wit/wasi-nn.wit",
        world: "ml",
        runtime_path: "::spin_sdk::wit_bindgen::rt",
    });
}

#[http_component]
fn handle(request: Request) -> impl IntoResponse {
    let model = request.header("spin-path-match-model").and_then(|value| value.as_str());
    let model = model.unwrap_or_default();
    let vector = |name| request.query().split('&').find_map(|pair| floats(pair, name));
    match (vector("left"), vector("right")) {
        (Some(left), Some(right)) => match run(model, &left, &right) {
            Ok(outputs) => Response::new(200, outputs),
            Err(error) => Response::new(502, format!("{:?}: {}", error.code(), error.data())),
        },
        _ => Response::new(400, "ask with ?left=1,2,3&right=4,5,6"),
    }
}

/// The numbers of `name=1,2,3`.
fn floats(pair: &str, name: &str) -> Option<Vec<f32>> {
    let numbers = pair.strip_prefix(name)?.strip_prefix('=')?.split(',');
    numbers.map(|number| number.parse().ok()).collect()
}

fn run(model: &str, left: &[f32], right: &[f32]) -> Result<String, Error> {
    let context = load_by_name(model)?.init_execution_context()?;
    let inputs = [("left", left), ("right", right)];
    let inputs = inputs.map(|(name, values)| (name.to_owned(), tensor(values))).into();
    let outputs = context.compute(inputs)?;
    let line = |(name, tensor): &(String, Tensor)| {
        let values = tensor.data();
        let values = values.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
        format!("{name} {:?} {:?}\n", tensor.dimensions(), values.collect::<Vec<_>>())
    };
    Ok(outputs.iter().map(line).collect())
}

/// One row.
fn tensor(values: &[f32]) -> Tensor {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Tensor::new(&[1, values.len() as u32], TensorType::Fp32, &bytes)
}
