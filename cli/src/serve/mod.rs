//! `skincell serve`: serves one model with the component of this program, without a `spin.toml`.

mod cache;
pub(crate) mod installed;
mod not_a_model;
pub(crate) mod one_model;

use crate::output::out;
use crate::service_options::ServiceOptions;
use crate::summary::say;
use clap::Args;
use one_model::OneModel;
use skincell_runner::allocator;
use std::path::PathBuf;
use std::process::ExitCode;

/// Serve one model, with its page and all interfaces; no spin.toml is needed.
///
/// A prepared folder is served as it is. A trained classifier is prepared first, as by `skincell model
/// prepare` with the same flags, into the cache folder, where the next start finds it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  skincell serve                                         the included model, models/skin
  skincell serve model.keras --labels labels.txt         a Keras model, prepared at the first start
  skincell serve raw.onnx --labels benign,malignant --preprocess torch
  skincell serve models/mine --listen 0.0.0.0:8080       a folder made by `skincell model prepare`

A .keras, .h5 or .pt2 file needs a Python with its framework, see --python. Not a medical device.")]
pub struct Serve {
    /// A folder with a prepared model, or a classifier to prepare: an ONNX file, a Keras model (.keras, .h5,
    /// a SavedModel folder) or a PyTorch program (.pt2, .pt) [default: the included model, skin]
    model: Option<PathBuf>,

    #[command(flatten)]
    service: ServiceOptions,

    #[command(flatten)]
    one: OneModel,
}

impl Serve {
    /// Serves until a signal arrives; the exit code is 0 if all accepted requests were finished.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        self.service.check_address()?;
        let tell = |text: &str| out!("{text}");
        let folder = self.one.folder(self.model.as_deref(), &self.service.run, tell)?;
        // Preparing a model takes memory that the service should not keep. A restarted program finds the
        // model in the cache.
        allocator::restart_without_thread_caches();
        let app = self.one.application(&folder, &self.service.run)?;
        say(&format!("Model {}", folder.display()));
        self.service.serve(app)?;
        Ok(ExitCode::SUCCESS)
    }
}
