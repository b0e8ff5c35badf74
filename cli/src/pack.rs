//! Packing model folders for the engine `cellnet`: what `up --build`, `model prepare`, `model quantize` and
//! `model pack` share.

use std::path::{Path, PathBuf};

use clap::Args;
use skincell_modelkit::pack::{PackError, PackFolderError, PackOptions, pack};

/// Flags on how exact a packed model has to be.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct PackFlags {
    /// Largest error of one convolution's fast algorithm against double precision, relative to the
    /// layer's largest output; 0 takes the exact, slower one everywhere [default: 3e-5]
    #[arg(long, value_name = "ERROR", value_parser = parse_error)]
    max_error: Option<f64>,
    /// Judge on these photos, files or folders of such, instead of on noise or drawings; may be given
    /// several times
    #[arg(long = "photos", value_name = "PHOTO")]
    pub(crate) photos: Vec<PathBuf>,
}

fn parse_error(text: &str) -> Result<f64, String> {
    let wrong = || format!("{text:?} is no error; wanted is a number from 0 to 1, such as 1e-5");
    text.parse::<f64>().ok().filter(|e| (0.0..=1.0).contains(e)).ok_or_else(wrong)
}

/// Packs one folder and says how it went, on standard error; a graph that the engine does not take is
/// no error, rten serves it.
///
/// # Errors
/// What is wrong with the files.
pub(crate) fn pack_and_report(folder: &Path, flags: &PackFlags) -> anyhow::Result<()> {
    let options = PackOptions { max_error: flags.max_error, photos: flags.photos.clone() };
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
            eprintln!("{} is packed for cellnet, {size}{fast}", folder.display());
            Ok(())
        }
        Err(PackFolderError::Engine(
            error @ (PackError::Operator { .. } | PackError::Tensor { .. } | PackError::Check(_)),
        )) => {
            eprintln!("{} stays with rten: {error}", folder.display());
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}
