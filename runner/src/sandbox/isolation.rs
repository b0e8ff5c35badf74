//! What a dependency sees of its component's configuration where the manifest does not share it: no
//! environment, no files, no variables. The names are those that `compose` gives such imports.

use crate::compose::isolated;
use std::collections::BTreeMap;
use wasmtime::component::{Linker, Resource, ResourceType};
use wasmtime_wasi::filesystem::Descriptor;

const ENVIRONMENT: &str = "wasi:cli/environment";
const PREOPENS: &str = "wasi:filesystem/preopens";

type Pairs = Vec<(String, String)>;
type Directories = Vec<(Resource<Descriptor>, String)>;

/// Offers the imports that show nothing.
pub(super) fn add_to_linker<State: 'static>(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let name = |interface| isolated(interface).unwrap_or_default();
    let mut environment = linker.instance(&name(ENVIRONMENT))?;
    environment.func_wrap("get-environment", |_, ()| Ok((Pairs::new(),)))?;
    environment.func_wrap("get-arguments", |_, ()| Ok((Vec::<String>::new(),)))?;
    environment.func_wrap("initial-cwd", |_, ()| Ok((None::<String>,)))?;
    let mut preopens = linker.instance(&name(PREOPENS))?;
    preopens.resource("descriptor", ResourceType::host::<Descriptor>(), |_, _| Ok(()))?;
    preopens.func_wrap("get-directories", |_, ()| Ok((Directories::new(),)))?;
    let none = BTreeMap::new();
    super::variables::add_spin(linker, &name(super::variables::SPIN_INTERFACE), &none)?;
    super::variables::add_config(linker, &name(super::variables::CONFIG_INTERFACE), &none)
}
