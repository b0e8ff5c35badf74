//! `wasi-run`: runs a WASI 0.2 program, or composes two components.
//!
//! ```text
//! wasi-run [--dir FOLDER]... PROGRAM.wasm [ARGUMENT]...
//! wasi-run --compose COMPONENT.wasm PROVIDER.wasm OUT.wasm
//! ```
//!
//! The first form fits `CARGO_TARGET_WASM32_WASIP2_RUNNER`, and `bench/engine` measures Wasm with it. The
//! second satisfies the component's imports of `wasi:nn` with the provider, as Spin does with a dependency.

use std::path::Path;
use std::process::ExitCode;

use skincell_portable_host::{command, compose};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.as_slice() {
        [flag, component, provider, out] if flag == "--compose" => {
            compose::with_nn(Path::new(component), Path::new(provider))
                .and_then(|bytes| Ok(std::fs::write(out, bytes)?))
                .map(|()| ExitCode::SUCCESS)
        }
        arguments => command::run(arguments).await,
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("{error:?}");
        ExitCode::FAILURE
    })
}
