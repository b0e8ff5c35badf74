//! What a component asks for by name: `fermyon:spin/variables`, which spin-sdk 5 reads, and
//! `wasi:config/store`, in the versions that Spin itself offers.
//!
//! The values are the manifest's, with templates expanded beforehand: nothing is looked up here.

use std::collections::BTreeMap;
use std::sync::Arc;
use wasmtime::component::{ComponentType, Lift, Linker, Lower};

/// The interfaces' names without their versions.
pub(super) const SPIN_INTERFACE: &str = "fermyon:spin/variables";
pub(super) const CONFIG_INTERFACE: &str = "wasi:config/store";

/// `fermyon:spin/variables.error`.
#[derive(Debug, ComponentType, Lift, Lower)]
#[component(variant)]
enum VariableError {
    #[component(name = "invalid-name")]
    InvalidName(String),
    #[component(name = "undefined")]
    Undefined(String),
    #[component(name = "provider")]
    Provider(String),
    #[component(name = "other")]
    Other(String),
}

/// `wasi:config/store.error`.
#[derive(Debug, ComponentType, Lift, Lower)]
#[component(variant)]
enum ConfigError {
    #[component(name = "upstream")]
    Upstream(String),
    #[component(name = "io")]
    Io(String),
}

type Found = Result<String, VariableError>;
type Stored = Result<Option<String>, ConfigError>;
type AllStored = Result<Vec<(String, String)>, ConfigError>;

/// Offers `values` to the components linked with `linker`.
pub(super) fn add_to_linker<State: 'static>(
    linker: &mut Linker<State>,
    values: &BTreeMap<String, String>,
) -> wasmtime::Result<()> {
    add_spin(linker, &format!("{SPIN_INTERFACE}@2.0.0"), values)?;
    add_config(linker, &format!("{CONFIG_INTERFACE}@0.2.0-draft-2024-09-27"), values)
}

/// Spin's interface, under `name`.
pub(super) fn add_spin<State: 'static>(
    linker: &mut Linker<State>,
    name: &str,
    values: &BTreeMap<String, String>,
) -> wasmtime::Result<()> {
    let values = values.clone();
    linker.instance(name)?.func_wrap("get", move |_, (name,): (String,)| {
        let found: Found = values.get(&name).cloned().ok_or_else(|| {
            VariableError::Undefined(format!("no variable {name:?} in the component's manifest"))
        });
        Ok((found,))
    })
}

/// The interface of WASI, under `name`.
pub(super) fn add_config<State: 'static>(
    linker: &mut Linker<State>,
    name: &str,
    values: &BTreeMap<String, String>,
) -> wasmtime::Result<()> {
    let mut store = linker.instance(name)?;
    let one = Arc::new(values.clone());
    let all = Arc::clone(&one);
    store.func_wrap("get", move |_, (key,): (String,)| {
        let stored: Stored = Ok(one.get(&key).cloned());
        Ok((stored,))
    })?;
    store.func_wrap("get-all", move |_, ()| {
        let all = all.iter().map(|(name, value)| (name.clone(), value.clone()));
        let stored: AllStored = Ok(all.collect());
        Ok((stored,))
    })
}
