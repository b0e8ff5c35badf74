//! The flags of `up` and `classify` that name the application.

use crate::pack::{PackFlags, pack_and_report};
use anyhow::Context;
use clap::Args;
use skincell_modelkit::pack::is_packed;
use skincell_runner::app::{self, Additions, App, Values};
use skincell_runner::build;
use std::path::{Path, PathBuf};

/// Flags for the application.
#[derive(Debug, Args)]
pub struct ApplicationOptions {
    /// The application: a spin.toml, or a folder with one [default: the current folder].
    #[arg(short = 'f', long = "from", value_name = "PATH")]
    #[arg(alias = "file", alias = "from-file")]
    from: Option<PathBuf>,

    /// First run the manifest's build commands, as `spin build` does, and pack the models for cellnet.
    #[arg(long)]
    build: bool,

    /// Set an application variable: NAME=VALUE, NAME=@FILE, @FILE.json or @FILE.toml. Otherwise
    /// SPIN_VARIABLE_<NAME> is used, from the environment or from `.env`.
    #[arg(long = "variable", value_name = "VARIABLE")]
    variables: Vec<String>,

    /// Use this profile of the manifest's components.
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
}

impl ApplicationOptions {
    /// Whether the flags, Spin or the current folder name an application.
    pub fn is_there(&self) -> bool {
        let is_here = || Path::new("spin.toml").exists();
        self.are_given() || std::env::var_os("SPIN_LOCKED_URL").is_some() || is_here()
    }

    /// Whether one of the flags is given.
    pub fn are_given(&self) -> bool {
        let of_manifest = self.build || !self.variables.is_empty() || self.profile.is_some();
        self.from.is_some() || of_manifest
    }

    /// Reads the application that Spin passes when it starts this program, or else the one in the manifest,
    /// with `environment` for its components. Builds it if `--build` is given.
    ///
    /// # Errors
    /// When the application cannot be read or built.
    pub fn load(&self, environment: &[(String, String)]) -> anyhow::Result<App> {
        let app = self.app(environment)?;
        if self.build {
            build::build(&app)?;
            pack_models(&app)?;
        }
        Ok(app)
    }

    fn app(&self, environment: &[(String, String)]) -> anyhow::Result<App> {
        let mut variables = Values::from_environment(Path::new("."))?;
        for argument in &self.variables {
            variables.set(argument).with_context(|| format!("--variable {argument}"))?;
        }
        let additions = Additions {
            environment: environment.to_vec(),
            variables,
            profile: self.profile.clone(),
        };
        match std::env::var("SPIN_LOCKED_URL") {
            Ok(url) => {
                let folder = std::env::var_os("SPIN_WORKING_DIR").unwrap_or_else(|| ".".into());
                app::load_locked(&url, Path::new(&folder), &additions)
            }
            Err(_) => app::load(self.from.as_deref().unwrap_or(Path::new(".")), &additions),
        }
    }
}

/// Packs the models that have no packed file. A missing folder is not an error here; a request for its
/// model gets one.
fn pack_models(app: &App) -> anyhow::Result<()> {
    for component in &app.components {
        for folder in component.models.iter().map(|name| component.models_folder.join(name)) {
            if folder.join("model.onnx").exists() && !is_packed(&folder) {
                pack_and_report(&folder, &PackFlags::default())?;
            }
        }
    }
    Ok(())
}
