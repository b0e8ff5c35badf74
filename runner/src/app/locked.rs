//! Reads Spin's locked app, the file that `spin up` passes to the trigger it starts, as an application.
//!
//! The locked app is JSON. Its content lies in files (`file:` addresses), its profile is applied, and its
//! templates are not expanded yet. Members that only Spin needs are ignored; features it requires of a host
//! are refused by name.

use super::resolve::{NATIVE, NOT_OFFERED, inherited, outbound_hosts, stores};
use super::{Additions, App, AppComponent, TOOL, Target, ToolSettings, variables};
use crate::compose::Dependency;
use crate::manifest::dependency::{ImportName, Inherit};
use crate::manifest::names::LowerSnake;
use crate::manifest::{self, Executor, HttpTrigger, Mount, Route, Variable};
use crate::routes::Routes;
use anyhow::{Context, bail};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The newest version of the format that is supported.
const VERSION: u32 = 1;

#[derive(Deserialize)]
struct Locked {
    spin_lock_version: u32,
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    host_requirements: BTreeMap<String, serde_json::Value>,
    #[serde(default)]
    variables: BTreeMap<LowerSnake, LockedVariable>,
    triggers: Vec<LockedTrigger>,
    components: Vec<LockedComponent>,
}

#[derive(Default, Deserialize)]
struct Metadata {
    #[serde(default)]
    name: String,
    #[serde(default)]
    version: String,
    /// The manifest that the app was made from, as a `file:` address.
    origin: Option<String>,
}

#[derive(Deserialize)]
struct LockedVariable {
    default: Option<String>,
    #[serde(default)]
    description: String,
    #[serde(default)]
    secret: bool,
}

#[derive(Deserialize)]
struct LockedTrigger {
    trigger_type: String,
    trigger_config: serde_json::Value,
}

#[derive(Clone, Deserialize)]
struct LockedComponent {
    id: String,
    #[serde(default)]
    metadata: BTreeMap<String, serde_json::Value>,
    source: Content,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    files: Vec<MountedContent>,
    #[serde(default)]
    config: BTreeMap<String, String>,
    #[serde(default)]
    dependencies: BTreeMap<ImportName, LockedDependency>,
    #[serde(default)]
    host_requirements: BTreeMap<String, serde_json::Value>,
}

#[derive(Clone, Deserialize)]
struct LockedDependency {
    source: Content,
    export: Option<String>,
    inherit: Option<LockedInherit>,
}

/// In Spin's serialization: `"All"` or `{"Some": […]}`.
#[derive(Clone, Deserialize)]
enum LockedInherit {
    All,
    Some(Vec<String>),
}

#[derive(Clone, Deserialize)]
struct Content {
    source: Option<String>,
}

#[derive(Clone, Deserialize)]
struct MountedContent {
    #[serde(flatten)]
    content: Content,
    path: String,
}

/// Reads the locked app at `url`, a `file:` address, which Spin gives in `SPIN_LOCKED_URL`.
///
/// Models are looked for beside the manifest that the app was made from or, if that is not on this machine,
/// in `working_folder` (Spin's `SPIN_WORKING_DIR`).
///
/// # Errors
/// When the file cannot be read, is malformed, or requires something that this runner does not offer.
pub fn load_locked(url: &str, working_folder: &Path, additions: &Additions) -> anyhow::Result<App> {
    let path = file_path(url)?;
    let read = || -> anyhow::Result<App> {
        let locked: Locked = serde_json::from_slice(&std::fs::read(&path)?)?;
        resolve(locked, working_folder, additions)
    };
    read().with_context(|| format!("in Spin's locked app {}", path.display()))
}

fn resolve(locked: Locked, working_folder: &Path, additions: &Additions) -> anyhow::Result<App> {
    if locked.spin_lock_version > VERSION {
        bail!(
            "spin_lock_version is {}; versions up to {VERSION} are supported",
            locked.spin_lock_version
        );
    }
    refuse_requirements(&locked.host_requirements)?;
    let origin = locked.metadata.origin.as_deref().and_then(|url| file_path(url).ok());
    let home = origin.as_deref().and_then(Path::parent).filter(|folder| folder.is_dir());
    let declared = locked.variables.into_iter().map(|(name, variable)| (name, variable.into()));
    let values = additions.variables.resolve(&declared.collect())?;
    let mut app = App {
        name: locked.metadata.name,
        version: locked.metadata.version,
        folder: home.unwrap_or(working_folder).to_path_buf(),
        routes: Routes::default(),
        triggers: Vec::new(),
        components: Vec::new(),
        other_builds: Vec::new(),
    };
    let tools = origin.as_deref().map(tool_settings).transpose()?.unwrap_or_default();
    for trigger in locked.triggers {
        if trigger.trigger_type != "http" {
            // Spin starts one process for each type of trigger, and passes the whole app to each.
            continue;
        }
        let trigger: HttpTrigger =
            serde_json::from_value(trigger.trigger_config).context("a trigger's trigger_config")?;
        let target = match (&trigger.component, &trigger.static_response) {
            (Some(manifest::ComponentReference::Id(id)), None) => {
                let found = locked.components.iter().find(|component| component.id == id.as_ref());
                let component = found.with_context(|| format!("there is no component {id:?}"))?;
                Target::Component(app.add_locked(component, &values, &tools, additions)?)
            }
            (None, Some(response)) => Target::Static(response.clone()),
            _ => bail!("a trigger has neither a component's id nor a static response"),
        };
        if trigger.executor != Executor::Http {
            bail!("the executor `wagi` is not offered here; only `http` is");
        }
        if let Route::Path(route) = trigger.route {
            app.add_route(route, target)?;
        }
    }
    Ok(app)
}

impl App {
    fn add_locked(
        &mut self,
        component: &LockedComponent,
        values: &BTreeMap<String, String>,
        tools: &BTreeMap<String, ToolSettings>,
        additions: &Additions,
    ) -> anyhow::Result<usize> {
        if let Some(known) = self.components.iter().position(|c| c.id == component.id) {
            return Ok(known);
        }
        let resolve = || -> anyhow::Result<AppComponent> {
            refuse_requirements(&component.host_requirements)?;
            refuse_metadata(component)?;
            let mut environment = component.env.clone();
            environment.extend(additions.environment.iter().cloned());
            let expand = |(name, template): (&String, &String)| -> anyhow::Result<_> {
                Ok((name.clone(), variables::expand(template, values)?))
            };
            let models = component.metadata.get("ai_models").cloned().unwrap_or_default();
            let hosts =
                component.metadata.get("allowed_outbound_hosts").cloned().unwrap_or_default();
            let labels = component.metadata.get("key_value_stores").cloned().unwrap_or_default();
            let tool = tools.get(&component.id).cloned().unwrap_or_default();
            Ok(AppComponent {
                id: component.id.clone(),
                source: content_path(&component.source)?,
                embedded: None,
                environment: environment.into_iter().collect(),
                variables: component.config.iter().map(expand).collect::<anyhow::Result<_>>()?,
                files: Vec::new(),
                placed_files: component.files.iter().map(mount).collect::<anyhow::Result<_>>()?,
                exclude_files: Vec::new(),
                unmounted_files: Vec::new(),
                allowed_outbound_hosts: outbound_hosts(
                    &Option::<Vec<String>>::deserialize(hosts)?.unwrap_or_default(),
                    values,
                )?,
                key_value_stores: stores(
                    Option::<Vec<String>>::deserialize(labels)?.unwrap_or_default(),
                )?,
                models: Option::deserialize(models)?.unwrap_or_default(),
                models_folder: self.folder.join(&tool.models),
                open: tool.open,
                routes: tool.routes,
                dependencies: dependencies(component)?,
                build: None,
            })
        };
        let resolved = resolve().with_context(|| format!("component {:?}", component.id))?;
        self.components.push(resolved);
        Ok(self.components.len() - 1)
    }
}

/// The feature that Spin requires of a host for `http://*.spin.internal`.
const CHAINING: &str = "local_service_chaining";

/// Refuses features that the locked app requires of its host and that are not offered here.
fn refuse_requirements(required: &BTreeMap<String, serde_json::Value>) -> anyhow::Result<()> {
    match required.iter().find(|(feature, need)| *feature != CHAINING && *need != "optional") {
        Some((feature, _)) => bail!("the feature `{feature}` {NOT_OFFERED}"),
        None => Ok(()),
    }
}

/// Refuses capabilities that the manifest grants, under the locked app's names.
fn refuse_metadata(component: &LockedComponent) -> anyhow::Result<()> {
    let asked = component.metadata.get("databases").and_then(|value| value.as_array());
    match asked.is_some_and(|asked| !asked.is_empty()) {
        true => bail!("`databases` {NOT_OFFERED}"),
        false => Ok(()),
    }
}

/// The dependencies to compose into a component. `wasi:nn` is left out, because the runner provides it
/// natively.
fn dependencies(component: &LockedComponent) -> anyhow::Result<Vec<Dependency>> {
    let others = component.dependencies.iter().filter(|(name, _)| name.package != NATIVE);
    others
        .map(|(import, dependency)| {
            let inherit = match dependency.inherit.clone() {
                Some(LockedInherit::All) => Inherit::All(true),
                Some(LockedInherit::Some(keys)) => Inherit::Some(keys),
                None => Inherit::All(false),
            };
            Ok(Dependency {
                import: import.clone(),
                source: content_path(&dependency.source)?,
                export: dependency.export.clone(),
                inherits: inherited(Some(inherit), false),
            })
        })
        .collect()
}

/// The tables `[component.*.tool.skincell]` of the manifest at `path`, which the locked app leaves out.
fn tool_settings(path: &Path) -> anyhow::Result<BTreeMap<String, ToolSettings>> {
    // Errors are ignored: Spin has checked the manifest, and it may have changed since. Only the runner's own
    // table is needed.
    let Ok(text) = std::fs::read_to_string(path) else { return Ok(BTreeMap::new()) };
    let Ok(manifest) = manifest::parse(&text) else { return Ok(BTreeMap::new()) };
    let tables = manifest.component.into_iter().filter_map(|(id, mut component)| {
        component.tool.remove(TOOL).map(|table| (String::from(id), table))
    });
    tables
        .map(|(id, table)| {
            let settings = ToolSettings::deserialize(table).with_context(|| {
                format!("in [component.{id}.tool.{TOOL}] of {}", path.display())
            })?;
            Ok((id, settings))
        })
        .collect()
}

fn mount(content: &MountedContent) -> anyhow::Result<Mount> {
    let source = content_path(&content.content)?;
    let source = source.to_str().context("a mounted folder's path is not UTF-8")?.to_owned();
    Ok(Mount { source, destination: content.path.clone() })
}

fn content_path(content: &Content) -> anyhow::Result<PathBuf> {
    let url =
        content.source.as_deref().context("content without a `source` is not supported here")?;
    file_path(url)
}

/// The path in a `file:` address, percent-decoded.
fn file_path(url: &str) -> anyhow::Result<PathBuf> {
    let path = url
        .strip_prefix("file://")
        .filter(|path| path.starts_with('/'))
        .with_context(|| format!("{url:?} is not the address of a local file (file:///…)"))?;
    let decoded = percent_encoding::percent_decode_str(path).decode_utf8()?;
    Ok(PathBuf::from(decoded.into_owned()))
}

impl From<LockedVariable> for Variable {
    fn from(variable: LockedVariable) -> Self {
        Self {
            description: variable.description,
            required: variable.default.is_none(),
            default: variable.default,
            secret: variable.secret,
        }
    }
}
