//! What a component sees of this host: WASI 0.2 and `wasi:http`, without a network.
//!
//! Programs and proxies share it, because all of it is compiled anew for each kind of state.

use wasmtime::component::{Linker, ResourceTable};
use wasmtime::{Engine, Result};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;
use wasmtime_wasi_http::{
    RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView,
};

/// The host state of an instance.
pub(crate) struct State {
    wasi: WasiCtx,
    http: WasiHttpCtx,
    hooks: NoOutbound,
    table: ResourceTable,
}

impl State {
    pub(crate) fn new(wasi: WasiCtx) -> Self {
        let (http, table) = (WasiHttpCtx::new(), ResourceTable::new());
        Self { wasi, http, hooks: NoOutbound, table }
    }
}

/// Offers WASI 0.2 and `wasi:http` to components.
pub(crate) fn linker(engine: &Engine) -> Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    Ok(linker)
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: &mut self.hooks }
    }
}

/// Denies all outgoing requests of a component.
struct NoOutbound;

type Sent = Result<(), wasmtime_wasi_http::Error>;
type OutgoingReply = (http::Response<WasiBody>, Box<dyn Future<Output = Sent> + Send>);

impl WasiHttpHooks for NoOutbound {
    fn send_request(
        &mut self,
        _request: http::Request<WasiBody>,
        _options: Option<RequestOptions>,
        _sent: Box<dyn Future<Output = Sent> + Send>,
    ) -> Box<dyn Future<Output = Result<OutgoingReply, wasmtime_wasi_http::Error>> + Send> {
        Box::new(async { Err(ErrorCode::HttpRequestDenied.into()) })
    }
}
