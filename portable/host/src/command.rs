//! Runs a WASI 0.2 command component with this process's standard streams.

use std::process::ExitCode;

use wasmtime::component::Component;
use wasmtime::{Config, Engine, Result, Store, format_err};
use wasmtime_wasi::p2::bindings::Command;
use wasmtime_wasi::{FsPerms, I32Exit, WasiCtx};

use crate::state::{State, linker};

const USAGE: &str = "usage: wasi-run [--dir FOLDER]... PROGRAM.wasm [ARGUMENT]...";

/// Runs `[--dir FOLDER]... PROGRAM.wasm [ARGUMENT]...` and returns the program's exit code. The program
/// sees the folders under the same paths, read-only.
///
/// # Errors
/// Wrong usage, a file that is not a component, or a trap.
pub async fn run(arguments: &[String]) -> Result<ExitCode> {
    let mut wasi = WasiCtx::builder();
    wasi.inherit_stdio();
    let mut rest = arguments;
    while let [flag, folder, after @ ..] = rest
        && flag == "--dir"
    {
        wasi.preopened_dir(folder, folder, FsPerms::ReadOnly)?;
        rest = after;
    }
    let [program, ..] = rest else { return Err(format_err!("{USAGE}")) };
    wasi.args(rest);
    let engine = Engine::new(&Config::new())?;
    let component = Component::from_file(&engine, program)?;
    let linker = linker(&engine)?;
    let mut store = Store::new(&engine, State::new(wasi.build()));
    let command = Command::instantiate_async(&mut store, &component, &linker).await?;
    match command.wasi_cli_run().call_run(&mut store).await {
        Ok(Ok(())) => Ok(ExitCode::SUCCESS),
        Ok(Err(())) => Ok(ExitCode::FAILURE),
        Err(error) => match error.downcast_ref::<I32Exit>() {
            Some(exit) => Ok(ExitCode::from(u8::try_from(exit.0).unwrap_or(u8::MAX))),
            None => Err(error),
        },
    }
}
