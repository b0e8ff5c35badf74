//! Resolves a manifest to an application: follows references, applies profile and variables, and refuses
//! capabilities that this runner does not offer by name. Reading the syntax is left to `manifest`.

use super::cached::cached;
use super::{Additions, App, AppComponent, TOOL, Target, ToolSettings, Trigger, variables};
use crate::compose::Dependency;
use crate::key_value::LABEL;
use crate::manifest::dependency::{self, DependencySource, ImportName, Inherit};
use crate::manifest::names::Kebab;
use crate::manifest::{
    Build, Commands, Component, ComponentReference, Executor, HttpTrigger, Manifest, Profile,
    Route, Source,
};
use crate::outbound::AllowedHosts;
use crate::routes::Routes;
use anyhow::{Context, bail};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The end of the error for a capability of Spin that is not offered here.
pub(super) const NOT_OFFERED: &str =
    "is not offered here; remove it, or run the application on Spin";

/// The end of the error for a dependency that would have to be downloaded.
const NOT_FETCHED: &str =
    "would have to be downloaded, which is not done here; name a file by `path`";

/// The package that the runner provides natively.
pub(super) const NATIVE: &str = "wasi:nn";

/// The keys of a dependency that inherits all configuration.
const ALL_KEYS: [&str; 3] = ["environment", "files", "variables"];

/// Reads the application at `path`: a `spin.toml`, or the folder that holds one.
///
/// # Errors
/// When the manifest cannot be read, is malformed, or requires something that this runner does not offer.
pub fn load(path: &Path, additions: &Additions) -> anyhow::Result<App> {
    refuse_other_sources(path)?;
    let path = if path.is_dir() { path.join("spin.toml") } else { path.to_path_buf() };
    let text = std::fs::read_to_string(&path).with_context(|| {
        format!(
            "cannot read {}; run this where a spin.toml lies, or name one with --from",
            path.display()
        )
    })?;
    let manifest =
        crate::manifest::parse(&text).with_context(|| format!("in {}", path.display()))?;
    // Absolute, so that patterns do not depend on the current folder.
    let absolute = path.canonicalize()?;
    let folder = absolute.parent().unwrap_or(Path::new("/"));
    resolve(manifest, folder, additions).with_context(|| format!("in {}", path.display()))
}

/// Refuses what Spin's `--from` takes besides manifests.
fn refuse_other_sources(path: &Path) -> anyhow::Result<()> {
    if path.extension().is_some_and(|extension| extension == "wasm") {
        bail!(
            "{} is a component and not a manifest; name it as `source` in a spin.toml, and that with --from",
            path.display()
        );
    }
    let text = path.to_string_lossy();
    let host = text.split_once('/').map_or("", |(host, _)| host).trim_start_matches('.');
    if host.contains(['.', ':']) && !path.exists() {
        bail!(
            "{text} does not exist; if it names a registry, applications are not fetched from there: name a \
             spin.toml with --from"
        );
    }
    Ok(())
}

/// The state while a manifest is resolved.
struct Resolver<'a> {
    components: BTreeMap<String, Component>,
    variables: BTreeMap<String, String>,
    additions: &'a Additions,
    app: App,
}

/// The application of `manifest`, whose relative paths start at the absolute path `folder`.
///
/// # Errors
/// When the manifest requires something that this runner does not offer.
pub fn resolve(manifest: Manifest, folder: &Path, additions: &Additions) -> anyhow::Result<App> {
    if let Some(other) = manifest.trigger.keys().find(|kind| *kind != "http") {
        bail!("the trigger type {other:?} is not offered here; only `http` is");
    }
    let components = manifest.component.into_iter().map(|(id, component)| (id.into(), component));
    let mut resolver = Resolver {
        components: components.collect(),
        variables: additions.variables.resolve(&manifest.variables)?,
        additions,
        app: App {
            name: manifest.application.name,
            version: manifest.application.version,
            folder: folder.to_path_buf(),
            routes: Routes::default(),
            triggers: Vec::new(),
            components: Vec::new(),
            other_builds: Vec::new(),
        },
    };
    resolver.require_profile()?;
    let tables = manifest.trigger.get("http").cloned().unwrap_or_default();
    if tables.is_empty() {
        bail!("there is no [[trigger.http]], so nothing would be served");
    }
    let number = |position: usize| format!("[[trigger.http]] number {}", position + 1);
    let read = |(position, table)| {
        HttpTrigger::deserialize::<toml::Table>(table).with_context(|| number(position))
    };
    let triggers = tables.into_iter().enumerate().map(read);
    let triggers = triggers.collect::<anyhow::Result<Vec<_>>>()?;
    let ids = trigger_ids(&triggers);
    for (position, (trigger, id)) in triggers.into_iter().zip(ids).enumerate() {
        resolver.add_trigger(trigger, &id).with_context(|| number(position))?;
    }
    resolver.add_other_builds()?;
    Ok(resolver.app)
}

impl Resolver<'_> {
    /// Refuses a profile that no component has: it is a typing error.
    fn require_profile(&self) -> anyhow::Result<()> {
        let Some(profile) = &self.additions.profile else { return Ok(()) };
        if self.components.values().any(|component| component.profile.contains_key(profile)) {
            return Ok(());
        }
        bail!("no component has a profile {profile:?}; remove --profile or add one")
    }

    fn add_trigger(&mut self, trigger: HttpTrigger, id: &str) -> anyhow::Result<()> {
        if trigger.executor != Executor::Http {
            bail!("the executor `wagi` is not offered here; only `http` is");
        }
        if !trigger.components.is_empty() || !trigger.dependencies.is_empty() {
            bail!("middleware (`components`, `dependencies` of a trigger) is not offered here");
        }
        let target = match (trigger.component, trigger.static_response) {
            (Some(ComponentReference::Id(id)), None) => {
                Target::Component(self.add_component(id.as_ref())?)
            }
            (Some(ComponentReference::Inline(component)), None) => {
                let id = self.inline_id(id);
                self.components.insert(id.clone(), *component);
                Target::Component(self.add_component(&id)?)
            }
            (None, Some(response)) => Target::Static(response),
            _ => bail!("give either `component` or `static_response`, not both or neither"),
        };
        match trigger.route {
            Route::Path(route) => self.app.add_route(route, target)?,
            Route::Private => {}
        }
        Ok(())
    }

    /// The id of an inline component, by Spin's rule: derived from its trigger's id, or else counted.
    fn inline_id(&self, trigger: &str) -> String {
        let natural = Kebab::try_from(format!("{trigger}-component")).ok().map(String::from);
        let counted = (1..).map(|number| format!("inline-component{number}"));
        let mut ids = natural.into_iter().chain(counted);
        ids.find(|id| !self.components.contains_key(id)).unwrap_or_default()
    }

    /// Adds a component, unless it was added before, and returns its index.
    fn add_component(&mut self, id: &str) -> anyhow::Result<usize> {
        if let Some(known) = self.app.components.iter().position(|c| c.id == id) {
            return Ok(known);
        }
        let component = self.components.get(id).cloned().with_context(|| {
            format!("component {id:?} is named but there is no [component.{id}]")
        })?;
        let resolved =
            self.component(id, component).with_context(|| format!("[component.{id}]"))?;
        self.app.components.push(resolved);
        Ok(self.app.components.len() - 1)
    }

    fn apply_profile(&self, component: &mut Component) {
        let profile = self.additions.profile.as_ref().and_then(|p| component.profile.remove(p));
        if let Some(profile) = profile {
            apply(profile, component);
        }
    }

    /// Adds the builds of components that no trigger names, which may be dependencies of others.
    fn add_other_builds(&mut self) -> anyhow::Result<()> {
        for (id, component) in &self.components {
            if self.app.components.iter().any(|added| added.id == *id) {
                continue;
            }
            let mut component = component.clone();
            self.apply_profile(&mut component);
            let tool = tool_settings(id, &component)?;
            let build = component.build.map(|build| with_command(build, tool.build));
            self.app.other_builds.extend(build.map(|build| (id.clone(), build)));
        }
        Ok(())
    }

    fn component(&self, id: &str, mut component: Component) -> anyhow::Result<AppComponent> {
        self.apply_profile(&mut component);
        refuse_capabilities(&component)?;
        let dependencies = self.dependencies(&component)?;
        let tool = tool_settings(id, &component)?;
        let source = self.source(&component.source)?;
        let mut environment = component.environment;
        environment.extend(self.additions.environment.iter().cloned());
        let templates = component.variables.into_iter();
        let variables = templates.map(|(name, template)| {
            let value = variables::expand(&template, &self.variables)
                .with_context(|| format!("variables.{name}"))?;
            Ok((name.into(), value))
        });
        let build = component.build.map(|build| with_command(build, tool.build));
        Ok(AppComponent {
            id: id.to_owned(),
            source,
            embedded: None,
            environment: environment.into_iter().collect(),
            variables: variables.collect::<anyhow::Result<_>>()?,
            files: component.files,
            dependencies,
            placed_files: Vec::new(),
            exclude_files: component.exclude_files,
            unmounted_files: tool.exclude_files,
            allowed_outbound_hosts: outbound_hosts(
                &component.allowed_outbound_hosts,
                &self.variables,
            )?,
            key_value_stores: stores(component.key_value_stores.into_iter().map(String::from))?,
            models: component.ai_models,
            models_folder: self.app.folder.join(&tool.models),
            open: tool.open,
            routes: tool.routes,
            build,
        })
    }
}

impl Resolver<'_> {
    /// The file of a component.
    fn source(&self, source: &Source) -> anyhow::Result<PathBuf> {
        match source {
            Source::Path(path) => Ok(self.app.folder.join(path)),
            Source::Download { url, digest } => cached(url, digest),
            Source::Package(what) => bail!(
                "`source` {what:?} would have to be downloaded, which is not done here; name a file"
            ),
        }
    }

    /// The dependencies to compose into a component. `wasi:nn` is left out, because the runner provides it
    /// natively.
    fn dependencies(&self, component: &Component) -> anyhow::Result<Vec<Dependency>> {
        let others = component.dependencies.iter().filter(|(name, _)| name.package != NATIVE);
        let inherit_all = component.dependencies_inherit_configuration == Some(true);
        others
            .map(|(name, dependency)| {
                Ok(Dependency {
                    import: name.clone(),
                    source: self.dependency_source(name, &dependency.source)?,
                    export: dependency.export.clone(),
                    inherits: inherited(dependency.inherit.clone(), inherit_all),
                })
            })
            .collect()
    }

    fn dependency_source(
        &self,
        name: &ImportName,
        source: &DependencySource,
    ) -> anyhow::Result<PathBuf> {
        match source {
            DependencySource::Path(path) => Ok(self.app.folder.join(path)),
            DependencySource::Component(id) => match self.components.get(id.as_ref()) {
                Some(component) => {
                    self.source(&component.source).with_context(|| format!("the dependency {name}"))
                }
                None => bail!(
                    "the dependency {name} refers to component {:?}, which does not exist",
                    id.as_ref()
                ),
            },
            DependencySource::Download { url, digest } => {
                cached(url, digest).with_context(|| format!("the dependency {name}"))
            }
            DependencySource::Remote(what) => bail!("the dependency {name} ({what}) {NOT_FETCHED}"),
        }
    }
}

fn tool_settings(id: &str, component: &Component) -> anyhow::Result<ToolSettings> {
    match component.tool.get(TOOL) {
        Some(table) => ToolSettings::deserialize(table.clone())
            .with_context(|| format!("in [component.{id}.tool.{TOOL}]")),
        None => Ok(ToolSettings::default()),
    }
}

fn with_command(build: Build, command: Option<Commands>) -> Build {
    match command {
        Some(command) => Build { command, ..build },
        None => build,
    }
}

impl App {
    pub(super) fn add_route(&mut self, route: String, target: Target) -> anyhow::Result<()> {
        if let Target::Static(response) = &target {
            response.head().with_context(|| format!("the static_response of route {route:?}"))?;
            if !response.unread.is_empty() {
                let keys: Vec<&str> = response.unread.keys().map(String::as_str).collect();
                tracing::warn!(
                    route,
                    "static_response has keys that nothing reads: {}",
                    keys.join(", ")
                );
            }
        }
        let known = self.triggers.iter().position(|trigger| trigger.route == route);
        self.routes.add(&route, known.unwrap_or(self.triggers.len()))?;
        if let Some(known) = known.and_then(|index| self.triggers.get_mut(index)) {
            tracing::warn!(
                route,
                "this route is declared twice; the last declaration counts, as in Spin"
            );
            known.target = target;
        } else {
            self.triggers.push(Trigger { route, target });
        }
        Ok(())
    }
}

/// The ids of triggers, by Spin's rules: a trigger's own, or one made of its component's, or else counted.
fn trigger_ids(triggers: &[HttpTrigger]) -> Vec<String> {
    let own = |trigger: &HttpTrigger| trigger.id.clone().filter(|id| !id.is_empty());
    let mut taken: BTreeSet<String> = triggers.iter().filter_map(own).collect();
    let made = |trigger: &HttpTrigger| {
        if let Some(own) = own(trigger) {
            return own;
        }
        let natural = match &trigger.component {
            Some(ComponentReference::Id(id)) => Some(format!("{}-http-trigger", id.as_ref())),
            _ => None,
        };
        let counted = (1..).map(|number| format!("http-trigger{number}"));
        let mut ids = natural.into_iter().chain(counted);
        let id = ids.find(|id| !taken.contains(id)).unwrap_or_default();
        taken.insert(id.clone());
        id
    };
    triggers.iter().map(made).collect()
}

/// Applies `profile` to `component`, by Spin's rules: it replaces the source and the build command, and each
/// environment variable and dependency that it names.
fn apply(profile: Profile, component: &mut Component) {
    if let Some(source) = profile.source {
        component.source = source;
    }
    if let Some(build) = profile.build {
        match &mut component.build {
            Some(known) => known.command = build.command,
            none => *none = Some(build.into()),
        }
    }
    component.environment.extend(profile.environment);
    component.dependencies.extend(profile.dependencies);
}

/// Refuses capabilities of Spin that are not offered here, at the start rather than at a request.
fn refuse_capabilities(component: &Component) -> anyhow::Result<()> {
    if !component.allowed_http_hosts.is_empty() {
        bail!(
            "`allowed_http_hosts` is not offered here; it is the older spelling: name the hosts in \
             `allowed_outbound_hosts`, as [\"https://example.com\"]"
        );
    }
    if !component.sqlite_databases.is_empty() {
        bail!("`sqlite_databases` {NOT_OFFERED}");
    }
    let inherit_all = component.dependencies_inherit_configuration.is_some();
    dependency::check(&component.dependencies, inherit_all).map_err(anyhow::Error::msg)
}

/// The hosts that a component may call, with templates expanded. One that an empty variable has left without
/// a host is left out, as in Spin.
pub(super) fn outbound_hosts(
    entries: &[String],
    values: &BTreeMap<String, String>,
) -> anyhow::Result<Vec<String>> {
    let mut hosts = Vec::new();
    for entry in entries {
        let host = variables::expand(entry, values)
            .with_context(|| format!("allowed_outbound_hosts: {entry:?}"))?;
        if host == *entry || !matches!(host.as_str(), "" | "http://" | "https://") {
            hosts.push(host);
        }
    }
    AllowedHosts::parse(hosts.iter().map(String::as_str))?;
    Ok(hosts)
}

/// The key-value stores that a component may open: as in Spin without a runtime configuration, there is only
/// the default one.
pub(super) fn stores(labels: impl IntoIterator<Item = String>) -> anyhow::Result<Vec<String>> {
    let labels: Vec<String> = labels.into_iter().collect();
    if let Some(other) = labels.iter().find(|label| *label != LABEL) {
        bail!("unknown key_value_stores label {other:?}: only {LABEL:?} is offered here");
    }
    Ok(labels)
}

/// The keys of a component's configuration that a dependency inherits.
pub(super) fn inherited(inherit: Option<Inherit>, inherit_all: bool) -> Vec<String> {
    match inherit {
        Some(Inherit::Some(keys)) => keys,
        Some(Inherit::All(true)) => ALL_KEYS.map(str::to_owned).to_vec(),
        None if inherit_all => ALL_KEYS.map(str::to_owned).to_vec(),
        Some(Inherit::All(false)) | None => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
