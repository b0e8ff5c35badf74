//! What wasmtime offers components of WASI 0.2 and 0.3, compiled for the state of the runner's instances.
//!
//! Each of these functions (files, sockets, clocks, HTTP) is generic over the state of a store, so the crate
//! that links them compiles all of them, which takes longer than all the rest of the runner. Here they are
//! compiled beside it, so that a first build is minutes shorter.
//!
//! What else an instance has is the runner's: [`Own`].

use std::any::Any;
use wasmtime::component::{Linker, ResourceTable};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView};

/// The host's state of one instance.
pub struct HostState {
    /// What WASI's functions may do and use.
    pub wasi: WasiCtx,
    /// What those of `wasi:http` may.
    pub http: WasiHttpCtx,
    /// What the runner adds.
    pub own: Box<dyn Own>,
}

/// The runner's part of an instance's state. It is `Any`, so that the runner gets its own type back.
pub trait Own: Any + Send {
    /// The instance's resources.
    fn table(&mut self) -> &mut ResourceTable;

    /// The same, and what sends the instance's requests and sets the rules of header fields and bodies.
    fn http(&mut self) -> (&mut ResourceTable, &mut dyn WasiHttpHooks);
}

impl WasiView for HostState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: self.own.table() }
    }
}

impl WasiHttpView for HostState {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        let (table, hooks) = self.own.http();
        WasiHttpCtxView { ctx: &mut self.http, table, hooks }
    }
}

/// Offers WASI 0.2 to components.
///
/// # Errors
/// When the linker has one of its interfaces already.
pub fn add_wasi02(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(linker)
}

/// Offers WASI 0.3 to components, on an engine that has concurrency.
///
/// # Errors
/// When the linker has one of its interfaces already.
pub fn add_wasi03(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    wasmtime_wasi::p3::add_to_linker(linker)?;
    wasmtime_wasi_http::p3::add_to_linker(linker)
}
