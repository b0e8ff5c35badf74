//! Stands in for interfaces of Spin that are not offered here: a component that imports them is served, and
//! fails when it calls one of their functions.
//!
//! The tools of some languages import all interfaces that Spin has, whether or not the program uses them:
//! spin-sdk for Python does. Any other unknown interface is refused when the component is linked.

use std::collections::BTreeSet;
use wasmtime::component::types::{ComponentInstance, ComponentItem};
use wasmtime::component::{Component, Linker, LinkerInstance, ResourceType};

/// Names of the interfaces, without versions.
const INTERFACES: [&str; 12] = [
    "fermyon:spin/llm",
    "fermyon:spin/mqtt",
    "fermyon:spin/mysql",
    "fermyon:spin/postgres",
    "fermyon:spin/rdbms-types",
    "fermyon:spin/redis",
    "fermyon:spin/sqlite",
    "spin:mqtt/mqtt",
    "spin:mysql/mysql",
    "spin:postgres/postgres",
    "spin:redis/redis",
    "spin:sqlite/sqlite",
];

/// Defines those of these interfaces that `component` imports, and returns their names.
pub(super) fn add_to_linker<State: 'static>(
    linker: &mut Linker<State>,
    component: &Component,
) -> wasmtime::Result<BTreeSet<String>> {
    let kind = component.component_type();
    let mut absent = BTreeSet::new();
    for (name, import) in kind.imports(component.engine()) {
        let interface = name.split('@').next().unwrap_or_default();
        let ComponentItem::ComponentInstance(instance) = import.ty else { continue };
        if INTERFACES.contains(&interface) {
            define(linker.instance(name)?, name, &instance, component)?;
            absent.insert(name.to_owned());
        }
    }
    Ok(absent)
}

/// Defines the functions and resources of one interface.
fn define<State: 'static>(
    mut linker: LinkerInstance<'_, State>,
    interface: &str,
    instance: &ComponentInstance,
    component: &Component,
) -> wasmtime::Result<()> {
    for (name, export) in instance.exports(component.engine()) {
        let called = format!("{interface} is not offered here, and the component called {name}");
        match export.ty {
            ComponentItem::ComponentFunc(function) if function.async_() => {
                linker.func_new_concurrent(name, move |_, _, _, _| {
                    let called = called.clone();
                    Box::pin(async move { Err(wasmtime::Error::msg(called)) })
                })?;
            }
            ComponentItem::ComponentFunc(_) => linker
                .func_new(name, move |_, _, _, _| Err(wasmtime::Error::msg(called.clone())))?,
            // No instance of it can come to be.
            ComponentItem::Resource(_) => {
                linker.resource(name, ResourceType::host::<()>(), |_, _| Ok(()))?;
            }
            _ => {}
        }
    }
    Ok(())
}
