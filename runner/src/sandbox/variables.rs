//! What a component asks for by name: `fermyon:spin/variables`, which spin-sdk 5 reads, and
//! `wasi:config/store`, in the versions that Spin itself offers.
//!
//! The values are the manifest's, with templates expanded beforehand: nothing is looked up here.

use std::collections::BTreeMap;
use std::sync::Arc;
use wasmtime::component::{ComponentType, Lift, Linker, Lower};

const SPIN_VARIABLES: &str = "fermyon:spin/variables@2.0.0";
const WASI_CONFIG: &str = "wasi:config/store@0.2.0-draft-2024-09-27";

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
    let values = Arc::new(values.clone());
    let spin = Arc::clone(&values);
    linker.instance(SPIN_VARIABLES)?.func_wrap("get", move |_, (name,): (String,)| {
        let found: Found = spin.get(&name).cloned().ok_or_else(|| {
            VariableError::Undefined(format!("no variable {name:?} in the component's manifest"))
        });
        Ok((found,))
    })?;
    let mut store = linker.instance(WASI_CONFIG)?;
    let one = Arc::clone(&values);
    store.func_wrap("get", move |_, (key,): (String,)| {
        let stored: Stored = Ok(one.get(&key).cloned());
        Ok((stored,))
    })?;
    store.func_wrap("get-all", move |_, ()| {
        let all = values.iter().map(|(name, value)| (name.clone(), value.clone()));
        let stored: AllStored = Ok(all.collect());
        Ok((stored,))
    })
}
