//! A component with inference in Wasm composed in, for any host of WASI 0.2: what Spin makes of the
//! dependency in `spin.toml`.

use std::path::Path;

use skincell_runner::compose::{Dependency, compose};
use wasmtime::{Result, format_err};

/// What of a component's configuration reaches the provider: its files hold the models.
const INHERITED: [&str; 3] = ["environment", "files", "variables"];

/// The component at `component` whose imports of `wasi:nn` the component at `provider` satisfies.
///
/// # Errors
/// A file that cannot be read or is no component, or one that does not fit the other.
pub fn with_nn(component: &Path, provider: &Path) -> Result<Vec<u8>> {
    let dependency = Dependency {
        import: "wasi:nn".to_owned().try_into().map_err(|error| format_err!("{error}"))?,
        source: provider.to_path_buf(),
        export: None,
        inherits: INHERITED.map(str::to_owned).to_vec(),
    };
    compose(component, &[dependency]).map_err(|error| format_err!("{error}"))
}
