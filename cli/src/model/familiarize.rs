//! `skincell model familiarize`: adds an output to a prepared model that tells photos of an unknown kind.

use crate::output::{out, outln};
use std::fmt::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use skincell_modelkit::familiarity::{FamiliarityReport, FamiliarizeOptions};
use skincell_modelkit::familiarize;
use skincell_modelkit::pack::{Precision, packed_weights};

use super::progress::Progress;
use crate::pack::{PackFlags, PrecisionFlag, pack_and_report};

/// Flags of `skincell model familiarize`.
#[derive(Debug, Args)]
#[command(after_help = "\
Fits, to photos of the kind the model is used for, how far a photo is from them, and adds that as
the output `familiarity` to the model. Answers then say whether a photo is familiar. At least 35
different pictures are needed; 100 or more are better, and none should be of another kind: those
that are found are listed and left out.

Photos in subfolders named as classes are labelled. Then the model's probabilities are calibrated
too, so that of photos answered with 80 %, about 80 % are right. Photos without labels lie in the
folders given, not in subfolders of other names.

Nothing is written if photos are missing or cannot be read, if above 8 % are of another kind than the
others, if the model is no better than guessing on those with labels, or if most of them are
unfamiliar to a model that had a familiarity before.

A familiar photo is not one whose classes are right.

Example:
  skincell model familiarize models/skin --photos training-photos --basis \"840 drawings\"")]
pub(crate) struct FamiliarizeArguments {
    /// The prepared model's folder, which is written anew
    pub(super) model: PathBuf,
    /// Photos the model was made for: files, or a folder, whose subfolders may be named as classes
    #[arg(long, required = true, num_args = 1.., value_name = "FILE|FOLDER")]
    photos: Vec<PathBuf>,
    /// The photos in words, for answers [default: their number]
    #[arg(long, default_value = "", hide_default_value = true)]
    basis: String,
    /// Replace the model's familiarity even if most of the photos are unfamiliar by it
    #[arg(long)]
    replace: bool,
}

/// Runs `model familiarize`.
///
/// # Errors
/// The photos do not allow a fit, or the folder cannot be read or written.
pub(super) fn run(arguments: &FamiliarizeArguments) -> anyhow::Result<ExitCode> {
    let progress = Progress::new();
    let FamiliarizeArguments { model, photos, basis, replace } = arguments;
    let options = FamiliarizeOptions { photos, basis, replace: *replace };
    // Read first: the folder is written anew, without its packed file.
    let precision = match packed_weights(model).map(|weights| weights.precision) {
        Some(Precision::Half) => PrecisionFlag::Half,
        _ => PrecisionFlag::Single,
    };
    let report = familiarize(model, &options, &mut |done, total| {
        progress.show_part("running the photos", done, total);
    })?;
    progress.done();
    outln!("{} tells photos of other kinds", model.display());
    let mut text = String::new();
    add_familiarity(&mut text, &report)?;
    out!("{text}");
    let packed = PackFlags { precision, ..PackFlags::default() };
    pack_and_report(model, &packed)?;
    Ok(ExitCode::SUCCESS)
}

/// Adds lines about what was fitted.
pub(super) fn add_familiarity(text: &mut String, report: &FamiliarityReport) -> fmt::Result {
    let familiarity = &report.familiarity;
    writeln!(
        text,
        "  familiar   fitted to {} of {} pictures; {:.1} % of further photos of this kind are expected to be \
         familiar",
        familiarity.basis,
        familiarity.pictures,
        f64::from(familiarity.accepted) * 100.0
    )?;
    writeln!(
        text,
        "  method     {}, {} features, {} bytes more",
        familiarity.method, report.features, report.bytes
    )?;
    writeln!(
        text,
        "  told apart area under the ROC curve {:.4} against {}",
        familiarity.auroc, familiarity.against
    )?;
    for outlier in &familiarity.outliers {
        writeln!(text, "  outlier    {outlier} is of another kind and was left out")?;
    }
    if let Some(calibrated) = &report.calibrated {
        writeln!(
            text,
            "  calibrated by temperature {}: right {:.1} %, expected calibration error {:.3} -> {:.3}, Brier \
             score {:.3} -> {:.3} on {} labelled photos",
            calibrated.calibration.temperature,
            calibrated.before.accuracy * 100.0,
            calibrated.before.error,
            calibrated.after.error,
            calibrated.before.brier,
            calibrated.after.brier,
            calibrated.calibration.photos
        )?;
    }
    for note in &report.notes {
        writeln!(text, "  note       {note}")?;
    }
    Ok(())
}
