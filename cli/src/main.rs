//! The binary `skincell`: reads flags, calls the libraries and prints results. What to do with photos, models
//! and requests is decided in the libraries.

mod access_options;
mod alike;
mod application_options;
mod classify;
mod completions;
mod doctor;
mod engine_library;
mod listen;
mod log;
mod machine_flags;
mod missing_models;
mod model;
mod output;
mod pack;
mod page;
mod run_options;
mod serve;
mod service_options;
mod spin_flags;
mod summary;
mod table;
mod up;
mod variables;
#[cfg(test)]
mod variables_tests;

use clap::{Parser, Subcommand};
use skincell_runner::output_queue;
use std::process::ExitCode;
use std::time::Duration;

/// Photos of skin in, ranked classes and Grad-CAM heatmaps out. Not a medical device.
///
/// Serves a model, or the Spin application in the current folder, with a native wasi-nn. Every request gets a
/// fresh, isolated instance, and models stay mapped files.
#[derive(Debug, Parser)]
#[command(name = "skincell", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "\
Examples:
  skincell serve                           serve the included model on 127.0.0.1:3000
  skincell serve model.keras --labels labels.txt
                                           prepare your own model and serve it
  skincell up --build                      build the component and serve it on 127.0.0.1:3000
  curl -F image=@photo.jpg http://127.0.0.1:3000/predict
  skincell classify photo.jpg -o heat.png  the same without a server
  skincell classify photos/ --contact-sheet sheet.png
                                           a folder of photos on one picture
  skincell model prepare raw.onnx --labels labels.txt -o models/mine
                                           prepare your own model for serving

Exit codes: 0 success, 1 failure (the message says what to do; for `classify`: at least one photo
failed), 2 wrong usage.
Environment: RUST_LOG sets the log level, such as `debug` or `skincell_runner=trace`.")]
struct Arguments {
    #[command(subcommand)]
    command: Command,

    /// Format of log lines on standard error.
    #[arg(long, global = true, value_name = "FORMAT", env = "SKINCELL_LOG_FORMAT")]
    #[arg(default_value = "human", help_heading = "Log")]
    log_format: log::LogFormat,
}

#[derive(Debug, Subcommand)]
enum Command {
    Up(Box<up::Up>),
    Serve(Box<serve::Serve>),
    Classify(Box<classify::Classify>),
    Page(page::Page),
    /// Prepare, quantize, inspect, check and measure models before they are served.
    #[command(subcommand, arg_required_else_help = true)]
    Model(model::ModelCommand),
    Doctor(doctor::Doctor),
    Completions(completions::Completions),
    Man(completions::Man),
}

/// Time allowed to write the rest of the output before the process ends.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    skincell_runner::allocator::give_memory_back();
    let arguments =
        Arguments::try_parse().unwrap_or_else(|error| spin_flags::explained(error).exit());
    let is_service = matches!(arguments.command, Command::Up(_) | Command::Serve(_));
    log::start(arguments.log_format, is_service);
    let outcome = match arguments.command {
        Command::Up(up) => up.run(),
        Command::Serve(serve) => serve.run(),
        Command::Classify(classify) => classify.run(),
        Command::Page(page) => page.run(),
        Command::Model(command) => model::run(command),
        Command::Doctor(doctor) => Ok(doctor.run()),
        Command::Completions(completions) => Ok(completions.run::<Arguments>()),
        Command::Man(man) => man.run::<Arguments>(),
    };
    let code = outcome.unwrap_or_else(|error| {
        output_queue::stderr().put(format!("error: {error:#}\n").as_bytes());
        ExitCode::FAILURE
    });
    for queue in [output_queue::stdout(), output_queue::stderr()] {
        queue.finish(FLUSH_TIMEOUT);
    }
    code
}
