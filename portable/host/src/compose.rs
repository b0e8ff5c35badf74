//! Two components made one: a provider's exports plugged into the imports of another, by `wac-graph`, the
//! library Spin composes dependencies with.

use std::path::Path;

use wac_graph::types::Package;
use wac_graph::{CompositionGraph, EncodeOptions, plug};
use wasmtime::{Result, error::Context as _, format_err};

/// The component at `component` with everything it imports that `provider` exports taken from there. All
/// of a provider's exports come from one instance, so that resources made by one of its interfaces are
/// taken by the others.
///
/// # Errors
/// A file that cannot be read or is no component, or nothing to plug.
pub fn compose(component: &Path, provider: &Path) -> Result<Vec<u8>> {
    let mut graph = CompositionGraph::new();
    let mut packages = Vec::with_capacity(2);
    for (name, path) in [("skincell:app", component), ("skincell:provider", provider)] {
        let package = Package::from_file(name, None, path, graph.types_mut());
        let package = package.map_err(|e| format_err!("{}: {e:#}", path.display()))?;
        packages.push(graph.register_package(package).context("two packages")?);
    }
    let [socket, plugged] = packages[..] else { return Err(format_err!("two packages")) };
    plug(&mut graph, vec![plugged], socket).map_err(|e| {
        format_err!("{} gives {} nothing: {e}", provider.display(), component.display())
    })?;
    graph.encode(EncodeOptions::default()).context("the composed component")
}
