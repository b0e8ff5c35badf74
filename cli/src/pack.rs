//! Packs model folders for the engine `cellnet`; shared by `up --build`, `model prepare`, `model quantize`
//! and `model pack`.

use std::fmt::Display;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, ValueEnum};
use skincell_modelkit::pack::{
    CELL_FILE, Difference, PackError, PackFolderError, PackOptions, Precision, Proof, ProofError,
    SMALLEST_HALVED, pack,
};
use skincell_modelkit::served::read_card;

/// Flags for the accuracy of a packed model.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub(crate) struct PackFlags {
    /// Largest error of a fast convolution algorithm compared with double precision, relative to the
    /// layer's largest output; 0 uses the exact, slower algorithm everywhere [default: 3e-5]
    #[arg(long, value_name = "ERROR", value_parser = parse_error)]
    pub(crate) max_error: Option<f64>,
    /// Photos (files or folders) of the kind the model is used for, on which errors are measured and answers
    /// compared, instead of on noise and drawings; `prepare` also fits familiarity to them, if they are
    /// enough. May be given several times
    #[arg(long = "photos", value_name = "PHOTO")]
    pub(crate) photos: Vec<PathBuf>,
    /// Largest size of the packed weights, relative to those of the graph (with 16 bits, to half of them):
    /// fast convolution algorithms have larger weights, and are used where they save most time for each
    /// byte [default: 1.2]
    #[arg(long, value_name = "TIMES", value_parser = parse_size)]
    pub(crate) max_size: Option<f64>,
    /// Bits of the large weights in the packed file
    #[arg(long, value_enum, default_value_t)]
    pub(crate) precision: PrecisionFlag,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum PrecisionFlag {
    /// float32; weights that the graph has in half precision stay in 16 bits
    #[default]
    Single,
    /// 16-bit integers with a scale for each output: half the file and mapped memory; computed in float32
    Half,
}

impl From<PrecisionFlag> for Precision {
    fn from(flag: PrecisionFlag) -> Self {
        match flag {
            PrecisionFlag::Single => Self::Single,
            PrecisionFlag::Half => Self::Half,
        }
    }
}

fn parse_error(text: &str) -> Result<f64, String> {
    let wrong = || format!("{text:?} is not valid; give a number from 0 to 1, such as 1e-5");
    text.parse::<f64>().ok().filter(|e| (0.0..=1.0).contains(e)).ok_or_else(wrong)
}

fn parse_size(text: &str) -> Result<f64, String> {
    let wrong = || format!("{text:?} is not valid; give a number from 1 to 10, such as 1.2");
    text.parse::<f64>().ok().filter(|e| (1.0..=10.0).contains(e)).ok_or_else(wrong)
}

/// Packs one folder and reports on standard error. A graph that cellnet does not support is not an error;
/// rten serves it.
///
/// # Errors
/// A file cannot be read or written.
pub(crate) fn pack_and_report(folder: &Path, flags: &PackFlags) -> anyhow::Result<()> {
    pack_shown_as(folder, folder, flags)
}

/// As [`pack_and_report`]; the report calls the folder `shown`.
///
/// # Errors
/// A file cannot be read or written.
pub(crate) fn pack_shown_as(folder: &Path, shown: &Path, flags: &PackFlags) -> anyhow::Result<()> {
    if read_card(folder).is_ok_and(|card| !card.fields.is_empty()) {
        return stays_with_rten(folder, shown, &"it takes numbers beside the photo");
    }
    let options = PackOptions {
        max_error: flags.max_error,
        photos: flags.photos.clone(),
        precision: flags.precision.into(),
        max_size: flags.max_size,
    };
    match pack(folder, &options) {
        Ok(packed) => {
            let size = bytesize::ByteSize::b(packed.bytes).display().iec();
            let [direct, small, large] = packed.convolutions;
            let fast = match (small, large) {
                (0, 0) => String::new(),
                _ => format!(
                    ", of {} convolutions {small} by F(2x2), {large} by F(4x4)",
                    direct + small + large
                ),
            };
            let bits = match (packed.precision, packed.on_integers) {
                (Precision::Half, 0) => " in 16 bits".to_owned(),
                (Precision::Single, 0) if options.precision == Precision::Half => format!(
                    ", all weights in 32 bits, because no layer has the {SMALLEST_HALVED} from which 16 are taken"
                ),
                (Precision::Single, 0) => String::new(),
                (_, integers) => format!(" with {integers} convolutions on 8-bit integers"),
            };
            eprintln!("{} is packed for cellnet{bits}, {size}{fast}", shown.display());
            let pictures = if flags.photos.is_empty() { "drawings" } else { "photos" };
            eprintln!("  {}", proven(&packed.proof, pictures));
            Ok(())
        }
        Err(PackFolderError::Engine(
            error @ (PackError::Operator { .. } | PackError::Tensor { .. } | PackError::Check(_)),
        )) => stays_with_rten(folder, shown, &error),
        Err(PackFolderError::Proof(error @ ProofError::Differs { .. })) => {
            stays_with_rten(folder, shown, &error)
        }
        Err(error) => Err(error.into()),
    }
}

/// Reports why the folder has no packed file, and removes one that lies there: it is of an earlier graph, or
/// was never compared with this one, and would be served.
fn stays_with_rten(folder: &Path, shown: &Path, why: &dyn Display) -> anyhow::Result<()> {
    eprintln!("{} stays with rten: {why}", shown.display());
    let cell = folder.join(CELL_FILE);
    match std::fs::remove_file(&cell) {
        Ok(()) => eprintln!("  the {CELL_FILE} that was there is removed"),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => {
            let name = cell.display();
            return Err(error).with_context(|| format!("{name} is of another graph; remove it"));
        }
    }
    Ok(())
}

/// How the packed file compares with its graph on these `pictures`, in words.
fn proven(proof: &Proof, pictures: &str) -> String {
    let Difference { probability, heatmap } = proof.difference;
    let photos = proof.photos;
    let why =
        if proof.sensitive { ", about as much as its own answers depend on rounding" } else { "" };
    format!(
        "on {photos} {pictures} its probabilities differ from the graph's by {probability:.1e} at most, its \
         heatmaps by {heatmap:.1e}{why}"
    )
}
