//! An application, ready to be compiled: paths are resolved, variables expanded and defaults filled in, and
//! capabilities that this runner does not offer are refused by name.
//!
//! It is read from a `spin.toml` ([`load`]) or, when stock Spin runs skincell as its trigger, from the locked
//! app that Spin wrote ([`load_locked`]). Running it is left to [`crate::service`].

mod cached;
mod locked;
mod resolve;
mod variables;

pub use locked::load_locked;
pub use resolve::{load, resolve};
pub use variables::Values;

use crate::compose::Dependency;
use crate::manifest::{Build, Commands, Files, Mount, StaticResponse};
use crate::routes::Routes;
use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The key of the runner's own settings under `[component.<id>.tool]`, which stock Spin ignores.
const TOOL: &str = "skincell";

/// An application and its folder.
#[derive(Debug, Clone, Serialize)]
pub struct App {
    /// `application.name`.
    pub name: String,
    /// `application.version`.
    pub version: String,
    /// The manifest's folder; relative paths start here.
    pub folder: PathBuf,
    /// Routes, with their index into `triggers`.
    #[serde(skip)]
    pub routes: Routes,
    /// The triggers, in the manifest's order.
    pub triggers: Vec<Trigger>,
    /// The components that triggers refer to, each once.
    pub components: Vec<AppComponent>,
    /// The builds of other components of the manifest, by id.
    #[serde(skip)]
    pub other_builds: Vec<(String, Build)>,
}

/// A route and its target.
#[derive(Debug, Clone, Serialize)]
pub struct Trigger {
    /// The route as written.
    pub route: String,
    /// The target of its requests.
    pub target: Target,
}

/// A component or a fixed answer.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// A component, by index into [`App::components`].
    Component(usize),
    /// A fixed answer from the manifest.
    Static(StaticResponse),
}

/// A component and its grants.
#[derive(Debug, Clone, Serialize)]
pub struct AppComponent {
    /// Key in the manifest.
    pub id: String,
    /// The Wasm file.
    pub source: PathBuf,
    /// The component with its dependencies, if it is a part of this program; `source` then only names it.
    #[serde(skip)]
    pub embedded: Option<&'static [u8]>,
    /// Environment variables, each name once.
    pub environment: Vec<(String, String)>,
    /// Values that it may read by name (`spin_sdk::variables`, `wasi:config`), with templates expanded.
    pub variables: BTreeMap<String, String>,
    /// Files it sees.
    pub files: Vec<Files>,
    /// Files that Spin has staged already, at absolute paths of this machine.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub placed_files: Vec<Mount>,
    /// Glob patterns of files it does not see; a file that `files` names is seen nevertheless.
    pub exclude_files: Vec<String>,
    /// Glob patterns of files that this runner does not mount, even if `files` names them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unmounted_files: Vec<String>,
    /// Hosts that it may send requests to, with templates expanded.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed_outbound_hosts: Vec<String>,
    /// Key-value stores that it may open, by label.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub key_value_stores: Vec<String>,
    /// Models that it may load through wasi-nn, by name.
    pub models: Vec<String>,
    /// The folder that contains one folder for each model.
    pub models_folder: PathBuf,
    /// Routes that may be read without a token, if the service requires one.
    pub open: Vec<String>,
    /// Routes that the component distinguishes below its triggers', by which metrics and traces name
    /// requests.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<String>,
    /// Components composed into it; never `wasi:nn`, which the runner provides.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dependencies: Vec<Dependency>,
    /// Its build commands.
    pub build: Option<Build>,
}

/// Additions to an application from the command line.
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
    /// The folder that contains one folder for each model, relative to the manifest.
    models: PathBuf,
    /// Routes, in the form of a trigger's, that GET and HEAD may read without a token.
    open: Vec<String>,
    /// Routes, in the form of a trigger's, by which metrics and traces name requests to the component.
    /// Without them a trigger of `/...` is one route for all.
    routes: Vec<String>,
    /// Commands that `--build` runs instead of the component's own, which may also build parts that only Spin
    /// needs.
    build: Option<Commands>,
    /// Files of the component that this runner does not mount, besides its own `exclude_files`: weights,
    /// which the host reads.
    exclude_files: Vec<String>,
}

impl App {
    /// The builds of all components, by id: first of those that no trigger names, which others may need.
    pub fn builds(&self) -> impl Iterator<Item = (&str, &Build)> {
        let others = self.other_builds.iter().map(|(id, build)| (id.as_str(), build));
        let named = self.components.iter().filter_map(|c| Some((c.id.as_str(), c.build.as_ref()?)));
        others.chain(named)
    }

    /// Routes that may be read without a token, of all components.
    ///
    /// # Errors
    /// For a malformed route.
    pub fn open_routes(&self) -> anyhow::Result<Routes> {
        self.routes_of("open", |component| &component.open)
    }

    /// Routes by which metrics and traces name requests, of all components.
    ///
    /// # Errors
    /// For a malformed route.
    pub fn named_routes(&self) -> anyhow::Result<Routes> {
        self.routes_of("routes", |component| &component.routes)
    }

    /// The routes that `list`, the key `key` of each tool table, names; their targets are the components.
    fn routes_of(
        &self,
        key: &str,
        list: impl Fn(&AppComponent) -> &[String],
    ) -> anyhow::Result<Routes> {
        let mut routes = Routes::default();
        for (index, component) in self.components.iter().enumerate() {
            for route in list(component) {
                let id = &component.id;
                routes
                    .add(route, index)
                    .with_context(|| format!("in `{key}` of [component.{id}.tool.{TOOL}]"))?;
            }
        }
        Ok(routes)
    }
}

impl Default for ToolSettings {
    fn default() -> Self {
        Self {
            models: PathBuf::from("models"),
            open: Vec::new(),
            routes: Vec::new(),
            build: None,
            exclude_files: Vec::new(),
        }
    }
}
