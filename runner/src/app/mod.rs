//! An application ready to be compiled: paths resolved, variables expanded, defaults filled in, and
//! everything this runner cannot give refused by name.
//!
//! It comes from a `spin.toml` ([`load`]) or, when stock Spin runs us as its trigger, from the locked app
//! that Spin wrote ([`load_locked`]). Leaves out running it: [`crate::service`].

mod locked;
mod resolve;
mod variables;

pub use locked::load_locked;
pub use resolve::load;
pub use variables::Values;

use crate::compose::Dependency;
use crate::manifest::{Build, Commands, Files, Mount, StaticResponse};
use crate::routes::Routes;
use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The key of our own settings under `[component.<id>.tool]`, which stock Spin ignores.
const TOOL: &str = "skincell";

/// An application and where it lies.
#[derive(Debug, Clone, Serialize)]
pub struct App {
    /// `application.name`.
    pub name: String,
    /// `application.version`.
    pub version: String,
    /// The manifest's folder; relative paths start here.
    pub folder: PathBuf,
    /// Route → index into `triggers`.
    #[serde(skip)]
    pub routes: Routes,
    /// What answers, in the manifest's order.
    pub triggers: Vec<Trigger>,
    /// The components that triggers name, each once.
    pub components: Vec<AppComponent>,
}

/// What answers a route.
#[derive(Debug, Clone, Serialize)]
pub struct Trigger {
    /// The route as written.
    pub route: String,
    /// Who answers.
    pub target: Target,
}

/// Who answers a request.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// A component, by index into [`App::components`].
    Component(usize),
    /// The manifest itself.
    Static(StaticResponse),
}

/// A component and what it is granted.
#[derive(Debug, Clone, Serialize)]
pub struct AppComponent {
    /// Key in the manifest.
    pub id: String,
    /// The Wasm file.
    pub source: PathBuf,
    /// Environment variables, each name once.
    pub environment: Vec<(String, String)>,
    /// Values it may ask for by name (`spin_sdk::variables`, `wasi:config`), templates expanded.
    pub variables: BTreeMap<String, String>,
    /// Files it sees.
    pub files: Vec<Files>,
    /// Files that Spin has gathered already, at absolute paths of this machine.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub placed_files: Vec<Mount>,
    /// Glob patterns of files it does not see; a file that `files` names is seen all the same.
    pub exclude_files: Vec<String>,
    /// Glob patterns of files that are not mounted here, whatever `files` says.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unmounted_files: Vec<String>,
    /// Names it may load through wasi-nn.
    pub models: Vec<String>,
    /// The folder that holds one folder per model.
    pub models_folder: PathBuf,
    /// Routes that may be read without a token, where the service wants one.
    pub open: Vec<String>,
    /// Components composed into it; never `wasi:nn`, which the runner gives.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dependencies: Vec<Dependency>,
    /// How it is built.
    pub build: Option<Build>,
}

/// What the command line adds to an application.
#[derive(Clone, Default)]
pub struct Additions {
    /// Environment variables for every component (`--env`).
    pub environment: Vec<(String, String)>,
    /// Values for variables (`--variable` and the process's environment).
    pub variables: Values,
    /// The profile to apply (`--profile`).
    pub profile: Option<String>,
}

/// `[component.<id>.tool.skincell]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ToolSettings {
    /// The folder that holds one folder per model, relative to the manifest.
    models: PathBuf,
    /// Routes, written as a trigger's, that GET and HEAD reach without a token.
    open: Vec<String>,
    /// What `--build` runs here in place of the component's own commands, which may make what only Spin
    /// needs.
    build: Option<Commands>,
    /// Files of the component that are not mounted here, beside its own `exclude_files`: weights, which
    /// the host reads.
    exclude_files: Vec<String>,
}

impl App {
    /// What may be read without a token, of all components together.
    ///
    /// # Errors
    /// For what is no route.
    pub fn open_routes(&self) -> anyhow::Result<Routes> {
        let mut open = Routes::default();
        for (index, component) in self.components.iter().enumerate() {
            for route in &component.open {
                let id = &component.id;
                open.add(route, index)
                    .with_context(|| format!("in `open` of [component.{id}.tool.{TOOL}]"))?;
            }
        }
        Ok(open)
    }
}

impl Default for ToolSettings {
    fn default() -> Self {
        Self {
            models: PathBuf::from("models"),
            open: Vec::new(),
            build: None,
            exclude_files: Vec::new(),
        }
    }
}
