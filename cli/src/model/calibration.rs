//! `skincell model measure --calibration`: how honest a model's probabilities are on labelled photos.

use crate::output::outln;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use skincell_engines::Engine;
use skincell_modelkit::familiarity::calibration::Honesty;
use skincell_modelkit::familiarity::diagram::svg;
use skincell_modelkit::honesty::{Measured, honesty};

use super::progress::Progress;

/// Measures, prints a table and writes the diagram.
///
/// # Errors
/// A photo or the model cannot be read, no photo is labelled, or the diagram cannot be written.
pub(super) fn run(
    model: &Path,
    engine: &dyn Engine,
    photos: &[PathBuf],
    diagram: Option<&Path>,
) -> anyhow::Result<ExitCode> {
    let progress = Progress::new();
    let measured = honesty(model, engine, photos, &mut |done, total| {
        progress.show_part("running the photos", done, total);
    })?;
    progress.done();
    print(&measured);
    if let Some(path) = diagram {
        let title = format!("Reliability of {}", model.display());
        let names: Vec<(String, &Honesty)> = rows(&measured);
        let panels: Vec<(&str, &Honesty)> = names.iter().map(|(name, h)| (&**name, *h)).collect();
        std::fs::write(path, svg(&title, &panels))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The measurements before and after calibration, with their names.
fn rows(measured: &Measured) -> Vec<(String, &Honesty)> {
    let mut rows = vec![("without calibration".to_owned(), &measured.before)];
    if let Some((temperature, after)) = &measured.after {
        rows.push((format!("with temperature {temperature}"), after));
    }
    rows
}

fn print(measured: &Measured) {
    let columns = ["photos", "right", "mean probability", "calibration error", "Brier score"];
    let [photos, right, mean, error, brier] = columns;
    outln!("{:<26} {photos:>7} {right:>8} {mean:>17} {error:>18} {brier:>12}", "");
    let mut all = rows(measured);
    if let Some(familiar) = &measured.familiar {
        all.push(("familiar photos only".to_owned(), familiar));
    }
    for (name, honesty) in all {
        let Honesty { photos, accuracy, error, brier, bins } = honesty;
        let sum: f64 = bins.iter().map(|bin| bin.probability * bin.photos as f64).sum();
        let mean = sum / (*photos).max(1) as f64 * 100.0;
        let right = accuracy * 100.0;
        outln!("{name:<26} {photos:>7} {right:>6.1} % {mean:>15.1} % {error:>18.4} {brier:>12.4}");
    }
    if measured.after.is_none() {
        outln!(
            "the model is not calibrated: `skincell model familiarize` does it with labelled photos"
        );
    }
    if measured.unlabelled > 0 {
        outln!(
            "{} photos lie in no folder named as a class and were left out",
            measured.unlabelled
        );
    }
}
