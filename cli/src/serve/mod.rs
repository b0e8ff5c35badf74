//! `skincell serve`: serves one model with the component of this program, without a `spin.toml`.

mod cache;
pub(crate) mod installed;

use crate::model::prepare::PrepareFlags;
use crate::service_options::ServiceOptions;
use crate::summary::say;
use anyhow::{Context, bail};
use clap::Args;
use installed::Component;
use skincell_modelkit::CARD_FILE;
use skincell_modelkit::served::read_card;
use skincell_modelkit::source;
use skincell_runner::allocator;
use skincell_runner::app::{self, Additions, App};
use skincell_runner::manifest::{self, Files, Mount};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The manifest of the application, from which a served model differs in its files and grants only.
const MANIFEST: &str = include_str!("../../../spin.toml");

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

    /// The component to serve with, a Wasm file [default: the one in this program, or beside it]
    #[arg(long, value_name = "FILE")]
    component: Option<PathBuf>,

    #[command(flatten)]
    service: ServiceOptions,

    #[command(flatten, next_help_heading = "Preparing a model")]
    prepare: PrepareFlags,
}

impl Serve {
    /// Serves until a signal arrives; the exit code is 0 if all accepted requests were finished.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let component = installed::component(self.component.as_deref())?;
        let folder = self.folder()?;
        // Preparing a model takes memory that the service should not keep. A restarted program finds the
        // model in the cache.
        allocator::restart_without_thread_caches();
        let app = application(&folder, component, &self.service.run.environment)?;
        say(&format!("Model {}", folder.display()));
        self.service.serve(app)?;
        Ok(ExitCode::SUCCESS)
    }

    /// The prepared folder to serve.
    fn folder(&self) -> anyhow::Result<PathBuf> {
        let Some(model) = &self.model else {
            self.refuse_preparing("the included model")?;
            return installed::skin();
        };
        if model.join(CARD_FILE).exists() {
            self.refuse_preparing(&model.display().to_string())?;
            return Ok(model.clone());
        }
        if !model.exists() {
            bail!("{} does not exist", model.display());
        }
        source::find(model)?;
        let cache = self.service.run.settings()?.cache_folder;
        let cache =
            cache.context("there is no cache folder to prepare into: name one with --cache-dir")?;
        cache::prepared(model, &self.prepare, &cache)
    }

    /// Refuses the flags of preparing for a model that is prepared already: they would have no effect.
    fn refuse_preparing(&self, model: &str) -> anyhow::Result<()> {
        if !self.prepare.are_given()? {
            return Ok(());
        }
        bail!(
            "{model} is prepared already, so --labels, --preprocess and the other flags of preparing have no \
             effect: leave them out, or name the model file it was made from"
        )
    }
}

/// The application that serves the prepared model in `folder`.
fn application(
    folder: &Path,
    component: Component,
    environment: &[(String, String)],
) -> anyhow::Result<App> {
    let folder = folder.canonicalize().with_context(|| folder.display().to_string())?;
    let card = read_card(&folder)?;
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if card.name != name {
        bail!(
            "{}: its {CARD_FILE} names the model {:?}; rename the folder to that",
            folder.display(),
            card.name
        );
    }
    let mut manifest = manifest::parse(MANIFEST)?;
    for served in manifest.component.values_mut() {
        served.files = vec![Files::Mount(Mount {
            source: format!("{name}/{CARD_FILE}"),
            destination: format!("/models/{name}/{CARD_FILE}"),
        })];
        served.ai_models = vec![name.clone()];
        served.environment.insert("SKINCELL_MODEL".to_owned(), name.clone());
        served.build = None;
    }
    let models = folder.parent().unwrap_or(&folder).to_path_buf();
    let additions = Additions { environment: environment.to_vec(), ..Additions::default() };
    let mut app = app::resolve(manifest, &models, &additions)?;
    for served in &mut app.components {
        served.models_folder.clone_from(&models);
        match &component {
            Component::File(file) => served.source.clone_from(file),
            Component::Embedded(bytes) => served.embedded = Some(bytes),
        }
    }
    Ok(app)
}
