//! Reads `spin.toml`, manifest version 2, as strictly as Spin does: unknown keys are errors.
//!
//! This module defines the syntax; [`crate::app`] refuses by name what this runner does not offer. Paths stay
//! as written, relative to the manifest's folder.

pub mod dependency;
mod fixed;
pub mod names;

use dependency::Dependencies;
pub use fixed::StaticResponse;
use names::{Kebab, LowerSnake, StoreLabel};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A whole `spin.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Must be 2.
    pub spin_manifest_version: u32,
    /// Name, version and other metadata.
    pub application: Application,
    /// Application variables, by name.
    #[serde(default)]
    pub variables: BTreeMap<LowerSnake, Variable>,
    /// Triggers by type; this runner serves `http`.
    pub trigger: BTreeMap<String, Vec<toml::Table>>,
    /// Components by their id.
    #[serde(default)]
    pub component: BTreeMap<Kebab, Component>,
}

/// `[application]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Application {
    /// The application's name.
    pub name: String,
    /// Its version.
    #[serde(default)]
    pub version: String,
    /// One line about it.
    #[serde(default)]
    pub description: String,
    /// Its authors.
    #[serde(default)]
    pub authors: Vec<String>,
    /// Environments it is meant for; only Spin's build checks them.
    #[serde(default)]
    pub targets: Vec<toml::Value>,
    /// Settings for all triggers of a type.
    #[serde(default)]
    pub trigger: BTreeMap<String, toml::Table>,
    /// Settings of other tools.
    #[serde(default)]
    pub tool: BTreeMap<String, toml::Table>,
}

/// An entry of `[variables]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variable {
    /// What it is for.
    #[serde(default)]
    pub description: String,
    /// Its default value.
    pub default: Option<String>,
    /// Whether a value must be given.
    #[serde(default)]
    pub required: bool,
    /// Whether it is kept out of logs.
    #[serde(default)]
    pub secret: bool,
}

/// `[[trigger.http]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpTrigger {
    /// Identifier, for messages.
    #[serde(default)]
    pub id: Option<String>,
    /// The paths it answers.
    pub route: Route,
    /// The component that answers; exclusive with `static_response`.
    pub component: Option<ComponentReference>,
    /// A fixed answer; exclusive with `component`.
    pub static_response: Option<StaticResponse>,
    /// How the component is called.
    #[serde(default)]
    pub executor: Executor,
    /// Components by role; HTTP triggers have none yet.
    #[serde(default)]
    pub components: toml::Table,
    /// Middleware around the component, by role.
    #[serde(default)]
    pub dependencies: toml::Table,
}

/// A trigger's route.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "toml::Value")]
pub enum Route {
    /// A path: exact, with `:segments`, or ending in `/...`.
    Path(String),
    /// `{ private = true }`: not reachable from the network.
    Private,
}

impl TryFrom<toml::Value> for Route {
    type Error = &'static str;

    fn try_from(value: toml::Value) -> Result<Self, Self::Error> {
        match value {
            toml::Value::String(path) => Ok(Self::Path(path)),
            toml::Value::Table(table)
                if table.len() == 1 && table.get("private") == Some(&true.into()) =>
            {
                Ok(Self::Private)
            }
            _ => Err("a route is a path, or `{ private = true }`"),
        }
    }
}

/// A trigger's component: its id, or the component itself.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "toml::Value")]
pub enum ComponentReference {
    /// A key of `[component]`.
    Id(Kebab),
    /// An inline table.
    Inline(Box<Component>),
}

impl TryFrom<toml::Value> for ComponentReference {
    type Error = String;

    // Distinguished by hand: serde's untagged enums would report only that nothing matched.
    fn try_from(value: toml::Value) -> Result<Self, String> {
        match value {
            toml::Value::String(id) => {
                Kebab::try_from(id).map(Self::Id).map_err(|error| error.to_string())
            }
            table => Component::deserialize(table)
                .map(|component| Self::Inline(Box::new(component)))
                .map_err(|error| error.message().to_owned()),
        }
    }
}

/// How a component is called.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase", tag = "type")]
pub enum Executor {
    /// `wasi:http/incoming-handler`.
    #[default]
    #[serde(alias = "spin")]
    Http,
    /// CGI, which this runner does not offer.
    Wagi {
        /// Entry point.
        #[serde(default)]
        entrypoint: Option<String>,
        /// Arguments.
        #[serde(default)]
        argv: Option<String>,
    },
}

/// `[component.<id>]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Component {
    /// Where the Wasm is.
    pub source: Source,
    /// One line about it.
    #[serde(default)]
    pub description: String,
    /// Environment variables it sees.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Values it may read by name, as templates.
    #[serde(default)]
    pub variables: BTreeMap<LowerSnake, String>,
    /// Files it sees, read-only.
    #[serde(default)]
    pub files: Vec<Files>,
    /// Glob patterns of files it does not see.
    #[serde(default)]
    pub exclude_files: Vec<String>,
    /// Hosts it may call.
    #[serde(default)]
    pub allowed_outbound_hosts: Vec<String>,
    /// The older spelling of `allowed_outbound_hosts`.
    #[serde(default)]
    pub allowed_http_hosts: Vec<String>,
    /// Key-value stores it may open.
    #[serde(default)]
    pub key_value_stores: Vec<StoreLabel>,
    /// SQLite databases it may open.
    #[serde(default)]
    pub sqlite_databases: Vec<StoreLabel>,
    /// Models it may load by name.
    #[serde(default)]
    pub ai_models: Vec<String>,
    /// Environments it is meant for; only Spin's build checks them.
    #[serde(default)]
    pub targets: Vec<toml::Value>,
    /// How it is built.
    pub build: Option<Build>,
    /// Settings of tools; the runner's own are under `skincell`.
    #[serde(default)]
    pub tool: BTreeMap<String, toml::Table>,
    /// Imports satisfied by other components.
    #[serde(default)]
    pub dependencies: Dependencies,
    /// Whether dependencies inherit the component's configuration.
    pub dependencies_inherit_configuration: Option<bool>,
    /// Alternative settings by profile, chosen by `--profile`.
    #[serde(default)]
    pub profile: BTreeMap<String, Profile>,
}

/// The changes that a profile makes to a component.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Another Wasm source.
    pub source: Option<Source>,
    /// Environment variables added or replaced.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Dependencies added or replaced.
    #[serde(default)]
    pub dependencies: Dependencies,
    /// Other build commands.
    pub build: Option<ProfileBuild>,
}

/// Another build of a component.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProfileBuild {
    /// One shell command or several.
    pub command: Commands,
}

/// Where a component's Wasm comes from.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "toml::Value")]
pub enum Source {
    /// A file.
    Path(String),
    /// A download, which Spin may have in its cache.
    Download {
        /// Where it is.
        url: String,
        /// `sha256:` and the hexadecimal digits of its content's digest.
        digest: String,
    },
    /// A package of a registry, as written.
    Package(String),
}

/// The tables that declare a source.
#[derive(Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum RemoteSource {
    Download {
        url: String,
        digest: String,
    },
    Package {
        #[expect(dead_code, reason = "only checked, and then refused by name")]
        registry: Option<String>,
        package: String,
        version: String,
    },
}

impl TryFrom<toml::Value> for Source {
    type Error = &'static str;

    fn try_from(value: toml::Value) -> Result<Self, Self::Error> {
        if let toml::Value::String(path) = value {
            return Ok(Self::Path(path));
        }
        match RemoteSource::deserialize(value) {
            Ok(RemoteSource::Download { url, digest }) => Ok(Self::Download { url, digest }),
            Ok(RemoteSource::Package { package, version, .. }) => {
                Ok(Self::Package(format!("{package}@{version}")))
            }
            Err(_) => {
                Err("a source is a path, `{ url, digest }`, or `{ registry, package, version }`")
            }
        }
    }
}

/// An entry of `files`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged)]
pub enum Files {
    /// A glob pattern; matching files are seen under the same relative path.
    Pattern(String),
    /// A file or folder, seen at an absolute path.
    Mount(Mount),
}

/// `{ source = "…", destination = "/…" }`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// File or folder on the host.
    pub source: String,
    /// Absolute path in the guest.
    pub destination: String,
}

/// `[component.<id>.build]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Build {
    /// One shell command or several.
    pub command: Commands,
    /// Where to run them.
    pub workdir: Option<String>,
    /// Patterns of files for `spin watch`.
    #[serde(default)]
    pub watch: Vec<String>,
}

impl From<ProfileBuild> for Build {
    fn from(build: ProfileBuild) -> Self {
        Self { command: build.command, workdir: None, watch: Vec::new() }
    }
}

/// One command or a list of them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged)]
pub enum Commands {
    /// `command = "…"`.
    One(String),
    /// `command = ["…", "…"]`.
    Several(Vec<String>),
}

impl Commands {
    /// The commands in order.
    #[must_use]
    pub fn as_slice(&self) -> &[String] {
        match self {
            Self::One(command) => std::slice::from_ref(command),
            Self::Several(commands) => commands,
        }
    }
}

/// Why a manifest cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not TOML, or unknown or missing keys; the message shows the line.
    #[error(transparent)]
    Toml(#[from] toml::de::Error),
    /// Another manifest version.
    #[error(
        "spin_manifest_version is {0}; only version 2 is read. `spin doctor` upgrades older ones"
    )]
    Version(String),
    /// A text where Spin, too, reads a number only.
    #[error(
        "spin_manifest_version is the text \"2\"; it must be the number: spin_manifest_version = 2"
    )]
    Text,
}

/// Reads a manifest.
///
/// # Errors
/// [`ManifestError`], with the line of the error if TOML can locate it.
pub fn parse(text: &str) -> Result<Manifest, ManifestError> {
    #[derive(Deserialize)]
    struct Version {
        spin_manifest_version: toml::Value,
    }
    #[derive(Deserialize)]
    struct Old {
        spin_version: Option<toml::Value>,
    }
    if let Some(old) = toml::from_str::<Old>(text)?.spin_version {
        let old = old.as_str().unwrap_or("not a text");
        return Err(ManifestError::Version(format!("missing, and spin_version is {old:?}")));
    }
    // The version is checked first: an older manifest would otherwise be refused for its keys.
    let version: Version = toml::from_str(text)?;
    match version.spin_manifest_version {
        toml::Value::Integer(2) => Ok(toml::from_str(text)?),
        toml::Value::Integer(number) => Err(ManifestError::Version(number.to_string())),
        toml::Value::String(text) if text == "2" => Err(ManifestError::Text),
        toml::Value::String(text) => Err(ManifestError::Version(format!("{text:?}"))),
        _ => Err(ManifestError::Version("not a number".to_owned())),
    }
}
