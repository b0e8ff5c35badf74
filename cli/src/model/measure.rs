//! `skincell model measure`: measures the cost of serving a model, in a separate process.

use crate::output::outln;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};
use clap::Args;
use skincell_modelkit::measure::{Measured, measure};
use skincell_modelkit::photos;
use skincell_modelkit::served::{read_card, takers};

use super::calibration;
use super::engines::engines;
use super::units::kilobytes;
use crate::engine_library::EngineLibrary;

/// Flags of `skincell model measure`.
#[derive(Debug, Args)]
#[command(after_help = "\
Each engine is measured in a separate process. Private memory is the engine's own; mapped memory
is pages of the model's files, which the kernel can reclaim; peak is the maximum of both
together, including the program.

Examples:
  skincell model measure models/skin tests/photos
  skincell model measure models/skin tests/photos --engine rten --threads 2
  skincell model measure models/skin labelled/ --calibration --diagram reliability.svg")]
pub(crate) struct MeasureArguments {
    /// The prepared folder
    pub(super) model: PathBuf,
    /// Photos, tensors (.npy), or folders of them
    #[arg(required = true, value_name = "PHOTO")]
    photos: Vec<PathBuf>,
    /// The engine: cellnet, rten or onnxruntime; may be given several times [default: all that take the
    /// folder]
    #[arg(long, value_name = "ENGINE")]
    engine: Vec<String>,
    #[command(flatten)]
    library: EngineLibrary,
    /// Threads of the engine
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Instead of the cost, measure how honest the probabilities are: of photos answered with 80 %,
    /// 80 % should be right. The photos lie in subfolders named as the classes
    #[arg(long)]
    calibration: bool,
    /// Draw the reliability diagram here, an SVG
    #[arg(long, value_name = "FILE", requires = "calibration")]
    diagram: Option<PathBuf>,
    /// Number of runs of each photo
    #[arg(long, default_value_t = 10)]
    rounds: usize,
    /// Measure in this process and print JSON; the command starts itself with this flag for each engine
    #[arg(long, hide = true)]
    inside: bool,
}

/// Runs `model measure`.
///
/// # Errors
/// A model or photo cannot be loaded or run.
pub(super) fn run(arguments: &MeasureArguments) -> anyhow::Result<ExitCode> {
    let library = arguments.library.path();
    let engines = engines(&arguments.engine, arguments.threads, library.as_deref())?;
    let takers = takers(&engines, &arguments.model)?;
    if let (true, [engine, ..]) = (arguments.calibration, &takers[..]) {
        let MeasureArguments { model, photos, diagram, .. } = arguments;
        return calibration::run(model, *engine, photos, diagram.as_deref());
    }
    if let (true, [engine, ..]) = (arguments.inside, &takers[..]) {
        let card = read_card(&arguments.model)?;
        let photos = photos::load_all(&arguments.photos, &card.input)?;
        let measured = measure(&arguments.model, *engine, &photos, arguments.rounds)?;
        outln!("{}", serde_json::to_string(&measured)?);
        return Ok(ExitCode::SUCCESS);
    }
    outln!("{}", header("engine"));
    for engine in takers {
        let run = Run {
            engine: engine.name(),
            library: library.as_deref(),
            threads: arguments.threads,
            rounds: arguments.rounds,
        };
        let measured = in_own_process(&arguments.model, &arguments.photos, &run)?;
        outln!("{}", line(engine.name(), &measured));
    }
    Ok(ExitCode::SUCCESS)
}

/// The settings of a measurement.
pub(super) struct Run<'a> {
    pub(super) engine: &'static str,
    pub(super) library: Option<&'a Path>,
    pub(super) threads: usize,
    pub(super) rounds: usize,
}

/// Measures a folder in a new process.
///
/// # Errors
/// The error of that process, or a failure to start it.
pub(super) fn in_own_process(
    folder: &Path,
    photos: &[PathBuf],
    run: &Run<'_>,
) -> anyhow::Result<Measured> {
    let program = std::env::current_exe().context("finding this program")?;
    let mut command = Command::new(program);
    command.args(["model", "measure", "--inside"]).arg(folder).args(photos);
    command.args(["--engine", run.engine, "--threads", &run.threads.to_string()]);
    command.args(["--rounds", &run.rounds.to_string()]);
    if let Some(library) = run.library {
        command.arg("--engine-lib").arg(library);
    }
    let output = command.output().context("starting a process to measure in")?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim().trim_start_matches("error: "));
    }
    serde_json::from_slice(&output.stdout).context("reading what was measured")
}

/// The titles of [`line()`]'s columns.
pub(super) fn header(first: &str) -> String {
    format!(
        "{first:<18} {:>9} {:>10} {:>10} {:>11} {:>11} {:>11}",
        "load", "first", "median", "private", "mapped", "peak"
    )
}

/// One measurement as a line of a table.
pub(super) fn line(first: &str, measured: &Measured) -> String {
    format!(
        "{first:<18} {:>6.1} ms {:>7.1} ms {:>7.1} ms {:>11} {:>11} {:>11}",
        measured.load_ms,
        measured.first_ms,
        measured.median_ms,
        kilobytes(measured.private_kb),
        kilobytes(measured.mapped_kb),
        kilobytes(measured.peak_kb)
    )
}
