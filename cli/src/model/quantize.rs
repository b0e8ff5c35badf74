//! `skincell model quantize`: writes a model with fewer bits and measures the effect.

use crate::output::outln;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use skincell_modelkit::check_target;
use skincell_modelkit::measure::Measured;
use skincell_modelkit::quantize::{
    Agreement, Format, Kept, QuantizeOptions, QuantizeReport, QuantizeStep, Targets, compare,
    quantize,
};
use skincell_modelkit::served::takers;

use super::engines::engines;
use super::measure::{Run, header, in_own_process, line};
use super::progress::Progress;
use super::units::bytes;
use crate::engine_library::EngineLibrary;
use crate::pack::{PackFlags, PrecisionFlag, pack_and_report};

/// Flags of `skincell model quantize`.
#[derive(Debug, Args)]
#[command(after_help = "\
fp16 halves the file. The engines compute in float32. cellnet reads 16 bits from the packed file;
others convert the weights when they load the model, so private memory grows. (To halve only what
cellnet maps, with an eighth of the error, use `skincell model pack --precision half`.)

int8 quarters the convolutions' weights, which stay mapped; the ranges of their inputs are
measured on the photos, and weights are rounded for those inputs. cellnet and rten sum their
products as integers; what that changes in time, memory and answers on this machine is measured
and printed. Convolutions that change the answers to the photos most stay in float32 (in cellnet's
file large ones in 16 bits) until the targets hold on --photos; which, and what each does alone, is
printed. On other photos the answers may change more: compare with some not among --photos.

Examples:
  skincell model quantize models/skin -o models/skin-int8 --to int8 --photos tests/photos
  skincell model quantize models/skin -o models/skin-int8 --to int8 \\
      --photos mine/some --compare mine/others      ranges and comparison on separate photos")]
pub(crate) struct QuantizeArguments {
    /// The prepared folder
    pub(super) model: PathBuf,
    /// The folder to write
    #[arg(short, long, value_name = "FOLDER")]
    output: PathBuf,
    /// Format of the weights
    #[arg(long, value_enum)]
    to: FormatFlag,
    /// Photos to measure ranges and hold the targets on, as similar to real use as possible: files or
    /// folders
    #[arg(long, required = true, num_args = 1.., value_name = "PHOTO")]
    photos: Vec<PathBuf>,
    /// Photos to compare and measure with [default: those of --photos]
    #[arg(long, num_args = 1.., value_name = "PHOTO")]
    compare: Vec<PathBuf>,
    /// Threads for measuring time
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Share of --photos that must keep their likeliest class, in percent (int8)
    #[arg(long, value_name = "PERCENT", default_value_t = 99.0, value_parser = parse_percent)]
    target_agreement: f64,
    /// Least mean correlation of heatmaps on --photos, up to 1. A single one may be three times as far below
    /// 1: with 0.99, down to 0.97 (int8)
    #[arg(long, value_name = "CORRELATION", default_value_t = 0.99, value_parser = parse_correlation,
        allow_negative_numbers = true)]
    target_heatmap: f64,
    /// Largest change of a probability on --photos, in points (int8)
    #[arg(long, value_name = "POINTS", default_value_t = 2.0, value_parser = parse_percent)]
    target_change: f64,
    #[command(flatten)]
    library: EngineLibrary,
    /// Replace the folder if it exists
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum FormatFlag {
    Fp16,
    Int8,
}

fn parse_percent(text: &str) -> Result<f64, String> {
    parse_within(text, 0.0, 100.0)
}

fn parse_correlation(text: &str) -> Result<f64, String> {
    parse_within(text, -1.0, 1.0)
}

fn parse_within(text: &str, low: f64, high: f64) -> Result<f64, String> {
    let wrong = || format!("{text:?} is not valid; give a number from {low} to {high}");
    text.parse::<f64>().ok().filter(|n| (low..=high).contains(n)).ok_or_else(wrong)
}

/// Runs `model quantize`.
///
/// # Errors
/// A file cannot be read or written, or a model cannot be run.
pub(super) fn run(arguments: QuantizeArguments) -> anyhow::Result<ExitCode> {
    let options = QuantizeOptions {
        folder: arguments.model,
        output: arguments.output,
        format: match arguments.to {
            FormatFlag::Fp16 => Format::Fp16,
            FormatFlag::Int8 => Format::Int8,
        },
        photos: arguments.photos,
        targets: Targets {
            agreement: arguments.target_agreement / 100.0,
            heatmap: arguments.target_heatmap,
            change: arguments.target_change / 100.0,
        },
        force: arguments.force,
    };
    let compared = if arguments.compare.is_empty() { &options.photos } else { &arguments.compare };
    let progress = Progress::new();
    check_target(&options.output, "", options.force)?;
    let report = quantize(&options, &mut |step| show(&progress, step))?;
    // Large weights that `int8` leaves in float32 take 16 bits, like those of `fp16`.
    let flags = PackFlags { precision: PrecisionFlag::Half, ..PackFlags::default() };
    pack_and_report(&options.output, &flags)?;
    let (threads, library) = (arguments.threads, arguments.library.path());
    let engines = engines(&[], threads, library.as_deref())?;
    let done = &mut |done, total| progress.show_part("comparing", done, total);
    let agreement = compare(&options.folder, &options.output, compared, &engines, done)?;
    drop(engines);
    progress.show("measuring");
    let before = measured(&options.folder, compared, threads, library.as_deref())?;
    let after = measured(&options.output, compared, threads, library.as_deref())?;
    progress.done();
    print_agreement(&report, &agreement, &options.output);
    outln!("\n{}", header(""));
    for (when, rows) in [("before", &before), ("after", &after)] {
        for (engine, row) in rows {
            outln!("{}", line(&format!("{when}, {engine}"), row));
        }
    }
    outln!();
    for verdict in verdicts(&before, &after) {
        outln!("{verdict}");
    }
    Ok(ExitCode::SUCCESS)
}

fn show(progress: &Progress, step: QuantizeStep) {
    match step {
        QuantizeStep::Read => progress.show("reading"),
        QuantizeStep::Calibrate(done, total) => progress.show_part("finding ranges", done, total),
        QuantizeStep::Rank(done, total) => progress.show_part("ranking convolutions", done, total),
        QuantizeStep::Mix(kept) => {
            progress.show(&format!("trying with {kept} convolutions in float32"));
        }
        QuantizeStep::Write => progress.show("writing"),
    }
}

type Rows = Vec<(&'static str, Measured)>;

fn measured(
    folder: &Path,
    photos: &[PathBuf],
    threads: usize,
    library: Option<&Path>,
) -> anyhow::Result<Rows> {
    let engines = engines(&[], threads, library)?;
    let rows = takers(&engines, folder)?.into_iter().map(|engine| {
        // The number of rounds is chosen: each takes all photos, and only the median is reported.
        let run = Run { engine: engine.name(), library, threads, rounds: 5 };
        Ok((engine.name(), in_own_process(folder, photos, &run)?))
    });
    rows.collect()
}

fn print_agreement(report: &QuantizeReport, agreement: &Agreement, output: &Path) {
    let (before, after) = report.bytes;
    outln!("{} is written, {} tensors changed", output.display(), report.tensors);
    outln!(
        "  file           {} -> {} ({:.0} %)",
        bytes(before),
        bytes(after),
        after as f64 / before.max(1) as f64 * 100.0
    );
    outln!(
        "  likeliest      the same on {} of {} photos ({:.1} %)",
        agreement.same_top,
        agreement.photos,
        agreement.same_top as f64 / agreement.photos.max(1) as f64 * 100.0
    );
    outln!("  probabilities  change by at most {:.1} points", agreement.worst_probability * 100.0);
    if let Some((mean, least)) = agreement.heatmaps {
        outln!("  heatmaps       correlate {mean:.3} on average, {least:.3} at least");
    }
    print_kept(&report.kept);
}

/// Prints which convolutions stayed in float32, and why.
fn print_kept(kept: &[Kept]) {
    if kept.is_empty() {
        return;
    }
    outln!("\nin float32 to hold the targets, with what each does alone on integers, worst first:");
    let width = kept.iter().map(|kept| kept.name.len()).max().unwrap_or(0);
    for Kept { name, weights, alone } in kept {
        let heatmaps = alone.heatmaps.map_or_else(String::new, |(mean, least)| {
            format!(", heatmaps {mean:.4} on average, {least:.4} at least")
        });
        let change = alone.worst_probability * 100.0;
        outln!("  {name:width$}  {weights:>8} weights, up to {change:.1} points{heatmaps}");
    }
}

/// Whether the new format saves memory, for the engine that serves the model before and after, and for any
/// other engine that takes both.
fn verdicts(before: &Rows, after: &Rows) -> Vec<String> {
    let on = |engine| after.iter().find(|(other, _)| *other == engine);
    let mut verdicts = Vec::new();
    let is_same = before.first().map(|row| row.0) == after.first().map(|row| row.0);
    if let (Some((engine_before, row_before)), Some((engine_after, row_after))) =
        (before.first(), after.first())
    {
        let engines = if is_same {
            format!("served by {engine_after}")
        } else if on(*engine_before).is_some() {
            format!("served by {engine_after}, before by {engine_before}")
        } else {
            format!("served by {engine_after}, because {engine_before} does not take it")
        };
        verdicts.extend(verdict(&engines, row_before, row_after));
    }
    for (engine, row_before) in before.iter().skip(usize::from(is_same)) {
        let row_after = on(*engine).map(|(_, row)| row);
        let text = row_after.and_then(|row| verdict(&format!("on {engine}"), row_before, row));
        verdicts.extend(text);
    }
    verdicts
}

/// The change of memory and time as a sentence; `None` if the system does not report memory.
fn verdict(about: &str, before: &Measured, after: &Measured) -> Option<String> {
    let mib = |kb: u64| kb as f64 / 1024.0;
    let all = |row: &Measured| Some(mib(row.private_kb? + row.mapped_kb?));
    let (all_before, all_after) = (all(before)?, all(after)?);
    let private = mib(after.private_kb?) - mib(before.private_kb?);
    let pays = if all_after < all_before { "less memory" } else { "no less memory" };
    let time = after.median_ms / before.median_ms.max(f64::MIN_POSITIVE);
    Some(format!(
        "{about}: {pays} ({all_before:.1} -> {all_after:.1} MiB private and mapped, {private:+.1} \
         private), {time:.2} x the time"
    ))
}
