//! `skincell model …`: flags and output for the crate `modelkit`.

mod bake;
mod calibration;
mod check;
mod engines;
mod familiarize;
mod inspect;
mod measure;
pub(crate) mod prepare;
mod prepare_report;
mod preprocess_flags;
mod progress;
mod quantize;
mod units;
mod words;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, Subcommand};

use crate::alike::missing;
use crate::pack::{PackFlags, pack_and_report};

/// The subcommands of `skincell model`.
#[derive(Debug, Subcommand)]
pub(crate) enum ModelCommand {
    /// Prepare a trained classifier as a folder that can be served.
    Prepare(Box<prepare::PrepareArguments>),
    /// Add an output to a prepared model that tells photos of an unknown kind.
    Familiarize(familiarize::FamiliarizeArguments),
    /// Show what a model contains, and which engines take it.
    Inspect(inspect::InspectArguments),
    /// Run photos through every engine and compare the answers.
    Check(check::CheckArguments),
    /// Write a prepared model with fewer bits, and measure the effect.
    Quantize(quantize::QuantizeArguments),
    /// Measure the cost of serving a model: loading, time per photo, memory.
    Measure(measure::MeasureArguments),
    /// Pack model folders for the engine cellnet, which is smaller and faster for the models it supports.
    Pack(PackArguments),
    /// Put models into a component that implements wasi:nn, for stock Spin.
    Bake(bake::BakeArguments),
}

/// Flags of `skincell model pack`.
#[derive(Debug, Args)]
#[command(after_help = "\
Writes model.cell beside model.onnx; `prepare` and `up --build` do the same. A model that cellnet
does not support is reported with the operator in question, and stays with rten.

Dense 3x3 convolutions may be computed by a faster, slightly less accurate algorithm; the error
of each is measured and must not exceed --max-error.

The file is run beside the graph, on some of --photos or on three drawings, and kept only if their
answers agree.

Example:
  skincell model pack models/skin models/imagenet
  skincell model pack models/skin --precision half
  skincell model pack models/skin --max-error 1e-6 --photos tests/photos")]
pub(crate) struct PackArguments {
    /// The model folders
    #[arg(required = true, value_name = "FOLDER")]
    folders: Vec<PathBuf>,
    #[command(flatten)]
    flags: PackFlags,
}

impl ModelCommand {
    /// The first of the models that it reads.
    fn model(&self) -> Option<&Path> {
        let model = match self {
            Self::Prepare(arguments) => &arguments.model,
            Self::Familiarize(arguments) => &arguments.model,
            Self::Inspect(arguments) => &arguments.model,
            Self::Check(arguments) => &arguments.model,
            Self::Quantize(arguments) => &arguments.model,
            Self::Measure(arguments) => &arguments.model,
            Self::Pack(arguments) => arguments.folders.first()?,
            Self::Bake(_) => return None,
        };
        Some(model)
    }
}

/// Runs a subcommand.
///
/// # Errors
/// The subcommand's failure, with the file in question.
pub(crate) fn run(command: ModelCommand) -> anyhow::Result<ExitCode> {
    if let Some(words) = command.model().and_then(missing) {
        bail!("{words}");
    }
    match command {
        ModelCommand::Prepare(arguments) => prepare::run(&arguments),
        ModelCommand::Familiarize(arguments) => familiarize::run(&arguments),
        ModelCommand::Inspect(arguments) => inspect::run(&arguments),
        ModelCommand::Check(arguments) => check::run(arguments),
        ModelCommand::Quantize(arguments) => quantize::run(arguments),
        ModelCommand::Measure(arguments) => measure::run(&arguments),
        ModelCommand::Bake(arguments) => bake::run(&arguments),
        ModelCommand::Pack(arguments) => {
            let PackArguments { folders, flags } = arguments;
            folders.iter().try_for_each(|folder| pack_and_report(folder, &flags))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
