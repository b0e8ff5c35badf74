//! The application of one model, without a `spin.toml`: for `serve`, and for `classify` where there is none.

use super::installed::{self, Component};
use super::{cache, not_a_model};
use crate::model::prepare::PrepareFlags;
use crate::run_options::RunOptions;
use anyhow::{Context, bail};
use clap::Args;
use skincell_modelkit::CARD_FILE;
use skincell_modelkit::served::read_card;
use skincell_modelkit::source;
use skincell_runner::app::{self, Additions, App};
use skincell_runner::manifest::{self, Files, Mount};
use std::path::{Path, PathBuf};

/// The manifest of the application, from which a served model differs in its files and grants only.
const MANIFEST: &str = include_str!("../../../spin.toml");

/// Flags for the component and for preparing a model.
#[derive(Debug, Args)]
pub struct OneModel {
    /// The component to serve with, a Wasm file [default: the one in this program, or beside it]
    #[arg(long, value_name = "FILE")]
    component: Option<PathBuf>,

    #[command(flatten, next_help_heading = "Preparing a model")]
    prepare: PrepareFlags,
}

impl OneModel {
    /// Whether one of the flags is given.
    pub fn are_given(&self) -> anyhow::Result<bool> {
        Ok(self.component.is_some() || self.prepare.are_given()?)
    }

    /// The prepared folder of `model`, a path, or else of the included model. A model that is not prepared is
    /// prepared into the cache, and its report is printed.
    pub fn folder(
        &self,
        model: Option<&Path>,
        run: &RunOptions,
        tell: impl Fn(&str),
    ) -> anyhow::Result<PathBuf> {
        let Some(model) = model else {
            self.refuse_preparing("the included model")?;
            return installed::skin();
        };
        if model.join(CARD_FILE).exists() {
            self.refuse_preparing(&model.display().to_string())?;
            return Ok(model.to_owned());
        }
        if let Some(instead) = not_a_model::instead(model) {
            bail!(instead);
        }
        source::find(model)?;
        // Sought before the model is prepared, which may take minutes.
        installed::component(self.component.as_deref())?;
        let cache = run.settings()?.cache_folder;
        let cache =
            cache.context("there is no cache folder to prepare into: name one with --cache-dir")?;
        cache::prepared(model, &self.prepare, &cache, tell)
    }

    /// The application that serves the prepared model in `folder`.
    pub fn application(&self, folder: &Path, run: &RunOptions) -> anyhow::Result<App> {
        let component = installed::component(self.component.as_deref())?;
        application(folder, &component, &run.environment)
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
    component: &Component,
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
        match component {
            Component::File(file) => served.source.clone_from(file),
            Component::Embedded(bytes) => {
                served.embedded = Some(bytes);
                served.source = PathBuf::from("the one in this program");
            }
        }
    }
    Ok(app)
}
