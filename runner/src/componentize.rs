//! Makes components of core modules, as Spin does: what is built for `wasm32-wasip1` imports WASI 0.1, which
//! an adapter of wasmtime's translates to WASI 0.2, and describes everything else in a section of its own.
//!
//! Commands (Spin serves them by its executor `wagi`) and modules of Spin's first SDK (it has an adapter of
//! its own for them) are refused by name. Whether the result is a valid component is left to the compiler.

use std::panic::{AssertUnwindSafe, catch_unwind};
use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
};
use wasmparser::{ExternalKind, Parser, Payload};
use wit_component::ComponentEncoder;

/// The magic number and version with which a core module begins; a component has another version.
const CORE_MODULE: &[u8] = b"\0asm\x01\0\0\0";

/// The longest module that is made a component, in bytes. The peak of memory is a small multiple of it.
const LONGEST: usize = 64 << 20;

/// How the names of the sections begin in which `wit-bindgen` describes a module's imports and exports.
const DESCRIPTION: &str = "component-type";

/// Handlers that modules of Spin's first SDK export.
const FIRST_SDK: [&str; 2] = ["handle-http-request", "handle-redis-message"];

/// Why a module cannot be made a component.
#[derive(Debug, thiserror::Error)]
pub enum NotAComponent {
    /// It is longer than a module may be: this many bytes.
    #[error(
        "it is a core module of {0} bytes, and at most {LONGEST} are made a component; build it for wasm32-wasip2"
    )]
    TooLong(usize),
    /// A module of `wit-bindgen` 0.2.
    #[error(
        "it is a core module of Spin's first SDK (it exports {0:?}), which is not served here; build it with a \
         current SDK of Spin, for Rust version 5 or later"
    )]
    FirstSdk(&'static str),
    /// A program with a `main` and without a handler.
    #[error(
        "it is a command (it exports `_start` and describes no handler), which Spin serves by its executor \
         \"wagi\" alone, and this runner does not; export an HTTP handler with an SDK of Spin"
    )]
    Command,
    /// A module without the sections of `wit-bindgen`.
    #[error(
        "it is a core module that describes no imports and exports (it has no section {DESCRIPTION:?}); build it \
         with an SDK of Spin"
    )]
    Undescribed,
    /// Anything else.
    #[error(
        "it is a core module that cannot be made a component: {0}; build it for wasm32-wasip2, or with a current \
         SDK of Spin"
    )]
    Unfit(String),
}

/// The component that a core module becomes; anything else is returned as it is.
///
/// # Errors
/// [`NotAComponent`] with what to do instead.
pub(crate) fn componentize(wasm: Vec<u8>) -> Result<Vec<u8>, NotAComponent> {
    if !wasm.starts_with(CORE_MODULE) {
        return Ok(wasm);
    }
    if wasm.len() > LONGEST {
        return Err(NotAComponent::TooLong(wasm.len()));
    }
    check(&wasm)?;
    // The encoder asserts some of what it expects of modules.
    catch_unwind(AssertUnwindSafe(|| encode(&wasm)))
        .map_err(|_| NotAComponent::Unfit("the encoder failed".to_owned()))?
        .map_err(|error| NotAComponent::Unfit(format!("{error:#}")))
}

fn encode(module: &[u8]) -> anyhow::Result<Vec<u8>> {
    let (name, adapter) =
        (WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER);
    ComponentEncoder::default().module(module)?.adapter(name, adapter)?.encode()
}

/// Refuses modules of other kinds than those that `wit-bindgen` describes.
fn check(module: &[u8]) -> Result<(), NotAComponent> {
    let unfit = |error: wasmparser::BinaryReaderError| NotAComponent::Unfit(error.to_string());
    let (mut described, mut command) = (false, false);
    for payload in Parser::new(0).parse_all(module) {
        match payload.map_err(unfit)? {
            Payload::CustomSection(section) => described |= section.name().starts_with(DESCRIPTION),
            Payload::ExportSection(exports) => {
                for export in exports {
                    let export = export.map_err(unfit)?;
                    if let Some(handler) = FIRST_SDK.into_iter().find(|name| *name == export.name) {
                        return Err(NotAComponent::FirstSdk(handler));
                    }
                    command |= export.name == "_start" && export.kind == ExternalKind::Func;
                }
            }
            _ => {}
        }
    }
    match (described, command) {
        (true, _) => Ok(()),
        (false, true) => Err(NotAComponent::Command),
        (false, false) => Err(NotAComponent::Undescribed),
    }
}

#[cfg(test)]
mod tests {
    use super::{CORE_MODULE, LONGEST, NotAComponent, componentize};
    use wasi_preview1_component_adapter_provider::WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER as DESCRIBED;
    use wasm_encoder::{
        CodeSection, ExportKind, ExportSection, Function, FunctionSection, Module, TypeSection,
    };

    /// A module that exports functions of these names, which do nothing.
    fn exporting(names: &[&str]) -> Vec<u8> {
        let (mut types, mut functions) = (TypeSection::new(), FunctionSection::new());
        let (mut exports, mut code) = (ExportSection::new(), CodeSection::new());
        types.ty().function([], []);
        for (index, name) in (0..).zip(names) {
            functions.function(0);
            exports.export(name, ExportKind::Func, index);
            let mut body = Function::new([]);
            body.instructions().end();
            code.function(&body);
        }
        let mut module = Module::new();
        module.section(&types).section(&functions).section(&exports).section(&code);
        module.finish()
    }

    #[test]
    fn modules_that_are_not_described_are_refused_with_what_to_do() {
        let refused = |module| componentize(module).unwrap_err().to_string();
        for (exports, words) in [
            (&["_start"][..], "wagi"),
            (&["handle-http-request", "canonical_abi_realloc"], "version 5"),
            (&["handle-redis-message"], "first SDK"),
            (&["memory", "_initialize"], "no section"),
            (&[], "no section"),
        ] {
            let refusal = refused(exporting(exports));
            assert!(refusal.contains(words), "{exports:?}: {refusal}");
        }
        assert!(refused(CORE_MODULE[..].into()).contains("no section"));
        let cut_off = &exporting(&["_start"])[..20];
        assert!(refused(cut_off.into()).contains("cannot be made a component"));
        // It needs a memory that no adapter gives.
        assert!(refused(DESCRIBED.into()).contains("wasm32-wasip2"));
        let mut long = CORE_MODULE.to_vec();
        long.resize(LONGEST + 1, 0);
        assert!(matches!(componentize(long), Err(NotAComponent::TooLong(_))));
    }

    #[test]
    fn what_is_no_module_is_returned_as_it_is() {
        for other in [&b""[..], b"no Wasm", b"\0asm", b"\0asm\x0d\0\x01\0"] {
            assert_eq!(componentize(other.to_vec()).unwrap(), other);
        }
    }

    /// Damaged modules are refused, or become something that the compiler refuses; none ends the process.
    #[test]
    fn damaged_modules_end_in_a_refusal() {
        let mut seed = 20_u64;
        let mut random = |below: usize| {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize % below
        };
        let mut refused = 0;
        for _ in 0..500 {
            let mut module = DESCRIBED.to_vec();
            for _ in 0..=random(4) {
                let place = CORE_MODULE.len() + random(module.len() - CORE_MODULE.len());
                module[place] = random(256) as u8;
            }
            module.truncate(if random(4) == 0 { random(module.len()) } else { module.len() });
            refused += usize::from(componentize(module).is_err());
        }
        assert!(refused > 400, "{refused}");
    }
}
