//! The host's state of one instance, and what wasmtime's WASI and HTTP hosts may do with it.

use super::limits::MemoryLimiter;
use crate::account::{CHUNK, CHUNKS, InstanceAccount};
use crate::nn::NnState;
use http::{HeaderName, Request, Response, header};
use std::sync::Arc;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;
use wasmtime_wasi_http::{
    ForbiddenHeaderFilter, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks,
    WasiHttpView,
};

/// The host's state of one instance.
pub(super) struct State {
    pub(super) wasi: WasiCtx,
    pub(super) http: WasiHttpCtx,
    pub(super) hooks: NoOutbound,
    pub(super) nn: NnState,
    pub(super) account: InstanceAccount,
    pub(super) memory: MemoryLimiter,
}

/// Refuses outgoing requests: manifests cannot grant them here.
pub(super) struct NoOutbound;

type Sent = Result<(), wasmtime_wasi_http::Error>;
type OutgoingReply = (Response<WasiBody>, Box<dyn Future<Output = Sent> + Send>);

impl WasiHttpHooks for NoOutbound {
    fn send_request(
        &mut self,
        _request: Request<WasiBody>,
        _options: Option<RequestOptions>,
        _sent: Box<dyn Future<Output = Sent> + Send>,
    ) -> Box<dyn Future<Output = Result<OutgoingReply, wasmtime_wasi_http::Error>> + Send> {
        Box::new(async { Err(ErrorCode::HttpRequestDenied.into()) })
    }

    fn p3_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK
    }

    fn p2_outgoing_body_buffer_chunks(&mut self) -> usize {
        CHUNKS
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK
    }

    fn is_forbidden_header(&mut self, name: &HeaderName) -> bool {
        is_forbidden(name)
    }

    fn forbidden_header_filter(&mut self) -> ForbiddenHeaderFilter {
        Arc::new(is_forbidden)
    }
}

/// Headers of connection handling belong to the server; the guest may set all others.
fn is_forbidden(name: &HeaderName) -> bool {
    matches!(*name, header::CONNECTION | header::TRANSFER_ENCODING | header::UPGRADE)
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: self.account.table() }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        let table = self.account.table();
        WasiHttpCtxView { ctx: &mut self.http, table, hooks: &mut self.hooks }
    }
}
