//! Gives components their configuration by name: `fermyon:spin/variables`, which spin-sdk 5 reads,
//! `spin:variables/variables`, which spin-sdk 6 and 7 read, and `wasi:config/store`, in the versions that
//! Spin itself offers.
//!
//! The values come from the manifest; `app::variables` has expanded their templates.

use std::collections::BTreeMap;
use std::sync::Arc;
use wasmtime::component::{ComponentType, Lift, Linker, Lower};

/// Names of the interfaces, without versions.
pub(super) const SPIN_INTERFACE: &str = "fermyon:spin/variables";
const CONCURRENT_INTERFACE: &str = "spin:variables/variables";
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

/// Offers `values` to components linked with `linker`.
pub(super) fn add_to_linker<State: 'static>(
    linker: &mut Linker<State>,
    values: &BTreeMap<String, String>,
) -> wasmtime::Result<()> {
    add_spin(linker, &format!("{SPIN_INTERFACE}@2.0.0"), values)?;
    add_config(linker, &format!("{CONFIG_INTERFACE}@0.2.0-draft-2024-09-27"), values)
}

/// Adds Spin's interface, under `name`.
pub(super) fn add_spin<State: 'static>(
    linker: &mut Linker<State>,
    name: &str,
    values: &BTreeMap<String, String>,
) -> wasmtime::Result<()> {
    let values = values.clone();
    linker
        .instance(name)?
        .func_wrap("get", move |_, (name,): (String,)| Ok((found(&values, &name),)))
}

/// Offers `values` under Spin's interface for components of WASI 0.3, whose function is asynchronous.
pub(super) fn add_concurrent_to_linker<State: Send + 'static>(
    linker: &mut Linker<State>,
    values: &BTreeMap<String, String>,
) -> wasmtime::Result<()> {
    let values = values.clone();
    let mut variables = linker.instance(&format!("{CONCURRENT_INTERFACE}@3.0.0"))?;
    variables.func_wrap_concurrent("get", move |_, (name,): (String,)| {
        let found = found(&values, &name);
        Box::pin(async move { Ok((found,)) })
    })
}

fn found(values: &BTreeMap<String, String>, name: &str) -> Found {
    match values.get(name) {
        Some(value) => Ok(value.clone()),
        None if !is_name(name) => Err(VariableError::InvalidName(format!(
            "{name:?}: a name has lower-case letters, digits and single underscores; it begins with a letter \
             and has no underscore at the end"
        ))),
        None => Err(VariableError::Undefined(format!(
            "no variable {name:?} in the component's manifest"
        ))),
    }
}

/// Whether Spin accepts this as the name of a variable: `[a-z][a-z0-9_]*`, no `__`, no `_` at the end.
fn is_name(name: &str) -> bool {
    let is_part = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    name.starts_with(|first: char| first.is_ascii_lowercase()) && name.split('_').all(is_part)
}

/// Adds WASI's interface, under `name`.
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

#[cfg(test)]
mod tests {
    use super::is_name;

    #[test]
    fn names_are_those_of_spin() {
        for name in ["a", "a1", "a_b", "region_2"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", "A", "1a", "_a", "a_", "a__b", "a-b", "ä"] {
            assert!(!is_name(name), "{name}");
        }
    }
}
