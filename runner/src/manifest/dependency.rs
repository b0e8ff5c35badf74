//! `[component.<id>.dependencies]`: imports of a component that other components satisfy.
//!
//! Syntax and contradictions only; composing is left to `crate::compose`.

use super::names::Kebab;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// The dependencies of one component, by the import they satisfy.
pub type Dependencies = BTreeMap<ImportName, Dependency>;

/// The import a dependency satisfies: `wasi:nn@0.2.0-rc-2024-10-28`, `foo:bar/baz@0.1.0`, `foo:bar`, or a
/// plain name such as `foo`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct ImportName {
    /// `namespace:name`, or the plain name.
    pub package: String,
    /// The interface, if one is named.
    pub interface: Option<String>,
    /// The version, if one is named.
    pub version: Option<String>,
}

/// A dependency as declared.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "toml::Value")]
pub struct Dependency {
    /// The component that satisfies it.
    pub source: DependencySource,
    /// Its export to use, if not the one of the import's own name.
    pub export: Option<String>,
    /// The part of the component's configuration that it inherits.
    pub inherit: Option<Inherit>,
}

/// A dependency's component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DependencySource {
    /// A file, relative to the manifest.
    Path(String),
    /// Another component of this application.
    Component(Kebab),
    /// A registry package, as written; it cannot be fetched here.
    Remote(String),
    /// A download, which Spin may have in its cache.
    Download {
        /// Where it is.
        url: String,
        /// `sha256:` and the hexadecimal digits of its content's digest.
        digest: String,
    },
}

/// The part of a component's configuration that a dependency inherits.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Inherit {
    /// Everything or nothing.
    All(bool),
    /// These keys.
    Some(Vec<String>),
}

/// A malformed name of an import.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not the name of an import; write `namespace:package`, `namespace:package/interface@version` \
     or a plain name"
)]
pub struct ImportNameError(String);

impl TryFrom<String> for ImportName {
    type Error = ImportNameError;

    fn try_from(text: String) -> Result<Self, ImportNameError> {
        let (name, version) = match text.split_once('@') {
            Some((name, version)) => (name, Some(version.to_owned())),
            None => (&text[..], None),
        };
        let (package, interface) = match name.split_once('/') {
            Some((package, interface)) => (package, Some(interface.to_owned())),
            None => (name, None),
        };
        let plain = interface.is_none() && version.is_none() && !package.contains(':');
        let kebab = |word: &str| Kebab::try_from(word.to_owned()).is_ok();
        let packaged = package.split_once(':').is_some_and(|(n, p)| kebab(n) && kebab(p));
        let parts = interface.iter().all(|i| kebab(i)) && version.iter().all(|v| !v.is_empty());
        if (plain && kebab(package)) || (packaged && parts) {
            return Ok(Self { package: package.to_owned(), interface, version });
        }
        Err(ImportNameError(text))
    }
}

impl ImportName {
    /// Whether it covers `import`, an import as a component spells it: `foo:bar/baz@0.1.0`, or a plain name.
    #[must_use]
    pub fn covers(&self, import: &str) -> bool {
        let (name, version) = match import.split_once('@') {
            Some((name, version)) => (name, Some(version)),
            None => (import, None),
        };
        let (package, interface) = match name.split_once('/') {
            Some((package, interface)) => (package, Some(interface)),
            None => (name, None),
        };
        let fits = |wanted: &Option<String>, found: Option<&str>| {
            wanted.is_none() || wanted.as_deref() == found
        };
        self.package == package && fits(&self.interface, interface) && fits(&self.version, version)
    }
}

impl Serialize for ImportName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for ImportName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.package)?;
        self.interface.iter().try_for_each(|interface| write!(formatter, "/{interface}"))?;
        self.version.iter().try_for_each(|version| write!(formatter, "@{version}"))
    }
}

/// The tables that declare a dependency. A plain string is a version of the import's own package instead.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    path: Option<String>,
    component: Option<Kebab>,
    url: Option<String>,
    digest: Option<String>,
    version: Option<String>,
    registry: Option<String>,
    package: Option<String>,
    export: Option<String>,
    inherit_configuration: Option<Inherit>,
}

impl TryFrom<toml::Value> for Dependency {
    type Error = String;

    fn try_from(value: toml::Value) -> Result<Self, String> {
        if let toml::Value::String(version) = value {
            let source = DependencySource::Remote(format!("version {version}"));
            return Ok(Self { source, export: None, inherit: None });
        }
        let written = Written::deserialize(value).map_err(|error| error.message().to_owned())?;
        let source = match &written {
            Written { path: Some(path), component: None, url: None, version: None, .. } => {
                DependencySource::Path(path.clone())
            }
            Written { component: Some(id), path: None, url: None, version: None, .. } => {
                DependencySource::Component(id.clone())
            }
            Written { url: Some(url), digest: Some(digest), path: None, version: None, .. } => {
                DependencySource::Download { url: url.clone(), digest: digest.clone() }
            }
            Written { version: Some(version), path: None, url: None, component: None, .. } => {
                let package = written.package.as_deref().unwrap_or("the package");
                DependencySource::Remote(format!("{package} version {version}"))
            }
            _ => {
                return Err("give one of `path`, `component`, `version` (with `registry` and \
                            `package`), or `url` with `digest`"
                    .to_owned());
            }
        };
        let remote =
            matches!(source, DependencySource::Remote(_) | DependencySource::Download { .. });
        let stray =
            written.registry.is_some() || written.package.is_some() || written.digest.is_some();
        if stray && !remote {
            return Err("`registry`, `package` and `digest` are for downloads only".to_owned());
        }
        Ok(Self { source, export: written.export, inherit: written.inherit_configuration })
    }
}

/// Refuses contradictions in `dependencies`, in Spin's order of checking.
///
/// # Errors
/// A message that describes the contradiction.
pub(crate) fn check(dependencies: &Dependencies, inherit_all: bool) -> Result<(), String> {
    for (name, dependency) in dependencies {
        if name.package.contains(':') && name.interface.is_none() && dependency.export.is_some() {
            return Err(format!(
                "the dependency {name} is a whole package, so it cannot have a single `export`; \
                 name its interface, or remove `export`"
            ));
        }
        if inherit_all && dependency.inherit.is_some() {
            return Err(format!(
                "the dependency {name} has `inherit_configuration` and its component \
                 `dependencies_inherit_configuration`; use one or the other"
            ));
        }
    }
    let names: Vec<_> = dependencies.keys().collect();
    for (position, first) in names.iter().enumerate() {
        if let Some(second) = names[position + 1..].iter().find(|second| overlap(first, second)) {
            return Err(format!("the dependencies {first} and {second} satisfy the same import"));
        }
    }
    Ok(())
}

/// Whether two names can cover the same import: their packages are equal, and their versions and interfaces
/// do not differ.
fn overlap(a: &ImportName, b: &ImportName) -> bool {
    let differ =
        |a: &Option<String>, b: &Option<String>| matches!((a, b), (Some(a), Some(b)) if a != b);
    a.package == b.package && !differ(&a.interface, &b.interface) && !differ(&a.version, &b.version)
}
