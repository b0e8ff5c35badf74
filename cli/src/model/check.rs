//! `skincell model check`: compares the answers of all engines.

use crate::output::outln;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use skincell_modelkit::check::{CheckOptions, CheckRow, Difference, TOLERANCE, check};

use super::engines::engines;
use super::progress::Progress;
use crate::engine_library::EngineLibrary;

/// Flags of `skincell model check`.
#[derive(Debug, Args)]
#[command(after_help = "\
Photos are processed as in a request: decoded, turned upright, resized, normalised. A .npy file
is used as the model's input unchanged. The exit code is 1 if an answer differs by more than the
tolerance.

Examples:
  skincell model check models/skin tests/photos
  skincell model check models/skin tests/photos --keep answers.json      save the answers
  skincell model check models/skin tests/photos --against answers.json   and compare with them later")]
pub(crate) struct CheckArguments {
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
    /// Threads of each engine
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Compare with the answers in this file
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// Save the first engine's answers to this file
    #[arg(long, value_name = "FILE")]
    keep: Option<PathBuf>,
    /// Largest accepted difference of a probability (0 to 1)
    #[arg(long, value_name = "DIFFERENCE", default_value_t = TOLERANCE.probability)]
    tolerance: f32,
    /// Largest accepted difference of a heatmap (0 to 1)
    #[arg(long, value_name = "DIFFERENCE", default_value_t = TOLERANCE.heatmap)]
    heatmap_tolerance: f32,
}

/// Runs `model check`.
///
/// # Errors
/// A model or photo cannot be run.
pub(super) fn run(arguments: CheckArguments) -> anyhow::Result<ExitCode> {
    let options = CheckOptions {
        folder: arguments.model,
        inputs: arguments.photos,
        reference: arguments.against,
        probability_tolerance: arguments.tolerance,
        heatmap_tolerance: arguments.heatmap_tolerance,
    };
    let library = arguments.library.path();
    let engines = engines(&arguments.engine, arguments.threads, library.as_deref())?;
    let progress = Progress::new();
    let report =
        check(&options, &engines, &mut |done, total| progress.show_part("running", done, total))?;
    progress.done();
    outln!(
        "{:<11} {:>9} {:>21} {:>21}  {:<4} {:>6}  photo, likeliest class",
        "engine",
        "ms",
        "between engines",
        "against the file",
        "",
        "%"
    );
    for row in &report.rows {
        outln!("{}", line(row));
    }
    if let Some(path) = &arguments.keep {
        let text = serde_json::to_string_pretty(&report.reference)? + "\n";
        std::fs::write(path, text).with_context(|| path.display().to_string())?;
        outln!("answers saved in {}", path.display());
    }
    let failed = report.rows.iter().filter(|row| !row.passed).count();
    if report.passed() {
        outln!("all {} answers pass", report.rows.len());
        return Ok(ExitCode::SUCCESS);
    }
    outln!(
        "{failed} of {} answers differ by more than {:e} (probabilities) or {:e} (heatmaps)",
        report.rows.len(),
        options.probability_tolerance,
        options.heatmap_tolerance
    );
    Ok(ExitCode::FAILURE)
}

fn line(row: &CheckRow) -> String {
    let words = |difference: &Option<Difference>| match difference {
        None => "–".to_owned(),
        Some(d) => format!("{:.1e} map {:.1e}", d.probability, d.heatmap),
    };
    format!(
        "{:<11} {:>9.1} {:>21} {:>21}  {:<4} {:>6.1}  {}, {}",
        row.engine,
        row.milliseconds,
        words(&row.engines),
        words(&row.kept),
        if row.passed { "ok" } else { "FAR" },
        row.top.1 * 100.0,
        row.file,
        row.top.0
    )
}
