//! Composes a component with its dependencies, by `wac-graph` and Spin's rules: one instance of a dependency
//! provides every import of the component that the dependency's name covers. A dependency sees only the
//! configuration that the component shares with it.
//!
//! A dependency that imports configuration it does not inherit is refused: a composition has one such import
//! for all its parts, and the adapter with which Spin separates them is not built here. Reading `spin.toml`
//! is left to `app`; nothing is fetched.

use crate::candidate;
use crate::componentize::{NotAComponent, componentize};
use crate::manifest::dependency::ImportName;
use serde::Serialize;
use std::path::{Path, PathBuf};
use wac_graph::types::Package;
use wac_graph::{CompositionGraph, EncodeOptions, NodeId, PackageId};

/// Interfaces that show a component's configuration, and the key of that configuration in `spin.toml`.
const CONFIGURATION: [(&str, &str); 5] = [
    ("wasi:cli/environment", "environment"),
    ("wasi:filesystem/preopens", "files"),
    ("fermyon:spin/variables", "variables"),
    ("spin:variables/variables", "variables"),
    ("wasi:config/store", "variables"),
];

/// A dependency of a component, as declared in its manifest.
#[derive(Debug, Clone, Serialize)]
pub struct Dependency {
    /// The imports it satisfies.
    pub import: ImportName,
    /// The file of the dependency.
    pub source: PathBuf,
    /// The export that satisfies them, if not the one of the import's own name.
    pub export: Option<String>,
    /// Keys of the component's configuration that it inherits.
    pub inherits: Vec<String>,
}

/// Why a component cannot be composed.
#[derive(Debug, thiserror::Error)]
pub enum ComposeError {
    /// A file that cannot be read.
    #[error("cannot read {path}{advice}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What to do, after a semicolon, or nothing.
        advice: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// A file that is not a component.
    #[error("{path} is not a WebAssembly component: {reason}")]
    NoComponent {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A core module that cannot be made a component.
    #[error("{path} cannot be served: {reason}")]
    Module {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: NotAComponent,
    },
    /// A component of another release candidate of WASI 0.3.
    #[error(
        "{path} is a component of a release candidate of WASI 0.3 that is not served here (it names \
         {interface}); WASI 0.3.0 and its candidate of 2026-03-15 are, and so is WASI 0.2: build it with \
         spin-sdk 7, 6 or 5, or with other tools of those versions"
    )]
    Wasi03 {
        /// The file.
        path: PathBuf,
        /// An interface of that candidate, which it imports or exports.
        interface: String,
    },
    /// A component of a release candidate of WASI 0.2.
    #[error(
        "{path} exports {interface}, of a release candidate of WASI 0.2 of 2023, which is not served here; \
         rebuild it with spin-sdk 3 or later"
    )]
    Of2023 {
        /// The file.
        path: PathBuf,
        /// The export.
        interface: String,
    },
    /// A name that covers no import.
    #[error(
        "the component imports nothing that the dependency {0} names; remove it from spin.toml"
    )]
    NoImport(ImportName),
    /// A missing export.
    #[error("{path} does not export {export:?}, which the dependency {import} needs")]
    NoExport {
        /// The dependency's file.
        path: PathBuf,
        /// The export.
        export: String,
        /// The dependency's name.
        import: ImportName,
    },
    /// A dependency would see configuration that it does not inherit.
    #[error(
        "{path} imports {import}, which would show it the component's {key}: share that with \
         `dependencies_inherit_configuration = true`, or build the dependency without that import"
    )]
    NotShared {
        /// The dependency's file.
        path: PathBuf,
        /// What it imports.
        import: String,
        /// The key of the configuration.
        key: &'static str,
    },
    /// Types that do not fit each other.
    #[error("{path} does not fit the import {import:?}: {reason}")]
    Unfit {
        /// The dependency's file.
        path: PathBuf,
        /// The import.
        import: String,
        /// Why.
        reason: String,
    },
    /// The composed component cannot be encoded.
    #[error("the component and its dependencies cannot be composed: {0}")]
    Encode(String),
}

/// The component at `component` with its `dependencies` inside. A core module becomes a component, and one of
/// WASI 0.3's release candidate becomes one of the release.
///
/// # Errors
/// [`ComposeError`] with the file or the import in question.
pub fn compose(component: &Path, dependencies: &[Dependency]) -> Result<Vec<u8>, ComposeError> {
    let wasm = read(component)?;
    let wasm =
        if dependencies.is_empty() { wasm } else { composed(component, wasm, dependencies)? };
    candidate::as_released(wasm).map_err(|error| ComposeError::NoComponent {
        path: component.into(),
        reason: error.to_string(),
    })
}

fn composed(
    component: &Path,
    wasm: Vec<u8>,
    dependencies: &[Dependency],
) -> Result<Vec<u8>, ComposeError> {
    let mut composition = Composition::default();
    let socket = composition.add("component", component, wasm)?;
    let instance = composition.graph.instantiate(socket);
    let imports: Vec<String> = composition.world(socket).0;
    for (number, dependency) in dependencies.iter().enumerate() {
        let provider = composition.provider(number, dependency)?;
        let named: Vec<_> =
            imports.iter().filter(|import| dependency.import.covers(import)).collect();
        if named.is_empty() {
            return Err(ComposeError::NoImport(dependency.import.clone()));
        }
        for import in named {
            composition.plug(instance, import, provider, dependency)?;
        }
    }
    composition.finish(socket, instance)
}

fn read(path: &Path) -> Result<Vec<u8>, ComposeError> {
    let path = path.to_path_buf();
    let wasm = match std::fs::read(&path) {
        Ok(wasm) => wasm,
        Err(source) => return Err(ComposeError::Read { path, advice: "", source }),
    };
    // Text formats begin with a parenthesis or a comment.
    let is_binary = wasm.starts_with(b"\0asm");
    if !is_binary && !matches!(wasm.trim_ascii_start().first(), Some(b'(' | b';')) {
        let reason = "it does not begin with the bytes of WebAssembly".to_owned();
        return Err(ComposeError::NoComponent { path, reason });
    }
    let wasm = match componentize(wasm) {
        Ok(wasm) => wasm,
        Err(reason) => return Err(ComposeError::Module { path, reason }),
    };
    if let Some(interface) = own_interface(&wasm, candidate::is_handler_of_2023) {
        return Err(ComposeError::Of2023 { path, interface });
    }
    match unknown_interface(&wasm) {
        Some(interface) => Err(ComposeError::Wasi03 { path, interface }),
        None => Ok(wasm),
    }
}

/// Whether the component itself imports or exports an interface that may have asynchronous functions.
pub(crate) fn is_concurrent(wasm: &[u8]) -> bool {
    own_interface(wasm, candidate::is_concurrent).is_some()
}

/// An interface of a release candidate of WASI 0.3 that the component itself imports or exports and the host
/// does not have.
fn unknown_interface(wasm: &[u8]) -> Option<String> {
    own_interface(wasm, candidate::is_unknown)
}

/// The first name for which `wanted` is true among those of the component's own imports and exports. What
/// cannot be parsed has none; compiling it says what is wrong.
fn own_interface(wasm: &[u8], wanted: fn(&str) -> bool) -> Option<String> {
    let names = candidate::own_interfaces(wasm).unwrap_or_default();
    names.into_iter().find(|name| wanted(name)).map(str::to_owned)
}

#[derive(Default)]
struct Composition {
    graph: CompositionGraph,
}

impl Composition {
    fn add(&mut self, name: &str, path: &Path, wasm: Vec<u8>) -> Result<PackageId, ComposeError> {
        let refused = |reason: String| ComposeError::NoComponent { path: path.into(), reason };
        let package = Package::from_bytes(name, None, wasm, self.graph.types_mut());
        let package = package.map_err(|error| refused(format!("{error:#}")))?;
        self.graph.register_package(package).map_err(|error| refused(error.to_string()))
    }

    /// Names of a component's imports and exports.
    fn world(&self, package: PackageId) -> (Vec<String>, Vec<String>) {
        let world = &self.graph.types()[self.graph[package].ty()];
        (world.imports.keys().cloned().collect(), world.exports.keys().cloned().collect())
    }

    /// An instance of a dependency, if it imports only configuration that it inherits.
    fn provider(&mut self, number: usize, dependency: &Dependency) -> Result<NodeId, ComposeError> {
        let path = &dependency.source;
        let package = self.add(&format!("dependency{number}"), path, read(path)?)?;
        for import in self.world(package).0 {
            // The version of the interface does not matter.
            let interface = import.split('@').next().unwrap_or_default();
            let key = CONFIGURATION.iter().find(|(known, _)| *known == interface);
            if let Some((_, key)) = key
                && !dependency.inherits.iter().any(|inherited| inherited == key)
            {
                return Err(ComposeError::NotShared { path: path.clone(), import, key });
            }
        }
        Ok(self.graph.instantiate(package))
    }

    fn plug(
        &mut self,
        instance: NodeId,
        import: &str,
        provider: NodeId,
        dependency: &Dependency,
    ) -> Result<(), ComposeError> {
        let path = &dependency.source;
        let export = dependency.export.as_deref().unwrap_or(import);
        let alias = self.graph.alias_instance_export(provider, export);
        let alias = alias.map_err(|_| ComposeError::NoExport {
            path: path.clone(),
            export: export.to_owned(),
            import: dependency.import.clone(),
        })?;
        let set = self.graph.set_instantiation_argument(instance, import, alias);
        set.map_err(|error| ComposeError::Unfit {
            path: path.clone(),
            import: import.to_owned(),
            reason: format!("{:#}", anyhow::Error::from(error)),
        })
    }

    /// The composed component, with the exports of `socket`.
    fn finish(mut self, socket: PackageId, instance: NodeId) -> Result<Vec<u8>, ComposeError> {
        let refused = |error: &dyn std::fmt::Display| ComposeError::Encode(error.to_string());
        for export in self.world(socket).1 {
            let alias = self.graph.alias_instance_export(instance, &export);
            let alias = alias.map_err(|error| refused(&error))?;
            self.graph.export(alias, export).map_err(|error| refused(&error))?;
        }
        let encoded = self.graph.encode(EncodeOptions::default());
        encoded.map_err(|error| ComposeError::Encode(format!("{:#}", anyhow::Error::from(error))))
    }
}

#[cfg(test)]
mod tests {
    use super::{compose, is_concurrent, unknown_interface};
    use wasm_encoder::{ComponentBuilder, ComponentTypeRef, InstanceType};

    /// A component that imports an empty interface of this name, and one with it inside.
    fn importing(name: &str) -> [Vec<u8>; 2] {
        let component = || {
            let mut component = ComponentBuilder::default();
            let empty = component.type_instance(None, &InstanceType::new());
            component.import(name, ComponentTypeRef::Instance(empty));
            component
        };
        let mut outer = ComponentBuilder::default();
        outer.component(None, component());
        [component().finish(), outer.finish()]
    }

    #[test]
    fn a_component_of_an_unknown_candidate_of_wasi_0_3_is_refused_by_that_name() {
        let name = "wasi:http/types@0.3.0-rc-2025-09-16";
        let [component, outer] = importing(name);
        assert_eq!(unknown_interface(&component).as_deref(), Some(name));
        assert_eq!(unknown_interface(&outer), None, "its own imports count, not those inside");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.wasm");
        std::fs::write(&path, component).unwrap();
        let refusal = compose(&path, &[]).unwrap_err().to_string();
        assert!(refusal.contains("WASI 0.3") && refusal.contains(name), "{refusal}");
        assert!(refusal.contains("spin-sdk 7"), "{refusal}");
        for name in [
            "wasi:http/types@0.2.3",
            "wasi:http/types@0.3.0",
            "wasi:http/types@0.3.1",
            "wasi:http/types@0.3.0-rc-2026-03-15",
            "wasi:nn/graph@0.2.0-rc-2024-10-28",
            "own:api/x@0.3.0-rc-1",
        ] {
            assert_eq!(unknown_interface(&importing(name)[0]), None, "{name}");
        }
        assert!(is_concurrent(&importing("wasi:http/types@0.3.0")[0]));
        assert!(is_concurrent(&importing("spin:variables/variables@3.0.0")[0]));
        for [component, outer] in [importing("wasi:http/types@0.2.3"), importing("own:api/x@0.3.0")]
        {
            assert!(!is_concurrent(&component) && !is_concurrent(&outer));
        }
        assert!(!is_concurrent(&importing("wasi:http/types@0.3.0")[1]), "a component inside");
        assert_eq!(unknown_interface(b"\0asm\x01\0\0\0"), None, "a module");
        assert_eq!(unknown_interface(b"no Wasm"), None);
    }

    #[test]
    fn components_of_the_candidates_of_2023_are_refused_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.wasm");
        for date in ["10-18", "11-10"] {
            let name = format!("wasi:http/incoming-handler@0.2.0-rc-2023-{date}");
            std::fs::write(&path, &importing(&name)[0]).unwrap();
            let refusal = compose(&path, &[]).unwrap_err().to_string();
            assert!(refusal.contains(&name) && refusal.contains("spin-sdk 3"), "{refusal}");
        }
        std::fs::write(&path, "spin_manifest_version = 2\n").unwrap();
        let refusal = compose(&path, &[]).unwrap_err().to_string();
        assert!(refusal.contains("c.wasm is not a WebAssembly component"), "{refusal}");
        assert_eq!(refusal.lines().count(), 1, "{refusal}");
    }

    #[test]
    fn a_component_of_the_candidate_becomes_one_of_the_release() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.wasm");
        let composed = |wasm: &[u8]| {
            std::fs::write(&path, wasm).unwrap();
            compose(&path, &[]).unwrap()
        };
        let cases = [
            ("wasi:http/types@0.3.0-rc-2026-03-15", "wasi:http/types@0.3.20260315"),
            ("wasi:http/types@0.3.0", "wasi:http/types@0.3.0"),
            ("own:http/types@0.3.0-rc-2026-03-15", "own:http/types@0.3.0-rc-2026-03-15"),
        ];
        for (name, expected) in cases {
            let [component, outer] = importing(name);
            assert_eq!(composed(&component), importing(expected)[0], "{name}");
            assert_eq!(composed(&outer), outer, "names of a component inside are its own");
        }
        let cut_off = &importing(cases[0].0)[0];
        std::fs::write(&path, &cut_off[..cut_off.len() - 1]).unwrap();
        assert!(compose(&path, &[]).is_err());
    }
}
