//! The binary `skincell`: reads flags, calls the rooms, prints. What it does is in the libraries.

mod classify;
mod engine_library;
mod model;
mod pack;
mod run_options;
mod table;
mod up;

use clap::{Parser, Subcommand};
use std::io::IsTerminal;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// Photos of skin in, ranked classes and Grad-CAM heatmaps out. Not a medical device.
///
/// Serves the Spin application in the current folder with a native wasi-nn: every request gets a fresh,
/// isolated instance, and models stay mapped files.
#[derive(Debug, Parser)]
#[command(name = "skincell", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "\
Examples:
  skincell up --build                      build the component and serve it on 127.0.0.1:3000
  curl -F image=@photo.jpg http://127.0.0.1:3000/predict
  skincell classify photo.jpg -o heat.png  the same without a server
  skincell model prepare raw.onnx --labels labels.txt -o models/mine
                                           make your own model ready to serve

Exit codes: 0 done, 1 something failed (the message says what to do), 2 wrong usage.
Environment: RUST_LOG sets what is logged, such as `debug` or `skincell_runner=trace`.")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Up(up::Up),
    Classify(classify::Classify),
    /// Work on models before they are served: prepare an exported ONNX classifier.
    #[command(subcommand, arg_required_else_help = true)]
    Model(model::ModelCommand),
}

fn main() -> ExitCode {
    skincell_runner::allocator::give_memory_back();
    let arguments = Arguments::parse();
    log_to_stderr();
    let outcome = match arguments.command {
        Command::Up(up) => up.run(),
        Command::Classify(classify) => classify.run(),
        Command::Model(command) => model::run(command),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

/// wasi-nn's own log repeats every error a guest was given, as an error of the host's.
const DEFAULT_LOG: &str = "warn,skincell_runner=info,wasmtime_wasi_nn=off,wasmtime_wasi_http=error";

fn log_to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_LOG));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .compact()
        .init();
}
