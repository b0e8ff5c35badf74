//! Composes a component with inference in Wasm, for any host of WASI 0.2, as Spin does for the dependency
//! in `spin.toml`.

use std::path::Path;

use skincell_runner::compose::{Dependency, compose};
use wasmtime::{Result, format_err};

/// The component's configuration that the provider inherits; its files contain the models.
const INHERITED: [&str; 3] = ["environment", "files", "variables"];

/// The component at `component`, with its imports of `wasi:nn` satisfied by the component at `provider`.
///
/// # Errors
/// A file cannot be read or is not a component, or the two do not fit together.
pub fn with_nn(component: &Path, provider: &Path) -> Result<Vec<u8>> {
    let dependency = Dependency {
        import: "wasi:nn".to_owned().try_into().map_err(|error| format_err!("{error}"))?,
        source: provider.to_path_buf(),
        export: None,
        inherits: INHERITED.map(str::to_owned).to_vec(),
    };
    compose(component, &[dependency]).map_err(|error| format_err!("{error}"))
}
